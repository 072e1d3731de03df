//! What an attempt reports: numbered, paced, merged, and known when it is ended.

use serde_json::json;
use slotline_protocol::message::{Event, Failure, Level, Report, Stream};
use slotline_protocol::{Detail, OutcomeKind};
use slotline_worker::duty::{AttemptOutput, Effect, Input, NEWS_PER_SECOND, PROGRESS_EVENTS};

use super::world::{World, key, ms, s};

fn say(level: Level, message: &str) -> Report {
    Report { level, message: Some(message.to_owned()), ..Report::default() }
}

fn texts(world: &mut World) -> Vec<String> {
    world.take_events().into_iter().map(|(_, text)| text).collect()
}

#[test]
fn what_was_merged_is_one_numbered_gap_before_the_report_that_stands_for_it() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.take_events();
    for i in 0..100 {
        world.report(1, say(Level::Info, &format!("message {i}")));
    }
    assert_eq!(world.take_events().len(), NEWS_PER_SECOND);
    world.advance_connected(s(1));
    let first = u64::try_from(NEWS_PER_SECOND).expect("small") + 3;
    assert_eq!(
        world.take_events(),
        [(first, "gap 79 Merged".to_owned()), (first + 1, "progress Some(\"message 99\")".to_owned())]
    );
    world.succeed(1, "1");
    assert_eq!(world.take_completions()[0].last_sequence, first + 2, "and nothing is held any more");
}

#[test]
fn what_is_merged_when_an_attempt_ends_is_said_before_its_end() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    for i in 0..=NEWS_PER_SECOND {
        world.report(1, say(Level::Info, &format!("message {i}")));
    }
    world.report(1, say(Level::Info, "the last"));
    world.take_events();
    world.input(Input::Reported { key: key(1), event: AttemptOutput::Gap { count: 5 } });
    world.succeed(1, "1");
    assert_eq!(texts(&mut world), ["gap 6 Merged", "progress Some(\"the last\")", "finished None None"]);
}

#[test]
fn what_found_no_room_on_its_way_is_told_before_the_next_line_or_at_the_end() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.take_events();
    world.input(Input::Reported { key: key(1), event: AttemptOutput::Gap { count: 2 } });
    assert_eq!(texts(&mut world), [""; 0]);
    let log = AttemptOutput::Log { stream: Stream::Stdout, lines: vec!["a".to_owned()] };
    world.input(Input::Reported { key: key(1), event: log });
    assert_eq!(texts(&mut world), ["gap 2 Merged", "log [\"a\"]"]);
    world.input(Input::Reported { key: key(1), event: AttemptOutput::Gap { count: 3 } });
    world.succeed(1, "1");
    assert_eq!(texts(&mut world), ["gap 3 Merged", "finished None None"]);
}

#[test]
fn every_report_ends_a_stall_be_it_sent_held_merged_or_output() {
    let log = || AttemptOutput::Log { stream: Stream::Stderr, lines: vec!["a".to_owned()] };
    let number = || AttemptOutput::Progress(Report { progress: Some((1, None)), ..Report::default() });
    let same = || AttemptOutput::Progress(say(Level::Info, "the same"));
    let empty = || AttemptOutput::Progress(Report::default());
    let told: [(&str, &dyn Fn() -> AttemptOutput); 5] = [
        ("log", &log),
        ("number", &number),
        ("same", &same),
        ("empty", &empty),
        ("gap", &|| AttemptOutput::Gap { count: 1 }),
    ];
    for (name, told) in told {
        let mut world = World::new();
        world.dispatch(1).stall_timeout(ms(100)).send();
        world.started(1);
        // So that further reports are held or merged.
        for i in 0..NEWS_PER_SECOND * 2 {
            world.report(1, say(Level::Info, &format!("message {i}")));
        }
        for _ in 0..5 {
            world.advance(ms(99));
            world.input(Input::Reported { key: key(1), event: told() });
        }
        assert_eq!(world.take_interrupted(), [], "{name}");
        world.advance(ms(100));
        assert_eq!(world.take_interrupted().len(), 1, "{name}");
    }
}

#[test]
fn a_phase_that_is_declared_gives_its_percent() {
    let mut world = World::new();
    world.dispatch(1).action("deploy.app").timeout(s(60)).send();
    world.started(1);
    let phase = |name: &str| Report { phase: Some(name.to_owned()), ..Report::default() };
    world.report(1, phase("pull"));
    world.report(1, Report { step: Some((1, 2)), ..phase("start") });
    world.advance_connected(s(60));
    world.fail(1);
    let details = world.take_completions().remove(0).error.and_then(|error| error.details).expect("details");
    let percents: Vec<_> = details["progress_events"].as_array().expect("some").iter().map(|e| &e["percent"]).collect();
    assert_eq!(percents, [&json!(0.0), &json!(62.5)]);
}

#[test]
fn what_has_completed_tells_all_of_its_phases_and_its_last_numbers_also_where_no_numbers_are_wanted() {
    for detail in [Detail::Default, Detail::Quiet] {
        let mut world = World::new();
        world.dispatch(1).action("deploy.app").detail(detail).send();
        world.started(1);
        world.report(1, Report { phase: Some("start".to_owned()), ..Report::default() });
        for done in 1..=9 {
            world.report(1, Report { progress: Some((done, Some(10))), ..Report::default() });
        }
        world.drain_effects();
        world.succeed(1, "1");
        let last: Vec<_> = world.take(|effect| match effect {
            Effect::Progress(progress) => match &progress.message.event {
                Event::Progress(report) => Some((report.percent, report.progress)),
                Event::Started {} | Event::Log { .. } | Event::Finished { .. } | Event::Gap { .. } => None,
            },
            _ => None,
        });
        assert_eq!(last, [(Some(100.0), Some((9, Some(10))))], "{detail:?}");
    }
}

