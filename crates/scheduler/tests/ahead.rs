//! Run-ahead: which execution is sent to the worker of the one before, when it has its slot, and how it is taken back.

use slotline_protocol::message::EndReason;
use slotline_protocol::{OutcomeKind, Status};
use slotline_scheduler::{Input, Limits, Order};

use crate::world::{WORKER, World, key_slots, seconds, slots, tries, unlimited};

/// One slot, and chains of up to two.
fn chained() -> Limits {
    Limits { run_ahead: Some(2), ..slots(1) }
}

fn returned(world: &mut World, name: &str, reason: &str) {
    let word = world.hand_back(name, false, reason);
    world.tell(word);
}

#[test]
fn the_next_ones_wait_at_the_worker_of_the_first_and_hold_no_slot() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c", "d"]);
    assert_eq!(world.running(), ["a"]);
    assert_eq!(world.ahead(), ["b", "c"], "as many as the policy allows");
    for name in ["b", "c", "d"] {
        assert_eq!(world.status(name), Status::Queued);
        assert_eq!(world.why(name).held_by, [world.id("a")]);
    }
    assert_eq!([world.why("b").position, world.why("c").position, world.why("d").position], [1, 2, 3]);
    let stats = world.scheduler.queue_stats(world.action("email"), world.now).expect("a known action");
    assert_eq!((stats.queue_length, stats.active_count), (3, 1));
}

#[test]
fn only_an_attempt_that_still_waits_for_its_slot_has_the_fence_of_one_sent_ahead() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    let fence = |world: &World, name: &str, attempt| world.scheduler.fence_ahead((world.id(name), attempt));
    assert!(fence(&world, "b", 1).is_some());
    assert_eq!([fence(&world, "b", 2), fence(&world, "a", 1)], [None, None]);
    world.complete("a");
    assert_eq!(fence(&world, "b", 1), None, "it has the slot");
}

#[test]
fn a_completion_gives_the_slot_to_the_next_and_lengthens_the_chain() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c", "d", "e"]);
    let mut order = Vec::new();
    while let Some(name) = world.running().first().cloned() {
        assert_eq!(world.running().len(), 1);
        order.push(name.clone());
        world.complete(&name);
    }
    assert_eq!(order, ["a", "b", "c", "d", "e"]);
    assert_eq!(world.started(), ["a", "b", "c", "d", "e"], "each was granted once");
    world.assert_nothing_is_left();
}

#[test]
fn a_dispatch_says_after_whom_it_starts() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c"]);
    let after: Vec<_> = world
        .orders_to(WORKER)
        .into_iter()
        .filter_map(|order| match order {
            Order::Dispatch(dispatch) => Some((world.name(dispatch.id), dispatch.starts_after)),
            Order::Recorded { .. } | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => None,
        })
        .collect();
    let key = |name: &str| Some((world.id(name), 1));
    assert_eq!(after, [("a".to_owned(), None), ("b".to_owned(), key("a")), ("c".to_owned(), key("b"))]);
}

#[test]
fn after_a_failure_nobody_starts_before_all_are_back() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c", "d"]);
    world.fail("a");
    assert_eq!(world.status("a"), Status::Failed);
    assert_eq!(world.running(), [""; 0], "the slot is free, and b may not have two attempts out");
    returned(&mut world, "c", "predecessor");
    assert_eq!(world.running(), [""; 0], "b is first in line, and is not back yet");
    returned(&mut world, "b", "predecessor");
    assert_eq!(world.running(), ["b"]);
    assert_eq!(world.ahead(), ["c", "d"]);
    assert_eq!(world.snapshot("b").attempt, 2, "the number of the first grant is used up");
    world.run_until_idle();
    assert_eq!(world.finished(), ["a", "b", "c", "d"]);
    assert_eq!(world.attempts.len(), 0, "what never began leaves no trace");
    world.assert_nothing_is_left();
}

