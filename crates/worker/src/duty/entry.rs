//! One attempt in the book: what was granted, where it stands, what it last reported.
//!
//! Not here: what any of that leads to (`duty.rs`), nor how an ending is judged (`verdict.rs`).

use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{self, AttemptKey, Event, Failure, GapReason, Holding};
use slotline_protocol::{ActionId, ActionRef, Detail, Fence, Incarnation, OutcomeKind, Status, Timestamp, WorkerName};

use super::effect::{Effect, Traced};
use super::input::{JsonText, Now};
use super::pace::{Pace, PacedReport};
use super::phase::Course;
use super::recent::Recent;

/// The wait before an unrecorded outcome is reported a second time; doubles with each further time.
pub(super) const REPEAT_AFTER: Duration = Duration::from_secs(2);
/// The longest wait between two reports of one outcome.
pub(super) const REPEAT_AFTER_MAX: Duration = Duration::from_secs(30);

/// An attempt that this worker was granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) task: Task,
    pub(super) stage: Stage,
    /// The number of its last event.
    pub(super) sequence: u64,
    pub(super) pace: Pace,
    pub(super) course: Course,
    pub(super) recent: Recent,
    /// Where it stands in the table of alarms.
    pub(super) alarm: Option<Duration>,
    /// When its order came, if it was sent ahead of its slot.
    pub(super) ahead_since: Option<Duration>,
}

/// What was granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) key: AttemptKey,
    /// As people count attempts.
    pub(super) counts_as: u32,
    pub(super) fence: Fence,
    pub(super) action_id: ActionId,
    pub(super) action_ref: ActionRef,
    pub(super) parameters: JsonText,
    pub(super) timeout: Option<Duration>,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) start_timeout: Option<Duration>,
    pub(super) detail: Detail,
    pub(super) concurrency_key: Option<Arc<str>>,
    pub(super) message_id: Option<Arc<str>>,
    /// Not ended at the fence: the action gave up its limit for itself.
    pub(super) is_isolated_ok: bool,
    pub(super) correlation_id: Option<Arc<str>>,
    pub(super) trace_id: Option<Arc<str>>,
}

impl Task {
    /// The number of the grant, where it is not that of the attempt.
    fn grant(&self) -> Option<u32> {
        message::grant(self.key.1, self.counts_as)
    }

    fn counts_as_if_other(&self) -> Option<u32> {
        message::grant(self.counts_as, self.key.1)
    }
}

/// Where an attempt stands on its worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Not started; may still be taken back.
    Waiting { after: Option<AttemptKey>, give_up_at: Option<Duration> },
    /// Started, or being started, or being ended.
    Running(Run),
    /// Ended; kept until recorded.
    Done { word: FinalReport, told: u32, repeat_at: Duration },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Run {
    /// When its process or handler really started.
    pub(super) started: Option<Now>,
    /// When it last gave a sign of life.
    pub(super) heard_at: Duration,
    /// Why it was asked to end, if it was.
    pub(super) cause: Option<Cause>,
    pub(super) kill_at: Option<Duration>,
}

/// Why an attempt was asked to end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    Cancelled {
        reason: Option<String>,
    },
    TimedOut {
        after: Duration,
    },
    Stalled {
        after: Duration,
    },
    Drained,
    /// The incarnation is over.
    Fenced,
}

/// What is reported of an attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FinalReport {
    Completed(Outcome),
    Returned { reason: &'static str, started: bool },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    pub(super) status: OutcomeKind,
    pub(super) result: Option<JsonText>,
    pub(super) error: Option<Failure>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) completed_at: Timestamp,
    pub(super) return_code: Option<i32>,
}

impl Entry {
    pub(super) fn granted(order: message::Scheduled, now: Now) -> Self {
        // A chained grant is no slot until it fires, so its wait is its predecessor's and not its own.
        let give_up_at = match order.starts_after {
            None => order.start_timeout_seconds.map(|timeout| now.boot + timeout),
            Some(_) => None,
        };
        Self {
            task: Task {
                key: (order.execution_id, order.attempt),
                counts_as: order.counts_as.unwrap_or(order.attempt),
                fence: order.fence,
                action_id: order.action_id,
                action_ref: order.action_ref,
                parameters: JsonText(order.parameters),
                timeout: order.timeout_seconds,
                stall_timeout: order.stall_timeout_seconds,
                start_timeout: order.start_timeout_seconds,
                detail: order.progress,
                concurrency_key: order.concurrency_key,
                message_id: order.message_id.map(Into::into),
                is_isolated_ok: order.continue_when_isolated,
                correlation_id: order.correlation_id.map(Into::into),
                trace_id: order.trace_id.map(Into::into),
            },
            ahead_since: order.starts_after.map(|_| now.boot),
            stage: Stage::Waiting { after: order.starts_after, give_up_at },
            sequence: 0,
            pace: Pace::default(),
            course: Course::default(),
            recent: Recent::default(),
            alarm: None,
        }
    }

