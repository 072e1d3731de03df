//! The statements that read the same on both databases.

/// The columns of a live execution that recovery needs.
pub(crate) const LIVE: &str = "SELECT id, place, queued_at, not_before, fence, scheduled_at, started_at, incarnation, \
    attempt, failures, losses, keeps_slot, cancel_requested, status, worker, after_fence, action_id, enqueued_at, \
    concurrency_key, CAST(octet_length(parameters) AS bigint) AS parameter_bytes, \
    CASE WHEN attempt > 1 OR (attempt = 1 AND fence IS NULL) THEN (SELECT count(*) FROM attempts t \
    WHERE t.execution_id = live.id AND NOT (t.outcome = 'lost' AND t.started_at IS NULL)) ELSE 0 END AS tried \
    FROM live";

pub(crate) const ACTIONS: &str = "SELECT id, ref, policy, paused, limit_override, created_at, updated_at FROM actions \
    WHERE deleted_at IS NULL ORDER BY ref";

pub(crate) const ACTIONS_AFTER: &str = "SELECT id, ref, policy, paused, limit_override, created_at, updated_at FROM actions \
    WHERE deleted_at IS NULL AND ref > $1 ORDER BY ref LIMIT $2";

pub(crate) const ACTION: &str = "SELECT id, ref, policy, paused, limit_override, created_at, updated_at FROM actions \
    WHERE deleted_at IS NULL AND ref = $1";

pub(crate) const ACTION_STATES: &str = "SELECT id, ref, policy, paused, limit_override, created_at, updated_at, \
    coalesce(enqueued, 0) AS enqueued, coalesce(completed, 0) AS completed \
    FROM actions LEFT JOIN action_totals ON action_id = id WHERE deleted_at IS NULL ORDER BY id";

pub(crate) const ENDED_INCARNATIONS: &str = "SELECT incarnation FROM ended_incarnations ORDER BY ended_at";

pub(crate) const NOTE_CLOCK: &str = "UPDATE leadership SET clock_ahead_us = $3 WHERE partition_id = $1 AND epoch = $2";

pub(crate) const COUNTERS: &str = "SELECT next_id, next_fence, next_action, generation, rewound_below \
    FROM leadership WHERE partition_id = $1";

/// Settled executions from the floor on; none if the journal was not doubted.
pub(crate) const SETTLED_IN_DOUBT: &str = "SELECT id FROM history \
    WHERE id >= (SELECT floor_id FROM leadership WHERE partition_id = $1) ORDER BY id";

pub(crate) const REWINDS: &str = "SELECT generation, settled_at, reason, floor_id, next_id, floor_fence, next_fence, \
    shown_id, recovered \
    FROM rewinds ORDER BY generation DESC LIMIT $1";

pub(crate) const SECRET: &str = "SELECT value FROM secrets WHERE name = 'proof'";

/// The newest settled executions of an action; earlier starts are looked up only where there was more than one attempt.
pub(crate) const DURATIONS: &str = "SELECT enqueued_at, started_at, ended_at, CASE WHEN attempt > 1 THEN \
    (SELECT min(t.started_at) FROM attempts t WHERE t.execution_id = history.id) END AS earlier_started_at \
    FROM history WHERE action_id = $1 ORDER BY id DESC LIMIT $2";

/// The newest of the attempts that ended without settling their executions; `$filter` chooses the executions, `$2` is
/// how many of each. `counts_as` is their number as people count them: an attempt that did not begin has that of the
/// next.
macro_rules! newest_attempts {
    ($result:literal, $filter:literal) => {
        concat!(
            "SELECT * FROM (SELECT execution_id, attempt, fence, worker, outcome, error, started_at, ended_at, ",
            $result,
            ", CAST(sum(CASE WHEN outcome = 'lost' AND started_at IS NULL THEN 0 ELSE 1 END) ",
            "OVER (PARTITION BY execution_id ORDER BY fence) AS bigint) ",
            "+ CASE WHEN outcome = 'lost' AND started_at IS NULL THEN 1 ELSE 0 END AS counts_as, ",
            "row_number() OVER (PARTITION BY execution_id ORDER BY fence DESC) AS newest FROM attempts WHERE ",
            $filter,
            ") AS t WHERE newest <= $2 ORDER BY execution_id, fence",
        )
    };
}

