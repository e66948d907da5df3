//! The embedded store as the page asks it.

use crate::countries::Countries;
use crate::data::{Answer, Data, DataError};
use crate::view::RequestsView;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tidewatch_connectors::answers::{Ranking, Span};
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::source::wall_clock;
use tidewatch_connectors::store::{
    self as tables, AlertRow, AlertsQuery, ErrorsQuery, RequestsQuery, RingWatch, SeriesQuery, SilenceRequest,
    StoreError, StoreMarks, StoreReader, TopsQuery,
};
use tidewatch_events::time::Millis;

/// How long a question may take.
const LIMIT: Duration = Duration::from_secs(8);

/// How long the names of hosts are remembered.
const HOSTS_AGE: Duration = Duration::from_secs(10);

/// How many of them.
const HOSTS: usize = 1000;

/// Of so many top clients the countries are looked up.
const CLIENTS: usize = 1000;

/// The store of a data directory, with what the configuration adds to its answers.
pub struct StoreData {
    reader: StoreReader,
    marks: StoreMarks,
    ring: Option<RingWatch>,
    countries: Option<Countries>,
    /// Those of the configuration, that are not over.
    configured: Vec<Silence>,
    hosts: Mutex<Option<(Instant, Vec<String>)>>,
    on_marks: Option<OnMarks>,
}

/// Told when a silence or an acknowledgement was written or taken back, before that is answered.
pub type OnMarks = Box<dyn Fn() + Send + Sync>;

impl StoreData {
    /// The store of a data directory.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<StoreData, StoreError> {
        let (reader, marks) = (StoreReader::open(dir, LIMIT)?, StoreMarks::open(dir)?);
        let (ring, countries, configured, on_marks) = (None, None, Vec::new(), None);
        Ok(StoreData { reader, marks, ring, countries, configured, hosts: Mutex::default(), on_marks })
    }

    /// With a ring of requests that is being written.
    pub fn with_requests(self, ring: RingWatch) -> StoreData {
        StoreData { ring: Some(ring), ..self }
    }

    /// With a file that says where clients are.
    pub fn with_countries(self, countries: Countries) -> StoreData {
        StoreData { countries: Some(countries), ..self }
    }

    /// With silences that hold besides those that people make.
    pub fn with_silences(self, configured: Vec<Silence>) -> StoreData {
        StoreData { configured, ..self }
    }

    /// With somebody who acts on what people silence and acknowledge: it is in force when they are answered.
    pub fn telling_of_marks(self, on_marks: OnMarks) -> StoreData {
        StoreData { on_marks: Some(on_marks), ..self }
    }

    /// Tells of a mark that was made, if it was.
    fn tell<T>(&self, made: Result<T, StoreError>) -> Result<T, DataError> {
        let made = made.map_err(wrong)?;
        if let Some(tell) = &self.on_marks {
            tell();
        }
        Ok(made)
    }

    /// Marks the alerts that the configuration silences.
    fn mark(&self, rows: &mut [AlertRow]) {
        let now = wall_clock().0;
        rows.iter_mut().for_each(|row| row.silence(&self.configured, now));
    }
}

/// A silence as the API has it. Times are those of the wall clock, ms.
#[derive(Serialize)]
struct SilenceRow {
    /// By which it can be ended; none of one that the configuration makes.
    id: Option<i64>,
    rule: Option<String>,
    subject: Option<BTreeMap<String, String>>,
    /// None: it holds since it was made.
    from: Option<u64>,
    until: u64,
    reason: String,
    created: Option<u64>,
    configured: bool,
}

impl SilenceRow {
    fn made(one: tables::Silence) -> SilenceRow {
        let row = SilenceRow::new(&one.silence, one.silence.rules.first());
        SilenceRow { id: Some(one.id), created: Some(one.created.0), configured: false, ..row }
    }

    /// One a rule.
    fn configured(one: &Silence) -> Vec<SilenceRow> {
        match one.rules.as_slice() {
            [] => vec![SilenceRow::new(one, None)],
            rules => rules.iter().map(|rule| SilenceRow::new(one, Some(rule))).collect(),
        }
    }

    fn new(one: &Silence, rule: Option<&String>) -> SilenceRow {
        SilenceRow {
            id: None,
            rule: rule.cloned(),
            subject: Some(one.subject.clone()).filter(|subject| !subject.is_empty()),
            from: Some(one.from).filter(|from| *from > 0),
            until: one.until,
            reason: one.reason.clone(),
            created: None,
            configured: true,
        }
    }
}

fn answer<T: Serialize>(found: Result<T, StoreError>) -> Answer {
    let found = found.map_err(wrong)?;
    serde_json::to_string(&found).map_err(|error| DataError::Failed(error.to_string()))
}

