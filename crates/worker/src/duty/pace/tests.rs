use slotline_protocol::message::TaskStatus;

use super::*;

fn units(done: u64) -> Report {
    Report { progress: Some((done, Some(1000))), ..Report::default() }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_million_numbers_cost_one_event_an_interval_and_the_newest_is_not_lost() {
    let mut pace = Pace::default();
    let sent = (0..100_000_u64).filter(|i| pace.report(Detail::Default, units(*i), ms(i / 40), true).is_some()).count();
    assert_eq!(sent, 3, "at 0 s, 1 s and 2 s");
    assert_eq!(
        pace.flush(Duration::MAX, ms(2500)).expect("the newest was held").report.progress,
        Some((99_999, Some(1000)))
    );
}

#[test]
fn a_step_is_sent_when_reached_though_the_interval_has_not_passed() {
    let detail = Detail::Negotiated { interval: Some(ms(10_000)), step: Some(10) };
    let mut pace = Pace::default();
    let sent: Vec<u64> = (0..35).filter(|i| pace.report(detail, units(*i), ms(1), true).is_some()).collect();
    assert_eq!(sent, [0, 10, 20, 30]);
}

#[test]
fn quiet_sends_messages_phases_and_errors_and_of_numbers_only_the_last() {
    let mut pace = Pace::default();
    assert_eq!(pace.report(Detail::Quiet, units(1), ms(0), true), None);
    assert_eq!(pace.report(Detail::Quiet, units(3), ms(0), true), None);
    assert_eq!(pace.flush_at(), None, "however long it takes");
    let last = pace.flush(Duration::MAX, ms(10)).map(|said| said.report);
    assert_eq!(last, Some(units(3)));
    let phase = Report { phase: Some("copy".into()), ..units(2) };
    assert!(pace.report(Detail::Quiet, phase, ms(1), true).is_some());
    let error = Report { level: Level::Error, message: Some("no".into()), ..Report::default() };
    assert!(pace.report(Detail::Quiet, error, ms(1), true).is_some());
}

fn say(level: Level, message: &str) -> Report {
    Report { level, message: Some(message.to_owned()), ..Report::default() }
}

#[test]
fn a_flood_of_messages_is_merged_into_the_newest_of_each_second_and_counted() {
    let mut pace = Pace::default();
    let mut report = |i: u64| pace.report(Detail::Default, say(Level::Info, &format!("message {i}")), ms(500), true);
    let sent = (0..1000).filter_map(&mut report).inspect(|said| assert_eq!(said.merged, 0)).count();
    assert_eq!(sent, NEWS_PER_SECOND);
    assert_eq!(pace.flush_at(), Some(ms(1500)));
    assert_eq!(pace.flush(ms(1499), ms(1499)), None);
    let said = pace.flush(ms(1500), ms(1500)).expect("held");
    assert_eq!((said.report.message.as_deref(), said.merged), (Some("message 999"), 979));
    assert_eq!(pace.flush(Duration::MAX, ms(1500)), None);
}

#[test]
fn one_message_past_the_limit_is_held_and_merges_nothing() {
    let mut pace = Pace::default();
    let mut report = |i: usize| pace.report(Detail::Default, say(Level::Info, &format!("message {i}")), ms(0), true);
    let last = (0..=NEWS_PER_SECOND).map(&mut report).fold(None, |_, said| Some(said));
    assert_eq!(last, Some(None));
    assert_eq!(pace.flush(Duration::MAX, ms(1000)).map(|said| said.merged), Some(0));
}

#[test]
fn in_no_second_are_more_than_twenty_of_one_level_sent() {
    let mut pace = Pace::default();
    let mut sent = Vec::new();
    for at in (0..5_000).map(ms) {
        if pace.flush_at().is_some_and(|due| due <= at) && pace.flush(at, at).is_some() {
            sent.push(at);
        }
        if pace.report(Detail::Default, say(Level::Info, &format!("{at:?}")), at, true).is_some() {
            sent.push(at);
        }
    }
    let within = |from: usize| sent.get(from + NEWS_PER_SECOND).is_none_or(|later| *later >= sent[from] + WINDOW);
    assert!((0..sent.len()).all(within), "{sent:?}");
    assert!(sent.len() >= 5 * NEWS_PER_SECOND - 1, "{}", sent.len());
}

#[test]
fn an_error_does_not_swallow_the_message_that_is_held() {
    let mut pace = Pace::default();
    for i in 0..=NEWS_PER_SECOND {
        pace.report(Detail::Default, say(Level::Info, &format!("message {i}")), ms(0), true);
    }
    let error = pace.report(Detail::Default, say(Level::Error, "no"), ms(1), true).expect("there is room for errors");
    assert_eq!(error.report.message.as_deref(), Some("no"));
    let held = pace.flush(Duration::MAX, ms(1000)).expect("still held");
    assert_eq!(held.report.message.as_deref(), Some("message 20"));
}

#[test]
fn numbers_held_back_go_with_the_next_news() {
    let mut pace = Pace::default();
    pace.report(Detail::Default, units(1), ms(0), true);
    pace.report(Detail::Default, units(1000), ms(1), true);
    let said = pace.report(Detail::Default, say(Level::Info, "done"), ms(2), true).expect("news");
    assert_eq!(said.report.progress, Some((1000, Some(1000))));
    assert_eq!(pace.flush(Duration::MAX, ms(2)), None, "and are not said twice");
}

#[test]
fn the_data_of_reports_that_are_merged_is_merged_by_key() {
    let data = |data: serde_json::Value| Report { data: Some(data), ..units(1) };
    let mut pace = Pace::default();
    pace.report(Detail::Default, units(0), ms(0), true);
    pace.report(Detail::Default, data(serde_json::json!({"a": 1, "b": 1})), ms(1), true);
    pace.report(Detail::Default, data(serde_json::json!({"b": 2})), ms(2), true);
    let said = pace.flush(Duration::MAX, ms(3)).expect("held");
    assert_eq!(said.report.data, Some(serde_json::json!({"a": 1, "b": 2})));
}

fn task(name: &str, status: TaskStatus) -> Report {
    let task = Task { name: name.to_owned(), status: Some(status), ..Task::default() };
    Report { task: Some(Box::new(task)), ..Report::default() }
}

#[test]
fn every_task_that_was_reported_is_told_however_fast_and_none_is_set_back() {
    let mut pace = Pace::default();
    let names: Vec<String> = (0..NEWS_PER_SECOND + 10).map(|n| n.to_string()).collect();
    let mut told = Vec::new();
    let mut take = |said: Option<PacedReport>| {
        if let Some(PacedReport { report, .. }) = said {
            told.extend(report.tasks.into_iter().chain(report.task.map(|task| *task)));
        }
    };
    for name in &names {
        take(pace.report(Detail::Quiet, task(name, TaskStatus::Started), ms(1), true));
        take(pace.report(Detail::Quiet, task(name, TaskStatus::Completed), ms(1), true));
    }
    // On the other lane, so that it is faster than what is held of the same task.
    let failed = Report { level: Level::Error, ..task(&names[29], TaskStatus::Failed) };
    take(pace.report(Detail::Quiet, failed, ms(2), true));
    take(pace.flush(Duration::MAX, ms(1500)));
    for name in &names {
        let last = told.iter().rev().find(|told| told.name == *name).and_then(|told| told.status);
        let expected = if *name == names[29] { TaskStatus::Failed } else { TaskStatus::Completed };
        assert_eq!(last, Some(expected), "{name}");
    }
}

#[test]
fn what_is_held_does_not_set_back_what_was_sent_meanwhile() {
    let mut pace = Pace::default();
    for i in 0..=NEWS_PER_SECOND as u64 {
        pace.report(Detail::Default, Report { message: Some(i.to_string()), ..units(i) }, ms(0), true);
    }
    let later = Detail::Negotiated { interval: Some(ms(1)), step: None };
    assert!(pace.report(later, units(500), ms(5), true).is_some());
    let held = pace.flush(Duration::MAX, ms(6)).expect("the last message").report;
    assert_eq!((held.message.as_deref(), held.progress), (Some("20"), None));
}

#[test]
fn what_found_no_room_is_told_with_the_next_that_is_sent() {
    let mut pace = Pace::default();
    pace.missed(3);
    assert_eq!(pace.report(Detail::Default, units(1), ms(0), true).map(|said| said.merged), Some(3));
    assert_eq!(pace.unsaid(), 0);
}

#[test]
fn a_report_that_says_nothing_is_not_sent() {
    assert_eq!(Pace::default().report(Detail::Default, Report::default(), ms(0), true), None);
}

#[test]
fn a_percent_that_is_no_number_is_left_out() {
    let mut pace = Pace::default();
    let report = Report { percent: Some(f64::NAN), ..units(1) };
    assert_eq!(pace.report(Detail::Default, report, ms(0), true).expect("the first").report.percent, None);
}
