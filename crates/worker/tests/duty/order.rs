//! The orders of an executor: each is taken once, and answered until recorded.

use slotline_protocol::{Epoch, OutcomeKind, message};
use slotline_worker::duty::{HINT_EVERY, Input, Order};

use super::world::{World, key, ms, s};

#[test]
fn a_dispatch_starts_at_once_and_its_completion_is_told_until_recorded() {
    let mut world = World::new();
    world.dispatch(1).send();
    assert_eq!(world.take_started(), [key(1)]);
    world.started(1);
    world.succeed(1, "{\"ok\":true}");
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Completed, None)]);
    for wait in [2, 4, 8, 16, 30, 30] {
        world.advance_connected(s(wait) - ms(1));
        assert_eq!(world.take_completed(), [], "not yet after {wait} s");
        world.advance_connected(ms(1));
        assert_eq!(world.take_completed().len(), 1, "again after {wait} s");
    }
    assert_eq!(world.unrecorded(), [key(1)]);
    world.record(&[1]);
    assert_eq!(world.unrecorded(), []);
    world.advance_connected(s(300));
    assert_eq!(world.take_completed(), []);
}

#[test]
fn a_hint_is_worth_a_heartbeat_now_and_then_and_nothing_else() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    let seen = world.duty_heartbeat().seen;
    world.take_completed();
    world.take_heartbeats();
    world.input(Input::Hinted { incarnation: world.incarnation });
    let beats = world.take_heartbeats();
    assert_eq!((beats.len(), beats[0].seen), (1, seen));
    assert_eq!(world.take_completed().len(), 1, "a new leader may not have heard it");
    for _ in 0..100 {
        world.input(Input::Hinted { incarnation: world.incarnation });
    }
    assert_eq!((world.take_heartbeats().len(), world.take_completed().len()), (0, 0));
    world.advance(HINT_EVERY);
    assert_eq!(world.take_heartbeats().len(), 1, "the last of them is followed in time");
}

#[test]
fn a_leader_that_introduces_itself_by_an_old_number_is_not_obeyed_and_sees_at_once_what_its_worker_has_seen() {
    let mut world = World::new();
    world.hello(7);
    world.take_heartbeats();
    let seen = world.duty_heartbeat().seen;
    let order = Order::Hello(message::Hello {
        epoch: Epoch(1),
        n: 1,
        lease_seconds: Some(s(600)),
        fence_seconds: Some(s(450)),
        heartbeat_seconds: Some(s(50)),
        lost: true,
        journal: None,
        account: true,
        refused: None,
    });
    world.input(Input::Introduced { incarnation: world.incarnation, order });
    let beats = world.take_heartbeats();
    assert_eq!((beats.len(), beats[0].seen, beats[0].account.is_none()), (1, seen, true));
    world.advance(s(5));
    assert_eq!(world.take_heartbeats().len(), 1, "its terms are as they were");
}

#[test]
fn what_is_missing_is_said_again_once_for_each_order_though_the_attempt_is_forgotten() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.resend(1, 1, None);
    world.record(&[1]);
    world.resend(1, 2, Some(3));
    assert_eq!(world.take_resends(), [(key(1), 1, None), (key(1), 2, Some(3))]);
    world.n -= 1;
    world.resend(1, 2, Some(3));
    assert_eq!(world.take_resends(), [], "a copy of an order");
}

#[test]
fn what_is_unrecorded_is_told_again_to_a_new_session_and_to_a_new_leader() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.take_completed();
    world.session_opened();
    assert_eq!(world.take_completed().len(), 1);
    let beats = world.take_heartbeats();
    assert_eq!(beats.last().expect("a new session hears a heartbeat").unrecorded, [key(1)]);
    world.hello(2);
    assert_eq!(world.take_completed().len(), 1);
    assert_eq!(world.take_heartbeats().len(), 1);
}

#[test]
fn an_order_at_or_below_the_highest_seen_changes_nothing() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.record(&[1]);
    world.take_started();
    let before = world.duty.clone();
    world.dispatch(1).number(1, 1).send();
    let last = world.n;
    world.dispatch(9).number(1, last).send();
    world.dispatch(9).number(0, 1_000).send();
    assert_eq!(world.take_started(), []);
    assert_eq!(world.duty, before);
    world.dispatch(9).number(2, 1).send();
    assert_eq!(world.take_started(), [key(9)], "a new leader counts from the start");
}

#[test]
fn a_dispatch_of_what_is_held_changes_nothing() {
    let mut world = World::new();
    world.dispatch(1).send();
    assert_eq!(world.take_started(), [key(1)]);
    world.dispatch(1).send();
    assert_eq!(world.take_started(), []);
    world.succeed(1, "1");
    world.take_completed();
    world.dispatch(1).send();
    assert_eq!(world.take_started(), []);
    assert_eq!(world.take_completed().len(), 1, "and tells the executor what it missed");
}

#[test]
fn an_action_not_served_is_handed_back() {
    let mut world = World::new();
    world.dispatch(1).action("other.thing").send();
    assert_eq!(world.take_returned(), [(key(1), "unknown_action".to_owned(), false)]);
    assert_eq!(world.take_started(), []);
}

#[test]
fn a_recall_of_what_started_is_answered_by_nothing() {
    let mut world = World::new();
    world.dispatch(1).fence(5).send();
    world.recall(1, 5);
    assert_eq!(world.take_returned(), []);
    world.dispatch(2).after(1).fence(6).send();
    world.recall(2, 5);
    assert_eq!(world.take_returned(), [], "nor is one for another fence");
}
