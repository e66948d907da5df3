//! What people say of alerts: acknowledgements and silences.
//!
//! A connection of its own with short transactions: the sink waits for one as it would for a reader, a moment.
//!
//! Invariants
//! - An acknowledgement holds for what its rule had said about its subject when it was made, by the event time at which that
//!   *fired*: the end of a slice of a window, which may be still to come or long ago. It does not hold for what it says later.
//! - What a person writes is bounded and made printable before it is kept.

use super::{FILE_NAME, StoreError, open_for_writing};
use crate::route::policy;
use crate::source::wall_clock;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tidewatch_events::text;
use tidewatch_events::time::EventTime;

/// The longest note or reason that is kept, bytes.
const MAX_NOTE_BYTES: usize = 2000;

/// How many silences there may be.
pub(super) const MAX_SILENCES: i64 = 1000;

/// An alert was seen by somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// When, by the wall clock.
    pub at: EventTime,
    /// By whom.
    pub by: String,
    /// What they said of it.
    pub note: String,
}

/// A silence that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceRequest {
    /// The rule it is about; none: all rules.
    pub rule: Option<String>,
    /// What the subject must hold; none: any subject.
    #[serde(default, deserialize_with = "texts")]
    pub subject: Option<BTreeMap<String, String>>,
    /// When it ends, by the wall clock.
    #[serde(deserialize_with = "time")]
    pub until: EventTime,
    /// Why.
    pub reason: String,
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<EventTime, D::Error> {
    EventTime::deserialize(from).map_err(|_| D::Error::custom("expected a time in milliseconds since the epoch"))
}

/// An object of texts in which none stands twice, or none.
fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = Option<BTreeMap<String, String>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object of texts")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut texts = BTreeMap::new();
            while let Some((name, value)) = all.next_entry::<String, String>()? {
                if texts.contains_key(&name) {
                    return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                }
                texts.insert(name, value);
            }
            Ok(Some(texts))
        }
    }
    from.deserialize_any(Texts)
}

/// A silence that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Its number.
    pub id: i64,
    /// When it was made, by the wall clock; it holds from then on.
    pub created: EventTime,
    /// What it holds back: alerts of one rule, or of all.
    pub silence: policy::Silence,
}

impl Silence {
    fn new(id: i64, created: EventTime, asked: SilenceRequest) -> Silence {
        let SilenceRequest { rule, subject, until, reason } = asked;
        let (rules, subject) = (rule.into_iter().collect(), subject.unwrap_or_default());
        Silence { id, created, silence: policy::Silence { rules, subject, from: 0, until: until.0, reason } }
    }

    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Silence> {
        let time = |at: usize| -> rusqlite::Result<EventTime> { Ok(EventTime(row.get::<_, i64>(at)? as u64)) };
        let subject: Option<String> = row.get(2)?;
        let subject = subject.and_then(|json| serde_json::from_str(&json).ok());
        let asked = SilenceRequest { rule: row.get(1)?, subject, until: time(3)?, reason: row.get(4)? };
        Ok(Silence::new(row.get(0)?, time(5)?, asked))
    }
}

/// The columns that [`Silence::from_row`] reads.
pub(super) const SILENCE: &str = "id, rule, subject, until, reason, created";

/// Writes acknowledgements and silences. See the module.
pub struct StoreMarks {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl StoreMarks {
    /// Opens the store of a data directory.
    ///
    /// # Errors
    /// As [`super::StoreSink::open`].
    pub fn open(dir: &Path) -> Result<StoreMarks, StoreError> {
        let path = dir.join(FILE_NAME);
        let connection = open_for_writing(&path, u64::MAX)?;
        Ok(StoreMarks { path, connection: Mutex::new(connection) })
    }

    fn with<T>(
        &self,
        doing: &'static str,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let connection: MutexGuard<'_, Connection> = self.connection.lock();
        run(&connection).map_err(StoreError::new(doing, &self.path))
    }

