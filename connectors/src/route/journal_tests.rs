//! What is known after a crash, at any moment.

use super::super::Body;
use super::super::policy::Policy;
use super::super::router::{Next, Router};
use super::super::testing::alert;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_events::alert::{Alert, AlertState};

fn policy() -> Policy {
    Policy { group_interval: 50, max_per_hour: None, listing: 3, ..Policy::people() }
}

fn open(path: &Path, now: u64) -> (Router, Journal) {
    let mut router = Router::new(policy(), Journal::born(path, now));
    let journal = Journal::open(path, &mut router, now).unwrap();
    (router, journal)
}

#[test]
fn a_message_in_flight_is_sent_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/mail.journal");
    let (mut router, mut journal) = open(&path, 0);
    router.take(&alert("r", "1", 0, AlertState::Firing), 0);
    let Next::Send(intent) = router.next(0) else { panic!() };
    journal.before(router.to_record(), Some(&intent)).unwrap();
    drop(journal);
    let (mut router, mut journal) = open(&path, 1);
    assert_eq!(router.in_flight(), Some((*intent).clone()));
    router.take(&alert("r", "1", 0, AlertState::Firing), 1);
    assert_eq!(router.next(1), Next::Wait(None));
    router.delivered(2);
    journal.done(&intent, router.to_record()).unwrap();
    drop(journal);
    let (mut router, _) = open(&path, 3);
    assert_eq!(router.in_flight(), None);
    router.take(&alert("r", "1", 0, AlertState::Firing), 3);
    assert!(matches!(router.next(1000), Next::Wait(_)), "it was told");
    router.take(&alert("r", "2", 0, AlertState::Firing), 4);
    let Next::Send(other) = router.next(1000) else { panic!() };
    assert_ne!(other.message.id, intent.message.id);
    assert_eq!(other.message.id.rsplit_once('-').unwrap().0, intent.message.id.rsplit_once('-').unwrap().0);
}

#[test]
fn what_waits_behind_a_message_in_flight_outlives_two_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.journal");
    let (mut router, mut journal) = open(&path, 0);
    router.take(&alert("r", "1", 0, AlertState::Firing), 0);
    let Next::Send(intent) = router.next(0) else { panic!() };
    journal.before(router.to_record(), Some(&intent)).unwrap();
    router.take(&alert("r", "1", 0, AlertState::Resolved), 1);
    journal.before(router.to_record(), None).unwrap();
    drop(open(&path, 2));
    let (mut router, _) = open(&path, 3);
    assert_eq!((router.in_flight(), router.counts().pending), (Some(*intent), 1));
    router.delivered(4);
    assert!(matches!(router.next(1000), Next::Send(_)));
}

#[test]
fn what_was_not_taken_is_none_of_the_messages_of_the_hour() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.journal");
    let open = |now: u64| {
        let mut router = Router::new(Policy { group_interval: 0, ..Policy::people() }, Journal::born(&path, now));
        let journal = Journal::open(&path, &mut router, now).unwrap();
        (router, journal)
    };
    let (mut router, mut journal) = open(0);
    let send = |router: &mut Router, journal: &mut Journal, now: u64| {
        let Next::Send(intent) = router.next(now) else { panic!("{now}") };
        journal.before(router.to_record(), Some(&intent)).unwrap();
        intent
    };
    // Three were taken. Then the receiver is away.
    for n in 0..3 {
        router.take(&alert("r", &n.to_string(), 0, AlertState::Firing), n);
        let intent = send(&mut router, &mut journal, n);
        router.delivered(n);
        journal.done(&intent, router.to_record()).unwrap();
    }
    router.take(&alert("r", "x", 0, AlertState::Firing), 10);
    for n in 10..80 {
        let intent = send(&mut router, &mut journal, n);
        let mut records = router.returned(n);
        records.extend(router.to_record());
        journal.void(&intent, records).unwrap();
    }
    // One that may have been taken.
    let unclear = send(&mut router, &mut journal, 80);
    drop(journal);
    let (mut router, _) = open(100);
    assert_eq!(router.in_flight(), Some(*unclear));
    assert_eq!(router.sent_within_the_hour(), 4, "three that were taken, and that one");
    router.delivered(101);
    let critical =
        Alert { severity: tidewatch_events::alert::Severity::Critical, ..alert("q", "1", 0, AlertState::Firing) };
    router.take(&critical, 102);
    assert!(matches!(router.next(102), Next::Send(_)), "it goes at once");
}