    /// An attempt that has ended under an earlier process.
    pub(super) fn kept(completed: message::Completed) -> Self {
        let key = completed.key();
        let outcome = Outcome {
            status: completed.status,
            result: completed.result.map(JsonText),
            error: completed.error,
            started_at: completed.started_at,
            completed_at: completed.completed_at,
            return_code: completed.return_code,
        };
        Self {
            task: Task {
                key,
                counts_as: completed.counts_as,
                fence: completed.fence,
                action_id: completed.action_id,
                action_ref: completed.action_ref,
                // Only its end is reported, so that what it was started with does not matter.
                parameters: JsonText::null(),
                timeout: None,
                stall_timeout: None,
                start_timeout: None,
                detail: Detail::Default,
                concurrency_key: None,
                message_id: None,
                is_isolated_ok: false,
                correlation_id: None,
                trace_id: None,
            },
            ahead_since: None,
            stage: Stage::Done { word: FinalReport::Completed(outcome), told: 0, repeat_at: Duration::ZERO },
            sequence: completed.last_sequence,
            pace: Pace::default(),
            course: Course::default(),
            recent: Recent::default(),
            alarm: None,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }

    pub(super) fn run(&self) -> Option<&Run> {
        match &self.stage {
            Stage::Running(run) => Some(run),
            Stage::Waiting { .. } | Stage::Done { .. } => None,
        }
    }

    pub(super) fn run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.stage {
            Stage::Running(run) => Some(run),
            Stage::Waiting { .. } | Stage::Done { .. } => None,
        }
    }

    pub(super) fn word(&self) -> Option<&FinalReport> {
        match &self.stage {
            Stage::Done { word, .. } => Some(word),
            Stage::Waiting { .. } | Stage::Running(_) => None,
        }
    }

    /// How a heartbeat names it; `None` once it has ended.
    pub(super) fn holding(&self) -> Option<Holding> {
        match &self.stage {
            Stage::Waiting { .. } => Some(Holding::Pending),
            Stage::Running(Run { cause: None, started: None, .. }) => Some(Holding::Starting),
            Stage::Running(Run { cause: None, started: Some(_), .. }) => Some(Holding::Running),
            Stage::Running(Run { cause: Some(_), .. }) => Some(Holding::Cancelling),
            Stage::Done { .. } => None,
        }
    }

    /// Its row in an account, for a leader that may not know it.
    pub(super) fn shown(&self) -> message::Shown {
        message::Shown {
            execution_id: self.task.key.0,
            attempt: self.task.key.1,
            counts_as: self.task.counts_as_if_other(),
            fence: self.task.fence,
            action_ref: self.task.action_ref.clone(),
            concurrency_key: self.task.concurrency_key.clone(),
            message_id: self.task.message_id.clone(),
            parameters: self.task.parameters.0.clone(),
            timeout_seconds: self.task.timeout,
            progress: self.task.detail,
            correlation_id: self.task.correlation_id.clone(),
            trace_id: self.task.trace_id.clone(),
            state: self.holding(),
        }
    }

    /// When it must be looked at again, if nothing happens before. Reports that are held back wait while congested.
    pub(super) fn next_alarm(&self, is_congested: bool) -> Option<Duration> {
        match &self.stage {
            Stage::Waiting { give_up_at, .. } => *give_up_at,
            Stage::Running(run) => {
                let limits = match run.cause {
                    Some(_) => [run.kill_at, None],
                    None => [self.timeout_at(run), self.stall_at(run)],
                };
                let held = self.pace.flush_at().filter(|_| !is_congested);
                limits.into_iter().chain([held]).flatten().min()
            }
            Stage::Done { repeat_at, .. } => Some(*repeat_at),
        }
    }

    pub(super) fn timeout_at(&self, run: &Run) -> Option<Duration> {
        Some(run.started?.boot + self.task.timeout?)
    }

