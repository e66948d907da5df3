//! Every key of a file of cases for `rules test`, as [`super::schema`] has it for the configuration.

use super::schema::{Absent, Kind, NONE, Section, key};
use Absent::{Is, Nothing, Required};

/// `[[case]]`.
pub static CASE: Section = Section {
    path: "case",
    many: true,
    doc: "Lines, and the alerts that one rule is expected to raise on them.",
    keys: &[
        key("name", Kind::Text, Required, "What it shows."),
        key("rule", Kind::Name, Required, "The rule that it is about."),
        key("lines", Kind::Text, Nothing("`file` is read"), "Log lines: a text of several lines, or a list."),
        key("file", Kind::Path, NONE, "A file to read instead, relative to the file of cases."),
        key("source", Kind::Name, NONE, "The source of the configuration that says how the lines are read."),
        key("format", Kind::Format, Is("auto"), "The format of the lines."),
        key("fields", Kind::Map, NONE, "For `nginx-json`, as in `[[source]]`."),
        key("host", Kind::Text, NONE, "The host of lines that name none."),
        key("alerts", Kind::Whole(0, 1_000_000), Required, "The alerts expected: how many, or a list of them."),
    ],
};

/// An entry of `lines` that is a table.
pub static LINE: Section = Section {
    path: "case.lines",
    many: true,
    doc: "A line that comes several times.",
    keys: &[
        key("line", Kind::Text, Required, "The line; `{n}` counts from 0, `{nn}` with two digits."),
        key("repeat", Kind::Whole(1, 1_000_000), Is("1"), "How many times it comes."),
    ],
};

/// `[[case.alerts]]`.
pub static ALERT: Section = Section {
    path: "case.alerts",
    many: true,
    doc: "An alert that is expected.",
    keys: &[
        key("subject", Kind::Map, Nothing("any"), "What it is about: field and value."),
        key("fired", Kind::Date, Nothing("any"), "When it fires."),
        key("severity", Kind::Choice(&["info", "low", "medium", "high", "critical"]), Nothing("any"), "Its severity."),
        key("value", Kind::Number(0.0), Nothing("any"), "Its highest value."),
    ],
};
