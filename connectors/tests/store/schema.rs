//! Tables and columns, files of other versions, and files that are none.

use crate::support::{MINUTE, T0, alert, anomaly, number, points, read, settings, sql, tend};
use rusqlite::Connection;
use std::time::Duration;
use tidewatch_connectors::answers::Span;
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::store::schema::{self, ColumnKind, IN_STORE_ONLY, Level, MEASUREMENTS};
use tidewatch_connectors::store::{SeriesQuery, StoreError, StoreMarks, StoreReader, StoreSink};
use tidewatch_events::alert::Alert;
use tidewatch_events::time::{EventTime, Millis};

#[test]
fn the_tables_are_those_of_the_schema() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../influx/schema.toml")).unwrap();
    let schema: toml::Table = text.parse().unwrap();
    let mut want = Vec::new();
    for (name, measurement) in schema["measurement"].as_table().unwrap() {
        let mut tags: Vec<_> = measurement["tags"].as_table().unwrap().keys().cloned().collect();
        tags.sort();
        let mut fields: Vec<_> = measurement["fields"]
            .as_table()
            .unwrap()
            .iter()
            .map(|(name, field)| format!("{name}:{}", field["type"].as_str().unwrap()))
            .collect();
        fields.sort();
        want.push(format!("{name} {tags:?} {fields:?}"));
    }
    want.sort();
    let kind = |kind: ColumnKind| match kind {
        ColumnKind::Integer => "integer",
        ColumnKind::Real => "float",
        ColumnKind::Text => "string",
        ColumnKind::Boolean => "boolean",
    };
    let mut have: Vec<String> = MEASUREMENTS
        .iter()
        .filter(|m| !IN_STORE_ONLY.contains(&m.name))
        .map(|m| {
            let fields: Vec<String> = m.fields.iter().map(|f| format!("{}:{}", f.name, kind(f.kind))).collect();
            format!("{} {:?} {fields:?}", m.name, m.tags)
        })
        .collect();
    have.sort();
    assert_eq!(have, want);
    // What stands in the file is what the list says.
    let dir = tempfile::tempdir().unwrap();
    drop(StoreSink::open(dir.path(), settings()).unwrap());
    let c = sql(dir.path());
    for m in &MEASUREMENTS {
        for level in [Level::Raw, Level::Minute, Level::Hour] {
            let table = m.table(level);
            let mut statement = c.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
            let have: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            assert_eq!(have, m.columns_of(level).collect::<Vec<_>>(), "{table}");
            let counts = m.name == "anomaly" && level != Level::Raw;
            assert_eq!(m.columns_of(level).count(), m.columns().count() + usize::from(counts), "{table}");
        }
    }
    assert_eq!(number(&c, "SELECT value FROM meta WHERE name = 'schema_version'"), schema::VERSION);
}

#[test]
fn files_that_cannot_be_used_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let missing = StoreReader::open(dir, Duration::from_secs(1)).err().unwrap();
    assert!(matches!(&missing, StoreError::Missing(_)), "{missing}");
    drop(StoreSink::open(dir, settings()).unwrap());
    let version = |version: i64| {
        let c = Connection::open(dir.join("store.db")).unwrap();
        c.pragma_update(None, "user_version", version).unwrap();
    };
    version(schema::VERSION + 1);
    let before = std::fs::read(dir.join("store.db")).unwrap();
    let opened = [
        StoreSink::open(dir, settings()).err(),
        StoreReader::open(dir, Duration::from_secs(1)).err(),
        StoreMarks::open(dir).err(),
    ];
    for error in opened {
        let error = error.unwrap();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
        let words = error.to_string();
        let versions = (format!("version {}", schema::VERSION + 1), format!("up to {}", schema::VERSION));
        let says_so = words.contains(&versions.0) && words.contains(&versions.1);
        assert!(says_so && words.contains("move the file away"), "{words}");
    }
    assert_eq!(std::fs::read(dir.join("store.db")).unwrap(), before, "it is left alone");
    std::fs::write(dir.join("store.db"), "this is no database, but long enough to have a header ".repeat(100)).unwrap();
    for error in [StoreSink::open(dir, settings()).err(), StoreReader::open(dir, Duration::from_secs(1)).err()] {
        assert!(matches!(&error, Some(StoreError::Damaged { .. })), "{error:?}");
    }
}

