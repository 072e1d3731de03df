//! The fence and the heartbeat: when anything may run, and how an incarnation ends.

use std::time::Duration;

use slotline_protocol::envelope::ENVELOPE_BYTES_MAX;
use slotline_protocol::message::{EndReason, Ended, Failure, Holding};
use slotline_protocol::{Epoch, Status};
use slotline_worker::duty::{ENTRIES_MAX, Input, REFUSED_WAIT, Terms};

use super::world::{World, key, ms, s};

#[test]
fn nothing_starts_before_the_first_heartbeat_is_confirmed_and_then_in_the_order_of_grants() {
    let mut world = World::unconfirmed();
    world.dispatch(2).fence(20).send();
    world.dispatch(1).fence(21).send();
    assert!(world.take_started().is_empty());
    assert_eq!(world.duty.fence_deadline(), None);
    world.confirm_heartbeat();
    assert_eq!(world.take_started(), [key(2), key(1)]);
}

#[test]
fn what_froze_with_its_first_heartbeat_starts_nothing_when_a_later_one_is_confirmed() {
    let mut world = World::unconfirmed();
    let first = world.incarnation;
    world.session_opened();
    // The first heartbeat arrived, its confirm did not; by now the executor may have counted this incarnation as lost.
    world.clock(s(76));
    world.dispatch(1).send();
    world.confirm_heartbeat();
    assert_eq!(world.take_started(), []);
    assert_eq!(world.take_incarnations_over(), [first]);
    world.new_incarnation();
    world.confirm_heartbeat();
    world.dispatch(2).send();
    assert_eq!(world.take_started(), [key(2)]);
}

#[test]
fn a_refused_heartbeat_counts_for_nothing_and_is_sent_again_before_long() {
    let mut world = World::new();
    world.dispatch(1).send();
    assert_eq!(world.take_started(), [key(1)]);
    let (incarnation, fence) = (world.incarnation, world.duty.fence_deadline());
    world.beat_without_confirm();
    world.take_heartbeats();
    world.input(Input::HeartbeatRefused { incarnation });
    assert_eq!(world.duty.fence_deadline(), fence);
    assert_eq!(world.take_heartbeats().len(), 0, "not in a tight loop");
    world.advance(REFUSED_WAIT);
    assert_eq!(world.take_heartbeats().len(), 1);
    // Whether one or all are refused, the fence falls by the last heartbeat that was taken.
    while world.duty.incarnation() == incarnation && world.take_killed().is_empty() {
        world.input(Input::HeartbeatRefused { incarnation });
        world.advance(REFUSED_WAIT);
    }
    assert!(fence.is_some_and(|fence| world.now.boot >= fence && world.now.boot < fence + s(1)));
}

#[test]
fn an_attempt_handed_back_unstarted_may_be_granted_anew_under_a_higher_fence() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).fence(7).send();
    world.recall(2, 7);
    assert_eq!(world.take_returned(), [(key(2), "recall".to_owned(), false)]);
    world.take_started();
    world.dispatch(2).fence(7).send();
    assert_eq!(world.take_started(), []);
    world.dispatch(2).fence(8).send();
    assert_eq!(world.take_started(), [key(2)]);
}

#[test]
fn the_fence_is_a_latch_a_late_confirm_does_not_lift_it() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.take_started();
    let late = world.beat_without_confirm();
    world.advance(s(45) - ms(1));
    assert_eq!(world.take_killed(), []);
    world.clock(ms(1));
    world.confirm(late);
    assert_eq!(world.take_killed(), [key(1)], "the fence falls before the confirm is looked at");
    let old = world.incarnation;
    world.dispatch(3).send();
    assert_eq!(world.take_started(), []);
    world.fail(1);
    let farewell = world.take_farewells().remove(0);
    assert_eq!((farewell.incarnation, farewell.reason), (old, EndReason::Fence));
    assert!(farewell.outcomes.is_empty() && farewell.returned.is_empty(), "what was killed is lost");
    assert_eq!(world.take_incarnations_over(), [old]);
    world.new_incarnation();
    world.dispatch(4).send();
    assert_eq!(world.take_started(), [], "a new incarnation is not confirmed yet");
    world.confirm_heartbeat();
    assert_eq!(world.take_started(), [key(4)]);
}

