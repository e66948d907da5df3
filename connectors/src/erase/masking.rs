//! Erases clients from files of lines, where they stand: each byte of their addresses and names becomes `*`.
//!
//! A file keeps its length, so that a process that appends to it meanwhile writes on, and one that renames it takes what is
//! masked along. What such a process holds in memory stays there.
//!
//! Invariants
//! - An address is found in any spelling and whole, as in the store; what is no part of one is left as it is.
//! - A line of JSON or of line protocol is one afterwards: no escape is cut, and `*` stands anywhere a value does.
//! - A line of a log that stands in base64 in a dead letter, for it is not UTF-8, is masked as it was and stays base64.
//! - Nothing is written beyond what was read: a line that is being appended is left until it is whole.

use crate::erase::whom::Whom;
use crate::file_identity::FileId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

/// Nothing longer is a line, bytes.
const MAX_LINE: u64 = 16 << 20;

/// How often a file is looked through that is replaced meanwhile.
const TRIES: usize = 4;

/// In this time a line that is being written comes to its end.
const A_MOMENT: Duration = Duration::from_millis(50);

/// Masks a client in a file, and in the one that takes its name meanwhile; how many times it stood there. What is no file holds
/// none.
///
/// # Errors
/// Where it cannot be read or written; what was masked until then stays masked.
pub fn mask(path: &Path, whom: &Whom) -> io::Result<u64> {
    mask_waiting(path, whom, &mut || std::thread::sleep(A_MOMENT))
}

/// The same; `wait` gives who writes a line the time to end it.
fn mask_waiting(path: &Path, whom: &Whom, wait: &mut dyn FnMut()) -> io::Result<u64> {
    let mut masked = 0;
    for _ in 0..TRIES {
        // A pipe would be waited for.
        let is_file = fs::metadata(path).map(|meta| meta.is_file());
        let opened =
            is_file.and_then(|is| is.then(|| OpenOptions::new().read(true).write(true).open(path)).transpose());
        let file = match opened {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(masked),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(masked),
            Err(error) => return Err(error),
        };
        masked += lines(&file, whom, wait)?;
        let is_still_it = match (file.metadata(), fs::metadata(path)) {
            (Ok(ours), Ok(there)) => FileId::of(&ours) == FileId::of(&there),
            _ => false,
        };
        if is_still_it {
            return Ok(masked);
        }
    }
    Err(io::Error::other("it is replaced again and again"))
}

/// Masks what `places` names in the lines that begin in a part of a file, which begins with a line and was written a while ago,
/// and what `in_logs` names in lines of logs that these hold in base64; how many places, and where the last line ends that was
/// whole.
///
/// # Errors
/// Where it cannot be read or written; what was masked until then stays masked.
pub fn mask_between(
    file: &File,
    part: Range<u64>,
    places: impl Fn(&[u8]) -> Vec<Range<usize>>,
    in_logs: impl Fn(&[u8]) -> Vec<Range<usize>>,
) -> io::Result<(u64, u64)> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    reader.seek(SeekFrom::Start(part.start))?;
    let (mut line, mut masked, mut at) = (Vec::new(), 0, part.start);
    while at < part.end {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 || (line.last() != Some(&b'\n') && (read as u64) < MAX_LINE) {
            break;
        }
        masked += overwrite(file, &line, at, places(&line))?;
        masked += overwrite_base64(file, &line, at, &in_logs)?;
        at += read as u64;
    }
    if masked > 0 {
        file.sync_data()?;
    }
    Ok((masked, at))
}

fn lines(file: &File, whom: &Whom, wait: &mut dyn FnMut()) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let (mut line, mut masked, mut at, mut was_torn) = (Vec::new(), 0, 0, false);
    loop {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && (read as u64) < MAX_LINE && !was_torn {
            // The end of an address may be still to come.
            was_torn = true;
            wait();
            reader.seek(SeekFrom::Start(at))?;
            continue;
        }
        was_torn = false;
        masked += overwrite(file, &line, at, whom.places(&line))?;
        masked += overwrite_base64(file, &line, at, &|log| whom.places(log))?;
        at += read as u64;
    }
    if masked > 0 {
        file.sync_data()?;
    }
    Ok(masked)
}

/// Masks some places of the line that stands at a place of a file; how many.
fn overwrite(file: &File, line: &[u8], at: u64, places: Vec<Range<usize>>) -> io::Result<u64> {
    let (mut looked, mut masked) = (0, 0);
    for place in places {
        let place = whole_escapes(line, place, &mut looked);
        if is_still(file, &line[place.clone()], at + place.start as u64)? {
            file.write_all_at(&vec![b'*'; place.len()], at + place.start as u64)?;
            masked += 1;
        }
    }
    Ok(masked)
}

