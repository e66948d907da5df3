//! A route at work, against a receiver that does as told.

use super::super::Message;
use super::super::testing::alert;
use super::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use tidewatch_events::alert::AlertState;
use tidewatch_reference::testing::until;

/// Answers in turn, then takes everything; what it was given. Nothing is taken while it is away.
#[derive(Clone, Default)]
struct Fake {
    state: Arc<Mutex<(VecDeque<Result<(), SendError>>, Vec<(Instant, Message)>)>>,
    away: Arc<AtomicBool>,
    /// Whether it can say the same in short.
    in_short: bool,
}

impl Fake {
    fn answering(answers: impl IntoIterator<Item = Result<(), SendError>>) -> Fake {
        Fake { state: Arc::new(Mutex::new((answers.into_iter().collect(), Vec::new()))), ..Fake::default() }
    }

    fn given(&self) -> Vec<(Instant, Message)> {
        self.state.lock().1.clone()
    }

    fn wait_for(&self, count: usize) -> Vec<(Instant, Message)> {
        until("so many messages", || self.given().len() >= count);
        self.given()
    }
}

impl Channel for Fake {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let mut state = self.state.lock();
        state.1.push((Instant::now(), message.clone()));
        if self.away.load(Ordering::Relaxed) {
            return Err(SendError::away("no"));
        }
        state.0.pop_front().unwrap_or(Ok(()))
    }

    fn short(&self, message: &Message) -> Option<Message> {
        let id = format!("{}-short", message.id);
        self.in_short.then(|| Message { id, ..message.clone() })
    }

    fn probe(&mut self) -> Result<String, SendError> {
        Ok(String::new())
    }
}

fn start(fake: &Fake, dir: &std::path::Path) -> RouteRunner {
    let mut settings =
        RouteSettings::new("mail", Policy { group_interval: 0, ..Policy::people() }, dir.join("mail.journal"));
    settings.backoff = Backoff { first: Duration::from_millis(40), most: Duration::from_millis(80) };
    RouteRunner::start(Box::new(fake.clone()), settings).unwrap()
}

fn ids(message: &Message) -> Vec<String> {
    let Body::Alerts(notice) = &message.body else { return vec![format!("{:?}", message.body)] };
    notice.items.iter().map(|item| format!("{} {}", item.what.as_str(), item.alert.id)).collect()
}

#[test]
fn it_tells_at_once_and_records() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let route = start(&fake, dir.path());
    route.offer(&[alert("r", "1", 0, AlertState::Firing)]);
    let given = fake.wait_for(1);
    assert_eq!(ids(&given[0].1), ["fired r/1/0"]);
    until("recorded", || route.is_recorded() && route.status().counts.messages == 1);
    route.close(Duration::from_secs(5));
    assert_eq!(route.finish(), 0);
    // Another process: the same alert is no news.
    let again = Fake::default();
    let route = start(&again, dir.path());
    route.offer(&[alert("r", "1", 0, AlertState::Firing), alert("r", "2", 0, AlertState::Firing)]);
    assert_eq!(ids(&again.wait_for(1)[0].1), ["fired r/2/0"]);
    drop(route);
}

#[test]
fn what_is_not_taken_is_told_as_it_is_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.away.store(true, Ordering::Relaxed);
    let route = start(&fake, dir.path());
    route.offer(&[alert("r", "1", 0, AlertState::Firing)]);
    fake.wait_for(1);
    until("it is away", || route.status().failing > 0);
    assert_eq!(route.status().last_error.as_deref(), Some("no"));
    assert!(route.is_recorded());
    route.offer(&[alert("r", "1", 0, AlertState::Resolved)]);
    let is_told = || fake.given().last().is_some_and(|(_, message)| ids(message) == ["resolved r/1/0"]);
    until("it says how things stand by now", is_told);
    fake.away.store(false, Ordering::Relaxed);
    until("it works", || route.status().failing == 0 && route.status().counts.messages > 0);
    assert!(is_told() && route.status().counts.messages == 1, "the only message that was taken");
    let given = fake.given();
    assert_eq!(ids(&given[0].1), ["fired r/1/0"]);
    assert!(given.windows(2).all(|pair| pair[1].0 - pair[0].0 >= Duration::from_millis(20)), "it waited: {given:?}");
    assert!(given.windows(2).all(|pair| pair[0].1.id != pair[1].1.id), "each is another: {given:?}");
}

