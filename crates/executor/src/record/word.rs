//! What workers report of an attempt, and what the record makes of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Failure, GapReason, Report, Stream};
use slotline_protocol::record::{Event, Newest, What};
use slotline_protocol::{ActionRef, ExecutionId, Fence, Incarnation, OutcomeKind, Timestamp};
use slotline_store::Story;

/// How long a missing event may be on its way before its worker has to resend it.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(200);
/// Between two resends of one attempt's events.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Resends before missing events are given up and recorded as a gap.
pub(super) const ASKS_MAX: u32 = 3;
/// Events of one attempt that may wait for one before them; further ones are resent when their turn comes.
pub(super) const EARLY_MAX: usize = 1000;

/// A worker's report of an attempt while it is out.
#[derive(Clone, Debug)]
pub struct AttemptEvent {
    pub key: AttemptKey,
    /// The incarnation that is proven to have sent it.
    pub by: Incarnation,
    /// `None` from a worker that does not number its events.
    pub sequence: Option<u64>,
    pub at: Timestamp,
    pub said: AttemptEventKind,
}

#[derive(Clone, Debug)]
pub enum AttemptEventKind {
    Running,
    Started,
    Progress(Report),
    Log { stream: Stream, lines: Vec<String> },
    Gap { count: u64, reason: GapReason },
    Finished,
}

/// How an attempt ended, by its worker's report. Counts only if the scheduler takes that report, too.
#[derive(Clone, Debug)]
pub struct End {
    pub key: AttemptKey,
    pub fence: Fence,
    /// The number of its last event; 0 from a worker that does not number them, and where there was none.
    pub last_sequence: u64,
    pub started_at: Option<Timestamp>,
    pub at: Timestamp,
    /// `None`: handed back before it began.
    pub outcome: Option<OutcomeKind>,
    pub return_code: Option<i32>,
    pub message: Option<String>,
}

/// Events that did not arrive, and the incarnation that may still have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingEvents {
    pub incarnation: Incarnation,
    pub key: AttemptKey,
    pub action_ref: ActionRef,
    pub first: u64,
    /// `None`: up to the last one there is.
    pub last: Option<u64>,
}

/// What the record has to write and to send since the last [`Record::take`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Out {
    /// To be written, each execution's ascending.
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) stories: BTreeMap<ExecutionId, Story>,
    /// For subscribers, once it is committed; in order.
    pub(crate) told: Vec<Arc<Event>>,
    pub(crate) missing: Vec<MissingEvents>,
    /// Errors of settled executions, with the newest reports at their end.
    pub(crate) errors: BTreeMap<ExecutionId, Failure>,
    /// The same of attempts that did not settle their execution.
    pub(crate) attempt_errors: BTreeMap<AttemptKey, Failure>,
    /// The grants of events whose attempt counts as another number, by execution and number of the event.
    pub(crate) grants: BTreeMap<(ExecutionId, u64), u32>,
    /// Written executions whose stories have changed.
    pub(super) touched: BTreeSet<ExecutionId>,
    /// For a tale: its old deadline, which is cancelled, and its new one.
    pub(super) timers: Vec<(Option<Timestamp>, Option<Timestamp>, ExecutionId)>,
}

/// Codes of endings without a report of a worker: the newest events are all there is to go by.
const SUDDEN: [&str; 5] = ["worker_lost", "cancelled", "queue_timeout", "timeout", "stall_timeout"];
/// The line of a message after which the newest reports follow.
const EVENTS_FOLLOW: &str = "Progress events:";

/// Adds the newest reports at the end of an execution to its error, unless its worker has done so. `phase` is that of
/// the attempt that was out.
pub(super) fn tell(
    mut error: Failure,
    phase: Option<&String>,
    newest: &Newest,
    recent: &VecDeque<Arc<Event>>,
) -> Failure {
    error.phase = error.phase.or_else(|| phase.map(|phase| phase.as_str().into()));
    if !SUDDEN.contains(&error.code.as_str()) || error.message.contains(EVENTS_FOLLOW) || newest.is_empty() {
        return error;
    }
    let stop = if error.message.ends_with('.') { "" } else { "." };
    error.message = format!("{}{stop} {EVENTS_FOLLOW}\n{}", error.message, newest.lines().join("\n"));
    let events: Vec<_> = recent
        .iter()
        .filter_map(|event| {
            let What::Progress(report) = &event.what else { return None };
            let mut told = serde_json::to_value(report).ok()?;
            told["timestamp"] = serde_json::to_value(event.timestamp).ok()?;
            Some(told)
        })
        .collect();
    let details = error.details.get_or_insert_with(|| serde_json::json!({}));
    if let Some(details) = details.as_object_mut() {
        details.insert("progress_events".to_owned(), events.into());
    }
    error
}
