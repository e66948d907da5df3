//! Values of flags: each is read by one function, which names what it found and shows an example.

use super::dist::Spread;
use super::rate::Peak;
use super::spec::{AttackKind, AttackSpec, ClassSpec, SpecError};
use tidewatch_events::time::{EventTime, days_from_civil};

fn not(found: &str, what: &'static str, example: &'static str) -> SpecError {
    SpecError::Value { found: found.to_owned(), what, example }
}

/// A length of time in ms: `500ms`, `30s`, `5m`, `1h`, `2d`.
pub fn length(text: &str) -> Result<u64, SpecError> {
    let wrong = || not(text, "a length of time", "a number and a unit, for example 500ms, 30s, 5m or 1h");
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let unit_us = match &text[at..] {
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(wrong()),
    };
    let us = thousandths(&text[..at]).and_then(|n| n.checked_mul(unit_us)).ok_or_else(wrong)? / 1000;
    // A century is longer than anybody generates, and keeps every sum far from overflow.
    if us / 1000 > 100 * 365 * 86_400_000 { Err(wrong()) } else { Ok(us / 1000) }
}

/// The same, above zero.
pub fn positive_length(text: &str) -> Result<u64, SpecError> {
    match length(text)? {
        0 => Err(not(text, "a length of time above zero", "a number and a unit, for example 500ms, 30s or 5m")),
        ms => Ok(ms),
    }
}

/// A decimal number in thousandths: `12`, `0.5`.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && part.is_empty() || !(whole.bytes().chain(part.bytes())).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    whole.checked_mul(1000)?.checked_add(part.parse().ok()?)
}

/// The highest rate: ten million lines a second.
const MAX_MILLI_RATE: u64 = 10_000_000_000;

/// `--rate`: lines per second, in thousandths.
pub fn rate(text: &str) -> Result<u64, SpecError> {
    thousandths(text)
        .filter(|rate| *rate <= MAX_MILLI_RATE)
        .ok_or_else(|| not(text, "a rate up to 10000000", "lines per second, for example 1000 or 0.5"))
}

/// `--peak N:EVERY:FOR`.
pub fn peak(text: &str) -> Result<Peak, SpecError> {
    let example = "lines per second, how often, how long, for example 50000:60s:5s";
    let wrong = || not(text, "a peak", example);
    let [n, every, lasting] = text.split(':').collect::<Vec<_>>().try_into().map_err(|_| wrong())?;
    let peak = Peak { milli_rate: rate(n)?, every_ms: positive_length(every)?, lasting_ms: positive_length(lasting)? };
    if peak.lasting_ms >= peak.every_ms {
        return Err(not(text, "a peak (it must be shorter than the distance between two)", example));
    }
    if peak.milli_rate == 0 { Err(wrong()) } else { Ok(peak) }
}

/// `--clients N:DIST` or `N`.
pub fn clients(text: &str) -> Result<(u32, Spread), SpecError> {
    let wrong = || {
        not(
            text,
            "a number of clients and how requests spread over them",
            "for example 5000:binomial, 500:zipf or 100000:uniform",
        )
    };
    let (n, spread) = text.split_once(':').unwrap_or((text, "binomial"));
    let spread = match spread {
        "binomial" => Spread::Binomial,
        "zipf" => Spread::Zipf,
        "uniform" => Spread::Uniform,
        _ => return Err(wrong()),
    };
    let n: u32 = n.parse().map_err(|_| wrong())?;
    if n == 0 {
        return Err(wrong());
    }
    let most = if spread == Spread::Uniform { 100_000_000 } else { 5_000_000 };
    if n > most {
        return Err(SpecError::Together(format!(
            "{n} clients are too many: at most {most} with this distribution (uniform takes 100000000)"
        )));
    }
    Ok((n, spread))
}

