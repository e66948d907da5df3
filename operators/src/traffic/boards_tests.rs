use super::super::errors::MOST_TEMPLATES;
use super::super::{HOST_ROOM, host_shard};
use super::*;
use std::collections::HashMap;
use tidewatch_events::time::Millis;

const SETTINGS: Settings = Settings {
    size: Millis(10),
    allowed_lateness: Millis(5),
    top: 2,
    max_keys: usize::MAX,
    max_hosts: 1,
    max_bytes: usize::MAX,
    host_room: HOST_ROOM,
};

/// Hosts of one shard, by hash ascending.
fn crowd(n: usize) -> Vec<Vec<u8>> {
    let names = (0..).map(|i| format!("n{i}").into_bytes()).filter(|name| host_shard(hash::of(name)) == 3);
    let mut names: Vec<Vec<u8>> = names.take(n).collect();
    names.sort_by_key(|name| hash::of(name));
    names
}

fn delta(host: &[u8], requests: u64) -> HostDelta {
    let stats = HostStats { requests, ..HostStats::default() };
    HostDelta { window: 0, host: host.to_vec(), stats, errors: Vec::new() }
}

/// Requests by host in what was written.
fn requests(lines: &[u8]) -> Vec<(String, u64)> {
    let lines = std::str::from_utf8(lines).unwrap().lines().filter(|line| line.starts_with("http_stats"));
    let number = |line: &str| line.split("requests=").nth(1).unwrap().split('i').next().unwrap().parse().unwrap();
    lines.map(|line| (line.split(['=', ' ']).nth(1).unwrap().to_owned(), number(line))).collect()
}

#[test]
fn throughput_agrees_with_bytes_that_no_field_holds() {
    let huge = || {
        let stats = HostStats { bytes: u64::MAX, ..delta(b"h", 1).stats };
        HostDelta { stats, ..delta(b"h", 1) }
    };
    let (lines, _) = closed([huge(), huge()].into_iter());
    let line = std::str::from_utf8(&lines).unwrap().lines().find(|line| line.starts_with("http_stats")).unwrap();
    let field = |name: &str| line.split(name).nth(1).unwrap().split([',', ' ']).next().unwrap();
    assert_eq!((field("bytes="), field("requests=")), ("9223372036854775807i", "2i"));
    assert_eq!(field("throughput=").parse::<f64>().unwrap(), i64::MAX as f64 / 0.01);
}

fn closed(deltas: impl Iterator<Item = HostDelta>) -> (Vec<u8>, Vec<HostDelta>) {
    let mut boards = Boards::new(SETTINGS, Arc::default());
    deltas.for_each(|delta| boards.add(delta));
    let (mut out, mut others) = (Vec::new(), Vec::new());
    boards.close(None, &mut out, &mut others);
    assert!(boards.windows.is_empty() && boards.dirty.is_empty());
    (out, others)
}

#[test]
fn a_shard_tells_its_busiest_hosts_apart() {
    let name = |host: &[u8]| String::from_utf8(host.to_vec()).unwrap();
    let hosts = crowd(HOST_ROOM + 2);
    // name, hosts with their requests, who stays, requests of the others
    type Row<'a> = (&'a str, Vec<(usize, u64)>, Option<(usize, u64)>, Option<u64>);
    let rows: &[Row] = &[
        ("one", vec![(0, 5)], Some((0, 5)), None),
        ("the busier of two", vec![(0, 5), (1, 6)], Some((1, 6)), Some(5)),
        ("without events there is no host", vec![(0, 0), (1, 6)], Some((1, 6)), None),
        ("as many as have room", (0..HOST_ROOM).map(|i| (i, i as u64 + 1)).collect(), Some((15, 16)), Some(120)),
        ("one more has none", (0..=HOST_ROOM).map(|i| (i, i as u64 + 1)).collect(), Some((15, 16)), Some(137)),
    ];
    for (row, hosts_and_requests, stays, others) in rows {
        let deltas = || hosts_and_requests.iter().map(|(i, n)| delta(&hosts[*i], *n));
        let (out, left) = closed(deltas());
        let want: Vec<_> = stays.iter().map(|(i, n)| (name(&hosts[*i]), *n)).collect();
        assert_eq!(requests(&out), want, "{row}");
        assert_eq!(left.iter().map(|d| d.stats.requests).sum::<u64>(), others.unwrap_or(0), "{row}");
        assert_eq!(left.len(), others.iter().len(), "{row}");
        // In another order, and one by one, the same.
        let again: Vec<HostDelta> = deltas().collect();
        let ones = again.iter().rev().flat_map(|d| (0..d.stats.requests).map(|_| delta(&d.host, 1)));
        assert_eq!(closed(ones), (out, left), "{row}");
    }
    let mut others = Others::new(SETTINGS, Arc::default());
    others.add(delta(OTHER, 2));
    others.add(delta(OTHER, 3));
    let mut out = Vec::new();
    assert_eq!(others.close(Some(0), &mut out).points, 0, "not closed yet");
    others.close(None, &mut out);
    assert_eq!(requests(&out), [("other".to_owned(), 5)]);
    assert!(!std::str::from_utf8(&out).unwrap().contains("clients"));
}