#[test]
fn outcomes_known_at_the_fence_are_its_last_word_until_they_are_recorded() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).send();
    world.dispatch(3).send();
    world.succeed(1, "7");
    world.take_completed();
    world.advance(s(45));
    world.succeed(2, "8");
    world.fail(3);
    let old = world.incarnation;
    let farewell = world.take_farewells().remove(0);
    let outcomes: Vec<_> = farewell.outcomes.iter().map(|completed| completed.execution_id.0).collect();
    assert_eq!(outcomes, [1, 2], "one that succeeded before its kill is known, too");
    world.new_incarnation();
    world.advance(s(5));
    assert_eq!(world.take_farewells().len(), 1, "said again until the broker has it");
    world.input(Input::FarewellConfirmed { incarnation: old });
    world.advance(s(29));
    assert_eq!(world.take_farewells().len(), 0);
    world.advance(s(1));
    assert_eq!(world.take_farewells().len(), 1, "the broker may have had no executor to give it to");
    world.hello(2);
    assert_eq!(world.take_farewells().len(), 1, "a new leader may not have heard it");
    world.record(&[1, 2]);
    world.advance(s(120));
    world.hello(3);
    assert_eq!(world.take_farewells().len(), 0, "and by now the leader has it");
}

#[test]
fn a_last_word_is_said_again_also_while_nothing_else_happens() {
    let mut world = World::new();
    world.advance(s(45));
    assert_eq!(world.take_farewells().len(), 1);
    world.advance(s(10));
    assert_eq!(world.take_farewells().len(), 2, "every five seconds");
}

#[test]
fn a_session_for_a_former_incarnation_has_nothing_to_hear_of_this_one() {
    let mut world = World::new();
    let old = world.incarnation;
    world.advance(s(45));
    world.new_incarnation();
    world.take_heartbeats();
    world.input(Input::SessionOpened { incarnation: old });
    assert_eq!(world.take_heartbeats().len(), 0);
    world.session_opened();
    assert_eq!(world.take_heartbeats().len(), 1);
}

#[test]
fn a_last_word_that_was_just_told_to_a_new_leader_is_not_repeated_yet() {
    let mut world = World::new();
    world.advance(s(45));
    assert_eq!(world.take_farewells().len(), 1);
    world.new_incarnation();
    world.advance(s(3));
    world.hello(2);
    assert_eq!(world.take_farewells().len(), 1);
    world.advance(s(3));
    assert_eq!(world.take_farewells().len(), 0);
    world.advance(s(2));
    assert_eq!(world.take_farewells().len(), 1);
}

#[test]
fn outcomes_that_a_last_word_can_not_hold_follow_it_in_their_order() {
    let mut world = World::new();
    for (id, bytes) in [(1, 100_000), (2, 300_000), (3, 200_000)] {
        world.dispatch(id).send();
        world.succeed(id, &format!("\"{}\"", "x".repeat(bytes)));
    }
    world.dispatch(4).send();
    let stack_trace = Some("x".repeat(150_000));
    let details = Some(serde_json::Value::String("x".repeat(150_000)));
    world.end(4, Err(Failure { stack_trace, details, ..Failure::new("panic", "it panicked") }));
    world.advance(s(45));
    let ids = |ended: &Ended| -> Vec<i64> { ended.outcomes.iter().map(|completed| completed.execution_id.0).collect() };
    let first = world.take_farewells().remove(0);
    assert_eq!((ids(&first), first.has_more), (vec![1, 2], true));
    world.new_incarnation();
    world.record(&[1]);
    assert!(world.take_farewells().is_empty(), "the rest of it is on its way");
    world.record(&[2]);
    let second = world.take_farewells().remove(0);
    assert_eq!((ids(&second), second.has_more), (vec![3, 4], false));
}

