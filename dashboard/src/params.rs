//! The parameters of a query, taken one by one; what is left over is a mistake.

use crate::error::ApiError;
use std::str::FromStr;

/// The latest time that may be asked for: the end of the year 9999, ms.
const MAX_TIME: u64 = 253_402_300_799_999;

/// The longest text to look for, bytes.
const MAX_TEXT: usize = 1024;

/// A query, as far as it was not taken.
pub struct Params {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Params {
    /// Of the part of a URL behind `?`.
    ///
    /// # Errors
    /// 400 where a parameter stands twice or is too long.
    pub fn new(query: Option<&str>) -> Result<Params, ApiError> {
        let mut left: Vec<(String, String)> = Vec::new();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if left.iter().any(|(other, _)| *other == key) {
                return Err(ApiError::bad_request(format!("parameter {:?} stands twice", shorten(&key))));
            }
            if value.len() > MAX_TEXT {
                let message = format!("parameter {:?} is longer than {MAX_TEXT} bytes", shorten(&key));
                return Err(ApiError::bad_request(message));
            }
            left.push((key.into_owned(), value.into_owned()));
        }
        Ok(Params { left, known: Vec::new() })
    }

    /// A text; an empty one is none.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        let at = self.left.iter().position(|(k, _)| k == key)?;
        Some(self.left.swap_remove(at).1).filter(|value| !value.is_empty())
    }

    /// A text that must be there.
    pub fn needed(&mut self, key: &'static str, what: &str) -> Result<String, ApiError> {
        self.text(key).ok_or_else(|| ApiError::bad_request(format!("`{key}` is missing: {what}")))
    }

    /// Something that has a form.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, what: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| wrong(key, &text, what))
    }

    /// A time, ms since the epoch.
    pub fn time(&mut self, key: &'static str) -> Result<Option<u64>, ApiError> {
        let what = "a time in milliseconds since the epoch";
        match self.parsed::<u64>(key, what)? {
            Some(time) if time > MAX_TIME => Err(wrong(key, &time.to_string(), what)),
            time => Ok(time),
        }
    }

    /// A number within bounds.
    pub fn number(&mut self, key: &'static str, least: u64, most: u64) -> Result<Option<u64>, ApiError> {
        let what = format!("a whole number from {least} to {most}");
        match self.parsed::<u64>(key, &what)? {
            Some(number) if !(least..=most).contains(&number) => Err(wrong(key, &number.to_string(), &what)),
            number => Ok(number),
        }
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(wrong(key, &text, &format!("one of {}", words.join(", "))))
            }
        }
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), ApiError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => {
                let known = match self.known.is_empty() {
                    true => "this takes none".to_owned(),
                    false => format!("this takes {}", self.known.join(", ")),
                };
                Err(ApiError::bad_request(format!("there is no parameter {:?}; {known}", shorten(key))))
            }
        }
    }
}

fn wrong(key: &str, found: &str, what: &str) -> ApiError {
    ApiError::bad_request(format!("{key}={:?}: expected {what}", shorten(found)))
}

/// As much of what was sent as a message shows.
pub fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        // query, part of the message; none: it is right
        let rows: &[(&str, Option<&str>)] = &[
            ("", None),
            ("from=0&limit=1&kind=a", None),
            ("from=253402300799999", None),
            ("from=253402300800000", Some("from=\"253402300800000\": expected a time")),
            ("from=-1", Some("milliseconds")),
            ("from=1.5", Some("milliseconds")),
            ("from=18446744073709551616", Some("milliseconds")),
            ("from=", None),
            ("limit=0", Some("from 1 to 10")),
            ("limit=11", Some("from 1 to 10")),
            ("kind=c", Some("one of a, b")),
            ("from=1&from=2", Some("stands twice")),
            ("form=1", Some("there is no parameter \"form\"; this takes from, limit, kind")),
            ("%66rom=1", None),
            ("x=%ff%00", Some("no parameter")),
        ];
        for (query, want) in rows {
            let read = || -> Result<(), ApiError> {
                let mut params = Params::new(Some(query))?;
                params.time("from")?;
                params.number("limit", 1, 10)?;
                params.choice("kind", &[("a", 0), ("b", 1)])?;
                params.end()
            };
            match (read(), want) {
                (Ok(()), None) => {}
                (Err(error), Some(want)) => {
                    assert!(format!("{error:?}").contains(&want.replace('"', "\\\"")), "{query}: {error:?}")
                }
                (found, _) => panic!("{query}: {found:?}"),
            }
        }
        assert!(Params::new(Some(&format!("text={}", "x".repeat(MAX_TEXT + 1)))).is_err());
    }
}
