//! What filters match, and which mistakes in them are named.

use super::*;
use crate::batch::{Framing, PartitionId, RawBatch, Span, WallTime};
use crate::event::{Kind, LogLevel, Method};
use crate::time::EventTime;
use proptest::prelude::*;
use std::sync::Arc;

/// `GET /Admin/login.php?q=1` of 10.1.2.3, status 404, 1.1 ms, on host `web`; no agent, an empty referrer.
fn access() -> (Batch, Event) {
    with_path(b"/Admin/login.php")
}

fn with_path(path: &[u8]) -> (Batch, Event) {
    let raw = RawBatch {
        partition: PartitionId(0),
        seq: 0,
        bytes: path.to_vec(),
        framing: Framing::Lines { offset: 0 },
        read_at: WallTime(0),
    };
    let mut event = Event::new(Kind::Access, EventTime(0));
    event.path = Span::new(0, path.len());
    event.query = Span::new(0, 0);
    event.referrer = Span::new(0, 0);
    event.method = Method::Get;
    event.client = Client::Ip("10.1.2.3".parse().unwrap());
    event.status = 404;
    event.bytes = 1500;
    event.latency_us = 1100;
    (Batch::new(raw, Arc::from(&b"web"[..])), event)
}

fn error() -> (Batch, Event) {
    let (batch, access) = with_path(b"upstream timed out");
    let mut event = Event::new(Kind::Error, EventTime(0));
    event.level = LogLevel::Error;
    event.message = access.path;
    (batch, event)
}

fn text(field_text: &str, values: &[&str]) -> FilterSpec {
    TestSpec::new(field_text, values.iter().copied()).into()
}

fn one(field_text: &str, value: impl Into<FilterValue>) -> FilterSpec {
    TestSpec::new(field_text, [value]).into()
}

fn null(field_text: &str) -> FilterSpec {
    one(field_text, FilterValue::Null)
}

#[test]
fn a_filter_that_matches_nothing_is_known() {
    let not = |spec| FilterSpec::Not(vec![spec]);
    let rows: Vec<(&str, Vec<FilterSpec>, bool)> = vec![
        ("nothing is tested", vec![], true),
        ("a range", vec![one("status|gte", 500), one("status|lt", 501)], true),
        ("an empty one", vec![one("status|gte", 500), one("status|lt", 500)], false),
        ("two values", vec![one("status", 404), one("status", 500)], false),
        ("one of two values", vec![TestSpec::new("status", [404i64, 500]).into(), one("status", 500)], true),
        ("bytes below none", vec![one("bytes|lt", 0)], false),
        ("two kinds", vec![text("kind", &["access"]), text("kind", &["app"])], false),
        ("a status of what has none", vec![text("kind", &["error"]), one("status|gte", 400)], false),
        ("no status of it", vec![text("kind", &["error"]), one("status|exists", false)], true),
        ("not a status", vec![text("kind", &["error"]), not(one("status", 404))], true),
        ("two levels", vec![text("severity", &["warn"]), text("severity", &["error"])], false),
        ("no way of two", vec![FilterSpec::Any(vec![vec![one("bytes|lt", 0)], vec![one("port|lt", 0)]])], false),
        ("one way of two", vec![FilterSpec::Any(vec![vec![one("bytes|lt", 0)], vec![one("port|lt", 1)]])], true),
    ];
    for (name, specs, want) in rows {
        assert_eq!(Filter::build(&specs).unwrap().can_match(), want, "{name}");
    }
}

