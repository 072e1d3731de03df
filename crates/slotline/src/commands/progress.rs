//! `slotline progress`: a command reports how far it has come.
//!
//! It never makes the calling command fail: without a worker that listens the report is dropped. Numbers that make no sense
//! together (step 9 of 7) are sent, and the worker notes them in the log of the execution. Arguments that are no report are
//! named on stderr; they exit with 2 only where no worker runs the caller. Not here: a runtime, settings, the API; a script may call this in a loop.

use std::ffi::OsString;
use std::process::ExitCode;

use slotline_protocol::message::{Failure, Level, Report, Task, TaskStatus};

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Args {
    /// Steps done, of all, such as 2/7
    #[arg(long, value_name = "DONE/TOTAL", value_parser = step)]
    step: Option<(u64, u64)>,
    /// Units done
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    done: Option<u64>,
    /// Units in all, if known
    #[arg(long, value_name = "NUMBER", requires = "done", allow_negative_numbers = true)]
    total: Option<u64>,
    /// What the units are, such as Bytes
    #[arg(long, value_name = "NAME", requires = "done")]
    unit: Option<OsString>,
    /// 0 to 100
    #[arg(long, value_name = "NUMBER", value_parser = percent, allow_negative_numbers = true)]
    percent: Option<f64>,
    /// What is being done now
    #[arg(long, value_name = "NAME")]
    phase: Option<OsString>,
    /// The message is an error
    #[arg(long, requires = "message")]
    error: bool,
    /// The task of the run that this report is about
    #[arg(long, value_name = "NAME")]
    task: Option<OsString>,
    /// The task that it is a part of
    #[arg(long, value_name = "NAME", requires = "task")]
    task_parent: Option<OsString>,
    /// How the task stands: started, completed, failed, skipped
    #[arg(long, value_name = "STATUS", requires = "task", value_parser = task_status)]
    task_status: Option<TaskStatus>,
    /// Steps done of the task, of all, such as 2/7
    #[arg(long, value_name = "DONE/TOTAL", requires = "task", value_parser = step)]
    task_step: Option<(u64, u64)>,
    /// Why the task failed
    #[arg(long, value_name = "MESSAGE", requires = "task")]
    task_error: Option<OsString>,
    /// A code for that
    #[arg(long, value_name = "CODE", requires = "task_error")]
    task_error_code: Option<OsString>,
    /// For people; after -- it may begin with a dash
    message: Option<OsString>,
}

pub(crate) fn progress(args: Args) -> ExitCode {
    // The script must not depend on whether the report arrives.
    let _ = slotline_worker::progress::send(&report(args));
    ExitCode::SUCCESS
}

fn report(mut args: Args) -> Report {
    let task = task(&mut args).map(Box::new);
    Report {
        step: args.step,
        message: args.message.map(text),
        progress: args.done.map(|done| (done, args.total)),
        unit: args.unit.map(text),
        phase: args.phase.map(text),
        percent: args.percent,
        level: if args.error { Level::Error } else { Level::Info },
        data: None,
        task,
        tasks: Vec::new(),
    }
}

fn task(args: &mut Args) -> Option<Task> {
    let name = text(args.task.take()?);
    let code = args.task_error_code.take().map_or_else(|| "task_failed".to_owned(), text);
    let error = args.task_error.take().map(|message| Failure::new(&code, text(message)));
    // A task with an error has failed.
    let status = args.task_status.or(error.as_ref().map(|_| TaskStatus::Failed));
    Some(Task { name, parent: args.task_parent.take().map(text), status, step: args.task_step, error })
}

fn task_status(text: &str) -> Result<TaskStatus, String> {
    let found = TaskStatus::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| format!("expected one of {}", TaskStatus::ALL.map(TaskStatus::as_str).join(", ")))
}

/// Bytes that are no UTF-8 are replaced, so that the rest of the report is sent.
fn text(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

fn step(text: &str) -> Result<(u64, u64), String> {
    let numbers = text.split_once('/').and_then(|(done, total)| Some((done.parse().ok()?, total.parse().ok()?)));
    numbers.ok_or_else(|| "expected steps done and in all, such as 2/7".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| "expected a number such as 40")?;
    if percent.is_finite() { Ok(percent) } else { Err("expected a finite number".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn read(arguments: &[&str]) -> Result<Report, String> {
        let arguments = ["progress"].iter().chain(arguments);
        Program::try_parse_from(arguments).map(|program| report(program.args)).map_err(|error| error.to_string())
    }

    #[test]
    fn each_flag_is_a_member_of_the_report() {
        let all = "--step 2/7 --done 60 --total 1024 --unit Bytes --percent 40.5 --phase pull --error".split(' ');
        let arguments: Vec<&str> = all.chain(["it is slow"]).collect();
        let expected = Report {
            step: Some((2, 7)),
            message: Some("it is slow".to_owned()),
            progress: Some((60, Some(1024))),
            unit: Some("Bytes".to_owned()),
            phase: Some("pull".to_owned()),
            percent: Some(40.5),
            level: Level::Error,
            data: None,
            task: None,
            tasks: Vec::new(),
        };
        assert_eq!(read(&arguments), Ok(expected));
        let error = Failure::new("no_disk", "it is full");
        let task =
            Task { name: "layer".to_owned(), status: Some(TaskStatus::Failed), step: Some((1, 3)), ..Task::default() };
        let task = Task { parent: Some("pull".to_owned()), error: Some(error), ..task };
        let arguments =
            "--task layer --task-parent pull --task-step 1/3 --task-error-code no_disk --task-error".split(' ');
        let arguments: Vec<&str> = arguments.chain(["it is full"]).collect();
        assert_eq!(read(&arguments), Ok(Report { task: Some(Box::new(task)), ..Report::default() }));
        let half = Report { percent: Some(50.0), ..Report::default() };
        assert_eq!(read(&["--percent", "50%"]), Ok(half));
        let dashed = Report { message: Some("-> done".to_owned()), ..Report::default() };
        assert_eq!(read(&["--", "-> done"]), Ok(dashed));
    }

    #[test]
    fn numbers_that_make_no_sense_together_are_left_to_the_worker_to_note() {
        let report = |step, progress, percent| Report { step, progress, percent, ..Report::default() };
        assert_eq!(read(&["--step", "9/7"]), Ok(report(Some((9, 7)), None, None)));
        assert_eq!(read(&["--done", "9", "--total", "7"]), Ok(report(None, Some((9, Some(7))), None)));
        assert_eq!(read(&["--percent", "140"]), Ok(report(None, None, Some(140.0))));
    }

    #[test]
    fn what_is_no_report_is_refused_by_the_name_of_its_flag() {
        for (arguments, expected) in [
            (&[][..], "--step"),
            (&["--step", "2"], "--step"),
            (&["--step", "two/seven"], "--step"),
            (&["--done", "-5"], "--done"),
            (&["--done", "5", "--total", "-5"], "--total"),
            (&["--total", "5"], "--done"),
            (&["--unit", "Bytes"], "--done"),
            (&["--percent", "nan"], "--percent"),
            (&["--percent", "much"], "--percent"),
            (&["--task", "a", "--task-status", "done"], "--task-status"),
            (&["--task-status", "started"], "--task"),
            (&["--error"], "MESSAGE"),
            (&["two", "words"], "words"),
        ] {
            let error = read(arguments).expect_err("no report");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn text_is_taken_whatever_its_bytes() {
        assert_eq!(text(OsString::from_vec(vec![b'a', 0xff, b'b'])), "a\u{fffd}b");
    }
}
