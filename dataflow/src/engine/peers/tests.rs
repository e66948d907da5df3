//! What a process answers, and process 0 finds out.

use super::super::ledger::TimeSettings;
use super::*;
use crate::cluster::Status;
use tidewatch_events::time::Millis;
use tidewatch_operators::watermark::{Bounds, Guard};
use tidewatch_reference::testing;

fn remembering(lines: &[u8]) -> Here {
    let time = TimeSettings {
        bounds: Bounds { max_out_of_order: Millis(0), allowed_lateness: Millis(0), max_ahead: Millis(0) },
        guard: Guard::Limit,
        idle_after: None,
        commit_window: Millis(0),
        rules_window: Millis(0),
    };
    let recent = RecentLines::new(8 << 20);
    recent.remember(&testing::raw_batch(lines));
    Here::new(Arc::new(Ledger::new(time, 1)), Arc::new(recent), Box::new(Vec::new), Observer::default())
}

/// What is sent of the lines at these offsets, with time enough.
fn sent(here: &Here, offsets: &[u64]) -> Vec<Option<Vec<u8>>> {
    let wanted: Vec<LinePlace> = offsets.iter().map(|offset| (PartitionId(1), *offset)).collect();
    here.beginnings(&wanted, Instant::now() + PATIENCE * 60)
}

#[test]
fn an_answer_is_bounded_however_long_lines_are() {
    let long = vec![b'x'; 1 << 20];
    let here = remembering(&[&long[..], b"\nshort\n"].concat());
    let answer = here.answer(serde_json::to_value(Question::Lines(vec![(1, 0); LINES])).unwrap());
    let size = answer.to_string().len();
    assert!(size < MAX_LINE / 2 && answer.as_array().unwrap().len() == LINES, "{size} bytes");
    let lines = sent(&here, &[0, (1 << 20) + 1, 1 << 21]);
    assert_eq!(lines, [Some(long[..LINE].to_vec()), Some(b"short".to_vec()), None]);
    // More than a peer asks for: what has no room is missing.
    let lines = sent(&here, &[0; LINES + 9]);
    let bytes: usize = lines.iter().flatten().map(Vec::len).sum();
    assert_eq!((bytes, lines.iter().flatten().count(), lines.len()), (ANSWER, ANSWER / LINE, LINES + 9));
    let late = here.beginnings(&[(PartitionId(1), 0); 3], Instant::now());
    assert_eq!(late, [const { None }; 3]);
}

#[test]
fn secrets_are_replaced_before_lines_are_cut() {
    // The blank is part of the value only because of what stands at the end of the line.
    let line = format!("192.0.2.1 \"GET /a?token=one two&b={} HTTP/1.1\" 200", "x".repeat(2 * LINE));
    let here = remembering(line.as_bytes());
    let here = here.under(Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() });
    let sent = String::from_utf8(sent(&here, &[0]).remove(0).unwrap()).unwrap();
    assert_eq!((sent.len(), &sent[..36]), (LINE, "192.0.2.1 \"GET /a?token=***&b=xxxxxx"));
    let cut = Privacy::default().redact_line(&line.as_bytes()[..LINE]).into_owned();
    assert!(cut.windows(3).any(|w| w == b"two"), "cut first, half of the secret would be left");
}

/// A process whose input has ended at 0, and the socket of its only peer.
fn ended_beside_a_peer() -> (Peers, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let sockets = vec![None, Some(listener.accept().unwrap().0)];
    let control = Control::start(0, vec!["this".into(), "peer".into()], sockets, PATIENCE * 60).unwrap();
    let ended = remembering(b"");
    ended.ledger.take(&{
        let feed = tidewatch_connectors::feed::Feed::new(1, 1, || {});
        feed.listed();
        feed
    });
    (Peers::new(Arc::new(ended), Some(control)), there)
}

