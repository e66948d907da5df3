//! What two agents say to each other, over TCP (with TLS unless on loopback).
//!
//! ```text
//! sender     "TWSHIP3\n" | u16 n, host | u16 n, token | u64 agent | u16 topics × (u16 n, topic) | via    once
//!            "TWSHIP2\n": the same without via; "TWSHIP1\n": host and token only
//! collector  u8 1 (come in) or 0 (no) | u16 n, reason                                                    once
//! sender     frames of chunks (see `chunk`), one after the other; between them, where `via` changed:
//!            u32 2³²−1 | u32 length of what follows | via                                          not a TWSHIP2
//! collector  u64 k: the first k frames of this connection are kept; whenever k grows, and every 5 s
//!            or 2⁶⁴−1 | u16 n, reason: the next frame is not taken, and the connection ends        not to a TWSHIP1
//!
//! via        u16 collectors × (u64 agent | u16 n, host)
//! ```
//! Numbers are little-endian. `agent` is drawn at random by each process, and `via` names the collectors that lines of this
//! connection may have come through: the sender, where it is one, and those behind it. A collector that is greeted by
//! itself, or finds itself in `via`, says no: lines would go in a circle. The topics are those the sender may name in
//! frames; a collector says no to one that it may not write to. A frame is kept when the collector's own output
//! acknowledged it or its spool has it on disk. A connection that ends takes nothing back: what was not kept is sent again
//! on the next.

use std::io::{self, Read, Write};

/// The forms of a greeting, the newest first. A collector takes all of them, and ends the connection of one that it does
/// not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Of a release before topics.
    Plain,
    /// Of one before circles were looked for.
    Topics,
    /// This release's.
    #[default]
    Via,
}

impl Form {
    /// All of them, the newest first.
    pub const ALL: [Form; 3] = [Form::Via, Form::Topics, Form::Plain];

    fn magic(self) -> &'static [u8; 8] {
        match self {
            Form::Plain => b"TWSHIP1\n",
            Form::Topics => b"TWSHIP2\n",
            Form::Via => b"TWSHIP3\n",
        }
    }
}

/// The longest text of a greeting.
pub const MOST_TEXT: usize = 1024;

/// The most topics of a greeting.
pub const MOST_TOPICS: usize = 1024;

/// The most collectors of a `via`.
pub const MOST_HOPS: usize = 256;

/// In the place of a frame's length: `via` follows.
pub const VIA: u32 = u32::MAX;

/// Bytes of a message with [`VIA`] before those that it counts.
const VIA_HEAD: usize = 8;

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
    /// The collectors that its lines may have come through.
    pub via: Vec<Hop>,
    /// How much of this it says.
    pub form: Form,
}

/// A collector that lines come through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// The process.
    pub agent: u64,
    /// Its host.
    pub host: String,
}

impl Greeting {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.form.magic().to_vec();
        text(&self.host, &mut out);
        text(&self.token, &mut out);
        if self.form >= Form::Topics {
            out.extend_from_slice(&self.agent.to_le_bytes());
            let topics = &self.topics[..self.topics.len().min(MOST_TOPICS)];
            out.extend_from_slice(&(topics.len() as u16).to_le_bytes());
            topics.iter().for_each(|topic| text(topic, &mut out));
        }
        if self.form >= Form::Via {
            write_hops(&self.via, &mut out);
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
        let form = Form::ALL.into_iter().find(|form| *form.magic() == magic);
        let form = form.ok_or_else(|| wrong("this is no tidewatch agent"))?;
        let mut greeting = Greeting { host: read_text(from)?, token: read_text(from)?, form, ..Greeting::default() };
        if form >= Form::Topics {
            greeting.agent = read_u64(from)?;
            let count = read_u16(from)?;
            if count > MOST_TOPICS {
                return Err(wrong("the greeting has too many topics"));
            }
            for _ in 0..count {
                greeting.topics.push(read_text(from)?);
            }
        }
        if form >= Form::Via {
            greeting.via = read_hops(from)?;
        }
        Ok(greeting)
    }
}

/// What a sender says between frames of the collectors behind it.
pub fn via(hops: &[Hop]) -> Vec<u8> {
    let mut out = VIA.to_le_bytes().to_vec();
    out.extend_from_slice(&[0; 4]);
    write_hops(hops, &mut out);
    let length = (out.len() - VIA_HEAD) as u32;
    out[4..VIA_HEAD].copy_from_slice(&length.to_le_bytes());
    out
}