#[test]
fn one_that_is_tried_again_in_its_place_goes_before_those_that_were_sent_ahead() {
    let retry = slotline_protocol::policy::Retry { keep_place: true, ..tries(2) };
    let mut world = World::with_line("email", Limits { retry, ..chained() });
    world.submit(["a", "b"]);
    world.fail("a");
    returned(&mut world, "b", "predecessor");
    assert_eq!(world.running(), [""; 0]);
    world.pass(seconds(2));
    assert_eq!(world.running(), ["a"]);
    world.run_until_idle();
    assert_eq!(world.finished(), ["a", "b"]);
}

#[test]
fn one_without_its_predecessor_is_not_sent_again_before_the_slot_changes_hands() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    returned(&mut world, "b", "predecessor");
    world.submit(["c"]);
    assert_eq!(world.ahead(), [""; 0], "its worker seems to lack a");
    world.complete("a");
    assert_eq!(world.running(), ["b"]);
    assert_eq!(world.ahead(), ["c"]);
}

#[test]
fn one_that_comes_when_all_who_waited_have_left_is_not_sent_before_the_slot_changes_hands_either() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    returned(&mut world, "b", "predecessor");
    world.cancel("b");
    world.submit(["c", "d"]);
    assert_eq!(world.ahead(), [""; 0], "its worker seems to lack a");
    world.complete("a");
    assert_eq!(world.running(), ["c"]);
    assert_eq!(world.ahead(), ["d"]);
}

#[test]
fn nobody_without_a_key_is_sent_after_the_holder_of_one() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(2), limit: Some(1), ..key_slots(1) });
    world.submit_key("x", ["x1"]);
    world.submit(["a", "b"]);
    assert_eq!(world.running(), ["x1"]);
    assert_eq!(world.ahead(), [""; 0], "they wait for the slot of the action, which x1 leaves to nobody");
    world.complete("x1");
    assert_eq!(world.running(), ["a"]);
    assert_eq!(world.ahead(), ["b"]);
}

#[test]
fn only_a_line_with_one_holder_has_a_chain() {
    for limits in [slots(2), unlimited(), key_slots(2)] {
        let mut world = World::with_line("email", Limits { run_ahead: Some(2), ..limits });
        for key in ["x", "y"] {
            world.submit_key(key, [&format!("{key}1"), &format!("{key}2"), &format!("{key}3")]);
        }
        assert_eq!(world.ahead(), [""; 0], "{:?}", world.actions);
    }
    let mut world = World::with_line("email", Limits { run_ahead: Some(0), ..slots(1) });
    world.submit(["a", "b"]);
    assert_eq!(world.ahead(), [""; 0]);
}

