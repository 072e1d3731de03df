//! The record beside a real scheduler: what is published, what is written, and what has to be resent.

mod chance;
mod world;

use std::time::Duration;

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{GapReason, Level, Report};
use slotline_protocol::record::What;

use super::word::{ASK_AFTER, ASK_AGAIN, ASKS_MAX};
use super::*;
use world::{KEPT, PLAIN, World, action_ref, says};

#[test]
fn an_execution_that_tells_nothing_is_told_and_never_written() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.hears(id, 1, 3, AttemptEventKind::Finished);
    world.completes(id, 1, started_at, 3);
    world.commits();
    assert_eq!(world.told(id), PLAIN);
    assert!(world.written.is_empty() && world.stories.is_empty());
    assert!(world.record.tales.is_empty() && world.record.due.is_empty());
}

#[test]
fn a_completion_that_overtakes_all_events_needs_none_of_them() {
    let mut world = World::new();
    let id = world.submits();
    world.completes(id, 1, world.now, 3);
    world.commits();
    assert_eq!(world.told(id), PLAIN);
    assert!(world.written.is_empty() && world.missing.is_empty());
}

#[test]
fn with_the_first_report_everything_before_it_is_written_too() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.commits();
    world.hears(id, 1, 3, says("pulling"));
    world.commits();
    assert_eq!(world.written(id), ["1 queued", "2 scheduled", "3 running", "4 started", "5 pulling"]);
    assert_eq!(world.stories[&id].newest.info.as_deref(), Some("pulling"));
    world.hears(id, 1, 4, AttemptEventKind::Finished);
    world.completes(id, 1, started_at, 4);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 pulling", "6 finished completed", "7 settled completed"]);
    assert_eq!(world.stories[&id].last, 7, "the event that settles counts");
    assert_eq!(world.written(id).last().expect("events"), "6 finished completed", "and is not written");
}

#[test]
fn events_are_told_in_the_order_of_their_numbers_and_each_once() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    for (sequence, message) in [(5, "c"), (3, "a"), (3, "a"), (4, "b"), (5, "c"), (1, "x")] {
        world.hears(id, 1, sequence, says(message));
    }
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 a", "6 b", "7 c"]);
}

#[test]
fn what_is_missing_is_asked_for_while_the_slot_is_long_free() {
    let mut world = World::new();
    let id = world.submits();
    let next = world.submits();
    let started_at = world.starts(id, 1);
    world.completes(id, 1, started_at, 5);
    world.commits();
    assert!(world.scheduler.snapshot(next).expect("it lives").lease.is_some(), "the next in line has the slot");
    assert_eq!(world.stories[&id].awaits, Some(5), "a later leader must know of it");
    assert!(world.missing.is_empty(), "it may still be on its way");
    world.passes(ASK_AFTER);
    assert_eq!(world.missing.len(), 1);
    let missing = world.missing[0].clone();
    assert_eq!((missing.key, missing.first, missing.last), ((id, 1), 3, Some(5)));
    world.hears(id, 1, 3, says("a"));
    world.hears(id, 1, 4, says("b"));
    world.commits();
    assert_eq!(world.told(id).last().expect("events"), "6 b", "its end waits");
    world.hears(id, 1, 5, AttemptEventKind::Finished);
    world.commits();
    assert_eq!(world.told(id)[6..], ["7 finished completed", "8 settled completed"]);
    assert_eq!(world.stories[&id].awaits, None);
    assert!(!world.record.tales.contains_key(&id));
}

#[test]
fn what_can_not_be_had_becomes_one_gap_and_the_end_follows() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.completes(id, 1, started_at, 9);
    for _ in 0..=ASKS_MAX {
        world.passes(ASK_AGAIN);
    }
    assert_eq!(world.missing.len(), usize::try_from(ASKS_MAX).expect("few"));
    assert_eq!(world.told(id)[4..], ["5 lost 7", "6 finished completed", "7 settled completed"]);
    assert_eq!(world.written(id).len(), 6);
}

#[test]
fn a_worker_that_has_forgotten_says_so_and_that_counts_as_told() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.completes(id, 1, started_at, 6);
    world.hears(id, 1, 3, AttemptEventKind::Gap { count: 3, reason: GapReason::Lost });
    world.hears(id, 1, 6, AttemptEventKind::Finished);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 lost 3", "6 finished completed", "7 settled completed"]);
}

#[test]
fn a_number_that_nobody_could_mean_breaks_nothing() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    world.hears(id, 1, 3, AttemptEventKind::Gap { count: u64::MAX, reason: GapReason::Lost });
    world.hears(id, 1, u64::MAX, says("far"));
    let started_at = world.now;
    world.completes(id, 1, started_at, u64::MAX);
    world.commits();
    for _ in 0..=ASKS_MAX {
        world.passes(ASK_AGAIN);
    }
    assert!(world.told(id).last().expect("events").ends_with("settled completed"), "{:?}", world.told(id));
}

