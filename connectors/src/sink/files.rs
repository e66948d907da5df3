//! `[sink.files]`: results appended to files as they come: `metrics.lp`, `alerts.jsonl`, `rejected.jsonl`, `late.jsonl`.
//!
//! The live files: a line per version of a point and per change of an alert, the last line of a point or `id` wins. They may
//! be renamed or removed at any time (logrotate without `copytruncate`): the next delivery makes a new file.
//!
//! Invariants
//! - Points and alerts of a delivery are in the files whole or not at all: after a failure what was written of them is cut
//!   off again. Dead letters go on where they stopped.
//! - All files are bounded: at their size they are renamed to `NAME.1` ([`super::rotate`], [`super::dead_letters`]).
//! - Every file ends with a whole line, also after a crash: a torn last line is cut off when the file is opened.

use super::dead_letters::LetterFiles;
use super::rotate::Rotating;
use super::{DeadLetterRecord, Delivered, Delivery, Parts, Sink, SinkError};
use crate::durable::sync_names;
use crate::file_identity::FileId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_events::dead_letter::Reason;
use tidewatch_events::text::Shown as _;
use tracing::warn;

/// Why an output file cannot be written. `source()` says what the system answered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.shown())]
pub struct FilesError {
    /// What was tried: `create`, `write` …
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

impl FilesError {
    pub(super) fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
        move |source| FilesError { doing, path: path.to_owned(), source }
    }
}

impl From<FilesError> for SinkError {
    fn from(error: FilesError) -> SinkError {
        SinkError::Retry { message: format!("{error}: {}", error.source), after: None }
    }
}

/// Whether a dead letter belongs into `late.jsonl`: it was an event, but came too late or from the future.
pub(super) fn is_late(letter: &DeadLetterRecord) -> bool {
    letter.reason == Reason::Late.as_str() || letter.reason == Reason::Future.as_str()
}

/// When what was written is forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each acknowledgement: survives the loss of power.
    Always,
    /// At most this often: a loss of power costs what was acknowledged in that time.
    Every(Duration),
    /// When the system likes: survives the process, not the machine.
    Never,
}

const METRICS: usize = 0;
const ALERTS: usize = 1;
const NAMES: [&str; 2] = ["metrics.lp", "alerts.jsonl"];
const REJECTED: &str = "rejected.jsonl";

/// A file that is appended to and may be renamed or removed by others at any time.
pub(crate) struct LiveFile {
    path: PathBuf,
    file: Option<File>,
    dirty: bool,
    /// Whether its name is on the disk too.
    is_named: bool,
    /// How each of its lines begins, where that is known.
    begins: &'static str,
}

/// The sink. See the module.
pub struct LiveFiles {
    dir: PathBuf,
    files: [Rotating; 2],
    letters: Option<LetterFiles>,
    takes: Parts,
    fsync: Fsync,
    synced: Instant,
    /// Keeps a replay from replacing these files.
    _held: Option<File>,
}

impl LiveFiles {
    /// Opens the files in `dir`, which is created if it is missing, for some parts of what is delivered: the others have no
    /// file. Those of dead letters are rotated at `max_letters` bytes, the others at `max_size` (0: never); `late.jsonl` is
    /// there once there is something late.
    pub fn open(
        dir: &Path,
        fsync: Fsync,
        takes: Parts,
        max_size: u64,
        max_letters: u64,
    ) -> Result<LiveFiles, FilesError> {
        let file = |index: usize| Rotating::new(dir.join(NAMES[index]), max_size, index == ALERTS);
        let files = [file(METRICS), file(ALERTS)];
        fs::create_dir_all(dir).map_err(FilesError::new("create", dir))?;
        let (dir, synced, _held) = (dir.to_owned(), Instant::now(), crate::lock::hold(dir));
        let mut live = LiveFiles { dir, files, letters: None, takes, fsync, synced, _held };
        for (index, _) in [(METRICS, takes.points), (ALERTS, takes.alerts)].into_iter().filter(|(_, taken)| *taken) {
            live.files[index].ready(0)?;
        }
        if takes.dead_letters {
            live.letters = Some(LetterFiles::open(&live.dir.join(REJECTED), max_letters)?);
        }
        Ok(live)
    }

