//! The bound of the file: what goes first, and what happens where there is no room.

use crate::support::{HOUR, T0, alert, number, points, settings, sql, stats, tend, top};
use std::time::Duration;
use tidewatch_connectors::sink::{Delivery, Sink, SinkError};
use tidewatch_connectors::store::{StoreSettings, StoreSink};
use tidewatch_events::alert::{Alert, AlertState};

#[test]
fn a_flood_of_alerts_leaves_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let small = StoreSettings { max_size: 3 << 20, ..settings() };
    let mut sink = StoreSink::open_untended(dir.path(), small).unwrap();
    let mut lines = Vec::new();
    (0..=48).for_each(|hour| stats(&mut lines, T0 + hour * HOUR, "web1", hour, 1, None));
    let old = |id: &str, state| Alert { state, ..alert(id, T0, "10.0.0.1") };
    let alerts = vec![old("goes on", AlertState::Firing), old("over", AlertState::Resolved)];
    sink.deliver(&Delivery { seq: 1, points: lines, alerts, ..Delivery::default() }).unwrap();
    let newest = T0 + 48 * HOUR;
    tend(&sink, newest, Duration::from_secs(90));
    let hours = || number(&sql(dir.path()), "SELECT COUNT(*) FROM http_stats_1h");
    assert_eq!(hours(), 49);
    // Ten times as much as there is room for.
    for seq in 0..300 {
        let flood = |n: u64| {
            let evidence = vec![format!("{seq} {n} {}", "x".repeat(6000))];
            let state = AlertState::Resolved;
            Alert { evidence, state, ..alert(&format!("{seq}.{n}"), newest + seq * 10_000, "192.0.2.1") }
        };
        let mut lines = Vec::new();
        stats(&mut lines, newest + seq * 10_000, "web1", 1, 1, None);
        let delivery =
            Delivery { seq: seq + 2, points: lines, alerts: (0..10).map(flood).collect(), ..Delivery::default() };
        let mut tries = 0;
        while let Err(error) = sink.deliver(&delivery) {
            assert!(matches!(error, SinkError::Retry { .. }) && tries < 3, "{error}");
            tries += 1;
            tend(&sink, newest + seq * 10_000, Duration::from_secs(90));
        }
        tend(&sink, newest + seq * 10_000, Duration::from_secs(90));
    }
    assert_eq!(hours(), 49, "all hours are there");
    let c = sql(dir.path());
    let alerts = |which: &str| number(&c, &format!("SELECT COUNT(*) FROM alerts WHERE {which}"));
    assert_eq!((alerts("id = 'goes on'"), alerts("id = 'over'")), (1, 0), "the oldest go, unless they fire");
    assert!(alerts("id LIKE '299.%'") == 10 && alerts("1") > 50, "the newest stay: {}", alerts("1"));
    assert!(std::fs::metadata(dir.path().join("store.db")).unwrap().len() <= 3 << 20);
}

#[test]
fn a_full_store_is_tried_again_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let small = StoreSettings { max_size: 400 << 10, ..settings() };
    let mut sink = StoreSink::open_untended(dir.path(), small.clone()).unwrap();
    let delivery = |n: u64| {
        let mut lines = Vec::new();
        for rank in 0..100 {
            top(
                &mut lines,
                "top_paths",
                T0 + n * 10_000,
                "web1",
                rank,
                &format!("/{n}/{rank}/{}", "p".repeat(100)),
                rank,
            );
        }
        points(n, lines)
    };
    let mut full = None;
    for n in 0..60 {
        if let Err(error) = sink.deliver(&delivery(n)) {
            full = Some((n, error));
            break;
        }
    }
    let (n, error) = full.expect("it becomes full");
    assert!(
        matches!(&error, SinkError::Retry { message, .. } if message.contains("is full") && message.contains("max_size")),
        "{error}"
    );
    let rows = |at: u64| {
        number(&sql(dir.path()), &format!("SELECT COUNT(*) FROM top_paths WHERE time = {}", T0 + at * 10_000))
    };
    assert_eq!((rows(n - 1), rows(n)), (100, 0), "whole or not at all");
    // A file of the same size with more room goes on where it stopped.
    drop(sink);
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    sink.deliver(&delivery(n)).unwrap();
    assert_eq!(rows(n), 100);
    drop(sink);
    // And one that is nearly full makes room by itself: what is older than an hour goes.
    let mut sink = StoreSink::open_untended(dir.path(), StoreSettings { max_size: 600 << 10, ..small }).unwrap();
    for n in 1000..1400 {
        let mut tries = 0;
        while let Err(error) = sink.deliver(&delivery(n)) {
            assert!(matches!(error, SinkError::Retry { .. }) && tries < 3, "{error}");
            tries += 1;
            tend(&sink, T0 + n * 10_000, Duration::from_secs(90));
        }
        if n % 20 == 0 {
            tend(&sink, T0 + n * 10_000, Duration::from_secs(90));
        }
        if n == 1030 {
            break;
        }
    }
    let size = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    assert!(size <= 600 << 10, "{size}");
}
