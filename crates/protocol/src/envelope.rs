//! The envelope around every payload, and how a body of one or many is read.
//!
//! A publisher may leave out all but `message_type` and `payload`: the AMQP properties of the same names fill in.
//! A body is one envelope or an array of envelopes; of an array only the unreadable members are refused. A body is first
//! divided into its members ([`read`]), and each member is read when its turn comes ([`Members::get`]), so that reading a
//! body takes no more memory than its bytes and a few for each member.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::Timestamp;
use crate::foreign::{self, compression};
use crate::message::Message;
use crate::sizes::{self, Sizes};
use crate::text::Text;

/// The most bytes one envelope of a publisher may have.
pub const ENVELOPE_BYTES_MAX: usize = 1 << 20;
/// The most bytes one envelope between executors and workers may have. It repeats what a publisher's held, with more
/// around it: every request that is accepted can be dispatched, and fits into a heartbeat beside ten thousand attempts.
pub const OWN_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + (1 << 20);
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

#[derive(Deserialize)]
#[serde(expecting = "an envelope")]
struct WireEnvelope<'a> {
    #[serde(default)]
    message_id: Option<String>,
    #[serde(borrow, default)]
    message_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    source: Option<Text<'a>>,
    #[serde(default, deserialize_with = "if_readable")]
    timestamp: Option<Timestamp>,
    #[serde(default)]
    correlation_id: Option<String>,
    #[serde(default)]
    trace_id: Option<String>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// No decision depends on the timestamp, so an unreadable one is left out instead of refusing the message.
fn if_readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(text.get()).ok())
}

/// Just enough of a broken envelope to name it in a refusal.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    message_id: Option<serde_json::Value>,
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

/// A body divided into its envelopes, none of which is read yet.
#[derive(Clone, Debug)]
pub struct Members {
    body: Bytes,
    defaults: Defaults,
    envelope_bytes_max: usize,
    is_array: bool,
    spans: Vec<Range<u32>>,
}

impl Members {
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether the body is an array, also one of a single envelope.
    pub fn is_array(&self) -> bool {
        self.is_array
    }

    /// Reads the envelope at `index`, which is below [`Members::len`].
    pub fn get(&self, index: usize) -> Result<Envelope<'_>, Unreadable> {
        let Range { start, end } = self.spans[index];
        let text = std::str::from_utf8(&self.body[start as usize..end as usize]).expect("checked by `read`");
        member(self.envelope_bytes_max, text, &self.defaults, self.is_array.then_some(index))
    }

    /// The envelope at `index` as it came, which shares the memory of the body.
    pub fn raw(&self, index: usize) -> Bytes {
        let Range { start, end } = self.spans[index];
        self.body.slice(start as usize..end as usize)
    }

    /// Reads one envelope after the other.
    pub fn iter(&self) -> impl Iterator<Item = Result<Envelope<'_>, Unreadable>> {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Divides a publisher's body: one envelope, or an array of them. An error puts the whole body aside, one of
/// [`Members::get`] only that member.
pub fn read(body: &Bytes, defaults: Defaults) -> Result<Members, Unreadable> {
    read_requests(Sizes::FULL, body, defaults)
}

/// Divides a publisher's body on a broker that may take less than the largest envelope.
pub fn read_requests(sizes: Sizes, body: &Bytes, defaults: Defaults) -> Result<Members, Unreadable> {
    read_up_to(sizes.request(), body, defaults)
}

/// Divides a body of an executor or a worker.
pub fn read_own(body: &Bytes, defaults: Defaults) -> Result<Members, Unreadable> {
    read_up_to(OWN_BYTES_MAX, body, defaults)
}

