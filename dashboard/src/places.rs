//! Who is connected, and who makes room when no place is left.
//!
//! A connection is busy while an answer of the API is being made or sent (a stream: as long as it is open), else it waits: for a
//! whole request, head and body, or between two. Whoever comes when all places are taken gets that of the connection that waits
//! longest, so connections that are only held open keep nobody out.
//!
//! Invariants
//! - At most as many places are taken as there are.
//! - A busy connection loses its place to nobody: where all are busy, who comes next waits.

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// The connections there are, up to a number.
pub struct Places {
    most: usize,
    taken: Mutex<BTreeMap<u64, Arc<Seat>>>,
    freed: Notify,
    /// Grows with every place taken and every wait that begins.
    turn: AtomicU64,
}

struct Seat {
    /// Answers being made or sent.
    answers: AtomicUsize,
    /// The turn at which it began to wait.
    since: AtomicU64,
    wanted: Notify,
}

/// A place, until it is dropped.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    seat: Arc<Seat>,
}

impl Places {
    pub fn new(most: usize) -> Arc<Places> {
        Arc::new(Places { most, taken: Mutex::default(), freed: Notify::new(), turn: AtomicU64::new(0) })
    }

    /// Takes a place; waits where all are busy. One caller at a time.
    pub async fn take(self: &Arc<Places>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.freed.notified().await;
        }
    }

    fn try_take(self: &Arc<Places>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.len() >= self.most {
            let waiting = taken.iter().filter(|(_, seat)| seat.answers.load(Ordering::Relaxed) == 0);
            let longest = waiting.min_by_key(|(_, seat)| seat.since.load(Ordering::Relaxed)).map(|(id, _)| *id)?;
            if let Some(seat) = taken.remove(&longest) {
                seat.wanted.notify_one();
            }
        }
        let id = self.turn.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat { answers: AtomicUsize::new(0), since: AtomicU64::new(id), wanted: Notify::new() });
        taken.insert(id, seat.clone());
        drop(taken);
        Some(Place { places: self.clone(), id, seat })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.taken.lock()
    }
}

impl Place {
    /// Comes to its end when somebody else is given the place.
    pub async fn lost(&self) {
        self.seat.wanted.notified().await;
    }

    /// From now on an answer is being made.
    pub fn answering(&self) -> Answering {
        self.seat.answers.fetch_add(1, Ordering::Relaxed);
        Answering { places: self.places.clone(), seat: self.seat.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().remove(&self.id);
        self.places.freed.notify_one();
    }
}

/// The body of a request: once it is read to its end, an answer is being made, where the place is kept for it.
pub struct Received<B> {
    body: B,
    place: Option<Arc<Place>>,
    answering: Arc<Mutex<Option<Answering>>>,
}

impl<B: HttpBody> Received<B> {
    pub fn new(body: B, place: Option<Arc<Place>>) -> Received<B> {
        let received = Received { body, place, answering: Arc::default() };
        received.look(received.body.is_end_stream());
        received
    }

    /// Where the answer stands once it is being made.
    pub fn answering(&self) -> Arc<Mutex<Option<Answering>>> {
        self.answering.clone()
    }

    fn look(&self, is_whole: bool) {
        if let Some(place) = self.place.as_ref().filter(|_| is_whole) {
            let mut answering = self.answering.lock();
            answering.get_or_insert_with(|| place.answering());
        }
    }
}

impl<B: HttpBody + Unpin> HttpBody for Received<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.look(matches!(polled, Poll::Ready(None)) || self.body.is_end_stream());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer being made or sent.
pub struct Answering {
    places: Arc<Places>,
    seat: Arc<Seat>,
}

impl Answering {
    /// Goes with an answer until it is sent.
    pub fn with(self, response: Response) -> Response {
        response.map(|body| Body::new(Sent { body, _answering: self }))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.seat.answers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.seat.since.store(self.places.turn.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
            self.places.freed.notify_one();
        }
    }
}

struct Sent {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_lost(place: &Place) -> bool {
        let mut lost = std::pin::pin!(place.lost());
        lost.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn whoever_waits_longest_makes_room() {
        let places = Places::new(3);
        let [one, two, three] = [0; 3].map(|_| places.try_take().expect("a place is left"));
        drop(one.answering());
        let busy = two.answering();
        let four = places.try_take().expect("the third waits since it came, the first since its answer");
        assert!(is_lost(&three) && !is_lost(&one) && !is_lost(&two) && !is_lost(&four));
        drop(three);
        assert_eq!(places.taken().len(), 3, "who lost its place gives none back");
        let five = places.try_take().expect("the first waits longer than the fourth");
        assert!(is_lost(&one) && !is_lost(&four));
        let (_also, _too) = (four.answering(), five.answering());
        assert!(places.try_take().is_none(), "all are busy");
        drop(busy);
        assert!(places.try_take().is_some() && is_lost(&two), "an answer is over");
        drop(five);
        assert!(places.try_take().is_some(), "a place is given back");
    }
}
