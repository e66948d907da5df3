//! Lines held in memory, as one partition that is read to its end: the cases of `rules test`.

use super::frame::{BATCH_BYTES, Lines, Outlet};
use super::{Identity, partition_id};
use crate::feed::{Feed, PartitionInfo};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tidewatch_events::batch::WallTime;

/// See the module.
pub struct Text {
    identity: Identity,
    bytes: Vec<u8>,
    reference_time: WallTime,
}

impl Text {
    /// These lines. Dates without a year are completed by `reference_time`.
    pub fn new(identity: Identity, bytes: Vec<u8>, reference_time: WallTime) -> Text {
        Text { identity, bytes, reference_time }
    }

    /// Starts reading, on a thread of its own, until all is read or the feed stops.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("text".into()).spawn(move || self.run(feed))
    }

    fn run(self, feed: Arc<Feed>) {
        let id = partition_id(self.identity.index, 0);
        feed.open(PartitionInfo {
            id,
            source: self.identity.index,
            source_name: self.identity.name.clone(),
            name: self.identity.name,
            default_host: self.identity.host.unwrap_or_else(|| b"localhost"[..].into()),
            passing: false,
            reference_time: self.reference_time,
            unread: None,
        });
        feed.listed();
        let mut outlet = Outlet::new(feed.clone(), id, || WallTime(0));
        let mut lines = Lines::new(0);
        let mut pieces = self.bytes.chunks(BATCH_BYTES).peekable();
        while pieces.peek().is_some() && !feed.stopped() {
            if feed.choose(&[id], Duration::from_millis(200)).is_none() {
                continue;
            }
            if let Some(piece) = pieces.next() {
                lines.push(piece, &mut || feed.buffer(), &mut |offset, bytes| outlet.send_lines(offset, bytes));
            }
        }
        lines.finish(&mut |offset, bytes| outlet.send_lines(offset, bytes));
        feed.end(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::{Engine, identity};

    #[test]
    fn all_lines_come_and_then_the_end() {
        let text: String = (0..60_000).map(|i| format!("this is line {i}\n")).collect();
        let rows: &[(&str, String, usize)] = &[
            ("nothing", String::new(), 0),
            ("one without an end", "a".into(), 1),
            ("several batches", text.clone(), 60_000),
        ];
        for (name, text, lines) in rows {
            let mut engine = Engine::new(1 << 20);
            let thread = Text::new(identity(), text.clone().into_bytes(), WallTime(7)).spawn(engine.feed.clone());
            engine.until("the end", Engine::all_ended);
            thread.unwrap().join().unwrap();
            let seen = engine.only();
            assert_eq!((seen.lines.len(), engine.listed), (*lines, 1), "{name}");
            assert_eq!(seen.texts(), text.lines().collect::<Vec<_>>(), "{name}");
            assert!(seen.info.as_ref().is_some_and(|info| info.reference_time == WallTime(7)), "{name}");
        }
    }
}
