//! What a leader's letters are on the wire, in the order in which they leave.
//!
//! As `crates/executor/src/mail.rs` writes them: the greetings first, then each worker's orders, those of one type
//! together, then introductions and questions, and the answers last.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::value::RawValue;
use slotline_broker::Properties;
use slotline_executor::leader::{Came, Letters, Mail, MissingEvents, Purpose, Registered};
use slotline_protocol::message::{
    self, AttemptKey, Cancel, Hello, Lineage, Recall, Recorded, Reply, Resend, Scheduled,
};
use slotline_protocol::policy::OnIsolation;
use slotline_protocol::proof::Ring;
use slotline_protocol::{ActionRef, Detail, Epoch, ExecutionId, Fence, Incarnation, RequestName, Timestamp};
use slotline_scheduler::{Dispatch, Sent};
use slotline_store::Request;
use slotline_worker::duty::Order;

use crate::history::Fact;
use crate::journal::{action_id, action_ref};
use crate::plan::{RequestPlan, Terms};
use crate::seal;
use crate::stage::Stage;
use crate::wire::{self, Body, Queue, Route, SessionId};

/// The digest of every request: each name is of one body.
const DIGEST: [u8; 32] = [1; 32];

/// One publication, as it is before it is written out.
#[derive(Debug)]
pub(crate) enum Letter {
    Greeting(Epoch),
    Orders {
        incarnation: Incarnation,
        orders: Vec<Order>,
        is_mandatory: bool,
    },
    /// To an incarnation that has no token yet, by the nonce of its heartbeat.
    Introduction {
        incarnation: Incarnation,
        nonce: String,
        hello: Box<Order>,
    },
    Said(Fact),
}

impl Letter {
    /// As a leader on this copy of the journal sends it.
    pub(crate) fn send(
        self,
        purpose: Purpose,
        session: SessionId,
        site: usize,
        ring: Option<&Ring>,
        stage: &mut Stage,
    ) {
        let purpose = match purpose {
            Purpose::Order(incarnation) => wire::Purpose::Order(incarnation),
            Purpose::Other => wire::Purpose::Other,
        };
        match self {
            Self::Greeting(epoch) => {
                stage.publish(session, Route::Workers, Rc::new(Body::Greeting(epoch)), false, purpose);
            }
            Self::Orders { incarnation, orders, is_mandatory } => {
                for order in &orders {
                    note(order, site, stage);
                }
                let route = Route::To(Queue::Worker(incarnation));
                let body = seal::order(ring, incarnation, None, orders);
                stage.publish(session, route, Rc::new(body), is_mandatory, purpose);
            }
            Self::Introduction { incarnation, nonce, hello } => {
                let route = Route::To(Queue::Worker(incarnation));
                let body = seal::order(ring, incarnation, Some(nonce), vec![*hello]);
                stage.publish(session, route, Rc::new(body), true, purpose);
            }
            Self::Said(fact) => stage.record_of(site, fact),
        }
    }
}

fn note(order: &Order, site: usize, stage: &mut Stage) {
    match order {
        Order::Scheduled(order) => stage.record_of(
            site,
            Fact::Dispatched { execution: order.execution_id, attempt: order.attempt, fence: order.fence },
        ),
        Order::Recorded(order) => {
            for (execution, attempt) in &order.attempts {
                stage.record_of(site, Fact::Recorded { execution: *execution, attempt: *attempt });
            }
        }
        _ => {}
    }
}

/// Writes the letters of one term.
#[derive(Clone, Copy)]
pub(crate) struct Writer {
    pub(crate) epoch: Epoch,
    pub(crate) terms: Terms,
    pub(crate) journal: Lineage,
    pub(crate) wants_accounts: bool,
}

