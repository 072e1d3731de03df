//! An executor's side of proofs: it checks those of workers and of other executors, and signs its own messages.
//!
//! A report counts only with the code of the incarnation that it names. A heartbeat without one comes from a worker
//! that is new to this journal: only its nonce is taken, and the only answer is an introduction, sent to that
//! incarnation's own queue, which only the worker itself reads.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::{Channel, Key, Secret, Token, speaker};
use crate::Incarnation;
use crate::message::{Heartbeat, Message};

/// The most keys that are kept; beyond that all are dropped, since each can be derived again.
const KEYS_MAX: usize = 10_000;
/// The most characters of a nonce; a worker's is a UUID.
const NONCE_CHARS_MAX: usize = 64;

/// The secret of a journal, with the keys that follow from it. Shared by the readers of all queues.
pub struct Ring {
    secret: Secret,
    executors: Key,
    workers: Mutex<HashMap<Incarnation, Key>>,
}

/// The sender of a report, as far as it is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker<'a> {
    /// This incarnation wrote it.
    Worker(Incarnation),
    /// Not proved; a heartbeat may ask for an introduction of the incarnation that it names.
    Stranger { nonce: &'a str },
    /// Not proved.
    Unknown,
}

/// What one member of a report is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// All that its worker is allowed.
    Believed,
    /// Only the introduction of its incarnation, which recognises the answer by this nonce.
    Introduced { nonce: &'a str },
    /// Nothing.
    Refused,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring(***)")
    }
}

impl Ring {
    pub fn new(secret: Secret) -> Self {
        let executors = Key::new(&secret.of_executors());
        Self { secret, executors, workers: Mutex::default() }
    }

