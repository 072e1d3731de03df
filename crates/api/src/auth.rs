//! Who may ask: the bearer token, and what takes its place on a machine of one's own.
//!
//! With a token everything but the two health answers needs it. Without one the API is for this machine only: it does
//! not listen beyond loopback ([`check_exposure`]), and it answers no web page that was not served from this machine,
//! for a browser would carry any page's request here. A page that was served from this machine, by whatever else listens
//! here, changes nothing either: what changes something bears a header that no form can send, and that a script may send
//! only after asking, which is refused.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use crate::error::{Error, Exposed};
use crate::health;

/// The shared secret of the API. Never shown.
#[derive(Clone)]
pub struct Token(String);

/// Why a token can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API token must be 1 to {TOKEN_CHARS_MAX} visible ASCII characters without spaces")]
pub struct InvalidToken;

/// The longest token.
const TOKEN_CHARS_MAX: usize = 1024;

impl Token {
    /// Takes `text` without the white space around it, so that a file may end in a newline.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || text.len() > TOKEN_CHARS_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(text.to_owned()))
    }

    /// For the header of a request.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes as long for a near miss as for a far one.
    fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// The fewest characters of a token that guards more than this machine: what can be tried from afar must not be guessed.
pub const EXPOSED_TOKEN_CHARS_MIN: usize = 20;

/// Refuses an address that others can reach while no token guards it, or one that could be guessed.
pub fn check_exposure(address: SocketAddr, token: Option<&Token>) -> Result<(), Exposed> {
    match token {
        _ if address.ip().to_canonical().is_loopback() => Ok(()),
        None => Err(Exposed::Open(address)),
        Some(Token(token)) if token.len() < EXPOSED_TOKEN_CHARS_MIN => {
            Err(Exposed::Guessable { address, chars: token.len() })
        }
        Some(_) => Ok(()),
    }
}

pub(crate) async fn guard(State(token): State<Option<Token>>, request: Request, next: Next) -> Result<Response, Error> {
    match &token {
        _ if health::is_open(request.uri()) => {}
        Some(token) if bearer(request.headers()).is_some_and(|given| token.matches(given)) => {}
        Some(_) => return Err(Error::Unauthorized),
        None => {
            check_local(request.uri(), request.headers())?;
            check_intent(request.method(), request.headers())?;
        }
    }
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, given) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| given.trim_ascii())
}

/// A page of another site reaches us under its own name (`Host`, after rebinding it) or says where it is from
/// (`Origin`); programs send a loopback host and no origin.
fn check_local(uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    let host = match headers.get(HOST) {
        Some(host) => Some(host.to_str().map_err(|_| Error::Foreign)?),
        None => uri.authority().map(|authority| authority.as_str()),
    };
    let origin = match headers.get(ORIGIN) {
        // A sandboxed or local page has the origin "null", and could be anybody's.
        Some(origin) => {
            let origin = origin.to_str().map_err(|_| Error::Foreign)?;
            Some(origin.split_once("://").ok_or(Error::Foreign)?.1)
        }
        None => None,
    };
    if host.into_iter().chain(origin).all(is_loopback) { Ok(()) } else { Err(Error::Foreign) }
}

/// By this header, or by the content type of JSON, a program says that it means what it asks for.
pub const INTENT_HEADER: &str = "x-slotline";

fn check_intent(method: &Method, headers: &HeaderMap) -> Result<(), Error> {
    let is_json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
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
    fn a_token_is_trimmed_checked_and_never_shown() {
        let token = Token::new(" s3cret\n").expect("a token");
        assert_eq!(format!("{token:?}"), "Token(***)");
        assert!(token.matches(b"s3cret"));
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3crets"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong:?}");
        }
        for bad in ["", "  ", "two words", "schlüssel", &"x".repeat(TOKEN_CHARS_MAX + 1)] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn beyond_loopback_an_executor_listens_only_with_a_token_that_can_not_be_guessed() {
        let token = Token::new(&"t".repeat(EXPOSED_TOKEN_CHARS_MIN)).expect("a token");
        let short = Token::new(&"t".repeat(EXPOSED_TOKEN_CHARS_MIN - 1)).expect("a token");
        for address in ["127.0.0.1:7070", "127.8.8.8:1", "[::1]:7070", "[::ffff:127.0.0.1]:1"] {
            let address = address.parse().expect(address);
            assert!(check_exposure(address, None).is_ok(), "{address}");
            assert!(check_exposure(address, Some(&short)).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:7070", "[::]:7070", "192.168.1.2:7070"] {
            let address = address.parse().expect(address);
            let error = check_exposure(address, None).expect_err("exposed").to_string();
            assert!(error.contains("SLOTLINE_API_TOKEN"), "{error}");
            assert!(check_exposure(address, Some(&token)).is_ok(), "{address}");
            let error = check_exposure(address, Some(&short)).expect_err("it could be guessed").to_string();
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
