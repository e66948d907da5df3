//! Countries of clients by a GeoIP file that is written here.

use super::*;
use tidewatch_events::time::EventTime;

/// A number of a kind that has one byte for its kind and length.
fn number(kind: u8, value: u64, out: &mut Vec<u8>) {
    let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
    match kind {
        5 | 6 => out.push(kind << 5 | bytes.len() as u8),
        extended => out.extend([bytes.len() as u8, extended - 7]),
    }
    out.extend(bytes);
}

fn text(value: &str, out: &mut Vec<u8>) {
    match value.len() {
        short @ ..=28 => out.push(2 << 5 | short as u8),
        long => out.extend([2 << 5 | 29, (long - 29) as u8]),
    }
    out.extend(value.as_bytes());
}

fn map(entries: u8, out: &mut Vec<u8>) {
    out.push(7 << 5 | entries);
}

/// A file in the MaxMind DB format: IPv4 networks, each with the code and name of a country (or of where it is registered).
fn file(networks: &[(&str, &str, &str, &str)]) -> Vec<u8> {
    // Of each node the two records: a node, or data.
    #[derive(Clone, Copy)]
    enum To {
        Nothing,
        Node(usize),
        Data(usize),
    }
    let (mut nodes, mut data) = (vec![[To::Nothing; 2]], Vec::new());
    for (network, field, code, name) in networks {
        let (address, length) = network.split_once('/').unwrap();
        let (address, length) =
            (u32::from(address.parse::<std::net::Ipv4Addr>().unwrap()), length.parse::<u32>().unwrap());
        let at = data.len();
        map(1, &mut data);
        text(field, &mut data);
        map(2, &mut data);
        text("iso_code", &mut data);
        text(code, &mut data);
        text("names", &mut data);
        map(1, &mut data);
        text("en", &mut data);
        text(name, &mut data);
        let mut node = 0;
        for depth in 0..length {
            let side = (address >> (31 - depth) & 1) as usize;
            if depth + 1 == length {
                nodes[node][side] = To::Data(at);
            } else if let To::Node(next) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([To::Nothing; 2]);
                nodes[node][side] = To::Node(nodes.len() - 1);
                node = nodes.len() - 1;
            }
        }
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for to in nodes.into_iter().flatten() {
        let value = match to {
            To::Nothing => count,
            To::Node(node) => node,
            To::Data(at) => count + 16 + at,
        };
        out.extend(&(value as u32).to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    map(9, &mut out);
    for (name, kind, value) in [
        ("node_count", 6, count as u64),
        ("record_size", 5, 24),
        ("ip_version", 5, 4),
        ("binary_format_major_version", 5, 2),
        ("binary_format_minor_version", 5, 0),
        ("build_epoch", 9, 1_700_000_000),
    ] {
        text(name, &mut out);
        number(kind, value, &mut out);
    }
    text("database_type", &mut out);
    text("Test-Country", &mut out);
    text("languages", &mut out);
    out.extend([1, 4]); // an array of one
    text("en", &mut out);
    text("description", &mut out);
    map(0, &mut out);
    out
}

fn opened(networks: &[(&str, &str, &str, &str)]) -> Countries {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.mmdb");
    std::fs::write(&path, file(networks)).unwrap();
    Countries::open(&path).unwrap()
}

#[test]
fn a_client_has_a_country_or_none() {
    let countries = opened(&[
        ("203.0.113.0/24", "country", "DE", "Germany"),
        ("198.51.100.0/25", "country", "FR", "France"),
        ("192.0.2.0/24", "registered_country", "JP", "Japan"),
        (
            "10.0.0.0/8",
            "country",
            "X\u{202e}\n",
            "<b>\"\u{0}a very long name of a country that nobody has ever heard of, at all",
        ),
    ]);
    let rows: &[(&str, Option<&str>)] = &[
        ("203.0.113.5", Some("Germany (DE)")),
        ("203.0.113.0/24", Some("Germany (DE)")), // as `client = "truncate"` leaves it
        ("198.51.100.127", Some("France (FR)")),
        ("198.51.100.128", None),
        ("192.0.2.77", Some("Japan (JP)")),
        ("8.8.8.8", None),
        ("2001:db8::1", None),
        ("::ffff:203.0.113.5", None),
        ("c_3f2a9b", None), // a pseudonym
        ("", None),
        ("/", None),
    ];
    for (client, want) in rows {
        assert_eq!(countries.of(client).as_deref(), *want, "{client}");
    }
    let hostile = countries.of("10.1.2.3").unwrap();
    assert!(!hostile.contains(['\u{202e}', '\n', '\u{0}']), "{hostile:?}");
    assert!(hostile.chars().count() <= 2 * MAX_NAME + 3, "{hostile:?}");
}

#[test]
fn clients_are_added_up() {
    let countries =
        opened(&[("203.0.113.0/24", "country", "DE", "Germany"), ("198.51.100.0/24", "country", "FR", "France")]);
    let row = |name: &str, requests: u64, share: f64, status_4xx: u64| TopRow {
        name: name.into(),
        requests,
        share,
        status_4xx: Some(status_4xx),
        ..TopRow::default()
    };
    let rows = vec![
        row("198.51.100.1", 50, 0.5, 1),
        row("203.0.113.1", 20, 0.2, 2),
        row("203.0.113.2", 40, 0.4, u64::MAX),
        row("10.0.0.1", 5, 0.05, 0),
    ];
    let clients = Tops {
        kind: Ranking::Clients,
        from: EventTime(1),
        to: EventTime(2),
        rows,
        truncated: true,
        bot_share: None,
        approximate: true,
    };
    let ranked = countries.ranked(clients.clone(), 2);
    let named: Vec<_> = ranked.rows.iter().map(|row| (row.name.as_str(), row.requests, row.status_4xx)).collect();
    assert_eq!(named, [("Germany (DE)", 60, Some(u64::MAX)), ("France (FR)", 50, Some(1))]);
    assert!((ranked.rows[0].share - 0.6).abs() < 1e-9);
    assert_eq!((ranked.kind, ranked.truncated, ranked.from), (Ranking::Countries, true, EventTime(1)));
    let all = countries.ranked(clients, 10);
    assert_eq!((all.rows[2].name.as_str(), all.rows.len(), all.truncated), ("", 3, false));
}

#[test]
fn what_is_no_such_file_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let whole = file(&[("8.0.0.0/8", "country", "US", "United States")]);
    let half = &whole[..whole.len() / 2];
    // name, what is in the file (none: there is no file), part of the message
    let rows: &[(&str, Option<&[u8]>, &str)] = &[
        ("nothing there", None, "cannot be read"),
        ("empty", Some(b""), "is no MaxMind DB"),
        ("a log", Some(b"127.0.0.1 - - [x] \"GET / HTTP/1.1\" 200 5\n"), "is no MaxMind DB"),
        ("half of one", Some(half), "is no MaxMind DB"),
    ];
    for (name, bytes, want) in rows {
        let path = dir.path().join(format!("{name}.mmdb"));
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let error = Countries::open(&path).err().unwrap_or_else(|| panic!("{name}: opened")).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    assert!(Countries::open(&dir.path().join("half of one.mmdb")).is_err());
    // Every byte of a file may be wrong: an answer or an error, never a panic.
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 0xff;
        let path = dir.path().join("broken.mmdb");
        std::fs::write(&path, broken).unwrap();
        if let Ok(countries) = Countries::open(&path) {
            let _ = (countries.of("8.8.8.8"), countries.of("203.0.113.5"));
        }
    }
}
