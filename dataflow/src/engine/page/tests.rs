//! What the page shows of a pipeline and of several processes.

use super::super::observe::ProcessView;
use super::pipeline::{BEHIND, partitions, why};
use super::*;

#[test]
fn a_window_is_json_whatever_the_host_is_called() {
    let mut lines = Vec::new();
    let mut line = tidewatch_events::line_protocol::LineWriter::new(&mut lines);
    line.start("http_stats").tag("host", "a \"b\",=\\</script>\u{2028}").count("requests", 3).float("rps", 0.5);
    line.end(tidewatch_events::time::EventTime(20_000));
    let mut tap = PageTap { feed: shown::Feed::default(), hosts: Hosts::default() };
    tap.step(&Delivery { points: lines.clone(), ..Delivery::default() });
    let host = tap.hosts.lock().first().unwrap().clone();
    assert!(host.contains("</script>"), "{host}");
    let text = std::str::from_utf8(&lines).unwrap();
    let json = window_json(&host, 20_000, &parse_line(text.trim_end()).unwrap());
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read, serde_json::json!({"time": 20_000, "host": host, "requests": 3, "rps": 0.5}));
    assert!(!json.contains('\n'));
}

#[test]
fn what_is_told_of_many_requests_is_of_all_processes() {
    let of = |length: usize, most| spread(&(0..length).collect::<Vec<_>>(), most).into_iter().copied().collect();
    let rows: &[(&str, usize, usize, &[usize])] = &[
        ("none", 0, 3, &[]),
        ("no room", 3, 0, &[]),
        ("all", 3, 3, &[0, 1, 2]),
        ("one too many", 4, 3, &[0, 1, 2]),
        ("many", 900, 3, &[0, 300, 600]),
    ];
    for (name, length, most, want) in rows {
        let got: Vec<usize> = of(*length, *most);
        assert_eq!(got, *want, "{name}");
    }
}

#[test]
fn a_taken_port_is_followed_by_the_next() {
    let taken = |up_to: u16| {
        move |listen: String| {
            let port: u16 = listen.rsplit_once(':').unwrap().1.parse().unwrap();
            if (1..up_to).contains(&port) { Err(PageError::Taken(listen)) } else { Ok(port) }
        }
    };
    assert_eq!(usual_or_next(taken(8080)).unwrap(), 8080);
    assert_eq!(usual_or_next(taken(8082)).unwrap(), 8082);
    assert_eq!(usual_or_next(taken(9000)).unwrap(), 0, "any free one");
}

#[test]
fn one_that_is_read_as_it_is_written_may_still_hold_the_others_back() {
    use view::Why::{Behind, Following, Idle};
    let rows = [
        ("it is the only one", Following, Some(9), Some(9), 0, Following),
        ("just before", Following, Some(1), Some(BEHIND), 0, Following),
        ("far behind", Following, Some(1), Some(BEHIND + 1), 0, Behind),
        ("since nothing comes", Idle, Some(1), Some(BEHIND + 1), 5000, Idle),
        ("before that as well", Idle, Some(1), Some(BEHIND + 5001), 5000, Behind),
        ("since before the start", Idle, Some(1), Some(BEHIND + 1), u64::MAX, Idle),
        ("nobody is anywhere", Following, None, None, 0, Following),
    ];
    for (name, given, holding, farthest, quiet, want) in rows {
        assert_eq!(why(given, holding, farthest, quiet), want, "{name}");
    }
}

#[test]
fn the_least_far_of_all_processes_is_first() {
    let row = |(process, state, watermark)| view::PartitionRow { process, state, watermark, ..Default::default() };
    let of = |rows: &[_]| ProcessView { partitions: rows.iter().copied().map(row).collect(), ..ProcessView::default() };
    use view::PartitionState::{Active, Idle};
    let views = [
        of(&[(0, Active, Some(20)), (0, Active, Some(40)), (0, Idle, Some(5))]),
        of(&[(1, Active, None), (1, Active, Some(20)), (1, Active, Some(30))]),
    ];
    let found: Vec<_> = partitions(&views).iter().map(|row| (row.process, row.watermark)).collect();
    assert_eq!(found, [(1, None), (0, Some(20)), (1, Some(20)), (1, Some(30)), (0, Some(40)), (0, Some(5))]);
}

#[test]
fn a_run_without_a_store_does_not_show_that_of_an_earlier_one() {
    use crate::config::{self, Overrides, diagnostic::SourceText};
    let dir = tempfile::tempdir().unwrap();
    drop(tidewatch_connectors::store::StoreSink::open(dir.path(), Default::default()).unwrap());
    for (enabled, want) in [(true, true), (false, false)] {
        let text = format!("[store]\nenabled = {enabled}\n");
        let overrides = Overrides { data_dir: Some(dir.path().to_owned()), ..Overrides::default() };
        let config = config::parse(SourceText::new("test", &text), &overrides, &|_| None).unwrap();
        assert_eq!(data(&config, None, None).is_some(), want, "enabled = {enabled}");
    }
}