#[test]
fn the_ends_of_a_chain_are_told_in_its_order_whatever_their_ids() {
    let mut world = World::new();
    // An attempt that is tried again stands behind younger ones.
    world.dispatch(7).fence(1).send();
    world.dispatch(3).fence(2).after(7).send();
    world.dispatch(11).fence(3).after(3).send();
    for id in [7, 3, 11] {
        world.succeed(id, "1");
    }
    world.take_completed();
    world.session_opened();
    let told: Vec<_> = world.take_completed().into_iter().map(|(key, ..)| key).collect();
    assert_eq!(told, [key(7), key(3), key(11)], "to a new session");
    world.advance(s(45));
    let outcomes = world.take_farewells().remove(0).outcomes;
    assert_eq!(outcomes.iter().map(|completed| completed.execution_id.0).collect::<Vec<_>>(), [7, 3, 11]);
}

#[test]
fn a_last_word_fits_an_envelope_however_many_it_hands_back() {
    let mut world = World::new();
    world.dispatch(0).send();
    for id in 1..6_000 {
        world.dispatch(id).after(id - 1).send();
    }
    world.input(Input::DrainRequested);
    world.succeed(0, "1");
    world.advance(s(45));
    let farewell = world.take_farewells().remove(0);
    assert!(farewell.returned.len() > 1_000, "{}", farewell.returned.len());
    let bytes = serde_json::to_vec(&farewell).expect("plain data").len();
    assert!(bytes < ENVELOPE_BYTES_MAX, "{bytes}");
}

#[test]
fn terms_are_sound_if_a_heartbeat_may_be_late_and_the_fence_falls_before_the_lease() {
    let sound = Terms { lease: s(60), fence: s(10), heartbeat: s(5) };
    assert!(sound.are_sound());
    for unsound in [Terms { lease: s(10), ..sound }, Terms { fence: s(9), ..sound }, Terms { heartbeat: s(0), ..sound }]
    {
        assert!(!unsound.are_sound(), "{unsound:?}");
    }
}

#[test]
fn heartbeats_confirmed_in_time_keep_an_incarnation_for_ever() {
    let mut world = World::new();
    world.dispatch(1).send();
    for _ in 0..100 {
        world.advance(s(5));
        world.confirm_heartbeat();
    }
    assert_eq!(world.take_killed(), []);
    assert!(world.take_extended().len() >= 100);
}

#[test]
fn a_confirm_for_another_incarnation_does_not_count() {
    let mut world = World::new();
    let (old, sent) = (world.incarnation, world.beat_without_confirm());
    world.advance(s(45));
    world.new_incarnation();
    world.dispatch(1).send();
    world.input(Input::HeartbeatConfirmed { incarnation: old, sent });
    world.input(Input::HeartbeatConfirmed { incarnation: old, sent: world.now.boot });
    assert_eq!(world.take_started(), []);
}

#[test]
fn told_that_it_is_lost_an_incarnation_ends_as_at_the_fence() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.lost();
    assert_eq!(world.take_killed(), [key(1)]);
    world.fail(1);
    assert_eq!(world.take_incarnations_over().len(), 1);
}

#[test]
fn an_attempt_that_may_continue_when_isolated_outlives_the_fence_and_delays_the_last_word() {
    let mut world = World::new();
    world.dispatch(1).continue_when_isolated().send();
    world.dispatch(2).send();
    let start = world.take_starts();
    assert_eq!((start[0].deadline, start[1].deadline.is_some()), (None, true));
    world.advance(s(45));
    assert_eq!(world.take_killed(), [key(2)]);
    world.fail(2);
    let old = world.incarnation;
    assert_eq!(world.take_incarnations_over(), [old]);
    assert!(world.take_farewells().is_empty(), "something of it still runs");
    world.new_incarnation();
    world.confirm_heartbeat();
    assert_eq!(world.duty_heartbeat().capacity, 3, "it still takes its room");
    world.dispatch(1).send();
    assert_eq!(world.take_started(), [], "and never starts twice");
    world.succeed(1, "1");
    let farewell = world.take_farewells().remove(0);
    assert_eq!((farewell.incarnation, farewell.outcomes.len()), (old, 1));
}

