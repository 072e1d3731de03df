//! The queue time-out, the one time-out that the executor judges; and that no timer outlives its purpose.

use slotline_protocol::message::EndReason;
use slotline_protocol::{OutcomeKind, Status};
use slotline_scheduler::{Input, Limits};

use crate::world::{BACKOFF, WORKER, World, seconds, slots, strict_tries, tries};

fn patient(timeout: u64) -> Limits {
    Limits { queue_timeout: Some(seconds(timeout)), ..slots(1) }
}

#[test]
fn who_waits_too_long_times_out_and_who_runs_does_not() {
    let mut world = World::with_line("email", patient(30));
    world.submit(["a", "b"]);
    world.pass(seconds(20));
    world.submit(["c"]);
    world.pass(seconds(10));
    assert_eq!((world.status("b"), world.code("b")), (Status::Timeout, "queue_timeout"));
    let message = &world.ending("b").error.as_ref().expect("why it ended").message;
    assert_eq!(message, "Execution 2 (test.email) has timed out because it was waiting in the line longer than 30s.");
    assert_eq!((world.status("a"), world.status("c")), (Status::Scheduled, Status::Queued));
    world.complete_all(["a", "c"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_slot_that_frees_when_the_time_is_over_comes_too_late() {
    let mut world = World::with_line("email", patient(30));
    world.submit(["a", "b"]);
    world.now = world.now + seconds(30);
    world.complete("a");
    assert_eq!(world.status("b"), Status::Timeout);

    let mut world = World::with_line("email", patient(30));
    world.submit(["a", "b"]);
    world.pass(seconds(29));
    world.complete("a");
    world.pass(seconds(100));
    assert_eq!(world.status("b"), Status::Scheduled);
}

#[test]
fn the_wait_is_counted_anew_each_time_it_waits() {
    let mut world = World::with_line("email", patient(30));
    world.submit(["a"]);
    world.pass(seconds(100));
    world.end_worker(WORKER, EndReason::Drain);
    world.pass(seconds(29));
    assert_eq!(world.status("a"), Status::Queued);
    world.pass(seconds(1));
    assert_eq!(world.status("a"), Status::Timeout);
}

#[test]
fn backing_off_is_not_waiting_in_line() {
    for retry in [tries(2), strict_tries(2)] {
        let backoff = seconds(100);
        let retry = slotline_protocol::policy::Retry { backoff, backoff_max: backoff, ..retry };
        let mut world = World::with_line("email", Limits { retry, ..patient(30) });
        world.submit(["a"]);
        world.fail("a");
        world.pass(seconds(121));
        assert_eq!(world.status("a"), Status::Scheduled);
    }
}

#[test]
fn a_new_policy_counts_for_those_who_wait_already() {
    for (new, survives_until) in [(Some(10), 10), (Some(50), 50), (None, 1_000)] {
        let mut world = World::with_line("email", patient(30));
        world.submit(["a", "b"]);
        world.pass(seconds(5));
        world.put("email", Limits { queue_timeout: new.map(seconds), ..slots(1) });
        world.pass(seconds(survives_until - 6));
        assert_eq!(world.status("b"), Status::Queued, "{new:?}");
        world.pass(seconds(1));
        assert_eq!(world.status("b") == Status::Timeout, new.is_some(), "{new:?}");
        world.run_until_idle();
        world.assert_nothing_is_left();
    }
}

#[test]
fn no_timer_outlives_the_wait_it_was_about() {
    let hour = seconds(3_600);
    let retry = slotline_protocol::policy::Retry { backoff: hour, backoff_max: hour, ..tries(2) };
    let mut world = World::with_line("email", Limits { queue_timeout: Some(hour), retry, ..slots(1) });
    world.submit(["granted", "cancelled", "backs off"]);
    world.cancel("cancelled");
    world.complete("granted");
    world.fail("backs off");
    world.cancel("backs off");
    world.assert_nothing_is_left();
}

#[test]
fn any_number_of_time_outs_at_once_is_taken_in_bounded_steps() {
    let mut world = World::with_line("email", patient(30));
    world.submit_many(2_501);
    world.now = world.now + seconds(30);
    let mut steps = 0;
    while world.scheduler.next_deadline().is_some_and(|due| due <= world.now) {
        let before = world.settled.len();
        world.tell(Input::Ticked);
        assert!(world.settled.len() - before <= 1_000, "one step stays small");
        steps += 1;
    }
    assert!(steps >= 3, "{steps} steps");
    assert_eq!(world.settled.len(), 2_500);
}

#[test]
fn an_attempt_that_timed_out_is_tried_again_like_a_failed_one() {
    let mut world = World::with_line("email", Limits { retry: tries(2), ..slots(1) });
    world.submit(["a"]);
    world.end("a", OutcomeKind::Timeout);
    world.pass(BACKOFF);
    world.complete("a");
    assert_eq!(world.status("a"), Status::Completed);
}

#[test]
fn a_day_in_line_ends_to_the_second() {
    let day = 24 * 3_600;
    let mut world = World::with_line("email", patient(day));
    world.submit(["a", "b", "c"]);
    world.pass(seconds(day / 2));
    world.complete("a");
    world.pass(seconds(day / 2 - 1));
    assert_eq!((world.status("b"), world.status("c")), (Status::Scheduled, Status::Queued));
    world.pass(seconds(1));
    assert_eq!((world.status("b"), world.status("c")), (Status::Scheduled, Status::Timeout));
    world.complete("b");
    world.assert_nothing_is_left();
}
