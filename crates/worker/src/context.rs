//! What a handler gets: its parameters, who it is, whether it should end, and a way to tell how far it has come.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use slotline_protocol::envelope;
use slotline_protocol::message::{Level, Report, Task, TaskStatus};
use slotline_protocol::{ActionRef, ExecutionId, Fence};
use tokio_util::sync::CancellationToken;

use crate::duty::Start;
use crate::feed::Feed;
use crate::handler::HandlerError;

/// One attempt, as its handler sees it. Cheap to clone; may be used from any task or thread.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    start: Start,
    token: CancellationToken,
    feed: Arc<Feed>,
}

impl Context {
    pub(crate) fn new(start: Start, token: CancellationToken, feed: Arc<Feed>) -> Self {
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

    /// 1-based, as people count: one that was handed back or lost before it began does not count.
    pub fn attempt(&self) -> u32 {
        self.0.start.counts_as
    }

    /// The number of the grant: every grant of the execution has its own, also one that did not come to an attempt.
    pub fn grant(&self) -> u32 {
        self.0.start.key.1
    }

    /// Rises with every grant of a slot. Hand it to whatever this attempt writes to, so that an older one can be refused.
    pub fn fence(&self) -> Fence {
        self.0.start.fence
    }

    pub fn action_ref(&self) -> &ActionRef {
        &self.0.start.action_ref
    }

    /// What the publisher gave to follow its request by, if anything.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.start.correlation_id.as_deref()
    }

    pub fn trace_id(&self) -> Option<&str> {
        self.0.start.trace_id.as_deref()
    }

    /// Cancelled when the attempt is to end: by order, by a time-out, or because the worker is drained. It is dropped at
    /// its next await when its grace is over.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.token
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Tells how far the attempt has come. Returns at once and never fails: what makes no sense is clipped or left out,
    /// and the execution's log says so. May be called as often as one likes; how much of it is sent is the publisher's
    /// choice, and what says something new (a phase, a step, a message) is sent at once.
    pub fn progress(&self, report: Report) {
        self.0.feed.report(report);
    }

    /// Tells how a task within the run stands; `parent` is the task that it is a part of.
    pub fn task(&self, name: impl Into<String>, parent: Option<&str>, status: TaskStatus) {
        let parent = parent.map(str::to_owned);
        self.about(Task { name: name.into(), parent, status: Some(status), ..Task::default() });
    }

    /// Tells that a task within the run has failed, and why. That the attempt fails is the handler's to decide.
    pub fn task_failed(&self, name: impl Into<String>, error: impl Into<HandlerError>) {
        let error = Some(error.into().into_failure());
        self.about(Task { name: name.into(), status: Some(TaskStatus::Failed), error, ..Task::default() });
    }

    fn about(&self, task: Task) {
        self.progress(Report { task: Some(Box::new(task)), ..Report::default() });
    }

    /// Tells something worth knowing.
    pub fn info(&self, message: impl Into<String>) {
        self.progress(Report { message: Some(message.into()), ..Report::default() });
    }

    /// Tells of something that went wrong, without failing.
    pub fn error(&self, message: impl Into<String>) {
        self.progress(Report { level: Level::Error, message: Some(message.into()), ..Report::default() });
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("start", &self.0.start).finish_non_exhaustive()
    }
}
