//! What an answer to a write means, and which lines it speaks of. No I/O: every case is a row of a table.

use super::http::Answer;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tidewatch_events::line_protocol::{FieldValue, parse_line, split_line};
use tidewatch_events::text;

/// The most of the server's own words that is passed on.
const MAX_WORDS: usize = 500;

/// What version 3 answers to a write without lines, with 400, once it has looked at token and bucket.
pub(super) const EMPTY: &str = "incoming write was empty";

/// What version 3 says of a write that it took but for some lines: with their numbers and 400 by its own API, alone and with 500
/// by that of version 2.
const PARTIAL: &str = "partial write of line protocol occurred";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All lines are written.
    Written,
    /// Nothing wrong with the lines: try again.
    Later { words: String, after: Option<Duration> },
    /// Nothing will work before a person changes something.
    Person(String),
    /// Some lines are bad. Whether the others were written does not matter: they may be written again.
    Bad(Complaint),
    /// The request is too large.
    TooLarge(String),
    /// The server failed inside: it may be ill, or not able to read this very request.
    Fault { words: String, after: Option<Duration> },
}

/// A complaint about lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The server's words, bounded and safe to show.
    pub words: String,
    /// All of them, to find lines by.
    message: String,
    /// Lines named by number, from 0.
    numbered: BTreeMap<usize, String>,
    /// Whether other lines of the request were written: then the server works.
    pub others_written: bool,
}

/// The two shapes of error bodies: version 2's `code` and `message`, version 3's `error` and `data`.
#[derive(Default, Deserialize)]
struct Body {
    message: Option<String>,
    error: Option<String>,
    #[serde(default)]
    data: serde_json::Value,
}

/// Judges an answer of the server at `address`.
pub(super) fn judge(answer: &Answer, address: &str) -> Verdict {
    let body = serde_json::from_slice::<Body>(&answer.body).unwrap_or_default();
    let message = body.message.or(body.error);
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(&answer.body).into_owned());
    let words = shown(&message);
    let after = answer.retry_after;
    let says = |hint: &str| {
        let words = if words.is_empty() { "nothing more" } else { &words };
        format!("InfluxDB at {address} answered {}: {words}{hint}", answer.status)
    };
    match answer.status {
        204 | 201 => Verdict::Written,
        200..=299 => Verdict::Person(says(" (204 was expected; is this the address of an InfluxDB server?)")),
        300..=399 => Verdict::Person(says(" (redirects are not followed; set the address it leads to)")),
        400 | 422 => Verdict::Bad(Complaint {
            numbered: numbered(&body.data),
            others_written: answer.status == 422 || message.contains("partial write"),
            words,
            message,
        }),
        401 => Verdict::Person(says(" (the token is missing or not known there; `tidewatch setup influx` makes one)")),
        403 => Verdict::Person(says(
            " (the token may not write to this bucket; `tidewatch setup influx` makes one that may)",
        )),
        404 => Verdict::Person(says(" (no such organisation or bucket; `tidewatch setup influx` creates them)")),
        413 => Verdict::TooLarge(says("")),
        408 | 425 | 429 | 502 | 503 | 504 | 507 => Verdict::Later { words: says(""), after },
        500 if message == PARTIAL => {
            Verdict::Bad(Complaint { words, message, others_written: true, ..Complaint::default() })
        }
        500..=599 => Verdict::Fault { words: says(""), after },
        _ => Verdict::Person(says("")),
    }
}

/// The server's words, cut and safe to show.
pub(super) fn shown(message: &str) -> String {
    let message = message.trim();
    let cut = message.floor_char_boundary(MAX_WORDS);
    let shown = text::printable(&message.as_bytes()[..cut]);
    if cut < message.len() { format!("{shown} …") } else { shown.into_owned() }
}

/// Version 3: `"data": [{"line_number": 2, "error_message": "…"}]`, numbers from 1.
fn numbered(data: &serde_json::Value) -> BTreeMap<usize, String> {
    let entries = match data {
        serde_json::Value::Array(entries) => &entries[..],
        serde_json::Value::Null => &[],
        entry => std::slice::from_ref(entry),
    };
    let named = entries.iter().filter_map(|entry| {
        let line = usize::try_from(entry.get("line_number")?.as_u64()?).ok()?.checked_sub(1)?;
        Some((line, shown(entry.get("error_message").and_then(|m| m.as_str()).unwrap_or("refused"))))
    });
    named.collect()
}