    fn create_dir(&self) -> Result<(), FilesError> {
        fs::create_dir_all(&self.dir).map_err(FilesError::new("create", &self.dir))
    }

    fn write(&mut self, delivery: &Delivery) -> Result<(), FilesError> {
        if let Some(letters) = &mut self.letters {
            letters.write(delivery)?;
        }
        let Parts { points, alerts, .. } = self.takes;
        let mut lines = Vec::new();
        delivery.alerts.iter().filter(|_| alerts).for_each(|alert| json_line(&mut lines, alert));
        let mut done: Vec<(usize, u64)> = Vec::new();
        let result = (|| {
            for (index, bytes) in [(METRICS, &delivery.points), (ALERTS, &lines)] {
                if !bytes.is_empty() && (points || index != METRICS) {
                    self.create_dir()?;
                    let file = &mut self.files[index];
                    let before = file.ready(bytes.len() as u64)?;
                    done.push((index, before));
                    file.file.append(bytes)?;
                }
            }
            self.sync()
        })();
        if result.is_err() {
            for (index, before) in done {
                self.files[index].file.cut(before);
            }
        }
        result
    }

    fn sync(&mut self) -> Result<(), FilesError> {
        let due = match self.fsync {
            Fsync::Always => true,
            Fsync::Every(time) => self.synced.elapsed() >= time,
            Fsync::Never => false,
        };
        if due {
            self.files.iter_mut().try_for_each(|file| file.file.sync())?;
            self.letters.as_mut().map_or(Ok(()), LetterFiles::sync)?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}

impl Sink for LiveFiles {
    fn name(&self) -> &str {
        "files"
    }

    fn takes(&self) -> Parts {
        self.takes
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        self.write(delivery)?;
        let letters = self.letters.as_mut().map_or(0, LetterFiles::done);
        let dropped_bytes = letters + self.files.iter_mut().map(Rotating::done).sum::<u64>();
        Ok(Delivered { dropped_bytes, ..Delivered::default() })
    }
}

impl Drop for LiveFiles {
    fn drop(&mut self) {
        if self.fsync != Fsync::Never {
            if let Some(Err(error)) = self.letters.as_mut().map(LetterFiles::sync) {
                warn!(%error, "cannot sync a result file to disk");
            }
            for file in &mut self.files {
                if let Err(error) = file.file.sync() {
                    warn!(%error, "cannot sync a result file to disk");
                }
            }
        }
    }
}

impl LiveFile {
    /// A file that is not opened yet.
    pub(crate) fn new(path: PathBuf) -> LiveFile {
        LiveFile { path, file: None, dirty: false, is_named: false, begins: "" }
    }

    /// One whose lines all begin like this: a last line that does not is somebody else's, and stays.
    pub(crate) fn of_lines(self, begins: &'static str) -> LiveFile {
        LiveFile { begins, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forces to the disk what was written since the last time; and the first time after it was opened, its name, and that of
    /// the file that had it before.
    pub(crate) fn sync(&mut self) -> Result<(), FilesError> {
        if let Some(file) = self.file.as_ref().filter(|_| self.dirty) {
            file.sync_data().map_err(FilesError::new("write", &self.path))?;
            if !self.is_named {
                sync_names(&self.path).map_err(FilesError::new("write", &self.path))?;
                self.is_named = true;
            }
        }
        self.dirty = false;
        Ok(())
    }

    /// Opens the file, or another one if the path no longer names the one that is open; its length.
    pub(crate) fn ready(&mut self) -> Result<u64, FilesError> {
        if self.file.as_ref().is_some_and(|file| !names(&self.path, file)) {
            self.file = None;
        }
        if let Some(file) = &self.file {
            return Ok(file.metadata().map_err(FilesError::new("read", &self.path))?.len());
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)
            .map_err(FilesError::new("create", &self.path))?;
        let whole = whole_lines(&mut file).map_err(FilesError::new("read", &self.path))?;
        let len = file.metadata().map_err(FilesError::new("read", &self.path))?.len();
        if whole < len && !self.may_cut(&mut file, whole)? {
            warn!(path = %self.path.shown(), "the last line is incomplete and not from this program; continuing on a new line");
            file.write_all(b"\n").map_err(FilesError::new("write", &self.path))?;
            (self.file, self.is_named) = (Some(file), false);
            return Ok(len + 1);
        }
        if whole < len {
            warn!(path = %self.path.shown(), bytes = len - whole, "cut off a torn last line");
            file.set_len(whole).map_err(FilesError::new("write", &self.path))?;
        }
        (self.file, self.is_named) = (Some(file), false);
        Ok(whole)
    }

    /// Whether what stands from here on is the beginning of a line of this program.
    fn may_cut(&self, file: &mut File, from: u64) -> Result<bool, FilesError> {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(from))
            .and_then(|_| file.take(self.begins.len() as u64).read_to_end(&mut tail))
            .map_err(FilesError::new("read", &self.path))?;
        Ok(self.begins.as_bytes().starts_with(&tail))
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        self.dirty = true;
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(FilesError::new("write", &self.path)),
            None => Ok(()),
        }
    }

    pub(crate) fn cut(&mut self, len: u64) {
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.set_len(len)) {
            warn!(path = %self.path.shown(), %error, "cannot undo a failed delivery; its lines will appear twice");
        }
    }
}

/// Whether the path still names the open file.
fn names(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(open)) => FileId::of(&there) == FileId::of(&open),
        _ => false,
    }
}

