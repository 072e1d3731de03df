//! The drain: how a worker leaves.

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::EndReason;
use slotline_worker::duty::{Input, OnDrain};

use crate::world::{World, key, s};

#[test]
fn a_drain_hands_back_what_waits_and_lets_what_runs_finish() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.input(Input::DrainRequested);
    assert!(world.take_heartbeats().last().expect("told at once").draining);
    world.dispatch(3).send();
    let returned = world.take_returned();
    assert_eq!(
        returned.iter().map(|r| (r.0, r.1.as_str())).collect::<Vec<_>>(),
        [(key(2), "drain"), (key(3), "drain")]
    );
    world.advance(s(10));
    world.confirm_heartbeat();
    world.succeed(1, "1");
    assert!(world.take_farewells().is_empty(), "the outcomes may yet be recorded");
    world.record(&[1, 2, 3]);
    let farewell = world.take_farewells().remove(0);
    assert_eq!((farewell.reason, farewell.outcomes.len()), (EndReason::Drain, 0));
    assert!(!world.finished());
    world.input(Input::FarewellConfirmed { incarnation: world.incarnation });
    assert!(world.finished());
}

#[test]
fn a_drain_out_of_time_hands_back_or_cancels_as_the_action_says() {
    let mut world = World::with_on_drain(OnDrain::Cancel);
    world.dispatch(1).action("deploy.app").send();
    world.dispatch(2).send();
    world.input(Input::DrainRequested);
    world.advance(s(29));
    assert_eq!(world.take_interrupted().len(), 0);
    world.advance(s(1));
    assert_eq!(world.take_interrupted().len(), 2);
    world.succeed(1, "1");
    world.succeed(2, "1");
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Cancelled, Some("cancelled".to_owned()))]);
    assert_eq!(world.take_returned(), [(key(2), "drain".to_owned(), true)]);
    world.advance(s(5));
    let farewell = world.take_farewells().remove(0);
    assert_eq!((farewell.outcomes.len(), farewell.returned.len()), (1, 1), "unrecorded, so told inline");
    world.advance(s(5));
    assert!(world.finished(), "nobody confirms, and the process can't wait for ever");
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.input(Input::DrainRequested);
    world.input(Input::StopRequested);
    assert_eq!(world.take_killed(), [key(1)]);
    world.fail(1);
    assert_eq!(world.take_farewells()[0].returned.len(), 1);
}

#[test]
fn a_fence_during_a_drain_leaves_with_the_fences_last_word() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.input(Input::DrainRequested);
    world.advance(s(29));
    world.advance(s(16));
    world.fail(1);
    assert_eq!(world.take_farewells()[0].reason, EndReason::Fence);
    assert_eq!(world.take_incarnations_over(), []);
    assert!(!world.finished(), "somebody may hear it yet");
    world.advance(s(5));
    assert!(world.finished());
}

#[test]
fn a_drain_between_two_incarnations_gives_the_last_word_time_to_be_heard() {
    let mut world = World::new();
    world.advance(s(45));
    assert_eq!(world.take_incarnations_over(), [world.incarnation]);
    world.input(Input::DrainRequested);
    assert!(!world.finished(), "somebody may hear it yet");
    world.advance(s(4));
    assert!(!world.finished());
    world.advance(s(1));
    assert!(world.finished());
}

#[test]
fn a_drain_that_does_not_come_to_its_end_is_given_up() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.input(Input::DrainRequested);
    world.advance_connected(s(30));
    assert_eq!((world.take_interrupted().len(), world.take_given_up()), (1, vec![]));
    world.advance_connected(s(60));
    assert_eq!(world.take_given_up(), [key(1)]);
    assert!(world.duty.next_deadline().is_none());
}
