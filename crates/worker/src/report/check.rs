//! What a report may contain: nonsense is clipped or left out, with a warning; the rest is taken.
//!
//! Both ways to report pass through here, a handler's calls and a command's lines. Not here: how often a report is sent
//! (`duty`), and how many warnings there may be (`feed`).

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Map, Value};
use slotline_protocol::message::{Failure, Level, Report, Task, TaskStatus};
use slotline_protocol::record::DATA_BYTES_MAX;

use crate::duty::limit;
use crate::text::clip;

/// The longest message, phase or unit of a report; what is longer is clipped.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The longest name of a task, and code of its error.
const TASK_NAME_BYTES_MAX: usize = 256;
/// The longest message of a task's error, and the longest stack trace or details.
const TASK_ERROR_BYTES_MAX: usize = 2 << 10;
const TASK_TRACE_BYTES_MAX: usize = 16 << 10;
/// The code of a task's error that has none.
const TASK_FAILED: &str = "task_failed";
/// How much of a refused value a warning shows.
const QUOTED_BYTES_MAX: usize = 64;

/// Takes a warning about a report. Called only for nonsense, so it may cost.
pub(crate) type Warn<'a> = &'a mut dyn FnMut(String);

/// The report with everything that makes no sense clipped or left out.
pub(crate) fn checked(mut report: Report, warn: Warn<'_>) -> Report {
    if let Some((done, total)) = &mut report.step
        && *done > *total
    {
        warn(format!("step {done} is beyond the total of {total}: clipped"));
        *done = *total;
    }
    if let Some((done, Some(total))) = &mut report.progress
        && *done > *total
    {
        warn(format!("progress {done} is beyond the total of {total}: clipped"));
        *done = *total;
    }
    if let Some(percent) = report.percent
        && !(0.0..=100.0).contains(&percent)
    {
        report.percent = if percent.is_nan() {
            warn("percent is no number: left out".to_owned());
            None
        } else {
            warn(format!("percent {percent} is not within 0 to 100: clipped"));
            Some(percent.clamp(0.0, 100.0))
        };
    }
    for (name, text) in [("message", &mut report.message), ("phase", &mut report.phase), ("unit", &mut report.unit)] {
        if let Some(text) = text
            && text.len() > MESSAGE_BYTES_MAX
        {
            warn(format!("{name} has {} bytes: cut after {MESSAGE_BYTES_MAX}", text.len()));
            clip(text, MESSAGE_BYTES_MAX);
        }
    }
    if let Some(data) = &report.data {
        let text = data.to_string();
        if text.len() > DATA_BYTES_MAX {
            warn(format!("data has {} bytes, expected at most {DATA_BYTES_MAX}: left out", text.len()));
            report.data = None;
        } else if limit::depth(&text) > limit::RESULT_DEPTH_MAX {
            warn(format!("data is nested deeper than {}: left out", limit::RESULT_DEPTH_MAX));
            report.data = None;
        }
    }
    report.task = report.task.take().and_then(|task| checked_task(task, warn));
    report
}

/// Reads one line that a command wrote. `None`: nothing of it could be taken.
pub(crate) fn read(line: &[u8], warn: Warn<'_>) -> Option<Report> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    if let std::borrow::Cow::Owned(_) = text {
        warn(format!("a report is not UTF-8, what is not is replaced: {}", quoted(&text)));
    }
    let members: Map<String, Value> = match serde_json::from_str(&text) {
        Ok(members) => members,
        Err(error) => {
            warn(format!("a report is no JSON object ({error}): {}", quoted(&text)));
            return None;
        }
    };
    let mut report = Report::default();
    let mut understood = members.is_empty();
    for (name, value) in members {
        if value.is_null() {
            understood = true;
            continue;
        }
        match take(&mut report, &name, value) {
            Ok(()) => understood = true,
            Err(Refused { expected, found }) => warn(match expected {
                Some(expected) => format!("{name} is {}, expected {expected}: left out", quoted(&found.to_string())),
                None => format!("a report has no member {}: left out", quoted(&name)),
            }),
        }
    }
    understood.then(|| checked(report, warn))
}

