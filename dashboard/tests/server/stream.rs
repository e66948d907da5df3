//! The stream: what is told, to whom, and what becomes of those who do not listen.

use super::support::{HOSTILE, Server, event, event_of, start};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::{Duration, Instant};
use tidewatch_connectors::route::policy::Silence;

fn wait(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_happens_is_told_at_once() {
    let server = start(|_| {});
    let mut page = server.stream("");
    let (name, status) = event(&mut page).unwrap();
    assert_eq!(name, "hello");
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["events"], 7);
    let begun = Instant::now();
    server.feed.alert(json!({ "id": HOSTILE }).to_string());
    // It does not wait for what is told every second; one of those may have been on its way.
    let mut before = Vec::new();
    let alert = loop {
        match event(&mut page).unwrap() {
            (name, alert) if name == "alert" => break alert,
            (name, _) => before.push(name),
        }
    };
    assert!(before.is_empty() || before == ["status"], "{before:?}");
    let alert: Value = serde_json::from_str(&alert).unwrap();
    assert_eq!(alert["id"], HOSTILE, "one event, whatever is in it");
    // The first may be late: between the second and the one before the first lies more than a second.
    (0..3).for_each(|_| drop(event_of(&mut page, "status")));
    assert!(begun.elapsed() > Duration::from_millis(900), "a status a second: {:?}", begun.elapsed());
    assert_eq!(server.feed.streams(), 1);
    drop(page);
    wait("a page that is gone is forgotten", || server.feed.streams() == 0 && !server.feed.is_watched());
}

#[test]
fn what_people_say_is_told_to_every_page() {
    let server = start(|_| {});
    let mut page = server.stream("");
    event_of(&mut page, "hello");
    let subject = |ip: &str| BTreeMap::from([("client_ip".to_owned(), ip.to_owned())]);
    let is_silenced = |rule: &str, ip: &str, now: u64| server.feed.is_silenced(rule, &subject(ip), now);
    assert_eq!(is_silenced("a", "1", 0), Some(false), "nothing yet");
    let ours = "X-Tidewatch: 1\r\n";
    assert_eq!(server.change("POST", "/api/v1/alerts/x/acknowledge", "{}", ours).status, 200);
    let told: Value = serde_json::from_str(&event_of(&mut page, "alert")).unwrap();
    assert!(told["asked"].as_str().unwrap().contains("\"x\""), "the whole alert, as the store has it: {told}");
    *server.data.silences.lock() = vec![
        Silence { rules: vec!["a".into()], subject: subject("1"), until: 10, ..Silence::default() },
        Silence { rules: vec!["b".into()], until: 10, ..Silence::default() },
    ];
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() + 60_000;
    let body = format!("{{\"rule\":\"r\",\"until\":{until},\"reason\":\"r\"}}");
    assert_eq!(server.change("POST", "/api/v1/silences", &body, ours).status, 201);
    let told: Value = serde_json::from_str(&event_of(&mut page, "silences")).unwrap();
    assert_eq!(told["rows"][0], HOSTILE, "all that hold");
    // name, rule, client, now, silenced
    let rows: &[(&str, &str, &str, u64, bool)] = &[
        ("rule and subject", "a", "1", 9, true),
        ("over", "a", "1", 10, false),
        ("another subject", "a", "2", 9, false),
        ("another rule", "c", "1", 9, false),
        ("any subject", "b", "2", 9, true),
    ];
    for (name, rule, ip, now, want) in rows {
        assert_eq!(is_silenced(rule, ip, *now), Some(*want), "{name}");
    }
    server.data.silences.lock().clear();
    assert_eq!(server.change("DELETE", "/api/v1/silences/1", "", ours).status, 204);
    event_of(&mut page, "silences");
    assert_eq!(is_silenced("a", "1", 9), Some(false), "ended");
}

