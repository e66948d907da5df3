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
                // Appended to: what others write there is not written over, and the file may be truncated meanwhile.
                let emptied = if append { Ok(()) } else { File::create(&path).map(drop) };
                let file = emptied.and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
                let file = file.map_err(|error| failed(&path, &error))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_to_the_file_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.log");
        let name = dir.path().join("{host}.log").display().to_string();
        std::fs::write(&path, "before\n").unwrap();
        for (append, begin) in [(true, "before\n"), (false, "")] {
            let meta = LineMeta { time_ms: 0, host: 0, partition: 0, client: None, attack: None };
            let mut files = Files::open(&name, &["web1".into()], append).unwrap();
            let mut line = |text: &str| {
                files.write(&meta, text.as_bytes()).unwrap();
                files.flush().unwrap();
            };
            line("one");
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"another's\n").unwrap();
            line("two");
            let want = format!("{begin}one\nanother's\ntwo\n");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), want, "append: {append}");
            // As copytruncate does it.
            File::create(&path).unwrap();
            line("three");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n", "append: {append}");
        }
    }
}
