//! The messages of workers, and what comes back from the leader's own queues, turned into what the loop takes.
//!
//! A message here that can't be read is logged and dropped: workers repeat what matters, and heartbeats show the rest.

use slotline_broker::Delivery;
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Probe, Progress, Returned, StatusChanged};
use slotline_protocol::proof::{Speaker, Verdict};
use slotline_protocol::{Incarnation, Timestamp, Unreadable, chain};
use slotline_scheduler::{Input, ProbedQueue};
use uuid::Uuid;

use super::gate::Gate;
use crate::leader::item::Item;

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
                    items.push(Item::completed(word));
                }
            }
            Returned::TYPE => {
                let word: Returned = envelope.open()?;
                if self.believes(message_type, Some(word.incarnation)) {
                    items.push(Item::returned(word, received_at));
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
                    items.push(Item::parting(word, received_at));
                }
            }
            StatusChanged::TYPE => {
                if let Some(by) = self.proven(message_type) {
                    items.extend(Item::status_changed(&envelope.open()?, by));
                }
            }
            Progress::TYPE => {
                if let Some(by) = self.proven(message_type) {
                    items.push(Item::progress(envelope.open()?, by));
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
