//! The page for people: its files, which are part of the program.
//!
//! They are plain: nothing is built, nothing comes from elsewhere, and the browser is forbidden to run or fetch anything
//! else. They say nothing of this installation, so they are served without a token; what they show they ask the API for.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::input::{self, Accept};

/// Where the page is.
pub const PATH: &str = "/ui/";

/// Nothing but its own files, and its own API.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// A file of the page.
struct File {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        const FILES: &[File] = &[$(File { name: $name, bytes: include_bytes!(concat!("../ui/", $name)) }),+];
    };
}

files![
    "index.html",
    "style.css",
    "app.js",
    "api.js",
    "stream.js",
    "words.js",
    "parts.js",
    "lines.js",
    "line.js",
    "execution.js",
    "workers.js",
    "more.js",
    "vendor/preact.js",
    "vendor/hooks.js",
    "vendor/signals-core.js",
    "vendor/signals.js",
    "vendor/htm.js",
];

/// The names of all files.
pub fn files() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|file| file.name)
}

/// The `ETag` of each file, in the same order.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| FILES.iter().map(|file| tag(file.bytes)).collect());

fn tag(bytes: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).expect("hexadecimal digits")
}

/// Whether `uri` is a file of the page.
pub(crate) fn is_open(uri: &Uri) -> bool {
    uri.path() == "/ui" || uri.path().starts_with(PATH)
}

/// `from`: a directory that the files are read from each time, for work on them.
pub(crate) fn router(from: Option<PathBuf>) -> Router {
    Router::new()
        .route("/", get(to_page))
        .route("/ui", get(to_page))
        .route(PATH, get(async |from, headers| file(from, &headers, "index.html").await))
        .route("/ui/{*name}", get(async |from, Path(name): Path<String>, headers| file(from, &headers, &name).await))
        .with_state(Arc::new(from))
}

/// Leads a browser to the page; there is nothing else here.
async fn to_page(headers: HeaderMap) -> Result<(StatusCode, [(HeaderName, &'static str); 1]), Error> {
    match input::accepted(&headers, "text/html") {
        Accept::Named => Ok((StatusCode::FOUND, [(LOCATION, "ui/")])),
        Accept::Any | Accept::Other => Err(Error::NoRoute),
    }
}

async fn file(State(from): State<Arc<Option<PathBuf>>>, headers: &HeaderMap, name: &str) -> Result<Response, Error> {
    let index = FILES.iter().position(|file| file.name == name).ok_or(Error::NoRoute)?;
    let answer = match from.as_ref() {
        Some(from) => {
            let bytes = tokio::fs::read(from.join(name)).await.map_err(|_| Error::NoRoute)?;
            bytes.into_response()
        }
        None if headers.get(IF_NONE_MATCH) == Some(&TAGS[index]) => StatusCode::NOT_MODIFIED.into_response(),
        None => FILES[index].bytes.into_response(),
    };
    Ok(with_headers(answer, name, &TAGS[index]))
}

fn with_headers(mut answer: Response, name: &str, tag: &HeaderValue) -> Response {
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    let headers = answer.headers_mut();
    headers.insert(ETAG, tag.clone());
    for (header, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (PERMISSIONS_POLICY.clone(), "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(header, HeaderValue::from_static(value));
    }
    answer
}
