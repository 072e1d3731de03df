//! Requests on their way in: taken once and in order, or put aside with their reason.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use slotline_broker::{Consume, Properties, topology};
use slotline_protocol::envelope::{self, ENVELOPE_BYTES_MAX, LABEL_CHARS_MAX, MEMBERS_MAX};
use slotline_protocol::message::{Accepted, Message, Rejected, Requested, Scheduled};
use slotline_protocol::{OutcomeKind, Status};
use slotline_store::{Filter, PageRequest};
use uuid::Uuid;

use super::PATIENCE;
use super::installation::Installation;
use super::played::PlayedWorker;

#[tokio::test]
async fn the_largest_request_can_be_dispatched() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    // As long as they may be, and of characters that take six bytes each.
    let label = "\u{1}".repeat(LABEL_CHARS_MAX);
    let envelope = |parameters_bytes: usize| {
        let parameters = serde_json::json!({"text": "x".repeat(parameters_bytes)});
        serde_json::json!({
            "message_type": Requested::TYPE, "correlation_id": label, "trace_id": label, "source": label,
            "payload": {"action_ref": "demo.echo", "parameters": parameters},
        })
        .to_string()
    };
    let parameters_bytes = ENVELOPE_BYTES_MAX - envelope(0).len();
    slotline.publish(envelope(parameters_bytes), slotline.properties(None)).await?;
    let scheduled: Scheduled = worker.order().await?;
    assert!(scheduled.parameters.get().len() > parameters_bytes);
    assert_eq!(scheduled.correlation_id, Some(label.clone()));
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    slotline.reaches(scheduled.execution_id.0, Status::Completed).await?;
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_label_longer_than_any_message_can_repeat_is_refused_by_name() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    for field in ["correlation_id", "trace_id", "source"] {
        let mut envelope = serde_json::json!({"message_type": Requested::TYPE, "payload": {"action_ref": "demo.echo"}});
        envelope[field] = "x".repeat(LABEL_CHARS_MAX + 1).into();
        slotline.publish(envelope.to_string(), Properties::default()).await?;
    }
    let dead = slotline.dead(3).await?;
    for (dead, field) in dead.iter().zip(["correlation_id", "trace_id", "source"]) {
        let detail = &dead.properties.headers["x-slotline-detail"];
        assert!(detail.contains(&format!("{field}: expected at most 255 characters")), "{detail}");
    }
    Ok(())
}

/// The header that an executor puts on a request over HTTP.
fn awaited(until: SystemTime) -> Result<(String, String)> {
    let micros = until.duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
    Ok(("x-slotline-awaited-until".to_owned(), micros.to_string()))
}

