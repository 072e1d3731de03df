//! How a worker's driver writes and reads here. Nothing is proved: these worlds have no liar.
//!
//! Outcomes may wait in the driver, and are envelopes of the production encoder. Heartbeats and last words leave at once,
//! and are values.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use slotline_protocol::envelope::{self, Defaults, Envelope};
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Returned};
use slotline_protocol::proof::Worth;
use slotline_protocol::{Incarnation, Timestamp, Unreadable};
use slotline_worker::driver::{LogLine, OutgoingMessage, ReceivedMessage, Trace, Wire, WorkerMessage};
use slotline_worker::duty;

use crate::mistake::Mistake;
use crate::wire::{Order, Word};

#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Codec {
    mistake: Option<Mistake>,
    /// Heartbeats and last words that were written last.
    written: VecDeque<Arc<Word>>,
    /// What is being handed in.
    came: Vec<Order>,
}

impl Codec {
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        Self { mistake, ..Self::default() }
    }

    /// What came, as the driver takes it; to be handed in before the next.
    pub(crate) fn delivery(&mut self, orders: Vec<Order>) -> ReceivedMessage {
        let is_to_all = orders.iter().any(|order| matches!(order, Order::Hint { .. }));
        self.came = orders;
        ReceivedMessage {
            is_to_all,
            proof: None,
            nonce: None,
            token: None,
            defaults: Defaults::default(),
            body: Bytes::new(),
        }
    }

    /// What a publication says.
    pub(crate) fn read(&mut self, publication: &OutgoingMessage) -> Vec<Arc<Word>> {
        match publication.message_type {
            Heartbeat::TYPE | Ended::TYPE => self.written.pop_front().into_iter().collect(),
            _ => {
                let members = envelope::read_own(&publication.body, Defaults::default()).expect("a body");
                members.iter().map(|member| Arc::new(outcome(&member.expect("an envelope")))).collect()
            }
        }
    }
}

impl Wire for Codec {
    fn judge(&mut self, delivery: &ReceivedMessage) -> Worth {
        if delivery.is_to_all { Worth::Hint } else { Worth::Order }
    }

    fn read(&mut self, _: &ReceivedMessage, mut take: impl FnMut(Result<duty::Order, Unreadable>)) {
        let mistake = self.mistake;
        self.came.drain(..).filter_map(|order| order.write(mistake)).for_each(|order| take(Ok(order)));
    }

    fn write(&mut self, message: WorkerMessage<'_>, _: Trace<'_>, now: Timestamp) -> Bytes {
        match message {
            WorkerMessage::Completed(word) => envelope::write(&Envelope::new(word, "model", now)),
            WorkerMessage::Returned(word) => envelope::write(&Envelope::new(word, "model", now)),
            WorkerMessage::Heartbeat(heartbeat) => self.leaves(Word::beat(heartbeat.clone())),
            WorkerMessage::Ended(ended) => self.leaves(Word::ended(ended.clone())),
            WorkerMessage::StatusChanged(_) | WorkerMessage::Progress(_) => unreachable!("there are no events"),
        }
    }

    fn prove(&self, _: &mut OutgoingMessage) {}

    fn is_known(&self) -> bool {
        true
    }

    fn unproven(&self) -> Option<LogLine> {
        None
    }

    fn rename(&mut self, _: Incarnation, _: String) {}
}

impl Codec {
    fn leaves(&mut self, word: Word) -> Bytes {
        self.written.push_back(Arc::new(word));
        Bytes::new()
    }
}

fn outcome(envelope: &Envelope<'_>) -> Word {
    match &*envelope.message_type {
        Completed::TYPE => Word::Completed(envelope.open::<Completed>().expect("an outcome").into()),
        _ => Word::Returned(envelope.open::<Returned>().expect("a hand-back").into()),
    }
}