/// What version 6 added is not there.
const BEFORE_6: &str = "ALTER TABLE anomaly_1m DROP COLUMN findings; ALTER TABLE anomaly_1h DROP COLUMN findings;
    DROP TABLE http_bots; DROP TABLE http_bots_1m; DROP TABLE http_bots_1h;";

#[test]
fn a_store_of_version_1_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    sink.deliver(&Delivery { seq: 1, alerts: vec![alert("1", T0, "10.0.0.1")], ..Delivery::default() }).unwrap();
    StoreMarks::open(dir.path()).unwrap().acknowledge("1", "ann", "known").unwrap();
    drop(sink);
    let c = Connection::open(dir.path().join("store.db")).unwrap();
    c.execute_batch(BEFORE_6).unwrap();
    c.execute_batch("ALTER TABLE acknowledgements DROP COLUMN covers; PRAGMA user_version = 1;").unwrap();
    drop(c);
    let only_read = StoreReader::open(dir.path(), Duration::from_secs(1)).err().unwrap();
    assert!(matches!(only_read, StoreError::Older(_)), "{only_read}");
    drop(StoreSink::open_untended(dir.path(), settings()).unwrap());
    let found = read(dir.path()).alert("1").unwrap().unwrap();
    assert_eq!(found.acknowledged.map(|said| said.by).as_deref(), Some("ann"));
}

#[test]
fn a_store_of_version_2_has_its_alerts_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let bytes = || number(&sql(dir.path()), "SELECT value FROM meta WHERE name = 'alerts_bytes'");
    assert_eq!(bytes(), 0);
    let large = Alert { evidence: vec!["é".repeat(3000)], ..alert("2", T0, "10.0.0.2") };
    sink.deliver(&Delivery { seq: 1, alerts: vec![alert("1", T0, "10.0.0.1"), large], ..Delivery::default() }).unwrap();
    let both = bytes();
    assert!((8000..12_000).contains(&both), "{both}");
    let small = Alert { evidence: Vec::new(), ..alert("2", T0, "10.0.0.2") };
    sink.deliver(&Delivery { seq: 2, alerts: vec![small], ..Delivery::default() }).unwrap();
    let kept = bytes();
    assert!((700..1200).contains(&kept), "what is written again counts as it is now: {kept}");
    drop(sink);
    let c = Connection::open(dir.path().join("store.db")).unwrap();
    c.execute_batch(BEFORE_6).unwrap();
    c.execute_batch(
        "DROP TRIGGER alerts_added; DROP TRIGGER alerts_changed; DROP TRIGGER alerts_removed;
        DELETE FROM meta WHERE name = 'alerts_bytes'; PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(StoreSink::open_untended(dir.path(), settings()).unwrap());
    assert_eq!(bytes(), kept);
    c.execute("DELETE FROM alerts", []).unwrap();
    assert_eq!(bytes(), 0);
}

#[test]
fn sums_of_version_5_count_as_their_rows_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    // Three subjects with two findings each, and those of one of them taken back.
    for (n, state) in ["firing", "retracted", "firing"].into_iter().enumerate() {
        (0..2).for_each(|hop| anomaly(&mut lines, T0 + hop * 10_000, n as u64, &format!("s{n}"), state));
    }
    sink.deliver(&points(1, lines)).unwrap();
    tend(&sink, T0, Duration::from_secs(90));
    drop(sink);
    let found = || {
        let span = Span::of(EventTime(T0), EventTime(T0 + MINUTE));
        let query = SeriesQuery { span, step: Some(Millis(MINUTE)), ..SeriesQuery::default() };
        read(dir.path()).series(&query).unwrap().rows.iter().map(|row| row.anomalies).sum::<u64>()
    };
    assert_eq!(found(), 4);
    let c = Connection::open(dir.path().join("store.db")).unwrap();
    c.execute_batch(BEFORE_6).unwrap();
    c.pragma_update(None, "user_version", 5).unwrap();
    drop(c);
    drop(StoreSink::open_untended(dir.path(), settings()).unwrap());
    assert_eq!(found(), 2, "one a row");
}