#[tokio::test]
async fn a_refusal_is_put_aside_unless_a_client_waits_for_it() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let request = |name: &str| {
        let payload = serde_json::json!({"action_ref": "no.such"});
        serde_json::json!({"message_type": Requested::TYPE, "message_id": name, "payload": payload}).to_string()
    };
    let second = Duration::from_secs(1);
    let mut expected = Vec::new();
    for (name, until) in [
        ("waits", SystemTime::now() + 5 * second),
        ("gone", SystemTime::now() - second),
        ("lies", SystemTime::now() + 600 * second),
    ] {
        let mut properties = slotline.properties(None);
        properties.headers.extend([awaited(until)?]);
        slotline.publish(request(name), properties).await?;
        let rejected: Rejected = slotline.replied().await?;
        assert_eq!((rejected.message_id.as_deref(), rejected.error.code.as_str()), (Some(name), "unknown_action"));
        // On a machine so slow that its client is gone by then, even the first.
        let is_answered = name == "waits" && SystemTime::now() < until;
        expected.extend((!is_answered).then_some(name));
    }
    let nowhere = Properties { headers: [awaited(SystemTime::now() + 5 * second)?].into(), ..Properties::default() };
    slotline.publish(request("mute"), nowhere).await?;
    expected.push("mute");
    for (letter, name) in slotline.dead(expected.len()).await?.iter().zip(expected) {
        let body = String::from_utf8_lossy(&letter.body);
        assert!(body.contains(&format!("\"message_id\":\"{name}\"")), "{name}: {body}");
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_body_of_more_than_one_batch_is_taken_in_pieces_and_acked_as_a_whole() -> Result<()> {
    const REQUESTS: i64 = 1_800;
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    let requests: Vec<_> = (1..=REQUESTS)
        .map(|n| {
            // Every sixth goes to the dead letters.
            let action_ref = if n % 6 == 0 { "no.such" } else { "demo.echo" };
            serde_json::json!({"message_type": Requested::TYPE, "payload": {"action_ref": action_ref}})
        })
        .collect();
    let properties = Properties { message_id: Some("many".to_owned()), ..Properties::default() };
    for _ in 0..2 {
        // The second time each has the id that follows from its place.
        slotline.publish(serde_json::Value::from(requests.clone()).to_string(), properties.clone()).await?;
    }
    let letters = slotline.dead(2).await?;
    for letter in &letters {
        let detail = &letter.properties.headers["x-slotline-detail"];
        assert!(detail.starts_with("300 of 1800 members can't be taken; the first, at index 5: "), "{detail}");
        let refused = envelope::read(&letter.body, letter.properties.defaults())?;
        assert_eq!(refused.len(), 300, "one letter has all of them");
        assert!(refused.iter().all(|member| member.is_ok_and(|member| member.payload.get().contains("no.such"))));
    }
    let last = REQUESTS - REQUESTS / 6;
    slotline.reaches(last, Status::Queued).await?;
    assert!(slotline.store.execution(slotline_protocol::ExecutionId(last + 1)).await?.is_none(), "each is taken once");
    slotline.stop_executor().await?;
    let held = slotline.session.depth(&topology::requests_queue("slotline")).await?;
    assert_eq!(held, 0, "all is acked, so that nothing goes back to the queue");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_bad_as_a_whole_is_one_letter_and_keeps_its_bytes() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let array = |member: &str, count| format!("[{}]", vec![member; count].join(","));
    let empty = r#"{"message_type":"execution.requested"}"#;
    let cases = [
        (array("1", 100_000), "oversized", "more than 10000 envelopes"),
        (array("1", 2), "malformed", "an array of 2 values"),
        (array("{}", MEMBERS_MAX + 1), "oversized", "more than 10000 envelopes"),
        (array(empty, 17), "malformed", "17 of 17 members can't be taken; the first, at index 0"),
        (array(empty, MEMBERS_MAX), "malformed", "10000 of 10000 members can't be taken"),
    ];
    for (index, (body, reason, detail)) in cases.iter().enumerate() {
        let headers = [("label".to_owned(), "x".repeat(60_000))].into();
        slotline.publish(body.clone(), Properties { headers, ..Properties::default() }).await?;
        let letter = slotline.dead(index + 1).await?.remove(index);
        assert_eq!(letter.properties.headers["x-slotline-reason"], *reason);
        assert!(letter.properties.headers["x-slotline-detail"].contains(detail), "{detail}");
        assert_eq!(letter.body, *body);
    }
    Ok(())
}

/// Publishes a large request, and lets a consumer take it and go without an ack, as a process that dies does.
async fn come_again(slotline: &Installation) -> Result<(String, [u8; 32])> {
    let parameters = serde_json::json!({"text": "x".repeat(20_000)});
    let payload = serde_json::json!({"action_ref": "demo.echo", "parameters": parameters});
    let body = serde_json::json!({"message_type": Requested::TYPE, "payload": payload}).to_string();
    slotline.publish(body.clone(), Properties::default()).await?;
    let consume = Consume { prefetch: 1 };
    let mut consumer = slotline.session.consume(&topology::requests_queue("slotline"), consume).await?;
    consumer.next().await.context("it is delivered")?;
    let digest = Sha256::digest(&body).into();
    Ok((body, digest))
}

#[tokio::test]
async fn a_message_in_whose_midst_two_processes_have_ended_is_put_aside_unread_by_the_third() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    slotline.stop_executor().await?;
    let (body, digest) = come_again(&slotline).await?;
    for process in [1, 2] {
        slotline.store.suspect(digest, Uuid::from_u128(process)).await?;
    }
    slotline.start_executor();
    let letter = slotline.dead(1).await?.remove(0);
    assert_eq!(letter.body, body);
    assert_eq!(letter.properties.headers["x-slotline-reason"], "poisoned");
    assert!(letter.properties.headers["x-slotline-detail"].starts_with("2 processes in a row"));
    slotline.stop_executor().await
}

