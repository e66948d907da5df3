//! Answers from the store's file.

use super::{
    AlertCounts, Alerts, Answers, AnswersError, Errors, Partition, Ranking, Series, SeriesAnswer, Span, Status, Time,
    Tops, read,
};
use crate::route::policy::Silence;
use crate::source::wall_clock;
use crate::store::{AlertsQuery, ErrorsQuery, SeriesQuery, StoreError, StoreReader, TopsQuery};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// Hosts that are named.
const HOSTS: usize = 1000;

/// A store in a data directory, and the silences of its configuration.
pub struct FromStore {
    reader: StoreReader,
    dir: PathBuf,
    /// Those of the configuration, where there is one.
    silences: Option<Vec<Silence>>,
}

impl FromStore {
    /// Opens the store of a data directory for questions that may each take `limit`.
    ///
    /// # Errors
    /// Where there is none, or this release cannot read it.
    pub fn open(dir: &Path, limit: Duration) -> Result<FromStore, AnswersError> {
        Ok(FromStore { reader: StoreReader::open(dir, limit)?, dir: dir.to_owned(), silences: None })
    }

    /// With the silences of the configuration, besides those that people made.
    pub fn with_silences(self, silences: Vec<Silence>) -> FromStore {
        FromStore { silences: Some(silences), ..self }
    }
}

impl From<StoreError> for AnswersError {
    fn from(error: StoreError) -> AnswersError {
        let message = match std::error::Error::source(&error) {
            Some(source) if !matches!(error, StoreError::Failed { .. }) => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        match error {
            StoreError::Missing(_) | StoreError::BadQuery(_) | StoreError::Unknown { .. } => {
                AnswersError::Usage(message)
            }
            _ => AnswersError::Failed(message),
        }
    }
}

/// The answer in the form that the API gives it.
fn through<T: serde::de::DeserializeOwned>(what: &str, answer: &impl serde::Serialize) -> Result<T, AnswersError> {
    let json = serde_json::to_vec(answer).map_err(|error| AnswersError::Failed(error.to_string()))?;
    read(what, &json)
}

impl Answers for FromStore {
    fn name(&self) -> String {
        self.dir.shown().into_owned()
    }

    fn status(&self) -> Result<Status, AnswersError> {
        let (hosts, _) = self.reader.hosts(HOSTS)?;
        let counts = self.reader.alert_counts()?;
        let newest = self.reader.stored()?.newest;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: "store".to_owned(),
            last_event: newest.map(|time| time.0),
            hosts,
            alerts: AlertCounts { fired: counts.fired, firing: counts.firing, critical: counts.critical },
            ..Status::default()
        })
    }

    fn series(&self, span: Span, host: Option<&str>, step: Option<Millis>) -> Result<Series, AnswersError> {
        let query = SeriesQuery { span, host: host.map(str::to_owned), step };
        through::<SeriesAnswer>("series", &self.reader.series(&query)?).map(Series::from)
    }

    fn tops(&self, what: Ranking, span: Span, host: Option<&str>, limit: usize) -> Result<Tops, AnswersError> {
        let query = TopsQuery { kind: what, span, host: host.map(str::to_owned), limit };
        through("tops", &self.reader.tops(&query)?)
    }

    fn errors(&self, span: Span, host: Option<&str>, limit: usize) -> Result<Errors, AnswersError> {
        let query = ErrorsQuery { span, host: host.map(str::to_owned), severity: None, limit };
        through("errors", &self.reader.errors(&query)?)
    }

    fn alerts(&self, query: &AlertsQuery) -> Result<Alerts, AnswersError> {
        let mut found = self.reader.alerts(query)?;
        let now = wall_clock().0;
        found.rows.iter_mut().for_each(|row| row.silence(self.silences.as_deref().unwrap_or_default(), now));
        through("alerts", &found)
    }

    fn knows_silences(&self) -> bool {
        self.silences.is_some()
    }

    fn time(&self) -> Result<Time, AnswersError> {
        let (rows, truncated) = self.reader.partitions()?;
        let as_of = rows.iter().map(|row| row.at.0).max();
        let partitions: Vec<Partition> = rows
            .into_iter()
            .map(|row| Partition {
                process: 0,
                // Sources without names that may be tags have one row for all of their partitions.
                lag_messages: row.lag.filter(|_| row.partition != "-"),
                source: row.source,
                partition: if row.partition == "-" { String::new() } else { row.partition },
                watermark: row.watermark.map(|at| at.0),
                watermark_delay_ms: row.watermark_delay.map(|delay| delay.0),
                state: "-".to_owned(), // only the running process knows
                events: row.events,
                late: row.late,
            })
            .collect();
        Ok(Time { as_of, frontier: None, held_by: None, partitions, truncated })
    }
}