#[test]
fn each_key_has_its_own_chain_where_only_keys_are_limited() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(1), ..key_slots(1) });
    world.submit_key("x", ["x1", "x2"]);
    world.submit_key("y", ["y1", "y2"]);
    assert_eq!(world.running(), ["x1", "y1"]);
    assert_eq!(world.ahead(), ["x2", "y2"]);
    world.complete("y1");
    assert_eq!(world.running(), ["x1", "y2"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn nobody_is_sent_ahead_past_another_key_that_waits_for_the_slot() {
    let mut world = World::with_line("email", Limits { limit: Some(1), run_ahead: Some(2), ..key_slots(1) });
    world.submit_key("x", ["x1"]);
    world.submit_key("y", ["y1"]);
    world.submit_key("x", ["x2"]);
    assert_eq!(world.ahead(), [""; 0], "y has its turn first");
    world.complete("x1");
    assert_eq!(world.running(), ["y1"]);
}

#[test]
fn nobody_is_sent_ahead_while_another_action_waits_for_the_room() {
    let mut world = World::without_workers("email", chained()).and_line("sms", slots(1)).with_worker("w", 1);
    world.submit_to("email", None, ["e1"]);
    world.submit_to("sms", None, ["s1"]);
    world.submit_to("email", None, ["e2"]);
    assert_eq!(world.ahead(), [""; 0]);
    world.complete("e1");
    assert_eq!(world.running(), ["s1"]);
}

#[test]
fn what_was_sent_ahead_takes_no_room_from_others() {
    let mut world = World::without_workers("email", chained()).and_line("sms", slots(1)).with_worker("w", 2);
    world.submit_to("email", None, ["e1", "e2", "e3"]);
    world.submit_to("sms", None, ["s1"]);
    assert_eq!(world.running(), ["e1", "s1"]);
    assert_eq!(world.ahead(), ["e2", "e3"]);
}

#[test]
fn a_change_of_slots_calls_the_chain_back_and_grants_in_order_then() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c", "d"]);
    world.put("email", Limits { limit: Some(2), ..chained() });
    assert_eq!(world.recalled(), ["b", "c"]);
    assert_eq!(world.running(), ["a"], "b may begin by itself any moment");
    returned(&mut world, "b", "recall");
    returned(&mut world, "c", "predecessor");
    assert_eq!(world.running(), ["a", "b"]);
    assert_eq!(world.ahead(), [""; 0]);
    world.run_until_idle();
    assert_eq!(world.finished(), ["a", "b", "c", "d"]);
}

#[test]
fn a_pause_calls_the_chain_back_and_a_recall_may_come_too_late() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c"]);
    world.pause("email");
    assert_eq!(world.recalled(), ["b", "c"]);
    world.complete("a");
    assert_eq!(world.running(), ["b"], "it had begun before the order arrived");
    returned(&mut world, "c", "recall");
    world.complete("b");
    assert_eq!(world.running(), [""; 0]);
    world.resume("email");
    assert_eq!(world.running(), ["c"]);
}

#[test]
fn a_change_of_other_things_leaves_the_chain_alone() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    world.put("email", Limits { max_queue_length: Some(10), ..chained() });
    assert_eq!((world.recalled().len(), world.ahead().len()), (0, 1));
}

#[test]
fn cancelling_asks_the_worker_and_settles_with_its_word() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c"]);
    world.cancel("b");
    assert_eq!(world.status("b"), Status::Cancelling);
    world.end("b", OutcomeKind::Cancelled);
    returned(&mut world, "c", "predecessor");
    assert_eq!(world.status("b"), Status::Cancelled);
    assert_eq!(world.running(), ["a"]);
    world.run_until_idle();
    assert_eq!(world.finished(), ["b", "a", "c"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_cancellation_that_comes_after_the_start_ends_what_runs() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c"]);
    world.cancel("b");
    world.complete("a");
    assert_eq!((world.running(), world.status("b")), (vec!["b".to_owned()], Status::Cancelling));
    world.end("b", OutcomeKind::Cancelled);
    returned(&mut world, "c", "predecessor");
    assert_eq!(world.running(), ["c"]);
}

#[test]
fn a_cancelled_one_that_is_handed_back_is_cancelled() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    world.cancel("b");
    world.fail("a");
    returned(&mut world, "b", "predecessor");
    assert_eq!(world.status("b"), Status::Cancelled);
    world.assert_nothing_is_left();
}

#[test]
fn a_wait_that_is_too_long_ends_with_the_return() {
    let mut world = World::with_line("email", Limits { queue_timeout: Some(seconds(10)), ..chained() });
    world.submit(["a", "b"]);
    world.pass(seconds(10));
    assert_eq!((world.status("b"), world.recalled()), (Status::Queued, vec!["b".to_owned()]));
    returned(&mut world, "b", "recall");
    assert_eq!(world.status("b"), Status::Timeout);
    assert_eq!(world.code("b"), "queue_timeout");
    world.complete("a");
    world.assert_nothing_is_left();
}

#[test]
fn one_that_began_in_time_does_not_time_out_in_the_line() {
    let mut world = World::with_line("email", Limits { queue_timeout: Some(seconds(10)), ..chained() });
    world.submit(["a", "b"]);
    world.complete("a");
    world.pass(seconds(20));
    assert_eq!(world.running(), ["b"]);
    world.complete("b");
    world.assert_nothing_is_left();
}

