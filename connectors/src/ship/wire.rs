//! What two agents say to each other, over TCP (with TLS unless on loopback).
//!
//! ```text
//! sender     "TWSHIP2\n" | u16 n, host | u16 n, token | u64 agent | u16 topics × (u16 n, topic)    once
//!            or, of a release before topics: "TWSHIP1\n" | u16 n, host | u16 n, token
//! collector  u8 1 (come in) or 0 (no) | u16 n, reason                                             once
//! sender     frames of chunks (see `chunk`), one after the other
//! collector  u64 k: the first k frames of this connection are kept; whenever k grows, and every 5 s
//!            or 2⁶⁴−1 | u16 n, reason: the next frame is not taken, and the connection ends (not to a TWSHIP1)
//! ```
//! Numbers are little-endian. `agent` is drawn at random by each process: a collector that is greeted by itself says no.
//! The topics are those the sender may name in frames; a collector says no to one that it may not write to. A frame is
//! kept when the collector's own output acknowledged it or its spool has it on disk. A connection that ends takes nothing
//! back: what was not kept is sent again on the next.

use std::io::{self, Read, Write};

/// How a connection begins.
pub const MAGIC: &[u8; 8] = b"TWSHIP2\n";

/// How one begins that knows no topics.
pub const OLD_MAGIC: &[u8; 8] = b"TWSHIP1\n";

/// The longest text of a greeting.
pub const MOST_TEXT: usize = 1024;

/// The most topics of a greeting.
pub const MOST_TOPICS: usize = 1024;

/// In the place of a number of frames: a reason follows.
pub const REFUSAL: u64 = u64::MAX;

/// Who wants to send, and what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Its host.
    pub host: String,
    /// What the collector asks for.
    pub token: String,
    /// The process; 0 where it does not say.
    pub agent: u64,
    /// The topics that its frames may name.
    pub topics: Vec<String>,
    /// Whether it is of a release before topics.
    pub is_old: bool,
}

impl Greeting {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = if self.is_old { OLD_MAGIC } else { MAGIC }.to_vec();
        text(&self.host, &mut out);
        text(&self.token, &mut out);
        if !self.is_old {
            out.extend_from_slice(&self.agent.to_le_bytes());
            let topics = &self.topics[..self.topics.len().min(MOST_TOPICS)];
            out.extend_from_slice(&(topics.len() as u16).to_le_bytes());
            topics.iter().for_each(|topic| text(topic, &mut out));
        }
        out
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// What is none, or does not come.
    pub fn read(from: &mut dyn Read) -> io::Result<Greeting> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic)?;
        let is_old = magic == *OLD_MAGIC;
        if magic != *MAGIC && !is_old {
            return Err(wrong("this is no tidewatch agent"));
        }
        let mut greeting = Greeting { host: read_text(from)?, token: read_text(from)?, is_old, ..Greeting::default() };
        if !is_old {
            let (mut agent, mut count) = ([0; 8], [0; 2]);
            from.read_exact(&mut agent)?;
            from.read_exact(&mut count)?;
            let count = usize::from(u16::from_le_bytes(count));
            if count > MOST_TOPICS {
                return Err(wrong("the greeting has too many topics"));
            }
            greeting.agent = u64::from_le_bytes(agent);
            for _ in 0..count {
                greeting.topics.push(read_text(from)?);
            }
        }
        Ok(greeting)
    }
}

/// The collector's answer to it.
pub fn answer(is_welcome: bool, reason: &str) -> Vec<u8> {
    let mut out = vec![u8::from(is_welcome)];
    text(reason, &mut out);
    out
}

/// What a collector says of a frame that it does not take.
pub fn refusal(reason: &str) -> Vec<u8> {
    let mut out = REFUSAL.to_le_bytes().to_vec();
    text(reason, &mut out);
    out
}

fn text(text: &str, out: &mut Vec<u8>) {
    let bytes = &text.as_bytes()[..text.floor_char_boundary(MOST_TEXT)];
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads the answer: the reason, where it is no.
///
/// # Errors
/// What is none, or does not come.
pub fn read_answer(from: &mut dyn Read) -> io::Result<Result<(), String>> {
    let mut is_welcome = [0];
    from.read_exact(&mut is_welcome)?;
    let reason = read_text(from)?;
    Ok(if is_welcome == [1] { Ok(()) } else { Err(reason) })
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read_text(from: &mut dyn Read) -> io::Result<String> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > MOST_TEXT {
        return Err(wrong("a text of the greeting is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| wrong("a text of the greeting is not UTF-8"))
}

/// Writes all of it and sends it.
///
/// # Errors
/// Where the connection does.
pub fn write_all(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_and_answers_are_read_as_they_were_written() {
        let new = Greeting {
            host: "wéb1".into(),
            token: "t".into(),
            agent: u64::MAX,
            topics: vec!["web-logs".into(), "web-errors".into()],
            is_old: false,
        };
        let none = Greeting { topics: Vec::new(), ..new.clone() };
        // As releases before topics wrote it.
        let old = Greeting { agent: 0, is_old: true, ..none.clone() };
        assert_eq!(old.bytes(), b"TWSHIP1\n\x05\x00w\xc3\xa9b1\x01\x00t");
        for greeting in [new, none, old] {
            assert_eq!(Greeting::read(&mut &greeting.bytes()[..]).unwrap(), greeting);
        }
        assert_eq!(read_answer(&mut &answer(true, "")[..]).unwrap(), Ok(()));
        assert_eq!(read_answer(&mut &answer(false, "no")[..]).unwrap(), Err("no".to_owned()));
        let long = "é".repeat(MOST_TEXT);
        let cut = read_answer(&mut &answer(false, &long)[..]).unwrap().unwrap_err();
        assert_eq!(cut.len(), MOST_TEXT);
        let rows: &[(&str, &[u8], &str)] = &[
            ("HTTP", b"GET / HTTP/1.1\r\n", "this is no tidewatch agent"),
            ("too long", b"TWSHIP1\n\xff\xff", "a text of the greeting is too long"),
            ("not UTF-8", b"TWSHIP1\n\x01\x00\xff\x00\x00", "a text of the greeting is not UTF-8"),
            ("cut off", b"TWSHIP1\n\x05\x00ab", "failed to fill whole buffer"),
            ("topics", b"TWSHIP2\n\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff", "the greeting has too many topics"),
            ("no topics", b"TWSHIP2\n\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0", "failed to fill whole buffer"),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(Greeting::read(&mut &bytes[..]).unwrap_err().to_string(), *want, "{name}");
        }
    }
}
