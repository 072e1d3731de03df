use bytes::Bytes;

use super::*;
use crate::message::Requested;

fn members(body: impl Into<Vec<u8>>, defaults: &Defaults) -> Members {
    read(&Bytes::from(body.into()), defaults.clone()).expect("readable")
}

/// Why the body, or the one envelope that it is, is refused.
fn refused(body: impl AsRef<[u8]>) -> Unreadable {
    let body = Bytes::copy_from_slice(body.as_ref());
    let members = match read(&body, Defaults::default()) {
        Ok(members) => members,
        Err(unreadable) => return unreadable,
    };
    members.get(0).expect_err("it is refused")
}

#[test]
fn a_type_and_a_payload_are_enough() {
    let body = r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo"}}"#;
    let members = members(body, &Defaults::default());
    let envelope = members.get(0).expect("an envelope");
    let requested: Requested = envelope.open().expect("a request");
    assert_eq!(requested.action_ref.as_str(), "demo.echo");
    assert_eq!(requested.parameters.get(), "{}");
    assert_eq!(envelope.message_id, None);
}

#[test]
fn properties_fill_in_what_the_envelope_leaves_out() {
    let defaults = Defaults {
        message_id: Some("m-1".into()),
        message_type: Some("execution.requested".into()),
        source: Some("billing".into()),
        correlation_id: Some("c-1".into()),
        ..Defaults::default()
    };
    let members = members(r#"{"payload": {}, "source": "mine", "new_field": 1}"#, &defaults);
    let envelope = members.get(0).expect("readable");
    assert_eq!(envelope.message_id.as_deref(), Some("m-1"));
    assert_eq!(envelope.message_type, "execution.requested");
    assert_eq!(envelope.source.as_deref(), Some("mine"));
    assert_eq!(envelope.correlation_id.as_deref(), Some("c-1"));
}

#[test]
fn of_an_array_only_the_bad_members_are_refused() {
    let defaults = Defaults { message_id: Some("5f0c1b1e-8f9e-4a53-8a3e-0d8f4f5c1a11".into()), ..Defaults::default() };
    let body = br#"[{"message_type":"t","payload":1}, 7, {"message_id":"x","message_type":"t"}, {"message_id":"y","message_type":"t","payload":{}}]"#;
    let members = members(body, &defaults);
    let ids: Vec<_> = members
        .iter()
        .map(|member| match member {
            Ok(envelope) => (true, envelope.message_id.clone().expect("every member has an id")),
            Err(unreadable) => (false, unreadable.message_id.clone().expect("every member has an id")),
        })
        .collect();
    let derived = |index| member_id("5f0c1b1e-8f9e-4a53-8a3e-0d8f4f5c1a11", index);
    assert_eq!(ids, [(true, derived(0)), (false, derived(1)), (false, "x".into()), (true, "y".into())]);
}

#[test]
fn a_time_that_nothing_decides_by_costs_no_message_however_it_is_spelt() {
    for timestamp in [
        "\"2026-11-29T20:00:00Z\"",
        "\"2026-11-29T20:00:00\"",
        "\"2026-11-29 20:00:00\"",
        "\"2026-11-29T20:00:00+0000\"",
        "1764446400",
        "\"\"",
        "null",
        "{\"$date\": 1}",
    ] {
        let body = format!("{{\"message_type\":\"t\",\"payload\":{{}},\"timestamp\":{timestamp}}}");
        let members = members(body.as_bytes(), &Defaults::default());
        let read = members.get(0).unwrap_or_else(|error| panic!("{timestamp}: {error}"));
        assert_eq!(read.timestamp.is_some(), timestamp.ends_with("Z\""), "{timestamp}");
    }
}

#[test]
fn what_can_not_be_read_says_why() {
    for (body, expected) in [
        ("", "EOF"),
        ("nonsense", "expected"),
        ("{\"message_type\":5,\"payload\":{}}", "message_type"),
        ("{\"payload\":{}}", "message_type"),
        ("{\"message_type\":\"t\"}", "payload"),
        ("{\"message_type\":\"t\",\"payload\":{}} trailing", "trailing"),
        ("[{\"message_type\":\"t\",\"payload\":{}}", "array"),
    ] {
        let error = refused(body);
        assert_eq!(error.reason, Reason::Malformed);
        assert!(error.detail.contains(expected), "{body}: {}", error.detail);
    }
    assert!(refused(b"\xff\xfe").detail.contains("UTF-8"));
    let deep = format!("{{\"message_type\":\"t\",\"payload\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    assert!(refused(deep).detail.contains("nested"));
}

#[test]
fn the_caps_are_for_one_envelope_and_for_a_body() {
    let envelope = |bytes: usize| {
        let shell = r#"{"message_type":"t","payload":""}"#.len();
        format!(r#"{{"message_type":"t","payload":"{}"}}"#, "x".repeat(bytes - shell))
    };
    let members = |members: Result<Members, Unreadable>| members.and_then(|members| members.get(0).map(|_| ()));
    let theirs = |bytes| members(read(&envelope(bytes).into(), Defaults::default()));
    let ours = |bytes| members(read_own(&envelope(bytes).into(), Defaults::default()));
    assert!(theirs(ENVELOPE_BYTES_MAX).is_ok());
    assert_eq!(theirs(ENVELOPE_BYTES_MAX + 1).expect_err("one byte more").reason, Reason::Oversized);
    assert!(ours(OWN_BYTES_MAX).is_ok());
    assert_eq!(ours(OWN_BYTES_MAX + 1).expect_err("one byte more").reason, Reason::Oversized);
    let array = format!("[{}]", vec![envelope(ENVELOPE_BYTES_MAX - 1); 8].join(","));
    assert!(array.len() > BODY_BYTES_MAX - 1024);
    assert_eq!(refused(vec![b' '; BODY_BYTES_MAX + 1]).reason, Reason::Oversized);
}

#[test]
fn a_body_of_too_many_members_or_without_any_object_is_refused_whole() {
    let array = |member: &str, count| format!("[{}]", vec![member; count].join(","));
    assert_eq!(members(array("{}", MEMBERS_MAX), &Defaults::default()).len(), MEMBERS_MAX);
    let error = read(&array("{}", MEMBERS_MAX + 1).into(), Defaults::default()).expect_err("one too many");
    assert_eq!(error.reason, Reason::Oversized);
    assert!(error.detail.contains("several messages"), "{}", error.detail);
    let error = read(&array("1", 1000).into(), Defaults::default()).expect_err("no envelopes");
    assert_eq!(error.reason, Reason::Malformed);
    assert!(error.detail.contains("an array of 1000 values"), "{}", error.detail);
}

#[test]
fn a_member_is_part_of_its_body_and_no_list_of_fields() {
    let body = Bytes::from(r#" [ {"message_type":"t","payload":1} , ["m","t",null,null,null,null,{}]]"#);
    let members = read(&body, Defaults::default()).expect("an array");
    let raw = members.raw(0);
    assert_eq!(raw, r#"{"message_type":"t","payload":1}"#);
    assert!(body.as_ptr_range().contains(&raw.as_ptr()), "it is no copy");
    assert!(members.get(1).expect_err("an array").detail.contains("expected an object"));
}

#[test]
fn a_body_is_full_by_its_members_or_by_its_bytes() {
    let (mut many, mut large) = (Body::with_room(0), Body::with_room(0));
    for _ in 0..Body::MEMBERS_MAX {
        assert!(many.has_room());
        many.push(b"{}");
    }
    assert!(!many.has_room());
    large.push(&vec![b' '; Body::FULL_BYTES - 2]);
    assert!(large.has_room());
    large.push(&vec![b' '; ENVELOPE_BYTES_MAX]);
    assert!(!large.has_room());
    assert!(large.finish().len() <= BODY_BYTES_MAX / 2);
}

#[test]
fn a_body_that_grew_too_large_gives_its_last_envelope_back() {
    let mut body = Body::with_room(0);
    body.push(b"{\"a\":1}");
    assert!(body.split(3).is_none(), "one alone is not divided");
    body.push(b"{\"b\":2}");
    assert!(body.split(100).is_none());
    let split = body.split(16).expect("with its bracket it has 17 bytes");
    assert_eq!((&body.finish()[..], &split.finish()[..]), (&b"{\"a\":1}"[..], &b"{\"b\":2}"[..]));
}

#[test]
fn a_bad_field_of_a_payload_is_named() {
    let body = r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo","timeout_seconds":"x"}}"#;
    let members = members(body, &Defaults::default());
    let envelope = members.get(0).expect("an envelope");
    let error = envelope.open::<Requested>().expect_err("a string is no number");
    assert_eq!(error.reason, Reason::InvalidPayload);
    assert!(error.detail.starts_with("payload.timeout_seconds"), "{}", error.detail);
}

#[test]
fn a_trace_id_is_taken_from_a_well_formed_traceparent_only() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(trace_id(good).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(trace_id("00-xyz-1"), None);
}

#[test]
fn a_compressed_body_is_told_from_broken_text() {
    let refused = |body: &'static [u8], encoding: Option<&str>| {
        let defaults = Defaults { content_encoding: encoding.map(str::to_owned), ..Defaults::default() };
        let refused = read(&Bytes::from_static(body), defaults).expect_err("no text");
        (refused.reason, refused.detail)
    };
    let (reason, detail) = refused(b"\x1f\x8b\x08\x00", None);
    assert_eq!(reason, Reason::UnsupportedEncoding);
    assert_eq!(detail, "the body is gzip: expected JSON in UTF-8, not compressed");
    let (reason, detail) = refused(b"\xff\xfe{", Some("br"));
    assert!(reason == Reason::UnsupportedEncoding && detail.starts_with("the body is br: "), "{detail}");
    assert_eq!(refused(b"\xff\xfe{", None).0, Reason::Malformed);
}
