//! What a batch writes, and that it is written whole or not at all.

use std::sync::Arc;

use slotline_protocol::{ActionId, ExecutionId, Fence, OutcomeKind, RequestName, Status, Timestamp, WorkerName};
use slotline_scheduler::{AttemptEnded, Lease, Settled, Snapshot};
use slotline_store::{ATTEMPTS_SHOWN_MAX, AcceptedRequest, Batch, CommitError, Filter, PageRequest, Request};

use crate::world::{
    World, accepted, assert_same_request, at, cases, counters, ended, ends, failure, full_request, lease, queued, raw,
    request, running, settled,
};

cases!(
    every_field_of_an_accepted_execution_reads_back,
    a_change_replaces_all_that_may_change,
    an_execution_settles_in_the_batch_that_accepted_it,
    a_settled_execution_shows_its_end_and_its_earlier_attempts,
    an_execution_cancelled_in_line_settles_without_a_lease,
    of_many_attempts_the_newest_are_shown,
    totals_add_up,
    hostile_text_is_stored_as_it_came,
    a_batch_that_contradicts_the_journal_changes_nothing,
    a_batch_of_twenty_thousand_is_one_commit,
    an_empty_batch_still_moves_the_counters,
);

fn everything(id: i64) -> Snapshot {
    Snapshot {
        key: Some("tenant".into()),
        status: Status::Cancelling,
        place: i64::MAX - 10 + id,
        attempt: 4,
        failures: 2,
        losses: 1,
        queued_at: at(77),
        not_before: Some(Timestamp::MAX),
        keeps_slot: true,
        cancel_requested: true,
        is_bulky: false,
        lease: Some(lease(9)),
        ..queued(id)
    }
}

async fn every_field_of_an_accepted_execution_reads_back(world: World) -> anyhow::Result<()> {
    let plain = AcceptedRequest { snapshot: queued(1), request: request().into() };
    let full = AcceptedRequest { snapshot: everything(2), request: full_request(2).into() };
    let mut writer = world.writer().await?;
    writer.commit(Batch { accepted: vec![plain.clone(), full.clone()], ..Batch::default() }).await?;

    let mut requests = world.store.requests(&[ExecutionId(1), ExecutionId(2), ExecutionId(3)]).await?;
    requests.sort_by_key(|(id, _)| *id);
    assert_eq!(requests.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2]);
    assert_same_request(&requests[0].1, &plain.request);
    assert_same_request(&requests[1].1, &full.request);

    let shown = world.execution(2).await?;
    assert_eq!(shown.action_ref.as_str(), "demo.echo");
    assert_eq!((shown.status, shown.attempt, shown.grant), (Status::Cancelling, 1, 4));
    assert_eq!(shown.concurrency_key.as_deref(), Some("tenant"));
    assert_eq!(shown.parameters.get(), full.request.parameters.get());
    assert_eq!(shown.timeout_seconds, full.request.timeout.map(|timeout| timeout.as_secs_f64()));
    assert_eq!(shown.progress_detail, full.request.detail);
    assert_eq!(shown.fence, Some(Fence(9)));
    assert_eq!((shown.start_time, shown.end_time), (Some(at(2_009)), None));

    drop(writer);
    assert_eq!(world.recovered().await?.live, [plain.snapshot, full.snapshot]);
    Ok(())
}

async fn a_change_replaces_all_that_may_change(world: World) -> anyhow::Result<()> {
    let keyed = |id| Snapshot { key: Some("tenant".into()), ..queued(id) };
    let accept = |id| AcceptedRequest { snapshot: keyed(id), request: full_request(id).into() };
    let mut writer = world.writer().await?;
    writer.commit(Batch { accepted: vec![accept(1), accept(2)], ..Batch::default() }).await?;
    writer.commit(Batch { live: vec![everything(1), everything(2)], ..Batch::default() }).await?;
    // And back to nothing, for one of them.
    writer.commit(Batch { live: vec![keyed(2)], ..Batch::default() }).await?;
    let requests = world.store.requests(&[ExecutionId(1)]).await?;
    assert_same_request(&requests[0].1, &full_request(1));
    drop(writer);
    assert_eq!(world.recovered().await?.live, [keyed(2), everything(1)]);
    Ok(())
}

async fn an_execution_settles_in_the_batch_that_accepted_it(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let batch = Batch { accepted: vec![accepted(1), accepted(2)], settled: ends([settled(1)]), ..Batch::default() };
    writer.commit(batch).await?;
    assert_eq!(world.execution(1).await?.status, Status::Completed);
    assert!(world.store.requests(&[ExecutionId(1)]).await?.is_empty());
    drop(writer);
    assert_eq!(world.recovered().await?.live, [queued(2)]);
    Ok(())
}

