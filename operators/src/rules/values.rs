//! What is measured, column by column: beside each row of a table or message stands its part of the measure.
//!
//! Three forms: [`LocalValues`] while a worker counts, [`Values`] in a message, and what `panes` keeps.

use super::partials::Place;
use super::table::{Least, Partitions, Table};
use crate::lanes::{LANES, bits};
use crate::prefetch::prefetch;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use std::hint::select_unpredictable;
use std::net::{IpAddr, Ipv4Addr};
use tidewatch_events::batch::Batch;
use tidewatch_events::event::Event;
use tidewatch_events::field::{Field, Value};
use tidewatch_events::filter::Filter;
use tidewatch_events::histogram::Histogram;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};
use tidewatch_events::rule::Measure;
use tidewatch_events::{hash, key};

/// A sum of whole numbers (durations in µs) and how many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The sum.
    pub total: u128,
    /// Events that carried the field.
    pub events: u64,
}

/// The measure's parts of a message's rows, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Values {
    /// Nothing beside the number of events.
    Count,
    /// Sums and averages.
    Sums(Vec<Sum>),
    /// Hashes of values: row `i` has `hashes[ends[i - 1]..ends[i]]`, ascending.
    Distinct {
        /// Where each row's hashes end.
        ends: Vec<u32>,
        /// The hashes.
        hashes: Vec<u64>,
    },
    /// Distributions.
    Histograms(Vec<Histogram>),
    /// Events that also match a ratio's inner filter.
    Inner(Vec<u64>),
}

impl Values {
    /// Empty, in the form of a measure.
    pub(super) fn of(measure: &Measure) -> Values {
        match measure {
            Measure::Count | Measure::DarkPaths { .. } => Values::Count,
            Measure::Sum(_) | Measure::Avg(_) => Values::Sums(Vec::new()),
            Measure::Distinct(_) => Values::Distinct { ends: Vec::new(), hashes: Vec::new() },
            Measure::Quantile(..) => Values::Histograms(Vec::new()),
            Measure::Ratio(_) => Values::Inner(Vec::new()),
        }
    }

    /// The distinct values of a row.
    pub(super) fn hashes(&self, row: usize) -> &[u64] {
        match self {
            Values::Distinct { ends, hashes } => {
                let start = row.checked_sub(1).map_or(0, |before| ends[before] as usize);
                &hashes[start..ends[row] as usize]
            }
            _ => &[],
        }
    }
}

/// How an event adds to its row.
pub(super) enum Recorder {
    Count,
    Number(Field),
    Histogram(Field),
    Distinct(Field),
    Inner(Filter),
}

impl Recorder {
    pub(super) fn of(measure: &Measure) -> Recorder {
        match measure {
            Measure::Count | Measure::DarkPaths { .. } => Recorder::Count,
            Measure::Sum(field) | Measure::Avg(field) => Recorder::Number(*field),
            Measure::Distinct(field) => Recorder::Distinct(*field),
            Measure::Quantile(field, _) => Recorder::Histogram(*field),
            Measure::Ratio(inner) => Recorder::Inner(inner.clone()),
        }
    }
}

/// The measure's parts of a local table's rows, by row number.
pub(super) enum LocalValues {
    Count,
    Sums(Vec<Sum>),
    Distinct(LocalDistinct),
    Histograms(Vec<Histogram>),
    Inner(Vec<Inner>),
}

/// The events of a row that also match a ratio's inner filter.
#[derive(Clone, Copy)]
pub(super) struct Inner {
    pub(super) n: u64,
    /// The least of them; means nothing where there is none.
    least: Least,
}

impl Inner {
    const NONE: Inner = Inner { n: 0, least: Least { offset: 0, place: Place::ZERO } };

    /// Adds others, of which this is the least.
    #[inline]
    fn add(&mut self, n: u64, least: Least, partitions: &Partitions) {
        if self.n == 0 {
            self.least = least;
        } else {
            self.least.see(least, partitions);
        }
        self.n += n;
    }
}

/// The values of a table that another takes in.
pub(super) struct Taken<'a> {
    pub(super) values: &'a LocalValues,
    /// See [`LocalDistinct::others`]: those of rows that were not taken in yet.
    pub(super) others: &'a [(u32, u64)],
    /// How much later than the other's its pane starts, ms.
    pub(super) later: u64,
    pub(super) partitions: &'a Partitions,
}

