//! Reading a request: bodies, query parameters, ids. What is wrong is named by its field.

use axum::body::Body;
use axum::extract::{FromRequest, Query, Request};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use slotline_protocol::audit;
use slotline_protocol::envelope::{self, ENVELOPE_BYTES_MAX};
use slotline_protocol::foreign::compression;
use slotline_protocol::http::Refusal;
use slotline_protocol::{ActionRef, ExecutionId};

use crate::error::{BODY_WITHIN, Error};
use crate::refusal::ControlError;

/// The largest body of a request.
pub const BODY_BYTES_MAX: usize = ENVELOPE_BYTES_MAX;
/// How much of a larger body is read and thrown away. If the connection were closed while the client still sends, the
/// client would see a failure and not the refusal.
const DRAIN_BYTES_MAX: usize = 16 << 20;

/// Items of a page if the request sets no limit.
pub const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
pub const LIMIT_MAX: usize = 1000;

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        check_encoding(request.headers())?;
        check_media_type(request.headers())?;
        let body = read(request).await?;
        if body.is_empty() {
            return Err(Error::malformed("body", "expected a JSON body"));
        }
        parse(&body).map(Self)
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        check_encoding(request.headers())?;
        let media_type = check_media_type(request.headers());
        let body = read(request).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        media_type?;
        parse(&body).map(Self)
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(found) = headers.get(CONTENT_TYPE) else { return Err(Error::MediaType("none".to_owned())) };
    let found = String::from_utf8_lossy(found.as_bytes()).to_ascii_lowercase();
    let essence = found.split(';').next().unwrap_or_default().trim();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(Error::MediaType(essence.to_owned())) }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Error> {
    let mut found = headers.get_all(CONTENT_ENCODING).iter().map(|found| String::from_utf8_lossy(found.as_bytes()));
    let compressed = found.find(|found| !found.eq_ignore_ascii_case("identity"));
    compressed.map_or(Ok(()), |found| Err(Error::Encoding(found.into_owned())))
}

async fn read(request: Request) -> Result<Vec<u8>, Error> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > DRAIN_BYTES_MAX as u64) {
        return Err(Error::TooLarge(BODY_BYTES_MAX));
    }
    tokio::time::timeout(BODY_WITHIN, take(request)).await.map_err(|_| Error::SlowBody)?
}

async fn take(request: Request) -> Result<Vec<u8>, Error> {
    let mut stream = Body::into_data_stream(request.into_body());
    let (mut body, mut seen) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Error::malformed("body", "the body ended early"))?;
        seen += chunk.len();
        if seen <= BODY_BYTES_MAX {
            body.extend_from_slice(&chunk);
        } else if seen > DRAIN_BYTES_MAX {
            break;
        }
    }
    if seen > BODY_BYTES_MAX { Err(Error::TooLarge(BODY_BYTES_MAX)) } else { Ok(body) }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let text = std::str::from_utf8(body).map_err(|_| match compression(body) {
        Some(name) => Error::Encoding(name.to_owned()),
        None => Error::malformed("body", "the body is not UTF-8"),
    })?;
    let text = text.trim_start_matches('\u{feff}');
    envelope::check_depth(text).map_err(|message| Error::malformed("body", message))?;
    envelope::parse(text).map_err(|(path, error)| {
        if path.is_none() && error.is_data() && text.trim_ascii_start().starts_with('[') {
            return Error::invalid(
                "body",
                "expected one object, found an array: send each member by a request of its own",
            );
        }
        let refusal = Refusal::new("invalid_request", error.to_string()).at(path.unwrap_or_else(|| "body".to_owned()));
        match error.classify() {
            serde_json::error::Category::Data => Error::Invalid(refusal),
            _ => Error::Malformed(refusal),
        }
    })
}

/// The query parameters; any that are not in `known` are refused.
pub(crate) fn query(uri: &Uri, known: &[&str]) -> Result<Vec<(String, String)>, Error> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Error::malformed("query", "the query can't be read"))?;
    match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(pairs),
        Some((name, _)) if known.is_empty() => Err(Error::malformed(name, "this route takes no query parameters")),
        Some((name, _)) => {
            Err(Error::malformed(name, format!("unknown query parameter: expected one of {}", known.join(", "))))
        }
    }
}

