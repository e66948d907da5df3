//! Puts a file in the place of another, so that at no moment there is half of one, and none is lost with the power.
//!
//! It is written beside the other, forced to the disk, renamed; then its directory is forced to the disk, which holds the
//! name.
//!
//! Invariants
//! - What stands in the place beside it is removed, not followed: somebody may have put a link there.
//! - Where it fails before the rename, the old file is as it was, and nothing is left beside it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Who may read a new file, as far as the process's umask allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner: addresses and lines of the logs are in it.
    Owner,
    /// Everybody.
    All,
}

/// The name under which a file is written before it takes its place.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".tmp");
    path.with_file_name(name)
}

/// Puts a file in the place of another; durable when it returns. See the module.
///
/// # Errors
/// Where it cannot be written. Where only the directory could not be forced to the disk, the new file is there.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let fresh = beside(path);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    #[cfg(test)]
    if let Err(error) = testing::write_some(&mut file, bytes) {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    let written = file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
        return written;
    }
    sync_names(path)
}

/// Makes durable which names are in the directory of a file.
///
/// # Errors
/// Where the disk says so. File systems that do not know of it do without.
pub fn sync_names(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[cfg(test)]
    testing::SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
    match File::open(dir)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::cell::{Cell, RefCell};
    use std::fs::File;
    use std::io::{self, ErrorKind, Write as _};
    use std::path::PathBuf;

    thread_local! {
        static DISK_FULL: Cell<bool> = const { Cell::new(false) };
        pub(super) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    /// For this thread the disk is full from now on, or is not.
    pub fn fill_disk(is_full: bool) {
        DISK_FULL.set(is_full);
    }

    /// Where the disk is full: writes a part, and fails.
    pub fn write_some(file: &mut File, bytes: &[u8]) -> io::Result<()> {
        match DISK_FULL.get() {
            true => file.write_all(&bytes[..bytes.len() / 2]).and(Err(ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }

    /// The directories whose names were made durable by this thread since last asked.
    pub fn synced() -> Vec<PathBuf> {
        SYNCED.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_takes_the_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name.json");
        for (text, readers, mode) in [("one", Readers::Owner, 0o600), ("another", Readers::All, 0o644)] {
            // Somebody's link, or half of one that was not finished.
            let other = dir.path().join("other");
            fs::write(&other, "not ours").unwrap();
            std::os::unix::fs::symlink(&other, beside(&path)).unwrap();
            replace(&path, text.as_bytes(), readers).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(fs::read_to_string(&other).unwrap(), "not ours");
            assert_eq!((testing::synced(), beside(&path).exists()), (vec![dir.path().to_owned()], false));
        }
    }

    #[test]
    fn where_it_fails_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        replace(&path, b"x", Readers::All).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        replace(&dir.path().join("missing/x"), b"x", Readers::All).unwrap_err();
        assert_eq!(testing::synced(), [] as [PathBuf; 0]);
    }
}