fn read_up_to(envelope_bytes_max: usize, body: &Bytes, defaults: Defaults) -> Result<Members, Unreadable> {
    let whole = |reason, detail: String| Unreadable { reason, detail, message_id: defaults.message_id.clone() };
    if body.len() > BODY_BYTES_MAX {
        let detail = format!("the body has {} bytes: expected at most {BODY_BYTES_MAX}", body.len());
        return Err(whole(Reason::Oversized, detail));
    }
    let whole_text = std::str::from_utf8(body).map_err(|error| {
        // `content_encoding` counts only for a body that is no text: many clients put the encoding of characters there.
        match compression(body).or(defaults.content_encoding.as_deref()) {
            Some(name) => whole(Reason::UnsupportedEncoding, format!("the body is {name}: {ENCODING_EXPECTED}")),
            None => whole(Reason::Malformed, format!("the body is not UTF-8: {error}")),
        }
    })?;
    let text = whole_text.trim_start_matches('\u{feff}').trim();
    let is_array = text.starts_with('[');
    let mut texts = Vec::new();
    if is_array {
        divide(text, &mut texts).map_err(|error| {
            if texts.len() < MEMBERS_MAX {
                return whole(Reason::Malformed, format!("the body is no JSON array: {error}"));
            }
            let detail = format!("the body has more than {MEMBERS_MAX} envelopes: send them in several messages");
            whole(Reason::Oversized, detail)
        })?;
        if !texts.iter().any(|text| text.starts_with('{')) {
            let detail = match texts.len() {
                0 => "the body is an empty array: expected an envelope, or an array of envelopes".to_owned(),
                values => format!("the body is an array of {values} values, none of which is an object"),
            };
            return Err(whole(Reason::Malformed, detail));
        }
        if let Some(detail) = foreign::array(&texts) {
            return Err(whole(Reason::Malformed, detail));
        }
    } else {
        texts.push(text);
    }
    let start_of = |text: &str| text.as_ptr().addr() - whole_text.as_ptr().addr();
    // A body is far smaller than 4 GiB.
    let spans = texts.iter().map(|text| start_of(text) as u32..(start_of(text) + text.len()) as u32).collect();
    Ok(Members { body: body.clone(), defaults, envelope_bytes_max, is_array, spans })
}

/// Finds the members of an array, at most [`MEMBERS_MAX`] of them.
fn divide<'t>(array: &'t str, into: &mut Vec<&'t str>) -> Result<(), serde_json::Error> {
    struct Divider<'t, 'v>(&'v mut Vec<&'t str>);

    impl<'t> Visitor<'t> for Divider<'t, '_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'t>>(self, mut members: A) -> Result<(), A::Error> {
            while let Some(member) = members.next_element::<&'t RawValue>()? {
                if self.0.len() == MEMBERS_MAX {
                    return Err(A::Error::custom("too many members"));
                }
                self.0.push(member.get());
            }
            Ok(())
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(array);
    deserializer.deserialize_seq(Divider(into))?;
    deserializer.end()
}

/// Writes an envelope, which is a body by itself.
pub fn write<P: Serialize>(envelope: &Envelope<'_, P>) -> Bytes {
    let mut body = Body::with_room(1);
    body.write(envelope);
    body.finish()
}

/// A body being built: a single envelope stays bare, several are an array.
#[derive(Debug)]
pub struct Body {
    /// Always begins as an array.
    text: Vec<u8>,
    members: usize,
    /// Where the last member begins, with the comma before it.
    last: usize,
}

impl Body {
    /// The most envelopes of one body.
    pub const MEMBERS_MAX: usize = 500;
    /// A body takes no more envelopes once it has this many bytes; far below the limit, even with one more.
    const FULL_BYTES: usize = 1 << 20;
    /// Most envelopes have no more bytes than this.
    const MEMBER_BYTES: usize = 400;

    /// An empty body, with memory for so many envelopes of common size.
    pub fn with_room(members: usize) -> Self {
        let mut text = Vec::with_capacity(members * Self::MEMBER_BYTES + 2);
        text.push(b'[');
        Self { text, members: 0, last: 0 }
    }

    pub fn write<P: Serialize>(&mut self, envelope: &Envelope<'_, P>) {
        self.begin();
        serde_json::to_writer(&mut self.text, envelope).expect("envelopes are plain data with string keys");
    }