/// The length of the file up to the end of its last whole line.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut chunk = vec![0; 64 << 10];
    while end > 0 {
        let len = end.min(chunk.len() as u64);
        file.seek(SeekFrom::Start(end - len))?;
        file.read_exact(&mut chunk[..len as usize])?;
        if let Some(at) = memchr::memrchr(b'\n', &chunk[..len as usize]) {
            return Ok(end - len + at as u64 + 1);
        }
        end -= len;
    }
    Ok(0)
}

/// Appends a value as a line of JSON. Results always have a JSON form.
pub(crate) fn json_line(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    let start = out.len();
    match serde_json::to_writer(&mut *out, value) {
        Ok(()) => out.push(b'\n'),
        Err(error) => {
            out.truncate(start);
            warn!(%error, "a result has no JSON form");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stdout::tests::alert;
    use super::*;
    use tidewatch_events::alert::{Alert, AlertState};

    const ALL: [&str; 4] = ["metrics.lp", "alerts.jsonl", "rejected.jsonl", "late.jsonl"];

    fn open(dir: &Path, fsync: Fsync) -> LiveFiles {
        LiveFiles::open(dir, fsync, Parts::ALL, 0, 1 << 20).unwrap()
    }

    fn letter(reason: &str) -> DeadLetterRecord {
        let (source, partition, line) = ("file".into(), "a.log".into(), "a \"line\"\n\u{1b}".into());
        DeadLetterRecord { source, partition, offset: 7, reason: reason.into(), line, ..DeadLetterRecord::default() }
    }

    fn delivery(seq: u64) -> Delivery {
        Delivery {
            seq,
            for_store: Vec::new(),
            points: format!("m x={seq} 1\n").into_bytes(),
            alerts: vec![alert("r", "1", seq)],
            dead_letters: vec![letter("format"), letter("late")],
        }
    }

    fn lines(dir: &Path, name: &str) -> usize {
        fs::read_to_string(dir.join(name)).unwrap().lines().count()
    }

    #[test]
    fn results_are_appended_each_to_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("out/deep");
        let mut live = open(&dir, Fsync::Always);
        assert!(dir.join("alerts.jsonl").exists() && !dir.join("late.jsonl").exists());
        assert_eq!(live.deliver(&delivery(1)), Ok(Delivered::default()));
        drop(live);
        let mut live = open(&dir, Fsync::Every(Duration::from_secs(1)));
        live.deliver(&delivery(2)).unwrap();
        live.deliver(&Delivery { seq: 3, ..Delivery::default() }).unwrap();
        assert_eq!(fs::read_to_string(dir.join("metrics.lp")).unwrap(), "m x=1 1\nm x=2 1\n");
        let counts = ALL.map(|name| lines(&dir, name));
        assert_eq!(counts, [2, 2, 2, 2]);
        let rejected = fs::read_to_string(dir.join("rejected.jsonl")).unwrap();
        let want = r#"{"source":"file","partition":"a.log","offset":7,"reason":"format","line":"a \"line\"\n\u001b"}"#;
        assert_eq!(rejected.lines().next(), Some(want));
    }

    #[test]
    fn parts_that_are_not_taken_have_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let takes = Parts { points: false, ..Parts::ALL };
        let mut live = LiveFiles::open(dir.path(), Fsync::Never, takes, 0, 1 << 20).unwrap();
        live.deliver(&delivery(1)).unwrap();
        assert!(!dir.path().join("metrics.lp").exists());
        assert_eq!(["alerts.jsonl", "rejected.jsonl", "late.jsonl"].map(|name| lines(dir.path(), name)), [1, 1, 1]);
        assert_eq!(live.takes(), takes);
    }

    #[test]
    fn dead_letters_cannot_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut live = LiveFiles::open(dir, Fsync::Never, Parts::ALL, 0, 1000).unwrap();
        let dropped: u64 = (1..=100).map(|seq| live.deliver(&delivery(seq)).unwrap().dropped_bytes).sum();
        assert!(dropped > 10_000, "{dropped}");
        for name in ["rejected.jsonl", "rejected.jsonl.1", "late.jsonl", "late.jsonl.1"] {
            let len = fs::metadata(dir.join(name)).unwrap().len();
            assert!((1..=1000).contains(&len), "{name}: {len}");
        }
        assert_eq!((lines(dir, "metrics.lp"), lines(dir, "alerts.jsonl")), (100, 100), "results are kept");
    }

    #[test]
    fn results_cannot_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut live = LiveFiles::open(dir, Fsync::Never, Parts::ALL, 4000, 1000).unwrap();
        let mut dropped = 0;
        for seq in 1..=200 {
            // Each is over when the next begins; the first is not.
            let state = |alert: Alert, state| Alert { state, ..alert };
            let over = (seq > 2).then(|| state(alert("r", &(seq - 1).to_string(), seq), AlertState::Resolved));
            let alerts = over.into_iter().chain([alert("r", &seq.to_string(), seq)]).collect();
            dropped +=
                live.deliver(&Delivery { alerts, dead_letters: Vec::new(), ..delivery(seq) }).unwrap().dropped_bytes;
        }
        assert!(dropped > 10_000, "{dropped}");
        for name in ["metrics.lp", "alerts.jsonl", "alerts.jsonl.1"] {
            let len = fs::metadata(dir.join(name)).unwrap().len();
            assert!((1..=4000 + 1000).contains(&len), "{name}: {len}");
        }
        let text = fs::read_to_string(dir.join("alerts.jsonl")).unwrap();
        let first: Alert = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first.id, alert("r", "1", 1).id, "the one that is open is still there");
    }

    #[test]
    fn a_delivery_whose_alerts_fail_leaves_its_letters_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut live = open(dir, Fsync::Never);
        fs::remove_file(dir.join("alerts.jsonl")).unwrap();
        fs::create_dir(dir.join("alerts.jsonl")).unwrap();
        live.deliver(&delivery(1)).unwrap_err();
        fs::remove_dir(dir.join("alerts.jsonl")).unwrap();
        live.deliver(&delivery(1)).unwrap();
        assert_eq!(ALL.map(|name| lines(dir, name)), [1, 1, 1, 1]);
    }

    #[test]
    fn new_names_are_forced_to_the_disk_with_what_is_in_them() {
        use crate::durable::testing::synced;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        // Three deliveries have room in the first file of points.
        let mut live =
            LiveFiles::open(dir, Fsync::Always, Parts { alerts: false, dead_letters: false, ..Parts::ALL }, 24, 0)
                .unwrap();
        synced();
        let names = |live: &mut LiveFiles, seq: u64| {
            live.deliver(&Delivery { alerts: Vec::new(), dead_letters: Vec::new(), ..delivery(seq) }).unwrap();
            synced().len()
        };
        let made: Vec<usize> = (1..=5).map(|seq| names(&mut live, seq)).collect();
        assert_eq!(made, [1, 0, 0, 1, 0], "when it is made, and when it is made anew after a rotation");
        fs::rename(dir.join("metrics.lp"), dir.join("moved")).unwrap();
        assert_eq!(names(&mut live, 6), 1, "by others");
        let mut never = LiveFiles::open(&dir.join("b"), Fsync::Never, Parts::ALL, 0, 0).unwrap();
        assert_eq!(names(&mut never, 1), 0, "where nothing is forced to the disk, no name is");
    }

    #[test]
    fn files_may_be_rotated_away() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut live = open(dir, Fsync::Never);
        live.deliver(&delivery(1)).unwrap();
        fs::rename(dir.join("metrics.lp"), dir.join("metrics.lp.1")).unwrap();
        fs::remove_file(dir.join("alerts.jsonl")).unwrap();
        live.deliver(&delivery(2)).unwrap();
        assert_eq!(fs::read_to_string(dir.join("metrics.lp.1")).unwrap(), "m x=1 1\n");
        assert_eq!(fs::read_to_string(dir.join("metrics.lp")).unwrap(), "m x=2 1\n");
        assert_eq!((lines(dir, "alerts.jsonl"), lines(dir, "rejected.jsonl")), (1, 2));
        fs::remove_dir_all(dir).unwrap();
        live.deliver(&delivery(3)).unwrap();
        assert_eq!(lines(dir, "metrics.lp"), 1);
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        let long = "y".repeat(200 << 10);
        let rows: &[(&str, String, &str)] = &[
            ("empty", String::new(), ""),
            ("whole", "a\n".into(), "a\n"),
            ("torn", "a\nb".into(), "a\n"),
            ("torn far back", format!("a\n{long}"), "a\n"),
            ("nothing whole", "a".into(), ""),
        ];
        for (name, before, want) in rows {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("metrics.lp"), before).unwrap();
            let mut live = open(dir.path(), Fsync::Never);
            live.deliver(&delivery(1)).unwrap();
            let text = fs::read_to_string(dir.path().join("metrics.lp")).unwrap();
            assert_eq!(text, format!("{want}m x=1 1\n"), "{name}");
        }
    }

    #[test]
    fn a_delivery_that_fails_is_taken_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut live = open(dir, Fsync::Always);
        live.deliver(&Delivery { dead_letters: Vec::new(), ..delivery(1) }).unwrap();
        // A folder stands where the file of late events would be made.
        fs::create_dir(dir.join("late.jsonl")).unwrap();
        let error = live.deliver(&delivery(2)).unwrap_err();
        assert!(matches!(&error, SinkError::Retry { message, .. } if message.contains("late.jsonl")), "{error}");
        assert_eq!(fs::read_to_string(dir.join("metrics.lp")).unwrap(), "m x=1 1\n");
        assert_eq!(
            (lines(dir, "alerts.jsonl"), lines(dir, "rejected.jsonl")),
            (1, 1),
            "letters go on where they stopped"
        );
        fs::remove_dir(dir.join("late.jsonl")).unwrap();
        live.deliver(&delivery(2)).unwrap();
        assert_eq!(ALL.map(|name| lines(dir, name)), [2, 2, 1, 1]);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = LiveFiles::open(&dir.path().join("file"), Fsync::Never, Parts::ALL, 0, 1 << 20).err().unwrap();
        assert_eq!(error.to_string(), format!("cannot create {}", dir.path().join("file").display()));
        assert!(std::error::Error::source(&error).is_some());
    }
}
