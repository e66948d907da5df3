//! Which alerts a file of alerts leaves firing: by the last line of each.

use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom};
use std::path::Path;
use tidewatch_events::alert::{Alert, AlertState};

/// What is needed of an alert's line.
#[derive(Deserialize)]
struct Standing<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    state: AlertState,
}

/// Start and length of the last line of each alert that is firing by it, in their order; and how many lines are no alerts.
/// A line that the end of the file cuts off is one of them.
pub(super) fn places(lines: &mut impl BufRead) -> io::Result<(Vec<(u64, u64)>, usize)> {
    let mut open: HashMap<String, (u64, u64)> = HashMap::new();
    let (mut line, mut at, mut others) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(Standing { id, state: AlertState::Firing }) => _ = open.insert(id.into_owned(), (at, length)),
            Ok(Standing { id, .. }) => _ = open.remove(&*id),
            Err(_) => others += 1,
        }
        at += length;
    }
    let mut places: Vec<(u64, u64)> = open.into_values().collect();
    places.sort_unstable();
    Ok((places, others))
}

/// Alerts that `alerts.jsonl` leaves firing, and how many of its lines are none. The whole file is read: where it was begun
/// anew it begins with the alerts that were open then.
///
/// # Errors
/// Where the file cannot be read; a file that is not there leaves none.
pub fn read(path: &Path) -> io::Result<(Vec<Alert>, usize)> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        opened => opened?,
    };
    let mut lines = BufReader::with_capacity(256 << 10, file);
    let (places, mut others) = places(&mut lines)?;
    let (mut alerts, mut line) = (Vec::with_capacity(places.len()), Vec::new());
    for (at, length) in places {
        line.clear();
        lines.seek(SeekFrom::Start(at))?;
        lines.by_ref().take(length).read_to_end(&mut line)?;
        match serde_json::from_slice(&line) {
            Ok(alert) => alerts.push(alert),
            Err(_) => others += 1,
        }
    }
    Ok((alerts, others))
}
