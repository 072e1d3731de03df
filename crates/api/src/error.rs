//! From errors to answers: the only place where one becomes a status code.
//!
//! Every refusal has the shape `{"error": {"code", "message", "field"?, "details"?}}`, also those that axum makes itself
//! ([`uniform`]).

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use slotline_protocol::chain;
use slotline_protocol::envelope::{ENCODING_EXPECTED, Reason};
use slotline_protocol::http::{self, Refusal};

use crate::refusal::{ControlError, RefusalKind};
use crate::token::EXPOSED_TOKEN_CHARS_MIN;

/// This header, or the content type of JSON, shows that a program sent the request on purpose.
pub const INTENT_HEADER: &str = "x-slotline";
/// How long a client may take over its body.
pub(crate) const BODY_WITHIN: Duration = Duration::from_secs(15);
/// When to try again after a 503: about the time in which another executor takes the lead.
const RETRY_UNAVAILABLE: &str = "2";
/// When to try again after a 429: a line shortens no faster than its executions run.
const RETRY_FULL: &str = "5";

/// The API would be open to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// No token guards it.
    #[error("listening on {0} would let anybody on the network in: set SLOTLINE_API_TOKEN, or listen on 127.0.0.1")]
    Open(SocketAddr),
    /// The token that guards it could be guessed.
    #[error(
        "the API token has {chars} characters: to listen on {address} it needs at least {EXPOSED_TOKEN_CHARS_MIN}; \
         make one with `openssl rand -hex 32`"
    )]
    Guessable { address: SocketAddr, chars: usize },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request can't be read: bad JSON, a bad query.
    #[error("{0}")]
    Malformed(Refusal),
    /// The request can be read, but not be carried out.
    #[error("{0}")]
    Invalid(Refusal),
    #[error("expected the content type application/json, found {0}")]
    MediaType(String),
    #[error("the body is {0}: {ENCODING_EXPECTED}")]
    Encoding(String),
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive within {} s", BODY_WITHIN.as_secs())]
    SlowBody,
    #[error("a bearer token is needed, in the header Authorization")]
    TokenMissing,
    #[error("the token is not one of this API's")]
    TokenWrong,
    #[error("a request from another site or under a foreign name; to be reached beyond this machine, set an API token")]
    Foreign,
    #[error(
        "a request that changes something needs the header `{INTENT_HEADER}: 1`, or the content type application/json: \
         without an API token any web page could send it otherwise"
    )]
    Unmeant,
    #[error("no such route")]
    NoRoute,
    #[error("there are too many requests at once")]
    Busy,
    #[error("there are {0} streams already; try another executor, or ask for pages without `wait`")]
    TooManyStreams(usize),
    #[error("this route serves only {0}: send that in the header Accept")]
    NotAcceptable(&'static str),
    #[error("there was no answer in time")]
    Overdue,
    /// What `/readyz` found, with details if the request wanted them.
    #[error("not ready: {message}")]
    NotReady { message: String, details: Option<serde_json::Value> },
    #[error(transparent)]
    Refused(#[from] ControlError),
    #[error(transparent)]
    Store(#[from] slotline_store::Error),
}

impl Error {
    pub(crate) fn malformed(field: &str, message: impl Into<String>) -> Self {
        Self::Malformed(Refusal::new("invalid_request", message).at(field))
    }

    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(Refusal::new("invalid_request", message).at(field))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let text = self.to_string();
        let (status, refusal) = match self {
            Self::Malformed(refusal) => (StatusCode::BAD_REQUEST, refusal),
            Self::Invalid(refusal) => (StatusCode::UNPROCESSABLE_ENTITY, refusal),
            Self::MediaType(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, Refusal::new("unsupported_media_type", text).at("content-type"))
            }
            Self::Encoding(_) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Refusal::new(Reason::UnsupportedEncoding.as_str(), text).at("content-encoding"),
            ),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, Refusal::new("too_large", text)),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, Refusal::new("slow_body", text)),
            Self::TokenMissing | Self::TokenWrong => (StatusCode::UNAUTHORIZED, Refusal::new("unauthorized", text)),
            Self::Foreign => (StatusCode::FORBIDDEN, Refusal::new("foreign_origin", text)),
            Self::Unmeant => (StatusCode::FORBIDDEN, Refusal::new("intent_needed", text).at(INTENT_HEADER)),
            Self::NoRoute => (StatusCode::NOT_FOUND, Refusal::new("no_such_route", text)),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, Refusal::new("busy", text)),
            Self::TooManyStreams(_) => (StatusCode::SERVICE_UNAVAILABLE, Refusal::new("too_many_streams", text)),
            Self::NotAcceptable(_) => (StatusCode::NOT_ACCEPTABLE, Refusal::new("not_acceptable", text).at("accept")),
            Self::Overdue => (StatusCode::SERVICE_UNAVAILABLE, Refusal::new("overdue", text)),
            Self::NotReady { details, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Refusal { details, ..Refusal::new("not_ready", text) })
            }
            Self::Refused(ControlError { kind, refusal }) => {
                let status = match kind {
                    RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                    RefusalKind::NotFound => StatusCode::NOT_FOUND,
                    RefusalKind::Conflict => StatusCode::CONFLICT,
                    RefusalKind::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
                    RefusalKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
                    RefusalKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                    RefusalKind::Full => StatusCode::TOO_MANY_REQUESTS,
                    RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, refusal)
            }
            Self::Store(error) => of_store(&error),
        };
        respond(status, refusal)
    }
}

fn of_store(error: &slotline_store::Error) -> (StatusCode, Refusal) {
    if let slotline_store::Error::InvalidCursor = error {
        return (StatusCode::BAD_REQUEST, Refusal::new("invalid_request", error.to_string()).at("cursor"));
    }
    // The cause may name hosts and tables, which clients must not see.
    tracing::warn!(error = %chain(error), "the journal did not answer a request");
    (StatusCode::SERVICE_UNAVAILABLE, Refusal::new("unavailable", "the journal can't be read now"))
}

fn respond(status: StatusCode, refusal: Refusal) -> Response {
    let mut response = (status, Json(http::Refused { error: refusal })).into_response();
    let headers = response.headers_mut();
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_UNAVAILABLE));
        }
        StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_FULL));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"slotline\""));
        }
        _ => {}
    }
    response
}

/// Gives axum's own refusals (a method that a route does not take, a path that is no UTF-8) the shape of ours. Their
/// headers stay, such as `Allow`.
pub(crate) async fn uniform(response: Response) -> Response {
    let status = response.status();
    let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (code, message) = match status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this route does not take this method"),
        StatusCode::NOT_FOUND => ("no_such_route", "no such route"),
        _ if status.is_client_error() => ("invalid_request", "the request can't be read"),
        _ => ("internal", "the request failed"),
    };
    let mut ours = respond(status, Refusal::new(code, message));
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != axum::http::header::CONTENT_LENGTH {
            ours.headers_mut().insert(name, value.clone());
        }
    }
    ours
}
