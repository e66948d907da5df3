//! Alerts as they are searched, acknowledged and silenced.

use crate::support::{HOUR, MINUTE, T0, alert, read, settings};
use std::collections::BTreeMap;
use tidewatch_connectors::answers::Span;
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::source::wall_clock;
use tidewatch_connectors::store::{AlertsQuery, SeriesQuery, SilenceRequest, StoreError, StoreMarks, StoreSink};
use tidewatch_events::alert::{Alert, AlertState, Mode, Severity};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;

#[test]
fn alerts_are_filtered_paged_acknowledged_and_silenced() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut alerts: Vec<Alert> = (0..5).map(|n| alert(&n.to_string(), T0 + n / 2, &format!("10.0.0.{n}"))).collect();
    alerts[4].rule = "path-scan".into();
    alerts[3].state = AlertState::Withdrawn;
    alerts[2].severity = Severity::Critical;
    alerts[2].state = AlertState::Resolved;
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let reader = read(dir.path());
    let ids = |query: AlertsQuery| -> String {
        reader.alerts(&AlertsQuery { limit: 9, ..query }).unwrap().rows.into_iter().map(|a| a.id).collect()
    };
    let all = AlertsQuery::default;
    let rows = [
        ("all", all(), "43210"),
        ("a rule", AlertsQuery { rule: Some("path-scan".into()), ..all() }, "4"),
        ("a severity", AlertsQuery { severity: Some(Severity::Critical), ..all() }, "2"),
        ("a state", AlertsQuery { state: Some(AlertState::Withdrawn), ..all() }, "3"),
        ("a subject", AlertsQuery { subject: Some("10.0.0.1".into()), ..all() }, "1"),
        ("a hostile subject", AlertsQuery { subject: Some("' OR 1 --".into()), ..all() }, ""),
        ("no host", AlertsQuery { host: Some("*".into()), ..all() }, "43210"),
        ("before its end", AlertsQuery { span: Span { from: Some(EventTime(T0 + 10_001)), to: None }, ..all() }, "432"),
        ("after its start", AlertsQuery { span: Span { from: None, to: Some(EventTime(T0 + 1)) }, ..all() }, "10"),
    ];
    for (name, query, want) in rows {
        assert_eq!(ids(query), want, "{name}");
    }
    let (mut paged, mut before) = (String::new(), None);
    loop {
        let page = reader.alerts(&AlertsQuery { limit: 2, before, ..all() }).unwrap();
        paged.extend(page.rows.iter().map(|a| a.id.as_str()));
        before = page.next;
        if !page.truncated {
            break;
        }
    }
    assert_eq!(paged, "43210");
    assert!(matches!(reader.alerts(&AlertsQuery { before: Some("x".into()), ..all() }), Err(StoreError::BadQuery(_))));
    let counts = reader.alert_counts().unwrap();
    assert_eq!((counts.fired, counts.firing, counts.critical), (4, 3, 1), "critical: of those that fired");

    let marks = StoreMarks::open(dir.path()).unwrap();
    marks.acknowledge("1", "ann", "a\u{1b}[31m test").unwrap();
    let seen = |id: &str| reader.alert(id).unwrap().unwrap().acknowledged.map(|a| (a.by, a.note));
    assert_eq!(seen("1"), Some(("ann".into(), "a\\x1B[31m test".into())));
    assert_eq!(seen("0"), None);
    // The same rule about the same subject, later: nobody has seen that.
    let mut later = alert("9", u64::MAX >> 2, "10.0.0.1");
    later.last = later.fired;
    sink.deliver(&Delivery { seq: 2, alerts: vec![later], ..Delivery::default() }).unwrap();
    assert_eq!(seen("9"), None);
    marks.unacknowledge("1").unwrap();
    assert_eq!(seen("1"), None);
    for wrong in [marks.acknowledge("none", "", "").err(), marks.unacknowledge("1").err(), marks.end_silence(7).err()] {
        assert!(matches!(wrong, Some(StoreError::Unknown { .. })), "{wrong:?}");
    }

    let until = EventTime(4_000_000_000_000);
    let request = |rule: Option<&str>, ip: Option<&str>| SilenceRequest {
        rule: rule.map(Into::into),
        subject: ip.map(|ip| BTreeMap::from([("client_ip".into(), ip.into())])),
        until,
        reason: "maintenance".into(),
    };
    let silenced = || -> String {
        let rows = reader.alerts(&AlertsQuery { limit: 9, ..all() }).unwrap().rows;
        rows.iter().filter(|a| a.silenced && a.id != "9").map(|a| a.id.as_str()).collect()
    };
    for (rule, ip, want) in [
        (Some("path-scan"), None, "4"),
        (None, Some("10.0.0.2"), "2"),
        (None, Some("::ffff:10.0.0.2"), "2"),
        (Some("path-scan"), Some("10.0.0.2"), ""),
        (None, None, "43210"),
    ] {
        let silence = marks.silence(&request(rule, ip)).unwrap();
        assert_eq!((silenced().as_str(), reader.silences().unwrap().len()), (want, 1), "{rule:?} {ip:?}");
        marks.end_silence(silence.id).unwrap();
    }
    let over = SilenceRequest { until: EventTime(1), ..request(None, None) };
    assert!(matches!(marks.silence(&over), Err(StoreError::BadQuery(_))));
}

