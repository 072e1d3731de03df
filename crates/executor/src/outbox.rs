//! Effects of the scheduler, joined with what only the executor knows: one batch for the journal, and letters that may
//! leave once it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;
use slotline_broker::Properties;
use slotline_protocol::message::Reply;
use slotline_protocol::record::Event;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Incarnation, Reason, RequestName, Timestamp};
use slotline_scheduler::{
    Bugs, Departed, Effects, IllegalMove, Order, Recovered, Scheduler, Sent, Settled, Token, Unacceptable,
};
use slotline_store::{self as store, Batch, Request};

use crate::ask::{Answered, Asker};
use crate::bodies::Bodies;
use crate::reading::{PutAside, Rejection};
use crate::record::{Missing, Out, Record};
use crate::rivals::Rivals;

/// The digest of a request whose body is not known: a repetition of its `message_id` is taken for the same.
pub(crate) const UNKNOWN_DIGEST: [u8; 32] = [0; 32];
/// The source of an execution that only its worker knew.
const RECOVERED_SOURCE: &str = "slotline/recovered";

/// What has come in since the last cut, beside what the scheduler remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    /// Requests given to the scheduler, by token.
    pub(crate) requests: BTreeMap<Token, Asked>,
    pub(crate) actions: Vec<store::ActionChange>,
    /// What was changed, by which actor, and why.
    pub(crate) audit: Vec<store::Audit>,
    pub(crate) answers: Vec<(Asker, Answered)>,
    pub(crate) rejections: Vec<Rejection>,
    /// Incarnations that ask for their tokens, each with what it knows the answer by.
    pub(crate) strangers: BTreeSet<(Incarnation, String)>,
    pub(crate) refusals: Vec<PutAside>,
    pub(crate) refused: Vec<Turned>,
    /// Requests that were accepted before, by their `message_id`.
    pub(crate) repeated: Vec<(Asked, ExecutionId, u64)>,
    /// Requests for executions that have ended, whose publishers want to hear the end.
    pub(crate) ended: Vec<(Arc<Request>, ExecutionId)>,
    /// Workers of one name.
    pub(crate) rivals: Rivals,
    /// The weight of members of requests, and of all else; bounds what gathers while a commit is under way.
    pub(crate) members: usize,
    pub(crate) inputs: usize,
}

/// A request under way through the scheduler.
#[derive(Clone, Debug)]
pub struct Asked {
    pub action_ref: ActionRef,
    pub key: Option<Arc<str>>,
    pub request: Arc<Request>,
    /// Its correlation id is the one by which the asker knows the first answer.
    pub came: Arc<Came>,
}

/// How a message came, which all its members share.
#[derive(Clone, Debug)]
pub struct Came {
    pub properties: Properties,
    pub routing_key: String,
    /// Whether others came with it.
    pub is_array: bool,
}

/// A request that was read but can't be taken.
#[derive(Clone, Debug)]
pub struct Turned {
    pub asked: Asked,
    pub reason: Reason,
    pub detail: String,
}

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
    pub missing: Vec<(u64, Missing)>,
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

