//! The body of a request that changes something: a small JSON object, in which nothing is unknown and nothing stands twice.

use crate::app::App;
use crate::error::ApiError;
use axum::body::{Body, HttpBody};
use serde::de::DeserializeOwned;
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

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_connectors::store::SilenceRequest;

    #[test]
    fn what_is_wrong_is_said() {
        // body, part of the message; none: it is right
        let rows: &[(&str, Option<&str>)] = &[
            (r#"{"until":1,"reason":""}"#, None),
            (" {\"reason\":\"\",\"until\":1}\n", None),
            (r#"{"until":1,"reason":"","rule":null,"subject":null}"#, None),
            (r#"{"until":1,"reason":"","rule":"a","subject":{"a":"b","b":"b"}}"#, None),
            ("", Some("the body is missing; send JSON, such as {…}")),
            (" \n", Some("the body is missing")),
            ("7", Some("the body is not an object; send JSON, such as {…}")),
            (r#"["a",null,1,""]"#, Some("the body is not an object")),
            ("null", Some("the body is not an object")),
            (
                r#"{"until":1"#,
                Some("the body cannot be used: EOF while parsing an object at line 1 column 10; send JSON"),
            ),
            ("{\"rule\":\u{1}}", Some("line 1 column")),
            (r#"{"until":1,"reason":""} {}"#, Some("trailing characters")),
            (r#"{"reason":""}"#, Some("missing field `until`")),
            (r#"{"until":"1"}"#, Some("expected a time in milliseconds since the epoch at line 1 column")),
            (r#"{"until":1.5}"#, Some("expected a time")),
            (r#"{"until":-1}"#, Some("expected a time")),
            (r#"{"until":null}"#, Some("expected a time")),
            (r#"{"until":18446744073709551616}"#, Some("expected a time")),
            (r#"{"rule":true}"#, Some("boolean `true`, expected a string")),
            (r#"{"subject":[]}"#, Some("sequence, expected an object of texts")),
            (r#"{"subject":{"a":1}}"#, Some("integer `1`, expected a string")),
            (r#"{"subject":{"a":"b","a":"b"}}"#, Some("duplicate field `a` at line 1 column")),
            (r#"{"until":1,"until":1}"#, Some("duplicate field `until`")),
            (r#"{"till":1}"#, Some("unknown field `till`, expected one of `rule`, `subject`, `until`, `reason`")),
            ("{\"\\u001b[2J\":1}", Some("unknown field `\\x1B[2J`")),
        ];
        for (body, want) in rows {
            match (parse::<SilenceRequest>(body.as_bytes(), "{…}"), want) {
                (Ok(_), None) => {}
                (Err(error), Some(want)) => {
                    let error = format!("{error:?}");
                    assert!(error.contains(&want.escape_debug().to_string()), "{body}: {error}")
                }
                (found, _) => panic!("{body}: {found:?}"),
            }
        }
        let deep = format!("{{\"subject\":{}", "[".repeat(1000));
        assert!(parse::<SilenceRequest>(deep.as_bytes(), "{…}").is_err(), "no stack runs over");
        assert!(parse::<SilenceRequest>(b"{\"reason\":\"\xff\",\"until\":1}", "{…}").is_err(), "no UTF-8");
        let long = format!("{{\"{}\":1}}", "x".repeat(60_000));
        assert!(
            format!("{:?}", parse::<SilenceRequest>(long.as_bytes(), "{…}")).len() < 500,
            "of what was sent only so much"
        );
    }
}
