//! AMQP's types as ours, and the reverse.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use lapin::protocol::AMQPError;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, ErrorKind};
use slotline_protocol::Timestamp;

use crate::consumer::{Delivery, Tag};
use crate::publisher::NAME_BYTES_MAX;
use crate::{Error, Properties, Publication};

/// The header that identifies a returned message.
const MARK: &str = "x-slotline-publication";
/// The most bytes the headers of a message may have on the wire.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// All properties must fit into one frame; all but the headers take at most 2 KiB.
pub(super) fn header_bytes_max(frame_max: u32) -> usize {
    match frame_max as usize {
        0 => HEADER_BYTES_MAX,
        frame_max => HEADER_BYTES_MAX.min(frame_max / 2),
    }
}

/// What a header has on the wire beside its name and text: the length of the name, the type, the length of the text.
const HEADER_OVERHEAD: usize = 6;
/// The most bytes of the text that replaces a table or an array among the headers.
const NESTED_BYTES_MAX: usize = 4 << 10;
/// Headers by which RabbitMQ routes. If they are no arrays, it refuses the message and closes the channel. No message
/// that Slotline passes on is meant for the queues that they name.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
/// RabbitMQ replaces this by the name of a queue of the publisher's own channel, and closes a channel that has none.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
const MICROS: i64 = 1_000_000;

/// The content type of a message without another.
const JSON: &str = "application/json";

/// A name as AMQP takes it.
pub(super) fn short(text: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text).map_err(|_| Error::TooLong(text.chars().take(64).collect()))
}

pub(super) fn delivery(delivery: lapin::message::Delivery, channel: u64) -> Delivery {
    Delivery {
        tag: Tag { channel, number: delivery.delivery_tag },
        routing_key: delivery.routing_key.into(),
        exchange: delivery.exchange.into(),
        body: delivery.data.into(),
        properties: properties_from_amqp(&delivery.properties),
        redelivered: delivery.redelivered,
    }
}

fn properties_from_amqp(amqp: &BasicProperties) -> Properties {
    let text = |property: &Option<ShortString>| property.as_ref().map(|text| text.as_str().to_owned());
    Properties {
        message_id: text(amqp.message_id()),
        message_type: text(amqp.kind()),
        app_id: text(amqp.app_id()),
        content_type: text(amqp.content_type()).filter(|content_type| content_type != JSON),
        content_encoding: text(amqp.content_encoding()),
        correlation_id: text(amqp.correlation_id()),
        reply_to: text(amqp.reply_to()),
        timestamp: amqp
            .timestamp()
            .and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(MICROS))
            .map(Timestamp::from_micros)
            .filter(|timestamp| *timestamp <= Timestamp::MAX),
        priority: *amqp.priority(),
        user_id: text(amqp.user_id()),
        headers: amqp.headers().as_ref().map(headers_from_amqp).unwrap_or_default(),
    }
}

fn headers_from_amqp(table: &FieldTable) -> BTreeMap<String, String> {
    table
        .into_iter()
        .filter(|(name, _)| name.as_str() != MARK)
        .map(|(name, value)| (name.as_str().to_owned(), text_of(value)))
        .collect()
}

fn text_of(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::Boolean(flag) => flag.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::Float(number) => number.to_string(),
        AMQPValue::Double(number) => number.to_string(),
        AMQPValue::Timestamp(seconds) => seconds.to_string(),
        AMQPValue::Void => String::new(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into_owned(),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => {
            let mut text = Bounded::default();
            // It fails when there is no more room; the rest is left out.
            let _ = write!(text, "{value:?}");
            text.0
        }
    }
}

/// A text that takes [`NESTED_BYTES_MAX`] bytes and no more.
#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = &text[..text.floor_char_boundary(NESTED_BYTES_MAX - self.0.len())];
        self.0.push_str(fits);
        if fits.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The properties of a publication; `number` goes into a header if the message may be returned.
