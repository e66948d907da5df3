//! Compares what the model expects with what an engine wrote, and says the first differences in words.

use crate::point::{FieldValue, Point};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tidewatch_events::alert::Alert;

const SHOWN: usize = 10;

/// Whether two floats are the same number up to the last digits of its text.
fn same_number(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

fn same_value(a: &FieldValue, b: &FieldValue) -> bool {
    match (a, b) {
        (FieldValue::Float(a), FieldValue::Float(b)) => same_number(*a, *b),
        _ => a == b,
    }
}

struct Differences {
    count: usize,
    text: String,
}

impl Differences {
    fn new() -> Differences {
        Differences { count: 0, text: String::new() }
    }

    fn add(&mut self, line: String) {
        self.count += 1;
        if self.count <= SHOWN {
            let _ = writeln!(self.text, "  {line}");
        }
    }

    fn result(self, what: &str) -> Result<(), String> {
        match self.count {
            0 => Ok(()),
            n => Err(format!("{what}: {n} differences, the first {}:\n{}", n.min(SHOWN), self.text)),
        }
    }
}

/// Compares points with the text of `metrics.lp`: the same points, each once, in order, with the same types; floats as
/// numbers.
pub fn compare_points(expected: &[Point], metrics_lp: &str) -> Result<(), String> {
    let mut differences = Differences::new();
    let mut found = Vec::new();
    for (i, line) in metrics_lp.lines().enumerate() {
        match Point::parse(line) {
            Ok(point) => found.push(point),
            Err(error) => differences.add(format!("line {}: {error}", i + 1)),
        }
    }
    for pair in found.windows(2) {
        match pair[0].identity().cmp(&pair[1].identity()) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => differences.add(format!("twice: {}", pair[1].line())),
            std::cmp::Ordering::Greater => {
                differences.add(format!("out of order: {} after {}", pair[1].line(), pair[0].line()))
            }
        }
    }
    let mut found: BTreeMap<_, &Point> = found.iter().map(|p| (p.identity(), p)).collect();
    for want in expected {
        match found.remove(&want.identity()) {
            None => differences.add(format!("missing: {}", want.line())),
            Some(got) => {
                let names = want.fields.keys().chain(got.fields.keys().filter(|name| !want.fields.contains_key(*name)));
                let wrong: Vec<String> = names
                    .filter(|name| match (want.fields.get(*name), got.fields.get(*name)) {
                        (Some(a), Some(b)) => !same_value(a, b),
                        _ => true,
                    })
                    .map(|name| {
                        format!("{name} want {} got {}", show(want.fields.get(name)), show(got.fields.get(name)))
                    })
                    .collect();
                if !wrong.is_empty() {
                    differences.add(format!(
                        "{} {:?} {}: {}",
                        want.measurement,
                        want.tags,
                        want.time,
                        wrong.join("; ")
                    ));
                }
            }
        }
    }
    found.values().for_each(|extra| differences.add(format!("not expected: {}", extra.line())));
    differences.result("points")
}

fn show(value: Option<&FieldValue>) -> String {
    value.map_or("nothing".to_owned(), |v| format!("{v:?}"))
}

/// Compares alerts with the text of `alerts.jsonl`: the same alerts in the same order with the same keys; numbers as
/// numbers.
pub fn compare_alerts(expected: &[Alert], alerts_jsonl: &str) -> Result<(), String> {
    let mut differences = Differences::new();
    let lines: Vec<&str> = alerts_jsonl.lines().collect();
    if lines.len() != expected.len() {
        differences.add(format!("want {} alerts, got {}", expected.len(), lines.len()));
    }
    for (i, (want, line)) in expected.iter().zip(&lines).enumerate() {
        let place = format!("line {} ({} {:?} {})", i + 1, want.rule, want.subject, want.first);
        match (serde_json::to_value(want), serde_json::from_str::<Value>(line)) {
            (Ok(want), Ok(got)) => compare_json(&place, &want, &got, &mut differences),
            (want, got) => differences.add(format!("{place}: {:?} {:?}", want.err(), got.err())),
        }
    }
    let ids: Vec<String> = (lines.iter())
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("id")?.as_str().map(str::to_owned))
        .collect();
    for want in expected.iter().filter(|a| !ids.contains(&a.id)) {
        differences
            .add(format!("missing: {} {:?} {} to {}, id {}", want.rule, want.subject, want.first, want.last, want.id));
    }
    for extra in ids.iter().filter(|id| !expected.iter().any(|a| a.id == **id)) {
        differences.add(format!("not expected: id {extra}"));
    }
    differences.result("alerts")
}

