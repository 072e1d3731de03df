//! The record of an execution: numbered without a gap, from any number on, with or without rows of its own.

use std::sync::Arc;

use slotline_protocol::message::{GapReason, Level, Report, Stream};
use slotline_protocol::record::{Event, Latest, Newest, What};
use slotline_protocol::{ExecutionId, OutcomeKind, Status};
use slotline_scheduler::Settled;
use slotline_store::{Batch, Error, Filter, PAGE_BYTES_MAX, PAGE_LIMIT_MAX, PageRequest, RecordPart, Story};

use crate::world::{World, accepted, at, cases, ends, event, failure, lease, log, running, settled, story};

cases!(
    a_plain_execution_tells_all_without_a_row,
    a_page_begins_after_any_number_and_goes_on_with_the_next,
    what_was_reported_is_told_as_it_was_reported,
    the_end_comes_last_and_only_once_nothing_is_awaited,
    a_number_given_twice_is_refused_with_its_batch,
    an_end_among_the_events_is_refused,
    a_story_takes_the_place_of_the_one_before,
    how_far_it_came_is_shown_of_one_execution_and_not_in_lists,
    a_limit_out_of_range_is_brought_into_it,
    a_page_of_large_events_ends_early,
    a_page_is_of_one_moment_however_fast_the_record_moves,
    nobody_has_a_record_of_what_never_was,
);

pub(crate) async fn told(world: &World, id: i64, after: u64, limit: u32) -> anyhow::Result<RecordPart> {
    let events = world.store.events(ExecutionId(id), after, limit).await?;
    events.ok_or_else(|| anyhow::anyhow!("execution {id} is unknown"))
}

pub(crate) fn numbers(events: &RecordPart) -> Vec<u64> {
    events.events.iter().map(|event| event.number).collect()
}

fn kinds(events: &RecordPart) -> Vec<&'static str> {
    events.events.iter().map(|event| event.what.kind().as_str()).collect()
}

fn text(event: &Event) -> String {
    serde_json::to_string(event).expect("plain data")
}

