//! What is held back: by the limit, in quiet hours, by a silence.

use super::*;

#[test]
fn what_the_limit_holds_back_comes_in_one_message() {
    let mut s = Script::new(Policy { max_per_hour: Some(2), group_by: vec![GroupKey::Alert], ..Policy::people() });
    for n in 1..=4 {
        s.take(n, "r", &n.to_string(), 0, Firing).run(n);
    }
    assert_eq!(s.said(), ["fired r/1/0", "fired r/2/0"]);
    assert_eq!((s.run(5), s.router.counts().pending), (Some(HOUR + 1), 2));
    s.run(HOUR + 1);
    let note = "(Held back since 1970-01-01T00:00:00.003Z: no more than 2 messages an hour are sent here.)";
    assert_eq!(s.said(), [format!("fired r/3/0, fired r/4/0, {note}")]);
}

#[test]
fn the_limit_does_not_hold_the_worst_back() {
    let mut s = Script::new(Policy { group_by: vec![GroupKey::Alert], ..Policy::people() });
    let of = |severity: Severity, client: String| Alert { severity, ..alert("r", &client, 0, Firing) };
    for n in 0..61 {
        s.router.take(&of(Severity::Low, format!("low-{n}")), n);
        s.run(n);
    }
    assert_eq!((s.said().len(), s.router.counts().pending), (60, 1));
    // From the eleventh on they wait too: whoever attacks may choose what is critical.
    let since = MINUTE;
    for n in 1..=11 {
        s.router.take(&of(Severity::Critical, n.to_string()), since + n);
        let again = s.run(since + n);
        let want = if n <= 10 { vec![format!("fired r/{n}/0")] } else { Vec::new() };
        assert_eq!((s.said(), again), (want, Some(HOUR)), "{n}");
    }
    s.run(HOUR);
    let note = "(Held back since 1970-01-01T00:00:00.060Z: no more than 60 messages an hour are sent here.)";
    assert_eq!(s.said(), [format!("fired r/11/0, fired r/low-60/0, {note}")]);
    assert_eq!(s.router.counts().messages, 71);
}

#[test]
fn what_goes_beyond_the_limit() {
    // what is excepted, what of a high and a critical alert is told
    let rows: &[(Option<Severity>, &[&str])] = &[
        (Some(Severity::Critical), &["fired r/critical/0"]),
        (Some(Severity::High), &["fired r/high/0", "fired r/critical/0"]),
        (None, &[]),
    ];
    for (limit_except, want) in rows {
        let group_by = vec![GroupKey::Alert];
        let policy = Policy { max_per_hour: Some(1), group_by, limit_except: *limit_except, ..Policy::people() };
        let mut s = Script::new(policy);
        s.take(0, "r", "0", 0, Firing).run(0);
        s.take(1, "r", "high", 0, Firing).run(1);
        let critical = |state| Alert { severity: Severity::Critical, ..alert("r", "critical", 0, state) };
        s.router.take(&critical(Firing), 2);
        s.run(2);
        s.router.take(&critical(Resolved), 3);
        s.run(3);
        // No end is.
        assert_eq!(s.said()[1..], **want, "{limit_except:?}");
        assert!(s.router.counts().pending > 0, "{limit_except:?}");
    }
    // All of the worst that waits goes in one message; one that comes back takes nothing of the allowance.
    let mut s = Script::new(Policy { max_per_hour: Some(1), group_by: vec![GroupKey::Alert], ..Policy::people() });
    s.take(0, "r", "0", 0, Firing).run(0);
    s.said();
    for n in ["1", "2"] {
        s.router.take(&Alert { severity: Severity::Critical, ..alert("r", n, 0, Firing) }, 1);
    }
    for now in 1..20 {
        assert_eq!(said(&s.fly(now).unwrap()), "fired r/1/0, fired r/2/0");
        s.router.returned(now);
    }
    s.run(20);
    assert_eq!((s.said().len(), s.router.limit.last()), (1, Some(20)));
}