/// Masks some places of the line of a log that the line at a place of a file holds in base64; how many.
fn overwrite_base64(
    file: &File,
    line: &[u8],
    at: u64,
    places: &impl Fn(&[u8]) -> Vec<Range<usize>>,
) -> io::Result<u64> {
    let Some((start, mut log)) = log_in_base64(line) else { return Ok(0) };
    let places = places(&log);
    places.iter().for_each(|place| log[place.clone()].fill(b'*'));
    let masked = STANDARD.encode(&log);
    // All of it is one text: who reads it meanwhile finds base64.
    let was = &line[start..start + masked.len()];
    if masked.as_bytes() == was || !is_still(file, was, at + start as u64)? {
        return Ok(0);
    }
    file.write_all_at(masked.as_bytes(), at + start as u64)?;
    Ok(places.len() as u64)
}

/// The line of a log that a dead letter holds in base64, and where that begins.
fn log_in_base64(line: &[u8]) -> Option<(usize, Vec<u8>)> {
    // Within a text of JSON its quotes would be escaped.
    const KEY: &[u8] = b",\"line\":\"";
    if !line.starts_with(b"{\"source\":\"") {
        return None;
    }
    let start = memchr::memmem::find(line, KEY)? + KEY.len();
    let length = memchr::memchr(b'"', &line[start..])?;
    let log = STANDARD.decode(&line[start..start + length]).ok()?;
    // Text is not written so.
    std::str::from_utf8(&log).is_err().then_some((start, log))
}

/// Masks a client in a text, which keeps its length; how many times it stood there.
pub(crate) fn mask_text(text: &mut [u8], whom: &Whom) -> u64 {
    let (places, mut looked) = (whom.places(text), 0);
    for place in &places {
        let place = whole_escapes(text, place.clone(), &mut looked);
        text[place].fill(b'*');
    }
    let mut masked = places.len() as u64;
    if let Some((start, mut log)) = log_in_base64(text) {
        let places = whom.places(&log);
        places.iter().for_each(|place| log[place.clone()].fill(b'*'));
        let log = STANDARD.encode(&log);
        text[start..start + log.len()].copy_from_slice(log.as_bytes());
        masked += places.len() as u64;
    }
    masked
}

