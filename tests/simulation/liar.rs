//! A stranger who may write to the exchange, knows all that is public, and reads nothing that is not: what it says.
//!
//! It knows attempts, fences, incarnations and epochs, and may send a proof again that it has seen on another message. It has
//! no token, and does not know the nonce of a heartbeat.

use slotline_protocol::message::{
    AttemptKey, Cancel, Completed, EndReason, Ended, Heartbeat, Hello, Highest, Recorded, Returned, Served,
    StatusChanged,
};
use slotline_protocol::proof::{Channel, Key, Token, of_worker};
use slotline_protocol::{Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp, WorkerName};
use slotline_worker::duty::Order;
use uuid::Uuid;

use crate::chance::Chance;
use crate::codec::{self, Written};
use crate::journal::{action_id, action_ref};
use crate::mail::{chained, parameters};
use crate::wire::{Body, Queue, Route};

/// Numbers far above any that a journal can have come to.
const WILD: i64 = 1 << 62;

/// What the liar knows.
pub(crate) struct Known {
    pub(crate) worker: usize,
    pub(crate) incarnation: Incarnation,
    pub(crate) key: AttemptKey,
    pub(crate) fence: Fence,
    pub(crate) epoch: Epoch,
    pub(crate) actions: usize,
    /// Of another message.
    pub(crate) proof: Option<String>,
}

/// One lie, and where it goes.
pub(crate) fn lie(known: &Known, chance: &mut Chance) -> (Route, Body) {
    let (route, body) = match chance.below(3) {
        0 => (Route::To(Queue::Worker(known.incarnation)), Body::Orders(vec![order(known, chance)])),
        _ => report(known, chance),
    };
    // A token of its own making, with all that follows from it.
    let own: Token = "0".repeat(64).parse().expect("a token has 64 digits");
    let key = Key::new(&own);
    let written = codec::write(&body);
    let proof = match (chance.below(3), &route) {
        (0, _) => None,
        (1, Route::To(_)) => Some(key.sign(Channel::Order, &written.text)),
        (1, _) => Some(of_worker(known.incarnation, &key, &written.text)),
        _ => known.proof.clone(),
    };
    let nonce = chance.percent(70).then(|| "a guess".to_owned());
    let token = chance.percent(50).then(|| own.to_string());
    (route, Body::Written(Box::new(Written { proof, nonce, token, is_lie: true, ..written })))
}

fn number(chance: &mut Chance, known: i64) -> i64 {
    match chance.below(3) {
        0 => known,
        1 => known + 1 + chance.below(100) as i64,
        _ => WILD,
    }
}

fn order(known: &Known, chance: &mut Chance) -> Order {
    let (epoch, n) = (Epoch(number(chance, known.epoch.0)), chance.below(1_000));
    let (execution_id, attempt) = known.key;
    match chance.below(4) {
        0 => Order::Cancel(Cancel {
            epoch,
            n,
            execution_id,
            attempt,
            fence: known.fence,
            if_not_started: false,
            grace_seconds: None,
            reason: None,
        }),
        1 => Order::Recorded(Recorded { epoch, n, attempts: vec![known.key] }),
        2 => Order::Hello(Hello {
            epoch,
            n,
            lease_seconds: None,
            fence_seconds: None,
            heartbeat_seconds: None,
            lost: chance.percent(50),
            journal: None,
            account: false,
            refused: None,
        }),
        _ => {
            let key = (ExecutionId(number(chance, execution_id.0)), attempt + 1);
            let mut order = chained(n, key, None, parameters(0));
            order.epoch = epoch;
            Order::Scheduled(order)
        }
    }
}

fn report(known: &Known, chance: &mut Chance) -> (Route, Body) {
    let worker = WorkerName::new(&format!("w{}", known.worker)).expect("a word");
    // Its own, or one that nobody has.
    let incarnation = match chance.below(3) {
        0 => Incarnation(Uuid::from_u128(u128::MAX - u128::from(chance.below(3)))),
        _ => known.incarnation,
    };
    let completed = completed(known, chance, worker.clone(), incarnation);
    match chance.below(5) {
        0 => (Route::Completions, Body::Completed(completed)),
        1 => (Route::Completions, Body::Returned(returned(completed))),
        2 => {
            let outcomes = if chance.percent(50) { vec![completed] } else { Vec::new() };
            let told_by = chance.percent(30).then_some(known.incarnation);
            let ended = Ended {
                worker,
                incarnation,
                reason: EndReason::Replaced,
                outcomes,
                returned: Vec::new(),
                told_by,
                has_more: false,
            };
            (Route::Heartbeats, Body::Ended(ended))
        }
        3 => (Route::Events, Body::StatusChanged(status_changed(known, worker, incarnation))),
        _ => (Route::Heartbeats, Body::Heartbeat(heartbeat(known, chance, worker, incarnation))),
    }
}

fn completed(known: &Known, chance: &mut Chance, worker: WorkerName, incarnation: Incarnation) -> Completed {
    let (execution_id, attempt) = known.key;
    Completed {
        execution_id,
        action_id: action_id(0),
        action_ref: action_ref(0),
        counts_as: attempt,
        grant: None,
        fence: Fence(number(chance, known.fence.0)),
        worker,
        incarnation,
        last_sequence: 1,
        status: OutcomeKind::Completed,
        result: None,
        error: None,
        started_at: None,
        completed_at: Timestamp::default(),
        return_code: None,
        held_micros: None,
    }
}

fn returned(completed: Completed) -> Returned {
    let Completed { execution_id, counts_as, fence, worker, incarnation, .. } = completed;
    Returned {
        execution_id,
        attempt: counts_as,
        fence,
        worker,
        incarnation,
        reason: "drain".to_owned(),
        started: false,
        last_sequence: 0,
    }
}

fn status_changed(known: &Known, worker: WorkerName, incarnation: Incarnation) -> StatusChanged {
    let (execution_id, attempt) = known.key;
    StatusChanged {
        execution_id,
        action_ref: action_ref(0),
        counts_as: attempt,
        grant: None,
        sequence: None,
        worker: Some(worker),
        fence: Some(known.fence),
        incarnation: Some(incarnation),
        previous_status: Status::Scheduled,
        new_status: Status::Running,
        changed_at: Timestamp::default(),
    }
}

fn heartbeat(known: &Known, chance: &mut Chance, worker: WorkerName, incarnation: Incarnation) -> Heartbeat {
    let served = |index| Served { action_ref: action_ref(index), capabilities: Vec::new() };
    Heartbeat {
        worker,
        incarnation,
        capacity: 1_000,
        holding: Vec::new(),
        unrecorded: Vec::new(),
        seen: (Epoch(number(chance, known.epoch.0)), u64::MAX),
        actions: (0..known.actions).map(served).collect(),
        labels: std::collections::BTreeMap::new(),
        draining: chance.percent(20),
        sent_at: Timestamp::default(),
        journal: None,
        highest: Highest {
            execution_id: ExecutionId(number(chance, known.key.0.0)),
            fence: Fence(number(chance, known.fence.0)),
        },
        account: None,
        process: None,
    }
}
