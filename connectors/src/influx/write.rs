//! Writes one batch whatever lines are in it: the good ones are written, the bad ones found and named.
//!
//! The server names the bad lines, or they are found by halving. Writing a line again changes nothing, so the rest is
//! always sent once more until all of it is accepted.
//!
//! Invariants
//! - Lines are sent in their order, so that of two versions of a point the later one wins.
//! - At most [`MAX_REQUESTS`] requests a batch and one more. What is not told apart by then is refused together, if the server accepts
//!   anything at all; else nothing is refused and the batch waits.

use super::verdict::{Verdict, bad_lines};
use crate::sink::SinkError;
use std::collections::BTreeMap;
use std::time::Duration;

/// Enough to find about fifteen bad lines among five thousand that nobody names.
pub(super) const MAX_REQUESTS: usize = 250;

/// Why a batch was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// As told by the runner's contract.
    Sink(SinkError),
    /// The server failed inside.
    Fault(SinkError),
}

impl From<Failure> for SinkError {
    fn from(failure: Failure) -> SinkError {
        match failure {
            Failure::Sink(error) | Failure::Fault(error) => error,
        }
    }
}

/// Refused lines, each with the words for it.
type Refused = Vec<(String, String)>;

fn later(words: String, after: Option<Duration>) -> SinkError {
    SinkError::Retry { message: words, after }
}

fn refuse(refused: &mut Refused, line: &[u8], words: String) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    refused.push((String::from_utf8_lossy(line).into_owned(), words));
}

/// Writes `lines`; the answer lists those that were refused for good. With `suspected`, an internal error of the server is
/// taken as a complaint about some line, as long as it accepts others.
pub(super) fn write(
    lines: &[&[u8]],
    suspected: bool,
    send: &mut dyn FnMut(&[&[u8]]) -> Verdict,
) -> Result<Refused, Failure> {
    let mut refused = Refused::new();
    // What the server would not take, without proof yet that it takes anything.
    let mut unproven = Refused::new();
    let mut works = false;
    let mut failure = None;
    let mut groups: Vec<Vec<&[u8]>> = vec![lines.to_vec()];
    for _ in 0..MAX_REQUESTS {
        let Some(mut group) = groups.pop() else { break };
        let words = match send(&group) {
            Verdict::Written => {
                works = true;
                continue;
            }
            Verdict::Later { words, after } => return Err(Failure::Sink(later(words, after))),
            Verdict::Person(words) => return Err(Failure::Sink(SinkError::Refused(words))),
            Verdict::Fault { words, after } => {
                let error = Failure::Fault(later(words.clone(), after));
                if !suspected {
                    return Err(error);
                }
                failure = Some(error);
                words
            }
            Verdict::TooLarge(words) => {
                works |= group.len() == 1;
                words
            }
            Verdict::Bad(complaint) => {
                works |= complaint.others_written;
                let bad = bad_lines(&complaint, &group);
                if !bad.is_empty() {
                    // It names lines, so it reads them.
                    works = true;
                    group = take_out(group, bad, &mut refused);
                    if !group.is_empty() {
                        groups.push(group);
                    }
                    continue;
                }
                failure = Some(Failure::Sink(SinkError::Refused(complaint.words.clone())));
                complaint.words
            }
        };
        if let [line] = group[..] {
            refuse(&mut unproven, line, words);
        } else {
            let second = group.split_off(group.len() / 2);
            groups.extend([second, group]);
        }
    }
    let left: usize = groups.iter().map(Vec::len).sum();
    if !works && left == 0 && !unproven.is_empty() && !matches!(failure, Some(Failure::Fault(_))) {
        // Every line was refused alone. If a write without lines is accepted, the lines are what is wrong. (A server whose
        // disk is full accepts that too, but answers with an internal error before.)
        works = send(&[]) == Verdict::Written;
    }
    if !works && (left > 0 || !unproven.is_empty()) {
        let error = SinkError::Refused("InfluxDB takes none of the lines and does not say why".into());
        return Err(failure.unwrap_or(Failure::Sink(error)));
    }
    refused.append(&mut unproven);
    for line in groups.into_iter().rev().flatten() {
        let why = "too many bad lines in one batch to tell them apart";
        refuse(&mut refused, line, format!("one of {left} lines with at least one bad among them: {why}"));
    }
    Ok(refused)
}

