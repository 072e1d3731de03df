//! Describes events in lines of text: all of them for a log file, and the notable ones above the bar.
//!
//! The same events give the same lines. Not here: the newest numbers, which are beside the bar (`view`).

use slotline_protocol::message::{Failure, GapReason, Level, Report, Stream, Task, TaskStatus};
use slotline_protocol::record::{Event, Latest, What};
use slotline_protocol::tasks::{TaskState, Tasks};
use slotline_protocol::{OutcomeKind, Status};

use crate::client::position::Position;
use crate::show::format::{self, about};
use crate::show::output;

/// The lines of any event. The end of the execution has none here; it is printed with the result (`end`).
pub(crate) fn all(event: &Event, with_logs: bool) -> Vec<String> {
    let id = event.execution_id;
    match &event.what {
        What::Status { new, worker, .. } => {
            let worker = worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
            let attempt = match new {
                Status::Scheduled | Status::Running => format!("{worker}, attempt {}", event.attempt),
                Status::Requested
                | Status::Queued
                | Status::Cancelling
                | Status::Completed
                | Status::Failed
                | Status::Timeout
                | Status::Cancelled => String::new(),
            };
            vec![clean(&format!("execution {id} is {new}{attempt}"))]
        }
        // The status `running` comes with it and has a line.
        What::Started => Vec::new(),
        What::Progress(report) => task_lines(report).into_iter().chain(report_line(report)).collect(),
        What::Log { .. } | What::Gap { .. } | What::Finished { .. } | What::Settled { .. } => notable(event, with_logs),
    }
}

/// The lines that the bar does not show: errors, logs if wanted, gaps, failed attempts.
pub(crate) fn notable(event: &Event, with_logs: bool) -> Vec<String> {
    match &event.what {
        What::Progress(report) if report.level == Level::Error => report_line(report).into_iter().collect(),
        What::Log { stream, lines } if with_logs => {
            lines.iter().map(|line| format!("{} | {}", name(*stream), output::clean_line(line))).collect()
        }
        What::Gap { count, reason } => vec![gap(*count, *reason)],
        What::Finished { outcome, return_code, message } => finished(event.attempt, *outcome, *return_code, message),
        What::Status { .. } | What::Started | What::Progress(_) | What::Log { .. } | What::Settled { .. } => Vec::new(),
    }
}

/// `task pull started` or `task layer of pull failed: no_disk: it is full`, for each task whose status the report has.
fn task_lines(report: &Report) -> Vec<String> {
    let line = |task: &Task| {
        let status = task.status?;
        let parent = task.parent.as_ref().map(|parent| format!(" of {parent}")).unwrap_or_default();
        let why = task.error.as_ref().map(|error| format!(": {}", failure(error))).unwrap_or_default();
        Some(clean(&format!("task {}{parent} {}{why}", task.name, status.as_str())))
    };
    report.tasks.iter().chain(report.task.as_deref()).filter_map(line).collect()
}

/// The tree of tasks, one line each: `x layer 1/3: no_disk: it is full`.
pub(crate) fn tree(tasks: &Tasks) -> Vec<String> {
    let line = |(depth, task): (usize, &TaskState)| {
        let mark = match task.status {
            None => ' ',
            Some(TaskStatus::Started) => '>',
            Some(TaskStatus::Completed) => '+',
            Some(TaskStatus::Failed) => 'x',
            Some(TaskStatus::Skipped) => '-',
        };
        let step = task.step.map(|(done, total)| format!(" {done}/{total}")).unwrap_or_default();
        let why = task.error.as_ref().map(|error| format!(": {}", failure(error))).unwrap_or_default();
        clean(&format!("{}{mark} {}{step}{why}", "  ".repeat(depth), task.name))
    };
    tasks.flat().into_iter().map(line).collect()
}

/// `[pull] 42 %, step 2/7: layer 3`, from this report alone.
fn report_line(report: &Report) -> Option<String> {
    let mut own = Latest::default();
    own.take(report, own.updated_at);
    let phase = report.phase.as_ref().map(|phase| format!("[{phase}]"));
    let numbers = Some(format::amounts(&own).join(", ")).filter(|numbers| !numbers.is_empty());
    let head = [phase, numbers].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let line = match (&report.message, head.as_str()) {
        (None, "") => return None,
        (None, head) => head.to_owned(),
        (Some(message), "") => message.clone(),
        (Some(message), head) => format!("{head}: {message}"),
    };
    let mark = if report.level == Level::Error { "error: " } else { "" };
    Some(clean(&format!("{mark}{line}")))
}

fn finished(
    attempt: u32,
    outcome: Option<OutcomeKind>,
    return_code: Option<i32>,
    message: &Option<String>,
) -> Vec<String> {
    let ended = match outcome {
        None | Some(OutcomeKind::Completed) => return Vec::new(),
        Some(OutcomeKind::Failed) => ended(Status::Failed),
        Some(OutcomeKind::Timeout) => ended(Status::Timeout),
        Some(OutcomeKind::Cancelled) => ended(Status::Cancelled),
        Some(OutcomeKind::Lost) => "was lost",
    };
    let code = return_code.map(|code| format!(" with code {code}")).unwrap_or_default();
    // Further lines repeat progress that was shown when it happened.
    let first = message.as_deref().and_then(|message| message.lines().next());
    let why = first.map(|line| format!(": {line}")).unwrap_or_default();
    vec![clean(&format!("attempt {attempt} {ended}{code}{why}"))]
}

