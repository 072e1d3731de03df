//! A line is first in, first out, and its limit holds.

use slotline_protocol::http::WaitReason;
use slotline_protocol::{OutcomeKind, Status};
use slotline_scheduler::{Limits, Unacceptable};

use crate::world::{World, seconds, slots, unlimited};

#[test]
fn a_line_with_one_slot_runs_in_order_of_submission() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b", "c"]);
    assert_eq!(world.running(), ["a"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c"]);
    assert_eq!(world.finished(), ["a", "b", "c"]);
    world.assert_nothing_is_left();
}

#[test]
fn three_slots_run_three_and_grant_in_order_whoever_ends_first() {
    let mut world = World::with_line("email", slots(3));
    world.submit(["a", "b", "c", "d", "e"]);
    assert_eq!(world.running(), ["a", "b", "c"]);
    world.complete("c");
    assert_eq!(world.running(), ["a", "b", "d"]);
    world.complete("a");
    assert_eq!(world.running(), ["b", "d", "e"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c", "d", "e"]);
    world.assert_nothing_is_left();
}

#[test]
fn without_a_limit_only_the_room_of_workers_counts() {
    let mut world = World::without_workers("email", unlimited()).with_worker("w1", 2);
    world.submit(["a", "b", "c"]);
    assert_eq!(world.running(), ["a", "b"]);
    world.complete("b");
    assert_eq!(world.running(), ["a", "c"]);
}

#[test]
fn a_completion_and_the_next_start_are_one_step() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    let completed = world.word("a", OutcomeKind::Completed);
    world.scheduler.handle(completed, world.now);
    let effects = world.scheduler.take_effects();
    assert_eq!(effects.settled.len(), 1);
    assert_eq!(effects.orders.len(), 2, "recorded, and the next dispatch: {:?}", effects.orders);
}

#[test]
fn every_way_to_end_an_attempt_frees_its_slot_once() {
    let kinds = [
        (OutcomeKind::Completed, Status::Completed),
        (OutcomeKind::Failed, Status::Failed),
        (OutcomeKind::Timeout, Status::Timeout),
        (OutcomeKind::Cancelled, Status::Cancelled),
    ];
    for (kind, status) in kinds {
        let mut world = World::with_line("email", slots(1));
        world.submit(["a", "b", "c"]);
        world.end("a", kind);
        assert_eq!(world.status("a"), status);
        assert_eq!(world.running(), ["b"], "{kind}");
        world.run_until_idle();
        world.assert_nothing_is_left();
    }
}

#[test]
fn what_was_submitted_before_any_worker_came_starts_in_order() {
    let mut world = World::without_workers("email", slots(2));
    world.submit(["a", "b", "c"]);
    assert_eq!(world.why("a").reason, WaitReason::NoWorker);
    world.start_worker("w1", 10);
    assert_eq!(world.started(), ["a", "b"]);
}

#[test]
fn a_full_line_refuses_and_takes_again_once_someone_left_it() {
    let mut world = World::with_line("email", Limits { max_queue_length: Some(2), ..slots(1) });
    world.submit(["runs", "a", "b", "c"]);
    let reasons: Vec<_> = world.refused.iter().map(|refused| refused.reason).collect();
    assert_eq!(reasons, [Unacceptable::LineFull { max_queue_length: 2 }]);
    world.complete("runs");
    world.submit(["d"]);
    assert_eq!(world.refused.len(), 1);
    world.run_until_idle();
    assert_eq!(world.started(), ["runs", "a", "b", "d"]);
}

#[test]
fn a_request_for_an_unknown_action_is_refused() {
    let mut world = World::with_line("email", slots(1));
    world.submit_to("unheard-of", None, ["a"]);
    assert_eq!(world.refused.first().map(|refused| refused.reason), Some(Unacceptable::UnknownAction));
}

#[test]
fn a_request_is_told_its_position() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b", "c", "d"]);
    let positions: Vec<_> = world.accepted.iter().map(|accepted| accepted.position).collect();
    assert_eq!(positions, [1, 1, 2, 3], "the first has left the line before the second comes");
    assert_eq!(world.why("d").position, 3);
    world.cancel("b");
    assert_eq!(world.why("d").position, 2);
}

#[test]
fn an_execution_that_waits_says_why_and_for_whom() {
    let mut world = World::without_workers("email", slots(1)).and_line("sms", unlimited()).with_worker("w1", 2);
    world.submit_to("email", None, ["a", "b"]);
    let why = world.why("b");
    assert_eq!((why.reason, why.held_by), (WaitReason::Limit, vec![world.id("a")]));

    world.submit_to("sms", None, ["c", "d"]);
    let why = world.why("d");
    assert_eq!((why.reason, why.held_by), (WaitReason::Capacity, vec![world.id("a"), world.id("c")]));

    world.pause("email");
    assert_eq!(world.why("b").reason, WaitReason::Paused);
    assert_eq!(world.scheduler.explain(world.id("a")), None, "what runs does not wait");
}

#[test]
fn the_statistics_of_a_line_are_its_state() {
    let mut world = World::with_line("email", slots(1));
    let id = world.action("email");
    world.submit(["a"]);
    world.pass(seconds(10));
    let since = world.now;
    world.submit(["b", "c"]);
    world.complete("a");
    let stats = world.scheduler.queue_stats(id, world.now).expect("a known action");
    assert_eq!((stats.queue_length, stats.active_count, stats.max_concurrent), (1, 1, Some(1)));
    assert_eq!((stats.total_enqueued, stats.total_completed, stats.paused), (3, 1, false));
    assert_eq!(stats.oldest_enqueued_at, Some(since));
}
