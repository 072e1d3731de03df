//! Concurrency keys: each has its own line and slots, an execution needs a slot of its key and of its action, and a
//! blocked key never blocks another.

use slotline_protocol::http::{KeyStats, WaitReason};
use slotline_scheduler::Limits;

use crate::world::{World, key_slots, slots};

#[test]
fn each_key_runs_in_its_own_order_beside_the_others() {
    let mut world = World::with_line("deploy", key_slots(1));
    world.submit_key("x", ["x1", "x2"]);
    world.submit_key("y", ["y1", "y2"]);
    assert_eq!(world.running(), ["x1", "y1"]);
    world.complete("y1");
    assert_eq!(world.running(), ["x1", "y2"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn a_blocked_key_never_blocks_another() {
    let mut world = World::with_line("deploy", Limits { limit: Some(2), ..key_slots(1) });
    world.submit_key("x", ["x1", "x2", "x3"]);
    world.submit_key("y", ["y1"]);
    assert_eq!(world.running(), ["x1", "y1"]);
}

#[test]
fn an_execution_needs_a_slot_of_its_key_and_of_its_action_and_takes_both_or_neither() {
    let mut world = World::with_line("deploy", Limits { limit: Some(2), ..key_slots(1) });
    world.submit_key("x", ["x1"]);
    world.submit_key("y", ["y1"]);
    world.submit_key("z", ["z1"]);
    assert_eq!(world.running(), ["x1", "y1"]);
    let why = world.why("z1");
    assert_eq!((why.reason, why.held_by), (WaitReason::Limit, vec![world.id("x1"), world.id("y1")]));
    let id = world.action("deploy");
    let stats = world.scheduler.queue_stats(id, world.now).expect("a known action");
    let z = stats.keys.iter().find(|stats| stats.key.as_deref() == Some("z"));
    assert_eq!(z, Some(&KeyStats { key: Some("z".to_owned()), queue_length: 1, active_count: 0, ahead_count: 0 }));
}

#[test]
fn who_waits_for_its_key_is_told_who_holds_it() {
    let mut world = World::with_line("deploy", key_slots(2));
    world.submit_key("x", ["x1", "x2", "x3", "x4"]);
    let why = world.why("x4");
    assert_eq!((why.reason, why.position), (WaitReason::KeyLimit, 2));
    assert_eq!(why.held_by, [world.id("x1"), world.id("x2")]);
}

#[test]
fn keys_take_turns_for_the_slots_of_their_action() {
    let mut world = World::with_line("deploy", Limits { limit: Some(1), ..key_slots(1) });
    world.submit_key("x", ["x1", "x2", "x3"]);
    world.submit_key("y", ["y1", "y2"]);
    world.submit_key("z", ["z1"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["x1", "y1", "z1", "x2", "y2", "x3"]);
}

#[test]
fn executions_without_a_key_share_one_line_and_the_limit_of_a_key() {
    let mut world = World::with_line("deploy", Limits { limit: Some(3), ..key_slots(1) });
    world.submit(["a", "b"]);
    world.submit_key("x", ["x1", "x2"]);
    world.submit(["c"]);
    world.submit_key("", ["empty"]);
    assert_eq!(world.running(), ["a", "x1", "empty"], "an empty key is a key");
    let why = world.why("c");
    assert_eq!((why.reason, why.position, why.held_by), (WaitReason::KeyLimit, 2, vec![world.id("a")]));
    assert!(why.message.contains("executions without a key"), "{}", why.message);
    let stats = world.scheduler.queue_stats(world.action("deploy"), world.now).expect("a known action");
    assert_eq!(stats.key_limit, Some(1));
    let keyless = KeyStats { key: None, queue_length: 2, active_count: 1, ahead_count: 0 };
    assert!(stats.keys.contains(&keyless), "{:?}", stats.keys);
    world.complete("a");
    assert_eq!(world.running(), ["x1", "empty", "b"], "x2 and c wait for who is in front of them");
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn executions_without_a_key_are_bound_as_soon_as_there_is_a_limit_for_each_key() {
    let mut world = World::with_line("deploy", slots(3));
    world.submit(["a", "b", "c", "d"]);
    assert_eq!(world.running(), ["a", "b", "c"]);
    world.put("deploy", Limits { limit: Some(3), ..key_slots(1) });
    world.complete("a");
    world.complete("b");
    assert_eq!(world.running(), ["c"], "the surplus runs out first");
    world.complete("c");
    assert_eq!(world.running(), ["d"]);
}

#[test]
fn without_a_key_limit_keys_do_not_matter() {
    let mut world = World::with_line("deploy", slots(1));
    world.submit_key("x", ["a"]);
    world.submit_key("y", ["b"]);
    world.submit_key("x", ["c"]);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "c"]);
}

#[test]
fn keys_that_came_and_went_leave_nothing_behind() {
    let mut world = World::with_line("deploy", key_slots(1));
    world.pause("deploy");
    for key in 0..100 {
        let name = format!("name {key}");
        world.submit_one("deploy", Some(&format!("key {key}")), &name);
        world.cancel(&name);
    }
    world.assert_nothing_is_left();
    world.resume("deploy");
    world.submit_key("x", ["x1"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn of_many_keys_the_longest_lines_are_shown() {
    let mut world = World::with_line("deploy", key_slots(1));
    world.pause("deploy");
    for key in 0..1_010 {
        let times = if key % 101 == 7 { 2 } else { 1 };
        for time in 0..times {
            world.submit_one("deploy", Some(&format!("key {key:04}")), &format!("{key}, {time}"));
        }
    }
    let stats = world.scheduler.queue_stats(world.action("deploy"), world.now).expect("a known action");
    let shown: Vec<_> =
        stats.keys.iter().map(|line| (line.queue_length, line.key.as_deref().unwrap_or_default())).collect();
    assert_eq!(shown.len(), 1_000, "as many as are shown");
    let longest: Vec<_> = (0..10).map(|n| (2, format!("key {:04}", n * 101 + 7))).collect();
    assert_eq!(shown[..10].iter().map(|(length, key)| (*length, (*key).to_owned())).collect::<Vec<_>>(), longest);
    assert!(shown[10..].is_sorted(), "and then by their names");
}
