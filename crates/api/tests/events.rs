//! The events of executions over HTTP: as a stream, as pages, and of all executions.

use std::time::Duration;

use crate::world::listener::{Frame, SOON};
use crate::world::{TestRequest, World};
use axum::http::StatusCode;
use serde_json::json;
use slotline_protocol::message::Failure;
use slotline_protocol::record::What;
use slotline_protocol::{ExecutionId, Status};
use tokio::time::Instant;

fn numbers(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(Frame::number).collect()
}

#[tokio::test]
async fn a_stream_has_past_events_then_live_ones_and_ends_with_the_execution() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut writer = world.event_writer().await?;
    writer.publish(What::Started).await?;
    writer.report("pulling").await?;
    let mut listener = world.listen(TestRequest::get(&world.events(""))).await?;
    let first = listener.frame().await?;
    assert_eq!((first.id.as_deref(), first.event.as_deref()), (Some("1"), Some("started")));
    writer.report("pushing").await?;
    let second = listener.frame().await?;
    assert_eq!((second.id.as_deref(), second.event.as_deref()), (Some("2"), Some("progress")));
    let third = listener.frame().await?.data.expect("data");
    assert_eq!((&third["number"], &third["message"]), (&json!(3), &json!("pushing")));
    let failure = Failure::new("exit_status", "status 3");
    writer.settle(Status::Failed, Some(failure)).await?;
    let last = listener.frame().await?;
    assert_eq!((last.id.as_deref(), last.event.as_deref()), (Some("4"), Some("settled")));
    let data = last.data.expect("data");
    assert_eq!((&data["status"], &data["error"]["code"]), (&json!("failed"), &json!("exit_status")));
    assert_eq!(listener.next().await?, None);
    assert!(world.hub.is_idle());
    Ok(())
}

#[tokio::test]
async fn a_stream_resumes_at_every_number_by_either_name_and_the_header_wins() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut writer = world.event_writer().await?;
    writer.reports(4).await?;
    writer.settle(Status::Completed, None).await?;
    for after in 0..5_u64 {
        let expected: Vec<_> = (after + 1..=5).collect();
        let by_query = TestRequest::get(&world.events(&format!("?after={after}")));
        let by_header = TestRequest::get(&world.events("?after=2")).header("last-event-id", &after.to_string());
        for request in [by_query, by_header] {
            assert_eq!(numbers(&world.listen(request).await?.rest().await?), expected);
        }
    }
    // A browser does not reconnect after this answer.
    for after in ["5", "6", "18446744073709551615"] {
        let request =
            TestRequest::get(&world.events("")).header("last-event-id", after).header("accept", "text/event-stream");
        let response = world.response(request).await?;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{after}");
    }
    Ok(())
}