#[test]
fn what_was_shown_early_of_a_host_that_is_crowded_out_is_taken_back() {
    let hosts = crowd(2);
    let mut boards = Boards::new(SETTINGS, Arc::default());
    boards.add(delta(&hosts[0], 2));
    let mut out = Vec::new();
    boards.early(&mut out);
    assert_eq!(requests(&out).len(), 1);
    boards.add(delta(&hosts[1], 3));
    out.clear();
    boards.early(&mut out);
    assert_eq!(requests(&out).iter().map(|(_, n)| *n).collect::<Vec<_>>(), [3], "only the busier one is shown");
    let mut others = Vec::new();
    out.clear();
    boards.close(None, &mut out, &mut others);
    let mut got: Vec<u64> = requests(&out).into_iter().map(|(_, n)| n).collect();
    got.sort_unstable();
    assert_eq!((got, others[0].stats.requests), (vec![0, 3], 2));
}

#[test]
fn what_robots_asked_for_is_told_to_the_store() {
    let told = |lines: Vec<u8>| String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    let line = |host: &[u8], bots: u64, requests: u64| {
        format!("http_bots,host={} bots={bots}i,requests={requests}i 0", str::from_utf8(host).unwrap())
    };
    let of = |host: &[u8], requests: u64, bots: u64| {
        let stats = HostStats { bots, ..delta(host, requests).stats };
        HostDelta { stats, ..delta(host, requests) }
    };
    let hosts = crowd(2);
    let mut boards = Boards::new(SETTINGS, Arc::default());
    let (mut out, mut left) = (Vec::new(), Vec::new());
    boards.add(of(&hosts[0], 4, 1));
    boards.early(&mut out);
    assert_eq!(told(boards.take_for_store()), [line(&hosts[0], 1, 4)], "early");
    assert_eq!(told(boards.take_for_store()), [""; 0], "once");
    boards.add(of(&hosts[0], 1, 1));
    boards.add(of(&hosts[1], 7, 0));
    boards.close(None, &mut out, &mut left);
    let closed = [line(&hosts[0], 0, 0), line(&hosts[1], 0, 7)];
    assert_eq!(told(boards.take_for_store()), closed, "of one that is crowded out nothing is left");
    assert!(!String::from_utf8(out.clone()).unwrap().contains("bots"), "nobody else is told");
    let mut others = Others::new(SETTINGS, Arc::default());
    left.drain(..).for_each(|delta| others.add(delta));
    others.close(None, &mut out);
    assert_eq!(told(others.take_for_store()), [line(OTHER, 2, 5)], "it counts as another's");
}

fn errors(host: &[u8], rows: &[(&str, &str, u64)]) -> HostDelta {
    let row = |(severity, pattern, count): &(&str, &str, u64)| ErrorRow {
        severity: LogLevel::from_word(severity.as_bytes()).unwrap(),
        pattern: Some((*pattern).to_owned()),
        count: *count,
        least: (0, 0, hash::of(pattern.as_bytes())),
        example: format!("like-{pattern}"),
    };
    HostDelta { errors: rows.iter().map(row).collect(), ..delta(host, 0) }
}

