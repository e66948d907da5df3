//! Messages in words.

use super::super::testing::alert;
use super::super::{Document, Rest, What};
use super::*;
use tidewatch_events::alert::{AlertState, Severity};

/// Room for everything.
const MOST: usize = 12_000;

fn item(what: What, rule: &str, client: &str) -> Item {
    let state = if what.is_end() { AlertState::Resolved } else { AlertState::Firing };
    Item { what, alert: alert(rule, client, 1_772_704_800_000, state) }
}

fn message(notice: Notice) -> Message {
    Message { id: "b-1".into(), at: 1_772_704_801_000, body: Body::Alerts(notice) }
}

fn of(items: Vec<Item>) -> Message {
    message(Notice { items, ..Notice::default() })
}

#[test]
fn titles() {
    let rest = |what, count| Rest { rule: "ip-spike".into(), severity: Severity::High, what, count };
    let rows: &[(&str, Message, &str)] = &[
        ("one", of(vec![item(What::Fired, "ip-spike", "10.0.0.9")]), "[high] ip-spike firing client_ip=10.0.0.9"),
        (
            "its end",
            of(vec![item(What::Resolved, "ip-spike", "10.0.0.9")]),
            "[high] ip-spike resolved client_ip=10.0.0.9",
        ),
        (
            "two of a rule",
            of(vec![item(What::Fired, "ip-spike", "1"), item(What::Resolved, "ip-spike", "2")]),
            "[high] ip-spike: 2 alerts: 1 firing, 1 over",
        ),
        (
            "two rules",
            of(vec![item(What::Fired, "ip-spike", "1"), item(What::Fired, "path-scan", "2")]),
            "[high] 2 alerts: 2 firing",
        ),
        (
            "more than are listed",
            message(Notice {
                items: vec![item(What::Fired, "ip-spike", "1")],
                rest: vec![rest(What::Fired, 3), rest(What::Resolved, 2)],
                ..Notice::default()
            }),
            "[high] ip-spike: 6 alerts: 4 firing, 2 over",
        ),
        (
            "only numbers",
            message(Notice { rest: vec![rest(What::Fired, 3)], ..Notice::default() }),
            "[Tidewatch] 3 alerts that are not listed",
        ),
    ];
    for (name, message, want) in rows {
        assert_eq!(Wording::default().title(message, Medium::Header), *want, "{name}");
    }
    // Its last window ends at 10 s.
    let minutes = |n: u64| 1_772_704_810_000 + n * 60_000;
    let rows: &[(u64, What, &str)] = &[
        (minutes(10) - 1, What::Fired, ""),
        (minutes(10), What::Fired, ", 10 min ago"),
        (minutes(119), What::Fired, ", 119 min ago"),
        (minutes(120), What::Fired, ", 2 h ago"),
        (minutes(2880), What::Fired, ", 2 d ago"),
        (minutes(120), What::Resolved, ""),
        (minutes(120), What::Repeated, ""),
    ];
    for (at, what, want) in rows {
        let message = Message { at: *at, ..of(vec![item(*what, "r", "1")]) };
        let title = Wording::default().title(&message, Medium::Header);
        assert!(title.ends_with(&format!("client_ip=1{want}")), "{what:?} at {at}: {title}");
    }
    let long = of(vec![item(What::Fired, "ip-spike", &"é".repeat(300))]);
    assert_eq!(Wording::default().title(&long, Medium::Header).chars().count(), MAX_TITLE + 1);
}