/// Hashes of different values, row by row. Nothing is allocated per row.
#[derive(Default)]
pub(super) struct LocalDistinct {
    /// The first value of each row, in place; 0 where there is none. Most rows have no other.
    first: Vec<u64>,
    /// (row, value): all others, and a value that happens to be 0.
    more: HashTable<(u32, u64)>,
    /// Values in all.
    len: usize,
}

impl LocalDistinct {
    /// How many values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a value to a row; true where it is new.
    #[inline]
    fn insert(&mut self, row: u32, value: u64) -> bool {
        let first = &mut self.first[row as usize];
        // Half of all rows are new: a branch on that would be guessed wrong.
        let is_first = *first == 0;
        *first = select_unpredictable(is_first, value, *first);
        if *first == value && value != 0 {
            self.len += usize::from(is_first);
            return is_first;
        }
        let found = self.more.entry(value ^ spread(row), |e| *e == (row, value), |e| e.1 ^ spread(e.0));
        let hashbrown::hash_table::Entry::Vacant(vacant) = found else { return false };
        vacant.insert((row, value));
        self.len += 1;
        true
    }

    /// All values but the rows' first, ascending by row and value.
    pub(super) fn others(&mut self) -> Vec<(u32, u64)> {
        let mut others: Vec<(u32, u64)> = self.more.drain().collect();
        others.sort_unstable();
        others
    }

    /// Appends the values of a row, ascending. Asked of all rows in their order; `others` is what [`LocalDistinct::others`]
    /// gave, of which those of the row are taken.
    #[inline]
    pub(super) fn values_of(&self, row: u32, others: &mut &[(u32, u64)], out: &mut Vec<u64>) {
        let from = out.len();
        if self.first[row as usize] != 0 {
            out.push(self.first[row as usize]);
        }
        while let Some(((_, value), rest)) = others.split_first().filter(|((of, _), _)| *of == row) {
            out.push(*value);
            *others = rest;
        }
        if out.len() > from + 1 {
            out[from..].sort_unstable();
        }
    }

    fn clear(&mut self) {
        self.first.clear();
        self.more.clear();
        self.len = 0;
    }
}

impl LocalValues {
    pub(super) fn of(recorder: &Recorder) -> LocalValues {
        match recorder {
            Recorder::Count => LocalValues::Count,
            Recorder::Number(_) => LocalValues::Sums(Vec::new()),
            Recorder::Distinct(_) => LocalValues::Distinct(LocalDistinct::default()),
            Recorder::Histogram(_) => LocalValues::Histograms(Vec::new()),
            Recorder::Inner(_) => LocalValues::Inner(Vec::new()),
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            LocalValues::Count => {}
            LocalValues::Sums(all) => all.clear(),
            LocalValues::Distinct(all) => all.clear(),
            LocalValues::Histograms(all) => all.clear(),
            LocalValues::Inner(all) => all.clear(),
        }
    }

    /// See [`LocalDistinct::others`]; nothing where other things are measured.
    pub(super) fn others(&mut self) -> Vec<(u32, u64)> {
        match self {
            LocalValues::Distinct(all) => all.others(),
            _ => Vec::new(),
        }
    }

    /// The event that a message shows of a row, where it is another than the least of all: of a ratio, the least that its
    /// inner filter matches.
    #[inline]
    pub(super) fn least(&self, message: &Values, row: usize) -> Option<Least> {
        match (self, message) {
            (LocalValues::Inner(all), Values::Inner(_)) => Some(all[row]).filter(|inner| inner.n > 0).map(|i| i.least),
            _ => None,
        }
    }

    /// Adds another's part to the part of a row; the other's rows come in their order. `scratch` is room for values.
    #[inline]
    pub(super) fn add(&mut self, row: u32, taken: &mut Taken<'_>, from: u32, scratch: &mut Vec<u64>) {
        let (own, at) = (row as usize, from as usize);
        match (self, taken.values) {
            (LocalValues::Sums(own_sums), LocalValues::Sums(sums)) => {
                own_sums[own].total += sums[at].total;
                own_sums[own].events += sums[at].events;
            }
            (LocalValues::Histograms(all), LocalValues::Histograms(more)) => all[own].merge(&more[at]),
            (LocalValues::Inner(all), LocalValues::Inner(more)) => {
                let Inner { n, least } = more[at];
                if n > 0 {
                    all[own].add(n, least.later(taken.later), taken.partitions);
                }
            }
            (LocalValues::Distinct(all), LocalValues::Distinct(more)) => {
                scratch.clear();
                more.values_of(from, &mut taken.others, scratch);
                scratch.iter().for_each(|value| {
                    all.insert(row, *value);
                });
            }
            _ => {}
        }
    }

