//! The record: everything that happened to one execution, numbered without a gap across its attempts.
//!
//! The same shape in the journal, in the event stream and on a page of events. A worker's event of one attempt is a
//! [`crate::message::Progress`], numbered per attempt; the leader gives each its place in the record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::message::{Failure, GapReason, Level, Report, Stream, Task};
use crate::tasks::Tasks;
use crate::{ActionRef, ExecutionId, OutcomeKind, Status, Timestamp, WorkerName};

/// One event of an execution.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "WireEvent", try_from = "WireEvent")]
pub struct Event {
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    /// 1-based and without a gap.
    pub number: u64,
    /// The attempt it belongs to, as people count them; 0 before the first.
    pub attempt: u32,
    pub timestamp: Timestamp,
    pub what: What,
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Event {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Event".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        WireEvent::json_schema(generator)
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// It moved from one status to another that is not terminal.
    Status {
        previous: Status,
        new: Status,
        worker: Option<WorkerName>,
    },
    /// The process or handler of the attempt began.
    Started,
    Progress(Report),
    Log {
        stream: Stream,
        lines: Vec<String>,
    },
    /// `count` events or reports are left out.
    Gap {
        count: u64,
        reason: GapReason,
    },
    /// The attempt ended; the execution may go on with another.
    Finished {
        outcome: Option<OutcomeKind>,
        return_code: Option<i32>,
        message: Option<String>,
    },
    /// The execution reached its terminal status; nothing follows.
    Settled {
        previous: Status,
        status: Status,
        result: Option<Arc<RawValue>>,
        error: Option<Failure>,
    },
}

/// How far an execution has come: each member by the newest report of its newest attempt that has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latest {
    /// `[done, total]` steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<(u64, u64)>,
    /// `[done, total]` units; the total may be unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<(u64, Option<u64>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The `data` of all reports: the newest of each member; see [`merge_data`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// The tasks of the run, each below the one that it is a part of.
    #[serde(skip_serializing_if = "Tasks::is_empty")]
    pub tasks: Tasks,
    pub updated_at: Timestamp,
}

/// The most bytes of `data`, as JSON: of one report, and of several together.
pub const DATA_BYTES_MAX: usize = 64 << 10;

/// Adds the `data` of a newer report: the members of objects by their names, anything else in place of the older value.
/// Where both together are too large, the newer stands alone.
pub fn merge_data(known: &mut Option<serde_json::Value>, newer: serde_json::Value) {
    use serde_json::Value::Object;
    match (known, newer) {
        (Some(Object(members)), Object(newer)) => {
            members.extend(newer.clone());
            if serde_json::to_vec(members).map_or(0, |text| text.len()) > DATA_BYTES_MAX {
                *members = newer;
            }
        }
        (known, newer) => *known = Some(newer),
    }
}

impl Latest {
    /// Merges a newer report; members that it leaves out stay.
    pub fn take(&mut self, report: &Report, at: Timestamp) {
        self.step = report.step.or(self.step);
        self.progress = report.progress.or(self.progress);
        self.percent = report.percent.or(self.percent);
        for (mine, new) in [(&mut self.unit, &report.unit), (&mut self.phase, &report.phase)] {
            if new.is_some() {
                mine.clone_from(new);
            }
        }
        if let Some(data) = &report.data {
            merge_data(&mut self.data, data.clone());
        }
        for task in report.tasks.iter().chain(report.task.as_deref()) {
            self.tasks.take(task, at);
        }
        self.updated_at = at;
    }
}

/// The newest message of each level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Newest {
    #[serde(rename = "Info", skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    #[serde(rename = "Error", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Newest {
    pub fn is_empty(&self) -> bool {
        self.info.is_none() && self.error.is_none()
    }

    /// Takes a report's message, if it has one.
    pub fn take(&mut self, report: &Report) {
        let mine = match report.level {
            Level::Info => &mut self.info,
            Level::Error => &mut self.error,
        };
        if report.message.is_some() {
            mine.clone_from(&report.message);
        }
    }

    /// `Info - ...` and `Error - ...`, for people.
    pub fn lines(&self) -> Vec<String> {
        let line = |level: &str, message: &Option<String>| Some(format!("{level} - {}", message.as_ref()?));
        line("Info", &self.info).into_iter().chain(line("Error", &self.error)).collect()
    }
}

