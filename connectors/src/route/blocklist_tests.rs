//! Who is listed, for how long, and how that is written.

use super::super::testing::alert;
use super::super::{Item, Notice};
use super::*;
use tidewatch_events::alert::AlertState;

fn settings(dir: &Path, form: Form) -> BlocklistSettings {
    BlocklistSettings {
        path: dir.join("block.conf"),
        form,
        expire: 3_600_000,
        max_entries: 3,
        private: false,
        never: vec![("198.51.100.0/24".parse().unwrap(), None), ("203.0.113.200/32".parse().unwrap(), Some(1000))],
        state: dir.join("state.json"),
    }
}

fn text(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("block.conf")).unwrap();
    let (head, body) = text.split_once('\n').unwrap();
    assert!(head.starts_with("# Written by Tidewatch at "), "{head}");
    body.to_owned()
}

fn take(list: &mut Blocklist, what: What, client: &str, now: u64) {
    list.take(what, &alert("ip-spike", client, 0, AlertState::Firing), now);
}

#[test]
fn who_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let rows: &[(&str, &str, bool, u64, Option<&str>)] = &[
        ("a client", "203.0.113.5", false, 0, Some("203.0.113.5/32")),
        ("an IPv6 client is its network", "2001:db8::/64", false, 0, Some("2001:db8::/64")),
        ("of an allow list", "198.51.100.7", false, 0, None),
        ("a network that holds an allowed one", "198.51.0.0/16", false, 0, None),
        ("of an allow list that still holds", "203.0.113.200", false, 999, None),
        ("of one that is over", "203.0.113.200", false, 1000, Some("203.0.113.200/32")),
        ("private", "10.0.0.9", false, 0, None),
        ("private, where that is said", "10.0.0.9", true, 0, Some("10.0.0.9/32")),
        ("loopback", "::1", false, 0, None),
        ("link-local", "fe80::/64", false, 0, None),
        ("an IPv4 address in IPv6's clothes", "::ffff:10.0.0.9", false, 0, None),
        ("behind a carrier's translation", "100.64.0.1", false, 0, None),
        ("multicast", "224.0.0.1", true, 0, None),
        ("everybody behind a NAT64", "64:ff9b::/64", true, 0, None),
        ("a network that a log names", "203.0.112.0/24", true, 0, None),
        ("half the internet", "128.0.0.0/1", true, 0, None),
        ("no address", "deny all;\n", true, 0, None),
        ("a pseudonym", "c1a5b0d3e4f60718", true, 0, None),
        ("nothing", "", true, 0, None),
    ];
    for (name, client, private, now, want) in rows {
        let mut list = Blocklist::new(BlocklistSettings { private: *private, ..settings(dir.path(), Form::Plain) });
        take(&mut list, What::Fired, client, *now);
        let got: Vec<String> = list.entries.keys().map(ToString::to_string).collect();
        assert_eq!(got, want.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "{name}");
        assert_eq!(list.remarks().len(), usize::from(want.is_none()), "{name}: what is not done is said");
    }
}