#[test]
fn the_messages_of_the_hour_count_however_often_it_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.journal");
    let most = Policy { group_interval: 0, max_per_hour: Some(5), ..Policy::people() };
    let open = |now: u64| {
        let mut router = Router::new(most.clone(), Journal::born(&path, now));
        let journal = Journal::open(&path, &mut router, now).unwrap();
        (router, journal)
    };
    let fire = |router: &mut Router, name: &str, now| router.take(&alert("r", name, 0, AlertState::Firing), now);
    let (mut router, mut journal) = open(0);
    let minute = 60_000;
    for n in 0..3 {
        fire(&mut router, &n.to_string(), n * minute);
        let Next::Send(intent) = router.next(n * minute) else { panic!("{n}") };
        journal.before(router.to_record(), Some(&intent)).unwrap();
        // In the middle of one, too.
        journal.rewrite(router.snapshot()).unwrap();
        router.delivered(n * minute);
        journal.done(&intent, router.to_record()).unwrap();
    }
    journal.rewrite(router.snapshot()).unwrap();
    fire(&mut router, "in flight", 3 * minute);
    let Next::Send(in_flight) = router.next(3 * minute) else { panic!() };
    journal.before(router.to_record(), Some(&in_flight)).unwrap();
    drop(journal);
    // Each start writes it anew.
    for n in 0..3 {
        let (router, _) = open(4 * minute);
        assert_eq!(router.sent_within_the_hour(), 4, "start {n}");
        assert_eq!(router.in_flight(), Some((*in_flight).clone()));
    }
    let (mut router, mut journal) = open(4 * minute);
    router.delivered(4 * minute);
    journal.done(&in_flight, router.to_record()).unwrap();
    let (mut router, mut journal) = open(5 * minute);
    fire(&mut router, "the last", 5 * minute);
    let Next::Send(last) = router.next(5 * minute) else { panic!() };
    journal.before(router.to_record(), Some(&last)).unwrap();
    router.delivered(5 * minute);
    journal.done(&last, router.to_record()).unwrap();
    let (mut router, _) = open(6 * minute);
    fire(&mut router, "one more", 6 * minute);
    assert!(matches!(router.next(6 * minute), Next::Wait(_)), "five were sent");
    let (mut router, _) = open(60 * minute);
    assert_eq!(router.sent_within_the_hour(), 5);
    assert!(matches!(router.next(60 * minute), Next::Wait(_)), "nothing waits: it was not recorded");
    fire(&mut router, "an hour later", 60 * minute);
    assert!(matches!(router.next(60 * minute), Next::Send(_)), "the first was sent an hour ago");
    let (router, _) = open(minute);
    assert_eq!(router.sent_within_the_hour(), 2, "by a clock that was set back, what is to come does not count");
}

#[test]
fn torn_and_foreign_lines_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.journal");
    let (mut router, mut journal) = open(&path, 0);
    router.take(&alert("r", "1", 0, AlertState::Firing), 0);
    journal.before(router.to_record(), None).unwrap();
    drop(journal);
    for rubbish in ["{\"key\":{\"held\":{\"id\":", "what is this\n{\"key\":{}}\n\x00\u{fffd}\n{\"done\":{\"n\":7}}\n"] {
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(rubbish);
        fs::write(&path, text).unwrap();
        let (mut router, journal) = open(&path, 0);
        assert!(journal.skipped > 0);
        assert!(matches!(router.next(0), Next::Send(_)), "what waited waits");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn it_is_written_anew_when_it_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.journal");
    let (mut router, mut journal) = open(&path, 0);
    let mut most = 0;
    for n in 0..3000u64 {
        router.take(&alert("r", "1", n * 100_000, AlertState::Firing), n * 100);
        router.take(&alert("r", "1", n * 100_000, AlertState::Resolved), n * 100);
        let Next::Send(intent) = router.next(n * 100 + 60) else { panic!("{n}") };
        let records = router.to_record();
        match journal.is_long() {
            true => journal.rewrite(router.snapshot()).unwrap(),
            false => journal.before(records, Some(&intent)).unwrap(),
        }
        router.delivered(n * 100 + 60);
        journal.done(&intent, router.to_record()).unwrap();
        most = most.max(fs::metadata(&path).unwrap().len());
    }
    assert!(most < 2 * REWRITE_FROM, "{most}");
    let (mut router, _) = open(&path, 0);
    router.take(&alert("r", "1", 2999 * 100_000, AlertState::Firing), 1);
    assert_eq!(router.counts().known, 1);
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// An episode of a client begins, or its state comes again.
    Fire(u8),
    /// It ends.
    End(u8),
    /// The route sends: taken, not taken, or the process dies after the receiver had it.
    Send(u8),
    /// The process dies; whether all that fired is computed again.
    Crash(bool),
    /// Time passes.
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5).prop_map(Step::Fire),
        3 => (0u8..5).prop_map(Step::End),
        6 => (0u8..4).prop_map(Step::Send),
        1 => any::<bool>().prop_map(Step::Crash),
        3 => Just(Step::Pass),
    ]
}

