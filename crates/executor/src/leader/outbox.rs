//! Effects of the scheduler, joined with what only the executor knows: one batch for the journal, and letters that may
//! leave once it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;
use slotline_protocol::message::{AttemptKey, Failure, Reply};
use slotline_protocol::record::Event;
use slotline_protocol::{ActionId, ExecutionId, Incarnation, Reason, RequestName, Timestamp};
use slotline_scheduler::{
    AdoptedExecution, Bugs, Effects, IllegalMove, Order, RequestToken, Scheduler, Snapshot, Unacceptable,
};
use slotline_store::{self as store, Batch, Request};

use super::ask::{Answered, Asker};
use super::bodies::Bodies;
use super::letters::Letters;
use super::request::{Asked, PutAside, Rejection, Turned, UNKNOWN_DIGEST};
use super::rivals::Rivals;
use crate::record::{MissingEvents, Out, Record};

/// The source of an execution that only its worker knew.
const RECOVERED_SOURCE: &str = "slotline/recovered";

/// What has come in since the last cut, beside what the scheduler remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    /// Requests given to the scheduler, by token.
    pub(crate) requests: BTreeMap<RequestToken, Asked>,
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

/// Executions whose publishers wait for the end.
#[derive(Clone, Debug)]
pub(crate) struct Awaited {
    pub(crate) requests: BTreeMap<ExecutionId, Arc<Request>>,
    /// Executions below were accepted by an earlier term.
    pub(crate) inherited_below: ExecutionId,
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
    let Out { events, stories, told, missing, errors, attempt_errors, grants, .. } = record.take();
    let batch = Batch {
        actions: std::mem::take(&mut pending.actions),
        audit: std::mem::take(&mut pending.audit),
        events,
        stories: stories.into_values().collect(),
        counters: scheduler.counters(),
        ..Batch::default()
    };
    let letters = Letters { grants, ..letters(scheduler, &mut effects, pending, missing) };
    let totals = BTreeMap::new();
    let mut packer = Packer { scheduler, pending, bodies, awaited, effects, batch, letters, totals };
    packer.pack_accepted();
    packer.pack_recovered();
    packer.pack_refused();
    let changed = packer.effects.changed.iter();
    packer.batch.live = changed.filter_map(|id| packer.scheduler.snapshot(*id)).collect();
    packer.pack_ends(errors, attempt_errors);
    packer.pack_departed(now);
    packer.pack_parameters();
    let Packer { mut batch, letters, totals, .. } = packer;
    batch.totals = totals.into_iter().map(|(id, (enqueued, completed))| (id, enqueued, completed)).collect();
    (batch, letters, told)
}

/// The letters that need no look at what is committed with them. Those that are numbered here leave after the scheduler's
/// own orders.
fn letters(
    scheduler: &mut Scheduler,
    effects: &mut Effects,
    pending: &mut Pending,
    missing: Vec<MissingEvents>,
) -> Letters {
    let strangers = std::mem::take(&mut pending.strangers).into_iter();
    let introductions = strangers.map(|(incarnation, nonce)| (incarnation, nonce, scheduler.number_order())).collect();
    let missing = missing.into_iter().map(|missing| (scheduler.number_order(), missing)).collect();
    let namesakes = pending.rivals.greet(|| scheduler.number_order());
    let refused = pending.rivals.take_refusals().into_iter();
    let refused_workers =
        refused.map(|(incarnation, reason)| (incarnation, reason, scheduler.number_order())).collect();
    Letters {
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
        introductions,
        missing,
        namesakes,
        refused_workers,
        ..Letters::default()
    }
}

/// One cut under way.
struct Packer<'a> {
    scheduler: &'a Scheduler,
    pending: &'a mut Pending,
    bodies: &'a mut Bodies,
    awaited: &'a mut Awaited,
    effects: Effects,
    batch: Batch,
    letters: Letters,
    /// How many executions of each action were accepted and have completed.
    totals: BTreeMap<ActionId, (u64, u64)>,
}

