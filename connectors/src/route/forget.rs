//! Erases a client from the journals of routes, and from mails that some receivers are still to get, as [`masking`] does.
//!
//! What a process that writes them holds in memory stays there, and comes back when it writes the file anew.

use crate::erase::masking;
use crate::erase::whom::Whom;
use std::fs;
use std::io;
use std::path::Path;

/// Masks a client in the journals of a directory; how many times it stood there. No directory holds none.
///
/// # Errors
/// Where a journal cannot be read or written; what was masked until then stays masked.
pub fn forget(dir: &Path, whom: &Whom) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut masked = 0;
    for entry in entries {
        let path = entry?.path();
        // A `.tmp` is one that was not finished.
        let kinds = ["journal", "late", "tmp"];
        let is_journal = path.extension().is_some_and(|extension| kinds.iter().any(|kind| extension == *kind));
        if is_journal && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            masked += masking::mask(&path, whom)?;
        }
    }
    Ok(masked)
}

#[cfg(test)]
mod tests {
    use super::super::journal::Journal;
    use super::super::policy::Policy;
    use super::super::router::{Next, Router};
    use super::super::testing::alert;
    use super::*;
    use tidewatch_events::alert::AlertState;

    #[test]
    fn a_journal_that_was_masked_is_still_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.journal");
        let mut router = Router::new(Policy { group_wait: 60_000, ..Policy::people() }, "b".into());
        let mut journal = Journal::open(&path, &mut router, 0).unwrap();
        for client in ["203.0.113.7", "203.0.113.77", "2001:db8::/64"] {
            router.take(&alert("ip-spike", client, 0, AlertState::Firing), 0);
        }
        journal.before(router.to_record(), None).unwrap();
        let length = fs::metadata(&path).unwrap().len();
        let gone = Whom::from(&["203.0.113.7", "2001:db8::7"].map(|ip| ip.parse().unwrap())[..]);
        // Id, key and subject of each.
        assert_eq!(forget(dir.path(), &gone).unwrap(), 6);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len() as u64, length);
        assert!(
            !text.contains("203.0.113.7\"") && !text.contains("2001:db8") && text.contains("203.0.113.77"),
            "{text}"
        );
        assert_eq!(forget(dir.path(), &gone).unwrap(), 0);
        // The process that has it open writes on.
        router.take(&alert("ip-spike", "203.0.113.8", 0, AlertState::Firing), 0);
        journal.before(router.to_record(), None).unwrap();
        let mut again = Router::new(Policy::people(), "c".into());
        let read = Journal::open(&path, &mut again, 1).unwrap();
        assert_eq!((read.skipped, again.counts().pending), (0, 4));
        let Next::Send(intent) = again.next(1_000_000) else { panic!("nothing waits") };
        let said = serde_json::to_string(&intent.message).unwrap();
        assert!(said.contains("\"***********\"") && !said.contains("203.0.113.7\""), "{said}");
        assert_eq!(forget(&dir.path().join("gone"), &gone).unwrap(), 0);
        fs::write(dir.path().join("mail.late"), "{\"client_ip\":\"203.0.113.7\"}\n").unwrap();
        assert_eq!(forget(dir.path(), &gone).unwrap(), 1);
    }
}
