//! What a run says of itself: points about partitions, lists, routes, results that are not exact and rules that were limited.

use super::super::allowed::Allowed;
use super::super::inexact::inexact;
use super::super::limited::limited;
use super::super::peers::{Health, Name};
use super::super::stalls::Stall;
use super::super::zones::Misplaced;
use super::Live;
use std::time::Instant;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::text::printable;
use tidewatch_events::time::EventTime;

impl Live {
    /// The points of all partitions, and of what else there is to say.
    pub(super) fn write_health(&mut self, health: &[Health]) {
        let now = wall_clock();
        for row in self.partitions.rows(health, now) {
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch");
            line.tag("partition", &row.partition);
            line.tag("topic", &row.topic);
            line.tag_number("worker", row.worker as u64);
            line.count("events", row.events);
            if let Some(lag) = row.lag_messages {
                line.count("lag_messages", lag);
            }
            line.count("lag_ms", row.lag_ms);
            line.count("late", row.late);
            line.count("rejected", row.rejected);
            line.count("watermark", row.watermark);
            line.end(EventTime(now.0));
        }
        self.write_takings(EventTime(now.0));
        self.write_allowed(EventTime(now.0));
        self.write_inexact(EventTime(now.0));
        self.write_limited(EventTime(now.0));
        self.write_routes(EventTime(now.0));
    }

    /// Says which partitions hold back time, or bring times that no clock shows, and keeps what is wrong for who asks.
    pub(super) fn look_at_times(&mut self, health: &[Health], now: Instant) {
        let misplaced = self.zones.look(health);
        for one in &misplaced {
            if self.zones.is_due(one, now) {
                one.warn();
            }
        }
        let stall = self.stalls.look(health, now, wall_clock().0);
        // Where it is of another zone, that is why.
        let holder = self
            .stalls
            .holder()
            .filter(|holder| !health.iter().any(|row| row.name == **holder && self.zones.of(row).is_some()));
        stall.iter().filter(|_| holder.is_some()).for_each(Stall::warn);
        let holds = |name: &Name| {
            let source = printable(name.source.as_bytes());
            format!("source {source}: lines of it hold back event time")
        };
        *self.figures.troubles.lock() = misplaced.iter().map(Misplaced::trouble).chain(holder.map(holds)).collect();
    }

    /// One point a process.
    fn write_takings(&mut self, now: EventTime) {
        for taking in self.peers.takings() {
            if self.watch.is_due(taking.process, taking.memory_bytes, Instant::now()) {
                tracing::warn!(
                    process = taking.process,
                    memory_bytes = taking.memory_bytes,
                    memory = self.watch.memory(),
                    "the process takes more than twice what `memory` says"
                );
            }
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch_process");
            line.tag_number("process", taking.process as u64);
            if !taking.busy.is_empty() {
                line.float("busy_avg", taking.busy.iter().sum::<f64>() / taking.busy.len() as f64);
                line.float("busy_max", taking.busy.iter().copied().fold(0.0, f64::max));
            }
            line.count("memory_bytes", taking.memory_bytes);
            line.end(now);
        }
    }

    /// One point a result that is not exact; a warning when it first is, and once a minute while it grows.
    fn write_inexact(&mut self, now: EventTime) {
        for row in inexact(self.book.rules(), &self.peers.inexact()) {
            if self.warned.is_due(&row, Instant::now()) {
                tracing::warn!(
                    result = %row.result, events = row.missed_events, values = row.missed_values,
                    "a result is not exact: its table was full for so many"
                );
            }
            let mut rules = self.figures.rules.lock();
            if self.book.rules().rules.iter().any(|rule| rule.name == row.result) {
                rules.entry(row.result.clone()).or_default().inexact = row.missed_events + row.missed_values;
            }
            drop(rules);
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch_inexact");
            line.tag("result", &row.result);
            line.count("missed_events", row.missed_events);
            line.count("missed_values", row.missed_values);
            line.end(now);
        }
    }

    /// One point a rule of which more was found than counts.
    fn write_limited(&mut self, now: EventTime) {
        for row in limited(self.book.rules(), self.book.crowds()) {
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch_limited");
            line.tag("rule", &row.rule);
            line.count("findings", row.findings);
            line.count("unopened", row.unopened);
            line.count("windows", row.windows);
            line.end(now);
        }
    }

    /// Counts what was found beyond what counts, and says it now and then.
    pub(super) fn note_limited(&mut self) {
        let rows = limited(self.book.rules(), self.book.crowds());
        if rows.is_empty() {
            return;
        }
        let mut rules = self.figures.rules.lock();
        for row in &rows {
            let figures = rules.entry(row.rule.clone()).or_default();
            (figures.limited, figures.unopened) = (row.findings, row.unopened);
        }
        drop(rules);
        for row in self.said.grown(&rows, Instant::now()) {
            tracing::warn!(
                rule = %row.rule, findings = row.findings, windows = row.windows, unopened = row.unopened,
                "more findings than count: the strongest do ([alerts] max_findings, max_open)"
            );
        }
    }

    /// One point a route.
    fn write_routes(&mut self, now: EventTime) {
        for (name, status) in self.routes.iter().flat_map(|routes| routes.status()) {
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch_routes");
            line.tag("route", &name);
            line.count("failures", status.failures);
            line.count("messages", status.counts.messages);
            line.count("pending", status.counts.pending);
            line.count("rejected", status.counts.rejected);
            line.count("silenced", status.counts.silenced);
            line.count("told", status.counts.told);
            line.count("unlisted", status.counts.unlisted);
            line.count("works", u64::from(status.failing == 0 && !status.journal_fails));
            line.end(now);
        }
    }

    /// Counts what allow lists prevented, for whoever shows it.
    pub(super) fn note_prevented(&mut self) {
        let set = self.book.rules();
        let some = set.rules.iter().zip(self.book.prevented()).filter(|(_, findings)| **findings > 0);
        let mut rules = self.figures.rules.lock();
        some.for_each(|(rule, findings)| rules.entry(rule.name.clone()).or_default().prevented = *findings);
    }

    pub(super) fn allowed(&self) -> Option<Allowed> {
        let set = self.book.rules();
        // Nobody is asked where there is nothing to say.
        let events = if set.allow.is_empty() { Vec::new() } else { self.peers.exempted() };
        Allowed::of(set, &events, self.book.prevented())
    }

    /// One point an allow list, known by its position from 1, and one a rule that they make exceptions from.
    fn write_allowed(&mut self, now: EventTime) {
        let Some(allowed) = self.allowed() else { return };
        for (at, list) in allowed.lists.iter().enumerate() {
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch_allow");
            line.tag_number("entry", at as u64 + 1);
            line.count("events", list.events);
            line.text("reason", &list.reason);
            line.end(now);
        }
        for (rule, findings) in &allowed.prevented {
            let mut line = LineWriter::new(&mut self.step.points);
            line.start("tidewatch_rules");
            line.tag("rule", rule);
            line.count("prevented", *findings);
            line.end(now);
        }
    }
}
