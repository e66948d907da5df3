//! Keys of events, by a way to group: found by the number of the name that is the key, or put together of several fields.

use super::values::Scratch;
use crate::lanes::{LANES, Lanes, bits, each};
use crate::names::{NONE, Names};
use crate::prefetch::prefetch;
use tidewatch_events::batch::Batch;
use tidewatch_events::event::Event;
use tidewatch_events::field::Field;

/// A way to group, shared by plans, and the keys of the events being observed.
pub(super) struct Group {
    pub(super) fields: Vec<Field>,
    /// Whether the key is that of one name of the event.
    pub(super) by: By,
    /// The keys.
    pub(super) names: Names,
    /// Numbers of keys, by the number of the name; [`NONE`]: not known.
    known: Vec<u32>,
    /// By which numbers of names.
    generation: u64,
    /// Events that a plan of this group matched; then those of them that have a key.
    pub(super) mask: u32,
    /// Numbers of their keys.
    pub(super) keys: [u32; LANES],
    /// Bytes of a key.
    bytes: Vec<u8>,
}

/// What a key is found by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Client,
    Host,
    Fields,
}

impl Group {
    /// No keys yet.
    pub(super) fn new(fields: Vec<Field>) -> Group {
        let by = match fields[..] {
            [Field::ClientIp] => By::Client,
            [Field::Host] => By::Host,
            _ => By::Fields,
        };
        Group {
            fields,
            by,
            names: Names::default(),
            known: Vec::new(),
            generation: 0,
            mask: 0,
            keys: [NONE; LANES],
            bytes: Vec::new(),
        }
    }

    /// Asks for what [`Group::fill`] will need.
    #[inline]
    pub(super) fn prefetch(&self, mask: u32, lanes: &Lanes) {
        if self.by == By::Client {
            each(mask, |lane| prefetch(&self.known, lanes.client[lane] as usize));
        }
    }

    /// Finds the numbers of the keys of the events of the mask; takes those out of the mask that have none.
    #[inline]
    pub(super) fn fill(&mut self, batch: &Batch, events: &[Event], lanes: &Lanes, scratch: &mut Scratch) {
        if self.mask == 0 {
            return;
        }
        if self.generation != lanes.generation() {
            self.generation = lanes.generation();
            self.known.clear();
        }
        let (names, numbers) = match self.by {
            By::Client => (lanes.clients(), &lanes.client),
            By::Host => (lanes.hosts(), &lanes.host),
            By::Fields => {
                for lane in bits(self.mask) {
                    self.put_together(lane, batch, &events[lane], scratch);
                }
                return;
            }
        };
        if self.known.len() < names.len() {
            self.known.resize(names.len(), NONE);
        }
        for lane in bits(self.mask) {
            let number = numbers[lane];
            let known = self.known.get(number as usize).copied().unwrap_or(NONE);
            self.keys[lane] = known;
            if known == NONE {
                self.put_together(lane, batch, &events[lane], scratch);
                if number != NONE {
                    self.known[number as usize] = self.keys[lane];
                }
            }
        }
    }

    /// Finds the number of an event's key by its bytes.
    #[inline(never)]
    fn put_together(&mut self, lane: usize, batch: &Batch, event: &Event, scratch: &mut Scratch) {
        self.bytes.clear();
        if self.fields.iter().all(|field| scratch.push(&mut self.bytes, *field, batch, event)) {
            self.keys[lane] = self.names.number(&self.bytes);
        } else {
            self.keys[lane] = NONE;
            self.mask &= !(1 << lane);
        }
    }

    /// Forgets all keys: nobody keeps their numbers.
    pub(super) fn forget(&mut self) {
        self.names.clear();
        self.known.clear();
    }
}