#[tokio::test]
async fn an_innocent_message_that_comes_again_is_run_whatever_has_happened_around_it() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    for round in 1..=4 {
        slotline.stop_executor().await?;
        let (_, digest) = come_again(&slotline).await?;
        // One process has ended in its midst, which was chance; each time the note is removed.
        slotline.store.suspect(digest, Uuid::from_u128(round)).await?;
        slotline.start_executor();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let id = slotline_protocol::ExecutionId(round as i64);
        while slotline.store.execution(id).await?.is_none() {
            ensure!(tokio::time::Instant::now() < deadline, "it was not taken, in round {round}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_letters_of_members_share_no_more_than_a_kibibyte_of_their_bodys_headers() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let headers = [
        ("a".to_owned(), "kept".to_owned()),
        ("label".to_owned(), "x".repeat(60_000)),
        ("traceparent".to_owned(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    ];
    let body = r#"[{"payload":{"action_ref":"demo.echo"}}, 1, {}]"#;
    let properties =
        Properties { message_type: Some(Requested::TYPE.to_owned()), headers: headers.into(), ..Properties::default() };
    slotline.publish(body, properties).await?;
    let letters = slotline.dead(2).await?;
    assert_eq!((&letters[0].body[..], &letters[1].body[..]), (&b"1"[..], &b"{}"[..]));
    for letter in letters {
        let theirs: Vec<_> =
            letter.properties.headers.into_keys().filter(|name| !name.starts_with("x-slotline-")).collect();
        assert_eq!(theirs, ["a", "traceparent"]);
    }
    Ok(())
}

#[tokio::test]
async fn the_same_request_is_the_same_request_however_it_is_spelt() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"key": "/tenant"}"#)]).await?;
    for payload in [
        r#"{"action_ref":"demo.echo","parameters":{"tenant":7,"app":"web"},"progress":{"update_interval":"1s"}}"#,
        r#"{ "parameters": {"app": "\u0077eb", "tenant": 7.0}, "action_ref": "demo.echo",
             "progress": {"updateInterval": 1}, "x-note": "again", "timeout_seconds": null }"#,
    ] {
        let body = format!(r#"{{"message_type":"execution.requested","payload":{payload}}}"#);
        slotline.publish(body, slotline.properties(Some("once"))).await?;
    }
    let first: Accepted = slotline.replied().await?;
    let second: Accepted = slotline.replied().await?;
    assert_eq!(first.execution_id, second.execution_id);
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_same_message_id_runs_once_and_another_body_under_it_is_refused() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    for _ in 0..2 {
        slotline.request("demo.echo", "once").await?;
    }
    let first: Accepted = slotline.replied().await?;
    let second: Accepted = slotline.replied().await?;
    assert_eq!(first.execution_id, second.execution_id);
    let body =
        r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo","parameters":{"other":1}}}"#;
    slotline.publish(body, slotline.properties(Some("once"))).await?;
    let rejected: Rejected = slotline.replied().await?;
    assert_eq!(rejected.error.code, "idempotency_conflict");
    let page = PageRequest { cursor: None, limit: 10 };
    assert_eq!(slotline.store.executions(&Filter::default(), page).await?.data.len(), 1);
    // A publisher without a reply address finds its request among the dead letters, as it came.
    let mut silent = Properties { reply_to: None, ..slotline.properties(Some("once")) };
    silent.headers.insert("tenant".to_owned(), "seven".to_owned());
    slotline.publish(body, silent).await?;
    let letters = slotline.dead(1).await?;
    let headers = &letters[0].properties.headers;
    assert_eq!(headers["x-slotline-reason"], "idempotency_conflict");
    assert_eq!(headers["tenant"], "seven");
    slotline.stop_executor().await
}

#[tokio::test]
async fn bad_messages_are_put_aside_with_their_reason_and_the_good_ones_beside_them_run() -> Result<()> {
    let mut slotline =
        Installation::start(&[("demo.echo", r#"{"schema": {"type": "object", "required": ["app"]}}"#)]).await?;
    let cases = [
        ("no json", "malformed"),
        (r#"{"message_type":"execution.bogus","payload":{}}"#, "unknown_type"),
        (r#"{"message_type":"execution.requested","payload":{"action_ref":"no.such"}}"#, "unknown_action"),
        (r#"{"message_type":"execution.requested","payload":{"action_ref":5}}"#, "invalid_payload"),
        (r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo"}}"#, "invalid_parameters"),
        (r#"{"message_type":"execution.cancel_requested","payload":{}}"#, "invalid_payload"),
        // A number may be another publisher's.
        (r#"{"message_type":"execution.cancel_requested","payload":{"execution_id":1}}"#, "invalid_payload"),
        (
            r#"{"message_type":"execution.cancel_requested","payload":{"execution_id":1,"message_id":"bad"}}"#,
            "invalid_payload",
        ),
    ];
    for (body, reason) in cases {
        slotline.publish(body, slotline.properties(Some("bad"))).await?;
        let rejected: Rejected = slotline.replied().await?;
        assert_eq!(rejected.error.code, reason, "{body}");
    }
    let array = r#"[{"message_type":"execution.requested","payload":{"action_ref":"no.such"}},
                    {"message_type":"execution.requested","payload":{"action_ref":"demo.echo","parameters":{"app":1}}}]"#;
    slotline.publish(array, slotline.properties(Some("mixed"))).await?;
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..2 {
        match slotline.reply().await?.properties.message_type.as_deref() {
            Some(Accepted::TYPE) => accepted += 1,
            Some(Rejected::TYPE) => rejected += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    assert_eq!((accepted, rejected), (1, 1));
    let letters = slotline.dead(cases.len() + 1).await?;
    let reasons: Vec<_> =
        letters.iter().map(|letter| letter.properties.headers["x-slotline-reason"].as_str()).collect();
    let expected: Vec<_> = cases.iter().map(|(_, reason)| *reason).chain(["unknown_action"]).collect();
    assert_eq!(reasons, expected);
    slotline.stop_executor().await
}

#[tokio::test]
async fn what_was_meant_for_another_system_is_put_aside_in_words_its_sender_knows() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let masstransit = r#"{"messageId":"1","messageType":["urn:message:Deploy"],"message":{"app":"web"}}"#;
    let celery = r#"[["web"],{"ms":5},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]"#;
    for (index, (body, word)) in [(masstransit, "MassTransit"), (celery, "Celery")].into_iter().enumerate() {
        slotline.publish(body, Properties::default()).await?;
        let letter = slotline.dead(index + 1).await?.remove(index);
        let detail = &letter.properties.headers["x-slotline-detail"];
        assert!(detail.contains(word) && detail.contains("execution.requested"), "{detail}");
        assert_eq!(letter.body, body, "one letter, as it came");
    }
    Ok(())
}

#[tokio::test]
async fn a_compressed_body_is_put_aside_by_that_reason_and_keeps_what_tells_how_to_read_it() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let body: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let content = ("application/vnd.acme+json".to_owned(), "gzip".to_owned());
    let (content_type, content_encoding) = (Some(content.0.clone()), Some(content.1.clone()));
    slotline.publish(body, Properties { content_type, content_encoding, ..Properties::default() }).await?;
    // The name of a character encoding, which other clients set, does not matter.
    let readable = r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo"}}"#;
    let content_encoding = Some("utf-8".to_owned());
    slotline.publish(readable, Properties { content_encoding, ..slotline.properties(None) }).await?;
    let _: Accepted = slotline.replied().await?;
    let letter = slotline.dead(1).await?.remove(0);
    assert_eq!(letter.properties.headers["x-slotline-reason"], "unsupported_encoding");
    assert!(letter.properties.headers["x-slotline-detail"].contains("the body is gzip: expected JSON in UTF-8"));
    assert_eq!((&letter.body[..], letter.content), (body, content));
    Ok(())
}

#[tokio::test]
async fn requests_beyond_what_is_checked_together_are_all_taken_in_order() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let request = |n: usize| {
        format!(
            r#"{{"message_type":"execution.requested","payload":{{"action_ref":"demo.echo","parameters":{{"n":{n}}}}}}}"#
        )
    };
    // Two bodies reach the bound of 2000 members, one passes it alone, and the last is far below.
    let bodies = [0..1999, 1999..2001, 2001..4100, 4100..4101];
    let count = bodies.iter().map(ExactSizeIterator::len).sum::<usize>();
    for body in bodies {
        let members: Vec<String> = body.map(request).collect();
        slotline.publish(format!("[{}]", members.join(",")), Properties::default()).await?;
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let last = slotline_protocol::ExecutionId(i64::try_from(count)?);
    while slotline.store.execution(last).await?.is_none() {
        ensure!(tokio::time::Instant::now() < deadline, "not all were taken");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for n in [0_i64, 1998, 1999, 2000, 2001, 4099, 4100] {
        let id = slotline_protocol::ExecutionId(n + 1);
        let execution = slotline.store.execution(id).await?.context("an execution for each")?;
        assert_eq!(execution.parameters.get(), format!(r#"{{"n":{n}}}"#), "{id}");
    }
    slotline.stop_executor().await
}