#[test]
fn a_subject_is_searched_by_its_values_whatever_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let names = ["10.0.0.1", "a\"b\\c", "d\ne\0f"];
    let alerts = names.iter().enumerate().map(|(n, name)| alert(&n.to_string(), T0 + n as u64, name)).collect();
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let reader = read(dir.path());
    // What is searched for, what is found.
    let rows = [
        ("0.0", "0"),
        ("client_ip", ""),
        ("\":\"", ""),
        ("{", ""),
        ("\"", "1"),
        ("b\\c", "1"),
        ("\\n", ""),
        ("\ne\0", "2"),
        ("", "210"),
    ];
    for (text, want) in rows {
        let query = AlertsQuery { subject: Some(text.into()), limit: 9, ..AlertsQuery::default() };
        let found: String = reader.alerts(&query).unwrap().rows.into_iter().map(|alert| alert.id).collect();
        assert_eq!(found, want, "{text:?}");
    }
    for (n, name) in names.iter().enumerate() {
        let found: Vec<_> = reader.client(name, None, None).unwrap().alerts.into_iter().map(|alert| alert.id).collect();
        assert_eq!(found, [n.to_string()], "{name:?}");
    }
}

#[test]
fn what_a_rule_in_shadow_mode_finds_is_counted_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let shadow = Alert { mode: Mode::Shadow, severity: Severity::Critical, ..alert("s", T0, "10.0.0.8") };
    let alerts = vec![shadow, alert("l", T0, "10.0.0.1")];
    let mut points = Vec::new();
    let findings = [("s", "firing"), ("s", "shadow"), ("l", "firing"), ("unknown", "firing"), ("unknown", "shadow")];
    for (slot, (id, state)) in findings.into_iter().enumerate() {
        let mut line = LineWriter::new(&mut points);
        line.start("anomaly").tag("host", "*").tag("rule", "ip-spike").tag_number("slot", slot as u64);
        line.text("id", id).text("state", state).end(EventTime(T0));
    }
    sink.deliver(&Delivery { seq: 1, points, alerts, ..Delivery::default() }).unwrap();
    let reader = read(dir.path());
    let counts = reader.alert_counts().unwrap();
    assert_eq!((counts.fired, counts.firing, counts.critical), (1, 1, 0));
    let query = SeriesQuery { span: Span::of(EventTime(T0), EventTime(T0 + 60_000)), ..SeriesQuery::default() };
    let series = reader.series(&query).unwrap();
    assert_eq!(series.rows.iter().map(|row| row.anomalies).sum::<u64>(), 2);
}

#[test]
fn what_has_just_fired_can_be_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (reader, marks) = (read(dir.path()), StoreMarks::open(dir.path()).unwrap());
    // A window of an hour without hops: it fires at its end, and is told long before.
    let fired = EventTime(wall_clock().0 + 3_600_000);
    let firing = |id: &str, fired: EventTime| Alert { key: "k".into(), fired, ..alert(id, T0, "10.0.0.1") };
    let earlier = firing("0", EventTime(fired.0 - 7_200_000));
    sink.deliver(&Delivery { seq: 1, alerts: vec![earlier, firing("1", fired)], ..Delivery::default() }).unwrap();
    let before = wall_clock();
    let made = marks.acknowledge("1", "ann", "known").unwrap();
    assert!((before.0..=wall_clock().0).contains(&made.at.0), "said when it was said");
    let later = firing("2", EventTime(fired.0 + 1));
    sink.deliver(&Delivery { seq: 2, alerts: vec![later], ..Delivery::default() }).unwrap();
    let seen = |id: &str| reader.alert(id).unwrap().unwrap().acknowledged;
    assert_eq!((seen("1"), seen("0"), seen("2")), (Some(made.clone()), Some(made), None));
    assert_eq!(reader.acknowledged().unwrap(), BTreeMap::from([("k".to_owned(), fired)]), "for reminders");
}

#[test]
fn what_fires_later_while_time_lags_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (reader, marks) = (read(dir.path()), StoreMarks::open(dir.path()).unwrap());
    // Logs of some hours ago are being caught up with.
    let fired = wall_clock().0 - 4 * HOUR;
    let mut deliver = |id: &str, key: &str, fired: u64| {
        let alerts = vec![Alert { key: key.into(), ..alert(id, fired, "10.0.0.1") }];
        sink.deliver(&Delivery { seq: fired, alerts, ..Delivery::default() }).unwrap();
    };
    deliver("0", "k", fired);
    deliver("1", "k", fired + MINUTE);
    deliver("other", "l", fired + 2 * HOUR);
    marks.acknowledge("0", "ann", "known").unwrap();
    deliver("2", "k", fired + HOUR);
    let seen = |id: &str| reader.alert(id).unwrap().unwrap().acknowledged.is_some();
    assert_eq!(["0", "1", "2", "other"].map(seen), [true, true, false, false]);
}
