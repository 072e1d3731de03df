//! Failed and timed-out attempts are tried again: after a while, at the back of the line or in their place.

use slotline_protocol::http::WaitReason;
use slotline_protocol::{OutcomeKind, Status};
use slotline_scheduler::Limits;

use crate::world::{BACKOFF, World, key_slots, seconds, slots, strict_tries, tries};

#[test]
fn a_failed_attempt_is_tried_again_at_the_back_of_the_line() {
    let mut world = World::with_line("email", Limits { retry: tries(2), ..slots(1) });
    world.submit(["a", "b", "c"]);
    world.fail("a");
    assert_eq!(world.running(), ["b"], "the slot is free while it backs off");
    assert_eq!(world.status("a"), Status::Queued);
    world.pass(BACKOFF);
    world.complete_all(["b", "c", "a"]);
    assert_eq!(world.started(), ["a", "b", "c", "a"]);
    assert_eq!(world.status("a"), Status::Completed);
    world.assert_nothing_is_left();
}

#[test]
fn who_keeps_its_place_keeps_its_slot_too() {
    let mut world = World::with_line("email", Limits { retry: strict_tries(3), ..slots(1) });
    world.submit(["a", "b"]);
    world.fail("a");
    assert_eq!(world.running(), Vec::<String>::new());
    let why = world.why("b");
    assert_eq!((why.reason, why.held_by), (WaitReason::Limit, vec![world.id("a")]));
    world.pass(BACKOFF);
    assert_eq!(world.running(), ["a"]);
    world.fail("a");
    world.pass(BACKOFF);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "a", "a", "b"]);
    world.assert_nothing_is_left();
}

#[test]
fn the_back_off_is_over_no_sooner_than_it_should_be() {
    let mut world = World::with_line("email", Limits { retry: tries(2), ..slots(1) });
    world.submit(["a"]);
    world.fail("a");
    let why = world.why("a");
    assert_eq!(why.reason, WaitReason::Backoff);
    let until = why.until.expect("the time of its next try");
    assert!(until >= world.now + seconds(1));
    world.pass(until.since(world.now) - std::time::Duration::from_micros(1));
    assert_eq!(world.status("a"), Status::Queued);
    world.pass(std::time::Duration::from_micros(1));
    assert_eq!(world.status("a"), Status::Scheduled);
}

#[test]
fn what_went_wrong_is_told_at_the_end_and_nothing_of_one_that_completed() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    world.fail("a");
    world.complete("b");
    let codes: Vec<_> =
        world.settled.iter().map(|settled| settled.error.as_ref().map(|error| error.code.as_str())).collect();
    assert_eq!(codes, [Some("exit_status"), None]);
}

#[test]
fn the_last_try_decides() {
    for (kind, status) in [(OutcomeKind::Failed, Status::Failed), (OutcomeKind::Timeout, Status::Timeout)] {
        let mut world = World::with_line("email", Limits { retry: tries(2), ..slots(1) });
        world.submit(["a"]);
        world.end("a", kind);
        assert_eq!(world.attempts.iter().map(|ended| ended.outcome).collect::<Vec<_>>(), [kind]);
        world.pass(BACKOFF);
        world.end("a", kind);
        assert_eq!(world.status("a"), status);
        assert_eq!((world.ending("a").attempt, world.ending("a").failures), (2, 2));
        assert_eq!(world.attempts.len(), 1, "the attempt that settles is told by what it settled");
        world.assert_nothing_is_left();
    }
}

#[test]
fn those_who_back_off_count_as_waiting() {
    let mut world = World::with_line("email", Limits { retry: tries(2), max_queue_length: Some(1), ..slots(1) });
    world.submit(["a"]);
    world.fail("a");
    let id = world.action("email");
    let stats = world.scheduler.queue_stats(id, world.now).expect("a known action");
    assert_eq!((stats.queue_length, stats.active_count), (1, 0));
    world.submit(["b"]);
    assert_eq!(world.refused.len(), 1, "the line is full");
}

#[test]
fn a_kept_slot_counts_against_the_limit_of_its_key() {
    let mut world = World::with_line("deploy", Limits { retry: strict_tries(2), ..key_slots(1) });
    world.submit_key("x", ["x1", "x2"]);
    world.submit_key("y", ["y1"]);
    world.fail("x1");
    assert_eq!(world.running(), ["y1"]);
    let why = world.why("x2");
    assert_eq!((why.reason, why.held_by), (WaitReason::KeyLimit, vec![world.id("x1")]));
    world.pass(BACKOFF);
    world.run_until_idle();
    assert_eq!(world.started(), ["x1", "y1", "x1", "x2"]);
}

#[test]
fn a_kept_slot_is_used_again_before_anyone_new_starts() {
    let mut world = World::without_workers("email", Limits { retry: strict_tries(2), ..slots(2) }).with_worker("w1", 1);
    world.submit(["a", "b", "c"]);
    world.fail("a");
    assert_eq!(world.running(), ["b"]);
    world.pass(BACKOFF);
    world.complete("b");
    assert_eq!(world.running(), ["a"], "not c");
}

#[test]
fn a_kept_slot_waits_while_the_action_is_paused() {
    let mut world = World::with_line("email", Limits { retry: strict_tries(2), ..slots(1) });
    world.submit(["a", "b"]);
    world.fail("a");
    world.pause("email");
    world.pass(BACKOFF);
    assert_eq!(world.why("a").reason, WaitReason::Paused);
    world.resume("email");
    assert_eq!(world.running(), ["a"]);
}

#[test]
fn a_limit_that_was_lowered_takes_kept_slots_back_and_the_place_stays() {
    let mut world = World::with_line("email", Limits { retry: strict_tries(2), ..slots(3) });
    world.submit(["a", "b", "c", "d"]);
    world.fail("a");
    world.fail("b");
    world.put("email", Limits { retry: strict_tries(2), ..slots(1) });
    world.pass(BACKOFF);
    assert_eq!(world.running(), ["c"], "one runs, and the limit is one");
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c", "a", "b", "d"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_limit_lowered_while_kept_slots_wait_for_workers_takes_the_surplus_back() {
    let limits = |limit| Limits { retry: strict_tries(2), ..slots(limit) };
    let mut world = World::with_line("email", limits(3));
    world.submit(["a", "b", "c", "d"]);
    world.fail("a");
    world.fail("b");
    world.fail("c");
    world.pause("email");
    world.pass(BACKOFF);
    world.put("email", limits(1));
    world.resume("email");
    assert_eq!(world.running(), ["a"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c", "a", "b", "c", "d"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_lost_try_is_not_a_failed_one() {
    let mut world = World::with_line("email", Limits { retry: tries(2), ..slots(1) });
    world.submit(["a"]);
    world.end_worker("w1", slotline_protocol::message::EndReason::Replaced);
    world.start_worker("w1", 10);
    world.fail("a");
    world.pass(BACKOFF);
    world.complete("a");
    let ending = world.ending("a");
    assert_eq!((ending.status, ending.attempt, ending.failures, ending.losses), (Status::Completed, 3, 1, 1));
}
