//! One attempt: started, observed, timed out, cancelled, reported.

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{Event, Level, Report, Stream};
use slotline_worker::duty::{AttemptOutput, Effect, Input};

use super::world::{World, key, ms, s};

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
fn what_is_reported_while_an_attempt_is_being_ended_does_not_shorten_its_grace() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.cancel(1, Some(s(10)));
    for done in 1..4 {
        world.report(1, Report { progress: Some((done, Some(4))), ..Report::default() });
    }
    world.advance(s(9));
    assert!(!world.take_events().is_empty(), "what was held back is told meanwhile");
    assert_eq!(world.take_killed(), []);
    world.advance(s(1));
    assert_eq!(world.take_killed(), [key(1)]);
}

#[test]
fn a_report_that_was_held_back_is_told_in_time_and_ends_nothing() {
    let mut world = World::new();
    world.dispatch(1).timeout(s(60)).stall_timeout(s(30)).send();
    world.started(1);
    for done in 1..4 {
        world.report(1, Report { progress: Some((done, Some(4))), ..Report::default() });
    }
    world.take_events();
    world.advance(s(9));
    assert_eq!(world.take_events().len(), 1, "the newest of those that were held back");
    assert_eq!((world.take_interrupted(), world.take_killed()), (vec![], vec![]));
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
        event: AttemptOutput::Log { stream: Stream::Stdout, lines: vec!["a".into()] },
    });
    world.fail(1);
    let events = world.take_events();
    assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(events[0].1, "scheduled -> running");
    assert!(events[4].1.starts_with("finished"), "{events:?}");
    assert_eq!(world.take_completions()[0].last_sequence, 5);
}

#[test]
fn what_could_not_be_started_never_ran_and_says_only_that_it_ended() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.fail(1);
    let events = world.take_events();
    assert_eq!(events, [(1, "finished None Some(\"exited with status 1\")".to_owned())]);
    let completed = world.take_completions().remove(0);
    assert_eq!((completed.started_at, completed.last_sequence), (None, 1));
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
            Event::Started {} | Event::Log { .. } | Event::Finished { .. } | Event::Gap { .. } => None,
        },
        _ => None,
    });
    assert_eq!(last, Some((99, Some(100))));
}
