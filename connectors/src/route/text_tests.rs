//! Messages in words.

use super::super::testing::alert;
use super::super::{Document, Rest, What};
use super::*;
use tidewatch_events::alert::{AlertState, Severity};

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
    assert_eq!(wording.body(&message(notice.clone()), Medium::Plain), want);
    let html = wording.html(&message(notice));
    for part in ["client_ip=10.0.0.9", "href=\"https://wiki/spike\"", "7 path-scan (low)", "quiet hours"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    let own = Wording { text: Some(Template::parse("*{rule}* {client_ip}").unwrap()), ..Wording::default() };
    assert_eq!(
        own.body(&of(vec![item(What::Fired, "r", "1"), item(What::Fired, "r", "2")]), Medium::Chat),
        "*r* `1`\n\n*r* `2`"
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
    let chat = format!("{}\n{}", wording.title(&message, Medium::Chat), wording.body(&message, Medium::Chat));
    assert!(!chat.contains('<') && !chat.contains("@everyone\n"), "{chat}");
    // Everything of the log is within code spans, which hold no back quote of their own.
    let outside: String = chat.split('`').step_by(2).collect();
    assert!(!outside.contains(['*', '_', '~', '@']) || outside.matches('_').count() == 2, "{outside}");
    let plain = wording.body(&message, Medium::Plain);
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
        let text = format!("{title}\n{}", wording.body(&of_client(), Medium::Chat));
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
    let mut items = Vec::new();
    for n in 0..20 {
        let mut one = item(What::Fired, "ip-spike", &n.to_string());
        one.alert.evidence = vec!["x".repeat(2000)];
        items.push(one);
    }
    let body = Wording::default().body(&of(items), Medium::Chat);
    assert!(body.len() <= MAX_CHAT + 100 && body.ends_with("15 more alerts, too long to be listed here."), "{body}");
}

#[test]
fn documents_and_tests() {
    let of = |body| Message { id: "b-1".into(), at: 0, body };
    let document = Document { title: "Report".into(), text: "a <b>".into(), html: None, json: None, attached: false };
    let wording = Wording::default();
    assert!(wording.html(&of(Body::Document(document.clone()))).contains("a &lt;b&gt;"));
    assert_eq!(wording.body(&of(Body::Document(document.clone())), Medium::Plain), "a <b>");
    let hostile = Document { text: "a ``` *b* <!here>\n".repeat(1000), ..document.clone() };
    let chat = wording.body(&of(Body::Document(hostile)), Medium::Chat);
    assert!(chat.len() < MAX_CHAT + 20 && chat.matches("```").count() == 2 && !chat.contains('<'), "{chat}");
    let html = Document { html: Some("<p>whole</p>".into()), ..document };
    assert_eq!(wording.html(&of(Body::Document(html))), "<p>whole</p>");
    for text in [wording.title(&of(Body::Test), Medium::Header), wording.body(&of(Body::Test), Medium::Chat)] {
        assert!(text.contains("test"), "{text}");
    }
}