/// `--status-mix 200:90,404:8,500:2`: weights, or percentages where every share ends in `%` (they must make 100).
pub fn status_mix(text: &str) -> Result<Vec<(u16, u32)>, SpecError> {
    let example = "status:weight pairs, for example 200:90,304:5,404:4,500:1";
    let wrong = || not(text, "a status mix", example);
    let (mut mix, mut percent) = (Vec::<(u16, u32)>::new(), 0);
    for pair in text.split(',') {
        let (status, weight) = pair.trim().split_once(':').ok_or_else(wrong)?;
        let status: u16 = status.trim().parse().map_err(|_| wrong())?;
        if !(100..=599).contains(&status) {
            return Err(not(text, "a status mix (a status is a number from 100 to 599)", example));
        }
        if mix.iter().any(|(s, _)| *s == status) {
            return Err(SpecError::Together(format!("status {status} is given twice in {text:?}; write {example}")));
        }
        let weight = weight.trim();
        percent += u32::from(weight.ends_with('%'));
        let weight = thousandths(weight.trim_end_matches('%')).ok_or_else(wrong)?;
        mix.push((status, u32::try_from(weight).map_err(|_| wrong())?));
    }
    let total: u64 = mix.iter().map(|(_, w)| u64::from(*w)).sum();
    if total == 0 {
        return Err(not(text, "a status mix (all weights are zero)", example));
    }
    if percent > 0 && (percent as usize != mix.len() || total != 100_000) {
        return Err(SpecError::Together(format!(
            "the percentages of {text:?} make {}.{:03} %, not 100 %; write weights without % to have them scaled",
            total / 1000,
            total % 1000
        )));
    }
    Ok(mix)
}

/// `--class NAME:LEVEL:MIN..MAX[:MESSAGE]`.
pub fn class(text: &str) -> Result<ClassSpec, SpecError> {
    let wrong = || not(text, "a message class", "NAME:LEVEL:MIN..MAX[:MESSAGE], for example db-timeout:error:5s..60s");
    let mut parts = text.splitn(4, ':');
    let (name, level) = (parts.next().unwrap_or(""), parts.next().ok_or_else(wrong)?);
    let (min, max) = parts.next().and_then(|range| range.split_once("..")).ok_or_else(wrong)?;
    let level = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(level))
        .ok_or_else(|| {
            not(text, "a message class (unknown level)", "one of emerg, alert, crit, error, warn, notice, info, debug")
        })?;
    let (min_ms, max_ms) = (positive_length(min)?, positive_length(max)?);
    let message = parts.next().map_or_else(|| name.replace(['-', '_'], " "), str::to_owned);
    if name.is_empty() || message.is_empty() || message.bytes().any(|b| b < 0x20) {
        return Err(wrong());
    }
    if min_ms > max_ms {
        return Err(not(text, "a message class (MIN is more than MAX)", "for example db-timeout:error:5s..60s"));
    }
    Ok(ClassSpec { name: name.to_owned(), level, min_ms, max_ms, message })
}

/// `--attack KIND:AT:FOR[:key=value…]`.
pub fn attack(text: &str) -> Result<AttackSpec, SpecError> {
    let example = "KIND:AT:FOR[:key=value], for example ip-spike:30s:20s or error-surge:1m:2m:host=web2:share=40%";
    let wrong = |what| not(text, what, example);
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or("");
    let (kind, _, keys) = AttackKind::ALL.into_iter().find(|(_, known, _)| *known == name).ok_or_else(|| {
        let names = AttackKind::ALL.map(|(_, name, _)| name).join(", ");
        SpecError::Together(format!("{name:?} is no kind of attack; write {example}; the kinds are {names}"))
    })?;
    let (Some(at), Some(lasting)) = (parts.next(), parts.next()) else { return Err(wrong("an attack")) };
    let mut spec = AttackSpec {
        kind,
        at_ms: length(at)?,
        for_ms: positive_length(lasting)?,
        milli_rate: None,
        clients: None,
        paths: None,
        host: None,
        share: None,
        bytes: None,
    };
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| wrong("an attack (after FOR come key=value pairs)"))?;
        if !keys.contains(&key) {
            return Err(SpecError::Together(format!("{name} takes no {key:?}; its keys are {}", keys.join(", "))));
        }
        let number = || value.parse::<u32>().ok().filter(|n| *n > 0);
        match key {
            "rate" => spec.milli_rate = Some(rate(value)?).filter(|r| *r > 0),
            "clients" => {
                spec.clients = Some(number().ok_or_else(|| wrong("an attack (clients is a whole number above 0)"))?);
            }
            "paths" => {
                spec.paths = Some(number().ok_or_else(|| wrong("an attack (paths is a whole number above 0)"))?);
            }
            "bytes" => spec.bytes = Some(value.parse().map_err(|_| wrong("an attack (bytes is a whole number)"))?),
            "share" => {
                let millionths = match value.strip_suffix('%') {
                    Some(percent) => thousandths(percent).and_then(|n| n.checked_mul(10)),
                    None => thousandths(value).and_then(|n| n.checked_mul(1000)),
                };
                spec.share = Some(
                    millionths
                        .filter(|n| (1..=1_000_000).contains(n))
                        .and_then(|n| u32::try_from(n).ok())
                        .ok_or_else(|| wrong("an attack (share is above 0 % and at most 100 %)"))?,
                );
            }
            _ => spec.host = Some(value.to_owned()),
        }
        if key == "rate" && spec.milli_rate.is_none() {
            return Err(wrong("an attack (its rate is above 0)"));
        }
    }
    Ok(spec)
}