struct Refused {
    /// `None`: a report has no such member.
    expected: Option<&'static str>,
    found: Value,
}

fn take(report: &mut Report, name: &str, value: Value) -> Result<(), Refused> {
    let refuse = |expected, found| Err(Refused { expected: Some(expected), found });
    match name {
        "step" => match pair(&value) {
            Some((done, Some(total))) => report.step = Some((done, total)),
            Some((_, None)) | None => return refuse("[done, total], both integers of at least 0", value),
        },
        "progress" => match pair(&value) {
            Some(progress) => report.progress = Some(progress),
            None => return refuse("[done, total], integers of at least 0, the total null if unknown", value),
        },
        "percent" => match value.as_f64() {
            Some(percent) => report.percent = Some(percent),
            None => return refuse("a number from 0 to 100", value),
        },
        "level" => match value.as_str() {
            Some("info") => report.level = Level::Info,
            Some("error") => report.level = Level::Error,
            Some(_) | None => return refuse("\"info\" or \"error\"", value),
        },
        "message" => report.message = Some(text(value)?),
        "phase" => report.phase = Some(text(value)?),
        "unit" => report.unit = Some(text(value)?),
        "data" => report.data = Some(value),
        "task" => match serde_json::from_value::<TaskLine>(value.clone()) {
            Ok(line) => report.task = Some(Box::new(line.into())),
            Err(_) => return refuse(TASK, value),
        },
        _ => return Err(Refused { expected: None, found: value }),
    }
    Ok(())
}

/// What a `task` may be.
const TASK: &str = "an object with a name, and perhaps a parent, a status (started, completed, failed, skipped), \
    a step [done, total] and an error {message, code, details, stack_trace}";

/// A task as a line has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskLine {
    name: String,
    parent: Option<String>,
    status: Option<TaskStatus>,
    step: Option<(u64, u64)>,
    error: Option<ErrorLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorLine {
    message: String,
    code: Option<String>,
    details: Option<Value>,
    stack_trace: Option<String>,
}

impl From<TaskLine> for Task {
    fn from(TaskLine { name, parent, status, step, error }: TaskLine) -> Self {
        let error = error.map(|ErrorLine { message, code, details, stack_trace }| Failure {
            details,
            stack_trace,
            ..Failure::new(code.as_deref().unwrap_or(TASK_FAILED), message)
        });
        Self { name, parent, status, step, error }
    }
}

/// The task with everything that makes no sense clipped; `None` without a name.
fn checked_task(mut task: Box<Task>, warn: Warn<'_>) -> Option<Box<Task>> {
    if task.name.is_empty() {
        warn("a task has no name: left out".to_owned());
        return None;
    }
    for name in [Some(&mut task.name), task.parent.as_mut()].into_iter().flatten() {
        if name.len() > TASK_NAME_BYTES_MAX {
            warn(format!("the name of a task has {} bytes: cut after {TASK_NAME_BYTES_MAX}", name.len()));
            clip(name, TASK_NAME_BYTES_MAX);
        }
    }
    if let Some((done, total)) = &mut task.step
        && *done > *total
    {
        warn(format!("step {done} of task {} is beyond the total of {total}: clipped", quoted(&task.name)));
        *done = *total;
    }
    if let Some(error) = &mut task.error {
        clip(&mut error.code, TASK_NAME_BYTES_MAX);
        clip(&mut error.message, TASK_ERROR_BYTES_MAX);
        if let Some(stack_trace) = &mut error.stack_trace {
            clip(stack_trace, TASK_TRACE_BYTES_MAX);
        }
        error.details = error.details.take().filter(|details| details.to_string().len() <= TASK_TRACE_BYTES_MAX);
    }
    Some(task)
}

