//! What a terminal shows of an execution: a function of the events so far and of its position in line.
//!
//! Not here: drawing it (`screen`), and the lines above it (`describe`).

use slotline_protocol::record::{Event, Latest, What};
use slotline_protocol::{ExecutionId, Status, Timestamp};

use crate::client::position::Position;
use crate::show::format::{self, Speed, about};
use crate::show::{describe, output};

/// An execution as it stands.
pub(crate) struct View {
    id: ExecutionId,
    status: Status,
    attempt: u32,
    position: Option<Position>,
    latest: Latest,
    message: Option<String>,
    speed: Speed,
    started: Option<Timestamp>,
}

/// What to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Frame {
    /// From 0 to 1; without it there is no bar.
    pub(crate) share: Option<f64>,
    /// Beside the bar.
    pub(crate) head: String,
    /// Below it.
    pub(crate) message: String,
    /// Below that: the tasks of the run.
    pub(crate) tasks: Vec<String>,
    /// Since when it has run.
    pub(crate) started: Option<Timestamp>,
}

impl View {
    pub(crate) fn new(id: ExecutionId) -> Self {
        Self {
            id,
            status: Status::Requested,
            attempt: 0,
            position: None,
            latest: Latest::default(),
            message: None,
            speed: Speed::default(),
            started: None,
        }
    }

    pub(crate) fn take(&mut self, event: &Event) {
        if event.attempt > self.attempt {
            // The numbers of the attempt before do not count for this one.
            *self = Self { attempt: event.attempt, status: self.status, ..Self::new(self.id) };
        }
        match &event.what {
            What::Status { new, .. } => {
                self.status = *new;
                self.position = None;
            }
            What::Started => self.started = Some(event.timestamp),
            What::Progress(report) => {
                if report.phase.is_some() && report.phase != self.latest.phase {
                    self.forget_numbers();
                }
                self.latest.take(report, event.timestamp);
                if let Some((done, _)) = report.progress {
                    self.speed.take(event.timestamp, done);
                }
                if report.message.is_some() {
                    self.message.clone_from(&report.message);
                }
            }
            What::Finished { .. } => {
                self.forget_numbers();
                self.latest = Latest::default();
                self.message = None;
                self.started = None;
            }
            What::Settled { status, .. } => self.status = *status,
            What::Log { .. } | What::Gap { .. } => {}
        }
    }

    /// Steps and amounts belong to one phase.
    fn forget_numbers(&mut self) {
        self.latest = Latest { step: None, progress: None, unit: None, ..std::mem::take(&mut self.latest) };
        self.speed = Speed::default();
    }

    pub(crate) fn set_position(&mut self, position: Position) {
        if matches!(self.status, Status::Requested | Status::Queued) {
            self.position = Some(position);
        }
    }