/// `--skew PARTITION:OFFSET`, the offset with a sign.
pub fn skew(text: &str) -> Result<(u32, i64), SpecError> {
    let wrong = || not(text, "a skew", "PARTITION:OFFSET, for example 0:-1h or 2:+90s");
    let (partition, offset) = text.split_once(':').ok_or_else(wrong)?;
    let (sign, offset) = match offset.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, offset.strip_prefix('+').unwrap_or(offset)),
    };
    let ms = i64::try_from(length(offset).map_err(|_| wrong())?).map_err(|_| wrong())?;
    Ok((partition.parse().map_err(|_| wrong())?, sign * ms))
}

/// `--start TIME`: RFC 3339, or a date.
pub fn start(text: &str) -> Result<EventTime, SpecError> {
    parse_time(text).ok_or_else(|| {
        not(text, "a time", "RFC 3339, for example 2026-03-05T10:00:00Z or 2026-03-05T12:00:00.500+02:00")
    })
}

fn parse_time(text: &str) -> Option<EventTime> {
    let digits = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let at = |i: usize, allowed: &[u8]| text.as_bytes().get(i).is_some_and(|b| allowed.contains(b));
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !at(4, b"-") || !at(7, b"-") || !(1..=12).contains(&month) || !(1..=month_days).contains(&day) || year < 1970 {
        return None;
    }
    let days = u64::try_from(days_from_civil(year as i64, month as u32, day as u32)).ok()?;
    let mut ms = i64::try_from(days * 86_400_000).ok()?;
    if text.len() > 10 {
        let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
        if !at(10, b"Tt ") || !at(13, b":") || !at(16, b":") || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        ms += i64::try_from((hour * 3600 + minute * 60 + second) * 1000).ok()?;
        let mut zone = &text[19..];
        if let Some(fraction) = zone.strip_prefix('.') {
            let len = fraction.find(|c: char| !c.is_ascii_digit())?;
            let first: String = fraction[..len].chars().chain("000".chars()).take(3).collect();
            ms += first.parse::<i64>().ok().filter(|_| len > 0)?;
            zone = &fraction[len..];
        }
        if zone != "Z" && zone != "z" {
            let sign = if zone.starts_with('-') { -1 } else { i64::from(zone.starts_with('+')) };
            let begin = text.len() - zone.len() + 1;
            let (hours, minutes) = (digits(begin, begin + 2)?, digits(begin + 3, begin + 5)?);
            if sign == 0 || zone.len() != 6 || !at(begin + 2, b":") || hours > 23 || minutes > 59 {
                return None;
            }
            ms -= sign * i64::try_from((hours * 60 + minutes) * 60_000).ok()?;
        }
    }
    u64::try_from(ms).ok().map(EventTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        for (text, want) in
            [("500ms", 500), ("1.5s", 1500), ("0s", 0), ("5m", 300_000), ("1h", 3_600_000), ("2d", 172_800_000)]
        {
            assert_eq!(length(text), Ok(want), "{text}");
        }
        for (text, want) in [("1000", 1_000_000), ("0.5", 500), ("10000000", MAX_MILLI_RATE), ("0", 0)] {
            assert_eq!(rate(text), Ok(want), "{text}");
        }
        assert_eq!(peak("50000:60s:5s"), Ok(Peak { milli_rate: 50_000_000, every_ms: 60_000, lasting_ms: 5_000 }));
        assert_eq!(clients("500:zipf"), Ok((500, Spread::Zipf)));
        assert_eq!(clients("7"), Ok((7, Spread::Binomial)));
        assert_eq!(status_mix("200:90, 404:9.5,500:0.5"), Ok(vec![(200, 90_000), (404, 9_500), (500, 500)]));
        assert_eq!(status_mix("200:99.5%,500:0.5%"), Ok(vec![(200, 99_500), (500, 500)]));
        assert_eq!(skew("1:-1h"), Ok((1, -3_600_000)));
        let timeout = class("db-timeout:ERROR:5s..60s").unwrap();
        assert_eq!(
            (timeout.level, timeout.min_ms, timeout.max_ms, &*timeout.message),
            ("error", 5000, 60_000, "db timeout")
        );
        assert_eq!(class("x:warn:1s..1s:disk: 91 % full").unwrap().message, "disk: 91 % full");
        let surge = attack("error-surge:1m:30s:host=web2:share=40%").unwrap();
        assert_eq!(
            (surge.at_ms, surge.for_ms, surge.host.as_deref(), surge.share),
            (60_000, 30_000, Some("web2"), Some(400_000))
        );
        assert_eq!(attack("error-surge:0s:1s:share=0.4").unwrap().share, Some(400_000));
        for (text, want) in [
            ("2026-03-05T10:00:00Z", 1_772_704_800_000),
            ("2026-03-05T12:00:00.5+02:00", 1_772_704_800_500),
            ("2026-03-05 05:30:00-04:30", 1_772_704_800_000),
            ("2026-03-05", 1_772_668_800_000),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(start(text), Ok(EventTime(want)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        type Read = fn(&str) -> Option<SpecError>;
        let rows: &[(Read, &[&str])] = &[
            (|t| length(t).err(), &["", "5", "5 parsecs", "-1s", "s", "99999999999999999999s", "1e3s", "101000d"]),
            (|t| rate(t).err(), &["", "fast", "-1", "10000001", "1.2.3", "."]),
            (|t| peak(t).err(), &["", "100", "100:5s", "100:5s:5s", "0:5s:1s", "100:5s:0s", "100:5s:1s:1s"]),
            (|t| clients(t).err(), &["", "0:zipf", "10:pareto", "zipf", "5000001:zipf", "100000001:uniform"]),
            (
                |t| status_mix(t).err(),
                &["", "200", "200:x", "99:1", "600:1", "200:0", "200:1,200:1", "200:50%,404:49%", "200:50%,404:50"],
            ),
            (
                |t| class(t).err(),
                &["", "a:error", "a:loud:1s..2s", "a:error:2s..1s", "a:error:0s..1s", ":error:1s..2s"],
            ),
            (
                |t| attack(t).err(),
                &[
                    "",
                    "ip-spike",
                    "ip-spike:1s",
                    "flood:1s:1s",
                    "ip-spike:1s:0s",
                    "ip-spike:1s:1s:x",
                    "ip-spike:1s:1s:host=a",
                    "ip-spike:1s:1s:rate=0",
                    "error-surge:1s:1s:share=0",
                    "error-surge:1s:1s:share=101%",
                    "dark-paths:0s:1s:clients=0",
                ],
            ),
            (|t| skew(t).err(), &["", "1", "x:1h", "1:h", "1:--1h"]),
            (
                |t| start(t).err(),
                &[
                    "",
                    "now",
                    "2026-02-29",
                    "2026-13-01",
                    "1969-12-31",
                    "2026-03-05T25:00:00Z",
                    "2026-03-05T10:00:00",
                    "2026-03-05T10:00:00.Z",
                    "2026-03-05T10:00:00+0200",
                    "2026-03-05T10:00:00é",
                ],
            ),
        ];
        for (read, bad) in rows {
            for text in *bad {
                let error = read(text).unwrap_or_else(|| panic!("{text:?} was accepted")).to_string();
                assert!(error.len() > 20 && !error.ends_with('.'), "{error}");
            }
        }
    }
}