/// Executions whose publishers wait for the end.
#[derive(Clone, Debug)]
pub(crate) struct Awaited {
    pub(crate) requests: BTreeMap<ExecutionId, Arc<Request>>,
    /// Executions below were accepted by an earlier term.
    pub(crate) inherited_below: ExecutionId,
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

/// Packs everything since the last cut; gives also the events to show and to announce once the batch is committed.
pub(crate) fn pack(
    scheduler: &mut Scheduler,
    record: &mut Record,
    pending: &mut Pending,
    bodies: &mut Bodies,
    awaited: &mut Awaited,
    now: Timestamp,
) -> (Batch, Letters, Vec<Arc<Event>>) {
    let mut effects = scheduler.take_effects();
    log_bugs(&effects);
    let Out { events, stories, told, missing, mut errors, mut attempt_errors, grants, .. } = record.take();
    let mut batch = Batch {
        actions: std::mem::take(&mut pending.actions),
        audit: std::mem::take(&mut pending.audit),
        events,
        stories: stories.into_values().collect(),
        ..Batch::default()
    };
    let mut letters = Letters {
        hello: effects.hello,
        greetings: std::mem::take(&mut effects.greetings),
        orders: std::mem::take(&mut effects.orders),
        rejections: std::mem::take(&mut pending.rejections),
        refusals: std::mem::take(&mut pending.refusals),
        refused: std::mem::take(&mut pending.refused),
        accepted: std::mem::take(&mut pending.repeated),
        ended: std::mem::take(&mut pending.ended),
        probe: effects.probe,
        terms_are_known: effects.terms_are_known,
        wild: effects.wild,
        // Numbered after the scheduler's own orders, since they leave after them.
        introductions: std::mem::take(&mut pending.strangers)
            .into_iter()
            .map(|(incarnation, nonce)| (incarnation, nonce, scheduler.number_order()))
            .collect(),
        missing: missing.into_iter().map(|missing| (scheduler.number_order(), missing)).collect(),
        namesakes: pending.rivals.greet(|| scheduler.number_order()),
        refused_workers: pending
            .rivals
            .take_refusals()
            .into_iter()
            .map(|(incarnation, reason)| (incarnation, reason, scheduler.number_order()))
            .collect(),
        grants,
        ..Letters::default()
    };
    let mut totals: BTreeMap<ActionId, (u64, u64)> = BTreeMap::new();
    pack_accepted(scheduler, &mut effects, pending, bodies, awaited, &mut batch, &mut letters, &mut totals);
    letters.brings_message_ids = pack_recovered(scheduler, &mut effects, &mut batch, &mut totals);
    for refused in effects.refused {
        if let Some(asked) = pending.requests.remove(&refused.token) {
            letters.refused.push(turned(asked, refused.reason));
        }
    }
    batch.live = effects.changed.iter().filter_map(|id| scheduler.snapshot(*id)).collect();
    for mut ended in effects.attempts {
        ended.error = attempt_errors.remove(&(ended.id, ended.attempt)).or(ended.error);
        batch.attempts.push(ended);
    }
    for mut settled in effects.settled {
        if let Some(told) = errors.remove(&settled.id) {
            settled.error = Some(told);
        }
        totals.entry(settled.action).or_default().1 += 1;
        bodies.take(settled.id);
        let settled = Arc::new(settled);
        batch.settled.push(settled.clone());
        if let Some(request) = awaited.requests.remove(&settled.id) {
            letters.settled.push((request, settled));
        } else if settled.id < awaited.inherited_below {
            letters.inherited.push(settled);
        }
    }
    batch.totals = totals.into_iter().map(|(id, (enqueued, completed))| (id, enqueued, completed)).collect();
    let ended = |departed: &Departed| (departed.incarnation, departed.worker.clone(), now);
    batch.ended_incarnations = effects.ended_incarnations.iter().map(ended).collect();
    for departed in &effects.ended_incarnations {
        pending.rivals.departed(&departed.worker, departed.incarnation);
    }
    letters.departed = effects.ended_incarnations;
    for sent in &letters.orders {
        if let Order::Dispatch(dispatch) = &sent.order
            && let Some(request) = bodies.take(dispatch.id)
        {
            letters.requests.insert(dispatch.id, request);
        }
    }
    batch.counters = scheduler.counters();
    (batch, letters, told)
}

/// What the scheduler could not do although it had to. The rest of the batch is as good as ever.
fn log_bugs(effects: &Effects) {
    let Some(Bugs { illegal, unplaced }) = effects.bugs.as_deref() else { return };
    for IllegalMove { id, action, attempt, fence, illegal } in illegal {
        tracing::error!(
            execution.id = %id,
            action.id = %action,
            attempt,
            fence = fence.map(|fence| fence.0),
            state = ?illegal.state,
            transition = ?illegal.transition,
            "a bug of the scheduler: a move that no input may cause was not made; the execution stands as it stood before"
        );
    }
    for id in unplaced {
        tracing::error!(
            execution.id = %id,
            "the journal has an execution, and not its action: it can't run, and stays in the journal as it is"
        );
    }
}

fn turned(asked: Asked, reason: Unacceptable) -> Turned {
    let line = &asked.action_ref;
    let (reason, detail) = match reason {
        Unacceptable::UnknownAction => {
            (Reason::UnknownAction, format!("payload.action_ref: no action is called {line}"))
        }
        Unacceptable::LineFull { max_queue_length } => {
            (Reason::LineFull, format!("the line of {line} is full: {max_queue_length} wait (max_queue_length)"))
        }
    };
    Turned { asked, reason, detail }
}

#[expect(clippy::too_many_arguments, reason = "one step of packing, split off to be read alone")]
fn pack_accepted(
    scheduler: &Scheduler,
    effects: &mut Effects,
    pending: &mut Pending,
    bodies: &mut Bodies,
    awaited: &mut Awaited,
    batch: &mut Batch,
    letters: &mut Letters,
    totals: &mut BTreeMap<ActionId, (u64, u64)>,
) {
    for accepted in std::mem::take(&mut effects.accepted) {
        let Some(asked) = pending.requests.remove(&accepted.token) else { continue };
        let request = asked.request.clone();
        effects.changed.remove(&accepted.id);
        let snapshot =
            scheduler.snapshot(accepted.id).or_else(|| accepted_and_settled(effects, accepted.id, asked.key.clone()));
        let Some(snapshot) = snapshot else { continue };
        totals.entry(snapshot.action).or_default().0 += 1;
        let is_granted = snapshot.lease.is_some();
        batch.accepted.push(store::Accepted { snapshot, request: request.clone() });
        if request.reply_to.is_some() {
            match request.reply {
                Reply::Accepted => letters.accepted.push((asked, accepted.id, accepted.position)),
                Reply::Settled => {
                    awaited.requests.insert(accepted.id, Arc::new(address(&request)));
                }
            }
        }
        if is_granted {
            // Its dispatch leaves with this very batch, before the journal can be asked for it.
            letters.requests.insert(accepted.id, request);
        } else {
            bodies.keep(accepted.id, request);
        }
    }
}

/// Executions that were taken over from their workers: the journal gets what those were given.
fn pack_recovered(
    scheduler: &Scheduler,
    effects: &mut Effects,
    batch: &mut Batch,
    totals: &mut BTreeMap<ActionId, (u64, u64)>,
) -> bool {
    let recovered = effects.missing.take().unwrap_or_default().recovered;
    let brings_message_ids = recovered.iter().any(|recovered| recovered.shown.message_id.is_some());
    for Recovered { action, shown, .. } in recovered {
        let id = shown.execution_id;
        effects.changed.remove(&id);
        let key = shown.concurrency_key.clone();
        let Some(snapshot) = scheduler.snapshot(id).or_else(|| accepted_and_settled(effects, id, key)) else {
            continue;
        };
        totals.entry(action).or_default().0 += 1;
        let request = Request {
            name: shown.message_id.as_deref().map(|text| RequestName::from_text(text.to_owned())),
            // Of which body is not known.
            digest: UNKNOWN_DIGEST,
            parameters: shown.parameters,
            timeout: shown.timeout_seconds,
            detail: shown.progress,
            correlation_id: shown.correlation_id.as_deref().map(str::to_owned),
            trace_id: shown.trace_id.as_deref().map(str::to_owned),
            source: Some(RECOVERED_SOURCE.to_owned()),
            reply_to: None,
            reply: Reply::Accepted,
        };
        batch.accepted.push(store::Accepted { snapshot, request: Arc::new(request) });
    }
    brings_message_ids
}

/// What is needed to tell the end: the request without its parameters, since many may wait for long.
pub(crate) fn address(request: &Request) -> Request {
    let empty = RawValue::from_string("{}".to_owned()).expect("valid JSON");
    Request { parameters: empty.into(), ..request.clone() }
}

/// An execution that was cancelled in the very batch that accepted it: the journal still gets its row first.
fn accepted_and_settled(
    effects: &Effects,
    id: ExecutionId,
    key: Option<Arc<str>>,
) -> Option<slotline_scheduler::Snapshot> {
    let settled = effects.settled.iter().find(|settled| settled.id == id)?;
    Some(slotline_scheduler::Snapshot {
        id,
        action: settled.action,
        key,
        status: slotline_protocol::Status::Queued,
        place: id.0,
        attempt: settled.attempt,
        tried: 0,
        failures: settled.failures,
        losses: settled.losses,
        enqueued_at: settled.ended_at,
        queued_at: settled.ended_at,
        not_before: None,
        keeps_slot: false,
        cancel_requested: false,
        lease: None,
    })
}
