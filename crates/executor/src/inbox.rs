//! The messages of workers, and what comes back from the leader's own queues, turned into what the loop takes.
//!
//! A message here that can't be read is logged and dropped: workers repeat what matters, and heartbeats show the rest.

use slotline_broker::Delivery;
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{
    Completed, Ended, Event, Heartbeat, Message, Probe, Progress, Returned, StatusChanged,
};
use slotline_protocol::proof::{Speaker, Verdict};
use slotline_protocol::{Incarnation, OutcomeKind, Status, Timestamp, Unreadable, WorkerName, chain};
use slotline_scheduler::{Input, Outcome, ProbedQueue};
use uuid::Uuid;

use crate::gate::Gate;
use crate::record::{End, Said, Word};

/// One thing that a worker reported.
#[derive(Debug)]
pub enum Item {
    /// For the scheduler alone.
    Input(Input),
    /// For the record, which passes on to the scheduler what it needs of it.
    Said(Word),
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
        Self::Said(progress(word, by))
    }
}

/// Which of this leader's probes count: those of this session and this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeMark {
    pub(crate) generation: u64,
    pub(crate) nonce: Uuid,
}

/// The content of one delivery. `received_at` stands in where a worker gives no time.
pub(crate) fn read(
    delivery: &Delivery,
    queue: Option<ProbedQueue>,
    mark: ProbeMark,
    gate: &Gate,
    received_at: Timestamp,
) -> Vec<Item> {
    let mut items = Vec::new();
    let speaker = gate.speaker(delivery);
    let source = Source { queue, mark, gate, speaker };
    // One line for a body, whatever it holds: an array of thousands must not fill the log.
    let dropped = |error: &Unreadable, count: usize| {
        let routing_key = &delivery.routing_key;
        tracing::warn!(error = %chain(&error), routing_key, count, "dropped what can't be read of a message");
    };
    let members = match envelope::read_own(&delivery.body, delivery.properties.defaults()) {
        Ok(members) => members,
        Err(error) => {
            dropped(&error, 1);
            return items;
        }
    };
    let (mut first, mut count) = (None, 0);
    for member in members.iter() {
        if let Err(error) = member.and_then(|envelope| source.open(&envelope, received_at, &mut items)) {
            count += 1;
            first.get_or_insert(error);
        }
    }
    if let Some(error) = first {
        dropped(&error, count);
    }
    items
}

/// The common origin of the members of a body.
struct Source<'a> {
    queue: Option<ProbedQueue>,
    mark: ProbeMark,
    gate: &'a Gate,
    /// The sender of the body.
    speaker: Speaker<'a>,
}

impl Source<'_> {
    fn open(&self, envelope: &Envelope<'_>, received_at: Timestamp, items: &mut Vec<Item>) -> Result<(), Unreadable> {
        let message_type = &*envelope.message_type;
        if message_type == Probe::TYPE {
            let Probe { generation, nonce, published_at } = envelope.open()?;
            if let (Some(queue), true) = (self.queue, self.mark == ProbeMark { generation, nonce }) {
                items.push(Item::Input(Input::Probed { queue, published_at }));
            }
            return Ok(());
        }
        match message_type {
            Completed::TYPE => {
                let word: Completed = envelope.open()?;
                if self.believes(message_type, Some(word.incarnation)) {
                    let teller = word.incarnation;
                    items.push(completed(word, teller));
                }
            }
            Returned::TYPE => {
                let word: Returned = envelope.open()?;
                if self.believes(message_type, Some(word.incarnation)) {
                    items.push(returned(word, received_at));
                }
            }
            Heartbeat::TYPE => {
                let heartbeat: Heartbeat = envelope.open()?;
                let incarnation = heartbeat.incarnation;
                match self.gate.verdict(self.speaker, message_type, Some(incarnation)) {
                    Verdict::Believed => items.push(Item::Input(Input::Heartbeat(heartbeat))),
                    Verdict::Introduced { nonce } => {
                        items.push(Item::Stranger { incarnation, nonce: nonce.to_owned() });
                    }
                    Verdict::Refused => {}
                }
            }
            Ended::TYPE => {
                let word: Ended = envelope.open()?;
                let teller = word.told_by.unwrap_or(word.incarnation);
                if self.believes(message_type, Some(teller)) {
                    items.push(parting(word, teller, received_at));
                }
            }
            StatusChanged::TYPE => {
                if let Some(by) = self.proven(message_type) {
                    running(&envelope.open()?, by, items);
                }
            }
            Progress::TYPE => {
                if let Some(by) = self.proven(message_type) {
                    items.push(Item::Said(progress(envelope.open()?, by)));
                }
            }
            other => tracing::debug!(message_type = other, "ignored a message of a type that is not read here"),
        }
        Ok(())
    }

    /// The proven sender of a message that names no incarnation.
    fn proven(&self, message_type: &str) -> Option<Incarnation> {
        match (self.gate.verdict(self.speaker, message_type, None), self.speaker) {
            (Verdict::Believed, Speaker::Worker(by)) => Some(by),
            _ => None,
        }
    }

    fn believes(&self, message_type: &str, of: Option<Incarnation>) -> bool {
        self.gate.verdict(self.speaker, message_type, of) == Verdict::Believed
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
    let word = |said| Item::Said(Word { key, by, sequence: changed.sequence, at: changed.changed_at, said });
    items.push(word(Said::Running));
    if changed.sequence.is_none() {
        // A worker that does not number its events sends nothing else about the start.
        items.push(word(Said::Started));
    }
}

fn progress(progress: Progress, by: Incarnation) -> Word {
    let key = progress.key();
    let said = match progress.event {
        Event::Started {} => Said::Started,
        Event::Progress(report) => Said::Progress(report),
        Event::Log { stream, lines } => Said::Log { stream, lines },
        Event::Finished { .. } => Said::Finished,
        Event::Gap { count, reason } => Said::Gap { count, reason },
    };
    Word { key, by, sequence: Some(progress.sequence), at: progress.timestamp, said }
}
