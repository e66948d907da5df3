//! `--sweep rule.ip-spike.threshold=50..500:50`: the values that one key of one rule takes, one after the other.

use crate::config::diagnostic::nearest;
use crate::config::setting::Setting;
use crate::config::{Config, Diagnostic, values};
use tidewatch_events::time::Millis;

/// The most values of a sweep. Values that make windows differ are counted one by one.
pub const MOST: u64 = 32;

/// How a sweep is written.
const EXAMPLE: &str =
    "write --sweep rule.ip-spike.threshold=50..500:50, which is FROM..TO:STEP; lengths of time as 10s..60s:10s";

/// What is swept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// As it is written.
    text: String,
    /// The rule and the key, with each value.
    pub settings: Vec<Setting>,
}

/// A number with digits behind the point, as a whole number of the last of them.
#[derive(Clone, Copy)]
struct Decimal {
    digits: u64,
    places: u32,
}

impl Sweep {
    /// Reads what is written.
    ///
    /// # Errors
    /// Where it says no values, or too many.
    pub fn parse(text: &str) -> Result<Sweep, Box<Diagnostic>> {
        let wrong = |words: String| Box::new(Diagnostic::error(format!("--sweep {text}: {words}")).hint(EXAMPLE));
        let unclear = || wrong("it is not a rule, a key and a range".to_owned());
        let (name, range) = text.split_once('=').ok_or_else(unclear)?;
        let (rule, key) = name.strip_prefix("rule.").and_then(|name| name.rsplit_once('.')).ok_or_else(unclear)?;
        let key = Setting::key_of(key).map_err(|mut problem| {
            problem.message = format!("--sweep {text}: {}", problem.message);
            problem
        })?;
        let (from, rest) = range.split_once("..").ok_or_else(unclear)?;
        let (to, step) = rest.split_once(':').ok_or_else(unclear)?;
        let bounds = [from, to, step];
        let values = match (bounds.map(Decimal::parse), bounds.map(values::parse_length)) {
            ([Some(from), Some(to), Some(step)], _) => {
                let places = from.places.max(to.places).max(step.places);
                let scaled = [from, to, step].map(|number| number.scaled(places));
                let [Some(from), Some(to), Some(step)] = scaled else {
                    return Err(wrong("its numbers are too large".to_owned()));
                };
                (steps(from, to, step).map_err(wrong)?, Some(places))
            }
            (_, [Some(from), Some(to), Some(step)]) => (steps(from.0, to.0, step.0).map_err(wrong)?, None),
            _ => return Err(wrong(format!("{from}, {to} and {step} are neither all numbers nor all lengths of time"))),
        };
        let shown = |value: &u64| match values.1 {
            Some(places) => Decimal { digits: *value, places }.show(),
            None => Millis(*value).to_string(),
        };
        let setting = |value: &u64| Setting { rule: rule.to_owned(), key, value: shown(value) };
        Ok(Sweep { text: text.to_owned(), settings: values.0.iter().map(setting).collect() })
    }

    /// What is swept: `ip-spike threshold`.
    pub fn name(&self) -> String {
        self.settings.first().map_or_else(String::new, |setting| format!("{} {}", setting.rule, setting.key))
    }

