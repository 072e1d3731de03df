//! Messages between leaders and workers as they travel: as values, or written out as the production code does it.
//!
//! Written out, read and proved where somebody may lie, and in some worlds beside those. Everywhere else values say the
//! same at a fraction of the cost; what the driver takes for bytes are then the numbers of values. Not here: what is
//! believed (`seal`).

use std::rc::Rc;

use bytes::Bytes;
use slotline_protocol::envelope::{self, Defaults, Envelope};
use slotline_protocol::message::{
    Cancel, Completed, Ended, Heartbeat, Hello, Message, Progress, Recall, Recorded, Resend, Returned, Scheduled,
    StatusChanged,
};
use slotline_protocol::proof::Worth;
use slotline_protocol::{Incarnation, Timestamp, Unreadable, WorkerName};
use slotline_worker::driver::{Envelopes, LogLine, OutgoingMessage, ReceivedMessage, Trace, Wire, WorkerMessage};
use slotline_worker::duty::Order;
use uuid::Uuid;

use crate::plan::Mistake;
use crate::stage::Stage;
use crate::wire::Body;

/// One of so many worlds has its messages written out, whether or not somebody lies.
const WRITTEN_EVERY: u64 = 64;

/// A message that is written out, with the headers that prove its writer.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) message_type: &'static str,
    pub(crate) text: Bytes,
    pub(crate) proof: Option<String>,
    pub(crate) nonce: Option<String>,
    pub(crate) token: Option<String>,
    /// What only the history may know.
    pub(crate) is_lie: bool,
}

/// How one process of a worker writes and reads.
#[derive(Clone, Debug)]
pub(crate) struct Codec {
    form: Form,
    obeys_strangers: bool,
    /// Of the message that came last.
    pub(crate) worth: Worth,
}

#[derive(Clone, Debug)]
enum Form {
    Values {
        written: Vec<Rc<Body>>,
        /// The message that is being handed in.
        came: Option<Rc<Body>>,
    },
    Text(Box<Envelopes>),
}

/// Whether the messages of this world are written out.
pub(crate) fn is_written(seed: u64, has_liar: bool) -> bool {
    has_liar || seed % WRITTEN_EVERY == WRITTEN_EVERY - 1
}

impl Codec {
    pub(crate) fn new(worker: &WorkerName, process: u32, incarnation: Incarnation, stage: &mut Stage) -> Self {
        let form = match stage.secret {
            None => Form::Values { written: Vec::new(), came: None },
            Some(_) => {
                let id = Uuid::from_u128(process.into());
                Form::Text(Box::new(Envelopes::new(worker, id, incarnation, nonce(stage))))
            }
        };
        let obeys_strangers = stage.mistake == Some(Mistake::ObeysStrangers);
        Self { form, obeys_strangers, worth: Worth::Nothing }
    }

    /// What came through the queue of an incarnation, as the driver takes it; to be handed in before the next.
    pub(crate) fn delivery(&mut self, body: &Rc<Body>) -> ReceivedMessage {
        if let Form::Values { came, .. } = &mut self.form {
            *came = Some(body.clone());
        }
        let is_to_all = matches!(**body, Body::Greeting(_));
        let bare = ReceivedMessage {
            is_to_all,
            proof: None,
            nonce: None,
            token: None,
            defaults: Defaults::default(),
            body: Bytes::new(),
        };
        match &**body {
            Body::Written(written) => {
                let Written { text, proof, nonce, token, .. } = (**written).clone();
                ReceivedMessage { proof, nonce, token, body: text, ..bare }
            }
            _ => bare,
        }
    }

    /// What leaves.
    pub(crate) fn carry(&self, publication: OutgoingMessage) -> Rc<Body> {
        let OutgoingMessage { message_type, body: text, nonce, proof, .. } = publication;
        let Form::Values { written, .. } = &self.form else {
            let written = Written { message_type, text, proof, nonce, token: None, is_lie: false };
            return Rc::new(Body::Written(Box::new(written)));
        };
        let text = std::str::from_utf8(&text).expect("numbers of values are text");
        let value = |number: &str| written[number.parse::<usize>().expect("this codec wrote it")].clone();
        match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            None => value(text),
            Some(numbers) => Rc::new(Body::Several(numbers.split(',').map(value).collect())),
        }
    }
}

/// What one incarnation is known by.
pub(crate) fn nonce(stage: &mut Stage) -> String {
    if stage.secret.is_some() { format!("{:x}", stage.chance.next()) } else { String::new() }
}

impl Wire for Codec {
    fn judge(&mut self, delivery: &ReceivedMessage) -> Worth {
        let worth = match &mut self.form {
            Form::Values { .. } if delivery.is_to_all => Worth::Hint,
            Form::Values { .. } => Worth::Order,
            Form::Text(envelopes) => envelopes.judge(delivery),
        };
        self.worth = match worth {
            Worth::Nothing if self.obeys_strangers => Worth::Order,
            worth => worth,
        };
        self.worth
    }