    /// Adds an envelope that is written already.
    pub fn push(&mut self, written: &[u8]) {
        self.begin();
        self.text.extend_from_slice(written);
    }

    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// The bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Removes the last envelope if the body has more than `most` bytes with it, unless it is the only one.
    pub fn split(&mut self, most: usize) -> Option<Self> {
        if self.members < 2 || self.text.len() < most {
            return None;
        }
        let mut split = Self::with_room(1);
        split.push(&self.text[self.last + 1..]);
        self.text.truncate(self.last);
        self.members -= 1;
        Some(split)
    }

    /// Whether it takes one more envelope.
    pub fn has_room(&self) -> bool {
        self.members < Self::MEMBERS_MAX && self.text.len() < Self::FULL_BYTES
    }

    pub fn finish(mut self) -> Bytes {
        if self.members == 1 {
            return Bytes::from(self.text).slice(1..);
        }
        self.text.push(b']');
        self.text.into()
    }

    fn begin(&mut self) {
        self.last = self.text.len();
        if self.members > 0 {
            self.text.push(b',');
        }
        self.members += 1;
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

fn member<'t>(
    most: usize,
    text: &'t str,
    defaults: &'t Defaults,
    index: Option<usize>,
) -> Result<Envelope<'t>, Unreadable> {
    let derived_id = || match (&defaults.message_id, index) {
        (Some(id), Some(index)) => Some(member_id(id, index)),
        (id, _) => id.clone(),
    };
    let refuse = |reason, detail: String| Unreadable {
        reason,
        detail,
        message_id: serde_json::from_str::<Named>(text)
            .ok()
            .and_then(|named| named.message_id?.as_str().map(clip))
            .or_else(derived_id),
    };
    if text.len() > most {
        return Err(refuse(Reason::Oversized, sizes::oversized(text.len(), most)));
    }
    check_depth(text).map_err(|detail| refuse(Reason::Malformed, detail))?;
    if text.starts_with('[') {
        // serde would take its elements as the fields in order.
        return Err(refuse(Reason::Malformed, "expected an object, found an array".to_owned()));
    }
    let wire: WireEnvelope<'_> = parse(text).map_err(|(path, error)| {
        let detail = path.map_or(error.to_string(), |path| format!("{path}: {error}"));
        refuse(Reason::Malformed, foreign::envelope(text).unwrap_or(detail))
    })?;
    let message_id = wire.message_id.filter(|id| !id.is_empty()).or_else(derived_id);
    if let Some(id) = &message_id
        && (id.chars().count() > MESSAGE_ID_CHARS_MAX || id.contains('\0'))
    {
        let detail = format!("message_id: expected at most {MESSAGE_ID_CHARS_MAX} characters and no NUL");
        return Err(refuse(Reason::Malformed, detail));
    }
    let or_default = |text: Option<Text<'t>>, default: &'t Option<String>| match text {
        Some(Text(text)) => Some(text),
        None => default.as_deref().map(Cow::Borrowed),
    };
    let message_type = or_default(wire.message_type, &defaults.message_type).ok_or_else(|| {
        let detail = "missing field `message_type`, and the message has no property `type`".to_owned();
        refuse(Reason::Malformed, foreign::envelope(text).unwrap_or(detail))
    })?;
    Ok(Envelope {
        message_id,
        message_type,
        source: or_default(wire.source, &defaults.source),
        timestamp: wire.timestamp.or(defaults.timestamp),
        correlation_id: wire.correlation_id.or_else(|| defaults.correlation_id.clone()),
        trace_id: wire.trace_id.or_else(|| defaults.trace_id.clone()),
        payload: wire.payload,
    })
}

/// The id of member `index` of the array message `id`: `uuid5(id, index)`, with an `id` that is no UUID made one first.
pub fn member_id(id: &str, index: usize) -> String {
    let namespace = Uuid::parse_str(id).unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()));
    Uuid::new_v5(&namespace, index.to_string().as_bytes()).to_string()
}

fn clip(text: &str) -> String {
    text.chars().take(MESSAGE_ID_CHARS_MAX).collect()
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
