//! Reading a body: divided into its envelopes first, each read when its turn comes.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    BODY_BYTES_MAX, Defaults, ENCODING_EXPECTED, Envelope, MEMBERS_MAX, MESSAGE_ID_CHARS_MAX, Reason, Unreadable,
    check_depth, parse,
};
use crate::Timestamp;
use crate::foreign::{self, compression};
use crate::sizes::{self, OWN_BYTES_MAX, Sizes};
use crate::text::Text;

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
