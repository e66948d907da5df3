//! What is sent when, as scripts: alerts and times in, messages out.

use super::super::Message;
use super::super::policy::{GroupKey, Quiet};
use super::super::testing::alert;
use super::ended::{FORGET_FIRING, REMEMBER_ENDED};
use super::*;
use AlertState::{Firing, Resolved, Withdrawn};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60_000;

/// A router whose messages are delivered at once, and what they said.
struct Script {
    router: Router,
    said: Vec<String>,
}

impl Script {
    fn new(policy: Policy) -> Script {
        Script { router: Router::new(policy, "b".into()), said: Vec::new() }
    }

    fn take(&mut self, now: u64, rule: &str, client: &str, first: u64, state: AlertState) -> &mut Script {
        self.router.take(&alert(rule, client, first, state), now);
        self
    }

    /// The next message, not delivered yet.
    fn fly(&mut self, now: u64) -> Option<Message> {
        match self.router.next(now) {
            Next::Send(intent) => Some(intent.message),
            Next::Wait(_) => None,
        }
    }

    /// Delivers all that is due; when there is something again.
    fn run(&mut self, now: u64) -> Option<u64> {
        for _ in 0..1000 {
            match self.router.next(now) {
                Next::Wait(at) => return at,
                Next::Send(intent) => {
                    self.said.push(said(&intent.message));
                    self.router.delivered(now);
                }
            }
        }
        panic!("it never ends: {:?}", self.said);
    }

    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

fn said(message: &Message) -> String {
    let Body::Alerts(notice) = &message.body else { return format!("{:?}", message.body) };
    let mut parts: Vec<String> =
        notice.items.iter().map(|item| format!("{} {}", item.what.as_str(), item.alert.id)).collect();
    parts.extend(notice.rest.iter().map(|rest| format!("{} {} {}", rest.count, rest.rule, rest.what.as_str())));
    parts.extend(notice.notes.iter().map(|note| format!("({note})")));
    parts.join(", ")
}

#[test]
fn the_first_goes_at_once_and_more_wait_for_company() {
    let mut s = Script::new(Policy::people());
    assert_eq!(s.run(0), None);
    s.take(0, "ip-spike", "1", 0, Firing).run(0);
    assert_eq!(s.said(), ["fired ip-spike/1/0"]);
    s.take(10 * SECOND, "ip-spike", "2", 0, Firing);
    assert_eq!(s.run(10 * SECOND), Some(MINUTE));
    // Another rule is another group.
    s.take(11 * SECOND, "path-scan", "2", 0, Firing).run(11 * SECOND);
    s.take(20 * SECOND, "ip-spike", "3", 0, Firing).take(30 * SECOND, "ip-spike", "1", 0, Resolved);
    assert_eq!(s.run(MINUTE - 1), Some(MINUTE));
    s.run(MINUTE);
    assert_eq!(s.said(), ["fired path-scan/2/0", "fired ip-spike/2/0, fired ip-spike/3/0, resolved ip-spike/1/0"]);
    assert_eq!(s.router.counts().messages, 3);
    // Long after, the first goes at once again.
    s.take(10 * MINUTE, "ip-spike", "4", 0, Firing).run(10 * MINUTE);
    assert_eq!(s.said(), ["fired ip-spike/4/0"]);
}

#[test]
fn an_end_holds_nothing_new_back() {
    let rows: &[(&str, u64)] = &[("at once", 0), ("within group_wait", 5 * SECOND)];
    for (name, group_wait) in rows {
        let mut s = Script::new(Policy { group_wait: *group_wait, ..Policy::people() });
        s.take(0, "r", "1", 0, Firing).run(*group_wait);
        let ends = 10 * MINUTE;
        s.take(ends, "r", "1", 0, Resolved).run(ends + group_wait);
        assert_eq!(s.said(), ["fired r/1/0", "resolved r/1/0"], "{name}");
        // Another client, a second after the end of the first was told.
        let new = ends + group_wait + SECOND;
        s.take(new, "r", "2", 0, Firing);
        assert_eq!(s.run(new), Some(new + group_wait).filter(|at| *at > new), "{name}");
        s.run(new + group_wait);
        assert_eq!(s.said(), ["fired r/2/0"], "{name}");
        // What fires after that waits for company, and so do ends.
        let told = new + group_wait;
        s.take(told + 1, "r", "3", 0, Firing).take(told + 1, "r", "2", 0, Resolved);
        assert_eq!(s.run(told + MINUTE - 1), Some(told + MINUTE), "{name}");
        s.run(told + MINUTE);
        assert_eq!(s.said(), ["fired r/3/0, resolved r/2/0"], "{name}");
        s.take(told + MINUTE + 1, "r", "3", 0, Resolved);
        assert_eq!(s.run(told + 2 * MINUTE - 1), Some(told + 2 * MINUTE), "{name}");
        // Something new takes it along, where its own time has come.
        s.take(told + 2 * MINUTE - 1, "r", "4", 0, Firing).run(told + 2 * MINUTE);
        assert_eq!(s.said(), ["fired r/4/0, resolved r/3/0"], "{name}");
    }
    // One that is not taken leaves it as it was. One that began and ended before it could be told is new too.
    let mut s = Script::new(Policy::people());
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(10 * MINUTE, "r", "1", 0, Resolved).run(10 * MINUTE);
    s.take(10 * MINUTE + 1, "r", "2", 0, Firing);
    assert_eq!(said(&s.fly(10 * MINUTE + 1).unwrap()), "fired r/2/0");
    s.router.returned(10 * MINUTE + 2);
    s.take(10 * MINUTE + 2, "r", "2", 0, Resolved).run(10 * MINUTE + 2);
    assert_eq!(s.said(), ["fired r/1/0", "resolved r/1/0", "resolved r/2/0"]);
}

#[test]
fn a_group_may_wait_before_its_first() {
    let mut s = Script::new(Policy { group_wait: 5 * SECOND, ..Policy::people() });
    s.take(0, "r", "1", 0, Firing);
    assert_eq!(s.run(0), Some(5 * SECOND));
    s.take(4 * SECOND, "r", "2", 0, Firing).run(5 * SECOND);
    assert_eq!(s.said(), ["fired r/1/0, fired r/2/0"]);
}

#[test]
fn groups_are_what_they_are_made_of() {
    let rows: &[(&str, &[GroupKey], usize)] = &[
        ("nothing", &[], 1),
        ("rule", &[GroupKey::Rule], 2),
        ("alert", &[GroupKey::Alert], 3),
        ("client", &[GroupKey::Field("client_ip".into())], 2),
        ("a field that none has", &[GroupKey::Field("host".into())], 1),
    ];
    for (name, group_by, messages) in rows {
        let mut s = Script::new(Policy { group_by: group_by.to_vec(), ..Policy::people() });
        s.take(0, "a", "1", 0, Firing).take(0, "a", "2", 0, Firing).take(0, "b", "1", 0, Firing).run(0);
        assert_eq!(s.said().len(), *messages, "{name}");
    }
}

#[test]
fn an_alert_is_told_once() {
    // Each row: what came after "fired at 0, resolved" was told, and what is said of it.
    let rows: &[(&str, &[(u64, AlertState)], &[&str])] = &[
        ("the same again", &[(0, Firing), (0, Resolved)], &[]),
        ("a part of it by another id", &[(0, Firing), (5, Withdrawn)], &[]),
        ("a later one", &[(20_000, Firing)], &["fired r/1/20000"]),
        ("a later one and its end", &[(20_000, Firing), (20_000, Resolved)], &["resolved r/1/20000"]),
        ("one that ends just after", &[(1, Firing)], &["fired r/1/1"]),
    ];
    for (name, steps, want) in rows {
        let mut s = Script::new(Policy { group_interval: 0, ..Policy::people() });
        s.take(0, "r", "1", 0, Firing).run(0);
        s.take(1, "r", "1", 0, Firing).run(1);
        s.take(2, "r", "1", 0, Resolved).run(2);
        assert_eq!(s.said(), ["fired r/1/0", "resolved r/1/0"], "{name}");
        for (first, state) in *steps {
            s.take(3, "r", "1", *first, *state);
        }
        s.run(3);
        assert_eq!(s.said(), *want, "{name}");
    }
}

#[test]
fn a_provisional_alert_is_replaced_withdrawn_or_forgotten() {
    let people = Policy { group_interval: 0, ..Policy::people() };
    // Told as 0; closing gives it another id, the withdrawal right before.
    let mut s = Script::new(people.clone());
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(1, "r", "1", 0, Withdrawn).take(1, "r", "1", 5, Firing).run(1);
    assert_eq!(s.said(), ["fired r/1/0"], "people know it already");
    s.take(2, "r", "1", 0, Withdrawn).run(2);
    assert_eq!(s.said().len(), 0, "a withdrawal of what it was called before");
    s.take(3, "r", "1", 5, Resolved).run(3);
    assert_eq!(s.said(), ["resolved r/1/5"]);
    let mut s = Script::new(Policy { group_interval: 0, ..Policy::programs() });
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(1, "r", "1", 0, Withdrawn).take(1, "r", "1", 5, Firing).run(1);
    assert_eq!(s.said(), ["fired r/1/0", "updated r/1/5"], "programs learn the id");
    // Withdrawn for good; then another in the same windows after all.
    let mut s = Script::new(people.clone());
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(1, "r", "1", 0, Withdrawn).run(1);
    s.take(2, "r", "1", 0, Firing).run(2);
    s.take(3, "r", "1", 1, Firing).run(3);
    assert_eq!(s.said(), ["fired r/1/0", "withdrawn r/1/0", "fired r/1/1"]);
    // Withdrawn before anybody knew.
    let mut s = Script::new(Policy { group_wait: 10, ..people });
    s.take(0, "r", "1", 0, Firing).take(1, "r", "1", 0, Withdrawn).run(20);
    assert_eq!((s.said().len(), s.router.counts().pending, s.router.entries.len()), (0, 0, 0));
}

#[test]
fn an_alert_that_takes_the_place_of_a_later_one_goes_on() {
    // Catching up jumps in time: what is not closed yet looks like an alert of its own, until closing makes one of the two.
    let takes_its_place =
        |last: u64| Alert { last: EventTime(last), replaces: Some("r/1/900000".into()), ..alert("r", "1", 0, Firing) };
    for last in [895_000, 910_000] {
        let mut s = Script::new(Policy { group_interval: 0, ..Policy::programs() });
        s.take(0, "r", "1", 0, Firing).run(0);
        s.take(1, "r", "1", 900_000, Firing).run(1);
        s.take(2, "r", "1", 0, Firing).run(2);
        assert_eq!(s.said(), ["fired r/1/0", "updated r/1/900000"]);
        s.take(3, "r", "1", 900_000, Withdrawn);
        s.router.take(&takes_its_place(last), 3);
        s.run(3);
        assert_eq!(s.said(), ["updated r/1/0"], "{last}");
        s.router.take(&Alert { state: Resolved, ..takes_its_place(last) }, 4);
        s.run(4);
        assert_eq!(s.said(), ["resolved r/1/0"], "{last}");
    }
}

#[test]
fn a_route_that_was_away_tells_how_things_stand() {
    let mut s = Script::new(Policy::people());
    s.take(0, "r", "1", 0, Firing).take(0, "r", "2", 0, Firing);
    let first = s.fly(0).unwrap();
    assert_eq!(said(&first), "fired r/1/0, fired r/2/0");
    assert_eq!(s.fly(0), None, "one at a time");
    s.router.returned(1);
    s.take(2, "r", "1", 0, Resolved).take(2, "r", "3", 0, Firing);
    let second = s.fly(3).unwrap();
    assert_eq!(said(&second), "fired r/2/0, fired r/3/0, resolved r/1/0");
    assert_ne!(first.id, second.id);
    // Changes while it flies come after it, or with it where it comes back.
    s.take(4, "r", "2", 0, Resolved);
    s.router.delivered(5);
    s.run(5 + MINUTE);
    assert_eq!(s.said(), ["resolved r/2/0"]);
    let counts = s.router.counts();
    assert_eq!((counts.messages, counts.told, counts.pending), (2, 4, 0));
}

#[test]
fn ends_may_be_kept_back() {
    let mut s = Script::new(Policy { resolved: false, group_interval: 0, ..Policy::people() });
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(1, "r", "1", 0, Resolved).run(1);
    s.take(2, "r", "1", 20_000, Firing).run(2);
    assert_eq!(s.said(), ["fired r/1/0", "fired r/1/20000"]);
    // One that nobody heard of is told all the same.
    s.take(3, "r", "2", 0, Firing).take(3, "r", "2", 0, Resolved).run(3);
    assert_eq!(s.said(), ["resolved r/2/0"]);
}

#[test]
fn a_higher_severity_is_news() {
    let mut s = Script::new(Policy { group_interval: 0, min_severity: Severity::High, ..Policy::people() });
    let mut one = alert("r", "1", 0, Firing);
    s.router.take(&one, 0);
    s.run(0);
    one.severity = Severity::Critical;
    s.router.take(&one, 1);
    s.run(1);
    // It may fall below what is told here: its end is told all the same.
    (one.severity, one.state) = (Severity::Low, Resolved);
    s.router.take(&one, 2);
    s.run(2);
    assert_eq!(s.said(), ["fired r/1/0", "updated r/1/0", "resolved r/1/0"]);
    let low = Alert { severity: Severity::Low, ..alert("r", "2", 0, Firing) };
    s.router.take(&low, 3);
    s.run(3);
    assert_eq!(s.said().len(), 0);
}

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
fn nothing_fired_later_than_it_is_told() {
    let mut router = Router::new(Policy::programs(), "b".into());
    let mut fired = |now: u64, client: &str| {
        router.take(&alert("r", client, 5000, Firing), now);
        let Next::Send(intent) = router.next(now) else { panic!("nothing to send") };
        router.delivered(now);
        let Body::Alerts(notice) = intent.message.body else { panic!("no alerts") };
        notice.items[0].alert.fired.0
    };
    // The slice of its window ends at 6 s.
    assert_eq!((fired(5900, "1"), fired(6000, "2"), fired(6100, "3")), (5900, 6000, 6000));
}

#[test]
fn when_it_fired_does_not_change_while_it_is_told() {
    let policy = || Policy { repeat_every: Some(MINUTE), ..Policy::programs() };
    let mut router = Router::new(policy(), "b".into());
    let fired = |router: &mut Router, now: u64| {
        let Next::Send(intent) = router.next(now) else { panic!("nothing to send at {now}") };
        router.delivered(now);
        let Body::Alerts(notice) = intent.message.body else { panic!("no alerts") };
        (notice.items[0].what, notice.items[0].alert.fired.0)
    };
    // Its window of an hour ends long after.
    let state = |state: AlertState| Alert { fired: EventTime(HOUR), ..alert("r", "1", 0, state) };
    router.take(&state(Firing), 10);
    assert_eq!(fired(&mut router, 10), (What::Fired, 10));
    assert_eq!(fired(&mut router, 10 + MINUTE), (What::Repeated, 10));
    // Another process that has read the journal.
    let snapshot = router.snapshot();
    let mut router = Router::new(policy(), "c".into());
    snapshot.records.into_iter().for_each(|record| router.restore(record, 2 * MINUTE));
    router.take(&state(Firing), 2 * MINUTE);
    assert_eq!(fired(&mut router, 3 * MINUTE), (What::Repeated, 10));
    router.take(&state(Resolved), 3 * MINUTE + 1);
    assert_eq!(fired(&mut router, 3 * MINUTE + 1), (What::Resolved, 10));
}

#[test]
fn what_is_acknowledged_is_not_repeated() {
    let seen = |at: u64| Arc::new(Acknowledged::from([("r/1".to_owned(), at)]));
    let mut s = Script::new(Policy { repeat_every: Some(MINUTE), ..Policy::programs() });
    // They fire at event time 1 s.
    s.take(0, "r", "1", 0, Firing).take(0, "r", "2", 0, Firing).run(0);
    assert_eq!(s.said().len(), 1);
    s.router.acknowledge(seen(999));
    s.run(MINUTE);
    assert_eq!(s.said(), ["repeated r/1/0, repeated r/2/0"], "that was of something before");
    s.router.acknowledge(seen(1000));
    s.run(2 * MINUTE);
    assert_eq!(s.said(), ["repeated r/2/0"]);
    s.router.acknowledge(Arc::default());
    s.run(3 * MINUTE);
    assert_eq!(s.said(), ["repeated r/1/0, repeated r/2/0"], "taken back");
    s.router.acknowledge(seen(1000));
    s.take(3 * MINUTE, "r", "1", 0, Resolved).run(3 * MINUTE);
    assert_eq!(s.said(), ["resolved r/1/0"], "its end is told");
    let kept = Policy { repeat_every: Some(MINUTE), repeats_always: true, ..Policy::programs() };
    let mut s = Script::new(kept);
    s.router.acknowledge(seen(1000));
    s.take(0, "r", "1", 0, Firing).run(0);
    s.run(MINUTE);
    assert_eq!(s.said(), ["fired r/1/0", "repeated r/1/0"], "a program would take it for an end");
}

#[test]
fn what_goes_on_is_repeated_in_quiet_hours_as_it_is_told_there() {
    // From 00:00 to 00:10; the clock begins there. Before it, an hour ago, both were told.
    let quiet = || {
        let zone = jiff::tz::TimeZone::UTC;
        Some(Quiet { from: 0, to: 10, zone, except: Some(Severity::Critical) })
    };
    let hour = 60 * MINUTE;
    let (midnight, over) = (24 * hour, 24 * hour + 10 * MINUTE);
    let told = |policy: Policy| {
        let mut s = Script::new(Policy { repeat_every: Some(hour), quiet: quiet(), ..policy });
        let high = alert("r", "1", 0, Firing);
        let critical = Alert { severity: Severity::Critical, ..alert("r", "2", 0, Firing) };
        s.router.take(&high, midnight - hour);
        s.router.take(&critical, midnight - hour);
        s.run(midnight - hour);
        assert_eq!(s.said(), ["fired r/2/0, fired r/1/0"]);
        s
    };
    let mut s = told(Policy::programs());
    // It is not looked again all the time.
    assert_eq!(s.run(midnight), Some(midnight + MINUTE));
    assert_eq!(s.said(), ["repeated r/2/0"]);
    s.run(over);
    assert_eq!(s.said(), ["repeated r/1/0"]);
    // A program that would take it for an end hears of both; in a silence too.
    let mut s = told(Policy { repeats_always: true, ..Policy::programs() });
    let silence =
        Silence { rules: vec!["r".into()], subject: BTreeMap::new(), from: 0, until: 48 * hour, reason: String::new() };
    s.router.silence(Arc::new(vec![silence]), midnight - 1);
    assert_eq!(s.run(midnight), Some(midnight + hour));
    assert_eq!(s.said(), ["repeated r/1/0, repeated r/2/0"]);
}

#[test]
fn what_goes_on_is_repeated() {
    let mut s = Script::new(Policy { repeat_every: Some(MINUTE), ..Policy::programs() });
    s.take(0, "r", "1", 0, Firing);
    assert_eq!(s.run(0), Some(MINUTE));
    s.take(5 * SECOND, "r", "2", 0, Firing).take(6 * SECOND, "r", "3", 0, Firing).run(6 * SECOND);
    s.take(7 * SECOND, "r", "3", 0, Resolved).run(7 * SECOND);
    assert_eq!(s.said(), ["fired r/1/0", "fired r/2/0, fired r/3/0", "resolved r/3/0"]);
    // Those that are nearly due go with it.
    assert_eq!(s.run(MINUTE), Some(2 * MINUTE));
    assert_eq!(s.said(), ["repeated r/1/0, repeated r/2/0"]);
    // One that was not taken is tried again.
    let message = s.fly(2 * MINUTE).unwrap();
    assert_eq!(said(&message), "repeated r/1/0, repeated r/2/0");
    s.router.returned(2 * MINUTE);
    s.run(2 * MINUTE + 1);
    assert_eq!(s.said(), ["repeated r/1/0, repeated r/2/0"]);
}

#[test]
fn more_than_a_message_lists() {
    let fill = |policy: Policy| {
        let mut s = Script::new(Policy { listing: 2, ..policy });
        for n in 1..=5 {
            s.take(n, "r", &n.to_string(), n, Firing);
        }
        s.run(5);
        s.said()
    };
    let newest_first = "fired r/5/5, fired r/4/4";
    assert_eq!(fill(Policy::people()), [format!("{newest_first}, 3 r fired")]);
    assert_eq!(fill(Policy::programs()), [newest_first, "fired r/3/3, fired r/2/2", "fired r/1/1"]);
}

#[test]
fn keys_without_end_are_counted() {
    let mut s = Script::new(Policy { max_per_hour: None, ..Policy::people() });
    for n in 0..MAX_KEYS {
        s.take(0, "r", &n.to_string(), 0, Firing);
    }
    s.run(0);
    s.said();
    assert_eq!(s.router.entries.len(), MAX_KEYS);
    s.take(1, "r", "more", 0, Firing).take(1, "r", "still more", 0, Firing);
    assert_eq!((s.router.entries.len(), s.router.counts().unlisted), (MAX_KEYS, 2));
    assert_eq!(s.run(1), Some(MINUTE));
    // One that is not taken is no repetition: nothing is repeated here.
    assert_eq!(said(&s.fly(MINUTE).unwrap()), "2 r fired");
    s.router.returned(MINUTE);
    assert_eq!(s.router.next_repeat, None);
    s.run(MINUTE);
    assert_eq!(s.said(), ["2 r fired"]);
    // A turn to repeat where nothing is repeated ends.
    s.router.next_repeat = Some(MINUTE);
    assert_eq!((s.run(MINUTE), s.router.next_repeat), (None, None));
    // What is over makes room.
    s.take(2 * MINUTE, "r", "7", 0, Resolved).run(2 * MINUTE);
    s.take(3 * MINUTE, "r", "more", 0, Firing).run(3 * MINUTE);
    assert_eq!(s.said(), ["resolved r/7/0", "fired r/more/0"]);
    assert_eq!(s.router.entries.len(), MAX_KEYS);
}

#[test]
fn old_alerts_that_come_again_take_no_room() {
    let mut s = Script::new(Policy { group_interval: 0, ..Policy::people() });
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(1, "r", "1", 0, Resolved).run(1);
    s.said();
    let before = s.router.ended.len();
    for now in 2..1000 {
        s.take(now, "r", "1", 0, Firing).take(now, "r", "1", 0, Resolved).run(now);
    }
    assert_eq!((s.said().len(), s.router.ended.len(), s.router.counts().pending), (0, before, 0));
    assert!(s.router.to_record().len() <= 1);
}

#[test]
fn what_is_not_heard_of_is_forgotten() {
    let mut s = Script::new(Policy::people());
    s.take(0, "r", "1", 0, Firing).take(0, "r", "2", 0, Firing).run(0);
    s.take(MINUTE, "r", "2", 0, Resolved).run(2 * MINUTE);
    s.run(FORGET_FIRING + 2 * HOUR);
    assert_eq!(s.router.entries.keys().collect::<Vec<_>>(), ["r/2"]);
    s.run(REMEMBER_ENDED + 2 * HOUR);
    assert_eq!((s.router.entries.len(), s.router.ended.len()), (0, 0));
}

#[test]
fn a_message_that_is_refused_is_told_of() {
    let mut s = Script::new(Policy { group_interval: 0, ..Policy::people() });
    s.take(0, "r", "1", 0, Firing);
    s.fly(0).unwrap();
    s.router.rejected(1);
    s.run(1);
    assert_eq!(s.said().len(), 0);
    s.take(2, "r", "2", 0, Firing).run(2);
    let note = "(A message of 1970-01-01T00:00:00.000Z about 1 alerts was refused by its receiver.)";
    assert_eq!(s.said(), [format!("fired r/2/0, {note}")]);
    assert_eq!(s.router.counts().rejected, 1);
}

#[test]
fn documents_go_between_alerts() {
    let document =
        |n: usize| Document { title: n.to_string(), text: String::new(), html: None, json: None, attached: false };
    let mut s = Script::new(Policy::people());
    s.router.document(document(0));
    let Body::Document(flying) = s.fly(0).unwrap().body else { panic!() };
    s.router.returned(0);
    assert_eq!(s.fly(1).unwrap().body, Body::Document(flying));
    s.router.delivered(1);
    (0..MAX_DOCUMENTS + 2).for_each(|n| s.router.document(document(n)));
    assert_eq!(s.router.counts().documents_dropped, 2);
    s.take(2, "r", "1", 0, Firing).run(2);
    assert_eq!((s.said().len(), s.router.counts().messages), (MAX_DOCUMENTS + 1, MAX_DOCUMENTS as u64 + 2));
}

#[test]
fn at_the_end_nothing_waits_for_company() {
    let mut s = Script::new(Policy::people());
    s.take(0, "r", "1", 0, Firing).run(0);
    s.take(1, "r", "2", 0, Firing).take(1, "q", "2", 0, Firing).run(0);
    s.router.hurry();
    s.run(2);
    assert_eq!(s.said(), ["fired r/1/0", "fired q/2/0", "fired r/2/0"]);
}

#[test]
fn a_clock_set_back_holds_nothing_up() {
    let mut s = Script::new(Policy { max_per_hour: Some(1), ..Policy::people() });
    s.take(HOUR * 10, "r", "1", 0, Firing).run(HOUR * 10);
    s.take(HOUR, "r", "2", 0, Firing).run(HOUR);
    assert_eq!(s.said(), ["fired r/1/0", "fired r/2/0"]);
}
