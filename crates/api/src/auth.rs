//! Authorization: the bearer token, and the checks that replace it without one.
//!
//! With a token everything but the two health answers and the files of the page needs it. Without one the API is for this machine only: it does
//! not listen beyond loopback ([`check_exposure`]), and it answers no web page that was not served from this machine,
//! for a browser would carry any page's request here. A page that another program on this machine serves can't change
//! anything either: a request that changes something needs a header that no form can send, and that a script may send
//! only after a preflight request, which is refused.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use slotline_protocol::By;
use slotline_protocol::audit::LOCAL;

use crate::error::{Error, Exposed, INTENT_HEADER};
use crate::health;
use crate::token::{ApiToken, EXPOSED_TOKEN_CHARS_MIN, Tokens};
use crate::ui;

/// Refuses an address that other machines can reach, unless tokens guard it that can't be guessed.
pub fn check_exposure(address: SocketAddr, tokens: &Tokens) -> Result<(), Exposed> {
    match tokens.shortest().map(ApiToken::chars) {
        _ if address.ip().to_canonical().is_loopback() => Ok(()),
        None => Err(Exposed::Open(address)),
        Some(chars) if chars < EXPOSED_TOKEN_CHARS_MIN => Err(Exposed::Guessable { address, chars }),
        Some(_) => Ok(()),
    }
}

/// The sender of a request, by the name of its token.
#[derive(Clone, Debug)]
pub(crate) struct Actor(String);

impl Actor {
    /// The author of a change, with this reason.
    pub(crate) fn by(self, reason: Option<String>) -> By {
        By::http(self.0, reason)
    }
}

pub(crate) async fn guard(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Result<Response, Error> {
    let given = bearer(request.headers());
    let actor = match given.and_then(|given| tokens.name_of(given)) {
        Some(name) => name.to_owned(),
        None if health::is_open(request.uri()) => LOCAL.to_owned(),
        None if !tokens.is_empty() && ui::is_open(request.uri()) => LOCAL.to_owned(),
        None if !tokens.is_empty() && given.is_some() => return Err(Error::TokenWrong),
        None if !tokens.is_empty() => return Err(Error::TokenMissing),
        None => {
            check_local(request.uri(), request.headers())?;
            check_intent(request.method(), request.headers())?;
            LOCAL.to_owned()
        }
    };
    request.extensions_mut().insert(Actor(actor));
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, given) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| given.trim_ascii())
}

/// A page of another site reaches us under its own name (`Host`, after rebinding it) or with its own `Origin`; programs
/// send a loopback host and no origin.
fn check_local(uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    let host = match headers.get(HOST) {
        Some(host) => Some(host.to_str().map_err(|_| Error::Foreign)?),
        None => uri.authority().map(|authority| authority.as_str()),
    };
    let origin = match headers.get(ORIGIN) {
        // A sandboxed or local page has the origin "null", and may come from any site.
        Some(origin) => {
            let origin = origin.to_str().map_err(|_| Error::Foreign)?;
            Some(origin.split_once("://").ok_or(Error::Foreign)?.1)
        }
        None => None,
    };
    if host.into_iter().chain(origin).all(is_loopback) { Ok(()) } else { Err(Error::Foreign) }
}

/// The media type of a merge patch (RFC 7396), which no form can send either.
const MERGE_PATCH: &str = "application/merge-patch+json";

fn check_intent(method: &Method, headers: &HeaderMap) -> Result<(), Error> {
    let is_json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json") || kind.eq_ignore_ascii_case(MERGE_PATCH)
    };
    let is_meant = headers.contains_key(INTENT_HEADER) || headers.get(CONTENT_TYPE).is_some_and(is_json);
    let changes = matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    if is_meant || !changes { Ok(()) } else { Err(Error::Unmeant) }
}

/// Whether `authority` (`host`, `host:port`, `[::1]:port`) names this machine.
fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<axum::http::uri::Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_an_executor_listens_only_with_a_token_that_can_not_be_guessed() {
        let long = "t".repeat(EXPOSED_TOKEN_CHARS_MIN);
        let tokens = Tokens::parse(&long).expect("a token");
        // One of several that could be guessed is enough.
        let short = Tokens::parse(&format!("one {long}\nother {}", &long[1..])).expect("tokens");
        for address in ["127.0.0.1:7070", "127.8.8.8:1", "[::1]:7070", "[::ffff:127.0.0.1]:1"] {
            let address = address.parse().expect(address);
            assert!(check_exposure(address, &Tokens::default()).is_ok(), "{address}");
            assert!(check_exposure(address, &short).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:7070", "[::]:7070", "192.168.1.2:7070"] {
            let address = address.parse().expect(address);
            let error = check_exposure(address, &Tokens::default()).expect_err("exposed").to_string();
            assert!(error.contains("SLOTLINE_API_TOKEN"), "{error}");
            assert!(check_exposure(address, &tokens).is_ok(), "{address}");
            let error = check_exposure(address, &short).expect_err("it could be guessed").to_string();
            assert!(error.contains("has 19 characters") && error.contains("at least 20"), "{error}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in ["localhost", "LOCALHOST:7070", "127.0.0.1:7070", "[::1]:80", "x.localhost"] {
            assert!(is_loopback(local), "{local}");
        }
        for foreign in ["example.com", "localhost.example.com", "127.0.0.1.example.com:80", "192.168.0.1", "", "a b"] {
            assert!(!is_loopback(foreign), "{foreign}");
        }
    }
}