impl Writer {
    pub(crate) fn write(&self, letters: Letters, actions: &BTreeMap<ActionRef, Arc<Registered>>) -> Mail<Letter> {
        let mut mail = Mail { publications: Vec::new(), later: Vec::new(), dead: Vec::new() };
        if letters.hello.is_some() {
            mail.publications.push((Letter::Greeting(self.epoch), Purpose::Other));
        }
        let to = |incarnation, orders| {
            (Letter::Orders { incarnation, orders, is_mandatory: true }, Purpose::Order(incarnation))
        };
        let greet = |(incarnation, n)| to(incarnation, vec![Order::Hello(self.hello(n, false))]);
        mail.publications.extend(letters.greetings.into_iter().map(greet));
        let mut by_worker: BTreeMap<Incarnation, Vec<Order>> = BTreeMap::new();
        for Sent { incarnation, n, order } in letters.orders {
            let order = self.order(n, order, &letters.requests, actions);
            by_worker.entry(incarnation).or_default().extend(order);
        }
        for (incarnation, orders) in by_worker {
            for run in in_runs(orders) {
                let is_recorded = matches!(run[..], [Order::Recorded(_), ..]);
                let when = if is_recorded { &mut mail.later } else { &mut mail.publications };
                when.push(to(incarnation, run));
            }
        }
        for (incarnation, nonce, n) in letters.introductions {
            let letter =
                Letter::Introduction { incarnation, nonce, hello: Box::new(Order::Hello(self.hello(n, false))) };
            mail.publications.push((letter, Purpose::Order(incarnation)));
        }
        mail.later.extend(self.resends(letters.missing));
        mail.later.extend(letters.namesakes.into_iter().map(greet));
        mail.later.extend(letters.refused_workers.into_iter().map(|(incarnation, reason, n)| {
            to(incarnation, vec![Order::Hello(Hello { refused: Some(reason), ..self.hello(n, false) })])
        }));
        let said = |fact: fn(Arc<str>) -> Fact, request: &Request| (Letter::Said(fact(id_of(request))), Purpose::Other);
        let answers =
            letters.accepted.iter().map(|(asked, _, _)| said(|request| Fact::Answered { request }, &asked.request));
        mail.publications.extend(answers);
        let turned =
            letters.refused.iter().map(|turned| said(|request| Fact::Refused { request }, &turned.asked.request));
        mail.publications.extend(turned);
        mail
    }

    fn resends(&self, missing: Vec<(u64, MissingEvents)>) -> Vec<(Letter, Purpose)> {
        let mut by_worker: BTreeMap<Incarnation, Vec<Order>> = BTreeMap::new();
        for (n, MissingEvents { incarnation, key, action_ref, first, last }) in missing {
            let order = Order::Resend(Resend {
                epoch: self.epoch,
                n,
                execution_id: key.0,
                action_ref,
                attempt: key.1,
                first_sequence: first,
                last_sequence: last,
            });
            by_worker.entry(incarnation).or_default().push(order);
        }
        let letter = |(incarnation, orders)| Letter::Orders { incarnation, orders, is_mandatory: false };
        by_worker.into_iter().map(|one| (letter(one), Purpose::Other)).collect()
    }

    fn order(
        &self,
        n: u64,
        order: slotline_scheduler::Order,
        requests: &BTreeMap<ExecutionId, Arc<Request>>,
        actions: &BTreeMap<ActionRef, Arc<Registered>>,
    ) -> Option<Order> {
        let epoch = self.epoch;
        Some(match order {
            slotline_scheduler::Order::Lost => Order::Hello(self.hello(n, true)),
            slotline_scheduler::Order::Recorded { attempts } => Order::Recorded(Recorded { epoch, n, attempts }),
            slotline_scheduler::Order::Cancel { key: (execution_id, attempt), fence, reason } => {
                let (if_not_started, grace_seconds) = (false, None);
                Order::Cancel(Cancel { epoch, n, execution_id, attempt, fence, if_not_started, grace_seconds, reason })
            }
            slotline_scheduler::Order::Recall { key: (execution_id, attempt), fence } => {
                Order::Recall(Recall { epoch, n, execution_id, attempt, fence, reason: String::new() })
            }
            slotline_scheduler::Order::Dispatch(dispatch) => {
                let request = requests.get(&dispatch.id)?;
                let action = actions.get(&dispatch.action_ref);
                Order::Scheduled(self.scheduled(n, dispatch, request, action.map(|action| &**action)))
            }
        })
    }

