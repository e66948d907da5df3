//! The fields of a body, taken one by one; what is left over is a mistake, and so is what stands twice.

use crate::error::ApiError;
use crate::params::shorten;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// JSON, as far as bodies have use for it. A field that stands twice is in it twice.
enum Json {
    Text(String),
    Whole(u64),
    Object(Vec<(String, Json)>),
    Null,
    /// Something else: what it is called.
    Other(&'static str),
}

impl Json {
    fn called(&self) -> &'static str {
        match self {
            Json::Text(_) => "a text",
            Json::Whole(_) => "a number",
            Json::Object(_) => "an object",
            Json::Null => "null",
            Json::Other(what) => what,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("JSON")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.to_owned()))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
                Ok(Json::Whole(number))
            }
            fn visit_i64<E: Error>(self, _: i64) -> Result<Json, E> {
                Ok(Json::Other("a negative number"))
            }
            fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
                Ok(Json::Other("no whole number"))
            }
            fn visit_bool<E: Error>(self, is: bool) -> Result<Json, E> {
                Ok(Json::Other(if is { "true" } else { "false" }))
            }
            fn visit_unit<E: Error>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Json, A::Error> {
                while all.next_element::<Json>()?.is_some() {}
                Ok(Json::Other("a list"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = all.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Fields of a body that were not taken yet.
pub struct Fields {
    left: Vec<(String, Json)>,
    known: Vec<&'static str>,
    /// What a right body looks like.
    example: &'static str,
}

impl Fields {
    /// Of a body.
    ///
    /// # Errors
    /// 400 where it is no object of JSON, or a field stands twice.
    pub fn new(body: &[u8], example: &'static str) -> Result<Fields, ApiError> {
        if body.trim_ascii().is_empty() {
            return Err(ApiError::bad_request(format!("the body is missing: send JSON, such as {example}")));
        }
        let left = match serde_json::from_slice(body) {
            Ok(Json::Object(fields)) => fields,
            Ok(other) => {
                let message = format!("the body is {}: expected an object, such as {example}", other.called());
                return Err(ApiError::bad_request(message));
            }
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let message = format!("the body is no JSON from line {line}, column {column} on: send {example}");
                return Err(ApiError::bad_request(message));
            }
        };
        once("field", &left)?;
        Ok(Fields { left, known: Vec::new(), example })
    }

    fn take(&mut self, key: &'static str) -> Option<Json> {
        self.known.push(key);
        let at = self.left.iter().position(|(k, _)| k == key)?;
        Some(self.left.swap_remove(at).1).filter(|value| !matches!(value, Json::Null))
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(key) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, &other, "a text")),
        }
    }

    /// A time, ms since the epoch.
    pub fn time(&mut self, key: &'static str) -> Result<Option<u64>, ApiError> {
        match self.take(key) {
            None => Ok(None),
            Some(Json::Whole(number)) => Ok(Some(number)),
            Some(other) => Err(wrong(key, &other, "a time in milliseconds since the epoch")),
        }
    }

    /// An object of texts.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<BTreeMap<String, String>>, ApiError> {
        let what = "an object of texts";
        let all = match self.take(key) {
            None => return Ok(None),
            Some(Json::Object(all)) => all,
            Some(other) => return Err(wrong(key, &other, what)),
        };
        once(&format!("in `{key}`, field"), &all)?;
        let texts = all.into_iter().map(|(field, value)| match value {
            Json::Text(text) => Ok((field, text)),
            other => Err(ApiError::bad_request(format!(
                "in `{key}`, {:?} is {}: expected a text",
                shorten(&field),
                other.called()
            ))),
        });
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// Something that must be there.
    pub fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::bad_request(format!("`{key}` is missing: send JSON, such as {}", self.example)))
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), ApiError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => {
                let message = format!("there is no field {:?}; this takes {}", shorten(key), self.known.join(", "));
                Err(ApiError::bad_request(message))
            }
        }
    }
}

fn once(what: &str, all: &[(String, Json)]) -> Result<(), ApiError> {
    let mut names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(ApiError::bad_request(format!("{what} {:?} stands twice", shorten(pair[0])))),
    }
}

fn wrong(key: &str, found: &Json, what: &str) -> ApiError {
    ApiError::bad_request(format!("`{key}` is {}: expected {what}", found.called()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        // body, part of the message; none: it is right
        let rows: &[(&str, Option<&str>)] = &[
            (r#"{"until":1}"#, None),
            (r#"{"until":1,"text":null,"texts":{}}"#, None),
            (r#"{"until":1,"text":"a","texts":{"a":"b","b":"b"}}"#, None),
            ("", Some("the body is missing: send JSON, such as {…}")),
            (" \n", Some("the body is missing")),
            ("7", Some("the body is a number: expected an object, such as {…}")),
            ("-7", Some("the body is a negative number")),
            ("[1]", Some("the body is a list")),
            ("null", Some("the body is null")),
            (r#"{"until":1"#, Some("the body is no JSON from line 1, column 10 on: send {…}")),
            ("{\"until\":\u{1}}", Some("the body is no JSON from line 1")),
            ("{}", Some("`until` is missing: send JSON, such as {…}")),
            (r#"{"until":"1"}"#, Some("`until` is a text: expected a time in milliseconds")),
            (r#"{"until":1.5}"#, Some("`until` is no whole number: expected a time")),
            (r#"{"until":18446744073709551616}"#, Some("`until` is no whole number: expected a time")),
            (r#"{"until":1,"text":true}"#, Some("`text` is true: expected a text")),
            (r#"{"until":1,"texts":[]}"#, Some("`texts` is a list: expected an object of texts")),
            (r#"{"until":1,"texts":{"a":1}}"#, Some(r#"in `texts`, "a" is a number: expected a text"#)),
            (r#"{"until":1,"texts":{"a":"b","a":"b"}}"#, Some(r#"in `texts`, field "a" stands twice"#)),
            (r#"{"until":1,"until":1}"#, Some(r#"field "until" stands twice"#)),
            (r#"{"until":1,"till":1}"#, Some(r#"there is no field "till"; this takes text, until, texts"#)),
        ];
        for (body, want) in rows {
            let read = || -> Result<(), ApiError> {
                let mut fields = Fields::new(body.as_bytes(), "{…}")?;
                fields.text("text")?;
                let until = fields.time("until")?;
                fields.texts("texts")?;
                fields.needed("until", until)?;
                fields.end()
            };
            match (read(), want) {
                (Ok(()), None) => {}
                (Err(error), Some(want)) => {
                    assert!(format!("{error:?}").contains(&want.replace('"', "\\\"")), "{body}: {error:?}")
                }
                (found, _) => panic!("{body}: {found:?}"),
            }
        }
        let deep = "[".repeat(1000);
        assert!(Fields::new(deep.as_bytes(), "{…}").is_err(), "no stack runs over");
        assert!(Fields::new(b"{\"a\":\"\xff\"}", "{…}").is_err(), "no UTF-8");
    }
}