#[test]
fn how_it_is_written() {
    let rows: &[(Form, &str)] = &[
        (Form::Plain, "203.0.113.5\n203.0.113.77\n2001:db8::/64\n"),
        (Form::Nginx, "deny 203.0.113.5;\ndeny 203.0.113.77;\ndeny 2001:db8::/64;\n"),
        (Form::Apache, "Require not ip 203.0.113.5\nRequire not ip 203.0.113.77\nRequire not ip 2001:db8::/64\n"),
        (
            Form::Ipset,
            "create tidewatch4 hash:net family inet maxelem 1024 timeout 0 -exist\nflush tidewatch4\n\
             add tidewatch4 203.0.113.5 timeout 3600 -exist\nadd tidewatch4 203.0.113.77 timeout 3600 -exist\n\
             create tidewatch6 hash:net family inet6 maxelem 1024 timeout 0 -exist\nflush tidewatch6\n\
             add tidewatch6 2001:db8::/64 timeout 3600 -exist\n",
        ),
        (
            Form::Nftables,
            "add table inet tidewatch\n\
             add set inet tidewatch blocked4 { type ipv4_addr; flags interval, timeout; }\n\
             flush set inet tidewatch blocked4\n\
             add element inet tidewatch blocked4 {\n  203.0.113.5 timeout 3600s,\n  203.0.113.77 timeout 3600s\n}\n\
             add set inet tidewatch blocked6 { type ipv6_addr; flags interval, timeout; }\n\
             flush set inet tidewatch blocked6\n\
             add element inet tidewatch blocked6 {\n  2001:db8::/64 timeout 3600s\n}\n",
        ),
    ];
    for (form, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let mut list = Blocklist::new(BlocklistSettings { max_entries: 9, ..settings(dir.path(), *form) });
        for client in ["2001:db8::/64", "203.0.113.77", "203.0.113.5", "2001:db8::5"] {
            take(&mut list, What::Fired, client, 0);
        }
        list.write(0).unwrap();
        assert_eq!(text(dir.path()), *want, "{form:?}");
    }
}

#[test]
fn it_expires_is_bounded_and_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut list = Blocklist::new(settings(dir, Form::Nginx));
    assert_eq!(list.tend(0), Some(60_000));
    for (at, client) in [(0, "203.0.113.1"), (1, "203.0.113.2"), (2, "203.0.113.3")] {
        take(&mut list, What::Fired, client, at);
        list.write(at).unwrap();
    }
    // The oldest makes room.
    take(&mut list, What::Fired, "203.0.113.4", 3);
    assert_eq!(list.tend(3), Some(60_003));
    assert_eq!(text(dir), "deny 203.0.113.2;\ndeny 203.0.113.3;\ndeny 203.0.113.4;\n");
    assert!(list.remarks()[0].contains("full"));
    // Its alert goes on; another was withdrawn.
    take(&mut list, What::Repeated, "203.0.113.2", 1000);
    take(&mut list, What::Withdrawn, "203.0.113.3", 1000);
    list.write(1000).unwrap();
    drop(list);
    let mut list = Blocklist::new(settings(dir, Form::Nginx));
    list.tend(3_600_002);
    assert_eq!(text(dir), "deny 203.0.113.2;\ndeny 203.0.113.4;\n");
    list.tend(3_600_003);
    assert_eq!(text(dir), "deny 203.0.113.2;\n");
    list.tend(3_601_000);
    assert_eq!(text(dir), "");
    assert!(list.remarks().is_empty());
}

#[test]
fn a_client_stays_as_long_as_an_alert_lists_it() {
    use What::*;
    // What is told of alerts of one client, by rule and host, and whether it is listed after that.
    type Step<'a> = (What, &'a str, &'a str, bool);
    let rows: &[(&str, &[Step])] = &[
        ("withdrawn", &[(Fired, "a", "1", true), (Withdrawn, "a", "1", false)]),
        (
            "two keys of a rule",
            &[
                (Fired, "a", "1", true),
                (Fired, "a", "2", true),
                (Withdrawn, "a", "2", true),
                (Withdrawn, "a", "1", false),
            ],
        ),
        (
            "one of them is over",
            &[
                (Fired, "a", "1", true),
                (Fired, "a", "2", true),
                (Resolved, "a", "1", true),
                (Withdrawn, "a", "2", true),
            ],
        ),
        (
            "two rules",
            &[
                (Fired, "a", "1", true),
                (Fired, "b", "1", true),
                (Withdrawn, "b", "1", true),
                (Withdrawn, "a", "1", false),
            ],
        ),
        ("what did not list it", &[(Fired, "a", "1", true), (Withdrawn, "b", "1", true)]),
        ("again", &[(Fired, "a", "1", true), (Withdrawn, "a", "1", false), (Fired, "a", "1", true)]),
    ];
    for (name, steps) in rows {
        let dir = tempfile::tempdir().unwrap();
        for (at, (what, rule, host, is_listed)) in steps.iter().enumerate() {
            // Each step by another life: what lists it outlives a restart.
            let mut list = Blocklist::new(settings(dir.path(), Form::Plain));
            let mut told = alert(rule, "203.0.113.5", 0, AlertState::Firing);
            told.subject.insert("host".into(), (*host).into());
            told.key = format!("{rule}/{host}");
            list.load(at as u64);
            list.take(*what, &told, at as u64);
            list.write(at as u64).unwrap();
            assert_eq!(!text(dir.path()).is_empty(), *is_listed, "{name}, step {at}");
        }
    }
    // A state of before alerts were kept in it.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state.json"), r#"[{"network":"203.0.113.5/32","until":99,"rule":"a"}]"#).unwrap();
    Blocklist::new(settings(dir.path(), Form::Plain)).tend(0);
    assert_eq!(text(dir.path()), "203.0.113.5\n");
    // However many alerts list it, what is kept is bounded.
    let mut list = Blocklist::new(settings(dir.path(), Form::Plain));
    for n in 0..100 {
        let told = alert("a", "203.0.113.5", 0, AlertState::Firing);
        list.take(Fired, &Alert { key: n.to_string(), ..told }, n);
    }
    let kept = &list.entries.values().next().unwrap().alerts;
    assert!(kept.len() == MOST_ALERTS && kept.contains_key("99"));
}