#[test]
fn what_quiet_hours_hold_back_comes_after_them() {
    // Quiet until 00:01 UTC, from 23:00.
    let quiet = Quiet { from: 1380, to: 1, zone: jiff::tz::TimeZone::UTC, except: Some(Severity::Critical) };
    let mut s = Script::new(Policy { quiet: Some(quiet), ..Policy::people() });
    s.take(SECOND, "a", "1", 0, Firing).take(SECOND, "b", "1", 0, Firing);
    assert_eq!(s.run(SECOND), Some(MINUTE));
    let critical = Alert { severity: Severity::Critical, ..alert("a", "2", 0, Firing) };
    s.router.take(&critical, 2 * SECOND);
    s.run(2 * SECOND);
    assert_eq!(s.said(), ["fired a/2/0"]);
    s.take(3 * SECOND, "b", "1", 0, Resolved);
    s.run(MINUTE + 3 * SECOND);
    let note = "(Held back since 1970-01-01T00:00:01.000Z: quiet hours.)";
    assert_eq!(s.said(), [format!("fired a/1/0, resolved b/1/0, {note}")]);
}

fn silence(from: u64, until: u64, client: &str) -> Arc<Vec<Silence>> {
    let subject = BTreeMap::from([("client_ip".to_owned(), client.to_owned())]);
    Arc::new(vec![Silence { rules: Vec::new(), subject, from, until, reason: String::new() }])
}

#[test]
fn nobody_is_told_of_what_is_silenced() {
    let policy = Policy { group_interval: 0, ..Policy::people() };
    let mut s = Script::new(policy.clone());
    s.router.silence(silence(0, 100, "1"), 0);
    s.take(1, "r", "1", 0, Firing).take(1, "r", "2", 0, Firing);
    assert_eq!(s.run(1), Some(100));
    assert_eq!(s.said(), ["fired r/2/0"]);
    assert_eq!((s.router.counts().silenced, s.router.counts().pending), (1, 0), "what is silenced does not wait");
    s.run(100);
    assert_eq!(s.said(), ["fired r/1/0"], "it still fires when the silence ends");
    // It began and ended in silence.
    let mut s = Script::new(policy.clone());
    s.router.silence(silence(0, 100, "1"), 0);
    s.take(1, "r", "1", 0, Firing).take(2, "r", "1", 0, Resolved).run(2);
    s.take(150, "r", "1", 0, Firing).run(150);
    assert_eq!(s.said().len(), 0);
    // It was told before; its end is told after.
    let mut s = Script::new(policy.clone());
    s.take(0, "r", "1", 0, Firing).run(0);
    s.router.silence(silence(0, 100, "1"), 1);
    s.take(2, "r", "1", 0, Resolved).run(2);
    assert_eq!(s.said(), ["fired r/1/0"]);
    s.run(100);
    assert_eq!(s.said(), ["resolved r/1/0"]);
    // A silence that is taken back, and one that has not begun.
    let mut s = Script::new(policy);
    s.router.silence(silence(0, 100, "1"), 0);
    s.take(1, "r", "1", 0, Firing).run(1);
    s.router.silence(Arc::default(), 2);
    s.run(2);
    s.router.silence(silence(50, 100, "2"), 3);
    s.take(4, "r", "2", 0, Firing).run(4);
    s.take(60, "r", "2", 0, Resolved);
    assert_eq!(s.run(60), Some(100));
    assert_eq!(s.said(), ["fired r/1/0", "fired r/2/0"]);
}

#[test]
fn a_clock_set_back_holds_nothing_up() {
    let mut s = Script::new(Policy { max_per_hour: Some(1), ..Policy::people() });
    s.take(HOUR * 10, "r", "1", 0, Firing).run(HOUR * 10);
    s.take(HOUR, "r", "2", 0, Firing).run(HOUR);
    assert_eq!(s.said(), ["fired r/1/0", "fired r/2/0"]);
}
