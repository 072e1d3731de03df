//! The last reports of an attempt: for the error of an attempt that is ended, so that the error shows them itself.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use serde_json::{Map, Value};
use slotline_protocol::Timestamp;
use slotline_protocol::message::{Level, Report, Task};
use slotline_protocol::record::Newest;

use crate::text::clip;

/// How many of the last reports an error's details hold.
pub const PROGRESS_EVENTS: usize = 10;
/// The longest message of those; all ten and the rest of an error fit its envelope by far.
const MESSAGE_BYTES_MAX: usize = 1 << 10;
const NAME_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Recent {
    /// The newest message of each level, whether it was sent or merged into a newer one.
    info: Option<String>,
    error: Option<String>,
    phase: Option<String>,
    /// The last that were sent, oldest first.
    reports: VecDeque<Sent>,
}

/// Its floating point is finite, as of everything that was sent.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    at: Timestamp,
    report: Report,
}

impl Eq for Sent {}

impl Hash for Sent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.at, &self.report.message, self.report.progress, self.report.step).hash(state);
    }
}

impl Recent {
    /// Takes a report, whether or not it is sent.
    pub(super) fn told(&mut self, report: &Report) {
        if let Some(phase) = &report.phase {
            let phase = self.phase.insert(phase.clone());
            clip(phase, NAME_BYTES_MAX);
        }
        if let Some(message) = &report.message {
            match report.level {
                Level::Info => self.info = Some(message.clone()),
                Level::Error => self.error = Some(message.clone()),
            }
        }
    }

    pub(super) fn sent(&mut self, report: &Report, at: Timestamp) {
        let Report { step, message, progress, unit, phase, percent, level, data: _, task, tasks: _ } = report;
        let clipped = |text: &Option<String>, bytes_max| {
            let mut text = text.clone();
            if let Some(text) = &mut text {
                clip(text, bytes_max);
            }
            text
        };
        let report = Report {
            step: *step,
            message: clipped(message, MESSAGE_BYTES_MAX),
            progress: *progress,
            unit: clipped(unit, NAME_BYTES_MAX),
            phase: clipped(phase, NAME_BYTES_MAX),
            percent: *percent,
            level: *level,
            data: None,
            task: task.as_ref().map(|task| Box::new(Task { error: None, ..Task::clone(task) })),
            tasks: Vec::new(),
        };
        if self.reports.len() >= PROGRESS_EVENTS {
            self.reports.pop_front();
        }
        self.reports.push_back(Sent { at, report });
    }

    /// The phase that was named last.
    pub(super) fn phase(&self) -> Option<Box<str>> {
        self.phase.as_deref().map(Into::into)
    }

    /// `Info - ...` and `Error - ...`: the newest of each level.
    pub(super) fn lines(&self) -> Vec<String> {
        Newest { info: self.info.clone(), error: self.error.clone() }.lines()
    }

    /// An array of objects, oldest first; `None` if nothing was ever sent.
    pub(super) fn progress_events(&self) -> Option<Value> {
        let object = |Sent { at, report }: &Sent| {
            let mut object = Map::from_iter([("timestamp".to_owned(), at.to_string().into())]);
            if let Ok(Value::Object(members)) = serde_json::to_value(report) {
                object.extend(members);
            }
            Value::Object(object)
        };
        (!self.reports.is_empty()).then(|| self.reports.iter().map(object).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_ten_are_kept_and_their_messages_clipped() {
        let mut recent = Recent::default();
        assert_eq!(recent.progress_events(), None);
        for i in 0..=PROGRESS_EVENTS as u64 {
            let message = Some("m".repeat(MESSAGE_BYTES_MAX + 1));
            let report = Report { step: Some((i, 10)), message, data: Some(json!({"a": 1})), ..Report::default() };
            recent.sent(&report, Timestamp::from_micros(0));
        }
        let events = recent.progress_events().expect("some");
        let events = events.as_array().expect("an array");
        assert_eq!((events.len(), &events[0]["step"]), (PROGRESS_EVENTS, &json!([1, 10])));
        assert_eq!(events[0]["message"].as_str().map(str::len), Some(MESSAGE_BYTES_MAX + '…'.len_utf8()));
        assert_eq!((&events[0]["level"], events[0].get("data")), (&json!("info"), None));
        assert_eq!(events[0]["timestamp"], json!(Timestamp::from_micros(0)));
    }
}
