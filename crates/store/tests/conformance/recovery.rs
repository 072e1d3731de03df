//! What a new leader reads.

use slotline_protocol::record::{Latest, Newest};
use slotline_protocol::{ExecutionId, Incarnation, Status, WorkerName};
use slotline_scheduler::{BULKY_BYTES, Snapshot};
use slotline_store::{AcceptedRequest, Batch, Error, OpenStory, RECENT_MAX, Request, Store, Story};
use uuid::Uuid;

use crate::world::{
    World, accepted, at, cases, ends, lease, log, queued, raw, report, request, running, settled, story,
};

cases! {
    live_executions_come_in_the_order_of_their_places,
    incarnations_that_ended_stay_ended,
    a_fresh_journal_is_empty,
    which_parameters_are_large_is_known_to_the_next_leader,
    stories_of_the_living_and_of_those_awaited_go_on,
    of_many_reports_the_newest_are_recovered,
}

async fn live_executions_come_in_the_order_of_their_places(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([3, 1, 2, 4]).await?;
    // The first goes to the back of the line.
    writer.commit(Batch { live: vec![Snapshot { place: 5, ..queued(1) }], ..Batch::default() }).await?;
    writer.settle([3]).await?;
    drop(writer);
    let places: Vec<_> = world.recovered().await?.live.iter().map(|live| (live.place, live.id.0)).collect();
    assert_eq!(places, [(2, 2), (4, 4), (5, 1)]);
    Ok(())
}

