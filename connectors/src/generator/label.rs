//! The label file: what was injected, so that alerts can be scored.

use serde::Serialize;
use std::collections::BTreeMap;
use tidewatch_events::time::EventTime;

/// One attack on one subject, as it truly happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The kind's name.
    pub kind: &'static str,
    /// The built-in rule that is expected to find it; `None` where none is.
    pub rule: Option<&'static str>,
    /// Group field → value, as the rule's alerts say it.
    pub subject: BTreeMap<&'static str, String>,
    /// Time of the first line of it.
    #[serde(serialize_with = "rfc3339")]
    pub from: EventTime,
    /// Time of the last line of it.
    #[serde(serialize_with = "rfc3339")]
    pub to: EventTime,
}

fn rfc3339<S: serde::Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The labels as JSON lines.
pub fn to_json_lines(labels: &[Label]) -> String {
    labels.iter().filter_map(|label| serde_json::to_string(label).ok()).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_line() {
        let label = Label {
            kind: "ip-spike",
            rule: Some("ip-spike"),
            subject: [("client_ip", "203.0.113.1".to_owned())].into(),
            from: EventTime(1_772_704_800_000),
            to: EventTime(1_772_704_820_000),
        };
        let want = concat!(
            r#"{"kind":"ip-spike","rule":"ip-spike","subject":{"client_ip":"203.0.113.1"},"#,
            r#""from":"2026-03-05T10:00:00.000Z","to":"2026-03-05T10:00:20.000Z"}"#,
            "\n"
        );
        assert_eq!(to_json_lines(&[label]), want);
    }
}
