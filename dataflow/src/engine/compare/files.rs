//! `compare.json` and `compare.html`.
//!
//! Invariants
//! - The JSON is written as it is made: of the alerts of both sides about [`TOGETHER`] are in memory at a time.
//! - Both appear under their names only when they are complete; a comparison that fails leaves those of the last one.

use super::pairing::{Difference, Group, Item, Pairing};
use super::sides::{Side, TOGETHER};
use super::variants::Changed;
use super::{Comparison, List, Lists, Outcome, page};
use crate::engine::inexact::Inexact;
use crate::engine::labels::Verdict;
use crate::engine::limited::Limited;
use crate::engine::summary::Damaged;
use crate::exit::{self, ExitCode, Failure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use tidewatch_connectors::durable::{Readers, beside, replace, sync_names};
use tidewatch_events::alert::Alert;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

pub const JSON: &str = "compare.json";
pub const HTML: &str = "compare.html";

/// The form of the JSON. It grows by new fields only while this stays.
const VERSION: u32 = 1;

/// How many alerts of a list are shown in the HTML.
pub const SHOWN: usize = 200;

/// Makes the directory, and fails where nothing can be written there.
pub fn prepare(out: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("{} cannot be written: {error}", out.shown()));
    fs::create_dir_all(out).map_err(failed)?;
    create_beside(&out.join(JSON)).map_err(failed)?;
    fs::remove_file(beside(&out.join(JSON))).map_err(failed)
}

/// A new file beside one that it will take the place of. What stood there is removed, not followed: it may be a link.
fn create_beside(path: &Path) -> io::Result<File> {
    match fs::remove_file(beside(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::create_new(beside(path)),
    }
}

/// Writes both files; fills in what the lists of two sides came to.
pub fn write(
    out: &Path,
    comparison: &mut Comparison,
    pair: Option<(&Side<'_>, &Side<'_>, Pairing)>,
) -> Result<(), Failure> {
    let (json, html) = (out.join(JSON), out.join(HTML));
    let failed =
        |path: &Path, error: io::Error| Failure::failed(format!("{} cannot be written: {error}", path.shown()));
    let file = create_beside(&json).map_err(|error| failed(&json, error))?;
    let unfinished = Unfinished(&json);
    let mut file = Json { out: BufWriter::with_capacity(1 << 20, file), path: &json };
    file.head(comparison)?;
    match pair {
        Some((a, b, pairing)) => comparison.difference = Some(file.lists(a, b, &pairing)?),
        None => file.text(",\n  \"only_a\": null,\n  \"only_b\": null,\n  \"both\": null")?,
    }
    file.text("\n}\n")?;
    let file = file.out.into_inner().map_err(|error| failed(&json, error.into_error()))?;
    file.sync_data().map_err(|error| failed(&json, error))?;
    let page = page::document(comparison).html();
    replace(&html, page.as_bytes(), Readers::All).map_err(|error| failed(&html, error))?;
    fs::rename(beside(&json), &json).map_err(|error| failed(&json, error))?;
    std::mem::forget(unfinished);
    sync_names(&json).map_err(|error| failed(&json, error))
}

/// Removes what was written in part.
struct Unfinished<'a>(&'a Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(beside(self.0));
    }
}

/// The beginning of `compare.json`, in this order.
#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    from: &'a [String],
    lines: u64,
    events: u64,
    rejected: u64,
    late: u64,
    future: u64,
    first_event: Option<String>,
    last_event: Option<String>,
    sweep: Option<&'a str>,
    variants: Vec<VariantRow<'a>>,
    changed: &'a [Changed],
    live_outside: Option<u64>,
    inexact: &'a [Inexact],
    damaged: &'a [Damaged],
    /// Labels that expect no rule, by kind, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    unexpected: Option<&'a BTreeMap<String, u64>>,
}

#[derive(Serialize)]
struct VariantRow<'a> {
    name: &'a str,
    of: &'a str,
    alerts: u64,
    precision: Option<f64>,
    recall: Option<f64>,
    time_to_detect_p50_s: Option<f64>,
    time_to_detect_p95_s: Option<f64>,
    rules: BTreeMap<&'a str, RuleRow<'a>>,
    limited: &'a [Limited],
}

#[derive(Serialize)]
#[serde(untagged)]
enum RuleRow<'a> {
    Judged(&'a Verdict),
    Counted { alerts: u64 },
}

impl<'a> VariantRow<'a> {
    fn of(outcome: &'a Outcome) -> VariantRow<'a> {
        let counted = outcome.alerts.iter().map(|(rule, alerts)| (rule.as_str(), RuleRow::Counted { alerts: *alerts }));
        let judged = outcome.judged.iter().flat_map(|(_, judged)| &judged.rules);
        let judged = judged.map(|(rule, verdict)| (rule.as_str(), RuleRow::Judged(verdict)));
        let all = outcome.judged.as_ref().map(|(all, _)| all);
        VariantRow {
            name: &outcome.name,
            of: &outcome.of,
            alerts: outcome.count(None),
            precision: all.and_then(|all| all.precision),
            recall: all.and_then(|all| all.recall),
            time_to_detect_p50_s: all.and_then(|all| all.time_to_detect_p50_s),
            time_to_detect_p95_s: all.and_then(|all| all.time_to_detect_p95_s),
            rules: counted.chain(judged).collect(),
            limited: &outcome.limited,
        }
    }
}

/// A group that both sides have.
#[derive(Serialize)]
struct BothRow<'a> {
    rule: &'a str,
    subject: &'a BTreeMap<String, String>,
    fired_later_s: f64,
    a: &'a [Alert],
    b: &'a [Alert],
}

