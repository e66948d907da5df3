//! The body of a request that changes something: a small JSON object, in which nothing is unknown and nothing stands twice.

use crate::app::App;
use crate::error::ApiError;
use axum::body::{Body, HttpBody};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use tidewatch_events::text;

/// Reads a body; `example` shows what to send to whoever sends something else.
///
/// # Errors
/// 413 where it is too large, 400 where it cannot be used.
pub async fn read<T: DeserializeOwned>(app: &App, body: Body, example: &'static str) -> Result<T, ApiError> {
    let most = app.settings.limits.body;
    if body.size_hint().lower() > most as u64 {
        return Err(ApiError::too_large(most));
    }
    let bytes = axum::body::to_bytes(body, most).await.map_err(|_| ApiError::too_large(most))?;
    parse(&bytes, example)
}

fn parse<T: DeserializeOwned>(body: &[u8], example: &'static str) -> Result<T, ApiError> {
    let found = match body.trim_ascii().first() {
        None => Err("is missing".to_owned()),
        // Serde would take a list for the fields in their order.
        Some(start) if *start != b'{' => Err("is not an object".to_owned()),
        Some(_) => serde_json::from_slice(body)
            .map_err(|error| format!("cannot be used: {}", text::bounded(error.to_string().as_bytes()))),
    };
    found.map_err(|wrong| ApiError::bad_request(format!("the body {wrong}; send JSON, such as {example}")))
}

/// A time, ms since the epoch.
pub fn time<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    u64::deserialize(from).map_err(|_| D::Error::custom("expected a time in milliseconds since the epoch"))
}

/// An object of texts, or none.
pub fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // it is read, no more
    struct Sent {
        text: Option<String>,
        #[serde(deserialize_with = "time")]
        until: u64,
        #[serde(default, deserialize_with = "texts")]
        texts: Option<BTreeMap<String, String>>,
    }

    #[test]
    fn what_is_wrong_is_said() {
        // body, part of the message; none: it is right
        let rows: &[(&str, Option<&str>)] = &[
            (r#"{"until":1}"#, None),
            (" {\"until\":1}\n", None),
            (r#"{"until":1,"text":null,"texts":null}"#, None),
            (r#"{"until":1,"text":"a","texts":{"a":"b","b":"b"}}"#, None),
            ("", Some("the body is missing; send JSON, such as {…}")),
            (" \n", Some("the body is missing")),
            ("7", Some("the body is not an object; send JSON, such as {…}")),
            (r#"["a",1,null]"#, Some("the body is not an object")),
            ("null", Some("the body is not an object")),
            (
                r#"{"until":1"#,
                Some("the body cannot be used: EOF while parsing an object at line 1 column 10; send JSON"),
            ),
            ("{\"until\":\u{1}}", Some("line 1 column")),
            (r#"{"until":1} {}"#, Some("trailing characters")),
            ("{}", Some("missing field `until`")),
            (r#"{"until":"1"}"#, Some("expected a time in milliseconds since the epoch at line 1 column")),
            (r#"{"until":1.5}"#, Some("expected a time")),
            (r#"{"until":-1}"#, Some("expected a time")),
            (r#"{"until":18446744073709551616}"#, Some("expected a time")),
            (r#"{"until":1,"text":true}"#, Some("boolean `true`, expected a string")),
            (r#"{"until":1,"texts":[]}"#, Some("sequence, expected an object of texts")),
            (r#"{"until":1,"texts":{"a":1}}"#, Some("integer `1`, expected a string")),
            (r#"{"until":1,"texts":{"a":"b","a":"b"}}"#, Some("duplicate field `a` at line 1 column")),
            (r#"{"until":1,"until":1}"#, Some("duplicate field `until`")),
            (r#"{"until":1,"till":1}"#, Some("unknown field `till`, expected one of `text`, `until`, `texts`")),
            ("{\"\\u001b[2J\":1}", Some("unknown field `\\x1B[2J`")),
        ];
        for (body, want) in rows {
            match (parse::<Sent>(body.as_bytes(), "{…}"), want) {
                (Ok(_), None) => {}
                (Err(error), Some(want)) => {
                    let error = format!("{error:?}");
                    assert!(error.contains(&want.escape_debug().to_string()), "{body}: {error}")
                }
                (found, _) => panic!("{body}: {found:?}"),
            }
        }
        let deep = format!("{{\"texts\":{}", "[".repeat(1000));
        assert!(parse::<Sent>(deep.as_bytes(), "{…}").is_err(), "no stack runs over");
        assert!(parse::<Sent>(b"{\"text\":\"\xff\",\"until\":1}", "{…}").is_err(), "no UTF-8");
        let long = format!("{{\"{}\":1}}", "x".repeat(60_000));
        assert!(format!("{:?}", parse::<Sent>(long.as_bytes(), "{…}")).len() < 500, "of what was sent only so much");
    }
}