impl Packer<'_> {
    fn pack_accepted(&mut self) {
        for accepted in std::mem::take(&mut self.effects.accepted) {
            let Some(asked) = self.pending.requests.remove(&accepted.token) else { continue };
            let request = asked.request.clone();
            let Some(snapshot) = self.snapshot(accepted.id, asked.key.clone()) else { continue };
            self.totals.entry(snapshot.action).or_default().0 += 1;
            let is_granted = snapshot.lease.is_some();
            self.batch.accepted.push(store::AcceptedRequest { snapshot, request: request.clone() });
            if request.reply_to.is_some() {
                match request.reply {
                    Reply::Accepted => self.letters.accepted.push((asked, accepted.id, accepted.position)),
                    Reply::Settled => {
                        self.awaited.requests.insert(accepted.id, Arc::new(address(&request)));
                    }
                }
            }
            if is_granted {
                // Its dispatch leaves with this very batch, before the journal can be asked for it.
                self.letters.requests.insert(accepted.id, request);
            } else {
                self.bodies.keep(accepted.id, request);
            }
        }
    }

    /// Executions that were taken over from their workers: the journal gets what those were given.
    fn pack_recovered(&mut self) {
        let recovered = self.effects.missing.take().unwrap_or_default().recovered;
        self.letters.brings_message_ids = recovered.iter().any(|recovered| recovered.shown.message_id.is_some());
        for AdoptedExecution { action, shown, .. } in recovered {
            let Some(snapshot) = self.snapshot(shown.execution_id, shown.concurrency_key.clone()) else { continue };
            self.totals.entry(action).or_default().0 += 1;
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
            self.batch.accepted.push(store::AcceptedRequest { snapshot, request: Arc::new(request) });
        }
    }

    /// The row of an execution that the journal does not have yet; `None`: the scheduler does not know it any more.
    fn snapshot(&mut self, id: ExecutionId, key: Option<Arc<str>>) -> Option<Snapshot> {
        self.effects.changed.remove(&id);
        self.scheduler.snapshot(id).or_else(|| accepted_and_settled(&self.effects, id, key))
    }

    fn pack_refused(&mut self) {
        for refused in std::mem::take(&mut self.effects.refused) {
            if let Some(asked) = self.pending.requests.remove(&refused.token) {
                self.letters.refused.push(turned(asked, refused.reason));
            }
        }
    }

    /// The ends of attempts and of executions; their errors with the newest reports, as the record has them.
    fn pack_ends(
        &mut self,
        mut errors: BTreeMap<ExecutionId, Failure>,
        mut attempt_errors: BTreeMap<AttemptKey, Failure>,
    ) {
        for mut ended in std::mem::take(&mut self.effects.attempts) {
            ended.error = attempt_errors.remove(&(ended.id, ended.attempt)).or(ended.error);
            self.batch.attempts.push(ended);
        }
        for mut settled in std::mem::take(&mut self.effects.settled) {
            settled.error = errors.remove(&settled.id).or(settled.error);
            self.totals.entry(settled.action).or_default().1 += 1;
            self.bodies.take(settled.id);
            let settled = Arc::new(settled);
            self.batch.settled.push(settled.clone());
            if let Some(request) = self.awaited.requests.remove(&settled.id) {
                self.letters.settled.push((request, settled));
            } else if settled.id < self.awaited.inherited_below {
                self.letters.inherited.push(settled);
            }
        }
    }

    /// Incarnations that are over.
    fn pack_departed(&mut self, now: Timestamp) {
        self.letters.departed = std::mem::take(&mut self.effects.ended_incarnations);
        for departed in &self.letters.departed {
            self.batch.ended_incarnations.push((departed.incarnation, departed.worker.clone(), now));
            self.pending.rivals.departed(&departed.worker, departed.incarnation);
        }
    }

    /// The requests of the dispatches that are at hand.
    fn pack_parameters(&mut self) {
        for sent in &self.letters.orders {
            if let Order::Dispatch(dispatch) = &sent.order
                && let Some(request) = self.bodies.take(dispatch.id)
            {
                self.letters.requests.insert(dispatch.id, request);
            }
        }
    }
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

/// What is needed to tell the end: the request without its parameters, since many may wait for long.
pub(crate) fn address(request: &Request) -> Request {
    let empty = RawValue::from_string("{}".to_owned()).expect("valid JSON");
    Request { parameters: empty.into(), ..request.clone() }
}

/// An execution that was cancelled in the very batch that accepted it: the journal still gets its row first.
fn accepted_and_settled(effects: &Effects, id: ExecutionId, key: Option<Arc<str>>) -> Option<Snapshot> {
    let settled = effects.settled.iter().find(|settled| settled.id == id)?;
    Some(Snapshot {
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
        is_bulky: false,
        lease: None,
    })
}