    /// What is wrong with it for a configuration: there is no such rule, or it is off.
    pub fn problem(&self, config: &Config) -> Option<Diagnostic> {
        let rule = &self.settings.first()?.rule;
        let known = || config.all_rules.iter().map(|entry| entry.rule.name.as_str());
        match config.all_rules.iter().find(|entry| entry.rule.name == *rule) {
            Some(entry) if entry.enabled => None,
            Some(_) => Some(self.error(format!("the rule {rule} is turned off (enabled = false)"))),
            None => {
                let hint = nearest(rule, known()).map_or_else(
                    || format!("the rules are {}", known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean {near}?"),
                );
                Some(self.error(format!("there is no rule {rule:?}")).hint(hint))
            }
        }
    }

    /// Something is wrong with it.
    pub fn error(&self, words: String) -> Diagnostic {
        Diagnostic::error(format!("--sweep {}: {words}", self.text))
    }
}

/// The values of a range with its ends.
fn steps(from: u64, to: u64, step: u64) -> Result<Vec<u64>, String> {
    if step == 0 {
        return Err("its step is 0".into());
    }
    if from > to {
        return Err("it ends before it begins".into());
    }
    let count = ((to - from) / step).saturating_add(1);
    if count > MOST {
        return Err(format!("it has {count} values, and at most {MOST} are compared at a time: make the step larger"));
    }
    Ok((0..count).map(|n| from + n * step).collect())
}

impl Decimal {
    fn parse(text: &str) -> Option<Decimal> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_decimal = !whole.is_empty() && is_number(whole) && is_number(part) && !text.ends_with('.');
        let digits = format!("{whole}{part}").parse().ok().filter(|_| is_decimal)?;
        Some(Decimal { digits, places: part.len() as u32 })
    }

    fn scaled(self, places: u32) -> Option<u64> {
        10u64.checked_pow(places - self.places)?.checked_mul(self.digits)
    }

    fn show(self) -> String {
        let Decimal { digits, places } = self;
        if places == 0 {
            return digits.to_string();
        }
        let digits = format!("{digits:0width$}", width = places as usize + 1);
        let (whole, part) = digits.split_at(digits.len() - places as usize);
        format!("{whole}.{part}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_its_values() {
        // what is written, the values
        let rows: &[(&str, &[&str])] = &[
            ("50..200:50", &["50", "100", "150", "200"]),
            ("50..99:50", &["50"]),
            ("7..7:1", &["7"]),
            ("0.05..0.2:0.05", &["0.05", "0.1", "0.15", "0.2"]),
            ("1..2:0.5", &["1", "1.5", "2"]),
            ("10s..1m:25s", &["10s", "35s", "1m"]),
            ("500ms..2s:500ms", &["500ms", "1s", "1500ms", "2s"]),
        ];
        for (range, want) in rows {
            let sweep = Sweep::parse(&format!("rule.my.rule.threshold={range}")).unwrap();
            let values: Vec<&str> = sweep.settings.iter().map(|setting| setting.value.as_str()).collect();
            assert_eq!(values, *want, "{range}");
            assert_eq!(sweep.name(), "my.rule threshold");
        }
    }

    #[test]
    fn what_is_no_sweep_is_said() {
        let rows: &[(&str, &str)] = &[
            ("", "it is not a rule, a key and a range"),
            ("rule.a.threshold", "it is not a rule, a key and a range"),
            ("a.threshold=1..2:1", "it is not a rule, a key and a range"),
            ("rule.threshold=1..2:1", "it is not a rule, a key and a range"),
            ("rule.a.threshold=1..2", "it is not a rule, a key and a range"),
            ("rule.a.treshold=1..2:1", "`treshold` is no key of a rule that is a number or a length of time"),
            ("rule.a.threshold=1..2:0", "its step is 0"),
            ("rule.a.threshold=2..1:1", "it ends before it begins"),
            ("rule.a.threshold=1..33:1", "it has 33 values, and at most 32"),
            ("rule.a.threshold=0..18446744073709551615:1", "values, and at most 32"),
            ("rule.a.threshold=1..2s:1", "1, 2s and 1 are neither all numbers nor all lengths of time"),
            ("rule.a.threshold=-1..2:1", "-1, 2 and 1 are neither all numbers"),
            ("rule.a.threshold=1...2:1", "neither all numbers"),
            ("rule.a.threshold=1..18446744073709551615:0.1", "its numbers are too large"),
        ];
        for (text, want) in rows {
            let message = Sweep::parse(text).unwrap_err().message;
            assert!(message.starts_with("--sweep ") && message.contains(want), "{text}: {message}");
        }
        assert_eq!(Sweep::parse("rule.a.threshold=1..32:1").unwrap().settings.len(), 32);
    }
}
