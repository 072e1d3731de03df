//! The inputs of a leader, and its actions.

use std::collections::BTreeMap;
use std::sync::Arc;

use slotline_broker::Tag;
use slotline_protocol::record::Event;
use slotline_protocol::{ActionRef, Incarnation, Sizes, Timestamp};
use slotline_scheduler::{Counters, Departed};
use slotline_store::{Audit, Batch, Culprit};

use super::actions::Registered;
use super::ask::{Answered, Asker, Question};
use super::item::{Arrival, Source};
use super::letters::{Letters, Mail, Purpose, Weighed};
use super::mark::{Mark, Unmarked};
use super::request::Checked;

/// What happened.
#[derive(Debug)]
pub enum Input<P> {
    /// The queues are about to be declared in this session, which is not the one before.
    SessionOpening {
        session: u64,
    },
    /// Its queues are consumed.
    SessionOpened {
        session: u64,
        /// What its broker takes.
        sizes: Sizes,
    },
    SessionClosed,
    /// Deliveries of one of the leader's own queues.
    Arrived(Arrival),
    /// Requests, checked.
    Checked(Checked),
    /// A client asks over HTTP.
    Asked(Box<Question>),
    /// A client waits to see what has just happened.
    Watched,
    /// What needs no commit is written ([`LeaderAction::Encode`]).
    Encoded(Mail<P>),
    /// The oldest commit under way is done, and all that leaves after it is written.
    Committed(Mail<P>),
    /// The oldest commit under way failed, or its outcome is unknown. With the batch and its culprits if the database refuses what it
    /// holds.
    CommitFailed(Option<(Box<Batch>, Vec<Culprit>)>),
    /// An order is on its way, or never will be.
    OrderConfirmed,
    /// The queue of the incarnation is gone.
    OrderReturned(Incarnation),
    /// A dead letter is stored.
    LetterStored {
        weight: usize,
    },
    /// A mark of the journal was left, or was not.
    Marked(Result<Counters, Unmarked>),
    /// A deadline of [`super::Leader::next_deadline`] is due.
    Ticked,
    /// Nothing more is committed, and the session is about to close.
    Leaving,
}

/// What is to be done, in the order in which the leader gives it.
#[derive(Clone, Debug)]
pub enum LeaderAction<P> {
    /// Commit this, behind what is under way; write meanwhile what leaves after it. Answered by [`Input::Committed`] or
    /// [`Input::CommitFailed`].
    Commit(Box<Commit>),
    /// Write this; nothing of it needs a commit. Answered at once, by [`Input::Encoded`].
    Encode(Box<Letters>),
    /// Send these to the broker, in this order. `is_deferred`: what waited until the orders before it were confirmed.
    Publish {
        publications: Vec<(P, Purpose)>,
        is_deferred: bool,
    },
    /// Send probes into the leader's own queues.
    Probe {
        published_at: Timestamp,
    },
    /// Ack everything up to each tag.
    Ack(Vec<(Source, Tag)>),
    /// Store dead letters, and ack requests once they are stored.
    AckRequests(Handled<P>),
    Answer(Asker, Box<Answered>),
    /// Show committed events to the clients that watch here.
    Show(Arc<Vec<Arc<Event>>>),
    /// Send committed events to another executor, whose clients watch.
    SendNews {
        queue: String,
        events: Vec<Arc<Event>>,
    },
    /// Have committed events published for the public.
    Announce {
        batch: i64,
        events: Arc<Vec<Arc<Event>>>,
        is_noted: bool,
    },
    /// Log what a commit has made true.
    Note {
        audit: Vec<Audit>,
        departed: Vec<Departed>,
    },
    /// Check requests of this action by this from now on; `None`: there is none of that name.
    Register {
        action_ref: ActionRef,
        registered: Option<Arc<Registered>>,
    },
    /// Count messages that can't be from the one they name.
    Refuse {
        what: &'static str,
        count: u32,
    },
    /// Leave a mark, and see whether another leader has left one. Answered by [`Input::Marked`].
    ClaimMark(Box<Mark>),
    /// See whether another leader has left a mark, and leave this one. Answered by [`Input::Marked`].
    RenewMark(Box<Mark>),
    /// Leave a mark that nothing depends on.
    LeaveMark(Box<Mark>),
}

/// A batch for the journal.
#[derive(Clone, Debug)]
pub struct Commit {
    pub batch: Batch,
    /// What leaves after it.
    pub letters: Letters,
    /// When it was cut.
    pub cut_at: Timestamp,
    /// Whether requests are acked after it.
    pub takes_requests: bool,
}

/// What a batch owes the requests queue: letters to be stored, then an ack up to `tag`. Without a tag there is more to
/// come of the last delivery.
#[derive(Clone, Debug)]
pub struct Handled<P> {
    pub tag: Option<Tag>,
    pub dead: Vec<Weighed<P>>,
}

/// The grants of events whose attempt counts as another number: what a database refuses is known by its grant.
pub(super) type Grants = BTreeMap<(slotline_protocol::ExecutionId, u64), u32>;
