//! A file of addresses to block, for a web server or a packet filter to read.
//!
//! The client of an alert is listed when it fires and for some time after the last that was heard of it; where the last alert
//! that lists it is withdrawn, it is taken off at once. The file is written whole beside the old one and renamed over it, when what it says has changed.
//! The entries stand in a file of Tidewatch's own too, so that a restart forgets none.
//!
//! Invariants
//! - Addresses that are never to be blocked are not, however an alert names them: a network that holds one is not listed either.
//! - Private, loopback, link-local and unspecified addresses are listed only where that was asked for.
//! - What is written is made of parsed addresses: no text of a log is in it.
//! - It has at most so many entries; beyond, the ones that would go first anyway make room, and that is said.

use super::{Body, Channel, Message, SendError, What};
use crate::durable::{self, Readers};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tidewatch_events::alert::Alert;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

/// How the file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A network a line.
    #[default]
    Plain,
    /// `deny …;` to include in Nginx's configuration.
    Nginx,
    /// `Require not ip …` to include in Apache's, within `<RequireAll>`.
    Apache,
    /// For `ipset restore`: sets `tidewatch4` and `tidewatch6`.
    Ipset,
    /// For `nft -f`: sets `blocked4` and `blocked6` of the table `inet tidewatch`.
    Nftables,
}

/// What is blocked, and how that is written.
#[derive(Clone, Debug)]
pub struct BlocklistSettings {
    /// The file.
    pub path: PathBuf,
    /// Its form.
    pub form: Form,
    /// How long an address stays after the last that was heard of it, ms.
    pub expire: u64,
    /// Most entries.
    pub max_entries: usize,
    /// Whether private and loopback addresses may be listed.
    pub private: bool,
    /// Never blocked, up to a time of the wall clock (ms) where there is one.
    pub never: Vec<(IpNet, Option<u64>)>,
    /// Where the entries are kept.
    pub state: PathBuf,
}

/// So many alerts of an address are remembered; a client that can make more keys of its own stays listed by the last ones.
const MOST_ALERTS: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    network: IpNet,
    /// When it goes, ms of the wall clock.
    until: u64,
    /// The alerts that list it, by key, and until when each does: one that is withdrawn takes back its own word only.
    #[serde(default)]
    alerts: BTreeMap<String, u64>,
}

impl Entry {
    fn list(&mut self, key: &str, until: u64) {
        self.until = self.until.max(until);
        self.alerts.insert(key.to_owned(), until);
        if self.alerts.len() > MOST_ALERTS
            && let Some(first) = self.alerts.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone())
        {
            self.alerts.remove(&first);
        }
    }
}

/// The addresses that are listed, and their file.
pub struct Blocklist {
    settings: BlocklistSettings,
    entries: BTreeMap<IpNet, Entry>,
    /// What the file says.
    written: Option<Vec<IpNet>>,
    /// What the file of Tidewatch's own says.
    kept: Option<Vec<u8>>,
    loaded: bool,
    remarks: Vec<String>,
    /// Alerts whose client was kept off, by why; said once each.
    said: std::collections::BTreeSet<&'static str>,
}

/// The network of an alert's client, where it has one.
fn client(alert: &Alert) -> Option<IpNet> {
    let text = alert.subject.get("client_ip")?;
    let network: IpNet = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(network.trunc())
}

/// Whether an address is private, loopback, link-local or unspecified: of nobody on the internet.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64; // behind a carrier's translation
            let is_local = v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared;
            is_local || v4.is_unspecified() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || (v6.segments()[0] & 0xfe00) == 0xfc00
                || (v6.segments()[0] & 0xffc0) == 0xfe80
                || v6.to_ipv4_mapped().is_some_and(|v4| is_private(IpAddr::V4(v4)))
        }
    }
}

/// Whether an address is nobody's, or anybody's: multicast, and the prefix by which NAT64 translates (RFC 6052).
fn is_nobody(address: IpAddr) -> bool {
    let is_translated = |v6: std::net::Ipv6Addr| v6.segments()[..4] == [0x64, 0xff9b, 0, 0];
    address.is_multicast() || matches!(address, IpAddr::V6(v6) if is_translated(v6))
}

/// Why an address is not listed, where it is not.
fn kept_off(network: &IpNet, settings: &BlocklistSettings, now: u64) -> Option<&'static str> {
    let holds = settings.never.iter().filter(|(_, until)| until.is_none_or(|until| now < until));
    if holds.into_iter().any(|(never, _)| never.contains(network) || network.contains(never)) {
        return Some("it is in an allow list or a trusted proxy");
    }
    if !settings.private && (is_private(network.network()) || is_private(network.broadcast())) {
        return Some("it is a private or loopback address (private = true lists those too)");
    }
    if is_nobody(network.network()) || is_nobody(network.broadcast()) {
        return Some("it is a multicast address, or stands for everybody behind a NAT64");
    }
    // Of IPv4 a single address, as clients are counted; of IPv6 no larger network than anybody is given.
    (network.prefix_len() < 32).then_some("it is a network of many clients")
}