    pub(crate) fn frame(&self) -> Frame {
        if let Some(position) = &self.position {
            let head = format!("execution {} waits", self.id);
            return Frame { head, message: describe::position(position), ..Frame::default() };
        }
        let again = if self.attempt > 1 { format!(", attempt {}", self.attempt) } else { String::new() };
        let mut head = vec![format!("execution {} is {}{again}", self.id, self.status)];
        head.extend(self.latest.phase.as_ref().map(|phase| format!("[{phase}]")));
        head.extend(format::amounts(&self.latest));
        head.extend(self.speed.per_second_text(&self.latest));
        head.extend(self.speed.left(&self.latest).map(|left| format!("{} left", about(left))));
        Frame {
            share: format::share(&self.latest),
            head: output::clean(&head.join("  ")),
            message: output::clean(self.message.as_deref().unwrap_or_default()),
            tasks: describe::tree(&self.latest.tasks),
            started: self.started,
        }
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::message::{Failure, Report, Task, TaskStatus};

    use super::*;
    use crate::show::describe::tests::{event, moved};

    fn after(events: impl IntoIterator<Item = What>) -> View {
        let mut view = View::new(ExecutionId(42));
        events.into_iter().zip(1..).for_each(|(what, number)| view.take(&event(number, what)));
        view
    }

    fn bytes(done: u64) -> What {
        let progress = Some((done << 20, Some(10 << 20)));
        What::Progress(Report { progress, unit: Some("Bytes".to_owned()), ..Report::default() })
    }

    fn message(phase: Option<&str>, message: &str) -> What {
        What::Progress(Report {
            phase: phase.map(str::to_owned),
            message: Some(message.to_owned()),
            ..Report::default()
        })
    }

    #[test]
    fn a_transfer_is_a_bar_with_amounts_speed_and_time_left() {
        let mut view = after([moved(Status::Scheduled, Status::Running), What::Started, bytes(0), bytes(2)]);
        let frame = view.frame();
        assert_eq!(frame.share, Some(0.2));
        assert_eq!(frame.head, "execution 42 is running  2.00 MiB/10.00 MiB  2.00 MiB/s  about 4 s left");
        assert_eq!(frame.started, Some(Timestamp::from_micros(2_000_000)));
        view.take(&event(5, message(None, "a\u{1b}[1mb")));
        assert_eq!(view.frame().message, "a\\u{1b}[1mb");
    }

    #[test]
    fn a_new_phase_keeps_the_percentage_and_forgets_the_numbers_of_the_one_before() {
        let mut report = Report { percent: Some(30.0), step: Some((7, 7)), ..Report::default() };
        report.phase = Some("pull".to_owned());
        let mut view = after([What::Progress(report)]);
        assert_eq!(view.frame().head, "execution 42 is requested  [pull]  30 %  step 7/7");
        view.take(&event(2, message(Some("start"), "starting")));
        let frame = view.frame();
        assert_eq!(frame.head, "execution 42 is requested  [start]  30 %");
        assert_eq!((frame.share, frame.message.as_str()), (Some(0.3), "starting"));
    }

    #[test]
    fn tasks_are_a_tree_with_the_reason_of_what_failed() {
        let task = |name: &str, parent: Option<&str>, status, error| {
            let parent = parent.map(str::to_owned);
            let task = Task { name: name.to_owned(), parent, status: Some(status), error, step: None };
            What::Progress(Report { task: Some(Box::new(task)), ..Report::default() })
        };
        let view = after([
            task("pull", None, TaskStatus::Started, None),
            task("layer 1", Some("pull"), TaskStatus::Completed, None),
            task("layer 2", Some("pull"), TaskStatus::Failed, Some(Failure::new("no_disk", "it is full"))),
            task("start", None, TaskStatus::Skipped, None),
        ]);
        assert_eq!(view.frame().tasks, ["> pull", "  + layer 1", "  x layer 2: no_disk: it is full", "- start"]);
    }

    #[test]
    fn another_attempt_begins_from_nothing() {
        let mut view = after([moved(Status::Scheduled, Status::Running), bytes(5), message(Some("pull"), "half")]);
        let mut again = event(4, moved(Status::Queued, Status::Scheduled));
        again.attempt = 2;
        view.take(&again);
        let frame = view.frame();
        assert_eq!(frame.head, "execution 42 is scheduled, attempt 2");
        assert_eq!((frame.share, frame.message.as_str()), (None, ""));
    }

    #[test]
    fn a_position_in_line_is_shown_until_the_execution_has_left_the_line() {
        let position = Position { number: 2, why: "7 holds the slot".to_owned(), wait: None };
        let mut view = after([moved(Status::Requested, Status::Queued)]);
        view.set_position(position.clone());
        assert_eq!(view.frame().head, "execution 42 waits");
        assert_eq!(view.frame().message, "number 2 in line: 7 holds the slot");
        view.take(&event(2, moved(Status::Queued, Status::Running)));
        // A position that was requested earlier arrives late.
        view.set_position(position);
        assert_eq!(view.frame().head, "execution 42 is running");
    }
}
