//! Messages that no client library sends: any bytes as properties, headers of any depth and number.
//!
//! What RabbitMQ itself refuses is not among them (`broker/tests/strangers.rs`).

use serde_json::json;
use slotline_tests::stranger::{Property, RawProperties, array, entry, nested, text};

use super::{NUMBER, request};

/// The line of those that run; it has one slot, so that they run in order.
pub(super) const LINE: &str = "line.raw";
/// What the ids begin with of those that have one.
pub(super) const RAW: &str = "raw-";
/// Tables or arrays in each other, twice what the stack of a thread has room for. A frame has room for nine times that,
/// but a quorum queue of RabbitMQ 3.10 takes time with the square of it: 20 s for 18,000.
const DEPTH: usize = 2_000;
/// Headers, nearly as many as fit into a frame.
const HEADERS: u32 = 20_000;
const KEY: &[u8] = b"execution.requested";
/// No UTF-8.
const BYTES: &[u8] = b"\xff\x80raw";

/// One message, and why it will be put aside; it runs if there is no reason.
pub(super) struct Raw {
    pub(super) number: usize,
    pub(super) routing_key: Vec<u8>,
    pub(super) properties: RawProperties,
    pub(super) body: Vec<u8>,
    pub(super) reason: Option<&'static str>,
}

/// One message of every kind; they are numbered from `first`.
pub(super) fn all(first: usize) -> Vec<Raw> {
    let mut kinds = Kinds { first, all: Vec::new() };
    let none = RawProperties::default;
    for entries in unusual_headers() {
        kinds.add_both(KEY, &none().headers(entries));
    }
    for property in Property::TEXTS {
        kinds.add_both(KEY, &none().text(property, BYTES));
    }
    kinds.add_both(&[KEY, b".", BYTES].concat(), &none());

    // Their ids differ only in what is no text, so that the second is not taken for the first.
    let shared = kinds.next();
    for last in [0xff, 0xfe] {
        let id = [shared.to_string().as_bytes(), &[last]].concat();
        kinds.add(none().text(Property::MessageId, id), sound(kinds.next()), None);
    }
    for id in [&[0xff; 255][..], b"a\0b"] {
        let known = none().headers(entry(NUMBER, text(kinds.next().to_string())));
        kinds.add(known.text(Property::MessageId, id), sound(kinds.next()), Some("malformed"));
    }
    let untyped = json!({"payload": {"action_ref": LINE, "parameters": {"n": 0}}}).to_string();
    kinds.add(named(&none().text(Property::Type, BYTES), kinds.next()), untyped, Some("unknown_type"));
    for property in [Property::AppId, Property::CorrelationId] {
        let properties = named(&none().text(property, "a\0b"), kinds.next());
        kinds.add(properties, sound(kinds.next()), Some("malformed"));
    }
    // A queue of this name gets its answers.
    kinds.add_both(KEY, &none().text(Property::ReplyTo, "a\0b"));
    kinds.all
}

fn unusual_headers() -> [Vec<u8>; 6] {
    let list = array(text("elsewhere"));
    [
        entry("deep", nested(b'F', DEPTH)),
        entry("deep", nested(b'A', DEPTH)),
        entry("deep", array(nested(b'F', DEPTH))),
        [entry(BYTES, text(BYTES)), entry([0xff; 255], b"V"), entry("\0", text("\0"))].concat(),
        [entry("CC", &list), entry("BCC", &list), entry("x-death", &list)].concat(),
        (0..HEADERS).flat_map(|number| entry(&number.to_be_bytes()[1..], b"V")).collect(),
    ]
}

struct Kinds {
    first: usize,
    all: Vec<Raw>,
}

impl Kinds {
    /// The number of the next to be added.
    fn next(&self) -> usize {
        self.first + self.all.len()
    }

    /// One that runs in spite of what is beside it, and one that has the same beside it and does not.
    fn add_both(&mut self, routing_key: &[u8], properties: &RawProperties) {
        for reason in [None, Some("malformed")] {
            let number = self.next();
            let body = if reason.is_none() { sound(number) } else { "{".to_owned() };
            self.add(named(properties, number), body, reason);
            if let Some(added) = self.all.last_mut() {
                added.routing_key = routing_key.to_owned();
            }
        }
    }

    fn add(&mut self, properties: RawProperties, body: String, reason: Option<&'static str>) {
        let (number, routing_key) = (self.next(), KEY.to_owned());
        self.all.push(Raw { number, routing_key, properties, body: body.into_bytes(), reason });
    }
}

/// With the number as id, to find its dead letter.
fn named(properties: &RawProperties, number: usize) -> RawProperties {
    properties.clone().text(Property::MessageId, format!("{RAW}{number}"))
}

fn sound(number: usize) -> String {
    request(&json!({"action_ref": LINE, "parameters": {"n": number}}))
}
