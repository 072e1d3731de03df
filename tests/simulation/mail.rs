//! What a leader's effects are on the wire, in the order in which they leave.
//!
//! As `crates/executor/src/mail.rs` writes them: the greetings first, then each worker's orders, those of one type
//! together, and the probes last.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::value::RawValue;
use slotline_protocol::message::{self, AttemptKey, Cancel, Hello, Lineage, Probe, Recall, Recorded, Scheduled};
use slotline_protocol::policy::OnIsolation;
use slotline_protocol::proof::Ring;
use slotline_protocol::{ActionId, Detail, Epoch, ExecutionId, Fence, Incarnation, Timestamp};
use slotline_scheduler::{Dispatch, Effects, Order, Sent};
use slotline_worker::duty;

use crate::history::Fact;
use crate::journal::{action_id, action_ref};
use crate::plan::Terms;
use crate::seal;
use crate::stage::Stage;
use crate::wire::{ActionRow, Body, Purpose, Queue, Route, SessionId, Tag, Up};

pub(crate) enum Letter {
    Hello(Body),
    Orders {
        incarnation: Incarnation,
        orders: Vec<duty::Order>,
    },
    /// To an incarnation that has no token yet, by the nonce of its heartbeat.
    Introduction {
        incarnation: Incarnation,
        nonce: String,
        hello: duty::Order,
    },
    Probe {
        queue: Queue,
        probe: Probe,
    },
    Ack {
        queue: Queue,
        tag: Tag,
    },
    Said(Fact),
}

impl Letter {
    /// As a leader on this copy of the journal sends it.
    pub(crate) fn send(self, session: SessionId, site: usize, ring: Option<&Ring>, stage: &mut Stage) {
        match self {
            Self::Hello(body) => stage.publish(session, Route::Workers, Rc::new(body), false, Purpose::Other),
            Self::Orders { incarnation, orders } => {
                for order in &orders {
                    note(order, site, stage);
                }
                let route = Route::To(Queue::Worker(incarnation));
                let body = seal::order(ring, incarnation, None, orders);
                stage.publish(session, route, Rc::new(body), true, Purpose::Order(incarnation));
            }
            Self::Introduction { incarnation, nonce, hello } => {
                let route = Route::To(Queue::Worker(incarnation));
                let body = seal::order(ring, incarnation, Some(nonce), vec![hello]);
                stage.publish(session, route, Rc::new(body), true, Purpose::Order(incarnation));
            }
            Self::Probe { queue, probe } => {
                stage.publish(session, Route::To(queue), Rc::new(Body::Probe(probe)), false, Purpose::Other);
            }
            Self::Ack { queue, tag } => stage.send(session, Up::Ack { queue, tag }),
            Self::Said(fact) => stage.record_of(site, fact),
        }
    }
}

fn note(order: &duty::Order, site: usize, stage: &mut Stage) {
    match order {
        duty::Order::Scheduled(order) => stage.record_of(
            site,
            Fact::Dispatched { execution: order.execution_id, attempt: order.attempt, fence: order.fence },
        ),
        duty::Order::Recorded(order) => {
            for (execution, attempt) in &order.attempts {
                stage.record_of(site, Fact::Recorded { execution: *execution, attempt: *attempt });
            }
        }
        _ => {}
    }
}

/// All that letters are written from.
pub(crate) struct Mailbag<'a> {
    pub(crate) epoch: Epoch,
    pub(crate) terms: Terms,
    pub(crate) actions: &'a BTreeMap<ActionId, ActionRow>,
    pub(crate) bodies: &'a BTreeMap<ExecutionId, usize>,
    pub(crate) stage: &'a Stage,
    pub(crate) journal: Lineage,
    pub(crate) wants_accounts: bool,
}