    /// Makes room for the parts of so many rows, and some more.
    #[inline]
    pub(super) fn make_room(&mut self, rows: usize) {
        let room = match self {
            LocalValues::Count => return,
            LocalValues::Sums(all) => all.len(),
            LocalValues::Distinct(all) => all.first.len(),
            LocalValues::Histograms(all) => all.len(),
            LocalValues::Inner(all) => all.len(),
        };
        if room < rows {
            self.grow(rows + rows / 4);
        }
    }

    #[cold]
    fn grow(&mut self, rows: usize) {
        match self {
            LocalValues::Count => {}
            LocalValues::Sums(all) => all.resize(rows, Sum::default()),
            LocalValues::Distinct(all) => all.first.resize(rows, 0),
            LocalValues::Histograms(all) => all.resize_with(rows, Histogram::new),
            LocalValues::Inner(all) => all.resize(rows, Inner::NONE),
        }
    }

    /// Asks for the part of a row, where that costs less than it gains.
    #[inline]
    pub(super) fn prefetch(&self, row: usize) {
        if let LocalValues::Distinct(all) = self {
            prefetch(&all.first, row);
        }
    }

    fn sums(&mut self) -> &mut [Sum] {
        if let LocalValues::Sums(all) = self { all } else { &mut [] }
    }

    fn histograms(&mut self) -> &mut [Histogram] {
        if let LocalValues::Histograms(all) = self { all } else { &mut [] }
    }

    #[inline]
    fn inner(&mut self) -> &mut [Inner] {
        if let LocalValues::Inner(all) = self { all } else { &mut [] }
    }
}

/// Events that were counted.
pub(super) struct Observed<'a> {
    pub(super) batch: &'a Batch,
    pub(super) events: &'a [Event],
    /// Which of them.
    pub(super) mask: u32,
    /// Positions of their tables, whose values are what the recorder records, and their rows there.
    pub(super) at: &'a [u32; LANES],
    pub(super) rows: &'a [u32; LANES],
    /// Their partition.
    pub(super) partition: usize,
    pub(super) partitions: &'a Partitions,
}

impl Recorder {
    /// Adds events to their rows.
    #[inline]
    pub(super) fn record(&self, observed: &Observed<'_>, tables: &mut [Table], scratch: &mut Scratch) {
        let Observed { batch, events, mask, at, rows, partition, partitions } = *observed;
        let place = |lane: usize| (at[lane] as usize, rows[lane] as usize);
        match self {
            Recorder::Count => {}
            Recorder::Number(field) => {
                for lane in bits(mask) {
                    let (table, row) = place(lane);
                    if let Value::Number(n) = field.value(batch, &events[lane]) {
                        let sum = &mut tables[table].values.sums()[row];
                        sum.total += u128::from(n);
                        sum.events += 1;
                    }
                }
            }
            Recorder::Histogram(field) => {
                for lane in bits(mask) {
                    let (table, row) = place(lane);
                    if let Value::Number(n) = field.value(batch, &events[lane]) {
                        tables[table].values.histograms()[row].record(n);
                    }
                }
            }
            Recorder::Inner(filter) => {
                for lane in bits(mask) {
                    let (table, row) = place(lane);
                    if filter.matches(batch, &events[lane]) {
                        let least = tables[table].least(&events[lane], partition);
                        tables[table].values.inner()[row].add(1, least, partitions);
                    }
                }
            }
            Recorder::Distinct(field) => {
                for lane in bits(mask) {
                    let (table, row) = place(lane);
                    if let LocalValues::Distinct(all) = &mut tables[table].values
                        && let Some(value) = scratch.hash_of(*field, batch, &events[lane])
                    {
                        all.insert(row as u32, value);
                    }
                }
            }
        }
    }
}

