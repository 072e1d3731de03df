//! The facts that are read from a database, all of them in one snapshot.

use crate::PastRewind;
use crate::verify::course::Change;
use slotline_protocol::{ActionId, ExecutionId, Fence, Timestamp, WorkerName, http};

/// All that is judged.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Those that are not deleted.
    pub(crate) actions: Vec<http::Action>,
    /// The changes of actions, deleted ones too, in the order of the audit.
    pub(crate) changes: Vec<Change>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) records: Vec<RecordRange>,
    /// Executions with events, but no story.
    pub(crate) orphans: Vec<ExecutionId>,
    /// Executions whose events do not follow from their rows, with nothing written beside them.
    pub(crate) untold: Vec<ExecutionId>,
    /// Executions that live although they have settled.
    pub(crate) both: Vec<ExecutionId>,
    /// Settled executions without a terminal status.
    pub(crate) endless: Vec<ExecutionId>,
    /// Live executions that hold a slot without being out, or are out without one.
    pub(crate) unfit: Vec<ExecutionId>,
    pub(crate) totals: Vec<Total>,
    pub(crate) rewinds: Vec<PastRewind>,
    pub(crate) ledger: Ledger,
}

/// One attempt, or an execution that has none out.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) execution: ExecutionId,
    pub(crate) action: ActionId,
    pub(crate) key: Option<String>,
    pub(crate) attempt: u32,
    /// `None`: no slot is held.
    pub(crate) fence: Option<Fence>,
    pub(crate) worker: Option<WorkerName>,
    pub(crate) scheduled_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    /// `None`: still out.
    pub(crate) ended_at: Option<Timestamp>,
    /// Its worker reported that it is out, or that it completed. Any other end may be the executor's decision.
    pub(crate) is_by_its_worker: bool,
}

/// How far the written record of an execution goes, and the extent of its written events.
#[derive(Clone, Debug)]
pub(crate) struct RecordRange {
    pub(crate) execution: ExecutionId,
    /// `None`: there is no such execution.
    pub(crate) is_over: Option<bool>,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) awaits: Option<i64>,
    /// How many events are written, and the lowest and highest of their numbers.
    pub(crate) written: i64,
    pub(crate) lowest: Option<i64>,
    pub(crate) highest: Option<i64>,
}

/// The totals of one action, and how many of its executions live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Total {
    pub(crate) action: ActionId,
    pub(crate) enqueued: i64,
    pub(crate) completed: i64,
    pub(crate) living: i64,
}

/// The next numbers to give away, and the highest that were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) epoch: i64,
    pub(crate) batch: i64,
    pub(crate) next_id: i64,
    pub(crate) next_fence: i64,
    pub(crate) next_action: i64,
    pub(crate) highest_id: i64,
    pub(crate) highest_place: i64,
    pub(crate) highest_action: i64,
}

/// Reads all facts about the executions enqueued at `$since` or later, over a connection that sees one moment.
macro_rules! gather {
    ($connection:expr, $since:expr) => {{
        use crate::deadline::within_time;
        use crate::verify::VERIFY_DEADLINE;
        use crate::{audit, row, sql};
        macro_rules! all {
            ($query:expr, $read:path) => {{
                let mut read = Vec::new();
                let mut rows = $query.fetch(&mut *$connection);
                while let Some(row) = within_time(VERIFY_DEADLINE, rows.try_next()).await? {
                    read.push($read(&row)?);
                }
                read
            }};
        }
        let since = $since;
        crate::verify::facts::Facts {
            actions: all!(sqlx::query(sql::ACTIONS), row::action),
            changes: all!(sqlx::query(audit::COURSES), row::change),
            grants: all!(sqlx::query(sql::GRANTS).bind(since), row::grant),
            records: all!(sqlx::query(sql::RECORDS).bind(since), row::record),
            orphans: all!(sqlx::query(sql::EVENTS_WITHOUT_STORY), row::execution_id),
            untold: all!(sqlx::query(sql::UNTOLD).bind(since), row::execution_id),
            both: all!(sqlx::query(sql::SETTLED_AND_LIVE), row::execution_id),
            endless: all!(sqlx::query(sql::SETTLED_WITHOUT_END).bind(since), row::execution_id),
            unfit: all!(sqlx::query(sql::UNFIT_SLOTS), row::execution_id),
            totals: all!(sqlx::query(sql::TOTALS), row::total),
            rewinds: all!(sqlx::query(sql::REWINDS).bind(crate::verify::REWINDS_MAX), row::rewind),
            ledger: all!(sqlx::query(sql::LEDGER), row::ledger).pop().unwrap_or_default(),
        }
    }};
}

pub(crate) use gather;
