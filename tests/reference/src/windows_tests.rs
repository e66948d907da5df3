//! Windowed results computed by hand. Windows are of 10 ms, so a request gives 100 per second.

use super::*;
use crate::feed::Partition;
use crate::feed::RefClient;
use tidewatch_events::event::Method;

fn settings() -> Settings {
    Settings { window_size: 10, max_out_of_order: 1000, allowed_lateness: 1000, ..Settings::default() }
}

fn partition(id: u64, events: Vec<RefEvent>) -> Partition {
    Partition { id: PartitionId(id), floors: vec![], events }
}

fn one(events: Vec<RefEvent>) -> Feed {
    Feed { partitions: vec![partition(1, events)] }
}

fn access(time: u64) -> RefEvent {
    RefEvent { method: Method::Get, ..RefEvent::new(Kind::Access, time, time) }
}

fn with_path(path: &str, count: usize) -> Vec<RefEvent> {
    vec![RefEvent { path: Some(path.into()), ..access(0) }; count]
}

/// The lines of one measurement.
fn lines(feed: &Feed, settings: &Settings, measurement: &str) -> Vec<String> {
    points(feed, settings).iter().filter(|p| p.measurement == measurement).map(Point::line).collect()
}

#[test]
fn http_stats_of_one_window() {
    let rows: &[(u16, u64, Option<u32>, &str)] = &[
        (200, 10, Some(100), "1.1.1.1"),
        (204, 0, Some(1000), "1.1.1.1"),
        (304, 5, None, "1.1.1.2"),
        (404, 20, Some(2000), "2001:db8::1"),
        (500, 0, Some(400_000), "2001:db8::2"),
        (0, 0, None, ""),
        (101, 0, None, ""),
    ];
    let mut events = Vec::new();
    for (status, bytes, latency_us, client) in rows {
        let client = client.parse().map_or(RefClient::None, RefClient::Ip);
        events.push(RefEvent { status: *status, bytes: *bytes, latency_us: *latency_us, client, ..access(23) });
    }
    // 7 requests, 35 bytes; four clients: addresses of one /64 are two. Durations 100, 1000, 2000, 400000 us: average
    // 100775 us. Rank 2 of 4 is 1000: bucket to 1007. Ranks ceil(3.8) = ceil(3.96) = 4: 400000, the maximum.
    assert_eq!(
        lines(&one(events), &settings(), "http_stats"),
        [
            "http_stats,host=h bytes=35i,clients=4i,error_ratio=0.14285714285714285,latency_avg=100.775,latency_max=400.0,\
          latency_p50=1.007,latency_p95=400.0,latency_p99=400.0,requests=7i,rps=700.0,status_2xx=2i,status_3xx=1i,\
          status_4xx=1i,status_5xx=1i,throughput=3500.0 20"
        ]
    );
}

#[test]
fn windows_are_half_open_and_aligned_to_the_epoch() {
    let at = |times: &[u64]| {
        let feed = one(times.iter().map(|t| access(*t)).collect());
        let counted: Vec<(u64, usize)> = (points(&feed, &settings()).iter())
            .filter(|p| p.measurement == "http_stats")
            .map(|p| (p.time, if p.line().contains("requests=1i") { 1 } else { 2 }))
            .collect();
        counted
    };
    assert_eq!(at(&[9]), [(0, 1)]);
    assert_eq!(at(&[10]), [(10, 1)]);
    assert_eq!(at(&[9, 10]), [(0, 1), (10, 1)]);
    assert_eq!(at(&[10, 19]), [(10, 2)]);
    assert_eq!(at(&[10, 20, 19]), [(10, 2), (20, 1)]);
    assert_eq!(at(&[]), []);
}

#[test]
fn late_and_future_events_are_in_no_window_and_hosts_are_apart() {
    // B = 0, L = 5, A = 10: 1000 makes W = 1000, late below 995; 2000 is a jump that 1000 refutes.
    let settings =
        Settings { max_out_of_order: 0, allowed_lateness: 5, max_ahead: 10, window_size: 10, ..Settings::default() };
    let other = RefEvent { host: b"web 2".to_vec(), ..access(1001) };
    let feed = one(vec![access(1000), access(994), access(995), access(2000), access(1000), other]);
    let stats: Vec<_> = (points(&feed, &settings).into_iter())
        .filter(|p| p.measurement == "http_stats")
        .map(|p| (p.tags["host"].clone(), p.time, p.fields["requests"].clone()))
        .collect();
    let int = crate::FieldValue::Int;
    assert_eq!(
        stats,
        [("h".to_owned(), 990, int(1)), ("h".to_owned(), 1000, int(2)), ("web 2".to_owned(), 1000, int(1))]
    );
}