/// What remains of lines where the last of each point is kept: fields by measurement, tags and time.
fn kept(lines: &[u8]) -> BTreeMap<String, String> {
    let point = |line: &str| {
        let mut parts: Vec<&str> = line.split(' ').collect();
        let time = parts.pop().unwrap();
        (format!("{} {time}", parts[0]), parts[1..].join(" "))
    };
    std::str::from_utf8(lines).unwrap().lines().map(point).collect()
}

/// The same without points that count nothing.
fn results(lines: &[u8]) -> BTreeMap<String, String> {
    let mut points = kept(lines);
    points.retain(|_, fields| !fields.contains("requests=0i") && !fields.contains("count=0i"));
    points
}

fn close(boards: &mut Boards, out: &mut Vec<u8>) {
    boards.close(None, out, &mut Vec::new());
    assert!(boards.windows.is_empty() && boards.dirty.is_empty());
}

#[test]
fn a_template_that_was_shown_early_and_has_no_room_in_the_end_is_taken_back() {
    let mut boards = Boards::new(SETTINGS, Arc::default());
    let names: Vec<String> = (0..=MAX_PATTERNS).map(|i| format!("t{i:03}")).collect();
    // One more than there is room for: at first the last one is among the others, as a warning.
    for name in &names[..MAX_PATTERNS] {
        boards.add(errors(b"h", &[("error", name, 2)]));
    }
    boards.add(errors(b"h", &[("warn", &names[MAX_PATTERNS], 1)]));
    let mut out = Vec::new();
    boards.early(&mut out);
    let (last, of_others) = ("error_events,host=h,pattern=t199,severity=error 0", "severity=warn 0");
    assert!(kept(&out)[last].starts_with("count=2i"), "it is shown");
    assert!(kept(&out)[&format!("error_events,host=h,pattern=other,{of_others}")].starts_with("count=1i"));
    // Then it has room, and another one has none.
    boards.add(errors(b"h", &[("warn", &names[MAX_PATTERNS], 4)]));
    close(&mut boards, &mut out);
    let points = kept(&out);
    assert_eq!(points[last], "count=0i,example=\"like-t199\"");
    assert_eq!(&points[&format!("error_events,host=h,pattern=other,{of_others}")], "count=0i,example=\"\"");
    assert!(points["error_events,host=h,pattern=other,severity=error 0"].starts_with("count=2i"));
    assert!(points[&format!("error_events,host=h,pattern=t200,{of_others}")].starts_with("count=5i"));
    let count = |fields: &String| fields[6..].split('i').next().unwrap().parse::<usize>().unwrap();
    assert_eq!(points.values().map(count).sum::<usize>(), 2 * MAX_PATTERNS + 5, "each event counts once");
}