    fn read(&mut self, delivery: &ReceivedMessage, mut take: impl FnMut(Result<Order, Unreadable>)) {
        match &mut self.form {
            Form::Values { came, .. } => {
                if let Some(Body::Orders(orders)) = came.take().as_deref() {
                    orders.iter().for_each(|order| take(Ok(order.clone())));
                }
            }
            Form::Text(envelopes) => envelopes.read(delivery, take),
        }
    }

    fn write(&mut self, message: WorkerMessage<'_>, trace: Trace<'_>, now: Timestamp) -> Bytes {
        match &mut self.form {
            Form::Values { written, .. } => {
                written.push(Rc::new(match message {
                    WorkerMessage::Completed(word) => Body::Completed(word.clone()),
                    WorkerMessage::Returned(word) => Body::Returned(word.clone()),
                    WorkerMessage::StatusChanged(word) => Body::StatusChanged(word.clone()),
                    WorkerMessage::Progress(word) => Body::Progress(word.clone()),
                    WorkerMessage::Heartbeat(word) => Body::Heartbeat(word.clone()),
                    WorkerMessage::Ended(word) => Body::Ended(word.clone()),
                }));
                Bytes::from((written.len() - 1).to_string())
            }
            Form::Text(envelopes) => envelopes.write(message, trace, now),
        }
    }

    fn prove(&self, publication: &mut OutgoingMessage) {
        match &self.form {
            Form::Values { .. } => {}
            Form::Text(envelopes) => envelopes.prove(publication),
        }
    }

    fn is_known(&self) -> bool {
        match &self.form {
            Form::Values { .. } => true,
            Form::Text(envelopes) => envelopes.is_known(),
        }
    }

    fn unproven(&self) -> Option<LogLine> {
        match &self.form {
            Form::Values { .. } => None,
            Form::Text(envelopes) => envelopes.unproven(),
        }
    }

    fn rename(&mut self, incarnation: Incarnation, nonce: String) {
        match &mut self.form {
            Form::Values { .. } => {}
            Form::Text(envelopes) => envelopes.rename(incarnation, nonce),
        }
    }
}

/// What workers report in a message that is written out.
pub(crate) fn read(written: &Written) -> Vec<Body> {
    let members = envelope::read_own(&written.text, Defaults::default()).expect("a body of the production encoder");
    let reports = members.iter().map(|member| member.and_then(|envelope| report(&envelope)));
    reports.collect::<Result<_, _>>().expect("an envelope of the production encoder")
}

fn report(envelope: &Envelope<'_>) -> Result<Body, Unreadable> {
    Ok(match &*envelope.message_type {
        Completed::TYPE => Body::Completed(envelope.open()?),
        Returned::TYPE => Body::Returned(envelope.open()?),
        StatusChanged::TYPE => Body::StatusChanged(envelope.open()?),
        Progress::TYPE => Body::Progress(envelope.open()?),
        Heartbeat::TYPE => Body::Heartbeat(envelope.open()?),
        Ended::TYPE => Body::Ended(envelope.open()?),
        other => unreachable!("{other} is nothing that a worker reports"),
    })
}

/// Writes a message out, without any proof. Orders of one message are of one type.
pub(crate) fn write(body: &Body) -> Written {
    let mut text = envelope::Body::with_room(1);
    let message_type = match body {
        Body::Orders(orders) => orders.iter().map(|order| write_order(order, &mut text)).last().unwrap_or_default(),
        Body::Completed(word) => add(word, &mut text),
        Body::Returned(word) => add(word, &mut text),
        Body::Heartbeat(word) => add(word, &mut text),
        Body::Ended(word) => add(word, &mut text),
        Body::StatusChanged(word) => add(word, &mut text),
        Body::Progress(word) => add(word, &mut text),
        Body::Request { .. }
        | Body::Cancel { .. }
        | Body::Greeting(_)
        | Body::Probe(_)
        | Body::Several(_)
        | Body::Of(..)
        | Body::Written(_) => unreachable!("nothing writes that out: {body:?}"),
    };
    Written { message_type, text: text.finish(), proof: None, nonce: None, token: None, is_lie: false }
}

fn write_order(order: &Order, text: &mut envelope::Body) -> &'static str {
    match order {
        Order::Scheduled(order) => add::<Scheduled>(order, text),
        Order::Cancel(order) => add::<Cancel>(order, text),
        Order::Recall(order) => add::<Recall>(order, text),
        Order::Recorded(order) => add::<Recorded>(order, text),
        Order::Resend(order) => add::<Resend>(order, text),
        Order::Hello(order) => add::<Hello>(order, text),
    }
}

fn add<M: Message>(message: &M, text: &mut envelope::Body) -> &'static str {
    text.write(&Envelope::new(message, "simulation", Timestamp::default()));
    M::TYPE
}