#[test]
fn a_handler_that_ignores_its_end_ends_the_process() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.advance(s(45));
    world.advance(s(10));
    assert_eq!(world.take_given_up(), [key(1)]);
    assert_eq!(world.duty.next_deadline(), None);
}

#[test]
fn the_leaders_hello_sets_the_lengths() {
    let mut world = World::new();
    world.hello_with_terms(2, s(12), s(8), s(2));
    assert_eq!(world.duty.fence_deadline(), Some(world.now.boot + s(8)));
    world.advance(s(8));
    assert_eq!(world.take_incarnations_over().len(), 1);
    let mut world = World::new();
    world.hello_with_terms(2, s(8), s(12), s(2));
    assert_eq!(world.duty.fence_deadline(), Some(world.now.boot + s(45)), "a fence after the lease is refused");
}

#[test]
fn a_heartbeat_says_what_is_held_what_is_unrecorded_and_what_was_seen() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).send();
    world.dispatch(3).after(2).send();
    world.dispatch(4).send();
    world.dispatch(5).send();
    world.succeed(4, "1");
    world.started(2);
    world.cancel(1, None);
    let beat = world.duty_heartbeat();
    let holding: Vec<_> = beat.holding.iter().map(|(id, attempt, holding)| (id.0, *attempt, *holding)).collect();
    let (held, starts) = (|id, how| (id, 1, how), Holding::Starting);
    let expected =
        [held(1, Holding::Cancelling), held(2, Holding::Running), held(3, Holding::Pending), held(5, starts)];
    assert_eq!(holding, expected);
    assert_eq!(beat.unrecorded, [key(4)]);
    assert_eq!(beat.seen, (Epoch(1), world.n));
    assert_eq!(beat.capacity, 4);
    assert_eq!(
        beat.actions.iter().map(|served| served.action_ref.as_str()).collect::<Vec<_>>(),
        ["demo.echo", "deploy.app"]
    );
}

#[test]
fn a_table_that_is_full_takes_no_dispatch_and_the_heartbeat_shows_it() {
    let mut world = World::unconfirmed();
    let most = i64::try_from(ENTRIES_MAX).expect("small");
    for id in 0..=most {
        world.dispatch(id).send();
    }
    let beat = world.duty_heartbeat();
    assert_eq!(beat.holding.len(), ENTRIES_MAX);
    assert!(!beat.holding.iter().any(|(id, _, _)| id.0 == most));
    let bytes = serde_json::to_vec(&beat).expect("plain data").len();
    assert!(bytes < ENVELOPE_BYTES_MAX, "{bytes}");
}

#[test]
fn statuses_move_from_scheduled_to_running_with_the_fence_of_the_attempt() {
    let mut world = World::new();
    world.dispatch(1).fence(9).send();
    world.started(1);
    let changed = world.take_status_changes().remove(0);
    assert_eq!((changed.previous_status, changed.new_status), (Status::Scheduled, Status::Running));
    assert_eq!(changed.fence.map(|fence| fence.0), Some(9));
    assert_eq!(changed.incarnation, Some(world.incarnation));
}

#[test]
fn an_idle_worker_beats_at_its_interval_and_asks_for_no_other_tick() {
    let mut world = World::new();
    for _ in 0..3 {
        assert_eq!(world.duty.next_deadline(), Some(world.now.boot + Duration::from_secs(5)));
        world.advance_connected(s(5));
    }
    assert_eq!(world.take_extended().len(), 3);
    assert!(world.drain_effects().is_empty());
}
