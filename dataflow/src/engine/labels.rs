//! Judges a replay's alerts by a label file: precision, recall and time to detect, rule by rule (docs/RULES.md, "Labels").

use crate::config::diagnostic::nearest;
use crate::exit::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use tidewatch_events::alert::Alert;
use tidewatch_events::field::{Field, Value};
use tidewatch_events::key;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};
use tidewatch_events::text;
use tidewatch_events::text::Shown as _;

/// The longest line of a label file, bytes.
const MAX_LINE: u64 = 64 << 10;

/// A line of the file; what else stands there is for people.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
struct Written {
    /// Whatever stands there: only a text is shown.
    #[serde(default)]
    kind: serde_json::Value,
    rule: Option<String>,
    #[serde(default)]
    subject: BTreeMap<String, String>,
    from: String,
    to: String,
}

/// Something that truly happened.
#[derive(Clone, Debug)]
struct Label {
    /// What it is, for people.
    kind: Option<String>,
    /// What is expected to find it.
    rule: Option<String>,
    subject: BTreeMap<String, String>,
    /// First and last moment of it, ms.
    from: u64,
    to: u64,
    /// When the first alert that found it fired, ms.
    found: Option<u64>,
}

impl Label {
    /// Whether an alert is about it: of its subject, and around it in time.
    fn is_about(&self, alert: &Alert) -> bool {
        self.from < alert.last.0
            && alert.first.0 <= self.to
            && self.subject.iter().all(|(field, value)| alert.subject.get(field) == Some(value))
    }
}

/// The labels, and what the alerts so far say to them.
#[derive(Clone, Debug)]
pub struct Judge {
    labels: Vec<Label>,
    /// Alerts, and how many of them are right, by rule.
    alerts: BTreeMap<String, (u64, u64)>,
}

/// How well one rule did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// Its alerts.
    pub alerts: u64,
    /// Those that are about a label.
    pub right: u64,
    /// Their share; none without alerts.
    pub precision: Option<f64>,
    /// Labels that expect it.
    pub labels: u64,
    /// Those that it found.
    pub found: u64,
    /// Their share; none without labels.
    pub recall: Option<f64>,
    /// From the first moment of what it found to the firing, half of them within this, in seconds; without those for which an
    /// alert fired already.
    pub time_to_detect_p50_s: Option<f64>,
    /// The same for 95 %.
    pub time_to_detect_p95_s: Option<f64>,
}

/// How well each rule with alerts or labels did; `judged` of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Judged {
    /// By name.
    pub rules: BTreeMap<String, Verdict>,
    /// Labels that expect no rule, by kind: `unexpected` of `summary.json`.
    #[serde(skip)]
    pub unexpected: BTreeMap<String, u64>,
}

/// How many kinds of labels that expect no rule are named.
const KINDS_NAMED: usize = 10;

impl Judged {
    /// That there are labels which no rule is expected to find, where there are: the best figures say nothing of them.
    pub fn not_expected(&self) -> Option<String> {
        let mut kinds: Vec<(&str, u64)> =
            self.unexpected.iter().map(|(kind, labels)| (kind.as_str(), *labels)).collect();
        let (what, is) = match kinds.iter().map(|(_, labels)| labels).sum::<u64>() {
            0 => return None,
            1 => ("1 label".to_owned(), "is of a kind"),
            labels => (format!("{labels} labels"), "are of kinds"),
        };
        kinds.sort_by_key(|(_, labels)| std::cmp::Reverse(*labels));
        let more = kinds.len().saturating_sub(KINDS_NAMED);
        let mut named: Vec<String> =
            kinds.iter().take(KINDS_NAMED).map(|(kind, labels)| format!("{kind} {labels}")).collect();
        if more > 0 {
            named.push(format!("{more} other kinds"));
        }
        Some(format!("{what} {is} that no rule is expected to find: {}", named.join(", ")))
    }
}