/// Execution `id` runs; its events from `first` to `last` are kept, of `last` ever.
async fn tell(world: &World, id: i64, first: u64, last: u64) -> anyhow::Result<crate::world::Writer> {
    let mut writer = world.writer().await?;
    let batch = Batch {
        accepted: vec![accepted(id)],
        live: vec![running(id)],
        events: (1..=last).map(|number| log(id, number)).collect(),
        stories: vec![story(id, first, last)],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    Ok(writer)
}

async fn a_plain_execution_tells_all_without_a_row(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([1, 2]).await?;
    let waiting = told(&world, 1, 0, 10).await?;
    assert_eq!((kinds(&waiting), waiting.last, waiting.is_over), (vec!["status"], 1, false));
    writer.commit(Batch { live: vec![running(1)], ..Batch::default() }).await?;
    let started = told(&world, 1, 1, 10).await?;
    assert_eq!((kinds(&started), started.last, started.is_over), (vec!["status", "status", "started"], 4, false));
    writer.settle([1]).await?;
    let all = told(&world, 1, 0, 10).await?;
    assert_eq!(kinds(&all), ["status", "status", "status", "started", "finished", "settled"]);
    assert_eq!((all.last, all.is_over), (6, true));
    // Exactly the events of the public function.
    let derived = slotline_store::plain(&world.execution(1).await?);
    assert_eq!(all.events.iter().map(text).collect::<Vec<_>>(), derived.iter().map(text).collect::<Vec<_>>());
    for after in 0..=8 {
        let (mut after, mut page) = (after, told(&world, 1, after, 2).await?);
        let mut found = Vec::new();
        while !page.events.is_empty() {
            assert_eq!(page.is_over, numbers(&page).contains(&6));
            found.extend(numbers(&page));
            after = found.last().copied().unwrap_or(after);
            page = told(&world, 1, after, 2).await?;
        }
        assert!(page.is_over);
        assert_eq!(found, (1..=6).filter(|number| *number > 6 - found.len() as u64).collect::<Vec<_>>());
    }
    for table in ["SELECT count(*) FROM events", "SELECT count(*) FROM stories"] {
        assert_eq!(world.count(table).await?.unwrap_or(0), 0, "{table}");
    }
    Ok(())
}

async fn a_page_begins_after_any_number_and_goes_on_with_the_next(world: World) -> anyhow::Result<()> {
    // There were nine events, of which the first four are forgotten, and the tenth settled it.
    let mut writer = tell(&world, 1, 5, 9).await?;
    let end = Batch { settled: ends([settled(1)]), stories: vec![story(1, 5, 10)], ..Batch::default() };
    writer.commit(end).await?;
    assert_eq!(world.count("SELECT count(*) FROM events").await?.unwrap_or(5), 5);
    for limit in 1..=12 {
        for start in 0..=12 {
            let (mut after, mut found) = (start, Vec::new());
            loop {
                let page = told(&world, 1, after, limit).await?;
                assert!(page.events.len() <= usize::try_from(limit)?);
                assert_eq!(page.last, 10);
                for event in &page.events {
                    if let What::Gap { count, reason } = event.what {
                        assert_eq!((count, reason, event.number), (4 - start, GapReason::Pruned, 4));
                        // It has the time of the first that is kept.
                        assert_eq!((event.attempt, event.timestamp), (1, at(5)));
                    } else {
                        assert!(event.number > 4);
                    }
                }
                found.extend(numbers(&page));
                after = found.last().copied().unwrap_or(start);
                assert_eq!(page.is_over, after >= 10, "after {after} by {limit}");
                if page.events.is_empty() || page.is_over {
                    break;
                }
            }
            // The gap has the number of the last event it stands for.
            let first = if start < 4 { 4 } else { start + 1 };
            assert_eq!(found, (first..=10).collect::<Vec<_>>(), "after {start} by {limit}");
        }
    }
    Ok(())
}

async fn what_was_reported_is_told_as_it_was_reported(world: World) -> anyhow::Result<()> {
    let hostile = "nul \0 and \u{1}0, 'quotes\" \\u0000 ; -- \u{202e}🦀";
    let reported = Report {
        step: Some((2, 7)),
        message: Some(hostile.to_owned()),
        progress: Some((60, None)),
        unit: Some("Bytes".to_owned()),
        phase: Some("deploy".to_owned()),
        percent: Some(28.5),
        level: Level::Error,
        data: Some(serde_json::json!({"\u{0}": [hostile, 1.5, null]})),
        task: None,
        tasks: Vec::new(),
    };
    let whats = [
        What::Status { previous: Status::Running, new: Status::Cancelling, worker: Some(lease(1).worker) },
        What::Started,
        What::Progress(reported),
        What::Log { stream: Stream::Stderr, lines: vec![hostile.to_owned(), String::new()] },
        What::Gap { count: 3, reason: GapReason::Merged },
        What::Finished { outcome: Some(OutcomeKind::Lost), return_code: Some(-9), message: Some(hostile.to_owned()) },
    ];
    let events: Vec<Arc<Event>> = (1..).zip(whats).map(|(number, what)| event(1, number, what)).collect();
    let mut writer = world.writer().await?;
    let batch = Batch {
        accepted: vec![accepted(1)],
        events: events.clone(),
        stories: vec![story(1, 1, 7)],
        settled: ends([Settled { status: Status::Failed, result: None, error: Some(failure()), ..settled(1) }]),
        ..Batch::default()
    };
    writer.commit(batch).await?;
    let page = told(&world, 1, 0, 100).await?;
    for (found, expected) in page.events.iter().zip(&events) {
        assert_eq!(text(found), text(expected));
    }
    let end = page.events.last().map(|end| &end.what);
    let Some(What::Settled { previous: Status::Running, status: Status::Failed, result: None, error: Some(error) }) =
        end
    else {
        panic!("{end:?}");
    };
    assert_eq!(*error, failure());
    assert_eq!((page.events.len(), page.is_over), (7, true));
    Ok(())
}

async fn the_end_comes_last_and_only_once_nothing_is_awaited(world: World) -> anyhow::Result<()> {
    let mut writer = tell(&world, 1, 1, 2).await?;
    let awaiting = Story { awaits: Some(4), ..story(1, 1, 2) };
    writer.commit(Batch { settled: ends([settled(1)]), stories: vec![awaiting], ..Batch::default() }).await?;
    let page = told(&world, 1, 0, 10).await?;
    assert_eq!((numbers(&page), page.last, page.is_over), (vec![1, 2], 2, false));
    assert!(!told(&world, 1, 2, 10).await?.is_over);
    let rest = Batch { events: vec![log(1, 3), log(1, 4)], stories: vec![story(1, 1, 5)], ..Batch::default() };
    writer.commit(rest).await?;
    let page = told(&world, 1, 2, 10).await?;
    assert_eq!((kinds(&page), page.last, page.is_over), (vec!["log", "log", "settled"], 5, true));
    assert_eq!(page.events[2].timestamp, at(3_001));
    assert_eq!(page.events[2].attempt, 1);
    // A page that is just full before the gap does not include it.
    let page = told(&world, 1, 2, 2).await?;
    assert_eq!((kinds(&page), page.is_over), (vec!["log", "log"], false));
    for after in [5, 6, u64::MAX] {
        let page = told(&world, 1, after, 10).await?;
        assert!(page.events.is_empty() && page.is_over, "after {after}");
    }
    Ok(())
}

async fn a_number_given_twice_is_refused_with_its_batch(world: World) -> anyhow::Result<()> {
    let mut writer = tell(&world, 1, 1, 2).await?;
    let again = event(1, 2, What::Started);
    let batch = Batch { events: vec![again, log(1, 3)], stories: vec![story(1, 1, 3)], ..Batch::default() };
    writer.commit(batch).await.expect_err("2 was given");
    let page = told(&world, 1, 0, 10).await?;
    assert_eq!((kinds(&page), page.last), (vec!["log", "log"], 2));
    Ok(())
}

async fn an_end_among_the_events_is_refused(world: World) -> anyhow::Result<()> {
    let mut writer = tell(&world, 1, 1, 2).await?;
    let end =
        event(1, 3, What::Settled { previous: Status::Running, status: Status::Completed, result: None, error: None });
    writer.commit(Batch { events: vec![end], ..Batch::default() }).await.expect_err("its row tells it");
    assert_eq!(told(&world, 1, 0, 10).await?.last, 2);
    Ok(())
}

async fn a_story_takes_the_place_of_the_one_before(world: World) -> anyhow::Result<()> {
    let mut writer = tell(&world, 1, 1, 6).await?;
    writer.accept([2]).await?;
    let other = Batch { events: vec![log(2, 1)], stories: vec![story(2, 1, 1)], ..Batch::default() };
    writer.commit(other).await?;
    for (first, last) in [(3, 7), (3, 8), (9, 9)] {
        let batch = Batch { events: vec![log(1, last)], stories: vec![story(1, first, last)], ..Batch::default() };
        writer.commit(batch).await?;
        let page = told(&world, 1, first - 1, 100).await?;
        assert_eq!((numbers(&page), page.last), ((first..=last).collect(), last));
        assert_eq!(numbers(&told(&world, 1, first - 2, 1).await?), [first - 1], "of the gap");
    }
    // Forgotten events are gone, and the other execution has all of its events.
    assert_eq!(world.count("SELECT count(*) FROM events WHERE execution_id = 1").await?.unwrap_or(1), 1);
    assert_eq!(numbers(&told(&world, 2, 0, 10).await?), [1]);
    drop(writer);
    let stories = world.recovered().await?.stories;
    assert_eq!(stories.iter().map(|open| open.story.clone()).collect::<Vec<_>>(), [story(1, 9, 9), story(2, 1, 1)]);
    Ok(())
}

async fn how_far_it_came_is_shown_of_one_execution_and_not_in_lists(world: World) -> anyhow::Result<()> {
    let mut writer = tell(&world, 1, 1, 1).await?;
    let nothing = world.execution(1).await?;
    assert!(nothing.progress.is_none() && nothing.progress_events.is_empty());
    let newest = Newest { info: Some("pulling \0".to_owned()), error: Some("no such image".to_owned()) };
    let latest = Latest { step: Some((2, 7)), percent: Some(12.5), updated_at: at(5), ..Latest::default() };
    let far = Story { newest: newest.clone(), latest: Some(latest.clone()), ..story(1, 1, 1) };
    writer.commit(Batch { stories: vec![far.clone()], ..Batch::default() }).await?;
    let check = async || -> anyhow::Result<()> {
        let shown = world.execution(1).await?;
        assert_eq!((shown.progress, shown.progress_events), (Some(latest.clone()), newest.clone()));
        let page = PageRequest { cursor: None, limit: 10 };
        let listed = world.store.executions(&Filter::default(), page).await?.data.remove(0);
        assert!(listed.progress.is_none() && listed.progress_events.is_empty());
        Ok(())
    };
    check().await?;
    let end = Batch { settled: ends([settled(1)]), stories: vec![Story { last: 2, ..far }], ..Batch::default() };
    writer.commit(end).await?;
    check().await
}

async fn a_limit_out_of_range_is_brought_into_it(world: World) -> anyhow::Result<()> {
    let most = u64::from(PAGE_LIMIT_MAX);
    tell(&world, 1, 1, most + 5).await?;
    assert_eq!(numbers(&told(&world, 1, 0, 0).await?), [1]);
    let page = told(&world, 1, 0, u32::MAX).await?;
    assert_eq!((numbers(&page), page.last), ((1..=most).collect(), most + 5));
    assert_eq!(numbers(&told(&world, 1, most, u32::MAX).await?).len(), 5);
    Ok(())
}

async fn a_page_of_large_events_ends_early(world: World) -> anyhow::Result<()> {
    let mut writer = tell(&world, 1, 1, 1).await?;
    let large = "x".repeat(PAGE_BYTES_MAX / 4);
    for number in 2..=6 {
        let what = What::Log { stream: Stream::Stdout, lines: vec![large.clone()] };
        let events = vec![event(1, number, what)];
        writer.commit(Batch { events, stories: vec![story(1, 1, number)], ..Batch::default() }).await?;
    }
    assert_eq!(numbers(&told(&world, 1, 0, 100).await?), [1, 2, 3, 4]);
    assert_eq!(numbers(&told(&world, 1, 4, 100).await?), [5, 6]);
    // The connections that were left with half an answer are replaced.
    for _ in 0..6 {
        assert_eq!(told(&world, 1, 0, 100).await?.events.len(), 4);
    }
    Ok(())
}

/// Follows the record of an execution while it is written, cut and settled.
async fn a_page_is_of_one_moment_however_fast_the_record_moves(world: World) -> anyhow::Result<()> {
    const BATCHES: u64 = 150;
    const KEPT: u64 = 5;
    let mut writer = world.writer().await?;
    writer.accept([1]).await?;
    let store = world.store.clone();
    let reader = tokio::spawn(async move {
        let (mut after, mut pages) = (0, 0);
        loop {
            // From wherever it is, and from the beginning.
            for from in [after, 0] {
                let page = store.events(ExecutionId(1), from, 7).await?.expect("accepted before");
                let first = page.events.first().map_or(from, |event| event.number);
                let is_gap = page.events.first().is_some_and(|event| matches!(event.what, What::Gap { .. }));
                assert!(is_gap || page.events.is_empty() || first == from + 1, "a hole before {first}");
                for (event, number) in page.events.iter().zip(first..) {
                    assert_eq!(event.number, number);
                }
                if from == after {
                    after = page.events.last().map_or(after, |event| event.number);
                    pages += 1;
                    if page.is_over {
                        assert!(matches!(page.events.last().map(|end| &end.what), Some(What::Settled { .. })));
                        return Ok::<_, Error>((after, pages));
                    }
                }
            }
        }
    });
    // The first event that is written is the one that followed from the row until then.
    for number in 1..=BATCHES {
        let first = number.saturating_sub(KEPT).max(1);
        let batch = Batch { events: vec![log(1, number)], stories: vec![story(1, first, number)], ..Batch::default() };
        writer.commit(batch).await?;
    }
    let first = BATCHES - KEPT;
    let end = Batch { settled: ends([settled(1)]), stories: vec![story(1, first, BATCHES + 1)], ..Batch::default() };
    writer.commit(end).await?;
    let (last, pages) = tokio::time::timeout(std::time::Duration::from_secs(60), reader).await???;
    assert_eq!(last, BATCHES + 1);
    assert!(pages > 1);
    Ok(())
}

async fn nobody_has_a_record_of_what_never_was(world: World) -> anyhow::Result<()> {
    assert!(world.store.events(ExecutionId(1), 0, 10).await?.is_none());
    world.writer().await?.accept([1]).await?;
    assert!(world.store.events(ExecutionId(1), 0, 10).await?.is_some());
    assert!(world.store.events(ExecutionId(2), 0, 10).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_record_that_no_version_wrote_is_named_and_not_guessed_at() -> anyhow::Result<()> {
    for world in [World::postgres().await?, World::sqlite_file().await?] {
        tell(&world, 1, 1, 3).await?;
        for (statement, column) in [
            ("UPDATE events SET body = '{}' WHERE number = 2", "body"),
            ("UPDATE events SET body = (SELECT body FROM events WHERE number = 3) WHERE number = 2", "body"),
            ("DELETE FROM events WHERE number = 2", "number"),
            ("DELETE FROM events WHERE number = 3", "number"),
            ("UPDATE stories SET head = 'x'", "head"),
        ] {
            world.tamper(statement).await?;
            let error = world.store.events(ExecutionId(1), 0, 10).await.expect_err(statement);
            assert!(matches!(&error, Error::Corrupt { column: c, id: 1, .. } if *c == column), "{error:?}");
        }
    }
    Ok(())
}
