//! The envelope around every payload, and how a body of one or many is read.
//!
//! A publisher may leave out all but `message_type` and `payload`: the AMQP properties of the same names fill in.
//! A body is one envelope or an array of envelopes; of an array only the unreadable members are refused. A body is first
//! divided into its members ([`read`]), and each member is read when its turn comes ([`Members::get`]), so that reading a
//! body takes no more memory than its bytes and a few for each member.

mod body;
mod members;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Timestamp;
use crate::message::Message;

pub use crate::sizes::{ENVELOPE_BYTES_MAX, OWN_BYTES_MAX};
pub use body::{Body, write};
pub use members::{Members, member_id, read, read_own, read_requests};

/// The most bytes a body, that is all envelopes of an array, may have.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// The most envelopes an array may have. A body with more is refused whole, since each envelope costs its readers more
/// than its bytes.
pub const MEMBERS_MAX: usize = 10_000;
/// The most characters a `message_id` may have.
pub const MESSAGE_ID_CHARS_MAX: usize = 128;
/// The most characters a `correlation_id`, a `trace_id` or a `source` of a request may have, which many messages repeat;
/// as many bytes fit into an AMQP property.
pub const LABEL_CHARS_MAX: usize = 255;
/// What the refusal of a compressed body asks for.
pub const ENCODING_EXPECTED: &str = "expected JSON in UTF-8, not compressed";
/// The deepest nesting of arrays and objects that is read.
pub const DEPTH_MAX: usize = 100;

/// A message on the broker: read from a body `'t`, or, with a `&M` as its payload, to be written.
#[derive(Clone, Debug, Serialize)]
pub struct Envelope<'t, P = &'t RawValue> {
    /// The idempotency key of a request. `None`: the publisher gave none, and its request may run more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    pub message_type: Cow<'t, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'t, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    pub payload: P,
}

/// The AMQP properties, for members that an envelope leaves out.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    pub message_id: Option<String>,
    /// The `type` property.
    pub message_type: Option<String>,
    /// The `app_id` property.
    pub source: Option<String>,
    pub timestamp: Option<Timestamp>,
    pub correlation_id: Option<String>,
    /// The trace part of the header `traceparent`.
    pub trace_id: Option<String>,
    /// The `content_encoding` property.
    pub content_encoding: Option<String>,
}

/// Why a message was put aside; the code in the header `x-slotline-reason` and in a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No JSON, or no envelope.
    Malformed,
    /// The body is compressed.
    UnsupportedEncoding,
    /// Larger than [`ENVELOPE_BYTES_MAX`] (or [`OWN_BYTES_MAX`]), or a body larger than [`BODY_BYTES_MAX`] or of more than
    /// [`MEMBERS_MAX`] envelopes.
    Oversized,
    /// The queue where it arrived takes no messages of this type.
    UnknownType,
    /// The payload does not fit its type.
    InvalidPayload,
    /// No action bears this name.
    UnknownAction,
    /// The parameters do not fit the action's schema.
    InvalidParameters,
    /// The line has `max_queue_length` waiting.
    LineFull,
    /// The same `message_id` came with another body before.
    IdempotencyConflict,
    /// The AMQP property `priority` asks to be served out of turn.
    PriorityNotSupported,
    /// Processes that began to read it ended while doing so.
    Poisoned,
    /// The journal's database refuses what the message holds.
    JournalRefused,
}

impl Reason {
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::UnsupportedEncoding,
        Self::Oversized,
        Self::UnknownType,
        Self::InvalidPayload,
        Self::UnknownAction,
        Self::InvalidParameters,
        Self::LineFull,
        Self::IdempotencyConflict,
        Self::PriorityNotSupported,
        Self::Poisoned,
        Self::JournalRefused,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::Oversized => "oversized",
            Self::UnknownType => "unknown_type",
            Self::InvalidPayload => "invalid_payload",
            Self::UnknownAction => "unknown_action",
            Self::InvalidParameters => "invalid_parameters",
            Self::LineFull => "line_full",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::PriorityNotSupported => "priority_not_supported",
            Self::Poisoned => "poisoned",
            Self::JournalRefused => "journal_refused",
        }
    }
}

/// A message, or a member of one, that can't be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Unreadable {
    pub reason: Reason,
    pub detail: String,
    /// The `message_id`, if it could be read.
    pub message_id: Option<String>,
}

impl<'t, M: Message> Envelope<'t, &'t M> {
    /// Wraps `payload`.
    pub fn new(payload: &'t M, source: &'t str, now: Timestamp) -> Self {
        Self {
            message_id: None,
            message_type: Cow::Borrowed(M::TYPE),
            source: Some(Cow::Borrowed(source)),
            timestamp: Some(now),
            correlation_id: None,
            trace_id: None,
            payload,
        }
    }
}

impl Envelope<'_> {
    /// Reads the payload as `M`; names the offending field otherwise.
    pub fn open<M: Message>(&self) -> Result<M, Unreadable> {
        parse(self.payload.get()).map_err(|(path, error)| {
            let field = path.map_or("payload".to_owned(), |path| format!("payload.{path}"));
            Unreadable {
                reason: Reason::InvalidPayload,
                detail: format!("{field}: {error}"),
                message_id: self.message_id.clone(),
            }
        })
    }
}

/// Reads JSON; an error comes with the path of the field it is about, unless it is about the whole. The path is looked
/// for only after an error, since keeping track of it takes as long as all the rest.
pub fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, (Option<String>, serde_json::Error)> {
    serde_json::from_str(text).map_err(|error| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found: Result<T, _> = serde_path_to_error::deserialize(&mut deserializer);
        let path = found.err().map(|error| error.path().to_string());
        // Without an error here, the error is in what follows the value.
        (path.filter(|path| path != "." && path != "?"), error)
    })
}

/// Refuses nesting that a recursive reader further down would not survive.
pub fn check_depth(text: &str) -> Result<(), String> {
    // The depth is at most the number of brackets, and counting them takes next to no time.
    if memchr::memchr2_iter(b'[', b'{', text.as_bytes()).take(DEPTH_MAX + 1).count() <= DEPTH_MAX {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX} arrays and objects"));
        }
    }
    Ok(())
}

/// The trace id within a `traceparent` header (W3C Trace Context), if it is well formed.
pub fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests;