#[test]
fn the_file_is_there_whole_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut list = Blocklist::new(settings(dir.path(), Form::Plain));
    let fired = alert("ip-spike", "203.0.113.5", 0, AlertState::Firing);
    let notice = Notice { items: vec![Item { what: What::Fired, alert: fired }], ..Notice::default() };
    list.send(&Message { id: "b-1".into(), at: 0, body: Body::Alerts(notice) }).unwrap();
    assert_eq!(text(dir.path()), "203.0.113.5\n");
    fs::remove_file(dir.path().join("block.conf")).unwrap();
    list.send(&Message { id: "b-2".into(), at: 0, body: Body::Test }).unwrap();
    assert_eq!(text(dir.path()), "203.0.113.5\n", "a test lists nobody, and what somebody removed is written again");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // Where it cannot be written, it is said and tried again.
    fs::remove_file(dir.path().join("block.conf")).unwrap();
    fs::create_dir(dir.path().join("block.conf")).unwrap();
    list.written = None;
    assert!(matches!(list.send(&Message { id: "b-3".into(), at: 0, body: Body::Test }), Err(SendError::Away { .. })));
}

#[test]
fn only_lists_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("block.conf");
    let other = dir.path().join("other");
    fs::write(&other, "mine").unwrap();
    let written = || {
        let mut list = Blocklist::new(settings(dir.path(), Form::Plain));
        take(&mut list, What::Fired, "203.0.113.5", 0);
        let probed = list.probe().is_ok();
        let written = list.write(0).is_ok();
        assert_eq!(probed, written, "what is checked is what is done");
        written
    };
    let rows: &[(&str, fn(&Path, &Path), bool)] = &[
        ("nothing there", |_, _| (), true),
        ("an earlier list", |_, _| (), true),
        ("an empty file", |path, _| fs::write(path, "").unwrap(), true),
        ("somebody's file", |path, _| fs::write(path, "deny all;\n").unwrap(), false),
        ("a link", |path, other| std::os::unix::fs::symlink(other, path).unwrap(), false),
        ("a directory", |path, _| fs::create_dir(path).unwrap(), false),
    ];
    for (at, (name, make, want)) in rows.iter().enumerate() {
        if at > 1 {
            let _ = fs::remove_file(&path);
        }
        make(&path, &other);
        // Nor is what lies in the place of the new file followed.
        let _ = fs::remove_file(dir.path().join("block.conf.tmp"));
        std::os::unix::fs::symlink(&other, dir.path().join("block.conf.tmp")).unwrap();
        assert_eq!(written(), *want, "{name}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine", "{name}");
    }
}
