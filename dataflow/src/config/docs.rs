//! docs/CONFIG.md, printed from the schema and the built-in rules.

use super::measure;
use super::rules::{self, RuleEntry};
use super::schema::{Absent, Key, SECTIONS, Section};
use std::fmt::Write as _;
use tidewatch_events::field::Field;

const INTRO: &str = "\
# Configuration

Printed by `tidewatch config-docs`; a test compares it with the code.

A configuration is a TOML file given with `-c`. Every key has a default unless it says *required*. Unknown keys are errors;
`tidewatch check -c FILE` reports every problem with its place. Relative paths start from the directory Tidewatch is started in.

| value | how it is written |
|---|---|
| length of time | a whole number and `ms`, `s`, `m`, `h` or `d`: `\"500ms\"`, `\"30s\"`, `\"30d\"` |
| size | a whole number and `B`, `KiB`, `MiB`, `GiB`, `TiB` (or `KB`, `MB`, `GB`, `TB`): `\"1GiB\"` |
| secret | `\"${NAME}\"`: the environment variable; `\"file:/run/secrets/token\"`: the file's content; else the text itself |
| network | `\"10.0.0.0/8\"`, `\"2001:db8::/32\"`, or one address |
| filter | `{ status = [404, 410], \"path\\|startswith\" = \"/admin\", not = { user_agent = \"*Bot*\" } }`: see [Filters](#filters) |
| measure | `count`, `distinct(field)`, `sum(field)`, `avg(field)`, `quantile(field, 0.95)`, `ratio({status\\|gte=500})`, `dark_paths(2)` |
";

const FILTERS: &str = "
## Filters

A filter is a table of tests: `\"FIELD|MODIFIER\" = VALUE`, or a list of values of which one must match. All tests of a
table must hold; `not = { … }` holds where not all of its tests do, `any = [{ … }, { … }]` where those of one table do. Letters
match in either case. `\"FIELD|exists\" = false` matches lines without the field.

| modifier | an event matches where |
|---|---|
| none | the field is equal to the value; in texts `*` stands for anything, `?` for one character, and `\\*`, `\\?`, `\\\\` for themselves |
| `contains`, `startswith`, `endswith` | the text holds, begins with or ends with the value, with the same wildcards |
| `re` | a regular expression matches somewhere in the text, with case; `i`, `m` and `s` after it are its flags: `path\\|re\\|i` |
| `cidr` | the client's address is in the network |
| `gt`, `gte`, `lt`, `lte` | the number is greater, or less; a worse `severity` is greater |
| `exists` | `true`: the line has the field; `false`: it has not |
| `cased` | the text matches with case, beside another modifier or none |
| `all` | every value of the list matches, not only one |
";

/// The whole document.
pub fn markdown() -> String {
    let mut out = INTRO.to_owned();
    for section in SECTIONS {
        push_section(&mut out, section, "##");
    }
    out.push_str(FILTERS);
    out.push_str("\n| field | what it is |\n|---|---|\n");
    for (field, name) in Field::ALL {
        let _ = writeln!(out, "| `{name}` | {} |", field.meaning());
    }
    out.push_str("\n## Built-in rules\n\n");
    out.push_str("| rule | where | by | measure | window / hop | fires at | resolves after | severity |\n|---|---|---|---|---|---|---|---|\n");
    for RuleEntry { rule, .. } in rules::built_in() {
        let filter = if rule.filter.is_empty() { "every event".into() } else { code(&rule.filter.describe()) };
        let group: Vec<&str> = rule.group_by.iter().map(|field| field.name()).collect();
        let mut condition = format!("≥ {}", rule.threshold);
        if let Some(factor) = rule.baseline_factor {
            let _ = write!(condition, " and {factor} × baseline");
            if let Some(ceiling) = rule.ceiling {
                let _ = write!(condition, ", or ≥ {ceiling}");
            }
        }
        if rule.at_least > 1 {
            let _ = write!(condition, ", of at least {} events", rule.at_least);
        }
        let _ = writeln!(
            out,
            "| `{}` | {filter} | {} | {} | {} / {} | {condition} | {} | {} |",
            rule.name,
            group.join(", "),
            code(&measure::show(&rule.measure)),
            rule.window,
            rule.hop,
            rule.resolve_after,
            rule.severity.as_str(),
        );
    }
    push_ship(&mut out);
    out
}

/// The host agent has a file of its own.
fn push_ship(out: &mut String) {
    out.push_str("\n## The host agent\n\n`ship.toml`, given to `tidewatch ship -c` (docs/SHIP.md).\n");
    for section in super::schema_ship::SECTIONS.into_iter().filter(|section| section.path != "source.security") {
        push_section(out, section, "###");
    }
}

fn push_section(out: &mut String, section: &Section, level: &str) {
    let heading = match section.path {
        "" => "Top level".to_owned(),
        path if section.many => format!("`[[{path}]]`"),
        path => format!("`[{path}]`"),
    };
    let _ = write!(out, "\n{level} {heading}\n\n{}\n", section.doc);
    out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        push_key(out, key);
    }
}

fn push_key(out: &mut String, key: &Key) {
    let default = match key.default {
        Absent::Is(text) => code(text),
        Absent::Nothing(words) => words.to_owned(),
        Absent::Required => "*required*".to_owned(),
    };
    let mut doc = key.doc.to_owned();
    if !key.only.is_empty() {
        let kinds: Vec<String> = key.only.iter().map(|kind| format!("`{kind}`")).collect();
        doc = format!("({}) {doc}", kinds.join(", "));
    }
    let _ = writeln!(out, "| `{}` | {} | {default} | {doc} |", key.name, key.kind.describe());
}

/// Text as code in a table's cell.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_modifier_of_filters_is_documented() {
        for modifier in tidewatch_events::filter::modifiers() {
            assert!(FILTERS.contains(&format!("`{modifier}`")), "{modifier}");
        }
    }
}
