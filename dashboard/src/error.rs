//! What a visitor is told when something cannot be done: a code, a sentence, JSON.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), retry_after: None }
    }

    /// 400: what was found and what was expected.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 401.
    pub fn unauthorised() -> ApiError {
        let message = "a token is needed: send `Authorization: Bearer TOKEN`, or log in";
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorised", message)
    }

    /// 401 after an attempt.
    pub fn wrong_token() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorised", "this is not the token of this page")
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 405.
    pub fn method_not_allowed() -> ApiError {
        let message = "this path does not take this method; api/v1/openapi.yaml describes the API";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// 413.
    pub fn too_large(most: usize) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("a body may have at most {most} bytes"))
    }

    /// 414.
    pub fn too_long(most: usize) -> ApiError {
        let message = format!("path and query together may have at most {most} bytes");
        ApiError::new(StatusCode::URI_TOO_LONG, "too_long", message)
    }

    /// 421.
    pub fn wrong_host(host: &str) -> ApiError {
        let message = format!(
            "this page is not called {:?}; it answers to localhost, 127.0.0.1, [::1] and the names in [page] hosts",
            host.chars().take(100).collect::<String>()
        );
        ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message)
    }

    /// 429.
    pub fn rate_limited(seconds: u64) -> ApiError {
        let message = format!("too many wrong tokens from this address; try again in {seconds} s");
        ApiError { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message) }
    }

    /// 500: the cause is in the log.
    pub fn failed() -> ApiError {
        let message = "this could not be answered; the program's log says why";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message) }
    }

    /// 503: this run does not keep it. Asking again changes nothing.
    pub fn not_kept(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_kept", message)
    }

    /// 503: the answer took too long.
    pub fn timeout() -> ApiError {
        let message = "the answer took too long; ask for less time or fewer rows";
        ApiError { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } }).to_string();
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