/// The collectors that such a message names, and its bytes; `None` while it has not come whole, or where `bytes` begin with
/// something else.
///
/// # Errors
/// What is none.
pub fn read_via(bytes: &[u8]) -> io::Result<Option<(Vec<Hop>, usize)>> {
    let Some((head, rest)) = bytes.split_first_chunk::<VIA_HEAD>() else { return Ok(None) };
    let [is_via, length] = [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    if is_via != VIA {
        return Ok(None);
    }
    let length = length as usize;
    if length > 2 + MOST_HOPS * (10 + MOST_TEXT) {
        return Err(wrong("what names collectors is too long"));
    }
    let Some(mut rest) = rest.get(..length) else { return Ok(None) };
    let hops = read_hops(&mut rest)?;
    if !rest.is_empty() {
        return Err(wrong("what names collectors has more in it"));
    }
    Ok(Some((hops, VIA_HEAD + length)))
}

fn write_hops(hops: &[Hop], out: &mut Vec<u8>) {
    let hops = &hops[..hops.len().min(MOST_HOPS)];
    out.extend_from_slice(&(hops.len() as u16).to_le_bytes());
    for hop in hops {
        out.extend_from_slice(&hop.agent.to_le_bytes());
        text(&hop.host, out);
    }
}

fn read_hops(from: &mut dyn Read) -> io::Result<Vec<Hop>> {
    let count = read_u16(from)?;
    if count > MOST_HOPS {
        return Err(wrong("there are too many collectors behind it"));
    }
    (0..count).map(|_| Ok(Hop { agent: read_u64(from)?, host: read_text(from)? })).collect()
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

fn read_u64(from: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_u16(from: &mut dyn Read) -> io::Result<usize> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_le_bytes(bytes).into())
}

fn read_text(from: &mut dyn Read) -> io::Result<String> {
    let length = read_u16(from)?;
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
            via: vec![Hop { agent: 7, host: "collector".into() }],
            form: Form::Via,
        };
        // As releases before circles were looked for, and before topics, wrote it.
        let topics = Greeting { via: Vec::new(), form: Form::Topics, ..new.clone() };
        let none = Greeting { topics: Vec::new(), ..topics.clone() };
        let old = Greeting { agent: 0, form: Form::Plain, ..none.clone() };
        assert_eq!(old.bytes(), b"TWSHIP1\n\x05\x00w\xc3\xa9b1\x01\x00t");
        assert_eq!(none.bytes(), b"TWSHIP2\n\x05\x00w\xc3\xa9b1\x01\x00t\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
        for greeting in [new, topics, none, old] {
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
            ("hops", b"TWSHIP3\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01", "there are too many collectors behind it"),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(Greeting::read(&mut &bytes[..]).unwrap_err().to_string(), *want, "{name}");
        }
    }

    #[test]
    fn the_collectors_behind_a_sender_are_read_as_they_were_written() {
        let hops: Vec<Hop> = (0..300).map(|agent| Hop { agent, host: format!("host{agent}") }).collect();
        for count in [0, 1, MOST_HOPS] {
            let mut bytes = via(&hops[..count]);
            let length = bytes.len();
            for end in 0..length {
                assert_eq!(read_via(&bytes[..end]).unwrap(), None, "{end} of {length} bytes");
            }
            bytes.extend_from_slice(b"a frame");
            assert_eq!(read_via(&bytes).unwrap(), Some((hops[..count].to_vec(), length)), "{count}");
        }
        let (most, _) = read_via(&via(&hops)).unwrap().unwrap();
        assert_eq!(most, hops[..MOST_HOPS], "more are left out");
        assert_eq!(read_via(b"\x20\0\0\0 a frame").unwrap(), None, "a frame is none");
        let rows: &[(&str, &[u8], &str)] = &[
            ("endless", b"\xff\xff\xff\xff\xff\xff\xff\xff", "what names collectors is too long"),
            ("a tail", b"\xff\xff\xff\xff\x03\0\0\0\0\0x", "what names collectors has more in it"),
            ("fewer than it says", b"\xff\xff\xff\xff\x02\0\0\0\x01\0", "failed to fill whole buffer"),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(read_via(bytes).unwrap_err().to_string(), *want, "{name}");
        }
    }
}
