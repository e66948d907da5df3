//! Which file a path names, and whether it is as it was.
//!
//! Invariants
//! - Device and inode name a file as long as it exists. Once it is deleted they may be another's: who keeps them for longer
//!   compares contents too.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device it is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

impl FileId {
    /// Of what was looked at.
    pub fn of(meta: &Metadata) -> FileId {
        FileId { device: meta.dev(), inode: meta.ino() }
    }
}

/// How a file looks from outside. One that takes the place of another may be older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    written: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Look {
    /// Of what a path names now; none where it cannot be looked at.
    pub fn of(path: &Path) -> Option<Look> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Look { written: meta.modified().ok(), length: meta.len(), inode: meta.ino() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn files_that_are_replaced_look_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let file = path("cert.pem");
        let now = SystemTime::now();
        let write = |path: &Path, text: &str, ago: u64| {
            fs::write(path, text).unwrap();
            let file = fs::File::options().append(true).open(path).unwrap();
            file.set_modified(now - Duration::from_secs(ago)).unwrap();
        };
        type Change<'a> = &'a dyn Fn();
        // What happens to the file, and whether that is a change.
        let rows: &[(&str, Change<'_>, bool)] = &[
            ("nothing", &|| {}, false),
            ("newer", &|| write(&file, "cert", 9), true),
            ("older, as it came from elsewhere", &|| write(&file, "cert", 5000), true),
            ("another length at the same time", &|| write(&file, "cert2", 10), true),
            (
                "another file of the same time and length",
                &|| {
                    write(&path("new"), "CERT", 10);
                    fs::rename(path("new"), &file).unwrap();
                },
                true,
            ),
            ("gone", &|| fs::remove_file(&file).unwrap(), true),
        ];
        for (name, change, want) in rows {
            write(&file, "cert", 10);
            let before = Look::of(&file);
            change();
            assert_eq!(Look::of(&file) != before, *want, "{name}");
        }
    }
}