impl Blocklist {
    /// A list; nothing is read or written yet.
    pub fn new(settings: BlocklistSettings) -> Blocklist {
        Blocklist {
            settings,
            entries: BTreeMap::new(),
            written: None,
            kept: None,
            loaded: false,
            remarks: Vec::new(),
            said: Default::default(),
        }
    }

    fn load(&mut self, now: u64) {
        if std::mem::replace(&mut self.loaded, true) {
            return;
        }
        let entries = match fs::read(&self.settings.state) {
            Ok(bytes) => serde_json::from_slice::<Vec<Entry>>(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(serde_json::Error::io(error)),
        };
        match entries {
            Ok(entries) => {
                let settings = &self.settings;
                let still = entries.into_iter().filter(|e| kept_off(&e.network, settings, now).is_none());
                self.entries = still.map(|entry| (entry.network, entry)).collect();
            }
            Err(error) => self.remarks.push(format!(
                "{} cannot be read ({error}): what was blocked before is forgotten",
                self.settings.state.shown()
            )),
        }
    }

    /// Takes an alert into the list.
    fn take(&mut self, what: What, alert: &Alert, now: u64) {
        let Some(network) = client(alert) else {
            if self.said.insert("none") {
                self.remarks.push(format!("alerts of {} name no client address: nothing is blocked", alert.rule));
            }
            return;
        };
        if what == What::Withdrawn {
            if let Some(entry) = self.entries.get_mut(&network)
                && entry.alerts.remove(&alert.key).is_some()
            {
                // Another rule, or another key of the same, may have listed it too.
                entry.until = entry.alerts.values().copied().max().unwrap_or(0);
            }
            return;
        }
        if let Some(why) = kept_off(&network, &self.settings, now) {
            if self.said.insert(why) {
                self.remarks.push(format!("{network} is not blocked: {why}; more of these are not reported"));
            }
            return;
        }
        let until = now + self.settings.expire;
        let entry = self.entries.entry(network).or_insert_with(|| Entry { network, until, alerts: BTreeMap::new() });
        entry.list(&alert.key, until);
    }

    /// Removes what is over and what finds no room.
    fn tidy(&mut self, now: u64) {
        let settings = &self.settings;
        self.entries.retain(|_, entry| entry.until > now && kept_off(&entry.network, settings, now).is_none());
        let most = self.settings.max_entries;
        if self.entries.len() > most {
            let mut order: Vec<(u64, IpNet)> = self.entries.values().map(|e| (e.until, e.network)).collect();
            order.sort();
            let over = self.entries.len() - most;
            order.iter().take(over).for_each(|(_, network)| drop(self.entries.remove(network)));
            if self.said.insert("full") {
                self.remarks.push(format!(
                    "the list is full ({most}): the addresses nearest to their end make room from now on"
                ));
            }
        }
    }

    /// The networks, none within another, with when they go: an address within a listed network would be an error for some
    /// readers.
    fn apart(&self) -> Vec<(IpNet, u64)> {
        let mut order: Vec<&Entry> = self.entries.values().collect();
        order.sort_by_key(|entry| (entry.network.network(), entry.network.prefix_len()));
        let mut apart: Vec<(IpNet, u64)> = Vec::new();
        for entry in order {
            match apart.last_mut().filter(|(last, _)| last.contains(&entry.network)) {
                Some((_, until)) => *until = entry.until.max(*until),
                None => apart.push((entry.network, entry.until)),
            }
        }
        apart
    }

    /// The file's lines below its head.
    fn body(&self, now: u64) -> String {
        let networks = self.apart();
        let left = |until: u64| (until.saturating_sub(now) / 1000).max(1);
        let (v4, v6): (Vec<_>, Vec<_>) = networks.iter().partition(|(network, _)| matches!(network, IpNet::V4(_)));
        let mut out = String::new();
        let (before, after) = match self.settings.form {
            Form::Nginx => ("deny ", ";"),
            Form::Apache => ("Require not ip ", ""),
            _ => ("", ""),
        };
        match self.settings.form {
            Form::Plain | Form::Nginx | Form::Apache => {
                for (network, _) in &networks {
                    let _ = writeln!(out, "{before}{}{after}", short(network));
                }
            }
            Form::Ipset => {
                let size = self.settings.max_entries.next_power_of_two().max(1024);
                for (set, family, all) in [("tidewatch4", "inet", &v4), ("tidewatch6", "inet6", &v6)] {
                    let _ = writeln!(out, "create {set} hash:net family {family} maxelem {size} timeout 0 -exist");
                    let _ = writeln!(out, "flush {set}");
                    for (network, until) in all {
                        let timeout = left(*until).min(2_147_483);
                        let _ = writeln!(out, "add {set} {} timeout {timeout} -exist", short(network));
                    }
                }
            }
            Form::Nftables => {
                let _ = writeln!(out, "add table inet tidewatch");
                for (set, kind, all) in [("blocked4", "ipv4_addr", &v4), ("blocked6", "ipv6_addr", &v6)] {
                    let _ = writeln!(out, "add set inet tidewatch {set} {{ type {kind}; flags interval, timeout; }}");
                    let _ = writeln!(out, "flush set inet tidewatch {set}");
                    if all.is_empty() {
                        continue;
                    }
                    let element =
                        |(network, until): &(IpNet, u64)| format!("{} timeout {}s", short(network), left(*until));
                    let elements: Vec<String> = all.iter().map(element).collect();
                    let _ = writeln!(out, "add element inet tidewatch {set} {{\n  {}\n}}", elements.join(",\n  "));
                }
            }
        }
        out
    }

    /// Writes both files where they do not say what is to be said.
    fn write(&mut self, now: u64) -> Result<(), SendError> {
        self.tidy(now);
        let failed = |path: &Path, error: io::Error| SendError::away(format!("cannot write {}: {error}", path.shown()));
        let entries: Vec<&Entry> = self.entries.values().collect();
        let state = serde_json::to_vec(&entries).map_err(|error| SendError::Rejected(error.to_string()))?;
        let is_same = self.kept.as_ref() == Some(&state);
        if !is_same {
            replace(&self.settings.state, &state, Readers::Owner)
                .map_err(|error| failed(&self.settings.state, error))?;
            self.kept = Some(state);
        }
        // Timeouts in it change all the time; they are written anew with their entries.
        let has_times = matches!(self.settings.form, Form::Ipset | Form::Nftables);
        let networks: Vec<IpNet> = self.entries.keys().copied().collect();
        let is_same = self.written.as_ref() == Some(&networks) && (is_same || !has_times);
        if is_same && self.settings.path.exists() {
            return Ok(());
        }
        let text = format!(
            "{HEAD} at {}: {} addresses. Changes are lost.\n{}",
            EventTime(now),
            self.entries.len(),
            self.body(now)
        );
        may_replace(&self.settings.path).map_err(SendError::person)?;
        replace(&self.settings.path, text.as_bytes(), Readers::All)
            .map_err(|error| failed(&self.settings.path, error))?;
        self.written = Some(networks);
        Ok(())
    }
}

/// A single address without its prefix length.
fn short(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

/// How a list begins.
const HEAD: &str = "# Written by Tidewatch";

/// Whether the file may be replaced: it is not there, or is an earlier list. What somebody else wrote is left alone.
///
/// # Errors
/// Why it may not, for a person.
pub fn may_replace(path: &Path) -> Result<(), String> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.shown();
    if !found.is_file() {
        return Err(format!("{shown} is no regular file: name another `path`"));
    }
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(HEAD.len() as u64).read_to_end(&mut head));
    match read {
        Ok(_) if head.is_empty() || head == HEAD.as_bytes() => Ok(()),
        Ok(_) => Err(format!(
            "{shown} was not written by Tidewatch and is not overwritten: name another `path`, or remove it"
        )),
        Err(error) => Err(format!("cannot read {shown}: {error}")),
    }
}