impl Judge {
    /// Reads the labels.
    ///
    /// # Errors
    /// 2, with the place, for a line that is no label.
    pub fn read(path: &Path) -> Result<Judge, Failure> {
        let failed = |error: std::io::Error| Failure::usage(format!("--labels {}: {error}", path.shown()));
        let mut lines = BufReader::new(File::open(path).map_err(failed)?);
        let mut labels = Vec::new();
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let read = std::io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                break;
            }
            if read as u64 == MAX_LINE && line.last() != Some(&b'\n') {
                let words = format!("{}:{number}: the line is longer than {} KiB", path.shown(), MAX_LINE >> 10);
                return Err(Failure::usage(format!("{words}\n hint: is it a file of labels?")));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            labels.push(label(&line).map_err(|words| {
                let words = text::printable(words.as_bytes()).into_owned();
                let hint = r#"a label is {"kind":"ip-spike","rule":"ip-spike","subject":{"client_ip":"192.0.2.1"},"from":"2026-03-05T10:00:00Z","to":"2026-03-05T10:00:20Z"}, as `generate --labels` writes it"#;
                Failure::usage(format!("{}:{number}: {words}\n hint: {hint}", path.shown()))
            })?);
        }
        Ok(Judge { labels, alerts: BTreeMap::new() })
    }

    /// The same, with clients as alerts show them: as [privacy] says, IPv6 by the network its rules group by.
    pub fn under(mut self, privacy: &Privacy, ipv6_prefix: u8) -> Judge {
        self.labels.iter_mut().for_each(|label| as_shown(&mut label.subject, privacy, ipv6_prefix));
        self
    }

    /// A warning for each rule that labels expect and that is none of those there are.
    pub fn unknown_rules<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
        let mut labels: BTreeMap<&str, u64> = BTreeMap::new();
        self.labels
            .iter()
            .filter_map(|label| label.rule.as_deref())
            .for_each(|rule| *labels.entry(rule).or_default() += 1);
        let unknown = labels.into_iter().filter(|(rule, _)| !known.clone().any(|known| known == *rule));
        let warning = |(rule, labels): (&str, u64)| {
            let hint = nearest(rule, known.clone()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let rule = text::printable(rule.as_bytes()).into_owned();
            format!("--labels: {labels} of them expect the rule {rule}, which there is not{hint}")
        };
        unknown.map(warning).collect()
    }

    /// Takes the last state of an alert.
    pub fn take(&mut self, alert: &Alert) {
        let mut is_right = false;
        for label in self.labels.iter_mut().filter(|label| label.is_about(alert)) {
            let is_its_rule = label.rule.as_ref() == Some(&alert.rule);
            // A label that names nobody says something about its own rule only.
            is_right |= is_its_rule || !label.subject.is_empty();
            if is_its_rule {
                label.found = Some(label.found.map_or(alert.fired.0, |found| found.min(alert.fired.0)));
            }
        }
        let (alerts, right) = self.alerts.entry(alert.rule.clone()).or_default();
        *alerts += 1;
        *right += u64::from(is_right);
    }

    /// How well the rules did.
    pub fn judged(&self) -> Judged {
        let mut rules: BTreeMap<String, Verdict> = BTreeMap::new();
        for (rule, (alerts, right)) in &self.alerts {
            let verdict = rules.entry(rule.clone()).or_default();
            (verdict.alerts, verdict.right) = (*alerts, *right);
        }
        let mut times: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut unexpected: BTreeMap<String, u64> = BTreeMap::new();
        for label in &self.labels {
            let Some(rule) = &label.rule else {
                *unexpected.entry(label.kind.clone().unwrap_or_else(|| "of no kind".into())).or_default() += 1;
                continue;
            };
            let verdict = rules.entry(rule.clone()).or_default();
            verdict.labels += 1;
            if let Some(fired) = label.found {
                verdict.found += 1;
                // An alert that fired before was about something else: it says nothing of how fast this was found.
                times.entry(rule).or_default().extend(fired.checked_sub(label.from));
            }
        }
        for (rule, verdict) in &mut rules {
            verdict.complete(times.remove(rule.as_str()).unwrap_or_default());
        }
        Judged { rules, unexpected }
    }

    /// How well all rules did together.
    pub fn overall(&self) -> Verdict {
        let expecting = || self.labels.iter().filter(|label| label.rule.is_some());
        let mut all = Verdict {
            alerts: self.alerts.values().map(|(alerts, _)| alerts).sum(),
            right: self.alerts.values().map(|(_, right)| right).sum(),
            labels: expecting().count() as u64,
            found: expecting().filter(|label| label.found.is_some()).count() as u64,
            ..Verdict::default()
        };
        all.complete(expecting().filter_map(|label| label.found?.checked_sub(label.from)).collect());
        all
    }
}

impl Verdict {
    /// Computes what follows from the counts and the times to detect, ms.
    fn complete(&mut self, mut times: Vec<u64>) {
        times.sort_unstable();
        self.precision = share(self.right, self.alerts);
        self.recall = share(self.found, self.labels);
        self.time_to_detect_p50_s = nearest_rank(&times, 50);
        self.time_to_detect_p95_s = nearest_rank(&times, 95);
    }
}

