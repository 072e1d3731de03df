//! Proof that a message comes from the sender it names, whatever the broker lets through.
//!
//! The journal holds a secret. A token for each incarnation of a worker is derived from it, which the leader sends to
//! that incarnation's own queue alone, and one for executors among themselves. A message carries a code over its body
//! under such a token, never the token: completions and progress are public. So no executor keeps a list of tokens; the
//! next leader derives them again. A message that is sent a second time is no forgery, and changes nothing twice.
//!
//! [`Ring`] is an executor's part in this, [`Trust`] a worker's: both only decide.
//!
//! A worker's name is not proved: a process that may publish as a worker may take any name.

mod ring;
mod trust;

use std::fmt::{self, Write as _};
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

pub use ring::{Ring, Speaker, Verdict};
pub use trust::{Letter, Trust, Worth};

use crate::Incarnation;

/// The header with the code over a body. A worker's begins with its incarnation and a space.
pub const PROOF_HEADER: &str = "x-slotline-proof";
/// The header of a heartbeat, and of the answer to it, by which the worker recognises the answer.
pub const NONCE_HEADER: &str = "x-slotline-nonce";
/// The header that brings an incarnation its token.
pub const TOKEN_HEADER: &str = "x-slotline-token";
/// How many bytes a secret has, at least.
pub const SECRET_BYTES: usize = 32;

type Code = Hmac<Sha256>;

/// The kind of message that a code is for. A code for one kind proves nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// From a worker to executors.
    Report,
    /// From the leader to a worker.
    Order,
    /// From an executor to the leader.
    Call,
    /// From the leader to an executor: answers, and the events that the executor's clients subscribed to.
    Answer,
    /// From an executor to executors: the publisher of a message that it publishes again.
    Replay,
}

impl Channel {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Report => b"report\0",
            Self::Order => b"order\0",
            Self::Call => b"call\0",
            Self::Answer => b"answer\0",
            Self::Replay => b"replay\0",
        }
    }
}

/// The journal's secret.
#[derive(Clone)]
pub struct Secret(Code);

/// The key of one incarnation of a worker, or of all executors.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// A token ready to sign; made once, since for a short body the key is a good part of the cost.
#[derive(Clone)]
pub struct Key(Code);

impl Secret {
    /// `None` if there are too few bytes to be a secret.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= SECRET_BYTES).then(|| Self(code(bytes)))
    }

    pub fn of_worker(&self, incarnation: Incarnation) -> Token {
        self.token(b"worker\0", incarnation.0.as_bytes())
    }

    pub fn of_executors(&self) -> Token {
        self.token(b"executors\0", b"")
    }

    fn token(&self, kind: &[u8], name: &[u8]) -> Token {
        let code = self.0.clone().chain_update(kind).chain_update(name);
        Token(code.finalize().into_bytes().into())
    }
}

impl Key {
    pub fn new(token: &Token) -> Self {
        Self(code(&token.0))
    }

    /// The code over a body.
    pub fn sign(&self, channel: Channel, body: &[u8]) -> String {
        hex(&self.over(channel, body).finalize().into_bytes())
    }

    /// Whether `proof` is the code over the body; takes the same time for every wrong one.
    pub fn proves(&self, channel: Channel, body: &[u8], proof: &str) -> bool {
        bytes(proof).is_some_and(|proof| self.over(channel, body).verify_slice(&proof).is_ok())
    }

    fn over(&self, channel: Channel, body: &[u8]) -> Code {
        self.0.clone().chain_update(channel.label()).chain_update(body)
    }
}

/// The proof of a worker's message.
pub fn of_worker(incarnation: Incarnation, key: &Key, body: &[u8]) -> String {
    format!("{incarnation} {}", key.sign(Channel::Report, body))
}

/// The incarnation that a worker's proof names, and the code.
pub fn speaker(proof: &str) -> Option<(Incarnation, &str)> {
    let (incarnation, code) = proof.split_once(' ')?;
    Some((Incarnation(incarnation.parse().ok()?), code))
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        bytes(text).map(Self).ok_or(NoToken)
    }
}

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has 64 hexadecimal digits")]
pub struct NoToken;

macro_rules! not_shown {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(***)"))
            }
        })*
    };
}

not_shown!(Secret, Token, Key);

fn code(key: &[u8]) -> Code {
    Code::new_from_slice(key).expect("a key of any length will do")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes it");
    }
    text
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| (digit as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn secret() -> Secret {
        Secret::new(&[7; SECRET_BYTES]).expect("long enough")
    }

    fn incarnation(number: u128) -> Incarnation {
        Incarnation(Uuid::from_u128(number))
    }

    #[test]
    fn a_code_holds_for_its_body_its_channel_and_its_token_alone() {
        let key = Key::new(&secret().of_worker(incarnation(1)));
        let proof = key.sign(Channel::Report, b"done");
        assert!(key.proves(Channel::Report, b"done", &proof));
        assert!(!key.proves(Channel::Report, b"gone", &proof));
        assert!(!key.proves(Channel::Order, b"done", &proof));
        let others = [secret().of_worker(incarnation(2)), secret().of_executors()];
        assert!(others.iter().all(|other| !Key::new(other).proves(Channel::Report, b"done", &proof)));
        let other = Secret::new(&[8; SECRET_BYTES]).expect("long enough").of_worker(incarnation(1));
        assert!(!Key::new(&other).proves(Channel::Report, b"done", &proof));
        for wrong in ["", "0", &proof[1..], &proof.replace(|_: char| true, "ä"), &format!("{proof}0")] {
            assert!(!key.proves(Channel::Report, b"done", wrong), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_never_shown() {
        let token = secret().of_worker(incarnation(1));
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!("abc".parse::<Token>(), Err(NoToken));
        assert_eq!(format!("{:?} {:?} {:?}", secret(), token, Key::new(&token)), "Secret(***) Token(***) Key(***)");
        assert!(Secret::new(&[7; SECRET_BYTES - 1]).is_none());
    }

    #[test]
    fn a_workers_proof_names_who_speaks() {
        let key = Key::new(&secret().of_worker(incarnation(1)));
        let proof = of_worker(incarnation(1), &key, b"done");
        let (sender, code) = speaker(&proof).expect("a proof");
        assert_eq!(sender, incarnation(1));
        assert!(key.proves(Channel::Report, b"done", code));
        assert_eq!(speaker("nobody in particular"), None);
    }
}