#[test]
fn numbers_go_on_across_attempts_and_a_lost_one_is_told_with_its_holes() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    world.hears(id, 1, 3, says("half way"));
    world.hears(id, 1, 6, says("further"));
    let reason = slotline_protocol::message::EndReason::Replaced;
    world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
    world.worker = Incarnation(uuid::Uuid::from_u128(2));
    world.beats();
    world.commits();
    let started_at = world.starts(id, 2);
    world.completes(id, 2, started_at, 3);
    world.commits();
    let expected = [
        "1 queued",
        "2 scheduled",
        "3 running",
        "4 started",
        "5 half way",
        "6 lost 2",
        "7 further",
        "8 finished lost",
        "9 queued",
        "10 scheduled",
        "11 running",
        "12 started",
        "13 finished completed",
        "14 settled completed",
    ];
    assert_eq!(world.told(id), expected);
    assert_eq!(world.written(id), expected[..13]);
}

#[test]
fn an_attempt_that_ends_while_events_of_the_one_before_are_awaited_is_told_after_them() {
    let mut world = World::new();
    let retry = slotline_protocol::policy::Retry { max_attempts: 2, ..Default::default() };
    let policy = slotline_protocol::Policy { retry, ..slotline_protocol::Policy::default() };
    world.puts(&policy);
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.ends(id, 1, started_at, 4, OutcomeKind::Failed);
    world.commits();
    // A resend is not answered while the next attempt comes and goes.
    world.passes(Duration::from_millis(1500));
    let started_at = world.starts(id, 2);
    world.completes(id, 2, started_at, 3);
    world.commits();
    assert_eq!(world.told(id).last().expect("events"), "4 started");
    world.hears(id, 1, 3, says("late"));
    world.hears(id, 1, 4, AttemptEventKind::Finished);
    world.commits();
    let rest =
        ["finished failed", "queued", "scheduled", "running", "started", "finished completed", "settled completed"];
    let rest: Vec<String> = (6..).zip(rest).map(|(number, what)| format!("{number} {what}")).collect();
    assert_eq!(world.told(id)[4..5], ["5 late"]);
    assert_eq!(world.told(id)[5..], rest);
    assert!(world.record.tales.is_empty());
}

#[test]
fn a_new_leader_goes_on_with_the_next_number_and_asks_for_the_rest() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.hears(id, 1, 3, says("a"));
    world.commits();
    // This event is never committed.
    world.hears(id, 1, 4, says("b"));
    let open = OpenStory { story: world.stories[&id].clone(), recent: Vec::new(), settled: None };
    let live = [world.scheduler.snapshot(id).expect("it lives")];
    world.record = Record::recover(KEPT, vec![open], &live, |_| Some(action_ref()), world.now);
    world.record.ask_all();
    world.scheduler.take_effects();
    world.commits();
    assert_eq!(world.missing.last().map(|missing| (missing.first, missing.last)), Some((4, None)));
    world.hears(id, 1, 4, says("b"));
    world.completes(id, 1, started_at, 5);
    world.hears(id, 1, 5, AttemptEventKind::Finished);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 a", "6 b", "7 finished completed", "8 settled completed"]);
}

#[test]
fn a_new_leader_tells_moves_that_were_held_back_from_where_the_last_told_one_led() {
    let mut world = World::new();
    let retry = slotline_protocol::policy::Retry { max_attempts: 2, ..Default::default() };
    world.puts(&slotline_protocol::Policy { retry, ..slotline_protocol::Policy::default() });
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.ends(id, 1, started_at, 4, OutcomeKind::Failed);
    world.commits();
    assert_eq!(world.told(id).last().expect("events"), "4 started", "its third event is awaited");
    let open = OpenStory { story: world.stories[&id].clone(), recent: Vec::new(), settled: None };
    let live = [world.scheduler.snapshot(id).expect("it backs off")];
    world.record = Record::recover(KEPT, vec![open], &live, |_| Some(action_ref()), world.now);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 lost 2", "6 queued"]);
    world.passes(Duration::from_secs(5));
    let started_at = world.starts(id, 2);
    world.completes(id, 2, started_at, 3);
    world.commits();
    let rest = ["scheduled", "running", "started", "finished completed", "settled completed"];
    let rest: Vec<String> = (7..).zip(rest).map(|(number, what)| format!("{number} {what}")).collect();
    assert_eq!(world.told(id)[6..], rest);
}

