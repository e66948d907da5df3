//! The only unsafe code of the Kafka client: reading a partition's queue in batches.
//!
//! The Rust API gives one message per call, at twice the cost. `rd_kafka_consume_batch_queue` takes a thousand records
//! from librdkafka's queue under one lock each; their bytes are handed to a closure as slices and freed right after.
//!
//! Why this is sound
//! - A queue handle comes from `rd_kafka_queue_get_partition`, is destroyed exactly once in `drop`, and holds the
//!   consumer by `Arc`, so the client outlives it (librdkafka demands that).
//! - Messages returned by the batch call belong to the caller until `rd_kafka_message_destroy`. [`Taken`] destroys each
//!   exactly once, also when the closure panics. Slices are made from pointer and length as librdkafka gives them and
//!   live no longer than the closure's call; a null pointer becomes an empty slice.
//! - A message's error code is read as a plain number: a broker newer than the bindings may send one that their Rust enum
//!   does not have, and a value outside an enum is undefined behaviour. No reference to a whole message is made.
//! - The wake-up callback gets a pointer to a [`Wake`] that the same struct keeps alive by `Arc`; the callback is taken
//!   off the queue (under the queue's lock) before the `Arc` is dropped. It only unparks a thread.
//! - Queues are thread-safe in librdkafka, so the handle may move to another thread (`Send`); it is used by one at a time.
#![allow(unsafe_code)]

use super::client::Consumer;
use rdkafka::bindings as rd;
use rdkafka::consumer::Consumer as _;
use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;
use tidewatch_events::batch::WallTime;

/// How many records are taken at a time, at most.
pub(super) const TAKE: usize = 1024;

/// Wakes the reading thread when one of its queues gets something.
#[derive(Default)]
pub(super) struct Wake {
    rung: AtomicBool,
    sleeper: OnceLock<Thread>,
}

impl Wake {
    /// Waits until something rings, at most `patience`. Called by one thread only.
    pub(super) fn wait(&self, patience: Duration) {
        self.sleeper.get_or_init(thread::current);
        if !self.rung.swap(false, Ordering::AcqRel) {
            thread::park_timeout(patience);
            self.rung.store(false, Ordering::Release);
        }
    }

    /// Ends the wait.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.sleeper.get()
        {
            thread.unpark();
        }
    }
}

/// How many events (errors, log lines) librdkafka has for us.
pub(super) fn events_waiting(consumer: &Consumer) -> usize {
    // SAFETY: the client is alive as long as the reference.
    usize::try_from(unsafe { rd::rd_kafka_outq_len(consumer.client().native_ptr()) }).unwrap_or(0)
}

/// Called by librdkafka, on its own thread and under the queue's lock, when the queue stops being empty.
unsafe extern "C" fn ring(_: *mut rd::rd_kafka_t, wake: *mut c_void) {
    // SAFETY: the pointer was made from an `Arc<Wake>` that lives at least as long as this callback is registered.
    unsafe { &*wake.cast::<Wake>() }.ring();
}

/// What comes out of a partition's queue.
pub(super) enum Received<'a> {
    /// A record.
    Record(Record<'a>),
    /// The end of the partition; the offset is that of the next record to come.
    End(u64),
    /// An error of this partition: Kafka's number and librdkafka's words.
    Error(i32, String),
}

/// A record's bytes, valid during the call they are given to.
pub(super) struct Record<'a> {
    /// Its offset.
    pub(super) offset: u64,
    /// Its own timestamp.
    pub(super) timestamp: Option<WallTime>,
    /// Its value; empty where there is none.
    pub(super) value: &'a [u8],
    /// Its key; empty where there is none.
    pub(super) key: &'a [u8],
    message: *const rd::rd_kafka_message_t,
}

impl<'a> Record<'a> {
    /// Its headers. They are parsed here, so ask once.
    pub(super) fn headers(&self) -> Headers<'a> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive for `'a`; the headers it returns belong to it, and are alive as long. The result is
        // written only where no error is returned.
        unsafe { rd::rd_kafka_message_headers(self.message, &mut headers) };
        Headers { headers, record: PhantomData }
    }
}

/// The headers of a record; none where it has none.
pub(super) struct Headers<'a> {
    headers: *mut rd::rd_kafka_headers_t,
    record: PhantomData<Record<'a>>,
}

impl<'a> Headers<'a> {
    /// The last one of this name.
    pub(super) fn last(&self, name: &CStr) -> Option<&'a [u8]> {
        if self.headers.is_null() {
            return None;
        }
        let (mut value, mut length) = (ptr::null(), 0);
        // SAFETY: the headers are those of a message that is alive for `'a`, and so is what they hold. The results are
        // written only where no error is returned.
        unsafe {
            let none = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            let error = rd::rd_kafka_header_get_last(self.headers, name.as_ptr(), &mut value, &mut length);
            (error == none).then(|| bytes(value, length))
        }
    }
}