/// The lines a complaint is about, by position, each with the words for it; empty where it does not say, or not surely.
pub(super) fn bad_lines(complaint: &Complaint, lines: &[&[u8]]) -> BTreeMap<usize, String> {
    let mut bad = complaint.numbered.clone();
    bad.retain(|line, _| *line < lines.len());
    if bad.is_empty() {
        bad = quoted(&complaint.message, lines);
    }
    if bad.is_empty() {
        bad = dropped(complaint, lines);
    }
    bad
}

fn bare(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Version 2 quotes every line it cannot parse: `unable to parse 'LINE': WORDS`, one below the other.
fn quoted(message: &str, lines: &[&[u8]]) -> BTreeMap<usize, String> {
    let mut by_text: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut bad = BTreeMap::new();
    for quote in message.lines().filter_map(|l| l.strip_prefix("unable to parse '")) {
        if by_text.is_empty() {
            lines.iter().enumerate().for_each(|(i, line)| by_text.entry(bare(line)).or_default().push(i));
        }
        // The line itself may hold what ends the quotation: the longest that is one of ours is meant.
        for (at, _) in quote.rmatch_indices("': ") {
            if let Some(positions) = by_text.get(&quote.as_bytes()[..at]) {
                positions.iter().for_each(|i| _ = bad.insert(*i, shown(&quote[at + 3..])));
                break;
            }
        }
    }
    bad
}

/// Version 2 counts what it dropped, and says why for one of them. Only what follows for sure is named.
fn dropped(complaint: &Complaint, lines: &[&[u8]]) -> BTreeMap<usize, String> {
    let message = &complaint.message;
    let digits = message.rsplit_once("dropped=").map_or("", |(_, rest)| rest);
    let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
    let Some(count) = digits.parse::<usize>().ok().filter(|n| *n > 0) else { return BTreeMap::new() };
    // A bucket may refuse what is too far in the future, too: then the oldest are not the ones.
    let too_old = message.contains("retention policy") && !message.contains("Upper Bound");
    let positions: Vec<usize> = if count == lines.len() {
        (0..count).collect()
    } else if too_old {
        oldest(count, lines)
    } else {
        conflicting(message, lines).filter(|found| found.len() == count).unwrap_or_default()
    };
    positions.into_iter().map(|i| (i, complaint.words.clone())).collect()
}

/// The `count` oldest lines, if the next one is younger.
fn oldest(count: usize, lines: &[&[u8]]) -> Vec<usize> {
    let times: Option<Vec<_>> = lines.iter().map(|line| Some(split_line(line)?.time)).collect();
    let Some(times) = times else { return Vec::new() };
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|i| times[*i]);
    match order.get(count) {
        Some(next) if times[*next] > times[order[count - 1]] => order[..count].to_vec(),
        _ => Vec::new(),
    }
}

