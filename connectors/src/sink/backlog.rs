//! What waits for a sink that is away or slow: of each point the newest version only, alerts and dead letters in order; of
//! alerts too only the newest state, where the sink has no use for the others.
//!
//! Filled by the runner whenever more than one delivery waits; emptied as deliveries of bounded size.
//!
//! Invariants
//! - A point is known by its series and time; a later version takes the place of an earlier one, and stands behind
//!   everything older than itself.
//! - A newer state of an alert stands where the older one stood.
//! - Replaced versions hold at most as much memory as those that count, plus 1 MiB.

use super::{DeadLetterRecord, Delivery, Parts};
use std::collections::HashMap;
use tidewatch_events::alert::Alert;
use tidewatch_events::hash;
use tidewatch_events::line_protocol::split_line;

/// Bytes a point costs beside its line: its entry and its place in the index.
const ENTRY_BYTES: usize = 48;

/// Replaced versions up to this many bytes are not worth moving the others for.
const SLACK_BYTES: usize = 1 << 20;

/// The bytes a delivery takes in a queue.
pub(super) fn bytes_of(delivery: &Delivery, takes: Parts) -> usize {
    let points = if takes.points { delivery.points.len() } else { 0 };
    let alerts = if takes.alerts { delivery.alerts.iter().map(alert_bytes).sum() } else { 0 };
    let letters = if takes.dead_letters { delivery.dead_letters.iter().map(letter_bytes).sum() } else { 0 };
    64 + points + delivery.for_store.len() + alerts + letters
}

/// What a delivery holds for a sink, where it holds more than that: a queue would keep what nobody counts. What is for the store
/// is little: it is no reason for a copy, and counts as long as it is held.
pub(super) fn part_of(delivery: &Delivery, takes: Parts) -> Option<Delivery> {
    let is_more = (!takes.points && !delivery.points.is_empty())
        || (!takes.alerts && !delivery.alerts.is_empty())
        || (!takes.dead_letters && !delivery.dead_letters.is_empty());
    is_more.then(|| Delivery {
        seq: delivery.seq,
        points: if takes.points { delivery.points.clone() } else { Vec::new() },
        for_store: if takes.for_store { delivery.for_store.clone() } else { Vec::new() },
        alerts: if takes.alerts { delivery.alerts.clone() } else { Vec::new() },
        dead_letters: if takes.dead_letters { delivery.dead_letters.clone() } else { Vec::new() },
    })
}

/// Whether a delivery holds nothing for a sink.
pub(super) fn is_empty_for(delivery: &Delivery, takes: Parts) -> bool {
    (!takes.points || delivery.points.is_empty())
        && (!takes.for_store || delivery.for_store.is_empty())
        && (!takes.alerts || delivery.alerts.is_empty())
        && (!takes.dead_letters || delivery.dead_letters.is_empty())
}

/// How many points, alerts and dead letters a delivery holds for a sink.
pub(super) fn contents(delivery: &Delivery, takes: Parts) -> (u64, u64, u64) {
    let lines = |is_taken: bool, of: &[u8]| if is_taken { memchr::memchr_iter(b'\n', of).count() } else { 0 };
    let points = lines(takes.points, &delivery.points) + lines(takes.for_store, &delivery.for_store);
    let alerts = if takes.alerts { delivery.alerts.len() } else { 0 };
    let letters = if takes.dead_letters { delivery.dead_letters.len() } else { 0 };
    (points as u64, alerts as u64, letters as u64)
}

fn alert_bytes(alert: &Alert) -> usize {
    let subject: usize = alert.subject.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
    let evidence: usize = alert.evidence.iter().map(|line| line.len() + 24).sum();
    size_of::<Alert>() + alert.id.len() + alert.key.len() + alert.rule.len() + subject + evidence
}

fn letter_bytes(letter: &DeadLetterRecord) -> usize {
    size_of::<DeadLetterRecord>()
        + letter.source.len()
        + letter.partition.len()
        + letter.reason.len()
        + letter.line.len()
}

