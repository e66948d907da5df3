//! What every format promises, whatever the bytes: accounting, offsets, no panics, no memory of earlier lines.

use crate::support::{batch, compile, cpu_seconds, one, options, result, show};
use proptest::prelude::*;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, RecordMeta, Span, WallTime};
use tidewatch_events::dead_letter::Reason;
use tidewatch_events::formats::{Format, NAMES, Parser, SourceOptions};

const PATTERNS: [&str; 4] = [
    r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_time $host"#,
    r#"%v:%p %a %l %u %{%d/%b/%Y:%H:%M:%S}t "%r" %>s %O %D %U%q"#,
    "$msec $scheme://$host$request_uri $http_x_forwarded_for",
    r#"{"t":"$msec","r":"$request","s":$status}"#,
];

const CORPUS: [&str; 7] = [
    include_str!("../corpus/combined.log"),
    include_str!("../corpus/common.log"),
    include_str!("../corpus/nginx-json.log"),
    include_str!("../corpus/nginx-error.log"),
    include_str!("../corpus/apache-error.log"),
    include_str!("../corpus/app.log"),
    include_str!("../corpus/syslog.log"),
];

fn formats() -> Vec<Format> {
    NAMES.iter().chain(&PATTERNS).map(|text| compile(text)).collect()
}

/// Everything a batch says, as text, in line order.
fn results(batch: &Batch) -> Vec<(u64, String)> {
    let events = batch.events.iter().map(|event| (event.offset, show(batch, event)));
    let rejects = batch.rejects.iter().map(|reject| (reject.offset, reject.reason.as_str().to_owned()));
    let mut all: Vec<_> = events.chain(rejects).collect();
    all.sort();
    all
}

fn parse(format: &Format, bytes: &[u8]) -> Batch {
    let mut batch = batch(bytes);
    Parser::new(format.clone(), options()).parse(&mut batch);
    batch
}

#[test]
fn lines_have_their_offsets() {
    let line = r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#;
    let bytes = format!("{line}\n\njunk\n{line}\r\n{line}");
    let mut batch = batch(bytes.as_bytes());
    batch.raw.framing = Framing::Lines { offset: 1000 };
    Parser::new(compile("common"), options()).parse(&mut batch);
    let n = line.len() as u64;
    assert_eq!(batch.events.iter().map(|e| e.offset).collect::<Vec<_>>(), [1000, 1000 + n + 7, 1000 + 2 * n + 9]);
    let rejects: Vec<_> = batch.rejects.iter().map(|r| (r.offset, r.reason, batch.get(r.line))).collect();
    assert_eq!(rejects, [(1001 + n, Reason::Empty, &b""[..]), (1002 + n, Reason::Format, &b"junk"[..])]);
    assert!(batch.events.iter().all(|e| batch.get(e.line) == line.as_bytes()));
    assert!(batch.events.iter().all(|e| batch.host(e) == b"default"));
}

#[test]
fn records_have_their_own_offsets_and_hosts() {
    let line = b"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5";
    let bytes = [&b"web7"[..], line, b"\r\n", b"\n", line].concat();
    let n = line.len();
    let record = |start: usize, end: usize, offset: u64, host: Span| RecordMeta {
        value: Span::new(start, end),
        offset,
        timestamp: None,
        host,
    };
    let raw = RawBatch {
        partition: PartitionId(0),
        seq: 0,
        bytes,
        framing: Framing::Records(vec![
            record(4, 6 + n, 70, Span::new(0, 4)),
            record(6 + n, 7 + n, 71, Span::NONE),
            record(7 + n, 7 + 2 * n, 75, Span::NONE),
        ]),
        read_at: WallTime(0),
    };
    let mut batch = Batch::new(raw, (&b"default"[..]).into());
    Parser::new(compile("common"), options()).parse(&mut batch);
    let events: Vec<_> = batch.events.iter().map(|e| (e.offset, batch.host(e), batch.get(e.line))).collect();
    assert_eq!(events, [(70, &b"web7"[..], &line[..]), (75, &b"default"[..], &line[..])]);
    assert_eq!(batch.rejects.iter().map(|r| (r.offset, r.reason)).collect::<Vec<_>>(), [(71, Reason::Empty)]);
}