impl Mailbag<'_> {
    pub(crate) fn write(&self, effects: &Effects, introductions: Vec<(Incarnation, String, u64)>) -> Vec<Letter> {
        let mut letters = Vec::new();
        if effects.hello.is_some() {
            letters.push(Letter::Hello(Body::Greeting(self.epoch)));
        }
        for (incarnation, n) in &effects.greetings {
            letters.push(Letter::Orders { incarnation: *incarnation, orders: vec![self.hello(*n, false)] });
        }
        let mut by_worker: BTreeMap<Incarnation, Vec<duty::Order>> = BTreeMap::new();
        for Sent { incarnation, n, order } in &effects.orders {
            by_worker.entry(*incarnation).or_default().extend(self.order(*n, order));
        }
        for (incarnation, orders) in by_worker {
            let same =
                |one: &duty::Order, other: &duty::Order| std::mem::discriminant(one) == std::mem::discriminant(other);
            for run in orders.chunk_by(same) {
                letters.push(Letter::Orders { incarnation, orders: run.to_vec() });
            }
        }
        letters.extend(introductions.into_iter().map(|(incarnation, nonce, n)| Letter::Introduction {
            incarnation,
            nonce,
            hello: self.hello(n, false),
        }));
        letters
    }

    fn order(&self, n: u64, order: &Order) -> Option<duty::Order> {
        let epoch = self.epoch;
        Some(match order {
            Order::Lost => self.hello(n, true),
            Order::Recorded { attempts } => duty::Order::Recorded(Recorded { epoch, n, attempts: attempts.clone() }),
            Order::Cancel { key: (execution_id, attempt), fence, reason } => duty::Order::Cancel(Cancel {
                epoch,
                n,
                execution_id: *execution_id,
                attempt: *attempt,
                fence: *fence,
                if_not_started: false,
                grace_seconds: None,
                reason: reason.clone(),
            }),
            Order::Recall { key: (execution_id, attempt), fence } => duty::Order::Recall(Recall {
                epoch,
                n,
                execution_id: *execution_id,
                attempt: *attempt,
                fence: *fence,
                reason: String::new(),
            }),
            Order::Dispatch(dispatch) => {
                let number = *self.bodies.get(&dispatch.id)?;
                duty::Order::Scheduled(self.scheduled(n, dispatch, number))
            }
        })
    }

    fn scheduled(&self, n: u64, dispatch: &Dispatch, number: usize) -> Scheduled {
        let policy = self.actions.get(&dispatch.action).map(|row| &row.policy);
        Scheduled {
            epoch: self.epoch,
            n,
            execution_id: dispatch.id,
            attempt: dispatch.attempt,
            counts_as: message::grant(dispatch.counts_as, dispatch.attempt),
            fence: dispatch.fence,
            action_id: dispatch.action,
            action_ref: dispatch.action_ref.clone(),
            parameters: self.stage.parameters[number].clone(),
            timeout_seconds: policy.and_then(|policy| policy.timeout),
            start_timeout_seconds: policy.and_then(|policy| policy.start_timeout),
            stall_timeout_seconds: policy.and_then(|policy| policy.stall_timeout),
            progress: Detail::default(),
            starts_after: dispatch.starts_after,
            scheduled_at: dispatch.scheduled_at,
            concurrency_key: dispatch.key.clone(),
            message_id: None,
            continue_when_isolated: policy.is_some_and(|policy| policy.on_isolation == OnIsolation::Continue),
            correlation_id: None,
            trace_id: None,
        }
    }

    fn hello(&self, n: u64, lost: bool) -> duty::Order {
        duty::Order::Hello(Hello {
            epoch: self.epoch,
            n,
            lease_seconds: Some(self.terms.lease),
            fence_seconds: Some(self.terms.fence),
            heartbeat_seconds: Some(self.terms.heartbeat),
            lost,
            journal: Some(self.journal),
            account: self.wants_accounts,
            refused: None,
        })
    }
}

/// What names a request in its parameters.
pub(crate) fn parameters(number: usize) -> std::sync::Arc<RawValue> {
    RawValue::from_string(number.to_string()).expect("a number is JSON").into()
}

/// A dispatch as the first leader would write it, by hand.
pub(crate) fn chained(
    n: u64,
    (execution_id, attempt): AttemptKey,
    starts_after: Option<AttemptKey>,
    parameters: std::sync::Arc<RawValue>,
) -> Scheduled {
    Scheduled {
        epoch: Epoch(1),
        n,
        execution_id,
        attempt,
        counts_as: None,
        fence: Fence(execution_id.0),
        action_id: action_id(0),
        action_ref: action_ref(0),
        parameters,
        timeout_seconds: None,
        start_timeout_seconds: None,
        stall_timeout_seconds: None,
        progress: Detail::default(),
        starts_after,
        scheduled_at: Timestamp::default(),
        concurrency_key: None,
        message_id: None,
        continue_when_isolated: false,
        correlation_id: None,
        trace_id: None,
    }
}
