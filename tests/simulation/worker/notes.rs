//! What the history and the trace record of a worker, as its shell sees it pass.

use slotline_protocol::Epoch;
use slotline_protocol::message::{AttemptKey, Heartbeat, Message};
use slotline_worker::duty::{Effect, Order};

use super::{Memory, Numbered};
use crate::codec;
use crate::history::Fact;
use crate::stage::Stage;
use crate::wire::Body;

impl Memory {
    /// Notes what the book asks the driver for.
    pub(super) fn note(&mut self, effect: &Effect, stage: &mut Stage) {
        let numbered = match effect {
            Effect::Complete(word) => {
                self.owed.insert(word.message.key());
                None
            }
            Effect::ChangeStatus(word) => word.message.sequence.map(|sequence| (word.message.key(), sequence)),
            Effect::Progress(word) => Some((word.message.key(), word.message.sequence)),
            _ => None,
        };
        if let Some(((execution, attempt), sequence)) = numbered {
            stage.record(Fact::Said { execution, attempt, sequence });
            self.unstored.insert(((execution, attempt), sequence));
        }
    }
}

/// Gives each event of a publication.
pub(super) fn each_event(body: &Body, take: &mut dyn FnMut(Numbered)) {
    match body {
        Body::StatusChanged(word) => word.sequence.into_iter().for_each(|sequence| take((word.key(), sequence))),
        Body::Progress(word) => take((word.key(), word.sequence)),
        Body::Several(bodies) => bodies.iter().for_each(|body| each_event(body, take)),
        Body::Written(written) => codec::read(written).iter().for_each(|body| each_event(body, take)),
        _ => {}
    }
}

/// Notes the ends of attempts that leave.
pub(super) fn note_told(body: &Body, stage: &mut Stage) {
    let mut told = |(execution, attempt): AttemptKey, last_sequence| {
        stage.record(Fact::Told { execution, attempt, last_sequence });
    };
    match body {
        Body::Completed(word) => told(word.key(), word.last_sequence),
        Body::Returned(word) => told((word.execution_id, word.attempt), word.last_sequence),
        Body::Ended(word) => word.outcomes.iter().for_each(|one| told(one.key(), one.last_sequence)),
        Body::Several(bodies) => bodies.iter().for_each(|body| note_told(body, stage)),
        Body::Written(written) if written.message_type != Heartbeat::TYPE => {
            codec::read(written).iter().for_each(|body| note_told(body, stage));
        }
        _ => {}
    }
}

pub(super) fn describe(order: &Order) -> String {
    let (epoch, n) = order.number();
    let what = match order {
        Order::Scheduled(order) => {
            format!("run {}/{} (fence {})", order.execution_id, order.attempt, order.fence)
        }
        Order::Cancel(order) => format!("cancel {}/{}", order.execution_id, order.attempt),
        Order::Recall(order) => format!("recall {}/{}", order.execution_id, order.attempt),
        Order::Recorded(order) => format!("recorded {:?}", order.attempts),
        Order::Resend(order) => format!("say {}/{} again", order.execution_id, order.attempt),
        Order::Hello(order) if order.lost => "you are lost".to_owned(),
        Order::Hello(_) => "hello".to_owned(),
    };
    format!("({epoch}, {n}) {what}")
}

pub(super) fn renumber(order: &mut Order, number: u64) {
    let (epoch, n) = match order {
        Order::Scheduled(order) => (&mut order.epoch, &mut order.n),
        Order::Cancel(order) => (&mut order.epoch, &mut order.n),
        Order::Recall(order) => (&mut order.epoch, &mut order.n),
        Order::Recorded(order) => (&mut order.epoch, &mut order.n),
        Order::Resend(order) => (&mut order.epoch, &mut order.n),
        Order::Hello(order) => (&mut order.epoch, &mut order.n),
    };
    *epoch = Epoch(i64::MAX);
    *n = number;
}