/// A slice of librdkafka's memory; empty for a null pointer.
///
/// # Safety
/// A pointer that is not null must point to `length` bytes that stay alive and unchanged for `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> &'a [u8] {
    // SAFETY: promised by the caller.
    if pointer.is_null() { &[] } else { unsafe { slice::from_raw_parts(pointer.cast(), length) } }
}

/// Room for the messages of one call.
pub(super) struct Taken {
    messages: Vec<*mut rd::rd_kafka_message_t>,
    next: usize,
    end: usize,
}

// SAFETY: between calls no message is held; the pointers left behind are never read again.
unsafe impl Send for Taken {}

impl Taken {
    pub(super) fn new() -> Taken {
        Taken { messages: vec![ptr::null_mut(); TAKE], next: 0, end: 0 }
    }

    fn give_back(&mut self) {
        for message in &self.messages[self.next..self.end] {
            // SAFETY: filled by the batch call, and not destroyed before: `next` moves past each one that was.
            unsafe { rd::rd_kafka_message_destroy(*message) };
        }
        (self.next, self.end) = (0, 0);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The queue of one partition, apart from the consumer's own.
pub(super) struct PartitionQueue {
    queue: NonNull<rd::rd_kafka_queue_t>,
    topic: CString,
    partition: i32,
    consumer: Arc<Consumer>,
    _wake: Arc<Wake>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Splits a partition's queue off the consumer's. To be called before the partition is assigned, so that not one
    /// record takes the other way. `None` for a name that cannot be a topic's.
    pub(super) fn split(
        consumer: &Arc<Consumer>,
        topic: &str,
        partition: i32,
        wake: &Arc<Wake>,
    ) -> Option<PartitionQueue> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: client and name are alive; the handle is owned by the struct made here. The callback's pointer is
        // kept alive by `_wake`, see `drop`.
        unsafe {
            let queue = rd::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition);
            let queue = NonNull::new(queue)?;
            rd::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            rd::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(ring), Arc::as_ptr(wake).cast_mut().cast());
            Some(PartitionQueue { queue, topic, partition, consumer: consumer.clone(), _wake: wake.clone() })
        }
    }

    /// How many records (and signals) wait.
    pub(super) fn len(&self) -> usize {
        // SAFETY: the handle is alive.
        unsafe { rd::rd_kafka_queue_length(self.queue.as_ptr()) }
    }

    /// The log's end as the last fetch told it; `None` before the first.
    pub(super) fn log_end(&self) -> Option<u64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: client and name are alive, both results are written or left alone.
        unsafe {
            let client = self.consumer.client().native_ptr();
            rd::rd_kafka_get_watermark_offsets(client, self.topic.as_ptr(), self.partition, &mut low, &mut high);
        }
        u64::try_from(high).ok()
    }

    /// Takes what waits, at most `most` (and [`TAKE`]), without waiting for more. Returns how many there were.
    pub(super) fn take(&mut self, most: usize, taken: &mut Taken, mut each: impl FnMut(Received<'_>)) -> usize {
        taken.give_back();
        let most = most.min(taken.messages.len());
        // SAFETY: the array has room for `most` pointers; the call fills as many as it returns, or returns -1.
        let count =
            unsafe { rd::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, taken.messages.as_mut_ptr(), most) };
        taken.end = usize::try_from(count).unwrap_or(0).min(most);
        let count = taken.end;
        while taken.next < taken.end {
            let pointer = taken.messages[taken.next];
            // SAFETY: the message is ours and alive until destroyed below, after the closure returned.
            unsafe {
                each(received(pointer));
                taken.next += 1;
                rd::rd_kafka_message_destroy(pointer);
            }
        }
        count
    }
}

/// What a message says.
///
/// # Safety
/// The message must be alive for `'a`.
unsafe fn received<'a>(message: *const rd::rd_kafka_message_t) -> Received<'a> {
    const NONE: i32 = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as i32;
    const END: i32 = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;
    // SAFETY: the fields are read one by one through the pointer. Payload and key are null or point to as many bytes as
    // the message says; for an error the payload is not read as bytes: its words are a C string of the message.
    unsafe {
        let offset = u64::try_from((*message).offset).unwrap_or(0);
        match (&raw const (*message).err).cast::<i32>().read() {
            NONE => {
                let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                let timestamp = rd::rd_kafka_message_timestamp(message, &mut kind);
                Received::Record(Record {
                    offset,
                    timestamp: u64::try_from(timestamp).ok().map(WallTime),
                    value: bytes((*message).payload, (*message).len),
                    key: bytes((*message).key, (*message).key_len),
                    message,
                })
            }
            END => Received::End(offset),
            code => {
                let words = rd::rd_kafka_message_errstr(message);
                let words = if words.is_null() { c"unknown error" } else { CStr::from_ptr(words) };
                Received::Error(code, words.to_string_lossy().into_owned())
            }
        }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the callback is taken off before `_wake` is dropped, and the handle is destroyed once, before the
        // client it belongs to (`consumer` is dropped after this body).
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}