#[test]
fn a_record_of_several_lines_is_no_event() {
    let json = r#"{"time":"2020-06-01T15:49:10Z","remote_addr":"1.2.3.4","request":"GET / HTTP/1.1","status":"200"}"#;
    let combined = r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "-""#;
    let timed = format!("{combined} rt=0.012");
    let rows: [(&str, &str, &[&str], &str); 5] = [
        ("nginx-json", json, &["\n", "\n\n", "\"", "\\", "x\""], "json"),
        ("combined", combined, &["\n", "\n\n"], "format"),
        ("combined", &timed, &["\n", "\n\n"], "format"),
        ("common", combined, &["\n", "\n\n"], "format"),
        (r#"[$time_local] "$request" $host"#, r#"[10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" a"#, &["\n"], "format"),
    ];
    for (format, line, between, reason) in rows {
        let event = one(&compile(format), line.as_bytes());
        for behind in between {
            let records = [line.to_owned(), format!("{line}{behind}{line}"), format!("{line}\n"), line.to_owned()];
            let records = records.map(String::into_bytes).to_vec();
            let (together, _) = together_and_alone(&compile(format), records, true);
            assert_eq!(together, [&event, reason, &event, &event], "{format}, {behind:?}");
        }
    }
}

#[test]
fn long_lines_parse_up_to_the_limit() {
    let line = |length: usize| {
        let head = r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /"#;
        let tail = r#" HTTP/1.1" 414 5 "-" "-""#;
        format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len()))
    };
    let limit = 1 << 20;
    for (length, want) in [(4800, None), (limit, None), (limit + 1, Some(Reason::TooLong))] {
        let batch = parse(&compile("combined"), line(length).as_bytes());
        assert_eq!(batch.rejects.first().map(|reject| reject.reason), want, "{length}");
        assert_eq!(batch.lines(), 1);
    }
    let mut batch = batch(b"12345\n123456\n");
    Parser::new(compile("auto"), SourceOptions { max_line: 5, ..options() }).parse(&mut batch);
    assert_eq!(batch.rejects.iter().map(|r| r.reason).collect::<Vec<_>>(), [Reason::Format, Reason::TooLong]);
}

#[test]
fn no_line_takes_long() {
    // Lines made to be read from many places: each of a megabyte, in every format. Where every place is looked at once that
    // takes seconds at most, where it is once for every other minutes for a single line.
    let evil = [
        format!("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"{}", "\" 200 1 \"-".repeat(100_000)),
        format!("1.2.3.4 - - {}", "[10/Oct/2000:13:55:36 +0000] \"".repeat(30_000)),
        "2025/01/02 03:04:05 [error] 1#1: ".to_owned() + &", client: 1.2.3.4, server: a, request: \"".repeat(25_000),
        format!("[Sun Dec 04 04:47:44 2005] [error] {}", "[client ".repeat(100_000)),
        format!("2025-01-02T03:04:05Z [INFO] a - {}", " | IP: x".repeat(100_000)),
        format!("{{\"a\":{}", "[".repeat(1_000_000)),
        format!("{{{}}}", "\"status\":\"\\\\\",".repeat(60_000)),
        "\\".repeat(1_000_000),
        "\"".repeat(1_000_000),
        "1.2.3.4 ".repeat(120_000),
        format!("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET /{} \"q\"z", " w\" 200 1 \"\" \"\"".repeat(65_000)),
        format!("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET /{}\\", " w\" 200 1 \"\" \"x".repeat(65_000)),
        format!("<13>Mar  5 12:00:00 web1 app: login from {}", "1.2.3.4/".repeat(130_000)),
        format!("<13>Mar  5 12:00:00 web1 app: {}", "rhost=1.2.3.4 ".repeat(70_000)),
        format!("Mar  5 12:00:00 web1 sshd[1]: x from [{}", "1.2.3.4] [".repeat(100_000)),
        format!("2025-01-02T03:04:05Z ERROR {}", "[a] ".repeat(250_000)),
    ];
    let begun = std::time::Instant::now();
    let before = cpu_seconds(begun);
    for format in formats() {
        for line in &evil {
            assert_eq!(parse(&format, line.as_bytes()).lines(), 1);
        }
    }
    let took = cpu_seconds(begun) - before;
    assert!(took < 20.0, "{took} s");
}

#[test]
fn the_corpus_parses_but_for_the_lines_that_say_so() {
    for (i, log) in CORPUS.iter().enumerate() {
        let batch = parse(&compile("auto"), log.as_bytes());
        assert_eq!(batch.lines(), log.lines().count() as u64);
        let unexpected: Vec<_> = batch
            .rejects
            .iter()
            .map(|r| String::from_utf8_lossy(batch.get(r.line)))
            .filter(|l| !l.contains("BROKEN"))
            .collect();
        assert_eq!(unexpected, Vec::<String>::new(), "corpus {i}");
    }
}