#[test]
fn a_new_leader_that_finds_only_the_row_goes_on_as_the_row_tells() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.commits();
    let live = [world.scheduler.snapshot(id).expect("it lives")];
    world.record = Record::recover(KEPT, Vec::new(), &live, |_| Some(action_ref()), world.now);
    world.completes(id, 1, started_at, 3);
    world.commits();
    assert_eq!(world.told(id), PLAIN);
    assert!(world.written.is_empty());
}

#[test]
fn a_start_that_was_lost_is_no_attempt_and_the_next_has_its_number_under_a_grant_of_its_own() {
    let mut world = World::new();
    let id = world.submits();
    for n in 2..4 {
        let reason = slotline_protocol::message::EndReason::Replaced;
        world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
        world.worker = Incarnation(uuid::Uuid::from_u128(n));
        world.beats();
        world.commits();
    }
    let snapshot = world.scheduler.snapshot(id).expect("it lives");
    assert_eq!((snapshot.attempt, snapshot.counts_as()), (3, 1));
    let started_at = world.starts(id, 3);
    world.completes(id, 3, started_at, 3);
    world.commits();
    let told = world.told.last().expect("events");
    assert!(matches!(told.what, What::Settled { .. }) && told.attempt == 1, "{told:?}");
    assert!(world.told.iter().all(|event| event.attempt <= 1));
}

#[test]
fn the_error_of_a_sudden_end_tells_what_was_known() {
    let mut world = World::new();
    let policy = slotline_protocol::Policy { max_lost_attempts: 0, ..slotline_protocol::Policy::default() };
    world.puts(&policy);
    let id = world.submits();
    world.starts(id, 1);
    world.hears(id, 1, 3, says("Container web is running but not ready"));
    let failing =
        Report { level: Level::Error, message: Some("Readiness probe failed: 503".to_owned()), ..Report::default() };
    world.hears(id, 1, 4, AttemptEventKind::Progress(failing));
    let reason = slotline_protocol::message::EndReason::Replaced;
    world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
    world.commits();
    let error = &world.errors[&id];
    assert_eq!(
        error.message,
        "Execution 1 (deploy.app): attempt 1 on worker w1 was lost with it. Progress events:\n\
         Info - Container web is running but not ready\nError - Readiness probe failed: 503"
    );
    let events = &error.details.as_ref().expect("details")["progress_events"];
    assert_eq!(events.as_array().expect("an array").len(), 2);
    assert_eq!(events[1]["level"], "error");
}

#[test]
fn the_error_of_an_attempt_that_was_lost_and_is_tried_again_tells_what_was_known_of_it() {
    let mut world = World::new();
    let id = world.submits();
    for (attempt, message) in [(1, "first half"), (2, "second half")] {
        world.starts(id, attempt);
        let phase = Some(format!("phase {attempt}"));
        let report = Report { phase, message: Some(message.to_owned()), ..Report::default() };
        world.hears(id, attempt, 3, AttemptEventKind::Progress(report));
        let reason = slotline_protocol::message::EndReason::Replaced;
        world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
        world.worker = Incarnation(uuid::Uuid::from_u128(1 + u128::from(attempt)));
        world.beats();
        world.commits();
        let error = &world.attempt_errors[&(id, attempt)];
        assert!(error.message.ends_with(&format!("Progress events:\nInfo - {message}")), "{error:?}");
        let events = error.details.as_ref().expect("details")["progress_events"].as_array().expect("an array").len();
        assert_eq!((error.phase.as_deref(), events), (Some(&*format!("phase {attempt}")), 1), "{error:?}");
    }
    assert!(world.errors.is_empty(), "it has not settled");
}

#[test]
fn events_of_a_grant_that_counts_as_another_attempt_name_the_grant() {
    let mut world = World::new();
    let id = world.submits();
    let lease = world.scheduler.snapshot(id).and_then(|snapshot| snapshot.lease).expect("an attempt is out");
    let (fence, incarnation) = (lease.fence, lease.incarnation);
    let reason = "unknown".to_owned();
    world.happens(Input::Returned { key: (id, 1), fence, incarnation, started: false, reason });
    world.commits();
    world.starts(id, 2);
    world.hears(id, 2, 3, says("half way"));
    let number = world.record.told().last().expect("events").number;
    assert_eq!(world.record.told().last().expect("events").attempt, 1, "people count it as the first");
    assert_eq!(world.record.take().grants.get(&(id, number)), Some(&2));
}

#[test]
fn only_the_newest_events_are_kept_and_numbers_go_on() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    for sequence in 3..3 + 2 * KEPT {
        world.hears(id, 1, sequence, says("x"));
        world.commits();
    }
    let kept = u64::try_from(world.written(id).len()).expect("few");
    assert!((KEPT..=KEPT + KEPT / 8).contains(&kept), "{kept}");
    let story = &world.stories[&id];
    assert_eq!((story.last, story.last + 1 - story.first), (4 + 2 * KEPT, kept));
}