pub(super) fn properties_to_amqp(publication: &Publication, number: u64, header_bytes_max: usize) -> BasicProperties {
    let properties = &publication.properties;
    let mut amqp = BasicProperties::default()
        .with_content_type(fitting(&properties.content_type).unwrap_or_else(|| JSON.into()))
        .with_delivery_mode(if publication.persistent { PERSISTENT } else { TRANSIENT });
    if let Some(encoding) = fitting(&properties.content_encoding) {
        amqp = amqp.with_content_encoding(encoding);
    }
    if let Some(id) = fitting(&properties.message_id) {
        amqp = amqp.with_message_id(id);
    }
    if let Some(kind) = fitting(&properties.message_type) {
        amqp = amqp.with_type(kind);
    }
    if let Some(app_id) = fitting(&properties.app_id) {
        amqp = amqp.with_app_id(app_id);
    }
    if let Some(id) = fitting(&properties.correlation_id) {
        amqp = amqp.with_correlation_id(id);
    }
    if let Some(reply_to) = fitting(&properties.reply_to).filter(|queue| queue.as_str() != DIRECT_REPLY_TO) {
        amqp = amqp.with_reply_to(reply_to);
    }
    if let Some(timestamp) = properties.timestamp
        && let Ok(seconds) = u64::try_from(timestamp.as_micros() / MICROS)
    {
        amqp = amqp.with_timestamp(seconds);
    }
    let mut headers = headers_to_amqp(&properties.headers, header_bytes_max);
    if publication.mandatory {
        headers.insert(MARK.into(), AMQPValue::LongLongInt(number.cast_signed()));
    }
    amqp.with_headers(headers)
}

/// A property longer than AMQP takes is left out; the envelope repeats those that matter.
fn fitting(property: &Option<String>) -> Option<ShortString> {
    property.as_deref().filter(|text| text.len() <= NAME_BYTES_MAX).map(ShortString::from)
}

/// The prefix of our own headers.
const OURS: &str = "x-slotline-";

/// Headers that do not fit are cut or left out, and headers that RabbitMQ acts on are left out.
fn headers_to_amqp(headers: &BTreeMap<String, String>, bytes_max: usize) -> FieldTable {
    let mut table = FieldTable::default();
    let mut room = bytes_max;
    // Our own first: a dead letter must keep its reason, whatever headers its publisher set.
    let passed = headers.iter().filter(|(name, _)| !ROUTING_HEADERS.contains(&name.as_str()));
    let (ours, theirs): (Vec<_>, Vec<_>) = passed.partition(|(name, _)| name.starts_with(OURS));
    for (name, value) in ours.into_iter().chain(theirs) {
        let bytes = name.len() + HEADER_OVERHEAD;
        if name.len() <= NAME_BYTES_MAX && bytes < room {
            room -= bytes;
            let value = &value[..value.floor_char_boundary(room)];
            room -= value.len();
            table.insert(name.as_str().into(), AMQPValue::LongString(value.into()));
        }
    }
    table
}

/// The number of a returned publication.
pub(super) fn mark_of(amqp: &BasicProperties) -> Option<u64> {
    match amqp.headers().as_ref()?.inner().get(MARK)? {
        AMQPValue::LongLongInt(number) => Some(number.cast_unsigned()),
        _ => None,
    }
}

pub(super) fn error(error: &lapin::Error) -> Error {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => refusal(amqp),
        _ => Error::Lost(error.to_string()),
    }
}