#[test]
fn with_the_worker_the_chain_is_lost_without_charge() {
    let mut world = World::without_workers("email", Limits { max_lost_attempts: 0, ..chained() }).with_worker("w1", 5);
    world.submit(["a", "b", "c"]);
    world.end_worker("w1", EndReason::Replaced);
    assert_eq!(world.code("a"), "worker_lost");
    assert_eq!((world.status("b"), world.status("c")), (Status::Queued, Status::Queued));
    world.start_worker("w2", 5);
    assert_eq!((world.running(), world.ahead()), (vec!["b".to_owned()], vec!["c".to_owned()]));
    assert_eq!(world.snapshot("b").losses, 0);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn a_start_that_is_heard_before_the_end_of_the_one_before_is_believed_with_it() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    let lease = world.snapshot("b").lease.expect("sent ahead");
    let word = world.word("a", OutcomeKind::Completed);
    world.tell(Input::Started { key: (world.id("b"), 1), fence: lease.fence, started_at: world.now });
    assert_eq!(world.status("b"), Status::Queued, "two would seem to run");
    world.beat(WORKER);
    assert_eq!(world.status("b"), Status::Queued, "nor is a heartbeat believed that says so");
    world.tell(word);
    assert_eq!(world.status("b"), Status::Running);
}

#[test]
fn an_end_that_is_heard_before_that_of_the_one_before_is_heard_again() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    let first = world.word("a", OutcomeKind::Completed);
    let second = world.word("b", OutcomeKind::Completed);
    world.tell(second.clone());
    world.beat(WORKER);
    assert!(world.settled.is_empty());
    assert_eq!(world.worker(WORKER).unrecorded.len(), 2, "its worker goes on telling it");
    world.tell(first);
    world.tell(second);
    assert_eq!(world.finished(), ["a", "b"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_lost_dispatch_is_sent_again_after_the_same_predecessor() {
    let mut world = World::with_line("email", chained());
    world.submit(["a"]);
    world.deafen(WORKER);
    world.submit(["b"]);
    world.undeafen(WORKER);
    world.beat(WORKER);
    assert_eq!(world.worker(WORKER).waiting.values().copied().collect::<Vec<_>>(), [(world.id("a"), 1)]);
    world.complete("a");
    assert_eq!(world.running(), ["b"]);
}

#[test]
fn a_lost_dispatch_is_sent_again_without_a_predecessor_that_has_completed() {
    let mut world = World::with_line("email", chained());
    world.submit(["a"]);
    world.deafen(WORKER);
    world.submit(["b"]);
    world.undeafen(WORKER);
    world.complete("a");
    world.beat(WORKER);
    assert_eq!(world.running(), ["b"]);
    assert!(world.worker(WORKER).waiting.is_empty());
    world.complete("b");
    world.assert_nothing_is_left();
}

#[test]
fn a_lost_recall_is_sent_again() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    world.deafen(WORKER);
    world.pause("email");
    world.undeafen(WORKER);
    world.beat(WORKER);
    assert_eq!(world.recalled(), ["b", "b"]);
}

#[test]
fn a_new_leader_goes_on_with_the_chain() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b", "c", "d"]);
    world.change_leader();
    world.beat(WORKER);
    assert_eq!((world.running(), world.ahead()), (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(world.recalled(), [""; 0]);
    world.run_until_idle();
    assert_eq!(world.finished(), ["a", "b", "c", "d"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_new_leader_calls_back_what_no_longer_fits() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    world.pause("email");
    world.change_leader();
    assert_eq!(world.recalled(), ["b"], "the order of the leader before may never have left");
}

#[test]
fn a_new_leader_gets_back_who_waits_for_one_that_is_gone() {
    let mut world = World::with_line("email", chained());
    world.submit(["a"]);
    world.deafen(WORKER);
    world.submit(["b"]);
    world.fail("a");
    world.change_leader();
    world.undeafen(WORKER);
    world.beat(WORKER);
    assert_eq!(world.running(), [""; 0]);
    let waiting: Vec<_> = world.worker(WORKER).waiting.keys().copied().collect();
    assert_eq!(waiting, [(world.id("b"), 1)], "its worker knows of no such predecessor, and hands it back");
    returned(&mut world, "b", "predecessor");
    assert_eq!(world.running(), ["b"]);
}

#[test]
fn a_draining_worker_gets_nobody_ahead() {
    let mut world = World::with_line("email", chained());
    world.submit(["a"]);
    world.worker_mut(WORKER).draining = true;
    world.beat(WORKER);
    world.submit(["b"]);
    assert_eq!(world.ahead(), [""; 0]);
}

#[test]
fn a_chain_that_a_change_of_keys_has_parted_fires_all_the_same() {
    let mut world = World::with_line("email", chained());
    world.submit(["a"]);
    world.submit_key("x", ["b"]);
    world.put("email", Limits { key_limit: Some(1), ..chained() });
    assert_eq!(world.recalled(), ["b"]);
    world.complete("a");
    assert_eq!(world.running(), ["b"], "it had begun before the order arrived");
    world.complete("b");
    world.assert_nothing_is_left();
}

#[test]
fn nobody_is_sent_after_one_that_another_follows_already() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(1), ..chained() });
    world.submit(["a"]);
    world.submit_key("x", ["b"]);
    world.put("email", Limits { run_ahead: Some(1), key_limit: Some(1), ..chained() });
    world.submit(["c"]);
    assert_eq!(world.ahead(), ["b"], "both would begin when a has completed");
}

#[test]
fn nobody_is_sent_after_one_that_was_called_back() {
    let mut world =
        World::with_line("email", Limits { queue_timeout: Some(seconds(10)), run_ahead: Some(3), ..slots(1) });
    world.submit(["a", "b"]);
    world.pass(seconds(10));
    assert_eq!(world.recalled(), ["b"]);
    world.submit(["c"]);
    assert_eq!(world.ahead(), ["b"], "c would come back with it");
}

#[test]
fn a_key_has_no_chain_while_another_holds_a_slot_that_counts_for_both() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(2), limit: Some(3), ..key_slots(1) });
    world.submit_key("x", ["x1"]);
    world.submit_key("y", ["y1"]);
    world.submit_key("x", ["x2"]);
    assert_eq!((world.running(), world.ahead()), (vec!["x1".to_owned(), "y1".to_owned()], vec![]));
}