#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    len: usize,
    /// Whether it is the newest version.
    counts: bool,
}

/// What waits for one sink.
#[derive(Default)]
pub(super) struct Backlog {
    lines: Vec<u8>,
    entries: Vec<Entry>,
    /// Hash of series and time → entry.
    index: HashMap<u64, usize>,
    replaced_bytes: usize,
    counting: usize,
    alerts: Vec<Alert>,
    /// Hash of an alert's id → its place.
    places: HashMap<u64, usize>,
    dead_letters: Vec<DeadLetterRecord>,
    other_bytes: usize,
    upto: u64,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.upto == 0
    }

    /// Bytes held, replaced versions included.
    pub fn bytes(&self) -> usize {
        self.lines.len() + self.entries.len() * ENTRY_BYTES + self.other_bytes
    }

    /// Takes in a delivery, newer than all before.
    pub fn absorb(&mut self, delivery: &Delivery, takes: Parts) {
        self.upto = self.upto.max(delivery.seq);
        if takes.points {
            delivery.points.split_inclusive(|b| *b == b'\n').for_each(|line| self.point(line));
        }
        if takes.for_store {
            delivery.for_store.split_inclusive(|b| *b == b'\n').for_each(|line| self.point(line));
        }
        if takes.alerts {
            delivery.alerts.iter().for_each(|alert| self.alert(alert, takes.newest_of_alerts));
        }
        if takes.dead_letters {
            self.other_bytes += delivery.dead_letters.iter().map(letter_bytes).sum::<usize>();
            self.dead_letters.extend_from_slice(&delivery.dead_letters);
        }
    }

    fn alert(&mut self, alert: &Alert, newest_only: bool) {
        self.other_bytes += alert_bytes(alert);
        if newest_only {
            let next = self.alerts.len();
            let place = *self.places.entry(hash::of(alert.id.as_bytes())).or_insert(next);
            // Two ids of one hash are told apart here; both then stay.
            if let Some(old) = self.alerts.get_mut(place).filter(|old| old.id == alert.id) {
                self.other_bytes -= alert_bytes(old);
                old.clone_from(alert);
                return;
            }
            self.other_bytes += ENTRY_BYTES;
        }
        self.alerts.push(alert.clone());
    }

    fn point(&mut self, line: &[u8]) {
        let entry = Entry { start: self.lines.len(), len: line.len(), counts: true };
        // A line of another shape is nobody's newer version; the destination will say what it thinks of it.
        if let Some(parts) = split_line(line) {
            let key = hash::seeded(parts.series, parts.time.0);
            if let Some(old) = self.index.insert(key, self.entries.len()) {
                let Entry { start, len, .. } = self.entries[old];
                // Two keys of one hash are told apart here; both lines then stay.
                let same = split_line(&self.lines[start..start + len])
                    .is_some_and(|o| o.series == parts.series && o.time == parts.time);
                if same {
                    self.entries[old].counts = false;
                    self.replaced_bytes += len + ENTRY_BYTES;
                    self.counting -= 1;
                }
            }
        }
        self.entries.push(entry);
        self.counting += 1;
        self.lines.extend_from_slice(line);
        if self.replaced_bytes > SLACK_BYTES && self.replaced_bytes > self.bytes() / 2 {
            self.compact();
        }
    }

    /// Drops replaced versions from memory.
    fn compact(&mut self) {
        let mut lines = Vec::with_capacity(self.lines.len());
        let mut kept = Vec::with_capacity(self.counting);
        self.index.clear();
        for entry in self.entries.iter().filter(|e| e.counts) {
            let line = &self.lines[entry.start..entry.start + entry.len];
            if let Some(parts) = split_line(line) {
                self.index.insert(hash::seeded(parts.series, parts.time.0), kept.len());
            }
            kept.push(Entry { start: lines.len(), ..*entry });
            lines.extend_from_slice(line);
        }
        self.lines = lines;
        self.entries = kept;
        self.replaced_bytes = 0;
    }

    /// Everything as deliveries of about `max_bytes`, oldest first; all carry the `seq` of the last delivery taken in, which
    /// is done only when the last of them is. The backlog is empty afterwards.
    pub fn take(&mut self, max_bytes: usize) -> Vec<Delivery> {
        let all = std::mem::take(self);
        let mut out = Vec::new();
        let mut next = Delivery { seq: all.upto, ..Delivery::default() };
        let mut bytes = 0;
        let mut cut = |next: &mut Delivery, more: usize| {
            if bytes > 0 && bytes + more > max_bytes {
                out.push(std::mem::replace(next, Delivery { seq: all.upto, ..Delivery::default() }));
                bytes = 0;
            }
            bytes += more;
        };
        for entry in all.entries.iter().filter(|e| e.counts) {
            cut(&mut next, entry.len);
            next.points.extend_from_slice(&all.lines[entry.start..entry.start + entry.len]);
        }
        for alert in all.alerts {
            cut(&mut next, alert_bytes(&alert));
            next.alerts.push(alert);
        }
        for letter in all.dead_letters {
            cut(&mut next, letter_bytes(&letter));
            next.dead_letters.push(letter);
        }
        out.push(next);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::alert;
    use tidewatch_events::alert::AlertState;

    fn points(seq: u64, lines: &str) -> Delivery {
        Delivery { seq, points: lines.as_bytes().to_vec(), ..Delivery::default() }
    }

    fn letter(offset: u64) -> DeadLetterRecord {
        DeadLetterRecord {
            source: "s".into(),
            partition: "p".into(),
            offset,
            reason: "format".into(),
            line: "x".repeat(100),
            ..DeadLetterRecord::default()
        }
    }

    fn taken(backlog: &mut Backlog) -> String {
        let all = backlog.take(usize::MAX);
        assert_eq!(all.len(), 1);
        String::from_utf8(all[0].points.clone()).unwrap()
    }

    #[test]
    fn only_the_newest_version_waits() {
        let rows: &[(&str, &[&str], &str)] = &[
            ("nothing", &[""], ""),
            ("another time", &["m x=1 1\n", "m x=2 2\n"], "m x=1 1\nm x=2 2\n"),
            ("another series", &["m,a=b x=1 1\n", "m,a=c x=2 1\n"], "m,a=b x=1 1\nm,a=c x=2 1\n"),
            ("a newer version", &["m x=1 1\nn x=1 1\n", "m x=2,y=1 1\n"], "n x=1 1\nm x=2,y=1 1\n"),
            ("three versions", &["m x=1 1\n", "m x=2 1\n", "m x=3 1\n"], "m x=3 1\n"),
            ("within one delivery", &["m x=1 1\nm x=2 1\n"], "m x=2 1\n"),
            ("a space in a tag", &["m,a=b\\ c x=1 1\n", "m,a=b\\ c x=2 1\n"], "m,a=b\\ c x=2 1\n"),
            ("no points", &["one\n", "one\n"], "one\none\n"),
        ];
        for (name, deliveries, want) in rows {
            let mut backlog = Backlog::default();
            for (i, lines) in deliveries.iter().enumerate() {
                backlog.absorb(&points(i as u64 + 1, lines), Parts::ALL);
            }
            assert_eq!(taken(&mut backlog), *want, "{name}");
            assert!(backlog.is_empty() && backlog.bytes() == 0, "{name}");
        }
    }

    #[test]
    fn rewriting_for_an_hour_takes_the_room_of_one_version() {
        let mut backlog = Backlog::default();
        let versions = 400;
        for version in 1..=versions {
            let lines: String = (0..200).map(|i| format!("http_stats,host=h{i} requests={version}i 1000\n")).collect();
            backlog.absorb(&points(version, &lines), Parts::ALL);
        }
        assert!(backlog.bytes() < 3 << 20, "{}", backlog.bytes());
        let left = taken(&mut backlog);
        assert_eq!(left.lines().count(), 200);
        assert!(left.lines().all(|l| l.contains(&format!("requests={versions}i"))));
    }

    #[test]
    fn the_newest_state_of_an_alert_is_enough_for_some() {
        let alerts = |of: &[(&str, f64)]| {
            let alert =
                |(client, value): &(&str, f64)| Alert { value: *value, ..alert("r", client, 0, AlertState::Firing) };
            Delivery { seq: 1, alerts: of.iter().map(alert).collect(), ..Delivery::default() }
        };
        let newest = Parts { newest_of_alerts: true, ..Parts::ALL };
        for (takes, want) in [(Parts::ALL, "a1 b2 a3 c4 a5 b6"), (newest, "a5 b6 c4")] {
            let mut backlog = Backlog::default();
            backlog.absorb(&alerts(&[("a", 1.0), ("b", 2.0), ("a", 3.0)]), takes);
            backlog.absorb(&alerts(&[("c", 4.0), ("a", 5.0), ("b", 6.0)]), takes);
            let bytes = backlog.bytes();
            let left = backlog.take(usize::MAX).remove(0);
            let said: Vec<String> =
                left.alerts.iter().map(|alert| format!("{}{}", alert.subject["client_ip"], alert.value)).collect();
            assert_eq!(said.join(" "), want);
            let each = ENTRY_BYTES * usize::from(takes.newest_of_alerts);
            assert_eq!(bytes, left.alerts.iter().map(|alert| alert_bytes(alert) + each).sum::<usize>());
        }
    }

    #[test]
    fn it_leaves_in_pieces_of_bounded_size() {
        let mut backlog = Backlog::default();
        let mut delivery = points(7, &"m x=1 ".repeat(0));
        (0..100).for_each(|t| delivery.points.extend_from_slice(format!("m x=1 {t:03}\n").as_bytes()));
        delivery.dead_letters = (0..10).map(letter).collect();
        backlog.absorb(&delivery, Parts::ALL);
        let pieces = backlog.take(250);
        assert!(pieces.iter().all(|p| p.seq == 7 && p.points.len() <= 250));
        assert_eq!(pieces.iter().map(|p| p.points.len()).sum::<usize>(), delivery.points.len());
        let offsets: Vec<u64> = pieces.iter().flat_map(|p| p.dead_letters.iter().map(|l| l.offset)).collect();
        assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn parts_without_use_take_no_room() {
        let mut delivery = points(1, "m x=1 1\n");
        delivery.dead_letters = vec![letter(1)];
        let only_letters = Parts { points: false, alerts: false, ..Parts::ALL };
        let mut backlog = Backlog::default();
        backlog.absorb(&delivery, only_letters);
        assert!(taken(&mut backlog).is_empty());
        let only_points = Parts { dead_letters: false, ..Parts::ALL };
        assert_eq!(bytes_of(&delivery, only_points), 64 + 8);
        assert!(!is_empty_for(&delivery, only_points));
        assert!(is_empty_for(&Delivery { points: Vec::new(), ..delivery }, only_points));
    }

    #[test]
    fn what_is_for_the_store_goes_to_nobody_else() {
        let store = Parts { for_store: true, ..Parts::ALL };
        let delivery = |n: u64| {
            let for_store = format!("b x={n} 1\n").into_bytes();
            Delivery { for_store, ..points(n, &format!("m x={n} 1\n")) }
        };
        for (takes, want, lines) in [(store, "m x=2 1\nb x=2 1\n", 2), (Parts::ALL, "m x=2 1\n", 1)] {
            let mut backlog = Backlog::default();
            (1..3).for_each(|n| backlog.absorb(&delivery(n), takes));
            assert_eq!(taken(&mut backlog), want);
            assert_eq!(contents(&delivery(1), takes).0, lines);
        }
        let alone = Delivery { points: Vec::new(), ..delivery(1) };
        assert!(is_empty_for(&alone, Parts::ALL) && !is_empty_for(&alone, store));
    }
}
