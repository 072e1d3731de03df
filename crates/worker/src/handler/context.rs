//! What a handler gets: its parameters, its identity, whether it should end, and a way to report progress.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use slotline_protocol::envelope;
use slotline_protocol::message::{Level, Report, Task, TaskStatus};
use slotline_protocol::{ActionRef, ExecutionId, Fence};
use tokio_util::sync::CancellationToken;

use super::error::HandlerError;
use crate::duty::Start;
use crate::report::feed::AttemptFeed;

/// One attempt, as its handler sees it. Cheap to clone; may be used from any task or thread.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    start: Start,
    token: CancellationToken,
    feed: Arc<AttemptFeed>,
}

impl Context {
    pub(crate) fn new(start: Start, token: CancellationToken, feed: Arc<AttemptFeed>) -> Self {
        Self(Arc::new(Inner { start, token, feed }))
    }

    /// The parameters as `T`; the error names the field that does not fit.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        envelope::parse(self.parameters_json()).map_err(|(path, error)| {
            let field = path.map_or("parameters".to_owned(), |path| format!("parameters.{path}"));
            HandlerError::invalid_parameters(format!("{field}: {error}"))
        })
    }

    /// The parameters as they were published.
    pub fn parameters_json(&self) -> &str {
        self.0.start.parameters.0.get()
    }

    pub fn execution_id(&self) -> ExecutionId {
        self.0.start.key.0
    }

    /// 1-based, as people count: an attempt that was handed back or lost before it began does not count.
    pub fn attempt(&self) -> u32 {
        self.0.start.counts_as
    }

    /// The number of the grant: every grant of the execution has its own, also one that did not come to an attempt.
    pub fn grant(&self) -> u32 {
        self.0.start.key.1
    }

    /// Rises with every grant of a slot. Pass it to whatever this attempt writes to, so that an older attempt can be
    /// refused.
    pub fn fence(&self) -> Fence {
        self.0.start.fence
    }

    pub fn action_ref(&self) -> &ActionRef {
        &self.0.start.action_ref
    }

    /// The publisher's own id of its request, if the request has one.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.start.correlation_id.as_deref()
    }

    pub fn trace_id(&self) -> Option<&str> {
        self.0.start.trace_id.as_deref()
    }

    /// Cancelled when the attempt is to end: by order, by a time-out, or because the worker is drained. It is dropped
    /// at its next await when its grace is over.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.token
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Reports progress. Returns at once and never fails: what makes no sense is clipped or left out, with a warning in
    /// the execution's log. May be called at any rate; how many of the reports are sent is the publisher's choice, and
    /// a report with something new (a phase, a step, a message) is sent at once.
    pub fn progress(&self, report: Report) {
        self.0.feed.report(report);
    }

    /// Reports the status of a task within the run; `parent` is the task that it is a part of.
    pub fn task(&self, name: impl Into<String>, parent: Option<&str>, status: TaskStatus) {
        let parent = parent.map(str::to_owned);
        self.about(Task { name: name.into(), parent, status: Some(status), ..Task::default() });
    }

    /// Reports that a task within the run has failed, and why. Whether the attempt fails is the handler's decision.
    pub fn task_failed(&self, name: impl Into<String>, error: impl Into<HandlerError>) {
        let error = Some(error.into().into_failure());
        self.about(Task { name: name.into(), status: Some(TaskStatus::Failed), error, ..Task::default() });
    }

    fn about(&self, task: Task) {
        self.progress(Report { task: Some(Box::new(task)), ..Report::default() });
    }

    /// Reports a message at the level `info`.
    pub fn info(&self, message: impl Into<String>) {
        self.progress(Report { message: Some(message.into()), ..Report::default() });
    }

    /// Reports a message at the level `error`, without failing.
    pub fn error(&self, message: impl Into<String>) {
        self.progress(Report { level: Level::Error, message: Some(message.into()), ..Report::default() });
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("start", &self.0.start).finish_non_exhaustive()
    }
}