/// How an execution or an attempt ended, as a verb: `timed out`.
pub(crate) fn ended(status: Status) -> &'static str {
    match status {
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Timeout => "timed out",
        Status::Cancelled => "was cancelled",
        Status::Requested | Status::Queued | Status::Scheduled | Status::Running | Status::Cancelling => "goes on",
    }
}

/// What a gap stands for.
pub(crate) fn gap(count: u64, reason: GapReason) -> String {
    let (events, are) = if count == 1 { ("event", "is") } else { ("events", "are") };
    match reason {
        GapReason::Merged => format!("({count} more {events} came too fast to be recorded)"),
        GapReason::Lost => format!("({count} {events} can't be had any more)"),
        GapReason::Pruned => format!("({count} older {events} {are} not kept any more)"),
        GapReason::Refused => format!("({count} {events} {are} left out: the database refuses the content)"),
    }
}

pub(crate) fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Notice => "notice",
    }
}

/// `number 3 in line, about 3 min: 17 and 18 run`.
pub(crate) fn position(position: &Position) -> String {
    let wait = position.wait.map(|wait| format!(", {}", about(wait))).unwrap_or_default();
    let number =
        if position.number > 0 { format!("number {} in line{wait}", position.number) } else { "waits".to_owned() };
    clean(&format!("{number}: {}", position.why))
}

/// `code in phase pull: message`.
pub(crate) fn failure(failure: &Failure) -> String {
    let phase = failure.phase.as_ref().map(|phase| format!(" in phase {phase}")).unwrap_or_default();
    format!("{}{phase}: {}", failure.code, failure.message)
}

fn clean(text: &str) -> String {
    output::clean(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use slotline_protocol::{ActionRef, ExecutionId, Timestamp, WorkerName};

    use super::*;

    pub(crate) fn event(number: u64, what: What) -> Event {
        let at = i64::try_from(number).expect("a small number") * 1_000_000;
        Event {
            execution_id: ExecutionId(42),
            action_ref: ActionRef::new("deploy.app").expect("a name"),
            number,
            attempt: 1,
            timestamp: Timestamp::from_micros(at),
            what,
        }
    }

    pub(crate) fn moved(previous: Status, new: Status) -> What {
        What::Status { previous, new, worker: Some(WorkerName::new("w1").expect("a name")) }
    }

    fn one_run() -> Vec<Event> {
        let report = Report { phase: Some("pull".to_owned()), step: Some((2, 7)), ..Report::default() };
        let message = Report { message: Some("a\u{1b}[2Jb\nc".to_owned()), ..Report::default() };
        let lines = vec!["one\ttab".to_owned(), "two\u{7}".to_owned()];
        [
            moved(Status::Queued, Status::Running),
            What::Started,
            What::Progress(Report { message: Some("layer 3".to_owned()), percent: Some(40.0), ..report.clone() }),
            What::Progress(report),
            What::Progress(message),
            What::Progress(Report {
                message: Some("probe failed".to_owned()),
                level: Level::Error,
                ..Report::default()
            }),
            What::Progress(Report::default()),
            What::Log { stream: Stream::Stderr, lines },
            What::Gap { count: 3, reason: GapReason::Lost },
            What::Finished {
                outcome: Some(OutcomeKind::Failed),
                return_code: Some(3),
                message: Some("exit status 3\nInfo - more".to_owned()),
            },
            What::Settled { previous: Status::Running, status: Status::Failed, result: None, error: None },
        ]
        .into_iter()
        .zip(1..)
        .map(|(what, number)| event(number, what))
        .collect()
    }

    #[test]
    fn a_run_is_described_in_lines_that_no_text_of_its_can_break_or_steer() {
        let described = |with_logs| one_run().iter().flat_map(|event| all(event, with_logs)).collect::<Vec<_>>();
        let expected = [
            "execution 42 is running on w1, attempt 1",
            "[pull] 40 %, step 2/7: layer 3",
            "[pull] step 2/7",
            "a\\u{1b}[2Jb\\nc",
            "error: probe failed",
            "stderr | one\ttab",
            "stderr | two\\u{7}",
            "(3 events can't be had any more)",
            "attempt 1 failed with code 3: exit status 3",
        ];
        assert_eq!(described(true), expected);
        assert_eq!(described(false), [&expected[..5], &expected[7..]].concat());
    }

    #[test]
    fn above_the_bar_stands_what_the_bar_does_not_show() {
        let described: Vec<String> = one_run().iter().flat_map(|event| notable(event, false)).collect();
        assert_eq!(
            described,
            ["error: probe failed", "(3 events can't be had any more)", "attempt 1 failed with code 3: exit status 3"]
        );
    }

    #[test]
    fn a_position_in_line_is_shown_with_its_reason_and_the_wait_if_known() {
        let mut here = Position { number: 3, why: "7 holds the slot".to_owned(), wait: None };
        assert_eq!(position(&here), "number 3 in line: 7 holds the slot");
        here.wait = Some(Duration::from_secs(170));
        assert_eq!(position(&here), "number 3 in line, about 3 min: 7 holds the slot");
        assert_eq!(
            position(&Position { number: 0, why: "nobody leads".to_owned(), wait: None }),
            "waits: nobody leads"
        );
    }
}
