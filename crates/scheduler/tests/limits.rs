//! Limits, pauses and keys, changed at run time under a backlog.

use slotline_protocol::http::WaitReason;
use slotline_protocol::{ActionRef, OutcomeKind};
use slotline_scheduler::{Input, Limits};

use crate::world::{World, key_slots, slots, unlimited};

#[test]
fn raising_a_limit_promotes_at_once() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b", "c", "d"]);
    world.put("email", slots(3));
    assert_eq!(world.running(), ["a", "b", "c"]);
    world.put("email", unlimited());
    assert_eq!(world.running(), ["a", "b", "c", "d"]);
}

#[test]
fn lowering_a_limit_lets_the_surplus_run_out() {
    let mut world = World::with_line("email", slots(3));
    world.submit(["a", "b", "c", "d", "e"]);
    world.put("email", slots(1));
    assert_eq!(world.running(), ["a", "b", "c"], "nothing is taken from those who run");
    world.complete_all(["a", "b"]);
    assert_eq!(world.running(), ["c"]);
    world.complete("c");
    assert_eq!(world.running(), ["d"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn a_paused_action_starts_nothing_and_takes_requests() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    world.pause("email");
    world.submit(["c"]);
    world.complete("a");
    assert_eq!(world.running(), Vec::<String>::new());
    assert_eq!(world.why("b").reason, WaitReason::Paused);
    world.resume("email");
    assert_eq!(world.running(), ["b"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c"]);
}

#[test]
fn keys_that_begin_to_matter_sort_the_backlog_by_key() {
    let mut world = World::with_line("deploy", slots(2));
    world.submit_key("x", ["x1", "x2", "x3"]);
    world.submit_key("y", ["y1", "y2"]);
    assert_eq!(world.running(), ["x1", "x2"]);
    world.put("deploy", Limits { limit: Some(3), ..key_slots(1) });
    assert_eq!(world.running(), ["x1", "x2", "y1"], "x has two already, and may have one");
    world.complete("x1");
    assert_eq!(world.running(), ["x2", "y1"]);
    world.complete("x2");
    assert_eq!(world.running(), ["y1", "x3"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn keys_that_cease_to_matter_are_one_line_again_in_the_order_of_submission() {
    let mut world = World::with_line("deploy", Limits { limit: Some(1), ..key_slots(1) });
    world.submit_key("x", ["a", "b"]);
    world.submit_key("y", ["c"]);
    world.submit_key("x", ["d"]);
    world.submit_key("y", ["e"]);
    world.put("deploy", slots(1));
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c", "d", "e"]);
    world.assert_nothing_is_left();
}

#[test]
fn a_key_limit_raised_and_lowered_acts_on_every_key() {
    let mut world = World::with_line("deploy", key_slots(1));
    world.submit_key("x", ["x1", "x2", "x3"]);
    world.submit_key("y", ["y1", "y2", "y3"]);
    world.put("deploy", key_slots(2));
    assert_eq!(world.running(), ["x1", "y1", "x2", "y2"]);
    world.put("deploy", key_slots(1));
    world.complete("x1");
    assert_eq!(world.running(), ["y1", "x2", "y2"]);
    world.complete("x2");
    assert_eq!(world.running(), ["y1", "y2", "x3"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn toggling_everything_under_a_backlog_loses_and_repeats_nothing() {
    let mut world = World::with_line("deploy", slots(1));
    for number in 0..1_000 {
        world.submit_one("deploy", Some(&format!("key {}", number % 7)), &format!("{number:04}"));
    }
    let policies = [key_slots(1), slots(5), Limits { limit: Some(2), ..key_slots(2) }, unlimited(), slots(1)];
    for limits in policies.iter().cycle().take(40) {
        world.pause("deploy");
        world.put("deploy", limits.clone());
        world.resume("deploy");
        for name in world.running().into_iter().take(9) {
            world.end(&name, OutcomeKind::Completed);
        }
    }
    world.run_until_idle();
    let mut started = world.started();
    started.sort_unstable();
    started.dedup();
    assert_eq!((started.len(), world.started().len(), world.settled.len()), (1_000, 1_000, 1_000));
    world.assert_nothing_is_left();
}

#[test]
fn a_line_of_ten_thousand_is_promoted_as_far_as_the_limit_goes() {
    let mut world = World::with_line("email", slots(1));
    world.submit_many(10_000);
    world.put("email", slots(100));
    assert_eq!(world.running().len(), 100);
    world.pause("email");
    world.put("email", slots(200));
    assert_eq!(world.running().len(), 100);
    world.resume("email");
    assert_eq!(world.running().len(), 200);
    assert_eq!(world.why("009999").position, 9_800);
}

#[test]
fn a_deleted_action_is_unknown_and_its_name_can_be_used_again() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.complete("a");
    world.delete("email");
    assert_eq!(world.scheduler.action_ids().count(), 0);
    world.submit_to("email", None, ["b"]);
    assert_eq!(world.refused.len(), 1);
    world.put("email", slots(1));
    assert_eq!(world.scheduler.action_ids().collect::<Vec<_>>(), [world.action("email")]);
    world.submit(["c"]);
    assert_eq!(world.running(), ["c"]);
}

#[test]
fn a_policy_put_for_an_action_that_waits_for_workers_changes_no_turn() {
    let mut world = World::new();
    let id = world.scheduler.new_action_id();
    let action_ref = ActionRef::new("test.late").expect("a name");
    for _ in 0..3 {
        let limits = slots(1);
        world.tell(Input::ActionPut { id, action_ref: action_ref.clone(), limits, paused: false });
    }
    world.actions.insert("late".to_owned(), (id, slots(1), false));
    world.submit(["a", "b"]);
    world.start_worker("w1", 5);
    assert_eq!(world.running(), ["a"]);
}

#[test]
fn an_action_has_live_executions_while_one_waits_or_runs() {
    let mut world = World::with_line("email", slots(1));
    let has_live = |world: &World| world.scheduler.has_live(world.action("email"));
    assert!(!has_live(&world));
    world.pause("email");
    world.submit(["a"]);
    assert!(has_live(&world), "it waits");
    world.resume("email");
    assert_eq!((world.running(), has_live(&world)), (vec!["a".to_owned()], true));
    world.complete("a");
    assert!(!has_live(&world));
}

#[test]
fn actions_are_numbered_as_the_counters_say() {
    let mut world = World::new();
    let next = world.scheduler.counters().next_action;
    let ids = [world.scheduler.new_action_id(), world.scheduler.new_action_id()];
    assert_eq!(ids.map(|id| id.0), [next, next + 1]);
    assert_eq!(world.scheduler.counters().next_action, next + 2);
}