/// `input field "F" on measurement "M" is type T, already exists as type U`: the lines of M with an F of type T.
fn conflicting(message: &str, lines: &[&[u8]]) -> Option<Vec<usize>> {
    let rest = message.split_once("input field \"")?.1;
    let (field, rest) = rest.split_once("\" on measurement \"")?;
    let (measurement, rest) = rest.split_once("\" is type ")?;
    let kind = rest.split_once(',')?.0;
    let conflicts = |line: &&[u8]| {
        let point = parse_line(std::str::from_utf8(line).ok()?).ok()?;
        let is = match point.field(field)? {
            FieldValue::Int(_) => "integer",
            FieldValue::Float(_) => "float",
            FieldValue::Text(_) => "string",
            FieldValue::Boolean(_) => "boolean",
        };
        (point.measurement == measurement && is == kind).then_some(())
    };
    Some(lines.iter().enumerate().filter(|(_, line)| conflicts(line).is_some()).map(|(i, _)| i).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after: Some(Duration::from_secs(7)), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn every_answer_has_a_meaning() {
        let rows: &[(u16, &str)] = &[
            (204, "written"),
            (201, "written"),
            (200, "person"),
            (301, "person"),
            (400, "bad"),
            (401, "person"),
            (403, "person"),
            (404, "person"),
            (405, "person"),
            (408, "later"),
            (413, "large"),
            (422, "bad"),
            (429, "later"),
            (500, "fault"),
            (502, "later"),
            (503, "later"),
            (504, "later"),
            (599, "fault"),
            (0, "person"),
        ];
        for (status, want) in rows {
            let (got, words) =
                match judge(&answer(*status, r#"{"code":"c","message":"the \u001b[1mwords"}"#), "http://h") {
                    Verdict::Written => ("written", String::new()),
                    Verdict::Later { words, after } => {
                        assert_eq!(after, Some(Duration::from_secs(7)));
                        ("later", words)
                    }
                    Verdict::Person(words) => ("person", words),
                    Verdict::Bad(complaint) => ("bad", complaint.words),
                    Verdict::TooLarge(words) => ("large", words),
                    Verdict::Fault { words, .. } => ("fault", words),
                };
            assert_eq!(got, *want, "{status}");
            assert!(got == "written" || words.contains("the \\x1B[1mwords"), "{status}: {words}");
        }
        let long = judge(&answer(401, &"<html>".repeat(10_000)), "http://h");
        assert!(matches!(long, Verdict::Person(words) if words.len() < 800));
    }

    #[test]
    fn lines_are_named_where_the_answer_says_which() {
        let lines =
            ["m x=1i 10\n", "m x=2 20\n", "bad\n", "m s=\"': \" 30\n", "m x=2 20\n", "n x=3i 5\n", "m y=1i 1\n"];
        let conflict = |n: usize| {
            format!(
                "partial write: field type conflict: input field \\\"x\\\" on measurement \\\"m\\\" is type float, already exists as type integer dropped={n}"
            )
        };
        let bound = "dropped because it violates a Retention Policy Lower Bound at B";
        let retention = |n: usize| {
            format!(
                "failure writing points to database: partial write: dropped {n} points outside retention policy of duration \
                 24h0m0s - oldest point m at A {bound}, newest point m at A {bound} dropped={n} for database: 77f562 for \
                 retention policy: autogen"
            )
        };
        let v2 = |message: String| format!("{{\"code\":\"invalid\",\"message\":\"{message}\"}}");
        let rows: &[(&str, String, &[usize])] = &[
            ("nothing said", String::new(), &[]),
            ("html", "<html>unable to parse 'bad': no</html>".into(), &[]),
            ("quoted", v2("unable to parse 'bad': missing fields".into()), &[2]),
            ("twice there", v2("unable to parse 'm x=2 20': why".into()), &[1, 4]),
            (
                "several",
                v2("unable to parse 'bad': missing fields\\nunable to parse 'm x=1i 10': why': so".into()),
                &[0, 2],
            ),
            ("with the end of a quotation in it", v2("unable to parse 'm s=\\\"': \\\" 30': why".into()), &[3]),
            ("a line that is not ours", v2("unable to parse 'good': missing fields".into()), &[]),
            ("types", v2(conflict(2)), &[1, 4]),
            ("types, and more", v2(conflict(3)), &[]),
            ("all", v2(conflict(7)), &[0, 1, 2, 3, 4, 5, 6]),
            ("none", v2(conflict(0)), &[]),
            (
                "numbers",
                r#"{"error":"partial write of line protocol occurred","data":[{"line_number":3,"error_message":"e"}]}"#
                    .into(),
                &[2],
            ),
            ("one number", r#"{"error":"e","data":{"line_number":1}}"#.into(), &[0]),
            ("no such number", r#"{"error":"e","data":[{"line_number":0},{"line_number":8}]}"#.into(), &[]),
        ];
        for (name, body, want) in rows {
            let Verdict::Bad(complaint) = judge(&answer(422, body), "http://h") else { panic!("{name}") };
            let lines: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).collect();
            let got: Vec<usize> = bad_lines(&complaint, &lines).into_keys().collect();
            assert_eq!(got, *want, "{name}");
        }
        let lines: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).filter(|l| *l != b"bad\n").collect();
        for (name, n, want) in
            [("the oldest", 2, &[4, 5][..]), ("of equal age", 4, &[]), ("the three oldest", 3, &[0, 4, 5])]
        {
            let Verdict::Bad(complaint) = judge(&answer(422, &v2(retention(n))), "http://h") else { panic!() };
            assert_eq!(bad_lines(&complaint, &lines).into_keys().collect::<Vec<_>>(), want, "{name}");
        }
        let future = v2(retention(2).replace("Lower", "Upper"));
        let Verdict::Bad(complaint) = judge(&answer(422, &future), "http://h") else { panic!() };
        assert!(bad_lines(&complaint, &lines).is_empty(), "too far in the future");
    }
}