/// Whether a text still stands there: who appends takes back what he could not write whole.
fn is_still(file: &File, text: &[u8], at: u64) -> io::Result<bool> {
    let mut now = vec![0; text.len()];
    match file.read_exact_at(&mut now, at) {
        Ok(()) => Ok(now == text),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// A place in a line without the rest of an escape (`\\`, `\n`, `\u1234`) that it begins in, and with all of one that it ends in.
/// Escapes before `looked` were looked at.
fn whole_escapes(line: &[u8], place: Range<usize>, looked: &mut usize) -> Range<usize> {
    let Range { mut start, mut end } = place;
    while let Some(at) = line.get(*looked..end).and_then(|rest| memchr::memchr(b'\\', rest)).map(|at| *looked + at) {
        let past = (at + if line.get(at + 1) == Some(&b'u') { 6 } else { 2 }).min(line.len());
        match at < start {
            true => start = start.max(past),
            false => end = end.max(past),
        }
        *looked = past;
    }
    *looked = end.max(*looked);
    start.min(end)..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn masked(text: &str, address: &str) -> (u64, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        fs::write(&path, text).unwrap();
        let count = mask(&path, &Whom::from(&[address.parse().unwrap()][..])).unwrap();
        let now = fs::read_to_string(&path).unwrap();
        assert_eq!(now.len(), text.len());
        (count, now)
    }

    #[test]
    fn lines_are_lines_afterwards() {
        // name, the address, the line, and what it is then: one `*` stands for as many as it takes
        let rows: &[(&str, &str, &str, &str)] = &[
            ("JSON", "10.0.0.1", r#"{"a":"10.0.0.1"}"#, r#"{"a":"*"}"#),
            (
                "longer ones",
                "10.0.0.1",
                r#"["10.0.0.11 110.0.0.1 10.0.0.1.2"]"#,
                r#"["10.0.0.11 110.0.0.1 10.0.0.1.2"]"#,
            ),
            ("a port", "10.0.0.1", r#"{"a":"10.0.0.1:80"}"#, r#"{"a":"*:80"}"#),
            ("IPv6", "2001:db8::7", r#"{"a":"2001:DB8:0::7, x"}"#, r#"{"a":"*, x"}"#),
            ("its network", "2001:db8::7", r#"{"a":"2001:db8::/64"}"#, r#"{"a":"*/64"}"#),
            ("IPv4 in IPv6", "10.0.0.1", r#"{"a":"::ffff:10.0.0.1"}"#, r#"{"a":"*"}"#),
            ("an escape of JSON", "10.0.0.1", r#"{"a":"\u0031\u0030.0.0.1"}"#, r#"{"a":"*"}"#),
            ("an escape of the log in JSON", "10.0.0.1", r#"{"a":"\\x310.0.0.1"}"#, r#"{"a":"*"}"#),
            ("an escape within", "10.0.0.1", r#"{"a":"\"10\\x2E0.0.1\""}"#, r#"{"a":"\"*\""}"#),
            ("the end of an escape", "fe80::1", r#"{"a":"\fe80::1"}"#, r#"{"a":"\f*"}"#),
            ("the end of a longer one", "fe80::1", r#"{"a":"\ufe80::1"}"#, r#"{"a":"\ufe80*"}"#),
            ("after a backslash", "10.0.0.1", r#"{"a":"\\10.0.0.1\\"}"#, r#"{"a":"\\*\\"}"#),
        ];
        for (name, address, line, want) in rows {
            let (count, now) = masked(line, address);
            let want = want.replace('*', &"*".repeat(line.len() + 1 - want.len()));
            assert_eq!((now.as_str(), count), (want.as_str(), u64::from(*line != want)), "{name}");
            serde_json::from_str::<serde_json::Value>(&now).unwrap_or_else(|error| panic!("{name}: {error}: {now}"));
        }
        let points = "top_clients,client=10.0.0.1,rank=1 count=5i 1\n\
            top_paths,path=/a\\,10.0.0.1\\ b count=1i,s=\"\\\"10.0.0.1\" 1\n";
        let (count, now) = masked(points, "10.0.0.1");
        assert_eq!((count, now.contains("10.0")), (3, false), "{now}");
        let points = now.lines().map(|line| tidewatch_events::line_protocol::parse_line(line).unwrap());
        assert_eq!(points.flat_map(|point| point.tag("client").map(str::to_owned)).collect::<Vec<_>>(), ["********"]);
    }

    #[test]
    fn lines_in_base64_are_masked_and_stay_base64() {
        let record = |partition: &str, line: &str| {
            format!(
                "{{\"source\":\"a\",\"partition\":\"{partition}\",\"offset\":0,\"reason\":\"format\",\"line\":\"{line}\",\"lines\":2}}\n"
            )
        };
        // places, the line, what it is then
        let rows: &[(u64, &[u8], &[u8])] = &[
            (1, b"10.0.0.1 - \xff", b"******** - \xff"),
            (2, b"\xff10.0.0.1 10.0.0.11 \\x310.0.0.1\\", b"\xff******** 10.0.0.11 ***********\\"),
            (0, b"\xff10.0.0.11", b"\xff10.0.0.11"),
            (0, b"\xff", b"\xff"),
        ];
        for (count, line, want) in rows {
            let (found, now) = masked(&record("10.0.0.1", &STANDARD.encode(line)), "10.0.0.1");
            assert_eq!(now, record("********", &STANDARD.encode(want)), "{line:?}");
            assert_eq!(found, count + 1, "{line:?}");
        }
        // Text that could be base64 is text.
        let text = STANDARD.encode("10.0.0.1 - -");
        for line in [&text[..], "MTAuMC4wLjE", "aaaa*"] {
            assert_eq!(masked(&record("a", line), "10.0.0.1"), (0, record("a", line)));
        }
        let other = format!("{{\"line\":\"{}\"}}\n", STANDARD.encode(b"10.0.0.1 \xff"));
        assert_eq!(masked(&other, "10.0.0.1"), (0, other.clone()), "no dead letter");
    }

    #[test]
    fn who_appends_or_renames_meanwhile_is_not_disturbed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let gone = Whom::from(&["10.0.0.1".parse().unwrap()][..]);
        let older = crate::paths::older(&path);
        let mut appending = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        appending.write_all(b"\"10.0.0.1\"\n\"10.0.0.1").unwrap();
        // The rest of a line, while its beginning is looked at.
        let mut waits = 0;
        let mut wait = || {
            waits += 1;
            appending.write_all(b"1\"\n\"10.0.0.1\"\n").unwrap();
        };
        assert_eq!(mask_waiting(&path, &gone, &mut wait).unwrap(), 2);
        assert_eq!(waits, 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"********\"\n\"10.0.0.11\"\n\"********\"\n");
        // A line that nobody ends is looked through too.
        fs::write(&older, "\"10.0.0.1").unwrap();
        assert_eq!(mask(&older, &gone).unwrap(), 1);
        assert_eq!(mask(&dir.path().join("gone"), &gone).unwrap(), 0);
        assert_eq!(mask(dir.path(), &gone).unwrap(), 0, "no file");
    }
}
