//! Asking the API. Every error says what to do next.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slotline_api::Token;
use slotline_protocol::http::{Answer, Page, Refusal, Refused};

use crate::config::TOKEN_VARIABLE;

/// How long a connection may take to stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take; more than the API gives itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// How long one stream is read before it is opened anew; no connection is for ever.
const STREAM_MAX: Duration = Duration::from_secs(60 * 60);

/// The API of one executor.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Token>,
}

/// Why the API did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0:?} is no URL of an API: expected for example http://127.0.0.1:7070")]
    InvalidUrl(String),
    /// Nobody is there, or not now; the same call may succeed later.
    #[error(
        "nothing answers at {base}: start one with `slotline dev` or `slotline executor`, or name another with --api-url"
    )]
    Unreachable { base: Url, source: reqwest::Error },
    /// Somebody took the question and did not answer in time; the same call may succeed later.
    #[error("what listens at {base} does not answer")]
    Silent { base: Url },
    #[error("{}", told(*status, refusal))]
    Refused { status: StatusCode, refusal: Refusal },
    /// Something else than Slotline listens there.
    #[error("what answers at {base} does not seem to be Slotline (status {status})")]
    Foreign { base: Url, status: StatusCode },
}

impl Error {
    /// Whether the same call may well succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            // A proxy in front answers so while its executor is away.
            Self::Foreign { status, .. } => {
                matches!(
                    *status,
                    StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                )
            }
            Self::InvalidUrl(_) => false,
        }
    }
}

fn told(status: StatusCode, refusal: &Refusal) -> String {
    let field = refusal.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let hint = match (status, refusal.code.as_str()) {
        (StatusCode::UNAUTHORIZED, _) => format!(" (set {TOKEN_VARIABLE} or --api-token-file)"),
        (_, "unknown_action") => {
            " (see `slotline queue` for those there are, `slotline apply` for new ones)".to_owned()
        }
        (StatusCode::SERVICE_UNAVAILABLE, _) => " (try again in a moment)".to_owned(),
        _ => String::new(),
    };
    format!("{field}{}{hint}", refusal.message)
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<Token>) -> Result<Self, Error> {
        let invalid = || Error::InvalidUrl(url.to_owned());
        let base = Url::parse(url).map_err(|_| invalid())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(invalid());
        }
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("slotline/", env!("CARGO_PKG_VERSION")));
        let host = base.host_str().ok_or_else(invalid)?;
        let address: Result<IpAddr, _> = host.trim_start_matches('[').trim_end_matches(']').parse();
        let is_local = address.map_or(host == "localhost", |address| address.is_loopback());
        if is_local {
            // A proxy knows another machine by this name.
            http = http.no_proxy();
        }
        let http = http.build().expect("the TLS provider is installed and the options are constants");
        Ok(Self { http, base, token })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        self.answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn page<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Page<T>, Error> {
        self.whole(path, query).await
    }

    /// An answer that is no `data` alone.
    pub(crate) async fn whole<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, Error> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    /// Items of all pages, up to `most`.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        most: usize,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = (most - items.len()).min(slotline_api::LIMIT_MAX);
            let mut query = query.to_vec();
            query.push(("limit", limit.to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page = self.page(path, &query).await?;
            items.extend(page.data);
            cursor = page.next_cursor;
            if cursor.is_none() || items.len() >= most {
                return Ok(items);
            }
        }
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    /// Posts what must not happen twice: under the same `key` it happens once.
    pub(crate) async fn post_once<T: DeserializeOwned>(
        &self,
        path: &[&str],
        key: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.answer(self.request(Method::POST, path).header("idempotency-key", key).json(body)).await
    }

    /// Opens a stream of events from after `last` on. `None` where nothing can follow any more.
    pub(crate) async fn open(&self, path: &[&str], last: u64) -> Result<Option<Response>, Error> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream").timeout(STREAM_MAX);
        if last > 0 {
            request = request.header("last-event-id", last);
        }
        let silent = |_| Error::Silent { base: self.base.clone() };
        let response = tokio::time::timeout(ANSWER_WITHIN, request.send()).await.map_err(silent)?;
        let response = response.map_err(|source| self.unreachable(source))?;
        let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            kind.to_str().is_ok_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"))
        });
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK if is_stream => Ok(Some(response)),
            status if status.is_success() => Err(Error::Foreign { base: self.base.clone(), status }),
            status => {
                let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes()).await.map_err(silent)?;
                Err(self.refused(status, &body.map_err(|source| self.unreachable(source))?))
            }
        }
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error> {
        self.answer(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, Error> {
        self.answer(self.request(Method::DELETE, path).query(query)).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("a base was checked to be one")
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        let request = self.http.request(method, url).header(slotline_api::INTENT_HEADER, "cli");
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        self.send::<Answer<T>>(request).await.map(|answer| answer.data)
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let (status, body) = self.receive(request).await?;
        serde_json::from_slice(&body).map_err(|_| Error::Foreign { base: self.base.clone(), status })
    }

    async fn receive(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), Error> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|source| self.unreachable(source))?.to_vec();
        if status.is_success() { Ok((status, body)) } else { Err(self.refused(status, &body)) }
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        // The URL is in our own message, and may hold a password.
        Error::Unreachable { base: self.base.clone(), source: source.without_url() }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        match serde_json::from_slice::<Refused>(body) {
            Ok(Refused { error: refusal }) => Error::Refused { status, refusal },
            Err(_) => Error::Foreign { base: self.base.clone(), status },
        }
    }
}