async fn incarnations_that_ended_stay_ended(world: World) -> anyhow::Result<()> {
    let (first, second) = (Incarnation(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
    let worker = WorkerName::new("worker-1")?;
    let mut writer = world.writer().await?;
    let ended = |ended_incarnations| Batch { ended_incarnations, ..Batch::default() };
    writer.commit(ended(vec![(first, worker.clone(), at(1)), (second, worker.clone(), at(2))])).await?;
    writer.commit(ended(vec![(first, worker, at(3))])).await?;
    drop(writer);
    assert_eq!(world.recovered().await?.ended, [first, second]);
    Ok(())
}

async fn which_parameters_are_large_is_known_to_the_next_leader(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let with = |id, bytes: usize| {
        // Two bytes for each character, and two for the quotes.
        let parameters = raw(&format!("\"{}\"", "\u{fc}".repeat((bytes - 2) / 2)));
        AcceptedRequest { request: Request { parameters, ..request() }.into(), ..accepted(id) }
    };
    let accepted = vec![with(1, 2), with(2, BULKY_BYTES), with(3, BULKY_BYTES + 2), with(4, 1 << 20)];
    writer.commit(Batch { accepted, ..Batch::default() }).await?;
    drop(writer);
    let are_bulky: Vec<_> = world.recovered().await?.live.iter().map(|live| live.is_bulky).collect();
    assert_eq!(are_bulky, [false, false, true, true]);
    Ok(())
}

async fn a_fresh_journal_is_empty(world: World) -> anyhow::Result<()> {
    let recovered = world.recovered().await?;
    assert!(recovered.stories.is_empty());
    assert!(recovered.live.is_empty() && recovered.actions.is_empty() && recovered.ended.is_empty());
    Ok(())
}

async fn stories_of_the_living_and_of_those_awaited_go_on(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let told = |id| Story {
        newest: Newest { info: Some(format!("of {id}")), error: None },
        latest: Some(Latest { step: Some((1, 2)), updated_at: at(id), ..Latest::default() }),
        ..story(id, 1, 3)
    };
    let awaiting = Story { awaits: Some(9), ..told(3) };
    // 1 runs and 2 waits; 3 and 4 have settled, 3 without its last events; 5 to 7 have no story.
    let batch = Batch {
        accepted: (1..=7).map(accepted).collect(),
        live: vec![running(1), running(5)],
        settled: ends([3, 4, 6].map(settled)),
        events: (1..=4).flat_map(|id| [log(id, 1), report(id, 2), report(id, 3)]).collect(),
        stories: vec![told(1), told(2), awaiting.clone(), Story { last: 4, ..told(4) }],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    drop(writer);
    let open = world.recovered().await?.stories;
    let stories: Vec<Story> = open.iter().map(|open| open.story.clone()).collect();
    assert_eq!(stories, [told(1), told(2), awaiting]);
    let recent = |open: &OpenStory| open.recent.iter().map(|event| event.number).collect::<Vec<_>>();
    assert_eq!(open.iter().map(recent).collect::<Vec<_>>(), [vec![2, 3], vec![], vec![2, 3]]);
    assert!(open[0].settled.is_none() && open[1].settled.is_none());
    let (execution, incarnation) = open[2].settled.clone().expect("it has settled");
    assert_eq!((execution.execution_id, execution.status), (ExecutionId(3), Status::Completed));
    assert_eq!((execution.end_time, execution.progress), (Some(at(3_003)), told(3).latest));
    assert_eq!(execution.progress_events, told(3).newest);
    assert_eq!(incarnation, Some(lease(3).incarnation));

    // Once nothing is awaited, no leader reads it any more.
    let mut writer = world.writer().await?;
    writer.commit(Batch { stories: vec![Story { last: 4, ..told(3) }], ..Batch::default() }).await?;
    drop(writer);
    assert_eq!(world.recovered().await?.stories.len(), 2);
    Ok(())
}

async fn of_many_reports_the_newest_are_recovered(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let many = u64::try_from(RECENT_MAX)? + 3;
    // Two executions with the same reports, and logs between the reports.
    let events =
        |id| (1..=2 * many).map(move |number| if number % 2 == 0 { report(id, number) } else { log(id, number) });
    let batch = Batch {
        accepted: vec![accepted(1), accepted(2)],
        live: vec![running(1), running(2)],
        events: events(1).chain(events(2)).collect(),
        stories: vec![story(1, 1, 2 * many), story(2, 1, 2 * many)],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    drop(writer);
    let open = world.recovered().await?.stories;
    assert_eq!(open.len(), 2);
    for open in open {
        let recent: Vec<u64> = open.recent.iter().map(|event| event.number).collect();
        assert_eq!(recent, (4..=many).map(|n| 2 * n).collect::<Vec<_>>());
        assert!(open.recent.iter().all(|event| event.execution_id == open.story.id));
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_no_version_wrote_is_named_and_not_guessed_at() -> anyhow::Result<()> {
    for world in [World::postgres().await?, World::sqlite_file().await?] {
        let mut writer = world.writer().await?;
        let keyed = AcceptedRequest { snapshot: Snapshot { key: Some("k".into()), ..queued(2) }, ..accepted(2) };
        writer.commit(Batch { accepted: vec![accepted(1), keyed], ..Batch::default() }).await?;
        drop(writer);
        world.tamper("UPDATE live SET status = 'sleeping' WHERE id = 2").await?;
        let error = world.store.lead("test").await?.recover().await.expect_err("unknown status");
        assert!(
            matches!(&error, Error::UnknownStatus { id: ExecutionId(2), found } if found == "sleeping"),
            "{error:?}"
        );
        world.tamper("UPDATE live SET status = 'running', fence = 4 WHERE id = 2").await?;
        let error = world.store.execution(ExecutionId(2)).await.map(|_| ());
        assert!(error.is_ok(), "shown as it is: {error:?}");
        let error = world.store.lead("test").await?.recover().await.expect_err("half a lease");
        assert!(matches!(error, Error::Corrupt { column: "worker", id: 2, .. }), "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_journal_in_a_file_outlives_its_store() -> anyhow::Result<()> {
    let world = World::sqlite_file().await?;
    world.writer().await?.accept([1, 2]).await?;
    world.store.close().await;
    let again = Store::open(&world.url).await?;
    again.migrate().await?;
    assert_eq!(again.lead("next").await?.recover().await?.live, [queued(1), queued(2)]);
    Ok(())
}
