//! The long-term bucket of `setup influx`, and the tasks by which the server itself fills it.
//!
//! The tasks are `influx/tasks/*.flux`, which name the buckets of the default configuration: here they get the real names. A task
//! whose text differs is replaced, one that a person paused stays paused.

use super::InfluxError;
use super::check::{ask, get};
use super::http::Http;
use super::setup::{SetupReport, text};
use serde_json::json;

/// The tasks: name in the file, text.
const TASKS: [(&str, &str); 2] = [
    ("tidewatch minutes", include_str!("../../../influx/tasks/minutes.flux")),
    ("tidewatch hours", include_str!("../../../influx/tasks/hours.flux")),
];

/// Makes the tasks that sum up `raw` into `long`, or brings them up to date.
pub(super) fn tasks(
    http: &Http,
    org: &str,
    raw: &str,
    long: &str,
    report: &mut SetupReport,
) -> Result<(), InfluxError> {
    for (name, script) in TASKS {
        let (name, flux) = filled(name, script, raw, long);
        let found = get(http, "api/v2/tasks", &[("orgID", org), ("name", &name)])?;
        let Some(task) = found["tasks"].get(0) else {
            ask(http, "POST", "api/v2/tasks", &json!({ "orgID": org, "flux": flux, "status": "active" }))?;
            report.steps.push(format!("made task \"{name}\""));
            continue;
        };
        if task["flux"] == *flux {
            let state = if task["status"] == "inactive" { ", paused" } else { "" };
            report.steps.push(format!("task \"{name}\" is there{state}"));
            continue;
        }
        let id = text(&task["id"], "the task's id")?;
        ask(http, "PATCH", &format!("api/v2/tasks/{id}"), &json!({ "flux": flux }))?;
        report.steps.push(format!("task \"{name}\" now says what this release says"));
    }
    Ok(())
}

/// A task's name and text with the names of these buckets.
fn filled(name: &str, script: &str, raw: &str, long: &str) -> (String, String) {
    let full = format!("{name} of {raw}");
    let flux = script
        .replacen(&format!("name: \"{name}\""), &format!("name: {}", literal(&full)), 1)
        .replacen("raw = \"tidewatch\"", &format!("raw = {}", literal(raw)), 1)
        .replacen("long = \"tidewatch_long\"", &format!("long = {}", literal(long)), 1);
    (full, flux)
}

/// A text of Flux.
fn literal(words: &str) -> String {
    let mut out = String::from("\"");
    for c in words.chars() {
        match c {
            '"' | '\\' | '$' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '), // no bucket has one
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_the_names_of_the_buckets_and_nothing_of_the_default_ones() {
        for (name, script) in TASKS {
            let (full, flux) = filled(name, script, "we\"b ${x}\\", "old");
            assert_eq!(full, format!("{name} of we\"b ${{x}}\\"));
            let rows = [
                ("task", format!(r#"option task = {{name: "{name} of we\"b \${{x}}\\", every:"#)),
                ("bucket", "raw = \"we\\\"b \\${x}\\\\\"\n".to_owned()),
                ("long-term bucket", "long = \"old\"\n".to_owned()),
            ];
            for (row, want) in rows {
                assert_eq!(flux.matches(&want).count(), 1, "{name}, {row}: {flux}");
            }
            assert!(!flux.contains("\"tidewatch\"") && !flux.contains("\"tidewatch_long\""), "{name}: {flux}");
        }
    }
}