#[test]
fn tests_mean_what_sigma_says() {
    let (batch, event) = access();
    let rows: Vec<(&str, FilterSpec, bool)> = vec![
        ("equal, other case", text("path", &["/admin/LOGIN.php"]), true),
        ("equal, cased", text("path|cased", &["/admin/login.php"]), false),
        ("equal, cased, same", text("path|cased", &["/Admin/login.php"]), true),
        ("one of many", text("path", &["/z", "/admin/login.php", "/a"]), true),
        ("none of many", text("path", &["/z", "/admin/login.ph", "/a", "/admin/login.php5"]), false),
        ("wildcards", text("path", &["/adm*/*.ph?"]), true),
        ("a wildcard needs its character", text("path", &["/admin/login.php?"]), false),
        ("an escaped wildcard is itself", text("path", &["/admin\\*"]), false),
        ("contains", text("path|contains", &["LOGIN"]), true),
        ("contains, cased", text("path|contains|cased", &["LOGIN"]), false),
        ("contains any", text("path|contains", &["no", "login"]), true),
        ("contains all", text("path|contains|all", &["admin", "login"]), true),
        ("contains all but one", text("path|contains|all", &["admin", "nothing"]), false),
        ("contains one of five", text("path|contains", &["a1", "b2", "c3", "d4", "Login"]), true),
        ("contains none of five", text("path|contains", &["a1", "b2", "c3", "d4", "e5"]), false),
        ("contains with wildcard", text("path|contains", &["adm*log"]), true),
        ("contains nothing", text("path|contains", &[""]), true),
        ("starts", text("path|startswith", &["/admin/"]), true),
        ("does not start", text("path|startswith", &["admin"]), false),
        ("starts with more than there is", text("path|startswith", &["/admin/login.php/"]), false),
        ("ends", text("path|endswith", &[".PHP"]), true),
        ("does not end", text("path|endswith", &["/admin"]), false),
        ("regex", text("path|re", &["^/Admin/[a-z]+\\.php$"]), true),
        ("regex is cased", text("path|re", &["admin"]), false),
        ("regex ignoring case", text("path|re|i", &["admin"]), true),
        ("number", one("status", 404), true),
        ("number as text", text("status", &["404"]), true),
        ("number in a list", TestSpec::new("status", [401, 403]).into(), false),
        ("number by its digits", text("status", &["4*"]), true),
        ("number starts", one("status|startswith", 40), true),
        ("gte at", one("status|gte", 404), true),
        ("gt at", one("status|gt", 404), false),
        ("gt below", one("status|gt", 403.5), true),
        ("lt at", one("status|lt", 404), false),
        ("lt above", one("status|lt", 405), true),
        ("lte at", one("status|lte", 404), true),
        ("lt nothing", one("bytes|lt", 0), false),
        ("gt a negative", one("bytes|gt", -1), true),
        ("between", TestSpec::new("status|gte|all", [400, 404]).into(), true),
        ("latency equals in ms", one("latency_ms", 1.1), true),
        ("latency gte at", one("latency_ms|gte", 1.1), true),
        ("latency gt at", one("latency_ms|gt", 1.1), false),
        ("latency lt", one("latency_ms|lt", 2), true),
        ("kind", text("kind", &["access"]), true),
        ("other kind", text("kind", &["error", "app"]), false),
        ("not that kind", FilterSpec::Not(vec![one("kind", "access")]), false),
        ("not another kind", FilterSpec::Not(vec![one("kind", "app")]), true),
        ("method", text("method", &["post", "get"]), true),
        ("method by part", text("method|startswith", &["P"]), false),
        ("other method", text("method", &["other"]), false),
        ("client", text("client_ip", &["10.1.2.3"]), true),
        ("client, mapped", text("client_ip", &["::ffff:10.1.2.3"]), true),
        ("client by text", text("client_ip|startswith", &["10.1."]), true),
        ("client by wildcard", text("client_ip", &["10.*"]), true),
        ("in the network", text("client_ip|cidr", &["192.168.0.0/16", "10.0.0.0/8"]), true),
        ("not in the network", text("client_ip|cidr", &["10.1.2.4/30", "::/0"]), false),
        ("in each network", text("client_ip|cidr|all", &["10.0.0.0/8", "10.1.2.3/32", "10.1.0.0/16"]), true),
        ("in all networks but one", text("client_ip|cidr|all", &["10.0.0.0/8", "10.1.2.4/30", "10.1.2.0/24"]), false),
        ("in networks of both families", text("client_ip|cidr|all", &["10.0.0.0/8", "::/0"]), false),
        ("the address as network", text("client_ip|cidr", &["10.1.2.3"]), true),
        ("host by default", text("host", &["WEB"]), true),
        ("exists", one("path|exists", true), true),
        ("empty exists", one("referrer|exists", true), true),
        ("absent exists", one("user_agent|exists", true), false),
        ("absent does not exist", one("user_agent|exists", false), true),
        ("null and absent", null("user_agent"), true),
        ("null and empty", null("referrer"), false),
        ("empty is equal to empty", text("referrer", &[""]), true),
        ("absent is not empty", text("user_agent", &[""]), false),
        ("absent contains nothing", text("user_agent|contains", &[""]), false),
        ("null or a value", FilterSpec::Test(TestSpec::new("user_agent", [FilterValue::Null, "x".into()])), true),
        ("severity of an access line", one("severity|lte", "emerg"), false),
        ("no severity", null("severity"), true),
        ("no message, no pattern", null("pattern"), true),
        ("pattern of no message", one("pattern|contains", ""), false),
        ("not", FilterSpec::Not(vec![one("status", 404), one("method", "POST")]), true),
        ("not, all hold", FilterSpec::Not(vec![one("status", 404), one("method", "GET")]), false),
        ("not of an absent field", FilterSpec::Not(vec![one("user_agent", "curl")]), true),
        ("any", FilterSpec::Any(vec![vec![one("status", 500)], vec![one("method", "GET")]]), true),
        ("any of none that hold", FilterSpec::Any(vec![vec![one("status", 404), one("method", "PUT")]]), false),
    ];
    for (name, spec, want) in rows {
        let filter = Filter::build(&[spec]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(filter.matches(&batch, &event), want, "{name}");
    }
}

#[test]
fn kinds_and_the_rest_must_both_hold() {
    let (batch, event) = access();
    let rows: &[(&str, &[FilterSpec], bool)] = &[
        ("kind alone", &[one("kind", "access")], true),
        ("kind and status", &[one("kind", "access"), one("status", 404)], true),
        ("kind and another status", &[one("kind", "access"), one("status", 200)], false),
        ("kind and either status", &[one("kind", "access"), TestSpec::new("status", [403, 404]).into()], true),
        ("between two statuses", &[one("kind", "access"), TestSpec::new("status", [403, 405]).into()], false),
        ("two ranges of status that meet", &[one("status|gte", 404), one("status|lt", 405)], true),
        ("two ranges of status that do not", &[one("status|gte", 404), one("status|lt", 404)], false),
        ("status and what it leaves to check", &[one("status", 404), one("method", "PUT")], false),
        ("two kinds at once", &[one("kind", "access"), one("kind", "app")], false),
        ("either of two, and one", &[text("kind", &["access", "app"]), one("kind", "access")], true),
    ];
    for (name, specs, want) in rows {
        assert_eq!(Filter::build(specs).unwrap().matches(&batch, &event), *want, "{name}");
    }
}

#[test]
fn exempt_events_do_not_match() {
    let (batch, event) = access();
    let build = |specs: &[FilterSpec]| Filter::build(specs).unwrap();
    let missing = build(&[one("status", 404)]);
    let rows = [
        ("another client", build(&[one("client_ip", "10.9.9.9")]), true),
        ("this client", build(&[one("client_ip", "10.1.2.3")]), false),
        ("everyone", Filter::default(), false),
    ];
    for (name, exempt, want) in rows {
        let filter = missing.except(&exempt);
        assert_eq!(filter.matches(&batch, &event), want, "{name}");
        assert_ne!(filter, missing, "{name}");
    }
    let written = build(&[one("status", 404), FilterSpec::Not(vec![one("client_ip", "10.1.2.3")])]);
    assert_eq!(missing.except(&build(&[one("client_ip", "10.1.2.3")])), written);
}

#[test]
fn levels_compare_by_their_meaning() {
    let (batch, event) = error();
    let rows: Vec<(&str, FilterSpec, bool)> = vec![
        ("same", one("severity", "error"), true),
        ("its other name", one("severity", "ERR"), true),
        ("or worse, at", one("severity|gte", "error"), true),
        ("or worse, below", one("severity|gte", "crit"), false),
        ("or worse, above", one("severity|gte", "warning"), true),
        ("worse than", one("severity|gt", "error"), false),
        ("worse than a milder", one("severity|gt", "warn"), true),
        ("at most", one("severity|lte", "error"), true),
        ("milder than", one("severity|lt", "error"), false),
        ("milder than a worse", one("severity|lt", "crit"), true),
        ("by text", one("severity|startswith", "e"), true),
        ("one of", text("severity", &["crit", "alert"]), false),
        ("method of an error line", null("method"), true),
        ("status of an error line", one("status|lt", 1000), false),
        ("message", one("message|contains", "TIMED"), true),
        ("pattern", one("pattern", "upstream timed out"), true),
        ("another pattern", one("pattern|startswith", "disk"), false),
        ("pattern exists", one("pattern|exists", true), true),
        ("no pattern", null("pattern"), false),
    ];
    for (name, spec, want) in rows {
        let filter = Filter::build(&[spec]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(filter.matches(&batch, &event), want, "{name}");
    }
}

#[test]
fn mistakes_are_named() {
    let rows: Vec<(FilterSpec, &str)> = vec![
        (one("pth", "x"), "there is no field \"pth\"; did you mean \"path\"?"),
        (one("zzzzzzzz", "x"), "there is no field \"zzzzzzzz\""),
        (
            one("path|startwith", "x"),
            "there is no modifier \"startwith\" (in \"path|startwith\"); did you mean \"startswith\"?",
        ),
        (one("path|contains|re", "x"), "in \"path|contains|re\", \"re\" cannot stand with another way to compare"),
        (one("path|gt", 5), "in \"path|gt\", path is not a number"),
        (one("path|cidr", "10.0.0.0/8"), "in \"path|cidr\", \"cidr\" is for client_ip"),
        (one("client_ip", "10.0.0.0/8"), "in \"client_ip\", a network needs the modifier \"cidr\""),
        (one("client_ip|contains", "10.0.0.0/8"), "in \"client_ip|contains\", a network needs the modifier \"cidr\""),
        (
            one("client_ip", "10.0.0.0/33"),
            "the value \"10.0.0.0/33\" of \"client_ip\" is not an address, nor a network such as 10.0.0.0/8",
        ),
        (
            one("client_ip|cidr", "10.0.0"),
            "the value \"10.0.0\" of \"client_ip|cidr\" is not a network such as 10.0.0.0/8",
        ),
        (one("status", "four"), "the value \"four\" of \"status\" is not a number"),
        (one("status", 404.5), "the value 404.5 of \"status\" is not a whole number"),
        (one("status|gt", f64::NAN), "the value NaN of \"status|gt\" is not a number"),
        (one("latency_ms", "fast"), "the value \"fast\" of \"latency_ms\" is not a number of milliseconds"),
        (one("latency_ms|startswith", 1), "in \"latency_ms|startswith\", latency_ms is compared as a number"),
        (
            one("kind", "acces"),
            "the value \"acces\" of \"kind\" is not one of access, error, app; did you mean \"access\"?",
        ),
        (
            one("severity|gte", "eror"),
            "the value \"eror\" of \"severity|gte\" is not a level (emerg, alert, crit, error, warn, notice, info, debug, trace); did you mean \"error\"?",
        ),
        (one("path|exists", "yes"), "the value \"yes\" of \"path|exists\" is not one of true and false"),
        (
            null("path|contains"),
            "the value null of \"path|contains\" is not something that this modifier compares with",
        ),
        (text("path", &[]), "\"path\" lists nothing to compare with"),
        (FilterSpec::Any(vec![vec![]]), "\"any\" lists nothing to compare with"),
        (one("path|re", "("), "the regular expression \"(\" of \"path|re\" cannot be used"),
        (one("path|re", "(a{1000}){1000}"), "the regular expression \"(a{1000}){1000}\" of \"path|re\" cannot be used"),
        (one("path|i", "x"), "in \"path|i\", \"i\", \"m\" and \"s\" are flags of \"re\""),
    ];
    for (spec, want) in rows {
        assert_eq!(Filter::build(&[spec]).expect_err(want).to_string(), want);
    }
    let mut deep = one("path", "x");
    for _ in 0..=MAX_NESTING {
        deep = FilterSpec::Not(vec![deep]);
    }
    assert!(matches!(Filter::build(&[deep]), Err(FilterError::TooDeep)));
}

#[test]
fn equal_filters_read_the_same_in_any_order() {
    let a = [text("path", &["/a", "/b"]), one("status", 404)];
    let b = [one("status", 404), text("path", &["/b", "/a", "/b"]), one("status", 404)];
    let (a, b) = (Filter::build(&a).unwrap(), Filter::build(&b).unwrap());
    assert_eq!((a.describe(), &a), (b.describe(), &b));
    assert_eq!(a.describe(), "status = [404] and path = [\"/a\", \"/b\"]", "cheap tests first");
    assert_ne!(a, Filter::build(&[text("path", &["/a\", \"/b"]), one("status", 404)]).unwrap());
    assert!(Filter::build(&[]).unwrap().is_empty() && !a.is_empty());
    let (batch, event) = access();
    assert!(Filter::default().matches(&batch, &event));
}

#[test]
fn a_backslash_takes_wildcards_literally() {
    let rows: &[(&str, &str, bool)] = &[
        ("/a\\*b", "/a*b", true),
        ("/a\\*b", "/axb", false),
        ("/a\\?", "/a?", true),
        ("/a\\?", "/ab", false),
        ("/a\\b", "/a\\b", true),
        ("/a\\\\*", "/a\\anything", true),
        ("/a\\", "/a\\", true),
    ];
    for (pattern, path, want) in rows {
        let (batch, event) = with_path(path.as_bytes());
        assert_eq!(Filter::build(&[one("path", *pattern)]).unwrap().matches(&batch, &event), *want, "{pattern} {path}");
    }
}

/// Wildcards by recursion over characters.
fn glob(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) if glob(rest, text) => true,
        (Some(('*', _)), Some((_, t))) => glob(pattern, t),
        (Some((p, rest)), Some((c, t))) if *p == '?' || p.eq_ignore_ascii_case(c) => glob(rest, t),
        _ => false,
    }
}

proptest! {
    #[test]
    fn wildcards_match_as_recursion_says(pattern in "[aAbé*?]{0,8}", text in "[abBé]{0,10}") {
        let (batch, event) = with_path(text.as_bytes());
        let characters = |s: &str| s.chars().collect::<Vec<_>>();
        for (modifier, wrapped) in [
            ("path", pattern.clone()),
            ("path|contains", format!("*{pattern}*")),
            ("path|startswith", format!("{pattern}*")),
            ("path|endswith", format!("*{pattern}")),
        ] {
            let filter = Filter::build(&[one(modifier, pattern.as_str())]).unwrap();
            prop_assert_eq!(
                filter.matches(&batch, &event),
                glob(&characters(&wrapped), &characters(&text)),
                "{} {:?} on {:?}", modifier, pattern, text
            );
        }
    }
}