#[test]
fn what_may_have_been_taken_is_sent_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let unclear = || Err(SendError::Unclear("no answer".into()));
    let fake = Fake::answering([unclear(), Err(SendError::away("no")), unclear()]);
    let route = start(&fake, dir.path());
    route.offer(&[alert("r", "1", 0, AlertState::Firing)]);
    fake.wait_for(1);
    route.offer(&[alert("r", "1", 0, AlertState::Resolved)]);
    let given = fake.wait_for(5);
    assert!(given[..4].iter().all(|(_, message)| *message == given[0].1), "{given:?}");
    assert_eq!(ids(&given[4].1), ["resolved r/1/0"]);
}

#[test]
fn a_message_that_is_refused_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::answering([Err(SendError::Rejected("too large".into()))]);
    let route = start(&fake, dir.path());
    route.offer(&[alert("r", "1", 0, AlertState::Firing)]);
    fake.wait_for(1);
    route.offer(&[alert("r", "2", 0, AlertState::Firing)]);
    let given = fake.wait_for(2);
    let Body::Alerts(notice) = &given[1].1.body else { panic!() };
    assert_eq!((ids(&given[1].1), notice.notes.len()), (vec!["fired r/2/0".to_owned()], 1));
    until("counted", || route.status().counts.rejected == 1);
}

#[test]
fn a_message_that_is_refused_is_sent_once_more_in_short() {
    let refused = || Err(SendError::Rejected("too large".into()));
    // name, answers, messages that are sent for one alert, how many count as refused
    let rows: &[(&str, Vec<Result<(), SendError>>, &[&str], u64)] = &[
        ("it is taken", vec![refused(), Ok(())], &["1", "1-short"], 0),
        ("it is refused too", vec![refused(), refused()], &["1", "1-short"], 1),
        (
            "it is put off",
            vec![refused(), Err(SendError::away("no")), refused(), Ok(())],
            &["1", "1-short", "2", "2-short"],
            0,
        ),
        (
            "it may have been taken",
            vec![refused(), Err(SendError::Unclear("no".into())), refused(), Ok(())],
            &["1", "1-short", "1", "1-short"],
            0,
        ),
    ];
    for (name, answers, want, rejected) in rows {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake { in_short: true, ..Fake::answering(answers.clone()) };
        let route = start(&fake, dir.path());
        route.offer(&[alert("r", "1", 0, AlertState::Firing)]);
        fake.wait_for(want.len());
        let is_over = || route.status().counts.messages + route.status().counts.rejected == 1;
        until("it is over", is_over);
        let ids: Vec<String> = fake.given().iter().map(|(_, m)| m.id.split_once('-').unwrap().1.to_owned()).collect();
        let status = route.status();
        assert_eq!(
            (ids.iter().map(String::as_str).collect::<Vec<_>>(), status.counts.rejected),
            (want.to_vec(), *rejected),
            "{name}"
        );
        assert!(status.failures > 0 && status.last_error.is_some() && status.failing == 0, "{name}: {status:?}");
    }
}

#[test]
fn the_end_does_not_wait_for_a_route_that_is_away() {
    let errors: [fn() -> SendError; 2] = [|| SendError::person("no"), || SendError::Unclear("no answer".into())];
    for error in errors {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::answering((0..100).map(|_| Err(error())));
        let route = start(&fake, dir.path());
        route.offer(&[alert("r", "1", 0, AlertState::Firing)]);
        fake.wait_for(1);
        route.close(Duration::from_secs(60));
        let ended = wait_for_end(route);
        assert_eq!(ended, Some(1), "it waits in the journal: {}", error());
        let later = Fake::default();
        let _route = start(&later, dir.path());
        assert_eq!(ids(&later.wait_for(1)[0].1), ["fired r/1/0"]);
    }
}

/// What [`RouteRunner::finish`] says; `None` where it says nothing for half a minute.
fn wait_for_end(route: RouteRunner) -> Option<u64> {
    let (tell, told) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || tell.send(route.finish()));
    told.recv_timeout(Duration::from_secs(30)).ok()
}
