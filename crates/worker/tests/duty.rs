//! The duty book, rule by rule. Time, identity and the executor are the test's.

mod world;

use std::time::Duration;

use slotline_protocol::message::{EndReason, Event, Holding, Level, Report};
use slotline_protocol::{OutcomeKind, Status};
use slotline_worker::duty::{Effect, Input, OnDrain, Told};
use world::{World, key, ms, s};

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
fn an_action_not_served_is_handed_back() {
    let mut world = World::new();
    world.dispatch(1).action("other.thing").send();
    assert_eq!(world.take_returned(), [(key(1), "unknown_action".to_owned(), false)]);
    assert_eq!(world.take_started(), []);
}

#[test]
fn a_chain_starts_link_by_link_the_moment_each_predecessor_completes() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.dispatch(3).after(2).send();
    assert_eq!(world.take_started(), [key(1)]);
    assert_eq!(world.duty_heartbeat().holding[1], (key(2).0, 1, Holding::Pending));
    world.succeed(1, "1");
    assert_eq!(world.take_started(), [key(2)]);
    world.succeed(2, "1");
    assert_eq!(world.take_started(), [key(3)]);
}

#[test]
fn a_chain_whose_predecessor_fails_or_is_unknown_is_handed_back_to_its_last_link() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.dispatch(3).after(2).send();
    world.dispatch(4).after(77).send();
    assert_eq!(world.take_returned(), [(key(4), "predecessor".to_owned(), false)]);
    world.take_started();
    world.fail(1);
    assert_eq!(
        world.take_returned(),
        [(key(2), "predecessor".to_owned(), false), (key(3), "predecessor".to_owned(), false)]
    );
    assert_eq!(world.take_started(), []);
}

#[test]
fn a_very_long_chain_is_handed_back_without_exhausting_the_stack() {
    let mut world = World::new();
    world.dispatch(1).send();
    for id in 2..9_000 {
        world.dispatch(id).after(id - 1).send();
    }
    world.fail(1);
    assert_eq!(world.take_returned().len(), 8_998);
}

#[test]
fn a_chain_finds_a_predecessor_that_completed_before_it_came() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.take_started();
    world.dispatch(2).after(1).send();
    assert_eq!(world.take_started(), [key(2)]);
    world.cancel(2, None);
    world.succeed(2, "1");
    world.dispatch(3).after(2).send();
    assert_eq!(world.take_started(), [], "cancelled is not completed");
}

#[test]
fn a_chain_whose_predecessor_is_cancelled_is_handed_back_though_the_process_exits_zero() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.cancel(1, None);
    world.succeed(1, "1");
    assert_eq!(world.take_completed()[0].1, OutcomeKind::Cancelled);
    assert_eq!(world.take_returned(), [(key(2), "predecessor".to_owned(), false)]);
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

#[test]
fn a_cancellation_ends_what_waits_at_once_and_asks_what_runs() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.cancel(2, None);
    assert_eq!(world.take_completed(), [(key(2), OutcomeKind::Cancelled, Some("cancelled".to_owned()))]);
    world.record(&[2]);
    world.cancel_if_not_started(1);
    assert_eq!(world.take_interrupted(), []);
    world.cancel(1, Some(s(3)));
    assert_eq!(world.take_interrupted(), [(key(1), s(3))]);
    world.cancel(1, Some(s(1)));
    assert_eq!(world.take_interrupted(), [], "once is enough");
    world.advance(s(3) - ms(1));
    assert_eq!(world.take_killed(), []);
    world.advance(ms(1));
    assert_eq!(world.take_killed(), [key(1)]);
    world.fail(1);
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Cancelled, Some("cancelled".to_owned()))]);
    world.cancel(99, None);
    assert_eq!(world.take_completed(), []);
}

#[test]
fn a_cancellation_that_comes_after_the_completion_changes_nothing() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.take_completed();
    world.cancel(1, None);
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Completed, None)]);
}

#[test]
fn a_time_out_counts_from_the_true_start_and_says_what_was_known() {
    let mut world = World::new();
    world.dispatch(42).action("deploy.app").timeout(s(60)).send();
    world.advance(s(10));
    world.started(42);
    let say = |level, message: &str| Report { level, message: Some(message.to_owned()), ..Report::default() };
    world.report(42, say(Level::Info, "Container web is running but not ready"));
    world.report(42, say(Level::Error, "Readiness probe failed"));
    world.advance_connected(s(60) - ms(1));
    assert_eq!(world.take_interrupted(), []);
    world.advance_connected(ms(1));
    assert_eq!(world.take_interrupted().len(), 1);
    world.succeed(42, "1");
    let completed = world.take_completions().remove(0);
    assert_eq!(completed.status, OutcomeKind::Timeout);
    let error = completed.error.expect("a time-out has an error");
    assert_eq!(error.code, "timeout");
    assert_eq!(
        error.message,
        "Execution 42 (deploy.app) has timed out because it was processing longer than 60 s. Progress events:\n\
         Info - Container web is running but not ready\nError - Readiness probe failed"
    );
}