#[test]
fn one_that_was_handed_back_times_out_as_if_it_had_never_been_away() {
    let mut world = World::with_line("email", Limits { queue_timeout: Some(seconds(10)), ..chained() });
    world.submit(["a", "b"]);
    world.pass(seconds(4));
    returned(&mut world, "b", "predecessor");
    world.pass(seconds(5));
    assert_eq!(world.status("b"), Status::Queued);
    world.pass(seconds(1));
    assert_eq!((world.status("b"), world.code("b")), (Status::Timeout, "queue_timeout"));
}

#[test]
fn what_was_lost_ahead_of_its_slot_is_no_attempt() {
    let mut world = World::without_workers("email", chained()).with_worker("w1", 5);
    world.submit(["a", "b", "c"]);
    world.end_worker("w1", EndReason::Replaced);
    let lost: Vec<_> = world.attempts.iter().map(|ended| world.name(ended.id)).collect();
    assert_eq!(lost, ["a"]);
}

#[test]
fn nobody_is_sent_after_one_that_is_being_cancelled() {
    let mut world = World::with_line("email", chained());
    world.submit(["a", "b"]);
    world.cancel("b");
    world.submit(["c"]);
    let sent: Vec<_> =
        world.orders_to(WORKER).into_iter().filter(|order| matches!(order, Order::Dispatch(_))).collect();
    assert_eq!(sent.len(), 2, "c would come back with it");
}
