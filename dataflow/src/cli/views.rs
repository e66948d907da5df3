//! `tidewatch report` and what it shares with `tidewatch top`: where results are looked at, the store of a data directory or
//! the page of a running Tidewatch.

use super::print;
use crate::config::{self, Config, Diagnostic, Overrides, Services, values};
use crate::exit::Failure;
use std::path::PathBuf;
use std::time::Duration;
use tidewatch_connectors::answers::{Answers, AnswersError};
use tidewatch_connectors::report::{self, Form, Wanted};
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::{EventTime, Millis};

/// How long a question of a report may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where results are looked at.
#[derive(Clone, Debug, clap::Args)]
pub struct PlaceArgs {
    /// Configuration, for its data_dir and its silences.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory whose store is read [default: the configured one, ./tidewatch-data].
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
    /// The page of a running Tidewatch to ask instead: http://127.0.0.1:8080/
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The page's token: text, or file:PATH [default: the environment's TIDEWATCH_TOKEN].
    #[arg(long, value_name = "TOKEN", requires = "url")]
    token: Option<String>,
    /// Authorities (PEM) to trust besides the system's, for https.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
}

/// A summary of an interval, compared with the interval before.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch report
  tidewatch report --since 24h --format html > yesterday.html
  tidewatch report --since 1h --until 2026-03-05T10:00:00Z --format json
  TIDEWATCH_TOKEN=… tidewatch report --url https://ops.example.org/tidewatch/")]
pub struct ReportArgs {
    /// How far back from the newest data.
    #[arg(long, value_name = "LENGTH", default_value = "1h", value_parser = length)]
    since: Millis,
    /// Count back from this time (RFC 3339, event time) instead.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<EventTime>,
    /// Only this host.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Its form.
    #[arg(long, value_name = "FORM", default_value = "text", value_parser = ["text", "html", "json"])]
    format: String,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Writes a report to standard output.
pub fn report(args: &ReportArgs) -> Result<(), Failure> {
    let form = Form::ALL.iter().find(|(word, _)| *word == args.format).map_or(Form::Text, |(_, form)| *form);
    let answers = open(&args.place, PATIENCE)?;
    let wanted = Wanted { since: args.since, until: args.until, host: args.host.clone(), durable: None };
    print(&report::gather(&*answers, &wanted, wall_clock())?.render(form))
}

/// Who answers, as the arguments say.
pub fn open(place: &PlaceArgs, patience: Duration) -> Result<Box<dyn Answers>, Failure> {
    if let Some(url) = &place.url {
        return page(place, url, patience);
    }
    // What it says of the data directory is given on the command line.
    if place.data_dir.is_none() {
        super::check::say_unused(place.config.as_deref());
    }
    let overrides = Overrides { data_dir: place.data_dir.clone(), services: Services::None, ..Overrides::default() };
    let config = config::load(place.config.as_deref(), &overrides)?;
    store(config, place.config.is_some(), patience)
}

fn store(config: Config, is_given: bool, patience: Duration) -> Result<Box<dyn Answers>, Failure> {
    let store = tidewatch_connectors::answers::FromStore::open(&config.data_dir, patience)?;
    Ok(Box::new(if is_given { store.with_silences(config.silences) } else { store }))
}

fn page(place: &PlaceArgs, url: &str, patience: Duration) -> Result<Box<dyn Answers>, Failure> {
    use tidewatch_connectors::answers::{ApiSettings, FromApi};
    let cannot = |flag: &str, why: String| Failure::from(Diagnostic::error(format!("{flag}: {why}")));
    let given = match &place.token {
        Some(token) => Some(token.clone()),
        None => std::env::var("TIDEWATCH_TOKEN").ok().filter(|token| !token.is_empty()),
    };
    let token = match given.as_deref().map(|token| (token.strip_prefix("file:"), token)) {
        None => None,
        Some((Some(path), _)) => {
            let text = std::fs::read_to_string(path).map_err(|error| cannot("--token", format!("{path}: {error}")))?;
            Some(values::Secret::new(text.trim_end()))
        }
        Some((None, token)) => Some(values::Secret::new(token)),
    };
    let read = |path: &PathBuf| std::fs::read(path).map_err(|e| cannot("--ca", format!("{}: {e}", path.shown())));
    let ca = place.ca.as_ref().map(read).transpose()?;
    Ok(Box::new(FromApi::new(&ApiSettings { url: url.to_owned(), token, ca, timeout: patience })?))
}

impl From<AnswersError> for Failure {
    fn from(error: AnswersError) -> Failure {
        match error {
            AnswersError::Usage(message) => Failure::usage(message),
            AnswersError::Refused(message) => Failure::refused(message),
            AnswersError::Failed(message) => Failure::failed(message),
        }
    }
}

/// A length of time on the command line.
pub fn length(text: &str) -> Result<Millis, String> {
    match values::parse_length(text) {
        Some(Millis(0)) => Err("the length is zero: write 15m, 1h, 7d".into()),
        Some(length) => Ok(length),
        None => Err("not a length of time: write 15m, 1h, 7d".into()),
    }
}

fn instant(text: &str) -> Result<EventTime, String> {
    let time = text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    time.map(EventTime).filter(|time| *time <= EventTime::MAX).ok_or("not a time: write 2026-03-05T10:00:00Z".into())
}
