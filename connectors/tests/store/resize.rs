//! Points of windows that were open, where the next life has windows of another size.

use crate::support::{MINUTE, T0, anomaly, number, points, settings, sql, stats, tend, top};
use std::time::Duration;
use tidewatch_connectors::sink::Sink;
use tidewatch_connectors::store::{StoreSettings, StoreSink, discard_open};
use tidewatch_events::time::Millis;

fn of_size(seconds: u64) -> StoreSettings {
    StoreSettings { window: Millis::seconds(seconds), ..settings() }
}

#[test]
fn what_was_open_goes_where_windows_have_another_size() {
    let (closed, second) = (T0 + MINUTE + 30_000, 1000);
    // Sizes before and now, what is closed, where windows of results begin, the starts (s) of points that stay.
    type Row = (&'static str, u64, u64, u64, u64, &'static [i64]);
    let rows: &[Row] = &[
        ("the same size", 10, 10, closed, closed, &[0, 80, 90, 100, 130]),
        ("a longer one that begins there", 10, 30, closed, closed, &[0, 80]),
        ("a shorter one", 10, 5, closed, closed, &[0, 80]),
        ("one that begins later: what ends before counts on", 10, 60, closed, T0 + 2 * MINUTE, &[0, 80, 90, 100]),
        ("one that begins in a window that was open", 10, 7, closed, closed + 4 * second, &[0, 80]),
        ("nothing is known to be closed", 10, 30, 0, 0, &[0, 80, 90, 100, 130]),
    ];
    for (name, before, now, closed, results, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = StoreSink::open_untended(dir.path(), of_size(*before)).unwrap();
        let mut lines = Vec::new();
        for at in [0, 80, 90, 100, 130] {
            stats(&mut lines, T0 + at * second, "web1", 10, 1, None);
            top(&mut lines, "top_paths", T0 + at * second, "web1", 1, "/", 10);
        }
        anomaly(&mut lines, T0 + 100 * second, 0, "{}", "firing");
        sink.deliver(&points(1, lines)).unwrap();
        tend(&sink, T0 + 200 * second, Duration::from_secs(60));
        drop(sink);
        let sink = StoreSink::open_untended(dir.path(), of_size(*now)).unwrap();
        let removed = discard_open(dir.path(), *closed, *results).unwrap();
        tend(&sink, T0 + 200 * second, Duration::from_secs(60));
        let c = sql(dir.path());
        for table in ["http_stats", "top_paths"] {
            let mut starts = c.prepare(&format!("SELECT (time - {T0}) / 1000 FROM {table} ORDER BY time")).unwrap();
            let starts: Vec<i64> = starts.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            assert_eq!(starts, *want, "{name}: {table}");
            for sums in ["_1m", "_1h"] {
                let sum = number(&c, &format!("SELECT SUM(requests) FROM {table}{sums}"));
                assert_eq!(sum, 10 * want.len() as i64, "{name}: {table}{sums}");
            }
        }
        assert_eq!(removed, 2 * (5 - want.len()), "{name}");
        assert_eq!(number(&c, "SELECT COUNT(*) FROM anomaly"), 1, "{name}: windows of rules have their own sizes");
        assert_eq!(discard_open(dir.path(), 1, 1).unwrap(), 0, "{name}: once");
        assert_eq!(number(&c, "SELECT value FROM meta WHERE name = 'window_ms'"), *now as i64 * 1000, "{name}");
    }
    let none = tempfile::tempdir().unwrap();
    assert_eq!(discard_open(none.path(), 1, 1).unwrap(), 0);
    assert!(!none.path().join("store.db").exists(), "none is made");
}