fn text(value: Value) -> Result<String, Refused> {
    match value {
        Value::String(text) => Ok(text),
        found @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(Refused { expected: Some("a string"), found })
        }
    }
}

fn pair(value: &Value) -> Option<(u64, Option<u64>)> {
    match value.as_array()?.as_slice() {
        [done, Value::Null] => Some((done.as_u64()?, None)),
        [done, total] => Some((done.as_u64()?, Some(total.as_u64()?))),
        _ => None,
    }
}

/// Short, and on one line, whatever it holds.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if quoted.len() >= QUOTED_BYTES_MAX {
            quoted.push('…');
            break;
        }
        if c.is_control() {
            let _ = write!(quoted, "{}", c.escape_default());
        } else {
            quoted.push(c);
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_all(line: &[u8]) -> (Option<Report>, Vec<String>) {
        let mut warnings = Vec::new();
        let report = read(line, &mut |warning| warnings.push(warning));
        (report, warnings)
    }

    /// One warning that names what is wrong; what is left of the report.
    #[track_caller]
    fn check(line: &str, warning: &str, left: Option<Report>) {
        let (report, warnings) = read_all(line.as_bytes());
        assert!(warnings.len() == 1 && warnings[0].contains(warning), "{warnings:?}");
        assert_eq!(report, left, "{line}");
    }

    #[test]
    fn a_line_says_all_that_a_report_can() {
        let line = r#"{"step": [2, 7], "message": "pulling", "progress": [60, null], "unit": "Bytes", "phase": "pull",
            "percent": 40.5, "level": "error", "data": {"a": 1}, "task": {"name": "layer", "parent": "pull",
            "status": "failed", "step": [1, 3], "error": {"message": "no space", "stack_trace": "at 1"}}}"#;
        let error = Failure { stack_trace: Some("at 1".to_owned()), ..Failure::new("task_failed", "no space") };
        let task = Task {
            name: "layer".to_owned(),
            parent: Some("pull".to_owned()),
            status: Some(TaskStatus::Failed),
            step: Some((1, 3)),
            error: Some(error),
        };
        let (report, warnings) = read_all(line.as_bytes());
        let expected = Report {
            step: Some((2, 7)),
            message: Some("pulling".to_owned()),
            progress: Some((60, None)),
            unit: Some("Bytes".to_owned()),
            phase: Some("pull".to_owned()),
            percent: Some(40.5),
            level: Level::Error,
            data: Some(json!({"a": 1})),
            task: Some(Box::new(task)),
            tasks: Vec::new(),
        };
        assert_eq!((report, warnings), (Some(expected), vec![]));
    }

    #[test]
    fn nonsense_is_left_out_by_name_and_the_rest_is_taken() {
        let ok = Report { message: Some("ok".to_owned()), ..Report::default() };
        check(r#"{"message": "ok", "colour": 1}"#, "no member colour", Some(ok.clone()));
        check(r#"{"message": "ok", "level": "warning"}"#, "level is \"warning\"", Some(ok.clone()));
        check(r#"{"message": "ok", "step": [-1, 3]}"#, "step is [-1,3]", Some(ok.clone()));
        check(r#"{"message": "ok", "step": [1, null]}"#, "step is", Some(ok.clone()));
        check(r#"{"message": "ok", "progress": [1, -2]}"#, "progress is [1,-2]", Some(ok.clone()));
        check(r#"{"message": "ok", "progress": 7}"#, "progress is 7", Some(ok.clone()));
        check(r#"{"message": "ok", "percent": "half"}"#, "percent is \"half\"", Some(ok.clone()));
        check(r#"{"message": "ok", "unit": 3}"#, "unit is 3", Some(ok.clone()));
        check(
            r#"{"message": "ok", "task": {"status": "started"}}"#,
            "expected an object with a name",
            Some(ok.clone()),
        );
        check(r#"{"message": "ok", "task": {"name": ""}}"#, "a task has no name", Some(ok.clone()));
        check(r#"{"message": "ok", "task": {"name": "a", "status": "done"}}"#, "task is", Some(ok.clone()));
        check(r#"{"message": 3}"#, "message is 3", None);
        check(r#"{"percent": NaN}"#, "no JSON object", None);
        check("hello", "no JSON object", None);
        check("[1]", "no JSON object", None);
    }

    #[test]
    fn what_is_out_of_range_is_clipped() {
        let step = Report { step: Some((3, 3)), ..Report::default() };
        check(r#"{"step": [7, 3]}"#, "step 7 is beyond the total of 3", Some(step));
        let progress = Report { progress: Some((9, Some(9))), ..Report::default() };
        check(r#"{"progress": [10, 9]}"#, "progress 10 is beyond", Some(progress));
        let percent = Report { percent: Some(100.0), ..Report::default() };
        check(r#"{"percent": 100.5}"#, "percent 100.5 is not within", Some(percent));
        let percent = Report { percent: Some(0.0), ..Report::default() };
        check(r#"{"percent": -3}"#, "percent -3 is not within", Some(percent));
    }

    #[test]
    fn a_text_at_the_limit_is_whole_and_one_past_it_is_cut_at_a_character() {
        let say = |text: String| Report { message: Some(text), ..Report::default() };
        let mut warnings = 0;
        let whole = checked(say("ä".repeat(MESSAGE_BYTES_MAX / 2)), &mut |_| warnings += 1);
        assert_eq!((whole.message.expect("kept").len(), warnings), (MESSAGE_BYTES_MAX, 0));
        let cut = checked(say("ä".repeat(5 << 20)), &mut |_| warnings += 1).message.expect("kept");
        assert!(cut.len() <= MESSAGE_BYTES_MAX + 3 && cut.ends_with('…'));
        assert_eq!(warnings, 1);
    }

    #[test]
    fn data_at_the_limit_is_taken_and_larger_or_deeper_data_is_left_out() {
        let with = |data: Value| Report { data: Some(data), ..Report::default() };
        let mut warnings = Vec::new();
        let mut left = |data| checked(with(data), &mut |warning| warnings.push(warning)).data.is_some();
        assert!(left("x".repeat(DATA_BYTES_MAX - 2).into()));
        assert!(!left("x".repeat(DATA_BYTES_MAX - 1).into()));
        let deep = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(left(deep(limit::RESULT_DEPTH_MAX)));
        assert!(!left(deep(limit::RESULT_DEPTH_MAX + 1)));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn what_is_not_utf8_is_replaced_and_a_percent_that_is_no_number_left_out() {
        let (report, warnings) = read_all(b"{\"message\": \"a\xff\"}");
        assert_eq!(report.and_then(|report| report.message).as_deref(), Some("a\u{fffd}"));
        assert!(warnings.len() == 1 && warnings[0].contains("not UTF-8"), "{warnings:?}");
        let mut warnings = Vec::new();
        let nan = Report { percent: Some(f64::NAN), ..Report::default() };
        assert_eq!(checked(nan, &mut |warning| warnings.push(warning)), Report::default());
        assert_eq!(warnings, ["percent is no number: left out"]);
    }

    #[test]
    fn a_warning_is_short_and_on_one_line() {
        let (_, warnings) = read_all(format!("{{\"a\\n{}\": 1}}", "x".repeat(10_000)).as_bytes());
        assert!(warnings[0].len() < 200 && !warnings[0].contains('\n'), "{warnings:?}");
    }

    #[test]
    fn an_empty_line_says_nothing_and_nulls_are_absent() {
        assert_eq!(read_all(b"  \r"), (None, vec![]));
        assert_eq!(read_all(br#"{"message": null}"#), (Some(Report::default()), vec![]));
    }
}