async fn a_settled_execution_shows_its_end_and_its_earlier_attempts(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let request = full_request(1);
    let accept = AcceptedRequest { snapshot: queued(1), request: request.clone().into() };
    writer.commit(Batch { accepted: vec![accept], ..Batch::default() }).await?;
    let lost = ended(1, 1, Lease { scheduled_at: at(10), started_at: None, ..lease(5) }, at(20));
    let failed = AttemptEnded {
        outcome: OutcomeKind::Failed,
        result: Some(raw(r#"{"rows": 1}"#)),
        error: Some(failure()),
        ..ended(1, 2, Lease { scheduled_at: at(10), started_at: Some(at(30)), ..lease(6) }, at(40))
    };
    writer.commit(Batch { live: vec![running(1)], attempts: vec![lost, failed], ..Batch::default() }).await?;
    let end = Settled {
        status: Status::Failed,
        attempt: 3,
        failures: 2,
        losses: 1,
        lease: Some(lease(7)),
        result: None,
        error: Some(failure()),
        ..settled(1)
    };
    writer.commit(Batch { settled: ends([end]), ..Batch::default() }).await?;

    let shown = world.execution(1).await?;
    assert_eq!((shown.status, shown.fence), (Status::Failed, Some(Fence(7))));
    assert_eq!((shown.attempt, shown.grant), (2, 3), "the one that was lost before it began does not count");
    assert_eq!(shown.error, Some(failure()));
    assert!(shown.result.is_none());
    assert_eq!(shown.message_id.as_deref(), request.name.as_ref().map(RequestName::message_id));
    assert_eq!(shown.parameters.get(), request.parameters.get());
    assert_eq!(shown.enqueued_at, at(1));
    assert_eq!(
        (shown.scheduled_at, shown.start_time, shown.end_time),
        (Some(at(1_007)), Some(at(2_007)), Some(at(3_001)))
    );
    assert_eq!(shown.worker, Some(WorkerName::new("worker-1")?));
    let earlier = &shown.earlier_attempts;
    assert_eq!(
        earlier.iter().map(|e| (e.attempt, e.grant, e.outcome)).collect::<Vec<_>>(),
        [(1, 1, OutcomeKind::Lost), (1, 2, OutcomeKind::Failed)]
    );
    assert_eq!(earlier[1].result.as_ref().map(|result| result.get()), Some(r#"{"rows": 1}"#));
    let listed = world.store.executions(&Filter::default(), PageRequest { cursor: None, limit: 1 }).await?.data;
    assert!(listed[0].earlier_attempts.len() == 2 && listed[0].earlier_attempts[1].result.is_none());
    assert_eq!((earlier[0].start_time, earlier[0].end_time), (None, at(20)));
    assert_eq!((earlier[1].start_time, earlier[1].end_time), (Some(at(30)), at(40)));
    assert_eq!(earlier[1].error, Some(failure()));
    assert_eq!(earlier[1].worker, Some(lease(6).worker));
    Ok(())
}

async fn an_execution_cancelled_in_line_settles_without_a_lease(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([1]).await?;
    let end = Settled { status: Status::Cancelled, attempt: 0, lease: None, result: None, ..settled(1) };
    writer.commit(Batch { settled: ends([end]), ..Batch::default() }).await?;
    let shown = world.execution(1).await?;
    assert_eq!((shown.status, shown.attempt, shown.worker, shown.fence), (Status::Cancelled, 0, None, None));
    assert_eq!((shown.scheduled_at, shown.start_time), (None, None));
    Ok(())
}

async fn of_many_attempts_the_newest_are_shown(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let tried = |attempt: u32| {
        let lease = Lease { scheduled_at: at(1), started_at: None, ..lease(i64::from(attempt)) };
        AttemptEnded { outcome: OutcomeKind::Failed, ..ended(1, attempt, lease, at(2)) }
    };
    let last = u32::try_from(ATTEMPTS_SHOWN_MAX)? + 7;
    let batch = Batch {
        accepted: vec![AcceptedRequest {
            snapshot: Snapshot { attempt: last, ..queued(1) },
            request: request().into(),
        }],
        attempts: (1..=last).map(tried).collect(),
        ..Batch::default()
    };
    writer.commit(batch).await?;
    let shown: Vec<u32> = world.execution(1).await?.earlier_attempts.iter().map(|earlier| earlier.attempt).collect();
    assert_eq!(shown, (8..=last).collect::<Vec<_>>());
    Ok(())
}

async fn totals_add_up(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let totals = |totals| Batch { totals, ..Batch::default() };
    writer.commit(totals(vec![(ActionId(1), 3, 0)])).await?;
    writer.commit(totals(vec![(ActionId(1), 2, 4), (ActionId(1), 0, 1)])).await?;
    drop(writer);
    let recovered = world.recovered().await?;
    assert_eq!(recovered.actions.iter().map(|a| (a.total_enqueued, a.total_completed)).collect::<Vec<_>>(), [(5, 5)]);
    Ok(())
}

async fn hostile_text_is_stored_as_it_came(world: World) -> anyhow::Result<()> {
    let texts = [
        r#"{"a": "\u0000", "b": "\ud800", "c": "'; DROP TABLE live; --", "d": "\\u0000"}"#,
        "{ \"ünïcödé\" :\n\t\"🦀 \\\" \u{7f}\u{2028}\" }",
        r#"{"deep": [[[[{"$1": "?1", "%s": "{}"}]]]], "number": 1e400, "big": 123456789012345678901234567890}"#,
    ];
    let names = ["nul \0 in it", "\u{1}0 mark", "'quoted\" \\ ; --", "🦀\u{202e}", "", "\0", "\u{1}"];
    let mut writer = world.writer().await?;
    let mut expected: Vec<(i64, Request)> = Vec::new();
    for (id, name) in (1..).zip(names) {
        let own = Some(name.to_owned());
        let parameters = raw(texts[usize::try_from(id)? % texts.len()]);
        let request = Request {
            name: own.clone().map(RequestName::from),
            parameters,
            correlation_id: own.clone(),
            trace_id: own.clone(),
            source: own.clone(),
            reply_to: own,
            ..request()
        };
        expected.push((id, request));
    }
    let accept = |(id, request): &(i64, Request)| AcceptedRequest {
        snapshot: Snapshot { key: request.source.as_deref().map(Into::into), ..queued(*id) },
        request: request.clone().into(),
    };
    writer.commit(Batch { accepted: expected.iter().map(accept).collect(), ..Batch::default() }).await?;
    for (id, request) in &expected {
        let found = world.store.requests(&[ExecutionId(*id)]).await?;
        assert_same_request(&found[0].1, request);
        let name = request.name.clone().expect("set above");
        assert_eq!(world.store.find_request(&name).await?, Some(ExecutionId(*id)), "{name:?}");
    }
    let end = |(id, request): &(i64, Request)| Settled { result: Some(request.parameters.clone()), ..settled(*id) };
    writer.commit(Batch { settled: expected.iter().map(end).map(Arc::new).collect(), ..Batch::default() }).await?;
    for (id, request) in &expected {
        let shown = world.execution(*id).await?;
        assert_eq!(shown.parameters.get(), request.parameters.get());
        assert_eq!(shown.result.as_ref().map(|result| result.get()), Some(request.parameters.get()));
        assert_eq!((&shown.message_id, &shown.concurrency_key), (&request.source, &request.source));
    }
    Ok(())
}

async fn a_batch_that_contradicts_the_journal_changes_nothing(world: World) -> anyhow::Result<()> {
    let same = |id| AcceptedRequest { request: full_request(1).into(), ..accepted(id) };
    let bad = [
        Batch { live: vec![running(1), running(99)], ..Batch::default() },
        Batch { settled: ends([settled(1), settled(99)]), ..Batch::default() },
        Batch { accepted: vec![accepted(50), accepted(1)], ..Batch::default() },
        Batch { accepted: vec![accepted(50), same(51), same(52)], ..Batch::default() },
    ];
    world.writer().await?.accept([1, 2]).await?;
    for batch in bad {
        let mut writer = world.writer().await?;
        let error = writer.commit(batch).await.expect_err("refused");
        assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
        // And nothing can follow it.
        let error = writer.commit(Batch::default()).await.expect_err("over");
        assert!(matches!(error, CommitError::Unknown(slotline_store::Error::LeadershipOver)), "{error:?}");
        drop(writer);
        assert_eq!(world.recovered().await?.live, [queued(1), queued(2)]);
    }
    Ok(())
}

async fn a_batch_of_twenty_thousand_is_one_commit(world: World) -> anyhow::Result<()> {
    const MANY: i64 = 20_000;
    let mut writer = world.writer().await?;
    let message = |id| Request { name: Some(format!("m{id}").into()), ..request() };
    let accept = |id| AcceptedRequest { snapshot: queued(id), request: message(id).into() };
    writer.commit(Batch { accepted: (1..=MANY).map(accept).collect(), ..Batch::default() }).await?;
    writer.commit(Batch { live: (1..=MANY).map(running).collect(), ..Batch::default() }).await?;
    let batch = Batch {
        accepted: (MANY + 1..=2 * MANY).map(accept).collect(),
        settled: (1..=MANY).map(settled).map(Arc::new).collect(),
        ..Batch::default()
    };
    writer.commit(batch).await?;
    let names: Vec<RequestName> = (1..=2 * MANY).map(|id| format!("m{id}").into()).collect();
    assert_eq!(world.store.find_messages(&names).await?.len(), names.len());
    drop(writer);
    let live = world.recovered().await?.live;
    assert_eq!(live.len(), usize::try_from(MANY)?);
    assert_eq!(live.first().map(|first| first.id), Some(ExecutionId(MANY + 1)));
    Ok(())
}

async fn an_empty_batch_still_moves_the_counters(world: World) -> anyhow::Result<()> {
    let mut writer = world.lead().await?;
    assert_eq!(writer.lead.recover().await?.counters, slotline_scheduler::Counters::default());
    let batch = Batch { counters: counters(40), ..Batch::default() };
    assert!(batch.is_empty());
    writer.commit(batch).await?;
    drop(writer);
    assert_eq!(world.recovered().await?.counters, counters(40));
    Ok(())
}
