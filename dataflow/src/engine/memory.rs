//! What this process takes, as the system says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Resident memory of this process, bytes; 0 where the system does not say.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// It is warned at most this often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// How many times what `memory` says a process may take unwarned: it bounds what the pipeline keeps, which is not all.
const FACTOR: u64 = 2;

/// Watches what processes take.
#[derive(Debug, Default)]
pub struct Watch {
    memory: u64,
    said: BTreeMap<usize, Instant>,
}

impl Watch {
    /// With so much as what `memory` says, bytes; 0: nothing is ever due.
    pub fn new(memory: u64) -> Watch {
        Watch { memory, said: BTreeMap::new() }
    }

    /// What `memory` says, bytes.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether it is time to warn of a process that takes so much.
    pub fn is_due(&mut self, process: usize, resident: u64, at: Instant) -> bool {
        let exceeds = self.memory > 0 && resident / FACTOR > self.memory;
        let said = self.said.get(&process);
        let is_due = exceeds && said.is_none_or(|said| at.saturating_duration_since(*said) >= SAID_EVERY);
        if is_due {
            self.said.insert(process, at);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_warned_about_beyond_twice_memory_once_a_minute() {
        let (mut watch, start) = (Watch::new(100), Instant::now());
        for (name, process, resident, seconds, is_due) in [
            ("twice", 0, 201, 0, false),
            ("more", 0, 202, 0, true),
            ("too soon", 0, 300, 59, false),
            ("another process", 1, 300, 59, true),
            ("less", 0, 100, 61, false),
            ("again", 0, 300, 62, true),
        ] {
            assert_eq!(watch.is_due(process, resident, start + Duration::from_secs(seconds)), is_due, "{name}");
        }
        assert!(!Watch::default().is_due(0, u64::MAX, start), "without a bound");
    }
}
