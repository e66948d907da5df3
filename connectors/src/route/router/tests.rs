//! What is sent when, as scripts: alerts and times in, messages out.

mod held_back;
mod repeats;

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
fn an_alert_that_takes_the_place_of_a_withdrawn_one_is_told_once() {
    let in_its_place = |first: u64, of: &str| Alert { replaces: Some(of.into()), ..alert("r", "1", first, Firing) };
    // name, whether ends are told, what is said of the withdrawal and what follows it
    let rows: &[(&str, bool, Alert, &[&str])] = &[
        ("it takes its place", false, in_its_place(0, "r/1/20000"), &[]),
        ("it takes the place of another", false, in_its_place(0, "r/1/40000"), &["fired r/1/0"]),
        ("it is a new one", false, alert("r", "1", 40_000, Firing), &["fired r/1/40000"]),
        ("the withdrawal was told", true, in_its_place(0, "r/1/20000"), &["withdrawn r/1/20000", "fired r/1/0"]),
    ];
    for (name, resolved, next, want) in rows {
        for restarts in [false, true] {
            let policy = || Policy { resolved: *resolved, group_interval: 0, ..Policy::people() };
            let mut s = Script::new(policy());
            s.take(0, "r", "1", 20_000, Firing).run(0);
            s.said();
            s.take(1, "r", "1", 20_000, Withdrawn).run(1);
            if restarts {
                let snapshot = s.router.snapshot();
                s.router = Router::new(policy(), "c".into());
                snapshot.records.into_iter().for_each(|record| s.router.restore(record, 1));
            }
            s.router.take(next, 2);
            s.run(2);
            assert_eq!(s.said(), *want, "{name}: {restarts}");
            // Its end is known: what comes after it is news.
            s.router.take(&Alert { state: Resolved, ..next.clone() }, 3);
            s.run(3);
            s.said();
            s.take(4, "r", "1", 90_000, Firing).run(4);
            assert_eq!(s.said(), ["fired r/1/90000"], "{name}: {restarts}");
        }
    }
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