fn refusal(amqp: &AMQPError) -> Error {
    const ACCESS_REFUSED: u16 = 403;
    const NOT_FOUND: u16 = 404;
    const RESOURCE_LOCKED: u16 = 405;
    const NOT_ALLOWED: u16 = 530;
    let message = amqp.get_message().as_str().to_owned();
    match amqp.get_id() {
        ACCESS_REFUSED => Error::NoRight(message),
        RESOURCE_LOCKED | NOT_ALLOWED => Error::Refused(message),
        NOT_FOUND => Error::Missing(message),
        _ => Error::Lost(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_as_they_went_without_the_mark() {
        let properties = Properties {
            message_id: Some("m-1".into()),
            message_type: Some("execution.requested".into()),
            app_id: Some("billing".into()),
            content_type: Some("text/json".into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: Some("c-1".into()),
            reply_to: Some("answers".into()),
            timestamp: Some(Timestamp::from_micros(1_763_713_800_000_000)),
            priority: None,
            user_id: None,
            headers: [("traceparent".to_owned(), "00-a-b-01".to_owned())].into(),
        };
        let publication = Publication { properties: properties.clone(), mandatory: true, ..Publication::default() };
        let amqp = properties_to_amqp(&publication, u64::MAX, HEADER_BYTES_MAX);
        assert_eq!(mark_of(&amqp), Some(u64::MAX));
        assert_eq!(properties_from_amqp(&amqp), properties);
    }

    #[test]
    fn a_priority_and_a_user_are_read_and_never_passed_on() {
        let read = properties_from_amqp(&BasicProperties::default().with_priority(9).with_user_id("alice".into()));
        assert_eq!((read.unequal_priority(), read.user_id.as_deref()), (Some(9), Some("alice")));
        let publication = Publication { properties: read, ..Publication::default() };
        let passed_on = properties_to_amqp(&publication, 1, HEADER_BYTES_MAX);
        assert_eq!((*passed_on.priority(), passed_on.user_id().as_ref()), (None, None));
        let normal = properties_from_amqp(&BasicProperties::default().with_priority(4));
        assert_eq!(normal.unequal_priority(), None);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_headers_are_cut_at_a_character() {
        let properties = Properties {
            message_id: Some("x".repeat(256)),
            headers: [("a".to_owned(), "ä".repeat(HEADER_BYTES_MAX)), ("b".to_owned(), "lost".to_owned())].into(),
            ..Properties::default()
        };
        let publication = Publication { properties, ..Publication::default() };
        let read = properties_from_amqp(&properties_to_amqp(&publication, 1, HEADER_BYTES_MAX));
        assert_eq!(read.message_id, None);
        assert_eq!(read.headers.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(read.headers["a"].len(), HEADER_BYTES_MAX - HEADER_OVERHEAD - 2);
    }

    #[test]
    fn our_own_headers_have_room_whatever_a_publisher_wrote() {
        let headers =
            [("a".to_owned(), "a".repeat(HEADER_BYTES_MAX)), ("x-slotline-reason".to_owned(), "oversized".to_owned())];
        let table = headers_to_amqp(&headers.into(), HEADER_BYTES_MAX);
        assert_eq!(headers_from_amqp(&table)["x-slotline-reason"], "oversized");
    }

    #[test]
    fn many_small_headers_fit_into_a_frame_as_well() {
        let headers = (0..HEADER_BYTES_MAX).map(|number| (format!("{number:x}"), String::new())).collect();
        let table = headers_to_amqp(&headers, HEADER_BYTES_MAX);
        let bytes: usize = table.into_iter().map(|(name, _)| name.as_str().len() + HEADER_OVERHEAD).sum();
        assert!((HEADER_BYTES_MAX - 16..=HEADER_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn headers_that_route_are_not_passed_on() {
        let headers = ["BCC", "CC", "cc"].map(|name| (name.to_owned(), "elsewhere".to_owned()));
        let table = headers_to_amqp(&headers.into(), HEADER_BYTES_MAX);
        assert_eq!(headers_from_amqp(&table).into_keys().collect::<Vec<_>>(), ["cc"]);
        let properties = Properties { reply_to: Some(DIRECT_REPLY_TO.to_owned()), ..Properties::default() };
        let publication = Publication { properties, ..Publication::default() };
        assert_eq!(*properties_to_amqp(&publication, 1, HEADER_BYTES_MAX).reply_to(), None);
    }

    #[test]
    fn the_text_of_a_table_is_bounded() {
        let array = AMQPValue::FieldArray(vec![AMQPValue::Void; NESTED_BYTES_MAX].into());
        assert!(text_of(&array).starts_with("FieldArray(FieldArray([Void, Void"));
        assert_eq!(text_of(&array).len(), NESTED_BYTES_MAX);
        let long = AMQPValue::FieldArray(vec![AMQPValue::ShortString("ä".repeat(100).into()); NESTED_BYTES_MAX].into());
        assert!((NESTED_BYTES_MAX - 1..=NESTED_BYTES_MAX).contains(&text_of(&long).len()));
    }

    #[test]
    fn foreign_headers_are_read_as_text() {
        let mut table = FieldTable::default();
        table.insert("count".into(), AMQPValue::LongInt(3));
        table.insert("flag".into(), AMQPValue::Boolean(true));
        let amqp = BasicProperties::default().with_headers(table).with_timestamp(u64::MAX);
        let read = properties_from_amqp(&amqp);
        assert_eq!(read.headers["count"], "3");
        assert_eq!(read.headers["flag"], "true");
        assert_eq!(read.timestamp, None);
    }
}