#[tokio::test]
async fn two_hundred_listeners_while_it_happens_each_get_every_event_once() -> anyhow::Result<()> {
    const EVENTS: u64 = 150;
    let world = std::sync::Arc::new(World::new().await?);
    let mut writer = world.event_writer().await?;
    let listeners: Vec<_> = (0..200_u64)
        .map(|seed| {
            let world = world.clone();
            tokio::spawn(async move {
                let (mut received, mut cut_after) = (Vec::new(), seed % 40 + 1);
                loop {
                    let last = received.last().copied().unwrap_or(0).to_string();
                    let request = TestRequest::get(&world.events("")).header("last-event-id", &last);
                    let mut listener = world.listen(request).await?;
                    for _ in 0..cut_after {
                        let frame = listener.frame().await?;
                        if frame.event.as_deref() == Some("reset") {
                            break;
                        }
                        received.push(frame.number());
                        if frame.event.as_deref() == Some("settled") {
                            anyhow::ensure!(listener.next().await?.is_none(), "something follows the end");
                            return Ok(received);
                        }
                    }
                    cut_after = (cut_after * 7 + seed) % 60 + 1;
                }
            })
        })
        .collect();
    writer.reports(EVENTS - 1).await?;
    writer.settle(Status::Completed, None).await?;
    for listener in listeners {
        assert_eq!(tokio::time::timeout(SOON * 3, listener).await???, (1..=EVENTS).collect::<Vec<_>>());
    }
    assert!(world.hub.is_idle());
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_gets_the_number_to_resume_after_while_another_gets_everything() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut writer = world.event_writer().await?;
    writer.report("first").await?;
    let mut slow = world.listen(TestRequest::get(&world.events(""))).await?;
    let mut quick = world.listen(TestRequest::get(&world.events(""))).await?;
    assert_eq!(slow.frame().await?.number(), 1);
    assert_eq!(quick.frame().await?.number(), 1);
    for number in 2..=300 {
        writer.report("more").await?;
        assert_eq!(quick.frame().await?.number(), number);
    }
    let mut received = slow.rest().await?;
    let reset = received.pop().expect("a frame");
    let last = 1 + u64::try_from(received.len())?;
    assert_eq!(numbers(&received), (2..=last).collect::<Vec<_>>());
    assert!(last < 300, "{last}");
    assert_eq!((reset.event.as_deref(), reset.data), (Some("reset"), Some(json!({"after": last}))));
    assert_eq!(reset.id, Some(last.to_string()));
    writer.settle(Status::Completed, None).await?;
    let resumed = world.listen(TestRequest::get(&world.events(&format!("?after={last}")))).await?.rest().await?;
    assert_eq!(numbers(&resumed), (last + 1..=301).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn an_execution_without_written_events_has_those_that_its_row_implies() -> anyhow::Result<()> {
    let world = World::new().await?;
    let answer = world.ask(TestRequest::get(&world.events(""))).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((&answer.body["next_after"], &answer.body["is_over"]), (&json!(1), &json!(false)));
    assert_eq!(answer.body["data"][0]["new_status"], "queued");
    assert_eq!(
        world.listen(TestRequest::get(&world.events(""))).await?.frame().await?.event.as_deref(),
        Some("status")
    );
    Ok(())
}

#[tokio::test]
async fn pages_go_on_from_the_number_that_each_gives() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut writer = world.event_writer().await?;
    writer.reports(6).await?;
    writer.settle(Status::Completed, None).await?;
    let (mut after, mut sizes) = (0, Vec::new());
    loop {
        let path = world.events(&format!("?limit=3&after={after}"));
        let page = world.ask(TestRequest::get(&path).header("accept", "application/json")).await?.body;
        sizes.push(page["data"].as_array().map_or(0, Vec::len));
        after = page["next_after"].as_u64().expect("a number");
        if page["is_over"] == json!(true) {
            break;
        }
    }
    assert_eq!((after, sizes), (7, vec![3, 3, 1]));
    let page = world.ask(TestRequest::get(&world.events("?after=7&wait=30s"))).await?.body;
    assert_eq!(page, json!({"data": [], "next_after": 7, "is_over": true}));
    Ok(())
}

#[tokio::test]
async fn a_page_that_would_be_empty_waits_for_the_next_event_and_no_longer() -> anyhow::Result<()> {
    let world = std::sync::Arc::new(World::new().await?);
    let mut writer = world.event_writer().await?;
    writer.report("first").await?;
    let request = |wait: &str| TestRequest::get(&world.events(&format!("?after=1&wait={wait}")));
    let begun = Instant::now();
    let page = world.ask(request("100ms")).await?;
    assert_eq!((page.status, page.body["data"].as_array().map(Vec::len)), (StatusCode::OK, Some(0)));
    assert_eq!((&page.body["next_after"], &page.body["is_over"]), (&json!(1), &json!(false)));
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());

    let (begun, request) = (Instant::now(), request("60s"));
    let waiting = tokio::spawn({
        let world = world.clone();
        async move { world.ask(request).await }
    });
    while world.hub.is_idle() {
        tokio::task::yield_now().await;
    }
    writer.report("second").await?;
    let page = waiting.await??;
    assert_eq!(page.body["data"][0]["message"], "second");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(world.hub.is_idle());
    Ok(())
}

#[tokio::test]
async fn everything_is_streamed_from_now_on_by_action_and_status() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut writer = world.event_writer().await?;
    writer.report("before").await?;
    let mut all = world.listen(TestRequest::get("/api/v1/events")).await?;
    let mut of_echo = world.listen(TestRequest::get("/api/v1/events?action=demo.other,demo.echo")).await?;
    let mut of_other = world.listen(TestRequest::get("/api/v1/events?action=demo.other")).await?;
    let mut ends = world.listen(TestRequest::get("/api/v1/events?status=failed&status=completed")).await?;
    writer.report("now").await?;
    writer.settle(Status::Completed, None).await?;
    for listener in [&mut all, &mut of_echo] {
        let frame = listener.frame().await?;
        assert_eq!((frame.id, frame.event.as_deref()), (Some("3-2".to_owned()), Some("progress")));
        assert_eq!(frame.data.expect("data")["message"], "now");
        assert_eq!(listener.frame().await?.event.as_deref(), Some("settled"));
    }
    let end = ends.frame().await?;
    assert_eq!((end.id.as_deref(), end.event.as_deref()), (Some("3-3"), Some("settled")));
    assert!(tokio::time::timeout(Duration::from_millis(50), of_other.next()).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_of_everything_gets_the_number_of_its_last_event() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut writer = world.event_writer().await?;
    let all = world.listen(TestRequest::get("/api/v1/events")).await?;
    writer.reports(300).await?;
    let mut received = all.rest().await?;
    let reset = received.pop().expect("a frame");
    let last = received.len();
    assert!((200..300).contains(&last), "{last}");
    assert_eq!(reset.event.as_deref(), Some("reset"));
    assert_eq!(reset.data, Some(json!({"execution_id": world.waiting, "after": last})));
    Ok(())
}

