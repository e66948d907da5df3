//! The page's files, embedded by build.rs, served by exact name: there is no path to walk.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// One file.
pub struct Asset {
    /// Its path, without a slash before it.
    pub path: &'static str,
    /// What it is.
    pub kind: &'static str,
    /// Changes with the content.
    pub tag: &'static str,
    /// Whether its name changes with its content, so that it may be kept for ever.
    pub hashed: bool,
    /// The content.
    pub plain: &'static [u8],
    /// The same compressed, where that is smaller.
    pub gzip: Option<&'static [u8]>,
    /// The same compressed, where that is smaller.
    pub brotli: Option<&'static [u8]>,
}

#[cfg(feature = "page")]
include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// What stands at `/` in a build without the page.
#[cfg(not(feature = "page"))]
static ASSETS: &[Asset] = &[Asset {
    path: "index.html",
    kind: "text/html; charset=utf-8",
    tag: "\"none\"",
    hashed: false,
    plain: include_bytes!("without.html"),
    gzip: None,
    brotli: None,
}];

/// Everything that is no route of the API.
pub async fn asset(request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError::method_not_allowed().into_response();
    }
    let path = request.uri().path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    match ASSETS.iter().find(|asset| asset.path == path) {
        Some(asset) => serve(asset, request.headers()),
        None if path.starts_with("api/") => {
            ApiError::not_found("there is nothing at this path; api/v1/openapi.yaml describes the API").into_response()
        }
        None => ApiError::not_found("there is nothing at this path").into_response(),
    }
}

fn serve(asset: &Asset, headers: &HeaderMap) -> Response {
    let mut response = match headers.get(header::IF_NONE_MATCH) {
        Some(tag) if tag == asset.tag => StatusCode::NOT_MODIFIED.into_response(),
        _ => {
            let offered = |name| accepts(headers, name);
            let (bytes, encoding) = match (asset.brotli, asset.gzip) {
                (Some(bytes), _) if offered("br") => (bytes, Some("br")),
                (_, Some(bytes)) if offered("gzip") => (bytes, Some("gzip")),
                _ => (asset.plain, None),
            };
            let mut response = ([(header::CONTENT_TYPE, asset.kind)], bytes).into_response();
            if let Some(encoding) = encoding {
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            response
        }
    };
    let keep = if asset.hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    headers.insert(header::ETAG, HeaderValue::from_static(asset.tag));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// Whether an encoding is accepted: named, and not with a quality of zero.
fn accepts(headers: &HeaderMap, name: &str) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        parts.next() == Some(name) && parts.all(|part| !matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_accepted_or_not() {
        let rows = [
            ("br, gzip", true),
            ("gzip, deflate, br;q=0.5", true),
            ("gzip", false),
            ("br;q=0", false),
            ("brotli", false),
            ("", false),
        ];
        for (value, want) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts(&headers, "br"), want, "{value}");
        }
    }

    #[test]
    fn the_page_is_there() {
        assert!(ASSETS.iter().any(|asset| asset.path == "index.html" && !asset.hashed));
        for asset in ASSETS {
            assert!(
                !asset.path.starts_with('/') && asset.tag.starts_with('"') && !asset.plain.is_empty(),
                "{}",
                asset.path
            );
        }
    }
}
