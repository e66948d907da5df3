//! What two agents say to each other, over TCP (with TLS unless on loopback).
//!
//! ```text
//! sender     "TWSHIP1\n" | u16 n, host | u16 n, token            once
//! collector  u8 1 (come in) or 0 (no) | u16 n, reason            once
//! sender     frames of chunks (see `chunk`), one after the other
//! collector  u64 k: the first k frames of this connection are kept; whenever k grows, and every 5 s
//! ```
//! Numbers are little-endian. A frame is kept when the collector's own output acknowledged it or its spool has it on
//! disk. A connection that ends takes nothing back: what was not kept is sent again on the next.

use std::io::{self, Read, Write};

/// How a connection begins.
pub const MAGIC: &[u8; 8] = b"TWSHIP1\n";

/// The longest text of a greeting.
pub const MOST_TEXT: usize = 1024;

/// The sender's greeting.
pub fn greeting(host: &str, token: &str) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    text(host, &mut out);
    text(token, &mut out);
    out
}

/// The collector's answer to it.
pub fn answer(is_welcome: bool, reason: &str) -> Vec<u8> {
    let mut out = vec![u8::from(is_welcome)];
    text(reason, &mut out);
    out
}

fn text(text: &str, out: &mut Vec<u8>) {
    let bytes = &text.as_bytes()[..text.len().min(MOST_TEXT)];
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads a greeting: host and token.
///
/// # Errors
/// What is none, or does not come.
pub fn read_greeting(from: &mut dyn Read) -> io::Result<(String, String)> {
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no tidewatch agent"));
    }
    Ok((read_text(from)?, read_text(from)?))
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

fn read_text(from: &mut dyn Read) -> io::Result<String> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
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
        let greeting = greeting("wéb1", "");
        assert_eq!(read_greeting(&mut &greeting[..]).unwrap(), ("wéb1".to_owned(), String::new()));
        assert_eq!(read_answer(&mut &answer(true, "")[..]).unwrap(), Ok(()));
        assert_eq!(read_answer(&mut &answer(false, "no")[..]).unwrap(), Err("no".to_owned()));
        let rows: &[(&str, &[u8], &str)] = &[
            ("HTTP", b"GET / HTTP/1.1\r\n", "this is no tidewatch agent"),
            ("too long", b"TWSHIP1\n\xff\xff", "a text of the greeting is too long"),
            ("not UTF-8", b"TWSHIP1\n\x01\x00\xff\x00\x00", "a text of the greeting is not UTF-8"),
            ("cut off", b"TWSHIP1\n\x05\x00ab", "failed to fill whole buffer"),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(read_greeting(&mut &bytes[..]).unwrap_err().to_string(), *want, "{name}");
        }
    }
}