/// Says how it stands, and answers every question after a while.
fn play(mut peer: std::net::TcpStream, status: Status, answer: Option<u64>, after: Duration) {
    use std::io::{BufRead as _, Write as _};
    let mut said = serde_json::to_vec(&serde_json::json!({ "status": status })).unwrap();
    said.push(b'\n');
    peer.write_all(&said).unwrap();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(peer.try_clone().unwrap()).lines() {
            let Ok(line) = line else { return };
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(question) = line.get("ask") {
                assert_eq!(question[1], "end");
                std::thread::sleep(after);
                if !status.farewell {
                    let _ = writeln!(peer, "{}", serde_json::json!({ "answer": [question[0], answer] }));
                }
            }
        }
    });
}

#[test]
fn the_end_of_a_peer_is_waited_for_as_long_as_it_lives() {
    let status = |farewell, end| Status { farewell, end, ..Status::default() };
    // name, what it says of itself, its answer and after how long it comes, the last event of all
    let rows = [
        ("at once", status(false, None), Some(70), Duration::ZERO, Some(70)),
        ("longer than others are waited for", status(false, None), Some(70), PATIENCE + PATIENCE / 4, Some(70)),
        ("it goes on", status(false, None), None, Duration::ZERO, None),
        ("it has left", status(true, Some(80)), None, Duration::ZERO, Some(80)),
        ("it has left in the middle", status(true, None), None, Duration::ZERO, None),
    ];
    for (name, status, answer, after, want) in rows {
        let (peers, there) = ended_beside_a_peer();
        let heard = status.clone();
        play(there, status, answer, after);
        let until = Instant::now() + Duration::from_secs(60);
        let control = peers.control.clone().unwrap();
        while control.status_of(1) != Some(heard.clone()) {
            assert!(Instant::now() < until, "{name}: its status");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(peers.last_event_of_all(), want, "{name}");
        control.forget_peers();
    }
}

#[test]
fn what_a_peer_answered_last_stands_while_it_is_silent() {
    let (peers, mut there) = ended_beside_a_peer();
    let figures = |of: usize| (serde_json::json!([of]), serde_json::json!({ "process": 1, "events": of }));
    let missed = serde_json::json!([[Place::DarkPaths, Missed { events: 7, values: 0, too_late: 0 }]]);
    // It answers each question twice, then none.
    std::thread::spawn(move || {
        use std::io::{BufRead as _, Write as _};
        let mut asked = HashMap::<String, usize>::new();
        for line in std::io::BufReader::new(there.try_clone().unwrap()).lines() {
            let Ok(line) = line else { return };
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let Some(question) = line.get("ask") else { continue };
            let times = asked.entry(question[1].as_str().unwrap().to_owned()).or_default();
            *times += 1;
            let (exempted, standing) = figures(*times);
            let answer = match question[1].as_str().unwrap() {
                "exempted" => exempted,
                "standing" => standing,
                _ => missed.clone(),
            };
            if *times <= 2 {
                let _ = writeln!(there, "{}", serde_json::json!({ "answer": [question[0], answer] }));
            }
        }
    });
    for (name, want) in [("first", 1), ("later", 2), ("silent", 2)] {
        assert_eq!(peers.exempted(), [want], "{name}");
        assert_eq!(peers.standings(), [figures(want as usize).1], "{name}");
        let missed: Vec<u64> = peers.inexact().iter().map(|(_, missed)| missed.events).collect();
        assert_eq!(missed, [7], "{name}");
    }
    peers.control.unwrap().forget_peers();
}

#[test]
fn a_partition_that_nobody_knows_is_asked_for_now_and_then() {
    let (mut names, now) = (Names::default(), Instant::now());
    let (known, unknown) = (PartitionId(1), PartitionId(2));
    assert_eq!(names.get(known, now), None);
    names.learn(known, Some(Name::default()), now);
    names.learn(unknown, None, now);
    let later = now + UNKNOWN;
    assert_eq!((names.get(unknown, now), names.get(unknown, later)), (Some(None), None));
    assert_eq!(names.get(known, later), Some(Some(Name::default())));
    (3..3 + NAMES as u64).for_each(|id| names.learn(PartitionId(id), None, now));
    assert!(names.asked.len() <= NAMES);
}
