//! What is delivered more than once is kept once, in its last version.

use crate::support::{T0, alert, error, number, read, settings, sql, stats, top};
use proptest::prelude::*;
use rusqlite::types::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidewatch_connectors::sink::{DeadLetterRecord, Delivery, Sink};
use tidewatch_connectors::store::schema::{ColumnKind, MEASUREMENTS, Measurement};
use tidewatch_connectors::store::{AlertsQuery, StoreSink};
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;

#[test]
fn a_delivery_twice_is_a_delivery_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    stats(&mut lines, T0, "web1", 10, 3, Some(8.0));
    stats(&mut lines, T0, "web1", 20, 4, None);
    top(&mut lines, "top_paths", T0, "web1", 1, "/a", 20);
    error(&mut lines, T0, "crit", "disk <n> full", 2, "disk 1 full");
    lines.extend_from_slice(b"no line protocol\nunknown,host=a x=1 5\nhttp_stats,host=a requests=1i,other=2i 5\ntop_paths,host=a,rank=x path=\"/\" 5\nhttp_stats,host=a requests=\"1\" 5\nhttp_stats,host=a,more=b requests=1i 5\n");
    let mut resolved = alert("1", T0, "10.0.0.1");
    resolved.state = AlertState::Resolved;
    let letter = DeadLetterRecord {
        source: "file".into(),
        partition: "a.log".into(),
        offset: 7,
        reason: "format".into(),
        line: "x".into(),
        ..DeadLetterRecord::default()
    };
    let run = DeadLetterRecord { reason: "empty".into(), lines: Some(40), last_offset: Some(47), ..letter.clone() };
    let delivery = Delivery {
        seq: 1,
        points: lines,
        alerts: vec![alert("1", T0, "10.0.0.1"), alert("2", T0 + 1, "10.0.0.2"), resolved],
        dead_letters: vec![letter, run],
        ..Delivery::default()
    };
    for _ in 0..2 {
        let delivered = sink.deliver(&delivery).unwrap();
        let words: Vec<&str> = delivered.refused.iter().map(|(_, words)| words.as_str()).collect();
        assert_eq!(words.len(), 6, "{words:?}");
        assert!(words[1].contains("no table for unknown") && words[2].contains("no column other"), "{words:?}");
        assert!(words[3].contains("rank") && words[4].contains("requests") && words[5].contains("more"), "{words:?}");
    }
    let c = sql(dir.path());
    assert_eq!(number(&c, "SELECT COUNT(*) FROM http_stats"), 1);
    assert_eq!(number(&c, "SELECT requests FROM http_stats WHERE latency_p95 IS NULL"), 20);
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts"), 2);
    assert_eq!(number(&c, "SELECT count FROM dead_letters WHERE reason = 'format'"), 2);
    assert_eq!(number(&c, "SELECT count FROM dead_letters WHERE reason = 'empty'"), 80, "lines, not letters");
    let rows = read(dir.path()).alerts(&AlertsQuery { limit: 10, ..AlertsQuery::default() }).unwrap().rows;
    let shown: Vec<_> = rows.iter().map(|a| (a.id.as_str(), a.state.as_str(), a.value)).collect();
    assert_eq!(shown, [("2", "firing", 0.1 + 0.2), ("1", "resolved", 0.1 + 0.2)]);
    assert_eq!(rows[0].evidence, ["10.0.0.2 - - \"GET / HTTP/1.1\""]);
}

#[test]
fn of_the_states_of_an_alert_in_a_delivery_the_last_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let state = |id: &str, state: AlertState, value: f64| Alert { state, value, ..alert(id, T0, "203.0.113.1") };
    let mut alerts = Vec::new();
    for n in 0..50 {
        // Neither in the order of ids, nor together.
        let id = format!("{:02}", n * 37 % 50);
        alerts.insert(n / 2, state(&id, AlertState::Firing, 1.0));
        alerts.push(state(&id, AlertState::Resolved, 2.0));
    }
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let later = vec![state("07", AlertState::Firing, 3.0)];
    sink.deliver(&Delivery { seq: 2, alerts: later, ..Delivery::default() }).unwrap();
    let c = sql(dir.path());
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts"), 50);
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts WHERE state = 'resolved' AND value = 2"), 49);
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts WHERE id = '07' AND state = 'firing' AND value = 3"), 1);
}

