//! What deliveries bring to the leader: what workers report, and what other executors ask.

use std::time::Duration;

use slotline_broker::Tag;
use slotline_protocol::message::{Completed, Ended, Event, Progress, Returned, StatusChanged};
use slotline_protocol::{Incarnation, OutcomeKind, Status, Timestamp, WorkerName};
use slotline_scheduler::{Input, Outcome, ProbedQueue};

use super::ask::Question;
use super::request::BYTES_PER_WEIGHT;
use crate::record::{AttemptEvent, AttemptEventKind, End};

/// The content of deliveries of one of the leader's queues, read before it reaches the loop.
#[derive(Debug)]
pub struct Arrival {
    pub from: Source,
    /// Of the last delivery; acks it and all before.
    pub tag: Tag,
    pub items: Vec<Item>,
    pub questions: Vec<Question>,
    pub(crate) bytes: usize,
}

impl Arrival {
    /// What was read of one delivery.
    pub fn of(from: Source, tag: Tag, items: Vec<Item>) -> Self {
        Self { items, ..Self::new(from, tag) }
    }

    pub(crate) fn new(from: Source, tag: Tag) -> Self {
        Self { from, tag, items: Vec::new(), questions: Vec::new(), bytes: 0 }
    }

    /// How much it adds to a batch: one for each item, and more for large ones, whose results go into the journal.
    pub(crate) fn weight(&self) -> usize {
        self.items.len() + self.bytes / BYTES_PER_WEIGHT
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Completions,
    Heartbeats,
    Events,
    Calls,
}

impl Source {
    pub(crate) fn probed(self) -> Option<ProbedQueue> {
        match self {
            Self::Completions => Some(ProbedQueue::Completions),
            Self::Heartbeats => Some(ProbedQueue::Heartbeats),
            Self::Events | Self::Calls => None,
        }
    }
}

/// One thing that a worker reported.
#[derive(Debug)]
pub enum Item {
    /// For the scheduler alone.
    Input(Input),
    /// For the record, which passes on to the scheduler what it needs of it.
    Event(AttemptEvent),
    /// For both: the end of an attempt.
    Ended(End, Input),
    /// The farewell of an incarnation, by itself or by a later one of its worker.
    Parting { teller: Incarnation, worker: WorkerName, incarnation: Incarnation, items: Vec<Item> },
    /// A heartbeat of an incarnation that has no token of this journal, with the nonce by which it recognizes the
    /// answer.
    Stranger { incarnation: Incarnation, nonce: String },
}

impl Item {
    /// The end of an attempt, by the incarnation that ran it.
    pub fn completed(word: Completed) -> Self {
        let teller = word.incarnation;
        completed(word, teller)
    }

    pub fn returned(word: Returned, received_at: Timestamp) -> Self {
        returned(word, received_at)
    }

    pub fn parting(word: Ended, received_at: Timestamp) -> Self {
        let teller = word.told_by.unwrap_or(word.incarnation);
        parting(word, teller, received_at)
    }

    /// `by` is the proven sender.
    pub fn status_changed(changed: &StatusChanged, by: Incarnation) -> Vec<Self> {
        let mut items = Vec::new();
        running(changed, by, &mut items);
        items
    }

    /// `by` is the proven sender.
    pub fn progress(word: Progress, by: Incarnation) -> Self {
        Self::Event(progress(word, by))
    }
}

/// `teller` is the incarnation that gets the `execution.recorded`.
fn parting(word: Ended, teller: Incarnation, received_at: Timestamp) -> Item {
    let Ended { worker, incarnation, reason, outcomes, returned: handed_back, told_by: _, has_more } = word;
    let mut items: Vec<_> = outcomes.into_iter().map(|word| completed(word, teller)).collect();
    items.extend(handed_back.into_iter().map(|handed_back| returned(handed_back, received_at)));
    if !has_more {
        items.push(Item::Input(Input::IncarnationEnded { incarnation, reason }));
    }
    Item::Parting { teller, worker, incarnation, items }
}

/// `teller` is the incarnation that gets the `execution.recorded`.
fn completed(completed: Completed, teller: Incarnation) -> Item {
    let end = End {
        key: completed.key(),
        fence: completed.fence,
        last_sequence: completed.last_sequence,
        started_at: completed.started_at,
        at: completed.completed_at,
        outcome: Some(completed.status),
        return_code: completed.return_code,
        message: completed.error.as_ref().map(|error| error.message.clone()),
    };
    let input = Input::Completed {
        key: end.key,
        fence: completed.fence,
        incarnation: teller,
        outcome: Outcome {
            kind: completed.status,
            result: completed.result,
            error: completed.error,
            started_at: completed.started_at,
            ended_at: completed.completed_at,
            held: completed.held_micros.map(Duration::from_micros),
        },
    };
    Item::Ended(end, input)
}

fn returned(returned: Returned, received_at: Timestamp) -> Item {
    let end = End {
        key: (returned.execution_id, returned.attempt),
        fence: returned.fence,
        last_sequence: returned.last_sequence,
        started_at: None,
        at: received_at,
        outcome: returned.started.then_some(OutcomeKind::Lost),
        return_code: None,
        message: Some(returned.reason.clone()),
    };
    let input = Input::Returned {
        key: end.key,
        fence: returned.fence,
        incarnation: returned.incarnation,
        started: returned.started,
        reason: returned.reason,
    };
    Item::Ended(end, input)
}

fn running(changed: &StatusChanged, by: Incarnation, items: &mut Vec<Item>) {
    if changed.fence.is_none() || changed.new_status != Status::Running {
        return;
    }
    let key = changed.key();
    let word = |said| Item::Event(AttemptEvent { key, by, sequence: changed.sequence, at: changed.changed_at, said });
    items.push(word(AttemptEventKind::Running));
    if changed.sequence.is_none() {
        // A worker that does not number its events sends nothing else about the start.
        items.push(word(AttemptEventKind::Started));
    }
}

fn progress(progress: Progress, by: Incarnation) -> AttemptEvent {
    let key = progress.key();
    let said = match progress.event {
        Event::Started {} => AttemptEventKind::Started,
        Event::Progress(report) => AttemptEventKind::Progress(report),
        Event::Log { stream, lines } => AttemptEventKind::Log { stream, lines },
        Event::Finished { .. } => AttemptEventKind::Finished,
        Event::Gap { count, reason } => AttemptEventKind::Gap { count, reason },
    };
    AttemptEvent { key, by, sequence: Some(progress.sequence), at: progress.timestamp, said }
}