/// Puts a file in the place of the old one, and makes its directory where there is none.
pub(super) fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir)?;
    }
    durable::replace(path, bytes, readers)
}

impl Channel for Blocklist {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let now = crate::source::wall_clock().0;
        self.load(now);
        match &message.body {
            Body::Alerts(notice) => notice.items.iter().for_each(|item| self.take(item.what, &item.alert, now)),
            Body::Document(_) => return Err(SendError::Rejected("a list of addresses takes no reports".into())),
            // A list with a made-up address in it would block somebody.
            Body::Test => {}
        }
        self.write(now)
    }

    fn probe(&mut self) -> Result<String, SendError> {
        may_replace(&self.settings.path).map_err(SendError::person)?;
        let dir = self.settings.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        super::lines::may_make_in(dir)
            .map_err(|error| SendError::person(format!("cannot write in {}: {error}", dir.shown())))?;
        Ok(format!("{} can be written", self.settings.path.shown()))
    }

    fn tested(&self) -> String {
        let path = self.settings.path.shown();
        format!(
            "no test was sent, as a made-up address in the list would block somebody; {path} was written as it stands"
        )
    }

    fn tend(&mut self, now: u64) -> Option<u64> {
        self.load(now);
        let again = match self.write(now) {
            Ok(()) => self.entries.values().map(|entry| entry.until).min().unwrap_or(u64::MAX),
            Err(error) => {
                self.remarks.push(error.to_string());
                now + 30_000
            }
        };
        Some(again.clamp(now + 1000, now + 60_000))
    }

    fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }
}

#[cfg(test)]
#[path = "blocklist_tests.rs"]
mod tests;