    pub(super) fn stall_at(&self, run: &Run) -> Option<Duration> {
        run.started?;
        Some(run.heard_at + self.task.stall_timeout?)
    }

    pub(super) fn traced<M>(&self, message: M) -> Traced<M> {
        Traced { message, correlation_id: self.task.correlation_id.clone(), trace_id: self.task.trace_id.clone() }
    }

    /// Its next event, numbered.
    pub(super) fn event(&mut self, event: Event, at: Timestamp) -> Effect {
        self.sequence += 1;
        Effect::Progress(self.traced(message::Progress {
            execution_id: self.task.key.0,
            action_ref: self.task.action_ref.clone(),
            counts_as: self.task.counts_as,
            grant: self.task.grant(),
            sequence: self.sequence,
            timestamp: at,
            event,
        }))
    }

    /// Sends a report, and before it a gap for the reports that it stands for.
    pub(super) fn say(&mut self, PacedReport { merged, report }: PacedReport, at: Timestamp, fx: &mut Vec<Effect>) {
        self.gap(merged, at, fx);
        self.recent.sent(&report, at);
        fx.push(self.event(Event::Progress(report), at));
    }

    /// Sends a gap, if anything was merged.
    pub(super) fn gap(&mut self, count: u64, at: Timestamp, fx: &mut Vec<Effect>) {
        if count > 0 {
            fx.push(self.event(Event::Gap { count, reason: GapReason::Merged }, at));
        }
    }

    /// The report that it runs.
    pub(super) fn running(&mut self, worker: &WorkerName, incarnation: Incarnation, at: Timestamp) -> Effect {
        self.sequence += 1;
        Effect::ChangeStatus(self.traced(message::StatusChanged {
            execution_id: self.task.key.0,
            action_ref: self.task.action_ref.clone(),
            counts_as: self.task.counts_as,
            grant: self.task.grant(),
            sequence: Some(self.sequence),
            worker: Some(worker.clone()),
            fence: Some(self.task.fence),
            incarnation: Some(incarnation),
            previous_status: Status::Scheduled,
            new_status: Status::Running,
            changed_at: at,
        }))
    }

    /// The report of its end to the executor; `None` while it has not ended.
    pub(super) fn last_word(&self, worker: &WorkerName, incarnation: Incarnation, now: Duration) -> Option<Effect> {
        Some(match self.word()? {
            FinalReport::Completed(_) => {
                let held = self.ahead_since.map(|since| now.saturating_sub(since));
                let held_micros = held.and_then(|held| u64::try_from(held.as_micros()).ok());
                let completed = self.completed(worker, incarnation)?;
                Effect::Complete(self.traced(message::Completed { held_micros, ..completed }))
            }
            FinalReport::Returned { .. } => Effect::Return(self.traced(self.returned(worker, incarnation)?)),
        })
    }

    pub(super) fn completed(&self, worker: &WorkerName, incarnation: Incarnation) -> Option<message::Completed> {
        let FinalReport::Completed(outcome) = self.word()? else { return None };
        Some(message::Completed {
            execution_id: self.task.key.0,
            action_id: self.task.action_id,
            action_ref: self.task.action_ref.clone(),
            counts_as: self.task.counts_as,
            grant: self.task.grant(),
            fence: self.task.fence,
            worker: worker.clone(),
            incarnation,
            last_sequence: self.sequence,
            status: outcome.status,
            result: outcome.result.as_ref().map(|JsonText(json)| json.clone()),
            error: outcome.error.clone(),
            started_at: outcome.started_at,
            completed_at: outcome.completed_at,
            return_code: outcome.return_code,
            held_micros: None,
        })
    }

    pub(super) fn returned(&self, worker: &WorkerName, incarnation: Incarnation) -> Option<message::Returned> {
        let FinalReport::Returned { reason, started } = self.word()? else { return None };
        Some(message::Returned {
            execution_id: self.task.key.0,
            attempt: self.task.key.1,
            fence: self.task.fence,
            worker: worker.clone(),
            incarnation,
            reason: (*reason).to_owned(),
            started: *started,
            last_sequence: self.sequence,
        })
    }

    /// Notes that its end was reported just now, and when to report it again.
    pub(super) fn told(&mut self, now: Duration) {
        if let Stage::Done { told, repeat_at, .. } = &mut self.stage {
            let wait = REPEAT_AFTER.saturating_mul(1 << (*told).min(8)).min(REPEAT_AFTER_MAX);
            *told += 1;
            *repeat_at = now + wait;
        }
    }
}
