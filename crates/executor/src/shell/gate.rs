//! The check of proofs in this process: the journal's secret as it was read last, and a count of what was refused.
//!
//! [`slotline_protocol::proof`] decides what is believed. A message without a proof changes nothing: it is dropped and
//! counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slotline_broker::{Delivery, Properties};
use slotline_protocol::Incarnation;
use slotline_protocol::proof::{Channel, NONCE_HEADER, PROOF_HEADER, Ring, Secret, Speaker, Token, Verdict};
use slotline_store::{Error, Store};
use tokio::time::Instant;

use super::headers::USER_HEADER;

/// Refusals are logged no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The journal's secret in this process; shared by its leader's loop and its HTTP server.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    current: Mutex<Option<Arc<Gate>>>,
    pub(crate) refusals: Arc<Refusals>,
}

impl Gates {
    /// Reads the secret anew: another journal may have been put in place since.
    pub(crate) async fn read(&self, store: &Store) -> Result<Arc<Gate>, Error> {
        let gate = Arc::new(Gate::new(store.secret().await?, self.refusals.clone()));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate.clone());
        Ok(gate)
    }

    /// The secret as it was read last.
    pub(crate) fn current(&self) -> Option<Arc<Gate>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the secret read again: a message that another executor must have signed was not signed with it.
    pub(crate) fn forget(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Counts what was refused for want of proof.
#[derive(Debug, Default)]
pub struct Refusals {
    count: AtomicU64,
    told: Mutex<Option<(Instant, u64)>>,
}

impl Refusals {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts `more` messages that were refused alike; logs them now and then.
    pub(crate) fn add(&self, what: &str, more: u64) {
        if more == 0 {
            return;
        }
        let count = self.count.fetch_add(more, Ordering::Relaxed) + more;
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match *told {
            Some((at, _)) if now < at + TELL_EVERY => return,
            Some((_, before)) => before,
            None => 0,
        };
        *told = Some((now, count));
        drop(told);
        let since = count - before;
        tracing::warn!(
            since,
            last = what,
            "refused messages that can't be from the one that they name; see readyz?verbose"
        );
    }
}

/// The secret in use, and the count of what failed its check.
#[derive(Debug)]
pub struct Gate {
    ring: Ring,
    refusals: Arc<Refusals>,
}

impl Gate {
    pub fn new(secret: Secret, refusals: Arc<Refusals>) -> Self {
        Self { ring: Ring::new(secret), refusals }
    }

    /// The sender of a delivery, as far as the delivery proves it.
    pub(crate) fn speaker<'a>(&self, delivery: &'a Delivery) -> Speaker<'a> {
        let header = |name| delivery.properties.headers.get(name).map(String::as_str);
        self.ring.speaker(header(PROOF_HEADER), header(NONCE_HEADER), &delivery.body)
    }

    /// Judges a message of a sender; counts the refused ones.
    pub(crate) fn verdict<'a>(&self, speaker: Speaker<'a>, message_type: &str, of: Option<Incarnation>) -> Verdict<'a> {
        let verdict = self.ring.verdict(speaker, message_type, of);
        if verdict == Verdict::Refused {
            self.refuse(message_type);
        }
        verdict
    }

    /// The proof of an order to this incarnation.
    pub(crate) fn order(&self, incarnation: Incarnation, body: &[u8]) -> String {
        self.ring.order(incarnation, body)
    }

    pub(crate) fn token(&self, incarnation: Incarnation) -> Token {
        self.ring.token(incarnation)
    }

    pub(crate) fn sign(&self, channel: Channel, body: &[u8]) -> String {
        self.ring.sign(channel, body)
    }

    /// Whether another executor wrote this.
    pub(crate) fn is_executors(&self, channel: Channel, properties: &Properties, body: &[u8]) -> bool {
        self.ring.is_executors(channel, properties.headers.get(PROOF_HEADER).map(String::as_str), body)
    }

    /// The headers by which every executor finds the user whose message this one publishes again.
    pub(crate) fn headers_of_replay(&self, user: String, body: &[u8]) -> [(String, String); 2] {
        let proof = self.sign(Channel::Replay, &replayed(&user, body));
        [(USER_HEADER.to_owned(), user), (PROOF_HEADER.to_owned(), proof)]
    }

    /// Sets the user of a message that an executor has replayed. A claim without the executor's proof is dropped.
    pub(crate) fn restore_user(&self, properties: &mut Properties, body: &[u8]) {
        if let Some(user) = properties.headers.remove(USER_HEADER)
            && self.is_executors(Channel::Replay, properties, &replayed(&user, body))
        {
            properties.user_id = Some(user);
        }
    }

    /// Counts a message that was not believed.
    pub(crate) fn refuse(&self, what: &str) {
        self.refusals.add(what, 1);
    }

    /// Counts the messages of a kind that were not believed.
    pub(crate) fn refuse_all(&self, what: &str, count: u32) {
        self.refusals.add(what, count.into());
    }
}

/// What a replay is signed over: RabbitMQ's user names have no NUL.
fn replayed(user: &str, body: &[u8]) -> Vec<u8> {
    [user.as_bytes(), b"\0", body].concat()
}

#[cfg(test)]
mod tests {
    use slotline_protocol::proof::SECRET_BYTES;

    use super::*;

    fn gate(byte: u8) -> Gate {
        Gate::new(Secret::new(&[byte; SECRET_BYTES]).expect("long enough"), Arc::default())
    }

    #[test]
    fn whose_a_replayed_message_is_only_an_executor_of_this_journal_can_say() {
        let restored = |headers: Vec<(String, String)>, body: &[u8]| {
            let mut properties = Properties { headers: headers.into_iter().collect(), ..Properties::default() };
            gate(1).restore_user(&mut properties, body);
            properties.user_id
        };
        let headers = |byte| gate(byte).headers_of_replay("anna".to_owned(), b"body").to_vec();
        assert_eq!(restored(headers(1), b"body").as_deref(), Some("anna"));
        assert_eq!(restored(headers(2), b"body"), None);
        assert_eq!(restored(headers(1), b"other"), None);
        assert_eq!(restored(vec![(USER_HEADER.to_owned(), "anna".to_owned())], b"body"), None);
    }
}
