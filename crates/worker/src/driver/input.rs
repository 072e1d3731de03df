//! What can happen around the duty book: the arguments of the driver.

use bytes::Bytes;
use slotline_protocol::envelope::Defaults;
use slotline_protocol::{Incarnation, Sizes};

use crate::duty::Effect;

/// What happened, in the past tense.
#[expect(clippy::large_enum_variant, reason = "they are handed in one by one, and most are deliveries")]
#[derive(Clone, Debug)]
pub enum Input {
    /// There is a session, and the queue of that incarnation is consumed through it; `sizes` is what its broker takes.
    Subscribed { incarnation: Incarnation, sizes: Sizes },
    /// That session is over. What was published through it and not confirmed is reported one by one, as [`Confirm::Lost`].
    SessionLost,
    /// A message came through the queue of that incarnation. `is_last`: no other waits to be handed in.
    Delivered { incarnation: Incarnation, delivery: ReceivedMessage, is_last: bool },
    /// What became of the publication of that number.
    Confirmed { id: u64, confirm: Confirm },
    /// What the duty book has asked for and is not done at once (see [`super::Book::take_deferred`]), in order.
    Asked(Vec<Effect>),
    /// The next name of the worker, and the nonce of its heartbeats; answers [`super::DriverAction::ChooseName`].
    Named { incarnation: Incarnation, nonce: String },
    /// No new work; what runs may finish in time.
    DrainRequested,
    /// End everything now.
    StopRequested,
    /// Time passed.
    Tick,
    /// All that happened is handed in, and all that the book asked for: what waits to be sent may leave.
    TurnEnded,
}

/// A message as it came, with the headers that prove its writer.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// It went to all workers.
    pub is_to_all: bool,
    pub proof: Option<String>,
    pub nonce: Option<String>,
    pub token: Option<String>,
    /// What its properties say where an envelope is silent.
    pub defaults: Defaults,
    pub body: Bytes,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Every queue that should have it has it.
    Stored,
    /// A queue refused it, or too much is unconfirmed already: it may be sent again before long.
    Refused,
    /// No queue should have it, or the broker takes nothing that large: to send it again is of no use.
    Dropped,
    /// Its session ended before the confirm.
    Lost,
}