#[test]
fn what_fails_or_is_ended_tells_no_more_of_its_phases_than_it_did() {
    for is_cancelled in [false, true] {
        let mut world = World::new();
        world.dispatch(1).action("deploy.app").send();
        world.started(1);
        world.report(1, Report { phase: Some("start".to_owned()), ..Report::default() });
        world.take_events();
        if is_cancelled {
            world.cancel(1, None);
            world.succeed(1, "1");
        } else {
            world.fail(1);
        }
        assert!(texts(&mut world)[0].starts_with("finished"));
        let error = world.take_completions().remove(0).error.expect("an error");
        assert_eq!(error.phase.as_deref(), Some("start"));
    }
}

#[test]
fn an_attempt_that_fails_tells_its_last_reports_and_what_it_said_where_it_has_no_words_for_its_end() {
    let own = Failure { details: Some(json!({"rows": 3})), ..Failure::new("db_down", "no database") };
    for (error, message) in [
        (Failure::new("exit_status", "it exited with 1"), "it exited with 1. Progress events:\nError - no route"),
        (own, "no database"),
    ] {
        let mut world = World::new();
        world.dispatch(1).send();
        world.started(1);
        world.report(1, say(Level::Error, "no route"));
        let before = error.details.clone();
        world.end(1, Err(error));
        let error = world.take_completions().remove(0).error.expect("an error");
        assert_eq!(error.message, message);
        let details = error.details.expect("details");
        assert_eq!(details["progress_events"][0]["message"], "no route");
        assert_eq!(details.get("rows"), before.as_ref().and_then(|details| details.get("rows")));
    }
}

#[test]
fn an_attempt_that_is_ended_tells_its_last_ten_reports() {
    for code in ["timeout", "stall_timeout", "cancelled"] {
        let mut world = World::new();
        world.dispatch(1).timeout(s(60)).stall_timeout(s(30)).send();
        world.started(1);
        for i in 0..12 {
            world.report(1, Report { progress: Some((i, Some(12))), ..say(Level::Info, &format!("message {i}")) });
        }
        world.report(1, say(Level::Error, "no"));
        match code {
            "cancelled" => world.cancel(1, None),
            "stall_timeout" => world.advance_connected(s(30)),
            _ => {
                world.advance_connected(s(29));
                world.input(Input::Reported { key: key(1), event: AttemptOutput::Gap { count: 0 } });
                world.advance_connected(s(29));
                world.input(Input::Reported { key: key(1), event: AttemptOutput::Gap { count: 0 } });
                world.advance_connected(s(2));
            }
        }
        // Reported while the attempt was being ended, and held back: its error has it all the same.
        world.report(1, Report { progress: Some((5, Some(12))), unit: Some("files".to_owned()), ..Report::default() });
        world.fail(1);
        let completed = world.take_completions().remove(0);
        assert_ne!(completed.status, OutcomeKind::Failed);
        let error = completed.error.expect("an error");
        assert_eq!(error.code, code);
        assert!(error.message.ends_with("Progress events:\nInfo - message 11\nError - no"), "{}", error.message);
        let details = error.details.expect("details");
        let events = details["progress_events"].as_array().expect("an array");
        assert_eq!(events.len(), PROGRESS_EVENTS);
        assert_eq!((&events[0]["message"], &events[0]["progress"]), (&json!("message 4"), &json!([4, 12])));
        assert_eq!((&events[8]["message"], &events[8]["level"]), (&json!("no"), &json!("error")));
        assert_eq!((&events[9]["progress"], &events[9]["unit"]), (&json!([5, 12]), &json!("files")));
        assert!(events.iter().all(|event| event["timestamp"].is_string()));
    }
}

#[test]
fn what_is_handed_back_tells_its_last_number() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.report(1, say(Level::Info, "half"));
    world.input(Input::StopRequested);
    world.fail(1);
    let ended = world.take_farewells().remove(0);
    assert_eq!(ended.returned[0].last_sequence, 4, "status, started, progress, finished");
}

#[test]
fn while_too_much_waits_to_be_sent_reports_stand_for_each_other_and_nothing_starts() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.take_events();
    world.take_starts();
    world.input(Input::OutboxFilled);
    for i in 0..3 {
        world.report(1, say(Level::Info, &format!("message {i}")));
    }
    world.report(1, say(Level::Error, "no"));
    world.dispatch(2).send();
    world.advance_connected(s(10));
    assert_eq!((texts(&mut world), world.take_starts().len()), (vec![], 0));
    world.input(Input::OutboxEmptied);
    assert_eq!(
        texts(&mut world),
        ["gap 2 Merged", "progress Some(\"message 2\")", "progress Some(\"no\")"],
        "and nothing was held longer than that"
    );
    assert_eq!(world.take_starts().len(), 1);
}

#[test]
fn what_ends_while_too_much_waits_is_told_in_full() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.started(1);
    world.take_events();
    world.input(Input::OutboxFilled);
    world.report(1, say(Level::Info, "the last"));
    world.succeed(1, "1");
    assert_eq!(texts(&mut world), ["progress Some(\"the last\")", "finished None None"]);
}
