//! What goes on, told again.

use super::*;

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
fn a_restart_does_not_repeat_what_is_not_due() {
    let every = 10 * MINUTE;
    let people = Policy { repeat_every: Some(every), ..Policy::programs() };
    let always = Policy { repeats_always: true, ..people.clone() };
    // Whether it was repeated and that was taken, when it is due after a start a minute later; 0: at once.
    let rows = [
        ("told", &people, None, HOUR + every),
        ("repeated since", &people, Some(true), HOUR + 2 * every),
        ("not taken when it was repeated", &people, Some(false), 0),
        ("a receiver that takes it for an end", &always, None, 0),
    ];
    for (name, policy, repeated, due) in rows {
        let mut s = Script::new(policy.clone());
        s.take(HOUR, "r", "1", 0, Firing).run(HOUR);
        let mut now = HOUR;
        if let Some(is_taken) = repeated {
            now += every;
            assert!(s.fly(now).is_some(), "{name}");
            if is_taken { s.router.delivered(now) } else { drop(s.router.returned(now)) }
        }
        let snapshot = s.router.snapshot();
        now += MINUTE;
        let mut s = Script::new(policy.clone());
        snapshot.records.into_iter().for_each(|record| s.router.restore(record, now));
        s.router.restored();
        s.take(now, "r", "1", 0, Firing);
        if due == 0 {
            s.run(now);
        } else {
            assert_eq!(s.run(now), Some(due), "{name}");
            assert_eq!(s.said(), Vec::<String>::new(), "{name}");
            s.run(due);
        }
        assert_eq!(s.said(), ["repeated r/1/0"], "{name}");
    }
}

#[test]
fn what_an_earlier_life_left_firing_goes_on() {
    let always = Policy { repeat_every: Some(MINUTE), repeats_always: true, ids: false, ..Policy::programs() };
    let people = Policy { repeat_every: Some(MINUTE), ..Policy::people() };
    let never = Policy { repeat_every: None, ..always.clone() };
    let other = Policy { rules: vec!["other".into()], ..always.clone() };
    let repeated: &[&str] = &["repeated r/1/0"];
    // name, the policy after the restart, what was told, what is left firing, what is said ten seconds later, and a minute
    let rows: &[(&str, &Policy, &[AlertState], u64, &[&str], &[&str])] = &[
        ("it was told", &always, &[Firing], 0, repeated, repeated),
        ("by another id", &always, &[Firing], 10_000, &["repeated r/1/10000"], &["repeated r/1/10000"]),
        ("it is not due", &people, &[Firing], 0, &[], repeated),
        ("nothing is repeated here", &never, &[Firing], 0, &[], &[]),
        ("not taken here any more", &other, &[Firing], 0, &[], &[]),
        ("nobody was told", &always, &[], 0, &[], &[]),
        ("it was told as over", &always, &[Firing, Resolved], 0, &[], &[]),
    ];
    for (name, policy, told, first, soon, later) in rows {
        let mut s = Script::new(Policy { repeat_every: Some(MINUTE), ..Policy::programs() });
        for state in *told {
            s.take(HOUR, "r", "1", 0, *state).run(HOUR);
        }
        let snapshot = s.router.snapshot();
        let mut s = Script::new((*policy).clone());
        let mut now = HOUR + 10 * SECOND;
        snapshot.records.into_iter().for_each(|record| s.router.restore(record, now));
        s.router.restored();
        s.router.take_left(&alert("r", "1", *first, Firing), now);
        s.run(now);
        assert_eq!(s.said(), *soon, "{name}");
        now += MINUTE;
        s.run(now);
        assert_eq!(s.said(), *later, "{name}, later");
        let want = if told.last() == Some(&Firing) { vec![format!("resolved r/1/{first}")] } else { Vec::new() };
        s.take(now, "r", "1", *first, Resolved).run(now + MINUTE);
        assert_eq!(s.said(), want, "{name}, at its end");
    }
    // What waits to be told is newer.
    let mut s = Script::new(always);
    s.take(HOUR, "r", "1", 0, Firing).run(HOUR);
    s.take(HOUR, "r", "1", 0, Resolved);
    s.router.take_left(&alert("r", "1", 0, Firing), HOUR);
    s.run(HOUR + MINUTE);
    assert_eq!(s.said(), ["fired r/1/0", "resolved r/1/0"]);
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
fn what_goes_on_is_repeated_whatever_is_new() {
    // A message takes longer than the time between new alerts: something is always due.
    for (name, policy) in [
        ("asked for", Policy::programs()),
        ("always", Policy { repeats_always: true, max_per_hour: Some(20), ..Policy::programs() }),
    ] {
        let mut s = Script::new(Policy { repeat_every: Some(MINUTE), ..policy });
        s.take(0, "r", "first", 0, Firing).run(0);
        let (mut told, mut new) = (Vec::new(), 0);
        for now in (SECOND..600 * SECOND).step_by(SECOND as usize) {
            s.take(now, "r", &now.to_string(), 0, Firing);
            let Some(message) = s.fly(now) else { continue };
            let text = said(&message);
            s.router.delivered(now);
            new += u64::from(text.contains("fired"));
            if text.contains("repeated r/first/0") {
                told.push(now);
            }
        }
        let gaps: Vec<u64> = told.windows(2).map(|at| at[1] - at[0]).collect();
        assert!(told.len() >= 7 && gaps.iter().all(|gap| *gap <= 80 * SECOND), "{name}: {told:?}");
        assert!(new >= 15, "{name}: {new} messages of new ones");
    }
}

#[test]
fn groups_of_what_is_silenced_leave_nothing() {
    let mut s = Script::new(Policy { group_by: vec![GroupKey::Alert], ..Policy::programs() });
    let silence = Silence {
        rules: vec!["r".into()],
        subject: BTreeMap::new(),
        from: 0,
        until: 60 * MINUTE,
        reason: String::new(),
    };
    s.router.silence(Arc::new(vec![silence]), 0);
    for client in 0..100 {
        let (at, client) = (client * SECOND, client.to_string());
        s.take(at, "r", &client, 0, Firing).take(at, "r", &client, 0, Resolved).run(at);
    }
    assert_eq!(s.said(), Vec::<String>::new());
    assert_eq!(s.router.groups.len(), 0);
}

#[test]
fn what_goes_on_is_told_again_though_the_clock_was_set_back() {
    let policies = [
        ("a program", Policy { repeats_always: true, ..Policy::programs() }),
        ("people", Policy { group_interval: 0, ..Policy::people() }),
    ];
    for (name, policy) in policies {
        let mut s = Script::new(Policy { repeat_every: Some(MINUTE), ..policy });
        let (ahead, now) = (10 * HOUR, 7 * HOUR);
        s.take(ahead, "r", "1", 0, Firing).run(ahead);
        assert_eq!(s.said(), ["fired r/1/0"], "{name}");
        assert_eq!(s.run(now), Some(now + MINUTE), "{name}");
        assert_eq!(s.said(), ["repeated r/1/0"], "{name}: at once");
        s.run(now + MINUTE - 1);
        assert_eq!(s.said().len(), 0, "{name}");
        s.run(now + MINUTE);
        assert_eq!(s.said(), ["repeated r/1/0"], "{name}");
    }
}
