//! The drain: how a worker leaves.

use slotline_protocol::message::{EndReason, Ended};
use slotline_protocol::{ExecutionId, Incarnation, OutcomeKind};
use slotline_worker::duty::{Effect, Input, OnDrain};
use uuid::Uuid;

use super::world::{World, key, s};

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
fn a_worker_that_is_refused_drains_and_says_why_once() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    let said = |effect: &Effect| if let Effect::Refused(reason) = effect { Some(reason.clone()) } else { None };
    world.refuse("its name is taken");
    assert_eq!(world.take(said), ["its name is taken"]);
    world.refuse("its name is taken");
    assert!(world.take(said).is_empty(), "the executor says it until it is obeyed");
    assert!(world.take_heartbeats().last().expect("told at once").draining);
    world.dispatch(3).send();
    assert_eq!(world.take_returned(), [(key(2), "drain".to_owned(), false), (key(3), "drain".to_owned(), false)]);
    assert!(world.take_killed().is_empty() && world.take_interrupted().is_empty(), "what runs has its time");
    world.succeed(1, "1");
    world.record(&[1, 2, 3]);
    assert_eq!(world.take_farewells().remove(0).reason, EndReason::Drain);
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

/// The outcomes to be kept, as of their last change.
fn kept(world: &mut World) -> Option<Vec<Ended>> {
    world.take(|effect| if let Effect::Keep(words) = effect { Some(words.clone()) } else { None }).pop()
}

fn ids(ended: &Ended) -> Vec<ExecutionId> {
    ended.outcomes.iter().map(|completed| completed.execution_id).collect()
}

/// A worker that drains while no executor is there, to its end.
fn abandoned() -> Vec<Ended> {
    let mut world = World::new();
    for id in 1..=2 {
        world.dispatch(id).send();
        world.started(id);
        world.succeed(id, "1");
    }
    world.input(Input::DrainRequested);
    world.advance(s(5));
    world.input(Input::FarewellConfirmed { incarnation: world.incarnation });
    assert!(!world.finished(), "that the broker has it says nothing of an executor");
    world.advance(s(5));
    let kept = kept(&mut world).expect("it must go");
    assert!(world.finished());
    kept
}

#[test]
fn what_has_ended_and_is_not_recorded_is_kept_when_the_worker_must_go() {
    let kept = abandoned();
    assert_eq!(kept.len(), 1);
    assert_eq!(ids(&kept[0]), [ExecutionId(1), ExecutionId(2)]);
}

#[test]
fn a_worker_whose_outcomes_are_recorded_leaves_at_once_and_keeps_nothing() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.input(Input::DrainRequested);
    world.advance(s(5));
    assert_eq!(ids(&world.take_farewells()[0]), [ExecutionId(1)]);
    // Recorded between its farewell and its end.
    world.record(&[1]);
    assert!(world.finished());
    assert!(kept(&mut world).is_none());
}

#[test]
fn what_an_earlier_process_has_kept_is_said_until_it_is_recorded() {
    let former = Incarnation(Uuid::from_u128(9));
    let mut world = World::unconfirmed();
    for word in abandoned() {
        world.duty.inherits(Ended { incarnation: former, ..word });
    }
    // Its lock states of the same incarnation that nothing of it is left: that adds nothing.
    world.duty.replaces(former);
    world.session_opened();
    world.confirm_heartbeat();
    let said = world.take_farewells();
    let said: Vec<_> = said.iter().filter(|ended| ended.incarnation == former).collect();
    assert_eq!((ids(said[0]).len(), said[0].reason), (2, EndReason::Drain));
    assert_eq!(said[0].told_by, Some(world.incarnation), "where it is to be told that it is recorded");
    world.input(Input::FarewellConfirmed { incarnation: former });
    world.advance_connected(s(60));
    assert!(!world.take_farewells().is_empty(), "no executor has recorded it yet");
    world.record(&[1]);
    let left = kept(&mut world).expect("less is to be kept");
    assert_eq!(ids(&left[0]), [ExecutionId(2)]);
    world.record(&[2]);
    assert_eq!(kept(&mut world).map(|words| words.len()), Some(0), "nothing is to be kept any more");
    world.take_farewells();
    world.advance_connected(s(100));
    assert!(world.take_farewells().is_empty());
}

#[test]
fn outcomes_past_one_envelope_follow_once_those_before_them_are_recorded() {
    let mut world = World::new();
    let large = format!("\"{}\"", "x".repeat(400 << 10));
    for id in 1..=3 {
        world.dispatch(id).send();
        world.succeed(id, &large);
    }
    world.input(Input::DrainRequested);
    world.advance(s(5));
    for id in 1..=3 {
        let said = world.take_farewells().pop().expect("the next part");
        assert_eq!((ids(&said), said.has_more), (vec![ExecutionId(id)], id < 3));
        world.record(&[id]);
    }
    assert!(world.finished());
}
