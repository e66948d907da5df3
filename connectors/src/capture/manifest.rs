//! `capture.json`: what a capture holds, and by what its files are known to be whole.
//!
//! Invariants
//! - Its last line but one is the SHA-256 of everything before that line, so that a byte that was changed anywhere is found.
//! - It names no file: what files are called follows from the numbers of partitions.

use super::CaptureError;
use crate::kafka::is_topic_name;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::Path;
use tidewatch_events::text::Shown as _;

/// The manifest's name.
pub const MANIFEST: &str = "capture.json";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// No manifest is longer, bytes: that is more than a hundred thousand partitions.
const MAX_BYTES: u64 = 64 << 20;

/// What stands in front of the checksum, and behind it.
const BEFORE_SUM: &str = "  \"sha256\": \"";
const BEHIND_SUM: &str = "\"\n}\n";

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The topic.
    pub topic: String,
    /// The brokers, as they were configured: by them a configuration's source is known that reads this topic.
    pub brokers: String,
    /// The cluster's id, where they gave one.
    pub cluster: Option<String>,
    /// When it was captured, ms since the epoch.
    pub captured_ms: u64,
    /// The times that were asked for: of the first record, and of the first that is not in it.
    pub from_ms: Option<u64>,
    /// See `from_ms`.
    pub until_ms: Option<u64>,
    /// What was done to lines before they were written.
    pub privacy: CapturePrivacy,
}

/// `[privacy]` as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapturePrivacy {
    /// `full`, `truncate` or `hmac`.
    pub client: String,
    /// Query parameters whose values are `***`.
    pub redact_query: Vec<String>,
}

/// `capture.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub version: u32,
    /// What was captured.
    pub about: About,
    /// The partitions, ascending.
    pub partitions: Vec<PartitionManifest>,
}

/// What there is of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionManifest {
    /// Its number.
    pub partition: u32,
    /// Every record from this offset …
    pub from: u64,
    /// … to before this one is there, but for those that the log did not hold and those that were sent twice.
    pub until: u64,
    /// How many records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Least timestamp of a record, ms since the epoch.
    pub first_timestamp_ms: Option<u64>,
    /// Largest timestamp.
    pub last_timestamp_ms: Option<u64>,
    /// Length of the file of records.
    pub file_bytes: u64,
    /// Its SHA-256.
    pub file_sha256: String,
    /// SHA-256 of its index.
    pub index_sha256: String,
}

impl PartitionManifest {
    /// The name of the file of records.
    pub(super) fn file(partition: u32) -> String {
        format!("partition-{partition}.zst")
    }

    /// The name of the index.
    pub(super) fn index(partition: u32) -> String {
        format!("partition-{partition}.index")
    }
}

impl Manifest {
    pub(super) fn new(about: About, partitions: Vec<PartitionManifest>) -> Manifest {
        Manifest { version: VERSION, about, partitions }
    }

    /// Records of all partitions.
    pub fn records(&self) -> u64 {
        self.sum(|p| p.records)
    }

    /// Bytes of their values.
    pub fn bytes(&self) -> u64 {
        self.sum(|p| p.bytes)
    }

    /// Bytes on the disk, but for indexes and manifest.
    pub fn file_bytes(&self) -> u64 {
        self.sum(|p| p.file_bytes)
    }

    fn sum(&self, of: impl Fn(&PartitionManifest) -> u64) -> u64 {
        self.partitions.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Least and largest timestamp, ms.
    pub fn timestamps(&self) -> Option<(u64, u64)> {
        let first = self.partitions.iter().filter_map(|p| p.first_timestamp_ms).min()?;
        Some((first, self.partitions.iter().filter_map(|p| p.last_timestamp_ms).max()?))
    }

    /// As it is written.
    pub(super) fn text(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.truncate(text.len() - "\n}".len());
        text.push_str(",\n");
        let sum = digest(text.as_bytes());
        let _ = write!(text, "{BEFORE_SUM}{sum}{BEHIND_SUM}");
        Ok(text)
    }

    /// Reads the manifest of a directory.
    ///
    /// # Errors
    /// `Usage` where there is none, or one of another version; `Damaged` where it is not as it was written.
    pub(super) fn read(dir: &Path) -> Result<Manifest, CaptureError> {
        let path = dir.join(MANIFEST);
        let text = match super::open(&path) {
            Ok(file) => {
                let mut text = Vec::new();
                let read = file.take(MAX_BYTES + 1).read_to_end(&mut text);
                read.map_err(CaptureError::io("read", &path))?;
                text
            }
            Err(CaptureError::Io { error, .. })
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(no_capture(dir));
            }
            Err(error) => return Err(error),
        };
        let damaged = |what: &str| CaptureError::damaged(&path, 0, what);
        let whole = std::str::from_utf8(&text).ok().filter(|text| text.len() as u64 <= MAX_BYTES);
        let parts = whole.and_then(|text| text.strip_suffix(BEHIND_SUM)?.rsplit_once(BEFORE_SUM));
        let (before, sum) = parts.ok_or_else(|| damaged("it does not end with its checksum"))?;
        if digest(before.as_bytes()) != sum {
            return Err(damaged("its checksum does not fit"));
        }
        let json = format!("{}\n}}", before.trim_end_matches([',', '\n']));
        // Another version may have other fields.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let of = |error: serde_json::Error| damaged(&error.to_string());
        let Version { version } = serde_json::from_str(&json).map_err(of)?;
        if version != VERSION {
            let words = format!("{} is of version {version}; this Tidewatch reads version {VERSION}", path.shown());
            return Err(CaptureError::Usage(words));
        }
        let manifest: Manifest = serde_json::from_str(&json).map_err(of)?;
        // It becomes part of partitions' names.
        if !is_topic_name(&manifest.about.topic) {
            return Err(damaged("its topic has a name that no topic has"));
        }
        let ascend = manifest.partitions.windows(2).all(|two| two[0].partition < two[1].partition);
        let is_possible = |p: &PartitionManifest| {
            i32::try_from(p.partition).is_ok() && p.from <= p.until && p.records <= p.until - p.from
        };
        if !ascend || !manifest.partitions.iter().all(is_possible) {
            return Err(damaged("its partitions cannot be so"));
        }
        Ok(manifest)
    }
}

/// Why a directory without a manifest is no capture.
fn no_capture(dir: &Path) -> CaptureError {
    let shown = dir.shown();
    CaptureError::Usage(match has_files(dir) {
        true => format!(
            "{shown} holds no {MANIFEST}: it is an unfinished capture, of one that was killed or still runs\n hint: if none runs, \
             remove it and capture again"
        ),
        false => format!("{shown} is no capture: it holds no {MANIFEST}"),
    })
}

/// Whether a directory holds files of a capture, finished or not.
pub(super) fn has_files(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_str().is_some_and(is_of_capture))
}

/// Whether a file of this name is one of a capture.
pub(super) fn is_of_capture(name: &str) -> bool {
    let number = name.strip_prefix("partition-").and_then(|name| name.split_once('.'));
    name == MANIFEST
        || number.is_some_and(|(number, end)| number.parse::<u32>().is_ok() && ["zst", "index"].contains(&end))
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