/// The group without its bad lines.
fn take_out<'a>(group: Vec<&'a [u8]>, mut bad: BTreeMap<usize, String>, refused: &mut Refused) -> Vec<&'a [u8]> {
    let mut good = Vec::with_capacity(group.len());
    for (i, line) in group.into_iter().enumerate() {
        match bad.remove(&i) {
            Some(words) => refuse(refused, line, words),
            None => good.push(line),
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::super::http::Answer;
    use super::super::verdict::judge;
    use super::*;
    use proptest::prelude::*;

    /// A server that refuses lines with a given word in them, in one of several ways, and keeps the others.
    struct Fake {
        way: &'static str,
        written: Vec<String>,
        requests: usize,
    }

    impl Fake {
        fn new(way: &'static str) -> Fake {
            Fake { way, written: Vec::new(), requests: 0 }
        }

        fn answer(&mut self, lines: &[&[u8]]) -> Verdict {
            self.requests += 1;
            let lines: Vec<String> = lines.iter().map(|l| String::from_utf8(l.to_vec()).unwrap()).collect();
            let bad: Vec<&String> = lines.iter().filter(|l| l.contains("bad")).collect();
            let total: usize = lines.iter().map(String::len).sum();
            let (status, body) = match self.way {
                "ill" => (500, "{}".to_owned()),
                "not influx" => (400, "<html>no</html>".into()),
                "small" if total > 40 => (413, String::new()),
                _ if bad.is_empty() => (204, String::new()),
                "small" => (413, String::new()),
                "names" => {
                    let quotes: Vec<_> =
                        bad.iter().map(|l| format!("unable to parse '{}': why", l.trim_end())).collect();
                    (400, serde_json::json!({ "code": "invalid", "message": quotes.join("\n") }).to_string())
                }
                "silent" => (400, r#"{"code":"invalid","message":"no"}"#.into()),
                "proxy" => (400, "<html>blocked</html>".into()),
                "partial" => {
                    let message = format!("partial write: who knows dropped={}", bad.len());
                    (422, serde_json::json!({ "code": "unprocessable entity", "message": message }).to_string())
                }
                "chokes" => (500, r#"{"code":"internal error","message":"oops"}"#.into()),
                way => panic!("{way}"),
            };
            if matches!(status, 204 | 422) {
                self.written.extend(lines.iter().filter(|l| !l.contains("bad")).cloned());
            }
            judge(&Answer { status, retry_after: None, body: body.into_bytes() }, "http://fake")
        }
    }

    fn run(way: &'static str, lines: &[String], suspected: bool) -> (Result<Refused, Failure>, Fake) {
        let mut fake = Fake::new(way);
        let lines: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).collect();
        let result = write(&lines, suspected, &mut |lines| fake.answer(lines));
        assert!(fake.requests <= MAX_REQUESTS + 1, "{way}");
        (result, fake)
    }

    fn lines(n: usize, bad: &[usize]) -> Vec<String> {
        (0..n).map(|i| format!("{} x=1 {i}\n", if bad.contains(&i) { "bad" } else { "m" })).collect()
    }

    #[test]
    fn the_good_are_written_and_the_bad_are_named() {
        let rows: &[(&str, &'static str, usize, &[usize], bool)] = &[
            ("all good", "names", 10, &[], false),
            ("named by the server", "names", 5000, &[0, 17, 4999], false),
            ("all bad and named", "names", 50, &[0, 1, 2], false),
            ("found by halving", "silent", 5000, &[0, 17, 4999], false),
            ("one line", "silent", 1, &[0], false),
            ("something in between objects", "proxy", 1000, &[5], false),
            ("and to a single line", "proxy", 1, &[0], false),
            (
                "all refused alone",
                "silent",
                20,
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19],
                false,
            ),
            ("partly written", "partial", 5000, &[1, 2, 4000], false),
            ("larger than the server likes", "small", 100, &[7], false),
            ("the server chokes on one", "chokes", 1000, &[999], true),
        ];
        for (name, way, n, bad, suspected) in rows {
            let lines = lines(*n, bad);
            let (result, fake) = run(way, &lines, *suspected);
            let mut refused: Vec<String> = result.unwrap().into_iter().map(|(line, _)| line + "\n").collect();
            refused.sort();
            let mut want: Vec<String> = lines.iter().filter(|l| l.contains("bad")).cloned().collect();
            want.sort();
            assert_eq!(refused, want, "{name}");
            let mut written = fake.written.clone();
            written.sort();
            written.dedup();
            assert_eq!(written.len() + want.len(), *n, "{name}");
        }
    }

    #[test]
    fn a_server_that_takes_nothing_refuses_nothing() {
        let all = lines(20, &[]);
        let (result, fake) = run("ill", &all, false);
        assert!(matches!(result, Err(Failure::Fault(SinkError::Retry { .. }))), "{result:?}");
        assert_eq!(fake.requests, 1);
        for n in [1, 20, 5000] {
            let (result, _) = run("ill", &lines(n, &[]), true);
            assert!(matches!(result, Err(Failure::Fault(SinkError::Retry { .. }))), "{n}: {result:?}");
            let (result, _) = run("not influx", &lines(n, &[]), false);
            assert!(matches!(result, Err(Failure::Sink(SinkError::Refused(_)))), "{n}: {result:?}");
        }
        let (result, fake) = run("chokes", &lines(10, &[3]), false);
        assert!(result.is_err() && fake.requests == 1, "not suspected yet");
    }

    #[test]
    fn too_many_bad_lines_end_too() {
        let bad: Vec<usize> = (0..5000).filter(|i| i % 3 == 0).collect();
        let (result, fake) = run("silent", &lines(5000, &bad), false);
        let refused = result.unwrap();
        assert_eq!(fake.requests, MAX_REQUESTS);
        assert!(refused.last().unwrap().1.contains("tell them apart"));
        let mut seen: Vec<String> = refused.into_iter().map(|(line, _)| line + "\n").chain(fake.written).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 5000, "every line was written or refused");
    }

    proptest! {
        #[test]
        fn no_line_is_forgotten(n in 1usize..60, bad in proptest::collection::vec(0usize..60, 0..8), way in 0usize..4) {
            let lines = lines(n, &bad);
            let (result, fake) = run(["names", "silent", "partial", "small"][way], &lines, false);
            let refused = result.unwrap();
            for line in &lines {
                let is_refused = refused.iter().any(|(l, _)| l == line.trim_end());
                prop_assert_eq!(is_refused, line.contains("bad"), "{}", line);
                prop_assert!(is_refused || fake.written.contains(line), "{}", line);
            }
            // The last write of each good line is in the lines' order.
            let last: Vec<usize> = lines.iter().filter_map(|l| fake.written.iter().rposition(|w| w == l)).collect();
            prop_assert!(way == 2 || last.is_sorted(), "{:?}", fake.written);
        }
    }
}