#[test]
fn windows_of_a_host_come_once_a_second_and_the_newest_wins() {
    let server = start(|_| {});
    let mut page = server.stream("");
    event_of(&mut page, "hello");
    for (host, time, version) in [("a", 10, 1), ("b", 10, 1), ("a", 10, 2), ("a", 20, 3), ("a", 10, 4)] {
        server.feed.window(host, time, json!({ "host": host, "time": time, "version": version }).to_string());
    }
    for time in 0..20 {
        server.feed.window("c", time, json!({ "host": "c", "time": time }).to_string());
    }
    // Until the last of each has come, and a while longer.
    let (mut told, mut after): (Vec<Value>, usize) = (Vec::new(), 0);
    while after < 2 {
        let has = |host: &str, key: &str, what: u64| told.iter().any(|w| w["host"] == host && w[key] == what);
        let is_whole = has("a", "version", 3) && has("c", "time", 19);
        let (name, data) = event(&mut page).expect("the stream goes on");
        match name.as_str() {
            "window" => told.push(serde_json::from_str(&data).unwrap()),
            "status" => after += usize::from(is_whole),
            _ => {}
        }
    }
    let of = |host: &str| told.iter().filter(|w| w["host"] == host).cloned().collect::<Vec<_>>();
    let versions: Vec<_> = of("a").iter().map(|w| w["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [1, 4, 3], "the first at once, then the newest version of each");
    assert_eq!(of("b").len(), 1);
    let times: Vec<_> = of("c").iter().map(|w| w["time"].as_u64().unwrap()).collect();
    assert_eq!(times, [0, 12, 13, 14, 15, 16, 17, 18, 19], "no more than eight at a time");
}

#[test]
fn windows_of_very_many_hosts_push_no_page_out() {
    let server = start(|_| {});
    let mut page = server.stream("");
    event_of(&mut page, "hello");
    for round in 0..3 {
        for host in 0..3000 {
            server.feed.window(&format!("h{host}"), round, json!({ "host": host, "time": round }).to_string());
        }
        let mut hosts = BTreeSet::new();
        let end = Instant::now() + Duration::from_secs(10);
        while hosts.len() < 3000 && Instant::now() < end {
            let Some((name, data)) = event(&mut page) else { break };
            assert_ne!(name, "reset", "it reads all that comes");
            if name == "window" {
                let window: Value = serde_json::from_str(&data).unwrap();
                assert!(window["time"] == round && hosts.insert(window["host"].as_u64().unwrap()), "{data} again");
            }
        }
        assert_eq!(hosts.len(), 3000);
        assert!(end - Instant::now() > Duration::from_secs(7), "within two seconds or so");
    }
}

#[test]
fn the_tail_comes_only_where_it_was_asked_for() {
    let server = start(|_| {});
    let mut without = server.stream("");
    event_of(&mut without, "hello");
    assert!(!server.feed.requests_are_watched());
    let mut with = server.stream("?requests=1");
    event_of(&mut with, "hello");
    assert!(server.feed.requests_are_watched());
    server.feed.requests(json!([{ "path": HOSTILE }]).to_string());
    let rows: Value = serde_json::from_str(&event_of(&mut with, "requests")).unwrap();
    assert_eq!(rows[0]["path"], HOSTILE);
    server.feed.alert("{}");
    loop {
        let (name, _) = event(&mut without).unwrap();
        assert_ne!(name, "requests");
        if name == "alert" {
            break;
        }
    }
}

#[test]
fn a_page_that_cannot_keep_up_is_told_to_ask_again() {
    let server = start(|settings| settings.limits.stall = Duration::from_secs(60));
    let mut slow = server.stream("");
    event_of(&mut slow, "hello");
    let big = json!({ "evidence": "x".repeat(50_000) }).to_string();
    // 250 MB, and nobody reads.
    let begun = Instant::now();
    for _ in 0..5000 {
        server.feed.alert(big.as_str());
        if server.feed.streams() != 1 {
            break;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "telling never waits: {:?}", begun.elapsed());
    let mut alerts = 0;
    let end = Instant::now() + Duration::from_secs(120);
    let reset = loop {
        match event(&mut slow) {
            Some((name, _)) if name == "reset" => break true,
            Some((name, _)) if name == "alert" => alerts += 1,
            Some(_) => {}
            None => break false,
        }
        assert!(Instant::now() < end, "no reset");
    };
    assert!(reset && alerts < 1500, "what it missed is gone: {alerts}");
    server.feed.alert("{\"after\":1}");
    while event_of(&mut slow, "alert") != "{\"after\":1}" {}
    assert!(server.get("/metrics").body.contains("tidewatch_page_streams_reset_total 1"));
}

#[test]
fn a_page_that_reads_nothing_is_closed() {
    let server = start(|settings| settings.limits.stall = Duration::from_millis(300));
    let dead = server.stream("");
    let big = json!({ "evidence": "x".repeat(100_000) }).to_string();
    wait("the page is there", || server.feed.streams() == 1);
    let end = Instant::now() + Duration::from_secs(120);
    while server.feed.streams() > 0 {
        assert!(Instant::now() < end, "still there");
        server.feed.alert(big.as_str());
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(dead);
}

#[test]
fn streams_have_a_limit() {
    let server = start(|settings| settings.limits.streams = 2);
    let (_one, two) = (server.stream(""), server.stream(""));
    let got = server.get("/api/v1/stream");
    assert_eq!((got.status, got.code().as_str()), (503, "unavailable"));
    drop(two);
    wait("its place is free again", || server.feed.streams() == 1);
    server.stream("");
}

#[test]
fn streams_end_with_the_server_and_come_back_with_the_next() {
    let mut server: Server = start(|settings| settings.limits.farewell = Duration::from_secs(60));
    let mut page = server.stream("");
    event_of(&mut page, "hello");
    let address = server.address;
    let begun = Instant::now();
    server.page.take().unwrap().stop();
    assert!(begun.elapsed() < Duration::from_secs(30), "it ends by itself: {:?}", begun.elapsed());
    let mut rest = String::new();
    page.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream is ended, not cut: {rest:?}");
    let again = start(|settings| settings.listen = address.to_string());
    let mut page = again.stream("");
    event_of(&mut page, "hello");
}

#[test]
fn a_quiet_stream_has_a_heartbeat() {
    let server = start(|_| {});
    // So slow that no status comes.
    *server.engine.slow.lock() = Duration::from_millis(0);
    let mut page = server.stream("");
    event_of(&mut page, "hello");
    *server.engine.slow.lock() = Duration::from_secs(30);
    page.get_ref().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut seen = String::new();
    let end = Instant::now() + Duration::from_secs(60);
    while !seen.contains("\n:\n") && Instant::now() < end {
        let mut some = [0; 256];
        let n = page.read(&mut some).unwrap();
        seen.push_str(&String::from_utf8_lossy(&some[..n]));
    }
    assert!(seen.contains("\n:\n"), "{seen:?}");
    *server.engine.slow.lock() = Duration::ZERO;
}
