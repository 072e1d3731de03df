//! The wire shapes, compared with golden files: what is written there must be read, and written again, for ever.
//!
//! A shape may only grow: add a field to a golden file, never take one away.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use slotline_protocol::envelope::{self, Body, Defaults, Envelope};
use slotline_protocol::message::{
    Accepted, Cancel, CancelRequested, Completed, Ended, Heartbeat, Hello, Message, Probe, Progress, Recall, Recorded,
    Rejected, Requested, Resend, Returned, Scheduled, Settled, StatusChanged, TYPES,
};
use slotline_protocol::{public, record};

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect(name)
}

fn read<M: Message>(name: &str) -> Value {
    let golden = golden(name);
    let message: M = serde_json::from_value(golden.clone()).expect(name);
    assert_eq!(serde_json::to_value(&message).expect(name), golden, "{name} is written as it was read");
    golden
}

fn check<M: Message>(name: &str) -> &'static str {
    let mut grown = read::<M>(name);
    grown["a_field_of_tomorrow"] = Value::Bool(true);
    serde_json::from_value::<M>(grown).expect("unknown members are ignored");
    M::TYPE
}

/// For a publisher's requests, where an unknown member is a misspelt one.
fn check_asked<M: Message>(name: &str) -> &'static str {
    let mut grown = read::<M>(name);
    grown["x-a_field_of_its_own"] = Value::Bool(true);
    serde_json::from_value::<M>(grown.clone()).expect("a publisher's own members are ignored");
    grown["a_field_of_tomorrow"] = Value::Bool(true);
    assert!(serde_json::from_value::<M>(grown).is_err(), "unknown members are refused");
    M::TYPE
}

#[test]
fn every_message_is_written_as_it_is_read() {
    let checked: BTreeSet<&str> = [
        check_asked::<Requested>("execution.requested"),
        check_asked::<CancelRequested>("execution.cancel_requested"),
        check::<Accepted>("execution.accepted"),
        check::<Rejected>("execution.rejected"),
        check::<Settled>("execution.settled"),
        check::<Scheduled>("execution.scheduled"),
        check::<Cancel>("execution.cancel"),
        check::<Recall>("execution.recall"),
        check::<Recorded>("execution.recorded"),
        check::<Resend>("execution.resend"),
        check::<Hello>("executor.hello"),
        check::<Completed>("execution.completed"),
        check::<Returned>("execution.returned"),
        check::<StatusChanged>("execution.status_changed"),
        check::<Progress>("execution.progress"),
        check::<Heartbeat>("worker.heartbeat"),
        check::<Ended>("worker.ended"),
        check::<Probe>("probe"),
    ]
    .into();
    assert_eq!(checked, TYPES.iter().copied().collect(), "every message has a golden file");
    for kind in ["started", "log", "finished", "gap", "task"] {
        check::<Progress>(&format!("execution.progress.{kind}"));
    }
}

#[test]
fn every_message_to_the_public_is_written_as_it_is_read() {
    let checked: BTreeSet<&str> = [
        check::<public::StatusChanged>("../golden_public/execution.status_changed"),
        check::<public::Completed>("../golden_public/execution.completed"),
        check::<public::Completed>("../golden_public/execution.completed.queue_timeout"),
        check::<record::Event>("../golden_public/execution.progress"),
        check::<record::Event>("../golden_public/execution.progress.finished"),
        check::<record::Event>("../golden_public/execution.progress.log"),
    ]
    .into();
    assert!(checked.iter().all(|message_type| TYPES.contains(message_type)), "the public knows them by the same names");
}

#[test]
fn parameters_and_results_pass_through_as_they_were_written() {
    let written = r#"{"z":1.10,"a":"\u0000 \ud83d\ude00","big":123456789012345678901234567890}"#;
    let body =
        format!(r#"{{"message_type":"execution.requested","payload":{{"action_ref":"a.b","parameters":{written}}}}}"#);
    let members = envelope::read(&body.into(), Defaults::default()).expect("a body");
    let envelope = members.get(0).expect("an envelope");
    let requested: Requested = envelope.open().expect("a request");
    assert_eq!(requested.parameters.get(), written);
    let again = Envelope::new(&requested, "test", slotline_protocol::Timestamp::from_micros(0));
    let again = String::from_utf8(envelope::write(&again).into()).expect("JSON");
    assert!(again.contains(written), "{again}");
}

proptest! {
    #[test]
    fn reading_a_body_never_panics_and_always_says_why(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        match envelope::read(&body.into(), Defaults::default()) {
            Err(unreadable) => prop_assert!(!unreadable.detail.is_empty()),
            Ok(members) => {
                for unreadable in members.iter().filter_map(Result::err) {
                    prop_assert!(!unreadable.detail.is_empty());
                }
            }
        }
    }

    #[test]
    fn what_is_written_as_one_or_as_many_is_read_back(count in 1_usize..5, text in "\\PC{0,40}") {
        let cancel = CancelRequested { message_id: Some(text.clone()), ..CancelRequested::default() };
        let envelope = Envelope::new(&cancel, "test", slotline_protocol::Timestamp::from_micros(5));
        let (mut written, mut pushed) = (Body::with_room(count), Body::with_room(0));
        for _ in 0..count {
            written.write(&envelope);
            pushed.push(&envelope::write(&envelope));
        }
        let body = written.finish();
        prop_assert_eq!(&body, &pushed.finish());
        let members = envelope::read(&body, Defaults::default()).expect("a body");
        prop_assert_eq!(members.len(), count);
        for member in members.iter() {
            let read: CancelRequested = member.expect("an envelope").open().expect("a payload");
            prop_assert_eq!(read.message_id.as_ref(), Some(&text));
        }
    }
}
