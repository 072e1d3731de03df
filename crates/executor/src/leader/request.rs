//! Requests as they come to the leader: read, checked and looked up.

use std::sync::Arc;

use bytes::Bytes;
use slotline_broker::{Properties, Tag};
use slotline_protocol::{ActionId, ActionRef, By, Reason, RequestName};
use slotline_store::{Known, Request};

/// Each so many bytes count as one member, or one input, more.
pub(crate) const BYTES_PER_WEIGHT: usize = 16 << 10;
/// The digest of a request whose body is not known: a repetition of its `message_id` is taken for the same.
pub(crate) const UNKNOWN_DIGEST: [u8; 32] = [0; 32];

/// Deliveries, checked, in the order of the queue.
#[derive(Debug)]
pub struct Checked {
    pub generation: u64,
    /// The last batch that was committed before the look-ups.
    pub seen_batch: i64,
    pub members: Vec<Member>,
    /// Of the last delivery that is taken whole; acks it and all before.
    pub tag: Option<Tag>,
}

/// What one envelope requests.
#[derive(Debug)]
pub enum Member {
    Request {
        action: ActionId,
        asked: Asked,
        known: Option<Known>,
    },
    Cancel {
        target: Target,
        by: By,
    },
    /// Its publisher gets an answer; the letter that puts it aside, if it needs one, comes after the last member of its
    /// delivery.
    Rejected(Box<Rejection>),
    Refused(Box<PutAside>),
}

impl Member {
    /// What it adds to a batch, in members of common size.
    pub(crate) fn weight(&self) -> usize {
        let bytes = match self {
            Self::Request { asked, .. } => asked.request.parameters.get().len(),
            Self::Cancel { by, .. } => by.reason.as_ref().map_or(0, String::len),
            Self::Rejected(rejection) => rejection.detail.len(),
            Self::Refused(refusal) => refusal.body.len(),
        };
        1 + bytes / BYTES_PER_WEIGHT
    }
}

/// The execution that is to be cancelled.
#[derive(Debug)]
pub struct Target {
    pub name: RequestName,
    pub known: Option<Known>,
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
    /// Whether a client waits for the answer over HTTP: a refusal that reaches it is not put aside.
    pub is_awaited: bool,
}

/// A request that was read but can't be taken.
#[derive(Clone, Debug)]
pub struct Turned {
    pub asked: Asked,
    pub reason: Reason,
    pub detail: String,
}

/// The part of a delivery that is put aside, with all that its letter needs.
#[derive(Clone, Debug)]
pub struct PutAside {
    pub reason: Reason,
    pub detail: String,
    pub message_id: Option<String>,
    pub body: Bytes,
    pub came: Arc<Came>,
}

/// The answer to the publisher of a refused member.
#[derive(Clone, Debug)]
pub struct Rejection {
    pub reason: Reason,
    pub detail: String,
    pub message_id: Option<String>,
    pub came: Arc<Came>,
}