    /// The sender of a body, by the headers that came with it.
    pub fn speaker<'a>(&self, proof: Option<&str>, nonce: Option<&'a str>, body: &[u8]) -> Speaker<'a> {
        match (proof.and_then(|proof| self.proven(proof, body)), nonce) {
            (Some(incarnation), _) => Speaker::Worker(incarnation),
            (None, Some(nonce)) if nonce.len() <= NONCE_CHARS_MAX => Speaker::Stranger { nonce },
            (None, _) => Speaker::Unknown,
        }
    }

    fn proven(&self, proof: &str, body: &[u8]) -> Option<Incarnation> {
        let (incarnation, code) = speaker(proof)?;
        let known = self.known(incarnation);
        let key = known.clone().unwrap_or_else(|| Key::new(&self.token(incarnation)));
        if !key.proves(Channel::Report, body, code) {
            return None;
        }
        if known.is_none() {
            self.keep(incarnation, key);
        }
        Some(incarnation)
    }

    /// What a report from this speaker is allowed: `of` is the incarnation that the report names, `None` if it names
    /// none.
    pub fn verdict<'a>(&self, speaker: Speaker<'a>, message_type: &str, of: Option<Incarnation>) -> Verdict<'a> {
        match (speaker, of) {
            (Speaker::Worker(speaker), of) if of.is_none_or(|of| of == speaker) => Verdict::Believed,
            // An incarnation that has proved itself has its token: a heartbeat without proof is not from it.
            (Speaker::Stranger { nonce }, Some(of)) if message_type == Heartbeat::TYPE && self.known(of).is_none() => {
                Verdict::Introduced { nonce }
            }
            (Speaker::Worker(_) | Speaker::Stranger { .. } | Speaker::Unknown, _) => Verdict::Refused,
        }
    }

    /// The proof of an order to this incarnation.
    pub fn order(&self, incarnation: Incarnation, body: &[u8]) -> String {
        let key = self.known(incarnation).unwrap_or_else(|| Key::new(&self.token(incarnation)));
        key.sign(Channel::Order, body)
    }

    /// The token that an introduction brings to this incarnation.
    pub fn token(&self, incarnation: Incarnation) -> Token {
        self.secret.of_worker(incarnation)
    }

    /// The proof of a message between executors.
    pub fn sign(&self, channel: Channel, body: &[u8]) -> String {
        self.executors.sign(channel, body)
    }

    /// Whether another executor wrote this.
    pub fn is_executors(&self, channel: Channel, proof: Option<&str>, body: &[u8]) -> bool {
        proof.is_some_and(|proof| self.executors.proves(channel, body, proof))
    }

    fn known(&self, incarnation: Incarnation) -> Option<Key> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).get(&incarnation).cloned()
    }

    fn keep(&self, incarnation: Incarnation, key: Key) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.len() >= KEYS_MAX {
            workers.clear();
        }
        workers.insert(incarnation, key);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::message::Completed;
    use crate::proof::{SECRET_BYTES, of_worker};

    fn ring(byte: u8) -> Ring {
        Ring::new(Secret::new(&[byte; SECRET_BYTES]).expect("long enough"))
    }

    fn incarnation(number: u128) -> Incarnation {
        Incarnation(Uuid::from_u128(number))
    }

    fn proof(ring: &Ring, of: Incarnation, body: &[u8]) -> String {
        of_worker(of, &Key::new(&ring.token(of)), body)
    }

    #[test]
    fn a_report_is_believed_of_the_incarnation_that_proves_it_and_of_no_other() {
        let ring = ring(1);
        let proof = proof(&ring, incarnation(1), b"done");
        let speaker = ring.speaker(Some(&proof), None, b"done");
        assert_eq!(speaker, Speaker::Worker(incarnation(1)));
        assert_eq!(ring.verdict(speaker, Completed::TYPE, Some(incarnation(1))), Verdict::Believed);
        assert_eq!(ring.verdict(speaker, Completed::TYPE, None), Verdict::Believed);
        assert_eq!(ring.verdict(speaker, Completed::TYPE, Some(incarnation(2))), Verdict::Refused);
        assert_eq!(ring.verdict(speaker, Heartbeat::TYPE, Some(incarnation(2))), Verdict::Refused);
        let stranger = ring.speaker(None, Some("n"), b"beat");
        assert_eq!(ring.verdict(stranger, Heartbeat::TYPE, Some(incarnation(1))), Verdict::Refused, "it has its token");
        assert_eq!(ring.speaker(Some(&proof), None, b"gone"), Speaker::Unknown);
    }

    #[test]
    fn a_heartbeat_without_proof_asks_for_an_introduction_and_everything_else_for_nothing() {
        let ours = ring(1);
        let theirs = proof(&ring(2), incarnation(1), b"beat");
        for proof in [None, Some("what"), Some(theirs.as_str())] {
            let speaker = ours.speaker(proof, Some("n"), b"beat");
            assert_eq!(speaker, Speaker::Stranger { nonce: "n" });
            let of = Some(incarnation(1));
            assert_eq!(ours.verdict(speaker, Heartbeat::TYPE, of), Verdict::Introduced { nonce: "n" });
            assert_eq!(ours.verdict(speaker, Completed::TYPE, of), Verdict::Refused);
            let bare = ours.speaker(proof, None, b"beat");
            assert_eq!(ours.verdict(bare, Heartbeat::TYPE, of), Verdict::Refused);
            let long = "n".repeat(NONCE_CHARS_MAX + 1);
            assert_eq!(ours.speaker(proof, Some(&long), b"beat"), Speaker::Unknown);
        }
    }

    #[test]
    fn executors_of_one_journal_know_each_other() {
        let (one, other, foreign) = (ring(1), ring(1), ring(2));
        let proof = one.sign(Channel::Call, b"ask");
        assert!(other.is_executors(Channel::Call, Some(&proof), b"ask"));
        assert!(!other.is_executors(Channel::Answer, Some(&proof), b"ask"));
        assert!(!other.is_executors(Channel::Call, None, b"ask"));
        assert!(!foreign.is_executors(Channel::Call, Some(&proof), b"ask"));
    }
}