/// Why something is changed: the parameter `reason`, which every change takes, and no other parameter.
pub(crate) fn reason(uri: &Uri) -> Result<Option<String>, Error> {
    reason_of(uri, None)
}

/// The same for a change with a body that may have the reason, too; it must be in one place only.
pub(crate) fn reason_of(uri: &Uri, in_body: Option<String>) -> Result<Option<String>, Error> {
    let pairs = query(uri, &["reason"])?;
    let reason = match (once(&pairs, "reason")?, in_body) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("reason", "it is in the query and in the body: expected one of them"));
        }
        (Some(reason), None) => Some(reason.to_owned()),
        (None, reason) => reason,
    };
    audit::check_reason(reason.as_deref()).map_err(|message| Error::invalid("reason", message))?;
    Ok(reason)
}

/// The value of a parameter that may be given once.
pub(crate) fn once<'a>(pairs: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, Error> {
    let mut values = pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
    let value = values.next();
    if values.next().is_some() { Err(Error::malformed(name, "expected once")) } else { Ok(value) }
}

/// The values of a parameter that may be given several times, each with several values between commas.
pub(crate) fn many<T>(
    pairs: &[(String, String)],
    name: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Error> {
    let values = pairs.iter().filter(|(given, _)| given == name).flat_map(|(_, values)| values.split(','));
    values.map(|value| read(value.trim()).map_err(|message| Error::malformed(name, message))).collect()
}

/// The parameter `limit`.
pub(crate) fn limit(pairs: &[(String, String)]) -> Result<usize, Error> {
    match once(pairs, "limit")? {
        None => Ok(LIMIT_DEFAULT),
        Some(text) => match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            _ => Err(Error::malformed("limit", format!("expected a number from 1 to {LIMIT_MAX}"))),
        },
    }
}

/// Whether a client accepts a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    Named,
    /// By `*/*` or the like, or without a header.
    Any,
    Other,
}

/// Whether the header `Accept` accepts `media_type`. Weights are ignored, except `q=0`, which declines.
pub(crate) fn accepted(headers: &HeaderMap, media_type: &str) -> Accept {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Accept::Any;
    }
    let family = media_type.split('/').next().unwrap_or_default();
    let mut accepted = Accept::Other;
    for range in values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')) {
        let range = range.to_ascii_lowercase();
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let is_declined = parts.any(|part| part.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0));
        if essence == media_type {
            return if is_declined { Accept::Other } else { Accept::Named };
        }
        if !is_declined && (essence == "*/*" || essence.strip_suffix("/*") == Some(family)) {
            accepted = Accept::Any;
        }
    }
    accepted
}

/// The name of an action that should exist; an invalid name is that of an unknown action.
pub(crate) fn known_ref(text: &str) -> Result<ActionRef, Error> {
    ActionRef::new(text)
        .map_err(|error| ControlError::not_found("unknown_action", error.to_string()).at("action_ref").into())
}

pub(crate) fn execution_id(text: &str) -> Result<ExecutionId, Error> {
    text.parse().map_err(|_| Error::malformed("execution_id", "expected the number of an execution"))
}

/// A page of a list that is held in memory, after the item that `cursor` names. `items` ascend by `name`.
pub(crate) fn page<T>(
    items: Vec<T>,
    limit: usize,
    cursor: Option<&str>,
    name: impl Fn(&T) -> String,
) -> slotline_protocol::http::Page<T> {
    let data = items.into_iter().filter(|item| cursor.is_none_or(|cursor| name(item).as_str() > cursor)).collect();
    cut(data, limit, name)
}

/// A page of at most `limit`; `data` has more if there are more.
pub(crate) fn cut<T>(mut data: Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> slotline_protocol::http::Page<T> {
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = if has_more { data.last().map(name) } else { None };
    slotline_protocol::http::Page { data, next_cursor }
}
