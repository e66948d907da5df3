//! Syslog messages that say less than they could: of what time they are.

mod common;

use common::{batch, compile, one, options, result};
use tidewatch_events::batch::{Framing, RecordMeta, Span, WallTime};
use tidewatch_events::formats::{Parser, SourceOptions};

#[test]
fn messages_without_time_happened_when_they_were_received() {
    let rows = [
        ("<34>1 - web1 su - - - x", "2026-03-05T10:00:00.000Z app host=web1 level=crit logger=su message=x"),
        ("<13>only a priority", "2026-03-05T10:00:00.000Z app level=notice message=only a priority"),
        ("<13>1 not 5424 after all", "2026-03-05T10:00:00.000Z app level=notice message=1 not 5424 after all"),
        ("<13>Mar 32 10:00:00 web1 x: text", "bad_time"),
        ("only words", "format"),
    ];
    let ten = WallTime(1_772_704_800_000); // 2026-03-05T10:00:00Z
    let parse = |live: bool, line: &str, framing: Framing, read_at: WallTime| {
        let mut batch = batch(line.as_bytes());
        (batch.raw.framing, batch.raw.read_at) = (framing, read_at);
        Parser::new(compile("syslog"), SourceOptions { live, ..options() }).parse(&mut batch);
        result(&batch)
    };
    let lines = || Framing::Lines { offset: 0 };
    for (line, want) in rows {
        assert_eq!(parse(true, line, lines(), ten), want, "{line}");
        let stamp = |timestamp| {
            let value = Span::new(0, line.len());
            Framing::Records(vec![RecordMeta { value, offset: 0, timestamp, host: Span::NONE }])
        };
        let later = WallTime(ten.0 + 9_000);
        assert_eq!(parse(false, line, stamp(Some(ten)), later), want, "{line}, a record");
        assert_eq!(parse(true, line, stamp(None), ten), want, "{line}, a message");
    }
    let (line, _) = rows[0];
    assert_eq!(parse(false, line, lines(), ten), "missing_time", "a followed file");
    assert_eq!(parse(true, line, lines(), WallTime(0)), "missing_time", "nobody knows when");
    // Behind a bare priority the lines of a web server are what they are anywhere.
    let access = r#"<190>1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#;
    let want = "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5";
    for format in ["common", "auto"] {
        assert_eq!(one(&compile(format), access.as_bytes()), want, "{format}");
    }
    let odd = compile(r#"<$request_length> $remote_addr [$time_local] $status"#);
    let want = "2000-10-10T13:55:36.000Z client=1.2.3.4 other status=200";
    assert_eq!(one(&odd, b"<120> 1.2.3.4 [10/Oct/2000:13:55:36 +0000] 200"), want);
}