/// A row's number spread over 64 bits, to be mixed with a value's hash.
#[inline]
fn spread(row: u32) -> u64 {
    u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Room to put a value's bytes together.
pub(super) struct Scratch {
    pub(super) ipv6_prefix: u8,
    pub(super) privacy: Privacy,
    /// The last address that was masked, and what is shown of it.
    shown: (IpAddr, IpAddr),
    /// The last number that was hashed, and its hash: ports hardly change.
    number: Option<(u64, u64)>,
    bytes: Vec<u8>,
    template: String,
}

impl Scratch {
    pub(super) fn new(ipv6_prefix: u8, privacy: Privacy) -> Scratch {
        let nobody = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let shown = (nobody, privacy.client_ip(nobody));
        Scratch { ipv6_prefix, privacy, shown, number: None, bytes: Vec::new(), template: String::new() }
    }

    #[inline]
    fn shown(&mut self, ip: IpAddr) -> IpAddr {
        if self.privacy.client == ClientPrivacy::Full {
            return ip;
        }
        if self.shown.0 != ip {
            self.shown = (ip, self.privacy.client_ip(ip));
        }
        self.shown.1
    }

    /// Appends a field's value, as it may be shown, to a key; false (and nothing appended) where the event lacks it.
    #[inline]
    pub(super) fn push(&mut self, key: &mut Vec<u8>, field: Field, batch: &Batch, event: &Event) -> bool {
        match field.value(batch, event) {
            Value::Text(text) if field.may_hold_secrets() => {
                let name = event.client.name(batch);
                let text = match field {
                    Field::Path | Field::Query | Field::Referrer => self.privacy.redact_target(text, name),
                    _ => self.privacy.redact_text(text, name),
                };
                key::push(key, Value::Text(&text), self.ipv6_prefix);
                true
            }
            value => self.append(key, field, value, batch, event),
        }
    }

    #[inline]
    fn append(&mut self, key: &mut Vec<u8>, field: Field, value: Value<'_>, batch: &Batch, event: &Event) -> bool {
        let value = match value {
            Value::None if field == Field::Pattern && !event.message.is_none() => {
                self.template.clear();
                let message = self.privacy.redact_text(batch.get(event.message), event.client.name(batch));
                tidewatch_events::message_template::template(&message, &mut self.template);
                Value::Text(self.template.as_bytes())
            }
            Value::None => return false,
            Value::Ip(ip) => Value::Ip(self.shown(ip)),
            Value::Text(name) if field == Field::ClientIp => {
                key::push(key, Value::Text(&self.privacy.client.name(name)), self.ipv6_prefix);
                return true;
            }
            value => value,
        };
        key::push(key, value, self.ipv6_prefix);
        true
    }

    /// The hash of a field's value, which nobody is shown.
    #[inline]
    fn hash_of(&mut self, field: Field, batch: &Batch, event: &Event) -> Option<u64> {
        // The built-in rules ask it of every request.
        if field == Field::Port {
            return (event.port > 0).then(|| self.hash_of_number(event.port.into()));
        }
        match field.value(batch, event) {
            Value::None if field != Field::Pattern => None,
            Value::Number(n) => Some(self.hash_of_number(n)),
            value => self.hash_of_bytes(field, value, batch, event),
        }
    }

    #[inline]
    fn hash_of_number(&mut self, n: u64) -> u64 {
        match self.number {
            Some((last, hash)) if last == n => hash,
            _ => self.hash_number(n),
        }
    }

    fn hash_number(&mut self, n: u64) -> u64 {
        // As `key::push` would have it, without the buffer.
        let mut bytes = [4; 9];
        bytes[1..].copy_from_slice(&n.to_be_bytes());
        let hash = hash::of(&bytes);
        self.number = Some((n, hash));
        hash
    }

    fn hash_of_bytes(&mut self, field: Field, value: Value<'_>, batch: &Batch, event: &Event) -> Option<u64> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let found = self.append(&mut bytes, field, value, batch, event).then(|| hash::of(&bytes));
        self.bytes = bytes;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_values_of_rows_come_back_ascending() {
        let mut all = LocalDistinct { first: vec![0; 3], ..LocalDistinct::default() };
        let values =
            [(2, 9, true), (0, 5, true), (0, 5, false), (0, 3, true), (2, 0, true), (2, 0, false), (0, 7, true)];
        for (row, value, new) in values {
            assert_eq!(all.insert(row, value), new, "{value} in {row}");
        }
        assert_eq!(all.len(), 5);
        let others = all.others();
        let mut others = &others[..];
        for (row, want) in [(0, vec![3, 5, 7]), (1, vec![]), (2, vec![0, 9])] {
            let mut out = vec![1];
            all.values_of(row, &mut others, &mut out);
            assert_eq!(out[1..], want, "row {row}");
        }
    }
}
