//! `kafka://BROKERS/TOPIC[@RANGE]`: a topic, or a part of one, to be read from one end to the other.

use crate::cli::options::TopicRange;
use crate::config::{Diagnostic, reader::parse_date};
use std::collections::BTreeMap;
use tidewatch_connectors::kafka::{KafkaSettings, KafkaSettingsError, Offsets, Range};
use tidewatch_events::batch::WallTime;
use tidewatch_events::text;

/// How a topic is named on the command line.
pub const SCHEME: &str = "kafka://";

const FORM: &str =
    "write kafka://HOST:PORT/TOPIC, several brokers as HOST:PORT,HOST:PORT; a part of the topic as …/TOPIC@FROM..UNTIL";
const TIMES: &str = "write times as @2026-03-05T10:00:00Z..2026-03-05T11:00:00Z (or dates; either may be missing, UNTIL itself is \
                     not read), or offsets of partitions as @0:100..200,1:5..";

/// Reads one; the text begins with [`SCHEME`].
///
/// # Errors
/// What is wrong with it, and how it is written.
pub fn parse(given: &str) -> Result<TopicRange, Box<Diagnostic>> {
    let shown = text::printable(given.as_bytes());
    let wrong = |what: String, hint: &str| Box::new(Diagnostic::error(format!("{shown}: {what}")).hint(hint));
    let rest = given.strip_prefix(SCHEME).unwrap_or(given);
    let Some((brokers, rest)) = rest.split_once('/') else {
        return Err(wrong("it names no topic".into(), FORM));
    };
    let (topic, range) = rest.split_once('@').map_or((rest, None), |(topic, range)| (topic, Some(range)));
    let settings = KafkaSettings::for_topic(brokers, topic).map_err(|error| {
        let what = match error {
            KafkaSettingsError::Broker { found } => format!("{found:?} is not a broker"),
            KafkaSettingsError::Topic { found } if found.is_empty() => "it names no topic".into(),
            KafkaSettingsError::Topic { found } => format!("{found:?} is not the name of a topic"),
            other => other.to_string(),
        };
        wrong(what, FORM)
    })?;
    let range = range.map_or(Ok(Range::WHOLE), |range| self::range(range).map_err(|what| wrong(what, TIMES)))?;
    Ok(TopicRange { brokers: settings.brokers().to_owned(), topic: topic.to_owned(), range })
}

