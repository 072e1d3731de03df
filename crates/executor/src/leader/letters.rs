//! What leaves after a commit: as the leader decides it, and as an encoder has written it.

use std::collections::BTreeMap;
use std::sync::Arc;

use slotline_broker::Publication;
use slotline_protocol::{ExecutionId, Incarnation, Reason};
use slotline_scheduler::{Departed, Order, Sent, Settled};
use slotline_store::Request;

use super::request::{Asked, BYTES_PER_WEIGHT, PutAside, Rejection, Turned};
use crate::record::MissingEvents;

/// What leaves the process after the commit.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    pub hello: Option<u64>,
    pub greetings: Vec<(Incarnation, u64)>,
    pub orders: Vec<Sent>,
    /// How many words bore numbers that no journal can have come to.
    pub wild: u32,
    /// Incarnations that are to get their tokens, each with what it knows the answer by and the number of the order.
    pub introductions: Vec<(Incarnation, String, u64)>,
    /// Requests of the dispatches among the orders, as far as they are at hand.
    pub requests: BTreeMap<ExecutionId, Arc<Request>>,
    pub accepted: Vec<(Asked, ExecutionId, u64)>,
    pub refused: Vec<Turned>,
    pub rejections: Vec<Rejection>,
    pub refusals: Vec<PutAside>,
    pub settled: Vec<(Arc<Request>, Arc<Settled>)>,
    /// Ends of executions that an earlier term accepted: only the journal knows which publishers wait for them.
    pub inherited: Vec<Arc<Settled>>,
    /// Publishers that wait for an end that only the journal knows.
    pub ended: Vec<(Arc<Request>, ExecutionId)>,
    pub probe: bool,
    /// No worker goes by a longer lease of an earlier leader any more.
    pub terms_are_known: bool,
    /// Events to be asked for again, each with the number of the order.
    pub missing: Vec<(u64, MissingEvents)>,
    /// Workers that are greeted since another one has their name; after all that has a lower number.
    pub namesakes: Vec<(Incarnation, u64)>,
    /// Workers that are refused, and why.
    pub refused_workers: Vec<(Incarnation, String, u64)>,
    /// Incarnations that are over, for the log.
    pub departed: Vec<Departed>,
    /// See [`Out::grants`].
    pub grants: BTreeMap<(ExecutionId, u64), u32>,
    /// Executions that were taken over from workers bring `message_id`s that the journal may know.
    pub brings_message_ids: bool,
}

impl Letters {
    /// Whether anything is said or noted that only a leader may: refusals too, since the next leader may know better.
    pub(crate) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
            || self.hello.is_some()
            || !self.greetings.is_empty()
            || !self.introductions.is_empty()
            || !self.missing.is_empty()
            || !self.namesakes.is_empty()
            || !self.refused_workers.is_empty()
            || !self.rejections.is_empty()
            || !self.refusals.is_empty()
            || !self.refused.is_empty()
            || self.terms_are_known
    }

    /// Why requests are answered with a refusal.
    pub(crate) fn rejected(&self) -> Vec<Reason> {
        let refused = self.refused.iter().map(|turned| turned.reason);
        self.rejections.iter().map(|rejection| rejection.reason).chain(refused).collect()
    }

    /// Dispatches whose requests have to be read from the journal.
    pub fn missing(&self) -> Vec<ExecutionId> {
        let dispatched = self.orders.iter().filter_map(|sent| match &sent.order {
            Order::Dispatch(dispatch) => Some(dispatch.id),
            Order::Recorded { .. } | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => None,
        });
        dispatched.filter(|id| !self.requests.contains_key(id)).collect()
    }
}

/// Publications in the order in which they must leave.
#[derive(Debug, Default)]
pub struct Mail<P = Publication> {
    pub publications: Vec<(P, Purpose)>,
    /// What nothing waits for; after all of the others.
    pub later: Vec<(P, Purpose)>,
    /// Copies for the dead letters; the requests behind them are acked once these are confirmed.
    pub dead: Vec<Weighed<P>>,
}

/// A copy for the dead letters, and how much of the room for those it takes until the broker has it.
#[derive(Clone, Debug)]
pub struct Weighed<P = Publication> {
    pub letter: P,
    pub weight: usize,
}

impl From<Publication> for Weighed {
    fn from(letter: Publication) -> Self {
        Self { weight: 1 + letter.body.len() / BYTES_PER_WEIGHT, letter }
    }
}

/// What a publication is for, as far as its fate matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// If it comes back, the incarnation's queue is gone.
    Order(Incarnation),
    /// Lost or not, someone else sees to it.
    Other,
}