/// A query for whole executions that have settled.
macro_rules! settled_executions {
    ($($rest:literal)*) => {
        concat!(
            "SELECT e.id, e.action_id, a.ref, e.status, e.attempt, e.concurrency_key, e.parameters, e.timeout_ns, ",
            "e.detail, e.message_id, e.correlation_id, e.trace_id, e.source, e.enqueued_at, e.scheduled_at, ",
            "e.started_at, e.ended_at, e.worker, e.fence, e.result, e.error, ",
            "CASE WHEN e.attempt > 1 OR (e.attempt = 1 AND e.fence IS NULL) THEN (SELECT count(*) FROM attempts t ",
            "WHERE t.execution_id = e.id AND NOT (t.outcome = 'lost' AND t.started_at IS NULL)) ELSE 0 END AS tried, ",
            "(SELECT t.timeout_ns FROM action_timeouts t WHERE t.action_id = e.action_id ",
            "AND t.since <= coalesce(e.scheduled_at, e.ended_at) ORDER BY t.since DESC LIMIT 1) AS action_timeout_ns ",
            "FROM history e JOIN actions a ON a.id = e.action_id ",
            $($rest,)*
        )
    };
}

/// The same columns of executions that live.
macro_rules! live_executions {
    ($($rest:literal)*) => {
        concat!(
            "SELECT e.id, e.action_id, a.ref, e.status, e.attempt, e.concurrency_key, e.parameters, e.timeout_ns, ",
            "e.detail, e.message_id, e.correlation_id, e.trace_id, e.source, e.enqueued_at, e.scheduled_at, ",
            "e.started_at, CAST(NULL AS timestamptz) AS ended_at, e.worker, e.fence, CAST(NULL AS text) AS result, ",
            "CAST(NULL AS text) AS error, ",
            "CASE WHEN e.attempt > 1 OR (e.attempt = 1 AND e.fence IS NULL) THEN (SELECT count(*) FROM attempts t ",
            "WHERE t.execution_id = e.id AND NOT (t.outcome = 'lost' AND t.started_at IS NULL)) ELSE 0 END AS tried, ",
            "(SELECT t.timeout_ns FROM action_timeouts t WHERE t.action_id = e.action_id ",
            "AND (e.scheduled_at IS NULL OR t.since <= e.scheduled_at) ORDER BY t.since DESC LIMIT 1) AS action_timeout_ns ",
            "FROM live e JOIN actions a ON a.id = e.action_id ",
            $($rest,)*
        )
    };
}

/// A page of executions, live and settled, newest first, in one statement: an execution that settles meanwhile is on
/// one side or the other, never on both or neither. `$1` is the cursor and `$2` the most rows.
macro_rules! page_of_executions {
    ($filter:literal) => {
        concat!(
            "SELECT * FROM (",
            crate::sql::settled_executions!("WHERE e.id < $1 " $filter " ORDER BY e.id DESC LIMIT $2"),
            ") AS settled UNION ALL SELECT * FROM (",
            crate::sql::live_executions!("WHERE e.id < $1 " $filter " ORDER BY e.id DESC LIMIT $2"),
            ") AS living ORDER BY id DESC LIMIT $2",
        )
    };
}

/// The columns of a story `s` beside those of an execution, as `row::story` reads them.
macro_rules! story_columns {
    () => {
        concat!(
            "s.first AS story_first, s.last AS story_last, s.attempt AS story_attempt, ",
            "s.sequence AS story_sequence, s.awaits AS story_awaits, s.head AS story_head",
        )
    };
}

/// One execution and its story, in one statement: they are of one moment.
pub(crate) const EXECUTION: &str = concat!(
    "SELECT x.*, ",
    story_columns!(),
    " FROM (",
    settled_executions!("WHERE e.id = $1"),
    " UNION ALL ",
    live_executions!("WHERE e.id = $1"),
    ") AS x LEFT JOIN stories s ON s.execution_id = x.id",
);

/// The events of an execution above a number, up to so many.
pub(crate) const EVENTS: &str = "SELECT execution_id, number, body FROM events \
    WHERE execution_id = $1 AND number > $2 ORDER BY number LIMIT $3";

/// The stories of executions that live.
pub(crate) const LIVE_STORIES: &str =
    concat!("SELECT l.id, ", story_columns!(), " FROM stories s JOIN live l ON l.id = s.execution_id");

/// Settled executions whose last events are awaited, with their stories and the incarnations of their last attempts.
pub(crate) const AWAITING: &str = concat!(
    "SELECT x.*, h.incarnation, ",
    story_columns!(),
    " FROM stories s JOIN (",
    settled_executions!(),
    ") AS x ON x.id = s.execution_id JOIN history h ON h.id = x.id WHERE s.awaits IS NOT NULL",
);