#[test]
fn a_stall_is_silence_and_every_report_ends_it() {
    let mut world = World::new();
    world.dispatch(1).stall_timeout(s(10)).send();
    world.started(1);
    for _ in 0..5 {
        world.advance(s(9));
        world.report(1, Report { progress: Some((1, None)), ..Report::default() });
        world.confirm_heartbeat();
    }
    assert_eq!(world.take_interrupted(), []);
    world.advance(s(10));
    assert_eq!(world.take_interrupted().len(), 1);
    world.fail(1);
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Timeout, Some("stall_timeout".to_owned()))]);
}

#[test]
fn what_can_not_start_in_time_times_out_unstarted() {
    let mut world = World::unconfirmed();
    world.dispatch(1).start_timeout(s(5)).send();
    world.advance(s(5));
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Timeout, Some("start_timeout".to_owned()))]);
    world.confirm_heartbeat();
    assert_eq!(world.take_started(), []);
}

#[test]
fn events_are_numbered_from_one_and_the_completion_knows_the_last() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.report(1, Report { message: Some("half".into()), ..Report::default() });
    world.input(Input::Reported {
        key: key(1),
        event: Told::Log { stream: slotline_protocol::message::Stream::Stdout, lines: vec!["a".into()] },
    });
    world.fail(1);
    let events = world.take_events();
    assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(events[0].1, "scheduled -> running");
    assert!(events[4].1.starts_with("finished"), "{events:?}");
    assert_eq!(world.take_completions()[0].last_sequence, 5);
}

#[test]
fn an_attempt_that_could_not_be_spawned_has_events_too() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.fail(1);
    let events = world.take_events();
    assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [1, 2]);
    let completed = world.take_completions().remove(0);
    assert_eq!((completed.started_at, completed.last_sequence), (None, 2));
}

#[test]
fn a_number_held_back_is_sent_before_the_end() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.take_events();
    for done in 0..100 {
        world.report(1, Report { progress: Some((done, Some(100))), ..Report::default() });
    }
    assert_eq!(world.take_events().len(), 1);
    world.succeed(1, "1");
    let fx = world.drain_effects();
    let last = fx.iter().find_map(|effect| match effect {
        Effect::Progress(progress) => match &progress.message.event {
            Event::Progress(report) => report.progress,
            Event::Started {} | Event::Log { .. } | Event::Finished { .. } => None,
        },
        _ => None,
    });
    assert_eq!(last, Some((99, Some(100))));
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
fn outcomes_known_at_the_fence_are_its_last_word_until_confirmed() {
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
    world.advance(s(30));
    assert_eq!(world.take_farewells().len(), 0);
    world.hello(2);
    assert_eq!(world.take_farewells().len(), 1, "a new leader may not have heard it");
    world.advance(s(120));
    world.hello(3);
    assert_eq!(world.take_farewells().len(), 0, "and by now it has counted the incarnation as lost");
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
    world.advance(s(30));
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
    world.advance(s(5));
    assert!(world.finished());
}

#[test]
fn a_heartbeat_says_what_is_held_what_is_unrecorded_and_what_was_seen() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).send();
    world.dispatch(3).after(2).send();
    world.dispatch(4).send();
    world.succeed(4, "1");
    world.cancel(1, None);
    let beat = world.duty_heartbeat();
    let holding: Vec<_> = beat.holding.iter().map(|(id, attempt, holding)| (id.0, *attempt, *holding)).collect();
    assert_eq!(holding, [(1, 1, Holding::Cancelling), (2, 1, Holding::Running), (3, 1, Holding::Pending)]);
    assert_eq!(beat.unrecorded, [key(4)]);
    assert_eq!(beat.seen, (slotline_protocol::Epoch(1), world.n));
    assert_eq!(beat.capacity, 4);
    assert_eq!(
        beat.actions.iter().map(|served| served.action_ref.as_str()).collect::<Vec<_>>(),
        ["demo.echo", "deploy.app"]
    );
}

#[test]
fn a_table_that_is_full_takes_no_dispatch_and_the_heartbeat_shows_it() {
    let mut world = World::unconfirmed();
    let most = i64::try_from(slotline_worker::duty::ENTRIES_MAX).expect("small");
    for id in 0..=most {
        world.dispatch(id).send();
    }
    let beat = world.duty_heartbeat();
    assert_eq!(beat.holding.len(), slotline_worker::duty::ENTRIES_MAX);
    assert!(!beat.holding.iter().any(|(id, _, _)| id.0 == most));
    let bytes = serde_json::to_vec(&beat).expect("plain data").len();
    assert!(bytes < slotline_protocol::envelope::ENVELOPE_BYTES_MAX, "{bytes}");
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
