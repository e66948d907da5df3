//! Erases a client from a capture: each byte of its addresses and names becomes `*`, as in files of lines.
//!
//! Records are never taken out: offsets, timestamps and lengths stay, so a replay reads the others as before. The capture is
//! written again beside itself, with new checksums, and takes its place at once.
//!
//! Invariants
//! - The capture is whole at any moment: as it was, or without the client. One that is damaged is left as it is.
//! - What a killed process leaves beside it holds the client still, and is taken away by the next one.

use super::manifest::{MANIFEST, is_of_capture};
use super::{Capture, CaptureError, CaptureWriter, Record};
use crate::erase::masking::mask_text;
use crate::erase::whom::Whom;
use crate::{durable, lock};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidewatch_events::text::Shown as _;

/// Masks a client in the records of a capture; how many times it stood there. Where it does not, nothing is written.
///
/// # Errors
/// `Usage` where it is no capture, or another process rewrites it; `Damaged` where it is not as it was written; `Io` where it cannot
/// be replaced.
pub fn forget(dir: &Path, whom: &Whom) -> Result<u64, CaptureError> {
    // By its own name: whoever names it by a link goes on to.
    let dir = &fs::canonicalize(dir).map_err(CaptureError::io("find", dir))?;
    let held = lock::hold(dir);
    // Where the file system has no locks nobody is kept from anything.
    if held.is_none() && !lock::is_free(dir).unwrap_or(true) {
        return Err(CaptureError::Usage(format!("another process erases from {} now", dir.shown())));
    }
    let capture = Capture::open(dir)?;
    let beside = beside(dir);
    take_away(&beside, dir)?;
    let (mut found, mut text) = (0, Text::default());
    for_each(&capture, |_, record| {
        found += text.mask(&record, whom);
        Ok(())
    })?;
    if found == 0 {
        return Ok(0);
    }
    let mut writer = CaptureWriter::create(&beside, capture.manifest().about.clone())?;
    for partition in &capture.manifest().partitions {
        writer.open(partition.partition, partition.from, partition.until)?;
    }
    for_each(&capture, |partition, record| {
        text.mask(&record, whom);
        let host = record.host.map(|_| text.host.as_slice());
        writer.push(partition, &Record { host, value: &text.value, ..record })
    })?;
    writer.finish()?;
    // It is what another process finds once it has taken the place.
    let _next = lock::hold(&beside);
    let exchange = || renameat_with(CWD, dir, CWD, &beside, RenameFlags::EXCHANGE).map_err(io::Error::from);
    let replaced = keep_owner(dir, &beside).and_then(|()| exchange());
    if let Err(error) = replaced {
        take_away(&beside, dir)?;
        return Err(CaptureError::io("replace", dir)(error));
    }
    let synced = durable::sync_names(dir).map_err(CaptureError::io("replace", dir));
    take_away(&beside, dir)?;
    synced.map(|()| found)
}

/// Where a capture is written again.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".forgetting");
    dir.with_file_name(name)
}

/// All records of a capture, with their partitions.
fn for_each(
    capture: &Capture,
    mut with: impl FnMut(u32, Record<'_>) -> Result<(), CaptureError>,
) -> Result<(), CaptureError> {
    for partition in &capture.manifest().partitions {
        let mut blocks = capture.read(partition, Arc::default())?;
        let mut buffer = Vec::new();
        while let Some((bytes, records)) = blocks.next(buffer)? {
            for record in &records {
                let host = (!record.host.is_none()).then(|| record.host.bytes(&bytes, &[]));
                let value = record.value.bytes(&bytes, &[]);
                let record = Record { offset: record.offset, timestamp: record.timestamp, host, value };
                with(partition.partition, record)?;
            }
            buffer = bytes;
        }
    }
    Ok(())
}

/// A record's texts without the client.
#[derive(Default)]
struct Text {
    host: Vec<u8>,
    value: Vec<u8>,
}

impl Text {
    /// Takes those of a record; how many times the client stood there.
    fn mask(&mut self, record: &Record<'_>, whom: &Whom) -> u64 {
        let mask = |text: &mut Vec<u8>, from: &[u8]| {
            text.clear();
            text.extend_from_slice(from);
            mask_text(text, whom)
        };
        mask(&mut self.host, record.host.unwrap_or_default()) + mask(&mut self.value, record.value)
    }
}

/// Gives a directory the owner and the mode that another has, and its files those of the other's files of the same names, as far
/// as they differ. Links that somebody put in their places are not followed.
fn keep_owner(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(to)? {
        let name = entry?.file_name();
        let like = fs::symlink_metadata(from.join(&name))?;
        keep_owner_of(&like, &to.join(&name), OFlags::empty())?;
    }
    keep_owner_of(&fs::metadata(from)?, to, OFlags::DIRECTORY)
}

fn keep_owner_of(like: &fs::Metadata, path: &Path, kind: OFlags) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let file = fs::File::from(rustix::fs::open(
        path,
        kind | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let ours = file.metadata()?;
    if (like.uid(), like.gid()) != (ours.uid(), ours.gid()) {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(like.permissions())
}

/// Removes what stands beside a capture: a directory with one, finished or not. What else was put there goes to the capture.
fn take_away(beside: &Path, capture: &Path) -> Result<(), CaptureError> {
    let remove = || -> io::Result<()> {
        match fs::symlink_metadata(beside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
            // Whoever put a link there is not followed.
            Ok(found) if !found.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(_) => {}
        }
        // First what vouches for the others: without it they are no capture.
        match fs::remove_file(beside.join(MANIFEST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for entry in fs::read_dir(beside)? {
            let name = entry?.file_name();
            let (from, to) = (beside.join(&name), capture.join(&name));
            if name.to_str().is_some_and(is_of_capture) {
                fs::remove_file(from)?;
            } else if fs::symlink_metadata(&to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            } else {
                fs::rename(from, to)?;
            }
        }
        fs::remove_dir(beside)
    };
    remove().map_err(CaptureError::io("remove", beside))
}
