//! What the driver asks of the shell: carried out in order.

use std::time::Duration;

use bytes::Bytes;
use slotline_protocol::message::{AttemptKey, Ended};
use slotline_protocol::{Incarnation, Sizes, Unreadable};

use crate::duty::{self, Shortage, Start};

/// What is to be done now.
#[derive(Clone, Debug)]
pub enum DriverAction {
    /// Tell the duty book.
    Duty(duty::Input),
    /// Tell the duty book what the broker takes.
    KeepTo(Sizes),
    Attempt(AttemptAction),
    /// Publish; its confirm is reported by [`super::Input::Confirmed`] with the same `id`.
    Publish(OutgoingMessage),
    /// Ack all that was delivered.
    Ack,
    /// The incarnation is over: draw the next name, and answer with [`super::Input::Named`].
    ChooseName,
    /// Leave this incarnation in the lock file for the next process.
    Note(Incarnation),
    /// Consume the queue of this incarnation through the session there is, in place of the one that is consumed now;
    /// answered by [`super::Input::Subscribed`].
    Subscribe(Incarnation),
    /// Put this in place of what was kept for the next process.
    Keep(Vec<Ended>),
    Log(LogLine),
    /// End. Nothing follows it.
    Exit(WorkerExit),
}

/// What is done to attempts at once, on the thread that reported to the book.
#[derive(Clone, Debug)]
pub enum AttemptAction {
    Start(Start),
    Interrupt {
        key: AttemptKey,
        grace: Duration,
    },
    Kill {
        key: AttemptKey,
    },
    /// Those that obey the fence may run until then; `None`: what is not started yet has its own deadline alone.
    Extend {
        deadline: Option<Duration>,
    },
}

/// A message to the executors.
#[derive(Clone, Debug)]
pub struct OutgoingMessage {
    pub id: u64,
    pub routing_key: &'static str,
    pub message_type: &'static str,
    pub body: Bytes,
    /// Of a heartbeat.
    pub nonce: Option<String>,
    /// `None` while no executor knows the incarnation.
    pub proof: Option<String>,
}

/// What operators are to read.
#[derive(Clone, Debug)]
pub enum LogLine {
    Connected(Incarnation),
    SessionLost,
    Draining,
    Stopping,
    /// Whether events wait for room.
    Congested(bool),
    Unreadable(Unreadable),
    /// So many orders to this incarnation were dropped, for no executor has proved to have written them.
    Unproven {
        incarnation: Incarnation,
        count: u64,
    },
    /// For so long no executor has answered a heartbeat.
    Unanswered(Duration),
    /// No more than `most` attempts run at once for now.
    TakesLess {
        shortage: Shortage,
        most: u32,
    },
    TakesAll,
    /// The executor does not take this worker.
    Refused(String),
    /// The worker goes on under another name.
    Renamed {
        former: Incarnation,
        next: Incarnation,
    },
}

/// How the worker ends.
#[derive(Clone, Debug)]
pub struct WorkerExit {
    /// Attempts that ignore their end, so that only the end of the process ends them. None: all is done, and the lock
    /// file has nothing for the next process to tell.
    pub unstoppable: Vec<AttemptKey>,
    /// What the next process is to find, where that has changed.
    pub kept: Option<Vec<Ended>>,
    /// Why the executor does not take this worker.
    pub refused: Option<String>,
}