/// One key and value: mostly ones that fit each other, some that do not.
fn arb_pair() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        "[ -!#-\\[\\]-~]{0,40}",
        r#"(\\\\|\\"|\\u00e9|\\/|\\ud83d\\ude00|a|/|\?|\x01|é| ){0,20}"#,
        Just("-".to_owned()),
    ];
    let number = prop_oneof![(100u32..600).prop_map(|n| n.to_string()), Just("-".to_owned()), Just("null".to_owned())];
    let text_key = prop::sample::select(vec![
        "host",
        "server_name",
        "http_host",
        "request",
        "request_uri",
        "uri",
        "args",
        "http_user_agent",
        "http_referer",
        "remote_user",
        "other",
        "msg",
        "remote_addr",
        "request_method",
        "http_user_\\u0061gent",
    ]);
    let number_key = prop::sample::select(vec![
        "status",
        "bytes_sent",
        "body_bytes_sent",
        "request_time",
        "server_port",
        "x",
        "st\\u0061tus",
    ]);
    prop_oneof![
        8 => (text_key.clone(), text).prop_map(|(key, text)| format!("\"{key}\":\"{text}\"")),
        8 => (number_key.clone(), number.clone(), any::<bool>()).prop_map(|(key, number, quoted)| {
            if quoted { format!("\"{key}\":\"{number}\"") } else { format!("\"{key}\": {number}") }
        }),
        1 => text_key.prop_map(|key| format!(r#""{key}":{{"a":["}}",true]}}"#)),
        1 => (number_key, "[a-z0-9{}\",:]{0,6}").prop_map(|(key, junk)| format!("\"{key}\":{junk}")),
    ]
}

/// A JSON line with a time among other keys.
fn arb_json() -> impl Strategy<Value = String> {
    let time = prop::sample::select(vec![
        r#""time_iso8601":"2020-06-01T15:49:10+00:00""#,
        r#""msec":1609459200.123"#,
        r#""time_local":"01\/Jun\/2020:15:49:10 +0000""#,
        r#""time":"no time""#,
    ]);
    let log = prop::sample::select(vec!["", "", r#""log":"a","stream":"stdout","#, r#""log":"a","stream":"audit","#]);
    let end = prop::sample::select(vec!["}", "}", "}", "}", "} ", " }", "}x", ""]);
    (
        log,
        time,
        prop::collection::vec(arb_pair(), 0..7),
        any::<prop::sample::Index>(),
        prop::sample::select(vec![",", ", "]),
        end,
    )
        .prop_map(|(log, time, mut pairs, at, comma, end)| {
            pairs.insert(at.index(pairs.len() + 1), time.to_owned());
            format!("{{{log}{}{end}", pairs.join(comma))
        })
}

/// Pieces of real lines and bytes at random, in any order.
fn arb_line() -> impl Strategy<Value = Vec<u8>> {
    let corpus: Vec<&'static [u8]> = CORPUS.iter().flat_map(|log| log.lines()).map(str::as_bytes).collect();
    let piece = prop_oneof![
        prop::sample::select(corpus.clone()).prop_map(<[u8]>::to_vec),
        (prop::sample::select(corpus), any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(
            |(line, a, b)| {
                let (a, b) = (a.index(line.len() + 1), b.index(line.len() + 1));
                line[a.min(b)..a.max(b)].to_vec()
            }
        ),
        prop::sample::select(vec![
            "\"",
            "\\",
            " ",
            "[",
            "]",
            "{",
            "}",
            ", client: ",
            " | IP: ",
            "\" 200 5 \"",
            "-",
            "\r",
            "\u{feff}",
            "<34>1 ",
            "Oct 10 13:55:36 web1 x: ",
            "2026-03-05T12:00:00Z stdout F ",
            "2026-03-05T12:00:00Z ",
            "web-1 | ",
            "{\"log\":\"",
            "\\n\",\"stream\":\"stdout\"}"
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat().into_iter().filter(|b| *b != b'\n').collect())
}

/// A request as both formats write it: address, second, method, target, status, size, milliseconds, referrer, agent.
type Request = (String, u8, &'static str, String, u16, u64, u32, String, String);

fn arb_request() -> impl Strategy<Value = Request> {
    let address = prop_oneof![
        6 => any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
        2 => any::<[u16; 8]>().prop_map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        1 => prop::sample::select(vec!["::1", "::ffff:1.2.3.4", "1.2.3.256", "01.2.3.4", "1.2.3", "unix:", "host.example", ""])
            .prop_map(str::to_owned),
    ];
    let size = prop_oneof![0u64..10, 0u64..100_000, Just(99_999_999), Just(100_000_000), any::<u64>()];
    let text = prop_oneof![Just("-".to_owned()), Just(String::new()), "[ -!#-\\[\\]-~]{0,80}"];
    let method = prop::sample::select(vec!["GET", "POST", "HEAD", "PROPFIND", "get", ""]);
    (address, 0u8..62, method, "/[!#-Z_a-z~^{|}]{0,90}", 99u16..1000, size, 0u32..100_000, text.clone(), text)
}

fn as_json((address, second, method, target, status, size, millis, referrer, agent): &Request) -> String {
    format!(
        r#"{{"time_iso8601":"2026-03-05T10:07:{second:02}+01:00","host":"web1","server_port":443,"remote_addr":"{address}","remote_user":"","an_unknown_key_whose_name_is_longer_than_most":{status},"request":"{method} {target} HTTP/1.1","status":{status},"body_bytes_sent":{size},"request_time":{}.{:03},"http_referer":"{referrer}","http_user_agent":"{agent}"}}"#,
        millis / 1000,
        millis % 1000
    )
}

fn as_combined((address, second, method, target, status, size, _, referrer, agent): &Request) -> String {
    format!(
        r#"{address} - - [05/Mar/2026:10:07:{second:02} +0100] "{method} {target} HTTP/1.1" {status} {size} "{referrer}" "{agent}""#
    )
}

/// The line with one change: a byte put in, taken out, put in another's place or behind all, or the line once more.
fn changed(line: &str, (at, way, byte): &(prop::sample::Index, u8, u8)) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    let at = at.index(bytes.len());
    match way {
        0 => bytes.insert(at, *byte),
        1 => drop(bytes.remove(at)),
        2 => bytes[at] = *byte,
        3 => bytes.push(*byte),
        4 => bytes = [line, line].join("\n").into_bytes(),
        _ => {}
    }
    bytes
}

fn arb_change() -> impl Strategy<Value = (prop::sample::Index, u8, u8)> {
    let byte = prop::sample::select(b"\"\\ ,}{[]:.-/?0159aGT\n".to_vec());
    (any::<prop::sample::Index>(), 0u8..6, prop_oneof![9 => byte, 1 => any::<u8>()])
}

/// Records of a topic, or lines, in which no byte is a line's end.
fn framed(mut lines: Vec<Vec<u8>>, as_records: bool) -> Batch {
    if !as_records {
        let ends = lines.iter_mut().flatten().filter(|b| **b == b'\n');
        ends.for_each(|b| *b = b' ');
        return batch(&lines.join(&b'\n'));
    }
    let mut start = 0;
    let metas = lines.iter().map(|line| {
        let value = Span::new(start, start + line.len());
        start += line.len() + 1;
        RecordMeta { value, offset: start as u64, timestamp: None, host: Span::NONE }
    });
    let metas = metas.collect();
    let mut batch = batch(&lines.join(&b'\n'));
    batch.raw.framing = Framing::Records(metas);
    batch
}

/// What one batch says of lines or records, and what batches of one each do.
fn together_and_alone(format: &Format, lines: Vec<Vec<u8>>, as_records: bool) -> (Vec<String>, Vec<String>) {
    let parse = |lines: Vec<Vec<u8>>| {
        let mut batch = framed(lines, as_records);
        Parser::new(format.clone(), options()).parse(&mut batch);
        results(&batch).into_iter().map(|(_, shown)| shown).collect::<Vec<_>>()
    };
    let alone = lines.iter().flat_map(|line| parse(vec![line.clone(), Vec::new()]).into_iter().take(1)).collect();
    (parse(lines), alone)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_events_and_rejects(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let lines = bytes.split(|b| *b == b'\n').count() - usize::from(bytes.is_empty() || bytes.ends_with(b"\n"));
        for format in formats() {
            let batch = parse(&format, &bytes);
            prop_assert_eq!(batch.lines(), lines as u64);
            results(&batch);
        }
    }

    #[test]
    fn any_lines_mean_the_same_alone_and_together(lines in prop::collection::vec(arb_line(), 1..12)) {
        let bytes = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect::<Vec<u8>>();
        for format in formats() {
            let batch = parse(&format, &bytes);
            prop_assert_eq!(batch.lines(), lines.len() as u64);
            let together: Vec<String> = results(&batch).into_iter().map(|(_, shown)| shown).collect();
            let alone: Vec<String> = lines.iter().map(|line| one(&format, line)).collect();
            prop_assert_eq!(together, alone, "{}", format.name());
        }
    }

    #[test]
    fn json_read_as_learned_is_json_read_in_general(first in arb_json(), second in arb_json(), times in 2usize..12) {
        // A parser that has learned the first line reads it again the fast way, then a line of another shape.
        let format = compile("nginx-json");
        let mut lines = vec![first; times];
        lines.push(second);
        lines.push(lines[0].clone());
        let bytes = lines.join("\n");
        let batch = parse(&format, bytes.as_bytes());
        let together: Vec<String> = results(&batch).into_iter().map(|(_, shown)| shown).collect();
        let alone: Vec<String> = lines.iter().map(|line| one(&format, line.as_bytes())).collect();
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn json_read_by_its_marks_is_json_read_in_general(
        requests in prop::collection::vec((arb_request(), arb_change()), 1..8), records in any::<bool>(),
    ) {
        // The first line is learned; the last leaves room behind the others, without which marks are not trusted.
        let usual = as_json(&("1.2.3.4".into(), 7, "GET", "/a?b".into(), 200, 5, 12, "-".into(), "agent".into()));
        let changed = requests.iter().map(|(request, change)| changed(&as_json(request), change));
        let lines = [usual.clone().into_bytes()].into_iter().chain(changed).chain([usual.into_bytes()]).collect();
        let (together, alone) = together_and_alone(&compile("nginx-json"), lines, records);
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn combined_read_by_its_marks_is_combined_read_in_general(
        request in arb_request(), change in arb_change(), records in any::<bool>(),
    ) {
        // The common format takes all that the combined one does, and reads it from the left.
        let line = changed(&as_combined(&request), &change);
        let read = |format: &str| {
            let mut batch = framed(vec![line.clone()], records);
            Parser::new(compile(format), options()).parse(&mut batch);
            (result(&batch), batch.events.is_empty())
        };
        let ((by_marks, rejected), (in_general, _)) = (read("combined"), read("common"));
        prop_assert!(rejected || by_marks == in_general, "{} is {}, not {}", String::from_utf8_lossy(&line), by_marks, in_general);
    }

    #[test]
    fn json_of_one_shape_is_read_as_learned(values in prop::collection::vec(("[ -!#-\\[\\]-~]{0,20}", 100u32..600, 0u32..9999), 2..10)) {
        let line = |(agent, status, bytes): &(String, u32, u32)| format!(
            r#"{{"time":"2020-06-01T15:49:10Z","http_user_agent":"{agent}","status":{status},"bytes":"{bytes}"}}"#
        );
        let lines: Vec<String> = values.iter().map(line).collect();
        let format = compile("nginx-json");
        let batch = parse(&format, lines.join("\n").as_bytes());
        prop_assert_eq!(batch.events.len(), lines.len());
        for (event, (agent, status, bytes)) in batch.events.iter().zip(&values) {
            let want = if agent == "-" { "" } else { agent };
            prop_assert_eq!(batch.get(event.agent), want.as_bytes());
            prop_assert_eq!((u32::from(event.status), event.bytes), (*status, u64::from(*bytes)));
        }
    }

    #[test]
    fn combined_lines_say_what_was_written(
        ip in any::<[u8; 4]>(), path in "/[!#-Z_a-z~^{|}]{0,40}", agent in "[ -!#-\\[\\]-~]{1,60}", status in 100u16..1000, bytes in any::<u64>(),
    ) {
        prop_assume!(!path.contains('?') && agent != "-");
        let ip = std::net::Ipv4Addr::from(ip);
        let line = format!(r#"{ip} - - [10/Oct/2000:13:55:36 +0000] "GET {path} HTTP/1.1" {status} {bytes} "-" "{agent}""#);
        let batch = parse(&compile("combined"), line.as_bytes());
        prop_assert_eq!(batch.events.len(), 1);
        let event = &batch.events[0];
        prop_assert_eq!(batch.get(event.path), path.as_bytes());
        prop_assert_eq!(batch.get(event.agent), agent.as_bytes());
        prop_assert_eq!((event.status, event.bytes), (status, bytes));
    }
}

/// A syslog line of a time without year, as records with these timestamps or (`None`) as lines, read at `read_at` by a
/// parser that was made on 2026-01-01.
fn dated(parser: &mut Parser, time: &str, read_at: &str, stamp: Option<Option<&str>>) -> String {
    let wall = |text: &str| WallTime(text.parse::<jiff::Timestamp>().expect("a time").as_millisecond() as u64);
    let line = format!("{time} web1 cron[7]: run");
    let framing = match stamp {
        None => Framing::Lines { offset: 0 },
        Some(stamp) => Framing::Records(vec![RecordMeta {
            value: Span::new(0, line.len()),
            offset: 0,
            timestamp: stamp.map(wall),
            host: Span::NONE,
        }]),
    };
    let read_at = if read_at.is_empty() { WallTime(0) } else { wall(read_at) };
    let raw = RawBatch { partition: PartitionId(0), seq: 0, bytes: line.into_bytes(), framing, read_at };
    let mut batch = Batch::new(raw, (&b"default"[..]).into());
    parser.parse(&mut batch);
    match &batch.events[..] {
        [event] => event.time.to_string(),
        _ => batch.rejects[0].reason.as_str().to_owned(),
    }
}

#[test]
fn times_without_year_are_dated_by_when_they_were_read() {
    let ages = "2400-01-01T00:00:00Z";
    // Name, time, when it was read (never, in a replay), the record's own timestamp, the year.
    type Row = (&'static str, &'static str, &'static str, Option<Option<&'static str>>, &'static str);
    let rows: &[Row] = &[
        ("as it starts", "Jan  1 00:00:01", "2026-01-01T00:00:02Z", None, "2026"),
        ("48 hours later", "Jan  3 00:00:01", "2026-01-03T00:00:02Z", None, "2026"),
        ("a clock that is ahead", "Jan  4 00:00:02", "2026-01-03T00:00:02Z", None, "2026"),
        ("too far ahead", "Jan  4 00:00:03", "2026-01-03T00:00:02Z", None, "2025"),
        ("before the next New Year", "Dec 31 23:59:59", "2026-12-31T23:59:59Z", None, "2026"),
        ("read after it", "Dec 31 23:59:59", "2027-01-01T00:00:01Z", None, "2026"),
        ("after it", "Jan  1 00:00:00", "2027-01-01T00:00:01Z", None, "2027"),
        ("a file in a replay", "Jan  3 00:00:01", "", None, "2025"),
        ("a record", "Jan  3 00:00:01", "2026-05-01T00:00:00Z", Some(Some("2026-01-03T00:00:02Z")), "2026"),
        ("a record of long ago", "Dec 10 06:55:46", "2026-05-01T00:00:00Z", Some(Some("2023-12-10T06:55:47Z")), "2023"),
        ("a record dated ahead", "May  1 00:00:00", "2026-05-01T00:00:00Z", Some(Some(ages)), "2026"),
        ("a record without timestamp", "May  1 00:00:00", "2026-05-01T00:00:00Z", Some(None), "2026"),
        ("one in a replay", "May  1 00:00:00", "", Some(None), "2025"),
    ];
    for format in ["syslog", "auto"] {
        let mut parser = Parser::new(compile(format), options());
        // In any order: what was read before does not matter.
        for (name, time, read_at, stamp, year) in rows.iter().chain(rows.iter().rev()) {
            assert_eq!(&dated(&mut parser, time, read_at, *stamp)[..4], *year, "{format}: {name}");
        }
    }
}

#[test]
fn json_records_without_year_are_dated_by_their_timestamps() {
    let (mut bytes, mut records) = (Vec::new(), Vec::new());
    // The same keys each time, so that the second and third are read as learned.
    let stamps = [1_704_153_600_000, 1_735_776_000_000, 1_767_312_000_000]; // January 2 of 2024, 2025 and 2026
    for (n, stamp) in stamps.iter().enumerate() {
        let start = bytes.len();
        bytes.extend_from_slice(br#"{"time":"Jan  2 00:00:00","remote_addr":"1.2.3.4","status":"200"}"#);
        let value = Span::new(start, bytes.len());
        records.push(RecordMeta { value, offset: n as u64, timestamp: Some(WallTime(*stamp)), host: Span::NONE });
    }
    let read_at = WallTime(1_800_000_000_000);
    let raw = RawBatch { partition: PartitionId(0), seq: 0, bytes, framing: Framing::Records(records), read_at };
    let mut batch = Batch::new(raw, (&b"default"[..]).into());
    Parser::new(compile("nginx-json"), options()).parse(&mut batch);
    assert_eq!(batch.events.iter().map(|event| event.time.0).collect::<Vec<_>>(), stamps);
}