#[test]
fn no_duration_no_latency_fields_and_methods_sum_to_requests() {
    let odd = RefEvent { method: Method::Other, ..access(1) };
    let post = RefEvent { method: Method::Post, ..access(2) };
    let feed = one(vec![access(0), odd.clone(), post, odd]);
    assert_eq!(
        lines(&feed, &settings(), "http_stats"),
        ["http_stats,host=h bytes=0i,clients=0i,error_ratio=0.0,requests=4i,rps=400.0,status_2xx=0i,status_3xx=0i,\
          status_4xx=0i,status_5xx=0i,throughput=0.0 0"]
    );
    assert_eq!(
        lines(&feed, &settings(), "http_methods"),
        [
            "http_methods,host=h,method=GET requests=1i 0",
            "http_methods,host=h,method=POST requests=1i 0",
            "http_methods,host=h,method=other requests=2i 0"
        ]
    );
}

#[test]
fn top_paths_are_ranked_by_requests_then_bytes() {
    let mut events = with_path("/b", 2);
    events.extend(with_path("/B", 2));
    events.extend(with_path("/aa", 2));
    events.extend(with_path("", 1));
    events.extend(with_path("/z", 3));
    events.push(access(0)); // without a path
    events[0].status = 404;
    events[1].status = 503;
    events[1].bytes = 9;
    let settings = Settings { top: 4, ..settings() };
    assert_eq!(
        lines(&one(events), &settings, "top_paths"),
        [
            "top_paths,host=h,rank=1 bytes=0i,path=\"/z\",requests=3i,status_4xx=0i,status_5xx=0i 0",
            "top_paths,host=h,rank=2 bytes=0i,path=\"/B\",requests=2i,status_4xx=0i,status_5xx=0i 0",
            "top_paths,host=h,rank=3 bytes=0i,path=\"/aa\",requests=2i,status_4xx=0i,status_5xx=0i 0",
            "top_paths,host=h,rank=4 bytes=9i,path=\"/b\",requests=2i,status_4xx=1i,status_5xx=1i 0"
        ]
    );
    assert_eq!(lines(&one(with_path("", 1)), &settings, "top_paths").len(), 1, "an empty path is a path");
}