#[test]
fn bodies_say_everything() {
    let notice = Notice {
        items: vec![item(What::Fired, "ip-spike", "10.0.0.9")],
        rest: vec![Rest { rule: "path-scan".into(), severity: Severity::Low, what: What::Fired, count: 7 }],
        notes: vec!["Held back since 2026-03-05T10:00:00.000Z: quiet hours.".into()],
    };
    let wording =
        Wording { runbooks: Runbooks::from([("ip-spike".into(), "https://wiki/spike".into())]), ..Wording::default() };
    let want = "high ip-spike firing: client_ip=10.0.0.9\n\
        250 (threshold 100), from 2026-03-05T10:00:00.000Z to 2026-03-05T10:00:10.000Z, fired 2026-03-05T10:00:01.000Z\n  \
        a line\nRunbook: https://wiki/spike\n\nNot listed: 7 path-scan (low) fired.\n\
        Held back since 2026-03-05T10:00:00.000Z: quiet hours.";
    assert_eq!(wording.body(&message(notice.clone())), want);
    let html = wording.html(&message(notice));
    for part in ["client_ip=10.0.0.9", "href=\"https://wiki/spike\"", "7 path-scan (low)", "quiet hours"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    let own = Wording { text: Some(Template::parse("*{rule}* {client_ip}").unwrap()), ..Wording::default() };
    assert_eq!(
        own.chat(&of(vec![item(What::Fired, "r", "1"), item(What::Fired, "r", "2")]), MOST),
        "[high] r: 2 alerts: 2 firing\n*r* `1`\n\n*r* `2`"
    );
}

#[test]
fn a_log_writes_no_markup() {
    let evil = "<img src=x onerror=alert(1)>`*_~<!channel>\x1b[2J\u{202e}\r\n@everyone";
    let mut fired = item(What::Fired, "ip-spike", evil);
    fired.alert.evidence = vec![evil.into()];
    let message = of(vec![fired]);
    let wording = Wording::default();
    let html = wording.html(&message);
    assert!(!html.contains("<img") && html.contains("&lt;img"), "{html}");
    let chat = wording.chat(&message, MOST);
    assert!(!chat.contains('<') && !chat.contains("@everyone\n"), "{chat}");
    // Everything of the log is within code spans, which hold no back quote of their own.
    let outside: String = chat.split('`').step_by(2).collect();
    assert!(!outside.replace("client_ip", "").contains(['*', '_', '~', '@']), "{outside}");
    let plain = wording.body(&message);
    assert!(!plain.contains(['\x1b', '\r', '\u{202e}']), "{plain}");
}

#[test]
fn a_long_value_does_not_get_out_of_its_code_span() {
    let evil = format!("{}[x](https://evil/) @channel *b*", "x".repeat(220));
    let of_client = || {
        let mut fired = item(What::Fired, "ip-spike", &evil);
        fired.alert.subject.insert("host".into(), "y".repeat(220));
        fired.alert.evidence = vec![evil.clone(), evil.clone()];
        of(vec![fired])
    };
    let (many, most) =
        (format!("{{subject}}{}", "z".repeat(300)), format!("{}{{client_ip}}", "z".repeat(MAX_TITLE - 1)));
    // name, title, how many values of it are cut in a code span of their own
    let rows: &[(&str, Option<&str>, usize)] = &[
        ("built in", None, 2),
        ("fields", Some("{client_ip} at {host}: {rule}"), 2),
        ("in front", Some("{evidence} {subject}"), 4),
        ("code of its own", Some("``{subject}`` `{rule}`"), 2),
        ("a fence of its own", Some("```{subject}``` {rule}"), 0),
        ("more than values", Some(&many), 2),
        ("cut within a value", Some(&most), 1),
    ];
    for (name, title, spans) in rows {
        let wording = Wording { title: title.map(|title| Template::parse(title).unwrap()), ..Wording::default() };
        let title = wording.title(&of_client(), Medium::Chat);
        assert!(title.chars().count() <= MAX_TITLE + 2, "{name}: {title}");
        assert_eq!(title.matches('`').count() % 2, 0, "{name}: {title}");
        let text = wording.chat(&of_client(), MOST);
        let outside: String = text.split('`').step_by(2).collect();
        assert!(!outside.contains(['@', '*']) && !outside.contains("[x]"), "{name}: {text}");
        assert!(
            title.split('`').skip(1).step_by(2).filter(|code| code.contains('…')).count() >= *spans,
            "{name}: {title}"
        );
    }
    // A title that has room is as it was.
    let short = of(vec![item(What::Fired, "r", &"x".repeat(MAX_TITLE - "[high] r firing client_ip=``".len()))]);
    assert!(!Wording::default().title(&short, Medium::Chat).contains('…'));
}

#[test]
fn a_chat_is_not_flooded_and_nothing_is_lost_in_silence() {
    let flood = |count: usize, client: &str, line: &str| {
        let one = |n: usize| {
            let mut one = item(What::Fired, "ip-spike", &format!("{n}-{client}"));
            one.alert.evidence = vec![line.to_owned(); 3];
            one
        };
        let rest = vec![Rest { rule: "path-scan".into(), severity: Severity::Low, what: What::Fired, count: 7 }];
        message(Notice { items: (0..count).map(one).collect(), rest, notes: vec!["Held back.".into()] })
    };
    let notes = vec!["x".repeat(300); 10];
    let long = "é".repeat(2000);
    let (hostile, wide) = ("<`&\x1b".repeat(64), "<`&\x1b".repeat(500));
    // name, message, most, alerts that are listed, lines of the log that are shown, what it says of the others
    let rows: &[(&str, Message, usize, usize, usize, &str)] = &[
        ("all have room", flood(2, "a", "line"), 1800, 2, 6, ""),
        ("one with long lines", flood(1, "a", &long), 1800, 1, 3, ""),
        ("eight with long lines", flood(8, "a", &long), 1800, 8, 0, ""),
        ("where there is more room", flood(8, "a", &long), 12_000, 8, 24, ""),
        ("twenty", flood(20, "a", &long), 1800, 11, 0, "\n9 more alerts, too long to be listed here.\n"),
        ("twenty in more room", flood(20, "a", &long), 12_000, 20, 60, ""),
        ("hostile lines", flood(1, "a", &wide), 1800, 1, 3, ""),
        ("hostile values", flood(5, &hostile, &wide), 1800, 3, 0, "\n2 more alerts, too long to be listed here.\n"),
        ("all but one", flood(2, &hostile, &wide), 900, 1, 0, "\n1 more alert, too long to be listed here.\n"),
        ("the least room", flood(9, &hostile, &wide), 500, 0, 0, "\n9 more alerts, too long to be listed here.\n"),
        (
            "many notes",
            message(Notice { items: vec![item(What::Fired, "r", "1")], rest: vec![], notes }),
            1800,
            1,
            1,
            "",
        ),
    ];
    for (name, message, most, listed, lines, more) in rows {
        let text = Wording::default().chat(message, *most);
        assert!(text.chars().count() <= *most, "{name}: {} {text}", text.chars().count());
        assert_eq!(text.matches("(threshold").count(), *listed, "{name}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with('`')).count(), *lines, "{name}: {text}");
        assert!(text.contains(more) && (!more.is_empty() || !text.contains("more alert")), "{name}: {text}");
        assert!(
            *name == "many notes" || text.ends_with("Not listed: 7 path-scan (low) fired.\nHeld back."),
            "{name}: {text}"
        );
        assert_eq!(text.matches('`').count() % 2, 0, "{name}: {text}");
    }
}

#[test]
fn in_short_it_says_rule_subject_count_and_where_to_read_on() {
    let mut worst = item(What::Fired, "ip-spike", &"x".repeat(250));
    worst.alert.evidence = vec!["line".into(); 3];
    let items = vec![
        worst,
        item(What::Fired, "ip-spike", "2"),
        item(What::Fired, "ip-spike", "3"),
        item(What::Resolved, "r", "1"),
    ];
    let rest = vec![Rest { rule: "ip-spike".into(), severity: Severity::High, what: What::Fired, count: 4 }];
    let whole = message(Notice { items, rest, notes: vec!["Held back.".into()] });
    let wording = Wording { page: Some("https://logs/".into()), ..Wording::default() };
    let short = wording.short(&whole).unwrap();
    assert_eq!((short.id.as_str(), short.at), ("b-1-short", whole.at));
    let client = format!("client_ip=`{}…`", "x".repeat(SHORT_VALUE));
    let id: String = format!("ip-spike/{}/1772704800000", "x".repeat(250)).replace(['-', '/'], "");
    let want = format!(
        "[high] 8 alerts: 7 firing, 1 over\nhigh ip-spike firing: {client}\n\
         250 (threshold 100), from 2026-03-05T10:00:00.000Z to 2026-03-05T10:00:10.000Z, fired 2026-03-05T10:00:01.000Z\n\n\
         Not listed: 6 ip-spike (high) fired, 1 r (high) resolved.\n\
         The receiver refused a longer message. Details: https://logs/#/security?alert={id}\nHeld back."
    );
    assert_eq!(wording.chat(&short, MOST), want);
    assert!(!Wording::default().chat(&Wording::default().short(&whole).unwrap(), MOST).contains("Details"));
    for body in [Body::Test, Body::Alerts(Notice { notes: vec!["Held back.".into()], ..Notice::default() })] {
        assert_eq!(wording.short(&Message { body, ..whole.clone() }), None);
    }
}

#[test]
fn documents_and_tests() {
    let of = |body| Message { id: "b-1".into(), at: 0, body };
    let document = Document { title: "Report".into(), text: "a <b>".into(), html: None, json: None, attached: false };
    let wording = Wording::default();
    assert!(wording.html(&of(Body::Document(document.clone()))).contains("a &lt;b&gt;"));
    assert_eq!(wording.body(&of(Body::Document(document.clone()))), "a <b>");
    let hostile = Document { text: "a ``` *b* <!here>\n".repeat(1000), ..document.clone() };
    let chat = wording.chat(&of(Body::Document(hostile)), MOST);
    assert!(chat.chars().count() == MOST && chat.matches("```").count() == 2 && !chat.contains('<'), "{chat}");
    let html = Document { html: Some("<p>whole</p>".into()), ..document };
    assert_eq!(wording.html(&of(Body::Document(html))), "<p>whole</p>");
    for text in [wording.title(&of(Body::Test), Medium::Header), wording.chat(&of(Body::Test), MOST)] {
        assert!(text.contains("test"), "{text}");
    }
}