fn wrong(error: StoreError) -> DataError {
    match error {
        StoreError::Unknown { .. } => DataError::NotFound(error.to_string()),
        StoreError::BadQuery(_) => DataError::Wrong(error.to_string()),
        StoreError::TooLong(_) => DataError::TooLong(error.to_string()),
        _ => DataError::Failed(match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}

impl Data for StoreData {
    fn hosts(&self) -> Vec<String> {
        let mut kept = self.hosts.lock();
        if let Some((at, hosts)) = &*kept
            && at.elapsed() < HOSTS_AGE
        {
            return hosts.clone();
        }
        let hosts = match self.reader.hosts(HOSTS) {
            Ok((hosts, _)) => hosts,
            Err(error) => {
                tracing::debug!(%error, "the store does not name its hosts");
                Vec::new()
            }
        };
        *kept = Some((Instant::now(), hosts.clone()));
        hosts
    }

    fn newest(&self) -> Option<u64> {
        match self.reader.stored() {
            Ok(stored) => stored.newest.map(|start| start.0 + stored.window.0.saturating_sub(1)),
            Err(error) => {
                tracing::debug!(%error, "the store does not say what it has");
                None
            }
        }
    }

    fn window(&self) -> Result<Millis, DataError> {
        self.reader.window().map_err(wrong)
    }

    fn requests_kept(&self) -> RequestsView {
        let Some(ring) = &self.ring else { return RequestsView::default() };
        let status = ring.status();
        RequestsView {
            enabled: true,
            kept: status.kept,
            from: status.from.map(|from| from.0),
            sampled: status.one_in > 1,
            partial: !status.without.is_empty(),
            without: status.without,
        }
    }

    fn knows_countries(&self) -> bool {
        self.countries.is_some()
    }

    fn knows_rule(&self, rule: &str) -> Result<bool, DataError> {
        let query = AlertsQuery { rule: Some(rule.to_owned()), limit: 1, ..AlertsQuery::default() };
        self.reader.alerts(&query).map(|found| !found.rows.is_empty()).map_err(wrong)
    }

    fn silenced(&self, now: u64) -> Result<Vec<Silence>, DataError> {
        let made = self.reader.silences().map_err(wrong)?.into_iter().map(|made| made.silence);
        Ok(made.filter(|one| one.until > now).chain(self.configured.iter().cloned()).collect())
    }

    fn series(&self, query: &SeriesQuery) -> Answer {
        answer(self.reader.series(query))
    }

    fn tops(&self, query: &TopsQuery) -> Answer {
        if let (Ranking::Countries, Some(countries)) = (query.kind, &self.countries) {
            let clients = TopsQuery { kind: Ranking::Clients, limit: CLIENTS, ..query.clone() };
            return answer(self.reader.tops(&clients).map(|clients| countries.ranked(clients, query.limit)));
        }
        answer(self.reader.tops(query))
    }

    fn errors(&self, query: &ErrorsQuery) -> Answer {
        answer(self.reader.errors(query))
    }

    fn alerts(&self, query: &AlertsQuery) -> Answer {
        answer(self.reader.alerts(query).map(|mut found| {
            self.mark(&mut found.rows);
            found
        }))
    }

    fn alert(&self, id: &str) -> Answer {
        let mut found = self.reader.alert(id).map_err(wrong)?;
        self.mark(found.as_mut_slice());
        answer(found.ok_or_else(|| StoreError::Unknown { what: "alert", name: id.chars().take(100).collect() }))
    }

    fn acknowledge(&self, id: &str, by: &str, note: &str) -> Answer {
        self.tell(self.marks.acknowledge(id, by, note))?;
        self.alert(id)
    }

    fn take_back(&self, id: &str) -> Answer {
        self.tell(self.marks.unacknowledge(id))?;
        self.alert(id)
    }

    fn silences(&self, now: u64) -> Answer {
        #[derive(Serialize)]
        struct Rows<T> {
            rows: Vec<T>,
            truncated: bool,
        }
        let configured = self.configured.iter().filter(|one| one.until > now).flat_map(SilenceRow::configured);
        let all = |made: Vec<tables::Silence>| made.into_iter().map(SilenceRow::made).chain(configured).collect();
        answer(self.reader.silences().map(|made| Rows { rows: all(made), truncated: false }))
    }

    fn silence(&self, request: &SilenceRequest) -> Answer {
        let made = self.tell(self.marks.silence(request))?;
        answer(Ok(SilenceRow::made(made)))
    }

    fn end_silence(&self, id: &str) -> Result<(), DataError> {
        let unknown = || StoreError::Unknown { what: "silence", name: id.chars().take(100).collect() };
        let id = id.parse().map_err(|_| wrong(unknown()))?;
        self.tell(self.marks.end_silence(id))
    }

    fn client(&self, ip: &str, span: Span) -> Answer {
        answer(self.reader.client(ip, span.from, span.to).map(|mut found| {
            self.mark(&mut found.alerts);
            found
        }))
    }

    fn requests(&self, query: &RequestsQuery) -> Answer {
        match self.reader.requests(query) {
            Err(StoreError::Missing(_)) => Err(DataError::NotKept("single requests are not kept in this run".into())),
            found => answer(found),
        }
    }
}
