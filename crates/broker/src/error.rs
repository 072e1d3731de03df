//! Why an operation on the broker failed.

use std::time::Duration;

/// Why a broker can't be reached, why an operation failed, or why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The address is invalid; a person must correct it.
    #[error("invalid broker address: {0}")]
    InvalidUrl(String),
    /// The prefix can't be part of names on the broker; a person must correct it.
    #[error("{0:?} is no valid prefix: expected letters, digits, '_', '-' and '.', at most 64 characters")]
    InvalidPrefix(String),
    /// The broker did not answer; the same call may succeed later.
    #[error("can't reach the broker at {endpoint}: {detail}")]
    Unreachable { endpoint: String, detail: String },
    /// The broker answers, but refuses a session to this user or virtual host; a person must look.
    #[error(
        "the broker at {endpoint} refuses the user {user:?}: {detail}: correct the user, the password or the virtual host \
         (--amqp-url, SLOTLINE_AMQP_URL or `amqp_url`)"
    )]
    Denied { endpoint: String, user: String, detail: String },
    /// The user lacks a right on a queue or an exchange; a person must give it.
    #[error("the broker refuses: {0}: give the user the rights that `slotline rabbitmq definitions` prints")]
    NoRight(String),
    /// The broker refuses this user, virtual host or operation; a person must look.
    #[error("the broker refuses: {0}")]
    Refused(String),
    /// A queue or exchange does not exist; declare it first.
    #[error("not on the broker: {0}")]
    Missing(String),
    /// A queue or exchange exists with other settings; a person must delete it or choose another prefix.
    #[error("{name} exists with other settings: {detail}")]
    Mismatch { name: String, detail: String },
    /// A name or argument is longer than AMQP allows.
    #[error("longer than the 255 bytes AMQP allows: {0:?}")]
    TooLong(String),
    /// An operation was not answered in time; the session is over.
    #[error("no answer to {operation} within {after:?}")]
    TimedOut { operation: &'static str, after: Duration },
    /// A publication was not confirmed in time; the session is over.
    #[error("a publication was not confirmed within {after:?}")]
    Overdue { after: Duration },
    /// A queue has refused all publications of this session for so long that another session is worth a try; the
    /// session is over.
    #[error("a queue has refused all publications for {after:?}, full or not: another session may be accepted")]
    RefusedForGood { after: Duration },
    /// The broker ended a consumer, mostly because its queue was deleted; the session is over.
    #[error("the broker cancelled the consumer of {queue}")]
    ConsumerCancelled { queue: String },
    /// The connection or a channel broke; the session is over.
    #[error("the connection to the broker was lost: {0}")]
    Lost(String),
    /// The session was closed from this side.
    #[error("the session was closed")]
    Closed,
}

/// Why a publication does not count as stored. It may have been stored all the same, except for `Full` and `TooLarge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It was mandatory, and no queue took it.
    #[error("no queue took the message")]
    Returned,
    /// A queue refused it, because it is full or failed.
    #[error("a queue refused the message")]
    Nacked,
    /// No confirm came in time; the session is over.
    #[error("the message was not confirmed in time")]
    Overdue,
    /// The session ended first.
    #[error("the session ended before the message was confirmed")]
    SessionEnded,
    /// Too much is unconfirmed already; nothing was sent. Try again when some of it is confirmed.
    #[error("too many messages are unconfirmed")]
    Full,
    /// The broker would not take it; nothing was sent.
    #[error(
        "the message is larger than the broker takes (max_message_size in rabbitmq.conf), or its address than AMQP allows"
    )]
    TooLarge,
}
