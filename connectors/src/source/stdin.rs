//! Standard input, or any other pipe: one partition that ends when the pipe does.
//!
//! Reads as long as there is something to read, up to a batch, and hands over whole lines at once when the pipe is
//! quiet: large batches when there is plenty, small ones without delay when there is little.

use super::frame::{BATCH_BYTES, Lines, Outlet};
use super::{Clock, Identity, SourceError, partition_id};
use crate::feed::{Feed, PartitionInfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long lines that have arrived may wait for more.
const PATIENCE: Duration = Duration::from_millis(50);

/// How often a quiet pipe is left to see whether to stop.
const WAIT: Duration = Duration::from_millis(100);

/// How long a pipe that never pauses is read on when the feed winds down.
const DRAIN: Duration = Duration::from_secs(1);

/// A pipe to read to its end.
pub struct Stdin {
    identity: Identity,
    pipe: File,
    bounded: bool,
    clock: Clock,
}

impl Stdin {
    /// Standard input. `bounded` for a replay: it never says that it is caught up, only that it ended.
    ///
    /// # Errors
    /// [`SourceError::Usage`] where standard input is closed.
    pub fn new(identity: Identity, bounded: bool, clock: Clock) -> Result<Stdin, SourceError> {
        let stdin = io::stdin();
        if io::IsTerminal::is_terminal(&stdin) {
            tracing::info!("standard input is a terminal: reading what is typed, up to ctrl-D");
        }
        let pipe = stdin
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| SourceError::Usage(format!("cannot read standard input: {e}")))?;
        Ok(Stdin::from_pipe(identity, pipe, bounded, clock))
    }

    /// Another pipe, read in the same way.
    fn from_pipe(identity: Identity, pipe: OwnedFd, bounded: bool, clock: Clock) -> Stdin {
        Stdin { identity, pipe: pipe.into(), bounded, clock }
    }

    /// Starts reading, on a thread of its own, until the pipe ends or the feed stops, winds down or is finishing.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("stdin".into()).spawn(move || self.run(feed))
    }

    fn run(mut self, feed: Arc<Feed>) {
        let id = partition_id(self.identity.index, 0);
        feed.open(PartitionInfo {
            id,
            source: self.identity.index,
            source_name: self.identity.name.clone(),
            name: "-".into(),
            default_host: self.identity.host.clone().unwrap_or_else(|| b"stdin"[..].into()),
            passing: false,
            reference_time: (self.clock)(),
            unread: None,
        });
        feed.listed();
        let mut outlet = Outlet::new(feed.clone(), id, self.clock);
        let mut lines = Lines::new(0);
        let result = self.read(&feed, &mut lines, &mut outlet);
        if feed.stopped() {
            return;
        }
        lines.finish(&mut |offset, bytes| outlet.send_lines(offset, bytes));
        match result {
            // A stop is no end: the partition stays open.
            Ok(false) if !feed.finishing() => {}
            Ok(_) => feed.end(id),
            Err(error) => feed.fail(SourceError::Io(format!("reading standard input failed: {error}"))),
        }
    }

    /// Reads to the end, or until the feed stops, winds down or is finishing. Whether it was the end.
    fn read(&mut self, feed: &Feed, lines: &mut Lines, outlet: &mut Outlet) -> io::Result<bool> {
        let mut caught_up = self.bounded;
        let mut drained_by = None;
        while !feed.stopped() {
            let finishing = feed.finishing() || feed.winding_down();
            if feed.winding_down() && Instant::now() >= *drained_by.get_or_insert_with(|| Instant::now() + DRAIN) {
                return Ok(false);
            }
            if !self.is_ready(if finishing { Duration::ZERO } else { WAIT })? {
                if finishing {
                    return Ok(false);
                }
                if !std::mem::replace(&mut caught_up, true) {
                    feed.caught_up(outlet.id);
                }
                continue;
            }
            let may_read = if feed.winding_down() {
                feed.may_read(outlet.id) || {
                    std::thread::sleep(Duration::from_millis(1));
                    false
                }
            } else {
                feed.choose(&[outlet.id], WAIT).is_some()
            };
            if !may_read {
                continue;
            }
            let mut buffer = feed.buffer();
            let most = lines.begin(&mut buffer);
            let from = buffer.len();
            let started = Instant::now();
            // A pipe gives at most what it holds, often 64 KiB: read on while there is more.
            let ended = loop {
                let room = most - (buffer.len() - from);
                match read_some(&mut self.pipe, &mut buffer, room) {
                    Ok(0) => break Ok(true),
                    Err(error) => break Err(error),
                    Ok(_) if buffer.len() - from >= most || started.elapsed() >= PATIENCE => break Ok(false),
                    Ok(_) => match self.is_ready(Duration::ZERO) {
                        Ok(true) => {}
                        other => break other, // `false`: quiet, not ended
                    },
                }
            };
            let before = outlet.sent();
            if let Some(unused) = lines.cut(buffer, &mut |offset, bytes| outlet.send_lines(offset, bytes)) {
                feed.credit(unused);
            }
            caught_up &= self.bounded || outlet.sent() == before;
            if ended? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a read would not wait: there are bytes, or the end.
    fn is_ready(&self, wait: Duration) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(n) => Ok(n > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// One read of at most `room` bytes (and at most a batch); none at the end.
fn read_some(pipe: &mut File, buffer: &mut Vec<u8>, room: usize) -> io::Result<usize> {
    let from = buffer.len();
    buffer.resize(from + room.min(BATCH_BYTES).min(128 << 10), 0);
    let result = loop {
        match pipe.read(&mut buffer[from..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    buffer.truncate(from + *result.as_ref().unwrap_or(&0));
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MAX_LINE_BYTES;
    use crate::source::testing::{Engine, identity};
    use crate::source::wall_clock;
    use std::io::{PipeWriter, Write};

    fn start(bounded: bool) -> (Engine, PipeWriter, JoinHandle<()>) {
        let (reader, writer) = io::pipe().unwrap();
        let engine = Engine::new(8 << 20);
        let thread =
            Stdin::from_pipe(identity(), reader.into(), bounded, wall_clock).spawn(engine.feed.clone()).unwrap();
        (engine, writer, thread)
    }

    #[test]
    fn a_stop_reads_what_was_written() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut engine = Engine::new(1);
        let source = Stdin::from_pipe(identity(), reader.into(), false, wall_clock);
        let thread = source.spawn(engine.feed.clone()).unwrap();
        writer.write_all(b"first\n").unwrap();
        while engine.feed.bytes_in_flight() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        writer.write_all(b"one\nunfinished").unwrap();
        engine.feed.wind_down();
        engine.until("it is over", |_| thread.is_finished());
        engine.turn();
        assert_eq!(engine.only().texts(), ["first", "one", "unfinished"]);
        assert!(!engine.only().ended, "a stop moves no time");
    }

    #[test]
    fn whole_lines_come_while_the_pipe_is_quiet_and_the_rest_at_its_end() {
        let (mut engine, mut writer, thread) = start(false);
        engine.until("caught up", |e| e.listed == 1 && e.only().caught_up == 1);
        writer.write_all(b"one\ntwo\nthr").unwrap();
        engine.until("two lines, while the pipe is open", |e| e.only().lines.len() == 2);
        engine.until("caught up again", |e| e.only().caught_up == 2);
        writer.write_all(b"ee\r\n\xff").unwrap();
        engine.until("three lines", |e| e.only().lines.len() == 3);
        drop(writer);
        engine.until("the end", Engine::all_ended);
        thread.join().unwrap();
        let want = [(0, &b"one"[..]), (4, b"two"), (8, b"three\r"), (15, b"\xff")];
        assert_eq!(engine.only().lines, want.map(|(at, line)| (at, line.to_vec())));
    }

    #[test]
    fn plenty_comes_in_large_batches() {
        let (mut engine, mut writer, thread) = start(true);
        let writer = std::thread::spawn(move || {
            let block: Vec<u8> = (0..2000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
            (0..500).for_each(|_| writer.write_all(&block).unwrap());
            writer.write_all(&vec![b'x'; 3 * MAX_LINE_BYTES]).unwrap();
        });
        engine.until("the end", Engine::all_ended);
        writer.join().unwrap();
        thread.join().unwrap();
        let seen = engine.only();
        assert_eq!((seen.lines.len(), seen.caught_up), (1_000_001, 0));
        assert!(
            seen.lines
                .iter()
                .take(1_000_000)
                .enumerate()
                .all(|(i, (_, line))| *line == format!("line {}", i % 2000).as_bytes())
        );
        assert_eq!(seen.lines[1_000_000].1.len(), MAX_LINE_BYTES + 1);
    }

    #[test]
    fn it_finishes_and_stops_while_the_pipe_stays_open() {
        let (mut engine, mut writer, thread) = start(false);
        writer.write_all(b"one\nunfinished").unwrap();
        engine.until("a line", |e| e.partitions.values().any(|s| s.lines.len() == 1));
        engine.feed.finish();
        engine.until("the end", Engine::all_ended);
        thread.join().unwrap();
        assert_eq!(engine.only().texts(), ["one", "unfinished"]);
        let (engine, _writer, thread) = start(false);
        engine.feed.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_file_can_stand_in_for_a_pipe() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\ntwo").unwrap();
        let mut engine = Engine::new(1 << 20);
        let pipe = File::open(file.path()).unwrap().into();
        let thread = Stdin::from_pipe(identity(), pipe, true, wall_clock).spawn(engine.feed.clone()).unwrap();
        engine.until("the end", Engine::all_ended);
        thread.join().unwrap();
        assert_eq!(engine.only().texts(), ["one", "two"]);
    }
}