#[test]
fn ranks_are_ordered_as_text() {
    let mut events = Vec::new();
    for i in 0..11 {
        events.extend(with_path(&format!("/{i:02}"), 20 - i));
    }
    let ranks: Vec<_> = (points(&one(events), &settings()).into_iter())
        .filter(|p| p.measurement == "top_paths")
        .map(|p| p.tags["rank"].clone())
        .collect();
    assert_eq!(ranks, ["1", "10", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
fn clients_tie_by_their_keys_bytes() {
    let ip = |text: &str| RefClient::Ip(text.parse().unwrap());
    let clients = [
        ip("2001:db8::10"),
        ip("2001:db8::9"),
        ip("10.0.0.1"),
        ip("9.0.0.1"),
        RefClient::Name(b"bb".to_vec()),
        RefClient::Name(b"c".to_vec()),
    ];
    let events = clients.into_iter().map(|client| RefEvent { client, ..access(0) }).collect();
    let got: Vec<_> = (points(&one(events), &settings()).into_iter())
        .filter(|p| p.measurement == "top_clients")
        .map(|p| p.fields["client_ip"].clone())
        .collect();
    // A key is its tag (1 name, 2 IPv4, 3 IPv6), a name's length, the bytes.
    let want =
        ["c", "bb", "9.0.0.1", "10.0.0.1", "2001:db8::9", "2001:db8::10"].map(|s| crate::FieldValue::Text(s.into()));
    assert_eq!(got, want);
}

#[test]
fn agents_and_referrers_have_a_share_of_all_requests() {
    let mut events = vec![access(0); 8];
    for event in &mut events[..2] {
        event.agent = Some(b"Mozilla/5.0 (compatible; GoogleBOT/2.1)".to_vec());
    }
    events[2].agent = Some(b"curl/8".to_vec());
    events[2].referrer = Some(b"http://r/\n".to_vec());
    assert_eq!(
        lines(&one(events.clone()), &settings(), "top_agents"),
        [
            "top_agents,host=h,rank=1 bot=true,name=\"Mozilla/5.0 (compatible; GoogleBOT/2.1)\",requests=2i,share=0.25 0",
            "top_agents,host=h,rank=2 bot=false,name=\"curl/8\",requests=1i,share=0.125 0"
        ]
    );
    assert_eq!(
        lines(&one(events), &settings(), "top_referrers"),
        ["top_referrers,host=h,rank=1 name=\"http://r/\\\\x0A\",requests=1i,share=0.125 0"]
    );
}

#[test]
fn slow_paths_need_five_timed_requests() {
    let timed = |path: &str, timed: &[u32], untimed: usize| {
        let mut events = with_path(path, timed.len() + untimed);
        events.iter_mut().zip(timed).for_each(|(e, us)| e.latency_us = Some(*us));
        events
    };
    let events = [
        timed("/four", &[900_000; 4], 4),
        timed("/five", &[1000, 1000, 1000, 1000, 2000], 0),
        timed("/b", &[64; 5], 0),
        timed("/a", &[64; 5], 0),
        timed("/more", &[64; 5], 1),
    ]
    .concat();
    assert_eq!(events.len(), 8 + 5 + 5 + 5 + 6);
    let got: Vec<_> = (points(&one(events), &settings()).into_iter())
        .filter(|p| p.measurement == "slow_paths")
        .map(|p| (p.fields["name"].clone(), p.fields["latency_p95"].clone(), p.fields["requests"].clone()))
        .collect();
    let want = [("/five", 2.0, 5), ("/more", 0.064, 6), ("/a", 0.064, 5), ("/b", 0.064, 5)].map(|(path, p95, n)| {
        (crate::FieldValue::Text(path.into()), crate::FieldValue::Float(p95), crate::FieldValue::Int(n))
    });
    assert_eq!(got, want);
}

#[test]
fn long_values_are_cut_and_stay_apart() {
    let (one_path, two_path) = ("/".repeat(257), "/".repeat(258));
    let mut events = with_path(&one_path, 2);
    events.extend(with_path(&two_path, 1));
    let got: Vec<_> = (points(&one(events), &settings()).into_iter())
        .filter(|p| p.measurement == "top_paths")
        .map(|p| p.fields["path"].clone())
        .collect();
    let text = |path: &str| crate::FieldValue::Text(bounded(path.as_bytes()).into_owned());
    assert_eq!(got, [text(&one_path), text(&two_path)]);
    assert_ne!(got[0], got[1]);
}

#[test]
fn error_events_by_severity_and_template() {
    let event = |kind, level, message: &str, time| RefEvent {
        level,
        message: Some(message.into()),
        ..RefEvent::new(kind, time, time)
    };
    use LogLevel::{Error, Info, Warn};
    // The template here is a message's first word.
    let settings = Settings {
        templates: 2,
        template: |message, out| {
            let text = String::from_utf8_lossy(message);
            out.push_str(text.split(' ').next().unwrap_or_default());
        },
        ..settings()
    };
    let second = partition(2, vec![event(Kind::Error, Error, "disk 2", 3)]);
    let first = partition(
        1,
        vec![
            event(Kind::Error, Error, "disk 9", 4),
            event(Kind::Error, Error, "disk 1", 3),
            event(Kind::App, Warn, "disk w", 5),
            event(Kind::App, Info, "disk not counted", 5),
            event(Kind::Error, Info, "net up", 6),
            event(Kind::Error, Error, "net down", 6),
            event(Kind::Error, Error, "cpu b", 7),
            event(Kind::Error, Error, "ram a", 8),
            event(Kind::App, Warn, "zoo", 9),
            event(Kind::Error, Error, "next", 10),
            RefEvent::new(Kind::Error, 20, 20),
        ],
    );
    // disk 4, net 2 are kept; cpu, ram, zoo are other. Of "disk 1" and "disk 2", both at 3, partition 1 is the least.
    assert_eq!(
        lines(&Feed { partitions: vec![second, first] }, &settings, "error_events"),
        [
            "error_events,host=h,pattern=-,severity=none count=1i,example=\"\" 20",
            "error_events,host=h,pattern=disk,severity=error count=3i,example=\"disk 1\" 0",
            "error_events,host=h,pattern=disk,severity=warn count=1i,example=\"disk w\" 0",
            "error_events,host=h,pattern=net,severity=error count=1i,example=\"net down\" 0",
            "error_events,host=h,pattern=net,severity=info count=1i,example=\"net up\" 0",
            "error_events,host=h,pattern=next,severity=error count=1i,example=\"next\" 10",
            "error_events,host=h,pattern=other,severity=error count=2i,example=\"cpu b\" 0",
            "error_events,host=h,pattern=other,severity=warn count=1i,example=\"zoo\" 0"
        ]
    );
}

#[test]
fn templates_of_equal_count_are_kept_by_bytes() {
    let event = |message: &str| RefEvent {
        level: LogLevel::Error,
        message: Some(message.into()),
        ..RefEvent::new(Kind::Error, 0, 0)
    };
    let settings = Settings { templates: 1, ..settings() };
    let patterns = |messages: &[&str]| -> Vec<String> {
        let feed = one(messages.iter().map(|m| event(m)).collect());
        points(&feed, &settings).iter().map(|p| p.tags["pattern"].clone()).collect()
    };
    assert_eq!(patterns(&["b", "a"]), ["a", "other"]);
    assert_eq!(patterns(&["b", "a", "b"]), ["b", "other"]);
    assert_eq!(patterns(&["other", "a", "other"]), ["other"], "never the same point twice");
}