    fn scheduled(&self, n: u64, dispatch: Dispatch, request: &Request, action: Option<&Registered>) -> Scheduled {
        let policy = action.map(|registered| &registered.action.policy);
        Scheduled {
            epoch: self.epoch,
            n,
            execution_id: dispatch.id,
            attempt: dispatch.attempt,
            counts_as: message::grant(dispatch.counts_as, dispatch.attempt),
            fence: dispatch.fence,
            action_id: dispatch.action,
            action_ref: dispatch.action_ref,
            parameters: request.parameters.clone(),
            timeout_seconds: policy.and_then(|policy| policy.timeout),
            start_timeout_seconds: policy.and_then(|policy| policy.start_timeout),
            stall_timeout_seconds: policy.and_then(|policy| policy.stall_timeout),
            progress: request.detail,
            starts_after: dispatch.starts_after,
            scheduled_at: dispatch.scheduled_at,
            concurrency_key: dispatch.key,
            message_id: request.name.as_ref().map(|name| name.as_text().to_owned()),
            continue_when_isolated: policy.is_some_and(|policy| policy.on_isolation == OnIsolation::Continue),
            correlation_id: None,
            trace_id: None,
        }
    }

    fn hello(&self, n: u64, lost: bool) -> Hello {
        Hello {
            epoch: self.epoch,
            n,
            lease_seconds: Some(self.terms.lease),
            fence_seconds: Some(self.terms.fence),
            heartbeat_seconds: Some(self.terms.heartbeat),
            lost,
            journal: Some(self.journal),
            account: self.wants_accounts,
            refused: None,
        }
    }
}

/// What travels together: those of one type that follow each other.
fn in_runs(orders: Vec<Order>) -> Vec<Vec<Order>> {
    let mut runs: Vec<Vec<Order>> = Vec::new();
    for order in orders {
        let kind = std::mem::discriminant(&order);
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| std::mem::discriminant(last) == kind) => run.push(order),
            _ => runs.push(vec![order]),
        }
    }
    runs
}

/// What names a request in its parameters.
pub(crate) fn parameters(number: usize) -> Arc<RawValue> {
    RawValue::from_string(number.to_string()).expect("a number is JSON").into()
}

/// The request of this number, as a leader reads it.
pub(crate) fn request(plan: &RequestPlan, parameters: Arc<RawValue>) -> Arc<Request> {
    Arc::new(Request {
        name: Some(RequestName::new(None, &plan.id)),
        digest: DIGEST,
        parameters,
        timeout: None,
        detail: Detail::default(),
        correlation_id: None,
        trace_id: None,
        source: None,
        reply_to: Some("publisher".to_owned()),
        reply: Reply::Accepted,
    })
}

/// How every request comes.
pub(crate) fn came() -> Arc<Came> {
    Arc::new(Came { properties: Properties::default(), routing_key: String::new(), is_array: false, is_awaited: false })
}

/// Of an execution, the number of its request.
pub(crate) fn number(request: &Request) -> usize {
    request.parameters.get().parse().expect("a request's number")
}

fn id_of(request: &Request) -> Arc<str> {
    request.name.as_ref().map_or_else(|| "".into(), |name| name.as_text().into())
}

/// A dispatch as the first leader would write it, by hand.
pub(crate) fn chained(
    n: u64,
    (execution_id, attempt): AttemptKey,
    starts_after: Option<AttemptKey>,
    parameters: Arc<RawValue>,
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
