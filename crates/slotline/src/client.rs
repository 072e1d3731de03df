//! Asking the API. Every error names the next step.
//!
//! Below: the events of one execution (`stream`), its position in line (`position`), the name that was probably meant (`hint`),
//! and how long to wait for an API that does not answer (`backoff`).

pub(crate) mod backoff;
pub(crate) mod hint;
pub(crate) mod position;
pub(crate) mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slotline_api::ApiToken;
use slotline_protocol::ends_early;
use slotline_protocol::http::{Answer, Page, Refusal, Refused};

use crate::settings::TOKEN_VARIABLE;

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take; longer than the API's own limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// How long one stream is read before it is opened again.
const STREAM_MAX: Duration = Duration::from_secs(60 * 60);

/// The API of an installation, served by each of its executors.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Tried in turn; clones share the turn.
    bases: Arc<Bases>,
    token: Option<ApiToken>,
}

struct Bases {
    urls: Vec<Url>,
    turn: AtomicUsize,
}

impl Bases {
    fn current(&self) -> &Url {
        &self.urls[self.turn.load(Ordering::Relaxed) % self.urls.len()]
    }

    /// The base that `url` is below.
    fn of(&self, url: &Url) -> &Url {
        let is_below = |base: &&Url| base.origin() == url.origin() && url.path().starts_with(base.path());
        self.urls.iter().find(is_below).unwrap_or_else(|| self.current())
    }

    /// Moves to the next base after `failed` did not answer; clones that saw the same failure move on once together.
    fn move_on(&self, failed: &Url) {
        let turn = self.turn.load(Ordering::Relaxed);
        if self.urls[turn % self.urls.len()] == *failed {
            let _ = self.turn.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Why the API did not do what was requested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    InvalidUrl(String),
    /// No server listens there now; the same call may succeed later.
    #[error(
        "nothing answers at {base}: start one with `slotline dev` or `slotline executor`, or name another with --api-url"
    )]
    Unreachable { base: Url, source: reqwest::Error },
    /// The URL has `https`, and the server there speaks no TLS.
    #[error("what listens at {base} speaks no TLS: name it as http:// (--api-url or SLOTLINE_API_URL)")]
    NoTls { base: Url },
    /// The server took the request and did not answer in time; the same call may succeed later.
    #[error("what listens at {base} does not answer")]
    Silent { base: Url },
    #[error("{}", refusal_text(*status, refusal))]
    Refused { status: StatusCode, refusal: Refusal },
    /// Another program than Slotline answers there.
    #[error("what answers at {base} does not seem to be Slotline (status {status}){}", foreign(base))]
    Foreign { base: Url, status: StatusCode },
}

impl Error {
    /// Whether the same call may well succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            // A proxy answers with these while its executor is away.
            Self::Foreign { status, .. } => {
                matches!(
                    *status,
                    StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                )
            }
            Self::InvalidUrl(_) | Self::NoTls { .. } => false,
        }
    }
}

/// Whether the server answered without TLS.
fn speaks_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        if words.contains("InvalidContentType") || words.contains("corrupt message") {
            return true;
        }
        next = error.source();
    }
    false
}

/// What may be wrong with a URL at which something else answers.
fn foreign(base: &Url) -> String {
    match base.path() {
        "/" | "" => ": correct --api-url or SLOTLINE_API_URL".to_owned(),
        path => format!(
            ": the URL has the path {path}, below which /api/v1 is asked; leave it out unless a proxy serves Slotline there"
        ),
    }
}

fn refusal_text(status: StatusCode, refusal: &Refusal) -> String {
    let field = refusal.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let hint = match (status, refusal.code.as_str()) {
        (StatusCode::UNAUTHORIZED, _) => format!(" (give it in {TOKEN_VARIABLE} or --api-token-file)"),
        (_, "unknown_action") => {
            " (see `slotline actions` for those there are, `slotline apply` for new ones)".to_owned()
        }
        (StatusCode::SERVICE_UNAVAILABLE, _) => " (try again in a moment)".to_owned(),
        _ => String::new(),
    };
    format!("{field}{}{hint}", refusal.message)
}

/// Cuts the routes off a URL that was copied with them.
fn without_routes(mut base: Url) -> Url {
    let path = base.path().trim_end_matches('/');
    let shorter = path.strip_suffix("/api/v1").or_else(|| path.strip_suffix("/api")).map(str::to_owned);
    if let Some(shorter) = shorter {
        base.set_path(&shorter);
    }
    base
}

fn read(url: &str) -> Result<Url, Error> {
    let invalid = || Error::InvalidUrl(invalid(url));
    if url.contains('@') && ends_early(url).is_some() {
        return Err(invalid());
    }
    let base = Url::parse(url).map_err(|_| invalid())?;
    let is_usable = matches!(base.scheme(), "http" | "https") && !base.cannot_be_a_base() && base.host().is_some();
    if is_usable { Ok(without_routes(base)) } else { Err(invalid()) }
}

/// Why this is no URL of an API, without its user and password.
fn invalid(url: &str) -> String {
    let shown = url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("...@{host}"));
    let expected = "expected for example http://127.0.0.1:7070";
    match ends_early(url).filter(|_| url.contains('@')) {
        Some(instead) => format!("{shown:?} is no URL of an API: {instead}: {expected}"),
        None => format!("{shown:?} is no URL of an API: {expected}"),
    }
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_start_matches('[').trim_end_matches(']').parse();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

