//! `-w -n -p -h --bind`: the processes of a cluster, as Timely means them, checked before anything starts.
//!
//! A host file has a `HOST:PORT` a line; the first `-n` lines are used. Empty lines and lines that start with `#` are
//! skipped.

use super::options::ClusterOptions;
use crate::config::diagnostic::{Diagnostic, Diagnostics, SourceText};
use crate::config::values;
use crate::exit::{self, Failure};
use std::path::{Path, PathBuf};
use tidewatch_events::text::Shown as _;

/// Workers and processes.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// Worker threads of this process.
    #[arg(short = 'w', long, value_name = "WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,
    /// Processes of the cluster.
    #[arg(short = 'n', long, value_name = "PROCESSES", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub processes: u16,
    /// Which of the processes this is, from 0.
    #[arg(short = 'p', long, value_name = "INDEX", default_value_t = 0)]
    pub process: u16,
    /// File with one HOST:PORT a line, one for each process (also: -h FILE).
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// Listen here instead of at this process's address in the host file.
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<String>,
}

/// Timely's first port where there is no host file.
const FIRST_PORT: usize = 2101;

impl ClusterArgs {
    /// The cluster, or `None` for one process.
    pub fn check(&self) -> Result<Option<ClusterOptions>, Failure> {
        let (processes, index) = (usize::from(self.processes), usize::from(self.process));
        if index >= processes {
            let hint = "-n is the number of processes, -p is the index of this one, from 0";
            return Err(Diagnostics::from(
                Diagnostic::error(format!("process {index} of {processes}: -p is at most {}", processes - 1))
                    .hint(hint),
            )
            .into());
        }
        if let Some(bind) = self.bind.as_ref().filter(|bind| !values::is_host_port(bind, false)) {
            let problem = Diagnostic::error(format!("{bind:?} is not an address to listen on"));
            return Err(Diagnostics::from(problem.hint("write --bind 0.0.0.0:2101")).into());
        }
        let (hosts, more) = match &self.hostfile {
            Some(path) => hosts(path, processes)?,
            None => ((0..processes).map(|i| format!("localhost:{}", FIRST_PORT + i)).collect(), 0),
        };
        if processes == 1 {
            // A host file of this one process is what a cluster of one host has.
            let unused = [("-h", self.hostfile.is_some() && more > 0), ("--bind", self.bind.is_some())];
            for (flag, _) in unused.iter().filter(|(_, is_given)| *is_given) {
                let warning = Diagnostic::warning(format!("{flag} says nothing of one process, which has no peers"));
                exit::stderr(format_args!("{}", warning.hint("-n is the number of processes")));
            }
            return Ok(None);
        }
        if let Some(path) = self.hostfile.as_ref().filter(|_| more > 0) {
            let words = format!(
                "the host file {} has {} addresses, and -n says {processes} processes",
                path.shown(),
                processes + more
            );
            let warning =
                Diagnostic::warning(words).hint("the first of them are used; -n is the number of all processes");
            exit::stderr(format_args!("{warning}"));
        }
        Ok(Some(ClusterOptions { processes, index, hosts, bind: self.bind.clone() }))
    }
}

fn hosts(path: &Path, processes: usize) -> Result<(Vec<String>, usize), Failure> {
    let name = path.shown().into_owned();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let hint = "-h takes a file with one HOST:PORT a line; for help write --help";
        Diagnostics::from(Diagnostic::error(format!("the host file {name} cannot be read: {error}")).hint(hint))
    })?;
    let source = SourceText::new(name, text);
    Ok(parse_hosts(&source, processes)?)
}

/// The addresses of so many processes, and how many more lines there are.
fn parse_hosts(source: &SourceText, processes: usize) -> Result<(Vec<String>, usize), Diagnostics> {
    let mut problems = Diagnostics::default();
    let mut hosts: Vec<(&str, usize)> = Vec::new();
    let (mut at, mut more) = (0, 0);
    for (number, line) in source.text.split_inclusive('\n').enumerate() {
        let host = line.trim();
        let start = at + line.len() - line.trim_start().len();
        let place = source.place(start..start + host.len());
        at += line.len();
        if host.is_empty() || host.starts_with('#') {
            continue;
        }
        if hosts.len() == processes {
            more += 1;
            continue;
        }
        if !values::is_host_port(host, false) {
            let hint = "write HOST:PORT, as in 10.0.0.1:2101 or [2001:db8::1]:2101";
            problems.push(Diagnostic::error(format!("{host:?} is not an address")).at(place).hint(hint));
        } else if let Some((_, first)) = hosts.iter().find(|(other, _)| *other == host) {
            let hint = format!("line {} has it too; every process needs its own port", first + 1);
            problems.push(Diagnostic::error(format!("{host} is listed twice")).at(place).hint(hint));
        }
        hosts.push((host, number));
    }
    if hosts.len() < processes {
        let end = source.text.trim_end().len();
        let message = format!("-n {processes} needs {processes} addresses, the file has {}", hosts.len());
        problems
            .push(Diagnostic::error(message).at(source.place(end..end)).hint("add a HOST:PORT line for each process"));
    }
    if problems.is_empty() {
        Ok((hosts.into_iter().map(|(host, _)| host.to_owned()).collect(), more))
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_files() {
        let rows: &[(&str, &str, usize, Result<(&[&str], usize), &str>)] = &[
            ("one a line", "a:1\nb:2\n", 2, Ok((&["a:1", "b:2"], 0))),
            ("no last line end", "a:1\nb:2", 2, Ok((&["a:1", "b:2"], 0))),
            ("more than needed", "a:1\nb:2\n\n# spare\nnonsense\nc:3\n", 2, Ok((&["a:1", "b:2"], 2))),
            ("comments, empty lines, CRLF", "# hosts\r\n\r\n a:1 \r\nb:2\r\n", 2, Ok((&["a:1", "b:2"], 0))),
            ("too few", "a:1\n", 2, Err("hosts:1:4: error: -n 2 needs 2 addresses, the file has 1")),
            ("none", "", 1, Err("hosts:1:1: error: -n 1 needs 1 addresses, the file has 0")),
            ("twice", "a:1\na:1\n", 2, Err("hosts:2:1: error: a:1 is listed twice")),
            ("no port", "a:1\nb\n", 2, Err("hosts:2:1: error: \"b\" is not an address")),
            ("port 0", "a:0\n", 1, Err("hosts:1:1: error: \"a:0\" is not an address")),
        ];
        for (name, text, processes, want) in rows {
            let source = SourceText::new("hosts", *text);
            match (parse_hosts(&source, *processes), want) {
                (Ok((got, more)), Ok((want, left))) => {
                    assert_eq!(got, *want, "{name}");
                    assert_eq!(more, *left, "{name}");
                }
                (Err(got), Err(want)) => assert!(got.to_string().starts_with(want), "{name}: {got}"),
                (got, want) => panic!("{name}: {got:?} instead of {want:?}"),
            }
        }
    }
}
