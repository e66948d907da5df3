//! Mails that some receivers have and others put off: who is still to get which, on disk.
//!
//! Invariants
//! - What is kept survives the process: the file is written before the mail counts as delivered.
//! - At most [`MOST`] mails are kept, each for at most [`KEEP`]; what is given up is said.

use super::Message;
use super::blocklist::replace;
use crate::durable::Readers;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use tidewatch_events::text::Shown as _;

/// Most mails that are kept.
const MOST: usize = 100;

/// How long it is tried, ms.
pub(super) const KEEP: u64 = 86_400_000;

/// The first wait, and the longest, ms; each is twice the one before.
const WAITS: (u64, u64) = (60_000, 1_800_000);

/// A mail, and who is still to get it. Times are those of the wall clock, ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub message: Message,
    /// Addresses.
    pub to: Vec<String>,
    pub since: u64,
    pub tries: u32,
    /// When it is tried again.
    pub next: u64,
}

/// Mails that some receivers still are to get.
pub(super) struct Late {
    path: PathBuf,
    waiting: Vec<Waiting>,
}

impl Late {
    pub fn new(path: PathBuf) -> Late {
        Late { path, waiting: Vec::new() }
    }

    /// Reads what an earlier process left; what could not be read, in words.
    pub fn load(&mut self) -> Option<String> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(format!("{} cannot be read: {error}", self.path.shown())),
        };
        let lines: Vec<Option<Waiting>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        let lost = lines.iter().filter(|line| line.is_none()).count();
        self.waiting = lines.into_iter().flatten().collect();
        (lost > 0).then(|| format!("{}: {lost} lines cannot be read and are left out", self.path.shown()))
    }

    /// When something is to be tried.
    pub fn next(&self) -> Option<u64> {
        self.waiting.iter().map(|one| one.next).min()
    }

    /// Takes out what is to be tried now. It is on disk until [`Late::keep`].
    pub fn due(&mut self, now: u64) -> Vec<Waiting> {
        self.waiting.extract_if(.., |one| one.next <= now).collect()
    }

    /// Takes a mail in, for after another wait; what is given up for it, in words.
    pub fn put(&mut self, mut one: Waiting, now: u64) -> Option<String> {
        one.next = now.saturating_add((WAITS.0 << one.tries.min(16)).min(WAITS.1));
        one.tries += 1;
        let old = match one.since.saturating_add(KEEP) <= now {
            true => Some((one, "a day of trying")),
            false => {
                self.waiting.push(one);
                let is_full = self.waiting.len() > MOST;
                is_full.then(|| (self.waiting.remove(0), "too many others that wait"))
            }
        };
        old.map(|(old, after)| {
            format!("the mail {} is given up for {} after {after}", old.message.id, old.to.join(", "))
        })
    }

    /// Brings the file up to date.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(&self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut lines = Vec::new();
        for one in &self.waiting {
            serde_json::to_writer(&mut lines, one)?;
            lines.push(b'\n');
        }
        replace(&self.path, &lines, Readers::Owner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Body;
    use super::*;

    fn one(id: u64) -> Waiting {
        let message = Message { id: id.to_string(), at: 0, body: Body::Test };
        Waiting { message, to: vec!["a@example.org".into()], since: 0, tries: 0, next: 0 }
    }

    #[test]
    fn waits_grow_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut late = Late::new(dir.path().join("mail.late"));
        let (mut now, mut waits) = (0, Vec::new());
        assert_eq!(late.put(one(1), now), None);
        let given_up = loop {
            let next = late.next().unwrap();
            waits.push((next - now) / 1000);
            now = next;
            assert!(late.due(now - 1).is_empty());
            let one = late.due(now).pop().unwrap();
            if let Some(words) = late.put(one, now) {
                break words;
            }
        };
        assert_eq!(waits[..7], [60, 120, 240, 480, 960, 1800, 1800]);
        assert!((KEEP..KEEP + WAITS.1).contains(&now), "{now}");
        assert!(given_up.contains("a@example.org after a day"), "{given_up}");
        assert_eq!(late.next(), None);
    }

    #[test]
    fn what_waits_is_bounded_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mail.late");
        let mut late = Late::new(path.clone());
        let given_up: Vec<String> = (0..MOST as u64 + 2).filter_map(|id| late.put(one(id), id)).collect();
        assert_eq!(given_up.len(), 2, "{given_up:?}");
        assert!(given_up[1].starts_with("the mail 1 is given up"), "{given_up:?}");
        late.keep().unwrap();
        let mut again = Late::new(path.clone());
        assert_eq!((again.load(), again.waiting == late.waiting), (None, true));
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\n");
        std::fs::write(&path, text).unwrap();
        assert!(again.load().unwrap().contains("1 lines cannot be read"));
        assert_eq!(again.due(u64::MAX).len(), MOST);
        again.keep().unwrap();
        assert!(!path.exists() && again.load().is_none(), "nothing waits, nothing is kept");
        again.keep().unwrap();
    }
}