fn compare_json(place: &str, want: &Value, got: &Value, differences: &mut Differences) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, value) in want {
                match got.get(key) {
                    Some(other) => compare_json(&format!("{place} {key}"), value, other, differences),
                    None => differences.add(format!("{place}: no {key}")),
                }
            }
            for key in got.keys().filter(|key| !want.contains_key(*key)) {
                differences.add(format!("{place}: {key} is not expected"));
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (i, (a, b)) in want.iter().zip(got).enumerate() {
                compare_json(&format!("{place}[{i}]"), a, b, differences);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| same_number(a, b)) => {}
        _ if want == got => {}
        _ => differences.add(format!("{place}: want {want} got {got}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn points_are_compared_by_what_they_say() {
        let p = |host: &str, n: u64, x: f64| Point::new("m", 5, &[("host", host)]).int("n", n).float("x", x);
        let want = [p("a", 1, 0.1), p("b", 2, 1.0)];
        let rows: &[(&str, &str, Option<&str>)] = &[
            ("the same", "m,host=a n=1i,x=0.1 5\nm,host=b n=2i,x=1.0 5\n", None),
            ("another text of the same number", "m,host=a n=1i,x=1e-1 5\nm,host=b n=2i,x=1 5\n", None),
            ("another number", "m,host=a n=1i,x=0.1 5\nm,host=b n=2i,x=1.0001 5\n", Some("x want Float(1.0)")),
            ("another type", "m,host=a n=1i,x=0.1 5\nm,host=b n=2,x=1.0 5\n", Some("n want Int(2)")),
            ("a field less", "m,host=a n=1i,x=0.1 5\nm,host=b n=2i 5\n", Some("got nothing")),
            ("a field more", "m,host=a n=1i,x=0.1 5\nm,host=b n=2i,x=1.0,y=1 5\n", Some("y want nothing")),
            ("missing", "m,host=a n=1i,x=0.1 5\n", Some("missing: m,host=b")),
            ("another time", "m,host=a n=1i,x=0.1 6\nm,host=b n=2i,x=1.0 5\n", Some("missing: m,host=a")),
            (
                "one more",
                "m,host=a n=1i,x=0.1 5\nm,host=b n=2i,x=1.0 5\nm,host=c n=2i 5\n",
                Some("not expected: m,host=c"),
            ),
            ("twice", "m,host=a n=1i,x=0.1 5\nm,host=a n=1i,x=0.1 5\nm,host=b n=2i,x=1.0 5\n", Some("twice")),
            ("out of order", "m,host=b n=2i,x=1.0 5\nm,host=a n=1i,x=0.1 5\n", Some("out of order")),
            ("no line", "m,host=a n=1i,x=0.1 5\nm,host=b n=2i,x=1.0 5\nboo\n", Some("line 3")),
        ];
        for (name, text, problem) in rows {
            match (compare_points(&want, text), problem) {
                (Ok(()), None) => {}
                (Err(report), Some(part)) => assert!(report.contains(part), "{name}: {report}"),
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }

    #[test]
    fn alerts_are_compared_key_by_key() {
        let alert = Alert { value: 3.0, evidence: vec!["a".into()], ..testing::alert() };
        let same = serde_json::to_string(&alert).unwrap();
        let want = [alert];
        assert_eq!(compare_alerts(&want, &format!("{same}\n")), Ok(()));
        assert_eq!(compare_alerts(&want, &same.replace("3.0", "3")), Ok(()), "another text of the number");
        for (from, to) in [
            ("3.0", "3.1"),
            ("\"a\"", "\"b\""),
            ("firing", "resolved"),
            ("\"key\"", "\"kei\""),
            ("\"a\"", "\"a\",\"b\""),
        ] {
            assert_ne!(compare_alerts(&want, &same.replace(from, to)), Ok(()), "{from} {to}");
        }
        assert!(compare_alerts(&want, "").unwrap_err().contains("missing"));
        assert!(compare_alerts(&[], &same).unwrap_err().contains("not expected"));
    }
}