#[derive(Clone, Debug)]
enum Change {
    Point { measurement: usize, time: u64, tags: [u8; 3], value: i64 },
    Alert { id: u8, value: i64 },
}

fn arb_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..MEASUREMENTS.len(), 0u64..5, [0u8..3, 0u8..3, 0u8..3], any::<i64>())
            .prop_map(|(measurement, time, tags, value)| Change::Point { measurement, time: T0 + time * 10_000, tags, value }),
        1 => (0u8..4, 0i64..1000).prop_map(|(id, value)| Change::Alert { id, value }),
    ]
}

/// A point of a measurement whose fields all say `value`.
fn point(out: &mut Vec<u8>, m: &Measurement, time: u64, tags: [u8; 3], value: i64) -> Vec<Value> {
    let mut line = LineWriter::new(out);
    line.start(m.name);
    let mut row = Vec::new();
    for (name, tag) in m.tags.iter().zip(tags) {
        if Measurement::is_number(name) {
            line.tag_number(name, tag.into());
            row.push(Value::Integer(tag.into()));
        } else {
            let text = format!("t,{tag} =\"");
            line.tag(name, &text);
            row.push(Value::Text(text));
        }
    }
    for field in m.fields {
        match field.kind {
            ColumnKind::Integer => {
                line.int(field.name, value);
                row.push(Value::Integer(value));
            }
            ColumnKind::Real => {
                line.float(field.name, value as f64);
                row.push(Value::Real(value as f64));
            }
            ColumnKind::Text => {
                line.text(field.name, &format!("\"{value}\\"));
                row.push(Value::Text(format!("\"{value}\\")));
            }
            ColumnKind::Boolean => {
                line.boolean(field.name, value % 2 == 0);
                row.push(Value::Integer(i64::from(value % 2 == 0)));
            }
        }
    }
    line.end(EventTime(time));
    row
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_stands_in_the_store_is_the_last_version_of_each(
        deliveries in proptest::collection::vec(proptest::collection::vec(arb_change(), 0..30), 0..8),
        again in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
        let mut points_map: BTreeMap<(usize, u64, Vec<String>), Vec<Value>> = BTreeMap::new();
        let mut alerts_map: BTreeMap<String, f64> = BTreeMap::new();
        for (seq, changes) in deliveries.iter().enumerate() {
            let mut delivery = Delivery { seq: seq as u64 + 1, ..Delivery::default() };
            for change in changes {
                match change {
                    Change::Point { measurement, time, tags, value } => {
                        let m = &MEASUREMENTS[*measurement];
                        let row = point(&mut delivery.points, m, *time, *tags, *value);
                        let key = row[..m.tags.len()].iter().map(|v| format!("{v:?}")).collect();
                        points_map.insert((*measurement, *time, key), row);
                    }
                    Change::Alert { id, value } => {
                        delivery.alerts.push(Alert { value: *value as f64, ..alert(&id.to_string(), T0, "10.0.0.1") });
                        alerts_map.insert(id.to_string(), *value as f64);
                    }
                }
            }
            for _ in 0..=usize::from(again) {
                prop_assert_eq!(&sink.deliver(&delivery).unwrap().refused, &[]);
            }
            sink.tend(T0, Instant::now() + Duration::from_secs(20)).unwrap();
        }
        let c = sql(dir.path());
        let mut found = BTreeMap::new();
        for (place, m) in MEASUREMENTS.iter().enumerate() {
            let mut statement = c.prepare(&format!("SELECT * FROM {}", m.name)).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let values: Vec<Value> = (1..1 + m.tags.len() + m.fields.len()).map(|at| row.get(at).unwrap()).collect();
                let key = values[..m.tags.len()].iter().map(|v| format!("{v:?}")).collect();
                found.insert((place, row.get::<_, i64>(0).unwrap() as u64, key), values);
            }
        }
        prop_assert_eq!(found, points_map);
        let mut statement = c.prepare("SELECT id, value FROM alerts").unwrap();
        let alerts: BTreeMap<String, f64> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(alerts, alerts_map);
    }
}