    /// Acknowledges an alert, and all others of its rule about its subject that are there. Again: the last one stands.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] where there is no such alert.
    pub fn acknowledge(&self, alert: &str, by: &str, note: &str) -> Result<Acknowledgement, StoreError> {
        let made = Acknowledgement { at: EventTime(wall_clock().0), by: said(by), note: said(note) };
        let sql = "INSERT OR REPLACE INTO acknowledgements (alert_key, at, \"by\", note, covers)
            SELECT key, ?2, ?3, ?4, (SELECT MAX(of.fired) FROM alerts of WHERE of.key = a.key) FROM alerts a WHERE id = ?1";
        let changed = self
            .with("write", |c| c.prepare_cached(sql)?.execute(params![alert, made.at.0 as i64, made.by, made.note]))?;
        if changed == 0 {
            return Err(StoreError::Unknown { what: "alert", name: said(alert) });
        }
        Ok(made)
    }

    /// Takes an acknowledgement back.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] where there is no such alert, or it was not acknowledged.
    pub fn unacknowledge(&self, alert: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM acknowledgements WHERE alert_key IN (SELECT key FROM alerts WHERE id = ?1)";
        match self.with("write", |c| c.prepare_cached(sql)?.execute([alert]))? {
            0 => Err(StoreError::Unknown { what: "acknowledged alert", name: said(alert) }),
            _ => Ok(()),
        }
    }

    /// Adds a silence; those that are over are forgotten.
    ///
    /// # Errors
    /// [`StoreError::BadQuery`] where it would be over already or there are too many.
    pub fn silence(&self, request: &SilenceRequest) -> Result<Silence, StoreError> {
        let now = EventTime(wall_clock().0);
        if request.until <= now {
            return Err(StoreError::BadQuery(format!("`until` is {}, which has passed", request.until.0)));
        }
        let bound = |value: &String| text::bounded(value.as_bytes()).into_owned();
        let subject: Option<BTreeMap<String, String>> =
            request.subject.as_ref().map(|s| s.iter().map(|(k, v)| (bound(k), bound(v))).collect());
        let kept = SilenceRequest {
            rule: request.rule.as_ref().map(bound),
            subject: subject.filter(|s| !s.is_empty()),
            until: EventTime(request.until.0.min(EventTime::MAX.0)),
            reason: said(&request.reason),
        };
        let id = self.with("write", |c| {
            c.execute("DELETE FROM silences WHERE until <= ?1", [now.0 as i64])?;
            let sql = "INSERT INTO silences (rule, subject, until, reason, created) SELECT ?1, ?2, ?3, ?4, ?5
                WHERE (SELECT COUNT(*) FROM silences) < ?6 RETURNING id";
            let subject = kept.subject.as_ref().map(super::sink::json);
            c.prepare_cached(sql)?
                .query_row(
                    params![kept.rule, subject, kept.until.0 as i64, kept.reason, now.0 as i64, MAX_SILENCES],
                    |row| row.get(0),
                )
                .optional()
        })?;
        let id = id.ok_or_else(|| StoreError::BadQuery(format!("there are {MAX_SILENCES} silences already")))?;
        Ok(Silence::new(id, now, kept))
    }

    /// Ends a silence.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] where there is none of this number.
    pub fn end_silence(&self, id: i64) -> Result<(), StoreError> {
        match self.with("write", |c| c.prepare_cached("DELETE FROM silences WHERE id = ?1")?.execute([id]))? {
            0 => Err(StoreError::Unknown { what: "silence", name: id.to_string() }),
            _ => Ok(()),
        }
    }
}

/// What a person wrote, printable and bounded.
fn said(words: &str) -> String {
    let words = text::printable(&words.as_bytes()[..words.len().min(MAX_NOTE_BYTES)]).into_owned();
    words[..words.floor_char_boundary(MAX_NOTE_BYTES)].to_owned()
}