/// Every attempt that was granted to executions enqueued at `$1` or later; `outcome` is how it ended.
pub(crate) const GRANTS: &str = "SELECT e.id, e.action_id, e.concurrency_key, t.attempt, t.fence, t.worker, \
    t.scheduled_at, t.started_at, t.ended_at, t.outcome FROM (SELECT id, action_id, concurrency_key, enqueued_at \
    FROM history UNION ALL SELECT id, action_id, concurrency_key, enqueued_at FROM live) AS e \
    JOIN attempts t ON t.execution_id = e.id WHERE e.enqueued_at >= $1 \
    UNION ALL SELECT id, action_id, concurrency_key, attempt, fence, worker, scheduled_at, started_at, ended_at, \
    status FROM history WHERE enqueued_at >= $1 \
    UNION ALL SELECT id, action_id, concurrency_key, attempt, fence, worker, scheduled_at, started_at, \
    CAST(NULL AS timestamptz), CAST(NULL AS text) FROM live WHERE enqueued_at >= $1";

/// Stories of executions enqueued at `$1` or later, or of executions that do not exist, and the extent of their written
/// events.
pub(crate) const RECORDS: &str = "SELECT s.execution_id AS id, x.status, s.first, s.last, s.awaits, \
    (SELECT count(*) FROM events e WHERE e.execution_id = s.execution_id) AS written, \
    (SELECT min(e.number) FROM events e WHERE e.execution_id = s.execution_id) AS lowest, \
    (SELECT max(e.number) FROM events e WHERE e.execution_id = s.execution_id) AS highest \
    FROM stories s LEFT JOIN (SELECT id, status, enqueued_at FROM history \
    UNION ALL SELECT id, status, enqueued_at FROM live) AS x ON x.id = s.execution_id \
    WHERE x.id IS NULL OR x.enqueued_at >= $1";

pub(crate) const EVENTS_WITHOUT_STORY: &str = "SELECT DISTINCT e.execution_id AS id FROM events e \
    WHERE NOT EXISTS (SELECT 1 FROM stories s WHERE s.execution_id = e.execution_id) LIMIT 1000";

/// Executions of more than one attempt, whose events do not follow from the row, without a story.
pub(crate) const UNTOLD: &str = "SELECT x.id FROM (SELECT id, attempt, enqueued_at FROM history \
    UNION ALL SELECT id, attempt, enqueued_at FROM live) AS x WHERE x.enqueued_at >= $1 \
    AND (x.attempt > 1 OR EXISTS (SELECT 1 FROM attempts t WHERE t.execution_id = x.id)) \
    AND NOT EXISTS (SELECT 1 FROM stories s WHERE s.execution_id = x.id) LIMIT 1000";

/// Executions that live although they have settled.
pub(crate) const SETTLED_AND_LIVE: &str = "SELECT live.id FROM live JOIN history ON history.id = live.id LIMIT 1000";

/// Settled executions with a status that is not terminal.
pub(crate) const SETTLED_WITHOUT_END: &str = "SELECT id FROM history \
    WHERE status NOT IN ('completed', 'failed', 'timeout', 'cancelled') AND enqueued_at >= $1 LIMIT 1000";

/// Live executions whose status and lease do not fit.
pub(crate) const UNFIT_SLOTS: &str = "SELECT id FROM live \
    WHERE NOT (CASE status WHEN 'queued' THEN (fence IS NULL) = (after_fence IS NULL) \
    WHEN 'scheduled' THEN fence IS NOT NULL AND after_fence IS NULL \
    WHEN 'running' THEN fence IS NOT NULL AND after_fence IS NULL \
    WHEN 'cancelling' THEN fence IS NOT NULL ELSE 1 = 0 END) LIMIT 1000";

/// The totals of each action, and how many of its executions live.
pub(crate) const TOTALS: &str = "SELECT t.action_id, t.enqueued, t.completed, coalesce(l.living, 0) AS living \
    FROM action_totals t LEFT JOIN (SELECT action_id, count(*) AS living FROM live GROUP BY action_id) AS l \
    ON l.action_id = t.action_id ORDER BY t.action_id";

pub(crate) const LEDGER: &str = "SELECT epoch, batch, next_id, next_fence, next_action, \
    (SELECT max(id) FROM live) AS live_id, (SELECT max(id) FROM history) AS settled_id, \
    (SELECT max(place) FROM live) AS highest_place, (SELECT max(id) FROM actions) AS highest_action \
    FROM leadership WHERE partition_id = 0";

pub(crate) use {live_executions, newest_attempts, page_of_executions, settled_executions};

/// Never forgets a lease that a worker may go by, and changes nothing for a deposed leader.
pub(crate) const FORGET_TERMS: &str = "UPDATE leadership SET lease_us = $3 WHERE partition_id = $1 AND epoch = $2";