struct Json<'a> {
    out: BufWriter<File>,
    path: &'a Path,
}

impl Json<'_> {
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.out.write_all(text.as_bytes());
        written.map_err(|error| Failure::failed(format!("{} cannot be written: {error}", self.path.shown())))
    }

    fn value(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::caused(&error))?;
        self.text(&text)
    }

    /// All but the alerts, without the end.
    fn head(&mut self, comparison: &Comparison) -> Result<(), Failure> {
        let totals = &comparison.totals;
        let shown = |time: Option<u64>| time.map(|time| EventTime(time).to_string());
        let head = Head {
            version: VERSION,
            from: &comparison.from,
            lines: totals.lines,
            events: totals.events,
            rejected: totals.rejected,
            late: totals.late,
            future: totals.future,
            first_event: shown(totals.first_event),
            last_event: shown(totals.last_event),
            sweep: comparison.sweep.as_deref(),
            variants: comparison.outcomes.iter().map(VariantRow::of).collect(),
            changed: &comparison.changed,
            live_outside: comparison.outside,
            inexact: &comparison.inexact,
            damaged: &comparison.damaged,
            unexpected: comparison.outcomes.first().and_then(Outcome::unexpected),
        };
        let text = serde_json::to_string_pretty(&head).map_err(|error| Failure::caused(&error))?;
        self.text(text.strip_suffix("\n}").unwrap_or(&text))
    }

    fn lists(&mut self, a: &Side<'_>, b: &Side<'_>, pairing: &Pairing) -> Result<Lists, Failure> {
        let mut lists = Lists {
            only_a: self.list("only_a", a, &pairing.only_a)?,
            only_b: self.list("only_b", b, &pairing.only_b)?,
            both: pairing.both.len() as u64,
            ..Lists::default()
        };
        self.text(",\n  \"both\": [")?;
        let (mut rest, mut is_first) = (&pairing.both[..], true);
        while !rest.is_empty() {
            stopped()?;
            let mut alerts = 0;
            let fits = |group: &&Group| {
                alerts += group.a.len() + group.b.len();
                alerts <= TOGETHER
            };
            let (some, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            let which = |side: fn(&Group) -> &Vec<usize>| some.iter().flat_map(side).copied().collect::<Vec<usize>>();
            let (mut of_a, mut of_b) =
                (a.alerts(&which(|g| &g.a))?.into_iter(), b.alerts(&which(|g| &g.b))?.into_iter());
            for group in some {
                let alerts_a: Vec<Alert> = of_a.by_ref().take(group.a.len()).collect();
                let alerts_b: Vec<Alert> = of_b.by_ref().take(group.b.len()).collect();
                let (Some(first), Some(difference)) = (alerts_a.first(), Difference::of(group, a.items(), b.items()))
                else {
                    continue;
                };
                self.text(if std::mem::take(&mut is_first) { "\n    " } else { ",\n    " })?;
                self.value(&BothRow {
                    rule: &first.rule,
                    subject: &first.subject,
                    fired_later_s: difference.later_ms as f64 / 1000.0,
                    a: &alerts_a,
                    b: &alerts_b,
                })?;
                lists.note(difference);
                if difference.is_some() && lists.unlike.len() < SHOWN {
                    // Of a group, the first of each side is shown.
                    let [first_a, first_b] = [alerts_a, alerts_b].map(|all| all.into_iter().take(1).collect());
                    lists.unlike.push((first_a, first_b, difference));
                }
            }
        }
        self.text(if pairing.both.is_empty() { "]" } else { "\n  ]" })?;
        let mut count = |items: &[Item], which: &mut dyn Iterator<Item = usize>, column: usize| {
            which.for_each(|at| lists.by_rule.entry(items[at].rule.clone()).or_default()[column] += 1);
        };
        count(a.items(), &mut pairing.only_a.iter().copied(), 0);
        count(b.items(), &mut pairing.only_b.iter().copied(), 1);
        count(a.items(), &mut pairing.both.iter().filter_map(|group| group.a.first().copied()), 2);
        Ok(lists)
    }

    fn list(&mut self, name: &str, side: &Side<'_>, which: &[usize]) -> Result<List, Failure> {
        let mut list = List { count: which.len() as u64, head: Vec::new() };
        self.text(&format!(",\n  \"{name}\": ["))?;
        for (turn, some) in which.chunks(TOGETHER).enumerate() {
            stopped()?;
            for (at, alert) in side.alerts(some)?.into_iter().enumerate() {
                self.text(if turn == 0 && at == 0 { "\n    " } else { ",\n    " })?;
                self.value(&alert)?;
                if list.head.len() < SHOWN {
                    list.head.push(alert);
                }
            }
        }
        self.text(if which.is_empty() { "]" } else { "\n  ]" })?;
        Ok(list)
    }
}

fn stopped() -> Result<(), Failure> {
    match exit::stop_requested() {
        true => Err(Failure::new(ExitCode::Interrupted, "interrupted; no results were written")),
        false => Ok(()),
    }
}

impl Lists {
    /// Counts how the two sides of a group differ.
    fn note(&mut self, difference: Difference) {
        let ms = difference.later_ms.unsigned_abs();
        match difference.later_ms {
            0 => {}
            1.. => (self.later, self.most_later) = (self.later + 1, self.most_later.max(ms)),
            _ => (self.earlier, self.most_earlier) = (self.earlier + 1, self.most_earlier.max(ms)),
        }
        self.severity += u64::from(difference.severity);
        self.mode += u64::from(difference.mode);
    }
}