impl Client {
    /// `urls` are separated by commas.
    pub(crate) fn new(urls: &str, token: Option<ApiToken>) -> Result<Self, Error> {
        let urls = urls.split(',').map(|url| read(url.trim())).collect::<Result<Vec<Url>, Error>>()?;
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("slotline/", env!("CARGO_PKG_VERSION")));
        if urls.iter().all(is_local) {
            // Behind a proxy, `localhost` would be another machine.
            http = http.no_proxy();
        }
        let http = http.build().expect("the TLS provider is installed and the options are constants");
        Ok(Self { http, bases: Arc::new(Bases { urls, turn: AtomicUsize::new(0) }), token })
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

    /// For an answer with more members than `data`.
    pub(crate) async fn whole<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, Error> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    /// The items of all pages, up to `most`.
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

    /// Posts with an idempotency key: repeated with the same `key`, the request is executed once.
    pub(crate) async fn post_once<T: DeserializeOwned>(
        &self,
        path: &[&str],
        key: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.answer(self.request(Method::POST, path).header("idempotency-key", key).json(body)).await
    }

    /// Opens a stream of the events after number `last`. `None` if no more events can come.
    pub(crate) async fn open(&self, path: &[&str], last: u64) -> Result<Option<Response>, Error> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream").timeout(STREAM_MAX);
        if last > 0 {
            request = request.header("last-event-id", last);
        }
        let base = self.bases.current().clone();
        let silent = |_| Error::Silent { base: named(&base) };
        let (base, response) = tokio::time::timeout(ANSWER_WITHIN, self.reach(request)).await.map_err(silent)??;
        let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            kind.to_str().is_ok_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"))
        });
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK if is_stream => Ok(Some(response)),
            status if status.is_success() => Err(Error::Foreign { base: named(&base), status }),
            status => {
                let silent = |_| Error::Silent { base: named(&base) };
                let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes()).await.map_err(silent)?;
                Err(refused(&base, status, &body.map_err(|source| unreachable(&base, source))?))
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
        let mut url = self.bases.current().clone();
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
        let (base, response) = self.reach(request).await?;
        let status = response.status();
        let body = response.bytes().await.map_err(|source| unreachable(&base, source))?;
        if !status.is_success() {
            return Err(refused(&base, status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| Error::Foreign { base: named(&base), status })
    }

    /// Sends the request to the executors in turn until a connection succeeds. Without a connection no executor has seen the
    /// request, so none is executed twice. Returns the base that answered.
    async fn reach(&self, request: RequestBuilder) -> Result<(Url, Response), Error> {
        let mut request = request.build().map_err(|source| unreachable(self.bases.current(), source))?;
        let mut base = self.bases.of(request.url()).clone();
        let mut rest = self.bases.urls.len();
        loop {
            rest -= 1;
            // `None` for a body that can't be sent again.
            let next = request.try_clone();
            let error = match self.http.execute(request).await {
                Ok(response) => return Ok((base, response)),
                Err(error) => error,
            };
            let is_unasked = error.is_connect();
            if is_unasked {
                self.bases.move_on(&base);
            }
            request = match next {
                Some(next) if is_unasked && rest > 0 => next,
                Some(_) | None => return Err(unreachable(&base, error)),
            };
            let other = self.bases.current().clone();
            *request.url_mut() = moved(request.url(), &base, &other);
            base = other;
        }
    }
}

/// The same request below another base.
fn moved(url: &Url, from: &Url, to: &Url) -> Url {
    let below = |base: &Url| base.path().trim_end_matches('/').to_owned();
    let route = url.path().strip_prefix(&below(from)).unwrap_or(url.path());
    let mut moved = to.clone();
    moved.set_path(&format!("{}{route}", below(to)));
    moved.set_query(url.query());
    moved
}

fn unreachable(base: &Url, source: reqwest::Error) -> Error {
    if base.scheme() == "https" && speaks_no_tls(&source) {
        return Error::NoTls { base: named(base) };
    }
    // reqwest's message holds the URL, maybe with a password; ours names it without.
    Error::Unreachable { base: named(base), source: source.without_url() }
}

/// The base without its password, for messages.
fn named(base: &Url) -> Url {
    let mut named = base.clone();
    // A URL that can't have a password has none.
    let _ = named.set_password(None);
    named
}

fn refused(base: &Url, status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<Refused>(body) {
        Ok(Refused { error: mut refusal }) => {
            if refusal.code == "no_such_route" {
                refusal.message.push_str(&foreign(base));
            }
            Error::Refused { status, refusal }
        }
        Err(_) => Error::Foreign { base: named(base), status },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect(text)
    }

    #[test]
    fn a_request_moves_to_another_executor_with_its_route_and_its_query() {
        let request = url("http://a:7070/api/v1/executions?limit=5");
        assert_eq!(
            moved(&request, &url("http://a:7070/"), &url("https://b/slotline")).as_str(),
            "https://b/slotline/api/v1/executions?limit=5"
        );
        let request = url("https://b/slotline/api/v1/workers");
        assert_eq!(
            moved(&request, &url("https://b/slotline"), &url("http://a:7070")).as_str(),
            "http://a:7070/api/v1/workers"
        );
    }

    #[test]
    fn a_url_with_its_routes_means_the_same_without_them() {
        for text in ["http://h:1/api/v1", "http://h:1/api/v1/", "http://h:1/api", "http://h:1/"] {
            assert_eq!(read(text).expect(text).as_str(), "http://h:1/", "{text}");
        }
        assert_eq!(read("https://h/slotline").expect("a URL").path(), "/slotline");
        for text in ["nonsense", "ftp://h", "http://", ""] {
            assert!(matches!(read(text), Err(Error::InvalidUrl(_))), "{text}");
        }
    }
}
