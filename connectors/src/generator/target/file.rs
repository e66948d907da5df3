//! Files: one for all hosts, or one for each.

use super::{LineMeta, Target, TargetError};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};

/// Open files by host.
pub struct Files {
    files: Vec<(String, BufWriter<File>)>,
    /// Which file a host's lines go to.
    by_host: Vec<usize>,
}

impl Files {
    /// Opens (and empties, unless `append`) the file of every host.
    pub fn open(path: &str, hosts: &[String], append: bool) -> Result<Files, TargetError> {
        let mut files = Files { files: Vec::new(), by_host: Vec::new() };
        let mut known = BTreeMap::new();
        for host in hosts {
            let path = path.replace("{host}", host);
            let next = files.files.len();
            let at = *known.entry(path.clone()).or_insert(next);
            if at == next {
                let mut options = OpenOptions::new();
                let options = options.create(true).write(true).append(append).truncate(!append);
                let file = options.open(&path).map_err(|error| failed(&path, &error))?;
                files.files.push((path, BufWriter::with_capacity(1 << 16, file)));
            }
            files.by_host.push(at);
        }
        Ok(files)
    }
}

fn failed(path: &str, error: &std::io::Error) -> TargetError {
    TargetError::Failed(format!("{path:?} cannot be written: {error}"))
}

impl Target for Files {
    fn write(&mut self, meta: &LineMeta, line: &[u8]) -> Result<(), TargetError> {
        let at = self.by_host.get(meta.host).copied().unwrap_or(0);
        let (path, file) = &mut self.files[at];
        // A line goes to the file whole: readers that follow it never see the half of one.
        if file.buffer().len() + line.len() + 1 > file.capacity() {
            file.flush().map_err(|error| failed(path, &error))?;
        }
        file.write_all(line).and_then(|()| file.write_all(b"\n")).map_err(|error| failed(path, &error))
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        self.files.iter_mut().try_for_each(|(path, file)| file.flush().map_err(|error| failed(path, &error)))
    }
}
