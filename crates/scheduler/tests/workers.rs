//! Which worker gets which execution: the least loaded that serves the action and has room; ready actions take turns.

use slotline_protocol::Status;
use slotline_protocol::http::WaitReason;
use slotline_protocol::message::EndReason;
use slotline_scheduler::{Input, Limits};

use crate::world::{World, action_ref, slots, unlimited};

#[test]
fn the_least_loaded_worker_gets_the_next_by_the_share_of_its_capacity() {
    let mut world = World::without_workers("email", unlimited()).with_worker("small", 2).with_worker("big", 4);
    world.submit(["a", "b", "c", "d", "e", "f", "g"]);
    assert_eq!((world.held_by("small").len(), world.held_by("big").len()), (2, 4));
    // At every step the shares were as even as they could be: small has 0/2, big 0/4, and so on.
    assert_eq!(world.held_by("small"), ["a", "d"]);
    assert_eq!(world.why("g").reason, WaitReason::Capacity);
    world.complete("e");
    assert!(world.held_by("big").contains(&"g".to_owned()));
}

#[test]
fn a_million_of_one_action_do_not_starve_another() {
    let mut world = World::without_workers("flood", unlimited()).and_line("drop", unlimited()).with_worker("w1", 1);
    world.submit_to("flood", None, ["f1", "f2", "f3", "f4"]);
    world.submit_to("drop", None, ["d1", "d2"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["f1", "f2", "d1", "f3", "d2", "f4"]);
}

#[test]
fn an_action_whose_workers_are_busy_holds_up_no_other() {
    let mut world = World::without_workers("email", unlimited()).and_line("sms", unlimited());
    world.start_worker_for("mailer", 1, vec![action_ref("email")]);
    world.start_worker_for("texter", 2, vec![action_ref("sms")]);
    world.submit_to("email", None, ["e1", "e2", "e3"]);
    world.submit_to("sms", None, ["s1", "s2"]);
    assert_eq!(world.held_by("mailer"), ["e1"]);
    assert_eq!(world.held_by("texter"), ["s1", "s2"]);
}

#[test]
fn a_worker_that_serves_both_helps_whoever_came_first() {
    let mut world = World::without_workers("email", unlimited()).and_line("sms", unlimited());
    world.start_worker_for("mailer", 1, vec![action_ref("email")]);
    world.submit_to("email", None, ["e1", "e2"]);
    world.submit_to("sms", None, ["s1"]);
    world.start_worker("both", 1);
    assert_eq!(world.held_by("both"), ["e2"], "it waited longer than s1");
    world.complete("e1");
    assert_eq!(world.why("s1").reason, WaitReason::Capacity);
    world.complete("e2");
    assert_eq!(world.held_by("both"), ["s1"]);
}

#[test]
fn a_draining_worker_gets_nothing_new() {
    let mut world = World::without_workers("email", unlimited()).with_worker("w1", 5);
    world.submit(["a"]);
    world.worker_mut("w1").draining = true;
    world.beat("w1");
    world.submit(["b"]);
    assert_eq!((world.running(), world.status("b")), (vec!["a".to_owned()], Status::Queued));
    world.start_worker("w2", 5);
    assert_eq!(world.held_by("w2"), ["b"]);
}

#[test]
fn what_a_worker_is_too_short_to_start_keeps_its_place_and_is_not_sent_there_again() {
    let mut world = World::without_workers("email", slots(4)).with_worker("w1", 4);
    world.submit(["a", "b", "c", "d", "e"]);
    let before = world.snapshot("c").attempt;
    for name in ["b", "c", "d"] {
        let returned = world.hand_back(name, false, "shortage");
        world.tell(returned);
    }
    assert_eq!((world.held_by("w1"), world.why("b").reason), (vec!["a".to_owned()], WaitReason::Capacity));
    world.start_worker("w2", 2);
    assert_eq!(world.held_by("w2"), ["b", "c"], "whoever stood first is first again");
    assert_eq!(world.snapshot("c").attempt, before + 1, "its number is used up");
    // Its heartbeat lists what it takes by now.
    world.beat("w1");
    assert_eq!(world.held_by("w1"), ["a", "d"], "the fourth slot, and room enough");
    assert_eq!(world.snapshot("b").losses, 0, "uncharged");
    world.complete_all(["a", "b", "c", "d", "e"]);
    assert_eq!(world.finished(), ["a", "b", "c", "d", "e"]);
}

#[test]
fn what_a_worker_hands_back_to_drain_is_not_sent_there_again() {
    let mut world = World::without_workers("email", slots(1)).with_worker("w1", 5);
    world.submit(["a", "b"]);
    let returned = world.hand_back("a", false, "drain");
    world.tell(returned);
    assert_eq!(world.started(), ["a"]);
    assert_eq!(world.status("a"), Status::Queued);
    world.start_worker("w2", 5);
    assert_eq!(world.held_by("w2"), ["a"], "in its old place");
    let lost = (world.snapshot("a").losses, world.attempts.len());
    assert_eq!(lost, (0, 0), "an attempt that never began is no loss");
}

#[test]
fn what_was_begun_and_handed_back_is_tried_again_without_charge() {
    let mut world = World::without_workers("email", Limits { max_lost_attempts: 0, ..slots(1) }).with_worker("w1", 5);
    world.submit(["a", "b"]);
    let returned = world.hand_back("a", true, "drain");
    world.tell(returned);
    world.start_worker("w2", 5);
    assert_eq!(world.held_by("w2"), ["a"]);
    assert_eq!((world.snapshot("a").losses, world.attempts.len()), (0, 1));
}

#[test]
fn an_order_that_came_back_stops_dispatching_there_until_the_next_heartbeat() {
    let mut world = World::without_workers("email", unlimited()).with_worker("w1", 5);
    world.submit(["a"]);
    let incarnation = world.incarnation("w1");
    world.tell(Input::OrderReturned { incarnation });
    world.submit(["b"]);
    assert_eq!(world.held_by("w1"), ["a"], "the lease stays: it may well run");
    assert_eq!(world.why("b").reason, WaitReason::Capacity);
    world.beat("w1");
    assert_eq!(world.held_by("w1"), ["a", "b"]);
}

#[test]
fn a_worker_that_does_not_know_an_action_is_not_offered_it_until_it_says_otherwise() {
    let mut world = World::without_workers("email", slots(1)).and_line("sms", slots(1)).with_worker("w1", 5);
    world.submit_to("email", None, ["a"]);
    let returned = world.hand_back("a", false, "unknown_action");
    world.tell(returned);
    assert_eq!(world.why("a").reason, WaitReason::NoWorker);
    world.beat("w1");
    assert_eq!(world.why("a").reason, WaitReason::NoWorker, "the same list is the same mistake");
    world.submit_to("sms", None, ["s"]);
    assert_eq!(world.held_by("w1"), ["s"]);

    world.worker_mut("w1").serves.pop();
    world.beat("w1");
    assert_eq!(world.held_by("w1"), ["a", "s"], "another list is another chance");
}

#[test]
fn a_worker_that_changes_what_it_serves_is_offered_what_it_lists() {
    let mut world = World::without_workers("email", unlimited()).and_line("sms", unlimited());
    world.start_worker_for("w1", 5, vec![action_ref("email")]);
    world.submit_to("sms", None, ["s1"]);
    world.submit_to("email", None, ["e1"]);
    assert_eq!(world.held_by("w1"), ["e1"]);
    world.worker_mut("w1").serves = vec![action_ref("sms")];
    world.beat("w1");
    world.submit_to("email", None, ["e2"]);
    assert_eq!(world.held_by("w1"), ["s1", "e1"], "what it has it keeps");
    assert_eq!(world.why("e2").reason, WaitReason::NoWorker);
}

#[test]
fn two_workers_that_trade_actions_leave_no_turn_behind() {
    let mut world = World::without_workers("email", unlimited()).and_line("sms", unlimited());
    world.start_worker_for("w1", 0, vec![action_ref("email")]);
    world.submit_to("email", None, ["e1"]);
    world.submit_to("sms", None, ["s1"]);
    for _ in 0..3 {
        for serves in [vec![action_ref("sms")], vec![action_ref("email")]] {
            world.worker_mut("w1").serves = serves;
            world.beat("w1");
        }
    }
    world.worker_mut("w1").capacity = 1;
    world.beat("w1");
    assert_eq!(world.held_by("w1"), ["e1"]);
    world.start_worker_for("w2", 1, vec![action_ref("sms")]);
    assert_eq!(world.held_by("w2"), ["s1"]);
}

#[test]
fn more_capacity_is_used_at_once_and_less_takes_nothing_back() {
    let mut world = World::without_workers("email", unlimited()).with_worker("w1", 1);
    world.submit(["a", "b", "c", "d"]);
    world.worker_mut("w1").capacity = 3;
    world.beat("w1");
    assert_eq!(world.running(), ["a", "b", "c"]);
    world.worker_mut("w1").capacity = 1;
    world.beat("w1");
    assert_eq!(world.running(), ["a", "b", "c"]);
    world.complete_all(["a", "b"]);
    assert_eq!(world.running(), ["c"]);
    world.complete("c");
    assert_eq!(world.running(), ["d"]);
}

#[test]
fn an_action_created_after_its_worker_came_is_served() {
    let mut world = World::new();
    world.start_worker_for("w1", 5, vec![action_ref("late")]);
    world.put("late", slots(1));
    world.submit(["a"]);
    assert_eq!(world.held_by("w1"), ["a"]);
}

#[test]
fn a_drained_worker_is_gone_and_others_go_on() {
    let mut world = World::without_workers("email", unlimited()).with_worker("w1", 1).with_worker("w2", 1);
    world.submit(["a", "b"]);
    world.complete("a");
    world.end_worker("w1", EndReason::Drain);
    let names: Vec<_> = world.scheduler.workers().map(|worker| worker.name.to_string()).collect();
    assert_eq!(names, ["w2"]);
    world.submit(["c"]);
    world.complete("b");
    assert_eq!(world.held_by("w2"), ["c"]);
}

#[test]
fn a_worker_is_greeted_once_and_before_anything_is_dispatched_to_it() {
    let mut world = World::without_workers("email", slots(1));
    world.submit(["a"]);
    world.start_worker("w1", 1);
    // The world checks at every dispatch that its worker was greeted in this epoch, with a lower number.
    assert_eq!(world.held_by("w1"), ["a"]);
    let greeted = world.greeted();
    world.beat("w1");
    world.complete("a");
    assert_eq!(world.greeted(), greeted, "a second heartbeat is no introduction");
    world.change_leader();
    world.beat("w1");
    assert_eq!(world.greeted(), greeted + 1, "a new leader has terms of its own");
}
