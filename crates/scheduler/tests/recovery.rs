//! A new leader knows only the journal, and decides as the old one would have.

use slotline_protocol::message::EndReason;
use slotline_protocol::{OutcomeKind, Status};
use slotline_scheduler::{Limits, Order, ProbedQueue};

use crate::world::{BACKOFF, LEASE, WORKER, World, key_slots, seconds, slots, strict_tries, tries};

#[test]
fn the_line_stands_as_it_stood() {
    let mut world = World::with_line("email", slots(2));
    world.submit(["a", "b", "c", "d", "e"]);
    world.cancel("d");
    world.change_leader();
    assert_eq!(world.running(), ["a", "b"]);
    assert_eq!((world.why("c").position, world.why("e").position), (1, 2));
    world.beat(WORKER);
    world.run_until_idle();
    assert_eq!(world.finished(), ["d", "a", "b", "c", "e"]);
    world.assert_nothing_is_left();
}

#[test]
fn what_runs_is_not_sent_again_and_what_never_arrived_is() {
    let mut world = World::with_line("email", slots(2));
    world.submit(["a"]);
    world.deafen(WORKER);
    world.submit(["b"]);
    world.worker_mut(WORKER).is_deaf = false;
    world.change_leader();
    world.beat(WORKER);
    assert_eq!(world.started(), ["b"], "with the fence that it was granted");
    assert_eq!(world.snapshot("b").attempt, 1);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn nothing_is_sent_again_to_a_worker_that_has_seen_nothing_of_this_leader_yet() {
    let mut world = World::with_line("email", slots(1));
    world.deafen(WORKER);
    world.submit(["a"]);
    world.change_leader();
    world.beat(WORKER);
    assert_eq!(world.started(), Vec::<String>::new(), "the old leader's dispatch may be on its way");
}

#[test]
fn a_completion_that_the_old_leader_never_read_counts() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    let unread = world.word("a", OutcomeKind::Completed);
    world.change_leader();
    world.beat(WORKER);
    assert_eq!(world.started(), Vec::<String>::new());
    world.tell(unread);
    assert_eq!((world.status("a"), world.running()), (Status::Completed, vec!["b".to_owned()]));
}

#[test]
fn an_order_to_cancel_that_was_lost_with_the_old_leader_is_given_again() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.deafen(WORKER);
    world.cancel("a");
    world.worker_mut(WORKER).is_deaf = false;
    world.change_leader();
    assert_eq!(world.status("a"), Status::Cancelling);
    world.beat(WORKER);
    assert!(matches!(world.orders_to(WORKER)[..], [Order::Cancel { .. }]));
}

#[test]
fn backing_off_goes_on_with_or_without_the_slot() {
    for (retry, order) in [(tries(2), ["b", "a"]), (strict_tries(2), ["a", "b"])] {
        let mut world = World::with_line("email", Limits { retry, ..slots(1) });
        world.submit(["a", "b"]);
        world.fail("a");
        world.change_leader();
        world.beat(WORKER);
        world.pass(BACKOFF);
        world.run_until_idle();
        assert_eq!(world.finished(), order, "{retry:?}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_kept_slot_that_is_due_again_is_still_kept() {
    let mut world = World::with_line("email", Limits { retry: strict_tries(2), ..slots(1) });
    world.submit(["a", "b"]);
    world.fail("a");
    world.pause("email");
    world.pass(BACKOFF);
    world.change_leader();
    world.beat(WORKER);
    world.resume("email");
    assert_eq!(world.running(), ["a"]);
}

#[test]
fn queue_time_outs_go_on_counting() {
    let mut world = World::with_line("email", Limits { queue_timeout: Some(seconds(30)), ..slots(1) });
    world.submit(["a", "b"]);
    world.pass(seconds(20));
    world.change_leader();
    world.pass(seconds(9));
    assert_eq!(world.status("b"), Status::Queued);
    world.pass(seconds(1));
    assert_eq!(world.status("b"), Status::Timeout);
}

#[test]
fn every_silence_is_counted_anew_and_a_worker_that_never_shows_is_lost() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.pass(LEASE);
    world.change_leader();
    world.probe_both();
    assert_eq!(world.running(), ["a"]);
    world.pass(LEASE);
    world.probe(ProbedQueue::Completions);
    assert_eq!(world.running(), ["a"]);
    world.probe(ProbedQueue::Heartbeats);
    assert_eq!((world.status("a"), world.snapshot("a").losses), (Status::Queued, 1));
    let ended = world.attempts.first().and_then(|ended| ended.error.clone()).expect("the loss");
    assert!(ended.message.contains("worker w1"), "{ended:?}");
}

#[test]
fn an_incarnation_that_ended_under_the_old_leader_is_lost_for_the_new_one_too() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.end_worker(WORKER, EndReason::Fence);
    world.change_leader();
    world.beat(WORKER);
    assert_eq!(world.orders_to(WORKER), [Order::Lost]);
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn each_line_of_each_key_goes_on_in_its_order() {
    let mut world = World::with_line("deploy", Limits { limit: Some(2), ..key_slots(1) });
    world.submit_key("x", ["x1", "x2", "x3"]);
    world.submit_key("y", ["y1", "y2"]);
    world.submit(["free"]);
    world.complete("y1");
    world.change_leader();
    world.beat(WORKER);
    world.run_until_idle();
    for (line, order) in [("x", vec!["x1", "x2", "x3"]), ("y", vec!["y1", "y2"]), ("free", vec!["free"])] {
        let finished: Vec<_> = world.finished().into_iter().filter(|name| name.starts_with(line)).collect();
        assert_eq!(finished, order);
    }
    world.assert_nothing_is_left();
}

#[test]
fn numbers_go_on_where_they_stopped() {
    let mut world = World::with_line("email", Limits { retry: tries(2), ..slots(2) });
    world.submit(["a", "b"]);
    world.fail("a");
    let before = world.scheduler.counters();
    world.change_leader();
    world.beat(WORKER);
    world.submit(["c"]);
    assert!(world.id("c").0 >= before.next_id, "ids and places never repeat");
    world.pass(BACKOFF);
    world.run_until_idle();
    assert_eq!(world.started().first().map(String::as_str), Some("c"));
}

#[test]
fn leader_after_leader_changes_nothing() {
    let mut world = World::with_line("email", Limits { retry: tries(3), ..slots(2) });
    world.submit(["a", "b", "c", "d"]);
    world.fail("b");
    world.cancel("c");
    let before = world.journal.clone();
    for _ in 0..5 {
        world.change_leader();
        for (id, snapshot) in &before {
            assert_eq!(world.scheduler.snapshot(*id).as_ref(), Some(snapshot));
        }
        assert_eq!(world.journal, before);
    }
}