fn range(text: &str) -> Result<Range, String> {
    let (first, _) = text.split_once("..").ok_or_else(|| format!("{text:?} is not a range: it has no `..`"))?;
    // A time has a colon too, but not behind digits alone.
    let is_partition = |text: &str| text.split_once(':').is_some_and(|(number, _)| is_number(number));
    match is_partition(first) {
        true => offsets(text),
        false => times(text),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn times(text: &str) -> Result<Range, String> {
    let time = |text: &str| match text {
        "" => Ok(None),
        text => parse_date(text).map(|time| Some(WallTime(time.0))).ok_or_else(|| format!("{text:?} is not a time")),
    };
    let (from, until) = text.split_once("..").unwrap_or((text, ""));
    let (from, until) = (time(from)?, time(until)?);
    match (from, until) {
        (Some(from), Some(until)) if from >= until => Err(format!("{text:?} ends before it begins")),
        _ => Ok(Range::Times { from, until }),
    }
}

fn offsets(text: &str) -> Result<Range, String> {
    let mut all = BTreeMap::new();
    for one in text.split(',') {
        let form = || format!("{one:?} is not PARTITION:FROM..UNTIL");
        let number = |text: &str| match text {
            "" => Ok(None),
            text if is_number(text) => text.parse::<u64>().map(Some).map_err(|_| form()),
            _ => Err(form()),
        };
        let (partition, range) = one.split_once(':').ok_or_else(form)?;
        let partition: i32 = partition.parse().ok().filter(|_| is_number(partition)).ok_or_else(form)?;
        let (from, until) = range.split_once("..").ok_or_else(form)?;
        let offsets = Offsets { from: number(from)?, until: number(until)? };
        if let (Some(from), Some(until)) = (offsets.from, offsets.until)
            && from >= until
        {
            return Err(format!("{one:?} ends before it begins"));
        }
        if all.insert(partition, offsets).is_some() {
            return Err(format!("partition {partition} is named twice"));
        }
    }
    Ok(Range::Offsets(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_and_a_part_of_it() {
        let at = |time: &str| Some(WallTime(parse_date(time).unwrap().0));
        let times = |from: Option<&str>, until: Option<&str>| Range::Times {
            from: from.and_then(at),
            until: until.and_then(at),
        };
        let offsets = |all: &[(i32, Option<u64>, Option<u64>)]| {
            Range::Offsets(
                all.iter()
                    .map(|(partition, from, until)| (*partition, Offsets { from: *from, until: *until }))
                    .collect(),
            )
        };
        let (ten, eleven) = ("2026-03-05T10:00:00Z", "2026-03-05T11:00:00+01:00");
        let rows = [
            ("", Range::WHOLE),
            ("@..", Range::WHOLE),
            ("@2026-03-05T10:00:00Z..", times(Some(ten), None)),
            ("@..2026-03-05T11:00:00+01:00", times(None, Some(eleven))),
            ("@2026-03-05..2026-03-06T10:00:00.5Z", times(Some("2026-03-05"), Some("2026-03-06T10:00:00.500Z"))),
            ("@0:100..200,1:5..", offsets(&[(0, Some(100), Some(200)), (1, Some(5), None)])),
            ("@3:..", offsets(&[(3, None, None)])),
            ("@3:..7", offsets(&[(3, None, Some(7))])),
        ];
        for (text, want) in rows {
            let found = parse(&format!("kafka://a:1,[::1]:2/web-logs{text}")).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((found.brokers.as_str(), found.topic.as_str()), ("a:1,[::1]:2", "web-logs"), "{text}");
            assert_eq!(found.range, want, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_said_with_what_is_right() {
        let rows = [
            ("kafka://a:1", "it names no topic", FORM),
            ("kafka://a:1/", "it names no topic", FORM),
            ("kafka:///t", "\"\" is not a broker", FORM),
            ("kafka://a/t", "\"a\" is not a broker", FORM),
            ("kafka://a:1/t/u", "\"t/u\" is not the name of a topic", FORM),
            ("kafka://a:1/^t", "\"^t\" is not the name of a topic", FORM),
            ("kafka://a:1/t@", "\"\" is not a range: it has no `..`", TIMES),
            ("kafka://a:1/t@2026-03-05", "\"2026-03-05\" is not a range: it has no `..`", TIMES),
            ("kafka://a:1/t@yesterday..", "\"yesterday\" is not a time", TIMES),
            ("kafka://a:1/t@2026-03-05T10:00:00..", "\"2026-03-05T10:00:00\" is not a time", TIMES),
            ("kafka://a:1/t@2026-03-06..2026-03-05", "\"2026-03-06..2026-03-05\" ends before it begins", TIMES),
            ("kafka://a:1/t@2026-03-05..2026-03-05", "\"2026-03-05..2026-03-05\" ends before it begins", TIMES),
            ("kafka://a:1/t@10:00..11:00", "\"10:00..11:00\" is not PARTITION:FROM..UNTIL", TIMES),
            ("kafka://a:1/t@0:1..2,1", "\"1\" is not PARTITION:FROM..UNTIL", TIMES),
            ("kafka://a:1/t@0:2..2", "\"0:2..2\" ends before it begins", TIMES),
            ("kafka://a:1/t@0:1..,0:2..", "partition 0 is named twice", TIMES),
            ("kafka://a:1/t@9999999999:1..", "\"9999999999:1..\" is not PARTITION:FROM..UNTIL", TIMES),
            (
                "kafka://a:1/t@0:99999999999999999999..",
                "\"0:99999999999999999999..\" is not PARTITION:FROM..UNTIL",
                TIMES,
            ),
            ("kafka://a:1/t\x1b[m@..", "is not the name of a topic", FORM),
        ];
        for (text, what, hint) in rows {
            let said = parse(text).err().unwrap_or_else(|| panic!("{text}")).to_string();
            assert!(said.contains(what) && said.contains(hint), "{text}: {said}");
            assert!(!said.contains('\x1b'), "{text}: {said:?}");
        }
    }
}
