//! A worker's side of proofs: which messages one incarnation believes, and how it signs its own.
//!
//! Its heartbeats bear a nonce, which only executors read. An answer with that nonce, in the queue that only this
//! incarnation reads, comes from an executor; the token in the answer proves each to the other from then on. Before
//! that no order is obeyed, and afterwards every message without the token's code is dropped. A journal with another
//! secret introduces itself in the same way, and its token replaces the one before.
//!
//! A greeting to all workers can't bear the code of one. It is a hint to send a heartbeat, and nothing is taken from
//! it.

use super::{Channel, Key, Token, of_worker};
use crate::Incarnation;

/// One incarnation's standing with the executors of a journal.
#[derive(Clone, Debug)]
pub struct Trust {
    incarnation: Incarnation,
    nonce: String,
    key: Option<Key>,
}

/// The parts of a message in an incarnation's queue that prove its sender.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// It went to all workers.
    pub is_to_all: bool,
    pub proof: Option<&'a str>,
    pub nonce: Option<&'a str>,
    pub token: Option<&'a str>,
    pub body: &'a [u8],
}

/// How far a letter is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// An executor of this worker's journal wrote it.
    Order,
    /// The same, with a token that is new: earlier reports of this incarnation were not believed there, and are to be
    /// repeated.
    Introduction,
    /// Its sender is not proved; a new leader sends such a greeting.
    Hint,
    Nothing,
}

impl Trust {
    /// `nonce` can't be guessed, and is of this incarnation alone.
    pub fn new(incarnation: Incarnation, nonce: String) -> Self {
        Self { incarnation, nonce, key: None }
    }

    /// Judges a message in the incarnation's queue, and keeps the token that it may bring.
    pub fn judge(&mut self, letter: Letter<'_>) -> Worth {
        if letter.is_to_all {
            return Worth::Hint;
        }
        let Some(code) = letter.proof else { return Worth::Nothing };
        if self.key.as_ref().is_some_and(|key| key.proves(Channel::Order, letter.body, code)) {
            return Worth::Order;
        }
        let token = letter.token.filter(|_| letter.nonce == Some(&self.nonce));
        match token.and_then(|token| token.parse::<Token>().ok()).map(|token| Key::new(&token)) {
            Some(key) if key.proves(Channel::Order, letter.body, code) => {
                self.key = Some(key);
                Worth::Introduction
            }
            Some(_) | None => Worth::Nothing,
        }
    }

    /// Whether an executor has introduced itself to this incarnation.
    pub fn is_known(&self) -> bool {
        self.key.is_some()
    }

    /// The nonce of its heartbeats, by which the incarnation recognises the answer.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The proof of a report with this body; `None` before an introduction.
    pub fn proof(&self, body: &[u8]) -> Option<String> {
        self.key.as_ref().map(|key| of_worker(self.incarnation, key, body))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::proof::{Ring, SECRET_BYTES, Secret, Speaker};

    const BODY: &[u8] = b"{}";

    fn incarnation() -> Incarnation {
        Incarnation(Uuid::from_u128(1))
    }

    fn ring(byte: u8) -> Ring {
        Ring::new(Secret::new(&[byte; SECRET_BYTES]).expect("long enough"))
    }

    fn trust() -> Trust {
        Trust::new(incarnation(), "the nonce".to_owned())
    }

    fn order(trust: &mut Trust, proof: Option<&str>) -> Worth {
        trust.judge(Letter { is_to_all: false, proof, nonce: None, token: None, body: BODY })
    }

    fn introduce(trust: &mut Trust, ring: &Ring, nonce: &str, body: &[u8]) -> Worth {
        let (proof, token) = (ring.order(incarnation(), BODY), ring.token(incarnation()).to_string());
        trust.judge(Letter { is_to_all: false, proof: Some(&proof), nonce: Some(nonce), token: Some(&token), body })
    }

    #[test]
    fn a_token_is_taken_only_with_the_nonce_of_this_incarnations_heartbeats() {
        let (mut trust, ring) = (trust(), ring(1));
        assert_eq!(introduce(&mut trust, &ring, "a guess", BODY), Worth::Nothing);
        assert_eq!(introduce(&mut trust, &ring, "the nonce", b"{ }"), Worth::Nothing);
        assert!(!trust.is_known());
        assert_eq!(introduce(&mut trust, &ring, "the nonce", BODY), Worth::Introduction);
        assert!(trust.is_known());
        assert_eq!(introduce(&mut trust, &ring, "the nonce", BODY), Worth::Order, "the second of two is an order");
    }

    #[test]
    fn orders_are_obeyed_with_the_code_of_the_token_and_a_greeting_to_all_is_a_hint() {
        let mut trust = trust();
        let (ours, theirs) = (ring(1).order(incarnation(), BODY), ring(2).order(incarnation(), BODY));
        let all = [Some(ours.as_str()), Some(theirs.as_str()), None];
        assert_eq!(all.map(|proof| order(&mut trust, proof)), [Worth::Nothing; 3], "no token yet");
        introduce(&mut trust, &ring(1), "the nonce", BODY);
        assert_eq!(all.map(|proof| order(&mut trust, proof)), [Worth::Order, Worth::Nothing, Worth::Nothing]);
        for proof in all {
            let to_all = Letter { is_to_all: true, proof, nonce: None, token: None, body: BODY };
            assert_eq!(trust.judge(to_all), Worth::Hint);
        }
    }

    #[test]
    fn another_journal_takes_the_place_of_the_one_before_by_the_same_nonce() {
        let (mut trust, one, other) = (trust(), ring(1), ring(2));
        introduce(&mut trust, &one, "the nonce", BODY);
        let stranger = trust.proof(b"beat");
        let speaker = other.speaker(stranger.as_deref(), Some(trust.nonce()), b"beat");
        let Speaker::Stranger { nonce } = speaker else { panic!("it is not known: {speaker:?}") };
        let nonce = nonce.to_owned();
        assert_eq!(introduce(&mut trust, &other, &nonce, BODY), Worth::Introduction);
        let proof = trust.proof(b"beat");
        assert_eq!(other.speaker(proof.as_deref(), None, b"beat"), Speaker::Worker(incarnation()));
    }
}