/// Writes the client of a subject as alerts show it.
pub fn as_shown(subject: &mut BTreeMap<String, String>, privacy: &Privacy, ipv6_prefix: u8) {
    let Some(client) = subject.get_mut(Field::ClientIp.name()) else { return };
    let Ok(ip) = client.parse::<IpAddr>() else {
        if !client.contains('/') && !privacy.client.may_show_name(client.as_bytes()) {
            *client = String::from_utf8_lossy(&privacy.client.name(client.as_bytes())).into_owned();
        }
        return;
    };
    let ip = ip.to_canonical();
    // Somebody may have taken it from an alert.
    let is_pseudonym = matches!(privacy.client, ClientPrivacy::Hmac { .. }) && privacy.may_show(ip);
    let shown = if is_pseudonym { ip } else { privacy.client_ip(ip) };
    let prefix = privacy.client.ipv6_prefix(ipv6_prefix);
    let mut bytes = Vec::new();
    key::push(&mut bytes, Value::Ip(shown), prefix);
    client.clear();
    key::show_next(&bytes, prefix, client);
}

fn label(line: &[u8]) -> Result<Label, String> {
    let Written { kind, rule, subject, from, to } =
        serde_json::from_slice(line).map_err(|error| format!("this is no label: {error}"))?;
    let ms = |text: &str| {
        let time: jiff::Timestamp = text.parse().map_err(|_| format!("{text:?} is not a time"))?;
        u64::try_from(time.as_millisecond()).map_err(|_| format!("{time} is before 1970"))
    };
    let (from, to) = (ms(&from)?, ms(&to)?);
    if to < from {
        return Err("`to` is before `from`".into());
    }
    let kind = kind.as_str().map(|kind| text::bounded(kind.as_bytes()).into_owned());
    Ok(Label { kind, rule, subject, from, to, found: None })
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The nearest rank of ascending milliseconds, in seconds.
fn nearest_rank(ascending: &[u64], percent: usize) -> Option<f64> {
    let rank = (ascending.len() * percent).div_ceil(100).checked_sub(1)?;
    ascending.get(rank).map(|ms| *ms as f64 / 1000.0)
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str| text::printable(name.as_bytes()).into_owned();
        let width = self.rules.keys().map(|name| shown(name).chars().count()).max().unwrap_or(0).max(4);
        writeln!(
            f,
            "{:width$}  {:>9} {:>13}  {:>6} {:>13}  {:>14} {:>9}",
            "rule", "precision", "right/alerts", "recall", "found/labels", "detected p50 s", "p95 s"
        )?;
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        for (name, v) in &self.rules {
            writeln!(
                f,
                "{:width$}  {:>9} {:>13}  {:>6} {:>13}  {:>14} {:>9}",
                shown(name),
                number(v.precision),
                format!("{}/{}", v.right, v.alerts),
                number(v.recall),
                format!("{}/{}", v.found, v.labels),
                number(v.time_to_detect_p50_s),
                number(v.time_to_detect_p95_s)
            )?;
        }
        self.not_expected().map_or(Ok(()), |words| writeln!(f, "{words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::privacy::Key;
    use tidewatch_events::time::EventTime;
    use tidewatch_reference::testing;

    fn alert(rule: &str, client: &str, first: u64, last: u64, fired: u64) -> Alert {
        Alert {
            rule: rule.into(),
            subject: [("client_ip".to_owned(), client.to_owned())].into(),
            first: EventTime(first),
            last: EventTime(last),
            fired: EventTime(fired),
            ..testing::alert()
        }
    }

    fn judge(labels: &str) -> Judge {
        Judge { labels: labels.lines().map(|line| label(line.as_bytes()).unwrap()).collect(), alerts: BTreeMap::new() }
    }

    const SPIKE: &str = r#"{"kind":"k","rule":"a","subject":{"client_ip":"x"},"from":"1970-01-01T00:00:10Z","to":"1970-01-01T00:00:20Z"}"#;

    #[test]
    fn an_alert_is_right_by_subject_and_time() {
        let rows: &[(&str, Alert, (u64, u64))] = &[
            ("around it", alert("a", "x", 5_000, 30_000, 12_000), (1, 1)),
            ("its end is at the first moment", alert("a", "x", 0, 10_000, 9_000), (0, 0)),
            ("its end is just after that", alert("a", "x", 0, 10_001, 9_000), (1, 1)),
            ("it begins at the last moment", alert("a", "x", 20_000, 30_000, 22_000), (1, 1)),
            ("it begins after that", alert("a", "x", 20_001, 30_000, 22_000), (0, 0)),
            ("another client", alert("a", "y", 5_000, 30_000, 12_000), (0, 0)),
            ("another rule sees the same", alert("b", "x", 5_000, 30_000, 12_000), (1, 0)),
        ];
        for (name, alert, (right, found)) in rows {
            let mut judge = judge(SPIKE);
            judge.take(alert);
            let judged = judge.judged();
            assert_eq!((judged.rules[&alert.rule].right, judged.rules["a"].found), (*right, *found), "{name}");
        }
    }

    #[test]
    fn clients_are_known_as_alerts_show_them() {
        let hmac = || ClientPrivacy::Hmac { key: Key::new("0123456789abcdef"), ipv6_prefix: 64 };
        let masked = hmac().shown("203.0.113.9".parse().unwrap()).to_string();
        let masked_name = String::from_utf8(hmac().name(b"a.example.org").into_owned()).unwrap();
        let rows = [
            ("as it is", ClientPrivacy::Full, "203.0.113.9", "203.0.113.9"),
            ("IPv4 as IPv6", ClientPrivacy::Full, "::ffff:203.0.113.9", "203.0.113.9"),
            ("by its network", ClientPrivacy::Full, "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("a network", ClientPrivacy::Full, "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
            ("a name", ClientPrivacy::Full, "crawler", "crawler"),
            ("shortened", ClientPrivacy::Truncate, "203.0.113.9", "203.0.113.0"),
            ("shortened before", ClientPrivacy::Truncate, "203.0.113.0", "203.0.113.0"),
            ("of its network what is left", ClientPrivacy::Truncate, "2001:db8:1:2:3::4", "2001:db8:1::/48"),
            ("a name shortened", ClientPrivacy::Truncate, "a.dip.example.org", "*.example.org"),
            ("a name shortened before", ClientPrivacy::Truncate, "*.example.org", "*.example.org"),
            ("a network shortened", ClientPrivacy::Truncate, "2001:db8:1::/48", "2001:db8:1::/48"),
            ("a pseudonym of a name", hmac(), "a.example.org", &masked_name),
            ("that itself", hmac(), &masked_name, &masked_name),
            ("a pseudonym", hmac(), "203.0.113.9", &masked),
            ("the pseudonym itself", hmac(), &masked, &masked),
        ];
        for (name, client, written, want) in rows {
            let privacy = Privacy { client, ..Privacy::default() };
            let judge = judge(&SPIKE.replace("\"x\"", &format!("{written:?}"))).under(&privacy, 64);
            assert_eq!(judge.labels[0].subject["client_ip"], want, "{name}");
        }
    }

    #[test]
    fn shares_and_times_are_by_rule() {
        let nobody = r#"{"rule":null,"from":"1970-01-01T00:00:00Z","to":"1970-01-02T00:00:00Z"}"#;
        let other = SPIKE.replace('x', "y");
        let mut judge = judge(&format!("{SPIKE}\n{other}\n{nobody}"));
        for (client, fired) in [("x", 14_000), ("x", 12_500), ("z", 12_000), ("z", 12_000)] {
            judge.take(&alert("a", client, 10_000, 20_000, fired));
        }
        judge.take(&alert("b", "z", 10_000, 20_000, 11_000));
        let judged = judge.judged();
        let want = Verdict {
            alerts: 4,
            right: 2,
            precision: Some(0.5),
            labels: 2,
            found: 1,
            recall: Some(0.5),
            time_to_detect_p50_s: Some(2.5),
            time_to_detect_p95_s: Some(2.5),
        };
        assert_eq!(judged.rules["a"], want, "the first that fired counts");
        let want = Verdict { alerts: 1, precision: Some(0.0), ..Verdict::default() };
        assert_eq!(judged.rules["b"], want, "nobody expects it: no recall");
        let want = Verdict { alerts: 5, precision: Some(0.4), ..judged.rules["a"].clone() };
        assert_eq!(judge.overall(), want, "all rules together");
        assert!(judged.to_string().contains("0.500"), "{judged}");
        assert_eq!(nearest_rank(&[1000, 2000, 3000], 50), Some(2.0));
    }

    #[test]
    fn labels_that_expect_no_rule_are_counted_by_kind() {
        let of = |kind: &str| {
            format!(r#"{{"kind":{kind},"rule":null,"from":"1970-01-01T00:00:00Z","to":"1970-01-02T00:00:00Z"}}"#)
        };
        let (injection, login) = (of("\"injection\""), of("\"login-bruteforce\""));
        let many: Vec<String> = (0..12).map(|n| of(&format!("\"k{n:02}\""))).collect();
        // name, labels, last line
        let rows = [
            ("none", vec![SPIKE.to_owned()], None),
            (
                "one",
                vec![SPIKE.to_owned(), injection.clone()],
                Some("1 label is of a kind that no rule is expected to find: injection 1"),
            ),
            (
                "the most first, what is no text has no kind",
                vec![injection, login.clone(), login.clone(), login, of("7"), of("null")],
                Some(
                    "6 labels are of kinds that no rule is expected to find: login-bruteforce 3, of no kind 2, injection 1",
                ),
            ),
            (
                "many kinds",
                many,
                Some(
                    "12 labels are of kinds that no rule is expected to find: k00 1, k01 1, k02 1, k03 1, k04 1, k05 1, k06 1, \
                     k07 1, k08 1, k09 1, 2 other kinds",
                ),
            ),
        ];
        for (name, labels, want) in rows {
            let said = judge(&labels.join("\n")).judged().to_string();
            assert_eq!(said.lines().last().filter(|line| line.contains("expected to find")), want, "{name}");
        }
    }

    #[test]
    fn an_alert_that_fired_already_has_no_time_to_detect() {
        // name, when it fired, seconds to detect
        let rows: &[(&str, u64, Option<f64>)] = &[
            ("long before", 0, None),
            ("a millisecond before", 9_999, None),
            ("at the first moment", 10_000, Some(0.0)),
            ("after", 14_000, Some(4.0)),
        ];
        for (name, fired, want) in rows {
            let mut judge = judge(SPIKE);
            judge.take(&alert("a", "x", 0, 30_000, *fired));
            let verdict = &judge.judged().rules["a"];
            assert_eq!((verdict.found, verdict.time_to_detect_p50_s), (1, *want), "{name}");
        }
    }

    #[test]
    fn rules_that_are_misspelt_are_named_with_the_nearest() {
        let other = |rule: &str| SPIKE.replace("\"a\"", &format!("{rule:?}"));
        let nobody = r#"{"rule":null,"from":"1970-01-01T00:00:00Z","to":"1970-01-02T00:00:00Z"}"#;
        let judge =
            judge(&[&other("ip-spike"), &other("ip-spkie"), &other("ip-spkie"), &other("xyz"), nobody].join("\n"));
        let said = judge.unknown_rules(["dark-paths", "ip-spike"].into_iter());
        let want = [
            "--labels: 2 of them expect the rule ip-spkie, which there is not; did you mean ip-spike?",
            "--labels: 1 of them expect the rule xyz, which there is not",
        ];
        assert_eq!(said, want);
    }

    #[test]
    fn what_is_no_label_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.jsonl");
        let rows: &[(&str, String, &str)] = &[
            ("not JSON", format!("{SPIKE}\n\nnope\n"), "labels.jsonl:3: this is no label: "),
            ("no object", "7\n".to_owned(), "invalid type: integer `7`, expected an object"),
            ("no time", r#"{"rule":"a","to":"1970-01-01T00:00:00Z"}"#.to_owned(), "missing field `from`"),
            ("not a time", r#"{"from":"now","to":"1970-01-01T00:00:01Z"}"#.to_owned(), "\"now\" is not a time"),
            ("turned", r#"{"from":"1970-01-01T00:00:02Z","to":"1970-01-01T00:00:01Z"}"#.to_owned(), "`to` is before"),
            ("too early", r#"{"from":"1969-12-31T23:59:59Z","to":"1970-01-01T00:00:01Z"}"#.to_owned(), "before 1970"),
            ("endless", "{".repeat(MAX_LINE as usize + 5), "labels.jsonl:1: "),
        ];
        for (name, text, want) in rows {
            std::fs::write(&path, text).unwrap();
            let failure = Judge::read(&path).unwrap_err().to_string();
            assert!(failure.contains(want), "{name}: {failure}");
        }
        std::fs::write(&path, format!("{SPIKE}\n\n{SPIKE}")).unwrap();
        assert_eq!(Judge::read(&path).unwrap().labels.len(), 2);
    }
}