#[test]
fn whatever_was_shown_early_what_is_kept_is_what_the_window_came_to() {
    let crowd = crowd(HOST_ROOM + 3);
    let templates: Vec<String> = (0..MAX_PATTERNS + 20).map(|i| format!("t{i:03}")).collect();
    let mut zeros = 0;
    for seed in 0..40u64 {
        // A generator of random numbers below some.
        let mut state = seed;
        let mut below = |n: usize| {
            state = hash::of(&state.to_le_bytes());
            (state >> 20) as usize % n
        };
        let (mut live, mut replayed) = (Boards::new(SETTINGS, Arc::default()), Boards::new(SETTINGS, Arc::default()));
        let (mut shown, mut want) = (Vec::new(), Vec::new());
        let mut keys: HashMap<usize, usize> = HashMap::new();
        for step in 0..60 {
            // First those that later ones leave no room for.
            let host = crowd.len() - 1 - below(if step < 20 { 4 } else { crowd.len() });
            let mut news = match below(3) {
                0 => {
                    let first = below(templates.len());
                    let row = |at: usize| (["error", "warn"][at % 2], templates[at].as_str(), 1 + at as u64 % 3);
                    let rows: Vec<_> = (first..templates.len()).take(80).map(row).collect();
                    errors(&crowd[host], &rows)
                }
                _ => delta(&crowd[host], 1 + below(9) as u64),
            };
            if news.stats.requests > 0 {
                news.stats.methods[below(Method::ALL.len())] = news.stats.requests;
                (0..below(3)).for_each(|us| news.stats.latency.record(us as u64));
                let keys = keys.entry(host).or_default();
                *keys += below(3);
                let rows = |n: usize| {
                    (0..n).map(|i| (format!("k{i}").into_bytes(), Counts { requests: 2, ..Counts::default() }))
                };
                let summary = Summary {
                    window: 0,
                    host: crowd[host].clone(),
                    shard: 0,
                    clients: *keys as u64,
                    // Not clients, whose keys are addresses.
                    tops: [0, *keys, *keys, *keys].map(|n| rows(n).collect()),
                    slow: (0..*keys).map(|i| SlowPath { path: vec![b'a' + i as u8], requests: 5, p95_us: 7 }).collect(),
                    overflow: [0; 4],
                };
                live.replace(summary.clone());
                replayed.replace(summary);
            }
            live.add(news.clone());
            replayed.add(news);
            if below(4) == 0 {
                live.early(&mut shown);
            }
        }
        close(&mut live, &mut shown);
        close(&mut replayed, &mut want);
        assert_eq!(results(&shown), kept(&want), "seed {seed}");
        zeros += kept(&shown).len() - kept(&want).len();
        for of in ["top_agents", "top_paths", "top_referrers", "slow_paths", "http_methods", "error_events"] {
            let points = kept(&shown).into_iter().filter(|(id, _)| id.starts_with(of));
            let names =
                points.map(|(_, fields)| fields.split(',').map(|f| f.split('=').next().map(str::to_owned)).collect());
            assert!(names.collect::<BTreeSet<Vec<_>>>().len() <= 1, "seed {seed}: every point of {of} has all fields");
        }
    }
    assert!(zeros > 400, "{zeros} points were taken back");
}

#[test]
fn durations_that_were_shown_early_are_taken_back_too() {
    let hosts = crowd(2);
    let mut boards = Boards::new(SETTINGS, Arc::default());
    let mut timed = delta(&hosts[0], 2);
    timed.stats.latency.record(7000);
    timed.stats.latency_sum = 7000;
    timed.stats.methods[0] = 2;
    boards.add(timed);
    let mut out = Vec::new();
    boards.early(&mut out);
    boards.add(delta(&hosts[1], 3));
    close(&mut boards, &mut out);
    let id = format!("http_stats,host={} 0", String::from_utf8(hosts[0].clone()).unwrap());
    let points = kept(&out);
    let fields = &points[&id];
    for name in ["latency_avg", "latency_max", "latency_p50", "latency_p95", "latency_p99", "rps", "throughput"] {
        assert!(fields.contains(&format!("{name}=0.0")), "{name}: {fields}");
    }
    assert_eq!(points.iter().filter(|(_, fields)| *fields == "requests=0i").count(), 1, "http_methods");
}

#[test]
fn templates_that_found_no_room_are_others_early_and_in_the_end() {
    let mut names: Vec<String> = (0..MOST_TEMPLATES + 9).map(|i| format!("t{i:04}")).collect();
    names.sort_by_key(|name| hash::of(name.as_bytes()));
    let mut boards = Boards::new(SETTINGS, Arc::default());
    // The last ones by hash come first, are the busiest, and are shown.
    let (room, beyond) = names.split_at(MOST_TEMPLATES);
    beyond.iter().for_each(|name| boards.add(errors(b"h", &[("error", name, 5)])));
    let mut out = Vec::new();
    boards.early(&mut out);
    assert_eq!(results(&out).len(), beyond.len());
    room.iter().for_each(|name| boards.add(errors(b"h", &[("error", name, 1)])));
    close(&mut boards, &mut out);
    let points = results(&out);
    let others = &points["error_events,host=h,pattern=other,severity=error 0"];
    let events = MOST_TEMPLATES - MAX_PATTERNS + 5 * beyond.len();
    assert!(others.starts_with(&format!("count={events}i")), "{others}");
    assert_eq!(points.len(), MAX_PATTERNS + 1, "one without room has none, however many events it has");
    assert!(kept(&out)[&format!("error_events,host=h,pattern={},severity=error 0", beyond[0])].starts_with("count=0i"));
}
