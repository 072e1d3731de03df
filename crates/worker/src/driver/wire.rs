//! How the driver's messages are written, read and proved: what it needs of that, apart from how it is done.
//!
//! A worker has [`super::Envelopes`]. The simulator runs most of its worlds without JSON and codes, of which it would do
//! little else, and the others with them.

use bytes::Bytes;
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Progress, Returned, StatusChanged};
use slotline_protocol::proof::Worth;
use slotline_protocol::{Incarnation, Timestamp, Unreadable};

use super::{LogLine, OutgoingMessage, ReceivedMessage};
use crate::duty::{Order, Traced};

/// What a worker writes.
#[derive(Clone, Copy, Debug)]
pub enum WorkerMessage<'a> {
    Completed(&'a Completed),
    Returned(&'a Returned),
    StatusChanged(&'a StatusChanged),
    Progress(&'a Progress),
    Heartbeat(&'a Heartbeat),
    Ended(&'a Ended),
}

/// The request's thread that a message belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace<'a> {
    pub correlation_id: Option<&'a str>,
    pub trace_id: Option<&'a str>,
}

/// Messages as they travel, and the standing of one incarnation with the executors.
pub trait Wire {
    /// What came through the incarnation's queue is worth; takes the token that it may bring.
    fn judge(&mut self, delivery: &ReceivedMessage) -> Worth;

    /// Gives each order of a message to `take`, or why it can't be read.
    fn read(&mut self, delivery: &ReceivedMessage, take: impl FnMut(Result<Order, Unreadable>));

    /// An envelope, written once.
    fn write(&mut self, message: WorkerMessage<'_>, trace: Trace<'_>, now: Timestamp) -> Bytes;

    /// Adds the proof to a report that is about to leave.
    fn prove(&self, publication: &mut OutgoingMessage);

    /// Whether executors know the incarnation, as far as it knows. Without proof nothing it reports would be believed.
    fn is_known(&self) -> bool;

    /// What is to be logged of messages that were worth nothing; of more of them less often.
    fn unproven(&self) -> Option<LogLine>;

    /// Writes for this incarnation from now on, which no executor knows yet.
    fn rename(&mut self, incarnation: Incarnation, nonce: String);
}

impl WorkerMessage<'_> {
    pub fn message_type(&self) -> &'static str {
        match self {
            Self::Completed(_) => Completed::TYPE,
            Self::Returned(_) => Returned::TYPE,
            Self::StatusChanged(_) => StatusChanged::TYPE,
            Self::Progress(_) => Progress::TYPE,
            Self::Heartbeat(_) => Heartbeat::TYPE,
            Self::Ended(_) => Ended::TYPE,
        }
    }
}

impl<'a> Trace<'a> {
    pub(super) fn of<M>(traced: &'a Traced<M>) -> Self {
        Self { correlation_id: traced.correlation_id.as_deref(), trace_id: traced.trace_id.as_deref() }
    }
}