/// What the receiver heard.
#[derive(Default)]
struct Receiver {
    /// What it believes of each key.
    firing: BTreeMap<String, bool>,
    /// States told, by message.
    told: BTreeMap<(String, bool), BTreeSet<String>>,
}

/// A route, its receiver, and the process that dies now and then.
struct World {
    path: PathBuf,
    router: Router,
    journal: Journal,
    again: Option<Intent>,
    receiver: Receiver,
    now: u64,
}

impl World {
    fn hear(&mut self, intent: &Intent) {
        assert!(matches!(intent.message.body, Body::Alerts(_)));
        for told in &intent.told {
            self.receiver.firing.insert(told.key.clone(), told.firing);
            self.receiver.told.entry((told.id.clone(), told.firing)).or_default().insert(intent.message.id.clone());
        }
    }

    /// Sends: 0, 1 taken; 2 not taken; 3 taken, and the process dies before it knows.
    fn send(&mut self, how: u8) {
        let new = self.again.is_none();
        let intent = match self.again.take() {
            Some(intent) => Some(intent),
            None => match self.router.next(self.now) {
                Next::Send(intent) => Some(*intent),
                Next::Wait(_) => None,
            },
        };
        self.journal.before(self.router.to_record(), intent.as_ref().filter(|_| new)).unwrap();
        let Some(intent) = intent else { return };
        match how {
            0 | 1 => {
                self.hear(&intent);
                self.router.delivered(self.now);
                self.journal.done(&intent, self.router.to_record()).unwrap();
            }
            2 if new => {
                let mut records = self.router.returned(self.now);
                records.extend(self.router.to_record());
                self.journal.void(&intent, records).unwrap();
            }
            // A message of a process before stays as it is.
            2 => self.again = Some(intent),
            _ => {
                self.hear(&intent);
                self.restart();
                assert_eq!(self.again.as_ref(), Some(&intent));
            }
        }
    }

    fn restart(&mut self) {
        (self.router, self.journal) = open(&self.path, self.now);
        self.again = self.router.in_flight();
    }

    fn take(&mut self, client: usize, episode: u64, firing: bool) {
        let state = if firing { AlertState::Firing } else { AlertState::Resolved };
        let alert: Alert = alert("r", &client.to_string(), episode * 100_000, state);
        self.router.take(&alert, self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whenever the process dies: in the end the receiver knows how things stand, and no state of an alert was told by two
    /// messages.
    #[test]
    fn nothing_is_lost_and_nothing_told_twice(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.journal");
        let (router, journal) = open(&path, 0);
        let mut world = World { path, router, journal, again: None, receiver: Receiver::default(), now: 1 };
        // Per client: the episode, and whether it fires.
        let mut truth = [(0u64, false); 5];
        let mut steps = steps;
        // In the end everything is sent.
        steps.extend((0..30).flat_map(|_| [Step::Pass, Step::Send(0)]));
        for step in steps {
            match step {
                Step::Fire(client) => {
                    let (episode, firing) = &mut truth[client as usize];
                    if !*firing {
                        (*episode, *firing) = (*episode + 1, true);
                    }
                    world.take(client as usize, *episode, true);
                }
                Step::End(client) => {
                    let (episode, firing) = &mut truth[client as usize];
                    if std::mem::take(firing) {
                        world.take(client as usize, *episode, false);
                    }
                }
                Step::Pass => world.now += 30,
                Step::Send(how) => world.send(how),
                Step::Crash(computed_again) => {
                    // What became durable elsewhere is recorded here.
                    world.journal.before(world.router.to_record(), None).unwrap();
                    world.restart();
                    for (client, (last, firing)) in truth.iter().enumerate().filter(|_| computed_again) {
                        for episode in 1..=*last {
                            world.take(client, episode, true);
                            world.now += 60;
                            world.send(0);
                            if episode < *last || !*firing {
                                world.take(client, episode, false);
                                world.now += 60;
                                world.send(0);
                            }
                        }
                    }
                }
            }
        }
        for (client, (episode, firing)) in truth.iter().enumerate() {
            let told = world.receiver.firing.get(&format!("r/{client}")).copied();
            prop_assert_eq!(told.unwrap_or(false), *firing, "client {}", client);
            prop_assert_eq!(told.is_some(), *episode > 0, "client {}", client);
        }
        for (state, messages) in &world.receiver.told {
            prop_assert_eq!(messages.len(), 1, "{:?} by {:?}", state, messages);
        }
        prop_assert_eq!(world.router.counts().pending, 0);
    }
}