#[tokio::test]
async fn silence_is_filled_with_comments() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut listener = world.listen(TestRequest::get(&world.events(""))).await?;
    assert_eq!(listener.frame().await?.event.as_deref(), Some("status"));
    let mut all = world.listen(TestRequest::get("/api/v1/events")).await?;
    tokio::time::pause();
    for listener in [&mut listener, &mut all] {
        for _ in 0..3 {
            let begun = Instant::now();
            let frame = listener.frame().await?;
            assert_eq!((frame.event, frame.comment.as_deref()), (None, Some("")));
            assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
        }
    }
    Ok(())
}

/// As in `limits`.
const STREAMS_MAX: usize = 384;

#[tokio::test]
async fn beyond_so_many_streams_the_next_is_refused_and_requests_are_still_answered() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        streams.push(world.listen(TestRequest::get("/api/v1/events")).await?);
    }
    for request in [
        TestRequest::get("/api/v1/events").header("accept", "text/event-stream"),
        TestRequest::get(&world.events("")).header("accept", "text/event-stream"),
        TestRequest::get(&world.events("?after=1&wait=1s")),
    ] {
        let answer = world.ask(request).await?;
        assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "too_many_streams"));
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    assert_eq!(world.ask(TestRequest::get(&world.events(""))).await?.status, StatusCode::OK);
    assert_eq!(world.ask(TestRequest::get("/api/v1/actions")).await?.status, StatusCode::OK);
    streams.pop();
    world.listen(TestRequest::get(&world.events(""))).await?;
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_streamed_is_refused_by_name() -> anyhow::Result<()> {
    let world = World::new().await?;
    let stream = |path: &str| TestRequest::get(path).header("accept", "text/event-stream");
    let events = |query: &str| world.events(query);
    let cases = [
        (stream("/api/v1/executions/99/events"), 404, "unknown_execution", ""),
        (TestRequest::get("/api/v1/executions/99/events"), 404, "unknown_execution", ""),
        (TestRequest::get("/api/v1/executions/99/events?wait=1s"), 404, "unknown_execution", ""),
        (stream("/api/v1/executions/x/events"), 400, "invalid_request", "execution_id"),
        (stream(&events("?after=-1")), 400, "invalid_request", "after"),
        (stream(&events("?after=1&after=2")), 400, "invalid_request", "after"),
        (stream(&events("?limit=1")), 400, "invalid_request", "limit"),
        (stream(&events("")).header("last-event-id", "3-1"), 400, "invalid_request", "last-event-id"),
        (stream(&events("?after=x")).header("last-event-id", "1"), 400, "invalid_request", "after"),
        (TestRequest::get(&events("?after=18446744073709551616")), 400, "invalid_request", "after"),
        (TestRequest::get(&events("?limit=0")), 400, "invalid_request", "limit"),
        (TestRequest::get(&events("?limit=1001")), 400, "invalid_request", "limit"),
        (TestRequest::get(&events("?wait=61s")), 400, "invalid_request", "wait"),
        (TestRequest::get(&events("?wait=soon")), 400, "invalid_request", "wait"),
        (TestRequest::get(&events("?wait=-1")), 400, "invalid_request", "wait"),
        (TestRequest::get(&events("?number=1")), 400, "invalid_request", "number"),
        (TestRequest::get("/api/v1/events").header("accept", "application/json"), 406, "not_acceptable", "accept"),
        (
            TestRequest::get("/api/v1/events").header("accept", "text/event-stream;q=0, text/html"),
            406,
            "not_acceptable",
            "accept",
        ),
        (stream("/api/v1/events?action=noname"), 400, "invalid_request", "action"),
        (stream("/api/v1/events?status=done"), 400, "invalid_request", "status"),
        (stream("/api/v1/events?after=1"), 400, "invalid_request", "after"),
        (TestRequest::post("/api/v1/events"), 405, "method_not_allowed", ""),
    ];
    for (request, status, code, field) in cases {
        let name = format!("{request:?}");
        let answer = world.ask(request).await?;
        assert_eq!(answer.status, StatusCode::from_u16(status)?, "{name}: {}", answer.body);
        assert_eq!(answer.code(), code, "{name}: {}", answer.body);
        assert_eq!(answer.body["error"]["field"].as_str().unwrap_or(""), field, "{name}: {}", answer.body);
    }
    for accept in ["text/event-stream", "TEXT/EVENT-STREAM; charset=utf-8", "application/json, text/event-stream"] {
        let response = world.response(TestRequest::get(&world.events("")).header("accept", accept)).await?;
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{accept}");
        assert_eq!(response.headers()["cache-control"], "no-cache");
    }
    for accept in ["*/*", "text/*"] {
        let response = world.response(TestRequest::get("/api/v1/events").header("accept", accept)).await?;
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{accept}");
    }
    assert!(world.hub.interest() == slotline_api::hub::Interest::default(), "{:?}", world.hub.interest());
    assert_eq!(world.waiting, ExecutionId(3));
    Ok(())
}