/// The kinds of events, as they are spelt in `kind` and in `event:` of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Status,
    Started,
    Progress,
    Log,
    Gap,
    Finished,
    Settled,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Log => "log",
            Self::Gap => "gap",
            Self::Finished => "finished",
            Self::Settled => "settled",
        }
    }
}

impl What {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Status { .. } => Kind::Status,
            Self::Started => Kind::Started,
            Self::Progress(_) => Kind::Progress,
            Self::Log { .. } => Kind::Log,
            Self::Gap { .. } => Kind::Gap,
            Self::Finished { .. } => Kind::Finished,
            Self::Settled { .. } => Kind::Settled,
        }
    }
}

/// The flat shape. Not a tagged enum of serde's: a result must stay as its worker wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(expecting = "an event")]
struct WireEvent {
    execution_id: ExecutionId,
    action_ref: ActionRef,
    number: u64,
    attempt: u32,
    timestamp: Timestamp,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<(u64, Option<u64>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<Box<Task>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tasks: Vec<Task>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<Stream>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<GapReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    return_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Arc<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl From<Event> for WireEvent {
    fn from(event: Event) -> Self {
        let Event { execution_id, action_ref, number, attempt, timestamp, what } = event;
        let wire = Self {
            execution_id,
            action_ref,
            number,
            attempt,
            timestamp,
            kind: what.kind(),
            previous_status: None,
            new_status: None,
            worker: None,
            step: None,
            message: None,
            progress: None,
            unit: None,
            phase: None,
            percent: None,
            level: None,
            data: None,
            task: None,
            tasks: Vec::new(),
            stream: None,
            lines: None,
            count: None,
            reason: None,
            outcome: None,
            return_code: None,
            status: None,
            result: None,
            error: None,
        };
        match what {
            What::Status { previous, new, worker } => {
                Self { previous_status: Some(previous), new_status: Some(new), worker, ..wire }
            }
            What::Started => wire,
            What::Progress(report) => {
                let Report { step, message, progress, unit, phase, percent, level, data, task, tasks } = report;
                let level = Some(level);
                Self { step, message, progress, unit, phase, percent, level, data, task, tasks, ..wire }
            }
            What::Log { stream, lines } => Self { stream: Some(stream), lines: Some(lines), ..wire },
            What::Gap { count, reason } => Self { count: Some(count), reason: Some(reason), ..wire },
            What::Finished { outcome, return_code, message } => Self { outcome, return_code, message, ..wire },
            What::Settled { previous, status, result, error } => {
                Self { previous_status: Some(previous), status: Some(status), result, error, ..wire }
            }
        }
    }
}

/// A member that the event's kind requires is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of this kind needs {0}")]
struct MissingMember(&'static str);

impl TryFrom<WireEvent> for Event {
    type Error = MissingMember;

    fn try_from(wire: WireEvent) -> Result<Self, MissingMember> {
        fn required<T>(value: Option<T>, name: &'static str) -> Result<T, MissingMember> {
            value.ok_or(MissingMember(name))
        }
        let what = match wire.kind {
            Kind::Status => What::Status {
                previous: required(wire.previous_status, "previous_status")?,
                new: required(wire.new_status, "new_status")?,
                worker: wire.worker,
            },
            Kind::Started => What::Started,
            Kind::Progress => What::Progress(Report {
                step: wire.step,
                message: wire.message,
                progress: wire.progress,
                unit: wire.unit,
                phase: wire.phase,
                percent: wire.percent,
                level: wire.level.unwrap_or_default(),
                data: wire.data,
                task: wire.task,
                tasks: wire.tasks,
            }),
            Kind::Log => What::Log { stream: required(wire.stream, "stream")?, lines: required(wire.lines, "lines")? },
            Kind::Gap => What::Gap { count: required(wire.count, "count")?, reason: required(wire.reason, "reason")? },
            Kind::Finished => {
                What::Finished { outcome: wire.outcome, return_code: wire.return_code, message: wire.message }
            }
            Kind::Settled => What::Settled {
                previous: required(wire.previous_status, "previous_status")?,
                status: required(wire.status, "status")?,
                result: wire.result,
                error: wire.error,
            },
        };
        let WireEvent { execution_id, action_ref, number, attempt, timestamp, .. } = wire;
        Ok(Self { execution_id, action_ref, number, attempt, timestamp, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(what: What) -> serde_json::Value {
        let event = Event {
            execution_id: ExecutionId(42),
            action_ref: ActionRef::new("deploy.app").expect("a name"),
            number: 7,
            attempt: 1,
            timestamp: Timestamp::from_micros(0),
            what,
        };
        let text = serde_json::to_string(&event).expect("plain data");
        let read: Event = serde_json::from_str(&text).expect("what was written can be read");
        assert_eq!(serde_json::to_string(&read).expect("plain data"), text);
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn the_data_of_reports_is_merged_by_key_and_the_newest_stands_alone_where_all_is_too_much() {
        let (mut latest, at) = (Latest::default(), Timestamp::from_micros(1));
        let mut take = |data: serde_json::Value| {
            latest.take(&Report { data: Some(data), ..Report::default() }, at);
            latest.data.clone().expect("it has some")
        };
        take(serde_json::json!({"url": "http://a", "rows": 1}));
        let merged = take(serde_json::json!({"rows": 2, "eta": null}));
        assert_eq!(merged, serde_json::json!({"url": "http://a", "rows": 2, "eta": null}));
        let large = |name: &str| serde_json::json!({name: "x".repeat(DATA_BYTES_MAX - 10)});
        assert_eq!(take(large("a")), large("a"));
        assert_eq!(take(large("b")), large("b"));
        assert_eq!(take(serde_json::json!(3)), 3);
    }

    #[test]
    fn every_kind_is_flat_and_written_as_it_is_read() {
        let report = Report { step: Some((2, 7)), message: Some("pulling".to_owned()), ..Report::default() };
        let json = again(What::Progress(report));
        assert_eq!(json["kind"], "progress");
        assert_eq!(json["step"], serde_json::json!([2, 7]));
        assert_eq!(json["level"], "info");
        assert_eq!(again(What::Started)["kind"], "started");
        assert_eq!(again(What::Gap { count: 3, reason: GapReason::Lost })["reason"], "lost");
        let moved = What::Status { previous: Status::Queued, new: Status::Scheduled, worker: None };
        assert_eq!(again(moved)["new_status"], "scheduled");
        assert_eq!(again(What::Log { stream: Stream::Notice, lines: vec!["a".to_owned()] })["stream"], "notice");
        let finished = What::Finished { outcome: Some(OutcomeKind::Failed), return_code: Some(3), message: None };
        assert_eq!(again(finished)["return_code"], 3);
    }

    #[test]
    fn a_result_stays_as_its_worker_wrote_it() {
        let result = RawValue::from_string(r#"{"n":1.10,"big":123456789012345678901234567890}"#.to_owned());
        let result = Arc::from(result.expect("JSON"));
        let event = Event {
            execution_id: ExecutionId(1),
            action_ref: ActionRef::new("a.b").expect("a name"),
            number: 3,
            attempt: 1,
            timestamp: Timestamp::from_micros(0),
            what: What::Settled {
                previous: Status::Running,
                status: Status::Completed,
                result: Some(result),
                error: None,
            },
        };
        let text = serde_json::to_string(&event).expect("plain data");
        assert!(text.contains(r#""result":{"n":1.10,"big":123456789012345678901234567890}"#), "{text}");
        let read: Event = serde_json::from_str(&text).expect("readable");
        assert_eq!(serde_json::to_string(&read).expect("plain data"), text);
    }

    #[test]
    fn an_event_without_what_its_kind_needs_is_refused_by_name() {
        let text = r#"{"execution_id":1,"action_ref":"a.b","number":1,"attempt":0,"timestamp":"1970-01-01T00:00:00Z","kind":"gap"}"#;
        let error = serde_json::from_str::<Event>(text).expect_err("no count").to_string();
        assert!(error.contains("count"), "{error}");
    }
}
