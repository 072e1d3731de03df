//! `slotline progress`: a command says how far it has come.
//!
//! It never fails the command it is called from: where nobody listens, the report is dropped in silence. Numbers that
//! make no sense together (step 9 of 7) are sent, and the worker notes them in the log of the execution. Only what is
//! no report at all ends with 2. Not here: a runtime, settings, the API; a script may call this in a loop.

use std::ffi::OsString;
use std::process::ExitCode;

use slotline_protocol::message::{Level, Report};

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
    /// The message tells what went wrong
    #[arg(long, requires = "message")]
    error: bool,
    /// For people; after -- it may begin with a dash
    message: Option<OsString>,
}

pub(crate) fn progress(args: Args) -> ExitCode {
    // Whether it arrives is no concern of the script that reports.
    let _ = slotline_worker::progress::send(&report(args));
    ExitCode::SUCCESS
}

fn report(args: Args) -> Report {
    Report {
        step: args.step,
        message: args.message.map(text),
        progress: args.done.map(|done| (done, args.total)),
        unit: args.unit.map(text),
        phase: args.phase.map(text),
        percent: args.percent,
        level: if args.error { Level::Error } else { Level::Info },
        data: None,
    }
}

/// What is no UTF-8 is replaced; a report with it is worth more than none.
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
        };
        assert_eq!(read(&arguments), Ok(expected));
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
