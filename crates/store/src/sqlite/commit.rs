//! A batch as one transaction of a few statements, none per execution: each takes many rows, whose values are bound.
//!
//! Statements are kept prepared, which needs their texts to be few: a list of rows is cut into pieces of powers of two.
//! A failure ends the whole transaction, so inserts and updates have `OR FAIL`: SQLite then keeps no copy of the pages
//! that the single statement would have to restore. Nor does it where no function is called.

use std::borrow::Cow;
use std::sync::Arc;

use slotline_protocol::record::Event;
use slotline_protocol::{Epoch, RequestName, Timestamp};
use slotline_scheduler::{AttemptEnded, Counters, Settled, Snapshot};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Connection, SqliteConnection};

use crate::batch::{Accepted, collapse, left, sum};
use crate::deadline::within;
use crate::leadership::PARTITION;
use crate::row::{detail_text, json, large, reply_text, timeout_ns};
use crate::text::hide;
use crate::{Audit, Batch, CommitError, Story, announcements, audit};

/// The most rows of one statement: 128 of the widest have 3,712 values, of the 32,766 that SQLite takes.
const ROWS_MAX: usize = 128;
/// Where the rows go in the text of a statement.
const ROWS: &str = "$rows";

const CHAIN: &str = "UPDATE leadership SET batch = $3, next_id = $4, next_fence = $5, next_action = $6 \
    WHERE partition_id = $1 AND epoch = $2 AND batch = $3 - 1";

const EPOCH: &str = "SELECT epoch FROM leadership WHERE partition_id = $1";

const DELETE_ACTIONS: &str = "WITH d (id, at) AS (VALUES $rows) \
    UPDATE OR FAIL actions SET deleted_at = d.at, updated_at = d.at FROM d WHERE actions.id = d.id";

const PUT_ACTIONS: &str = "INSERT INTO actions (id, ref, policy, paused, limit_override, created_at, updated_at, \
    deleted_at) VALUES $rows ON CONFLICT (id) DO UPDATE SET ref = excluded.ref, policy = excluded.policy, \
    paused = excluded.paused, limit_override = excluded.limit_override, updated_at = excluded.updated_at, deleted_at = excluded.deleted_at";

const NOTE_TIMEOUTS: &str = "WITH p (id, since, timeout_ns) AS (VALUES $rows) \
    INSERT INTO action_timeouts (action_id, since, timeout_ns) SELECT p.id, p.since, p.timeout_ns FROM p \
    WHERE NOT EXISTS (SELECT 1 FROM action_timeouts t WHERE t.action_id = p.id AND t.timeout_ns IS p.timeout_ns \
    AND t.since = (SELECT max(n.since) FROM action_timeouts n WHERE n.action_id = p.id)) \
    ON CONFLICT (action_id, since) DO UPDATE SET timeout_ns = excluded.timeout_ns";

/// A `message_id` that is known already is refused by the key.
const NAME: &str = "INSERT OR FAIL INTO messages (message_id, execution_id, digest) VALUES $rows";

const ACCEPT: &str = "INSERT OR FAIL INTO live (id, place, queued_at, not_before, fence, scheduled_at, started_at, \
    incarnation, attempt, failures, losses, keeps_slot, cancel_requested, status, worker, after_fence, action_id, \
    enqueued_at, timeout_ns, concurrency_key, message_id, digest, detail, correlation_id, trace_id, source, reply_to, reply, \
    parameters) VALUES $rows";

const CHANGE: &str = "WITH c (id, place, queued_at, not_before, fence, scheduled_at, started_at, incarnation, attempt, \
    failures, losses, keeps_slot, cancel_requested, status, worker, after_fence) AS (VALUES $rows) \
    UPDATE OR FAIL live SET place = c.place, queued_at = c.queued_at, not_before = c.not_before, fence = c.fence, \
    scheduled_at = c.scheduled_at, started_at = c.started_at, incarnation = c.incarnation, attempt = c.attempt, \
    failures = c.failures, losses = c.losses, keeps_slot = c.keeps_slot, cancel_requested = c.cancel_requested, \
    status = c.status, worker = c.worker, after_fence = c.after_fence FROM c WHERE live.id = c.id";

const END_ATTEMPTS: &str = "INSERT OR FAIL INTO attempts (execution_id, fence, attempt, outcome, worker, scheduled_at, \
    started_at, ended_at, error, result) VALUES $rows";

const SETTLE: &str = "WITH s (id, scheduled_at, started_at, ended_at, fence, incarnation, attempt, failures, losses, \
    status, worker, result, error) AS (VALUES $rows) \
    INSERT OR FAIL INTO history (id, action_id, enqueued_at, scheduled_at, started_at, ended_at, fence, timeout_ns, \
    incarnation, attempt, failures, losses, status, worker, concurrency_key, message_id, detail, correlation_id, trace_id, \
    source, parameters, result, error) \
    SELECT live.id, live.action_id, live.enqueued_at, s.scheduled_at, s.started_at, s.ended_at, s.fence, live.timeout_ns, \
    s.incarnation, s.attempt, s.failures, s.losses, s.status, s.worker, live.concurrency_key, live.message_id, \
    live.detail, live.correlation_id, live.trace_id, live.source, live.parameters, s.result, s.error \
    FROM s CROSS JOIN live ON live.id = s.id";

const LEAVE: &str = "DELETE FROM live WHERE id IN (VALUES $rows)";

const ADD_TOTALS: &str = "INSERT INTO action_totals (action_id, enqueued, completed) VALUES $rows \
    ON CONFLICT (action_id) DO UPDATE SET enqueued = enqueued + excluded.enqueued, \
    completed = completed + excluded.completed";

const END_INCARNATIONS: &str = "INSERT INTO ended_incarnations (incarnation, worker, ended_at) VALUES $rows \
    ON CONFLICT DO NOTHING";

/// A number that was given before is refused by the key.
const TELL: &str = "INSERT OR FAIL INTO events (execution_id, number, kind, body) VALUES $rows";

const FORGET_EVENTS: &str = "WITH r (id, first) AS (VALUES $rows) \
    DELETE FROM events WHERE (execution_id, number) IN (SELECT e.execution_id, e.number \
    FROM r CROSS JOIN events AS e ON e.execution_id = r.id AND e.number < r.first)";

const PUT_STORIES: &str = "INSERT INTO stories (execution_id, first, last, attempt, sequence, awaits, head) \
    VALUES $rows ON CONFLICT (execution_id) DO UPDATE SET first = excluded.first, \
    last = excluded.last, attempt = excluded.attempt, sequence = excluded.sequence, awaits = excluded.awaits, \
    head = excluded.head";

const NOTE: &str = "INSERT OR FAIL INTO audit (at, changed, actor, via, reason, action_id, action_ref, execution_id, \
    fence, changes) VALUES $rows";
const ANNOUNCE: &str = "INSERT INTO announcements (epoch, batch, events) \
    SELECT epoch, batch, column1 FROM leadership CROSS JOIN (VALUES $rows)";

/// The statements that write one batch, with all their rows.
pub(crate) struct Script {
    number: i64,
    counters: Counters,
    steps: Vec<Step>,
}

/// A statement, run as often as its rows need it.
struct Step {
    statement: &'static str,
    /// Values of one row.
    width: usize,
    /// The values of each piece.
    pieces: Vec<SqliteArguments>,
    /// A verb for what the statement does, and the number of executions, which must all live.
    does: Option<(&'static str, usize)>,
}

impl Script {
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut script = Self { number: batch.number, counters: batch.counters, steps: Vec::new() };
        let actions = collapse(&batch.actions);
        script.add(DELETE_ACTIONS, &actions.deleted, |(id, at)| [number(id.0), time(*at)]);
        script.add(PUT_ACTIONS, &actions.put, |(action, deleted_at)| {
            [
                number(action.action_id.0),
                plain(action.action_ref.as_str()),
                Cell::Text(json(&action.policy).into()),
                Cell::Flag(action.paused),
                maybe(action.limit_override.as_ref(), |temporary| Cell::Text(json(temporary).into())),
                time(action.created_at),
                time(action.updated_at),
                maybe(*deleted_at, time),
            ]
        });
        script.add(NOTE_TIMEOUTS, &actions.put, |(action, _)| {
            let timeout = maybe(action.policy.timeout, |timeout| number(timeout_ns(timeout)));
            [number(action.action_id.0), time(action.updated_at), timeout]
        });
        let named: Vec<_> = batch.accepted.iter().filter(|accepted| accepted.request.name.is_some()).collect();
        script.add(NAME, &named, |accepted| {
            let Accepted { snapshot, request } = accepted;
            [
                maybe(request.name.as_ref().map(RequestName::as_text), hidden),
                number(snapshot.id.0),
                Cell::Bytes(&request.digest),
            ]
        });
        script.add(ACCEPT, &batch.accepted, accepted);
        script.add_living(CHANGE, "changed", &batch.live, state);
        script.add(END_ATTEMPTS, &batch.attempts, attempt);
        script.add_living(SETTLE, "settled", &batch.settled, settled);
        script.add_living(LEAVE, "left", &batch.settled, |settled| [number(settled.id.0)]);
        script.add(ADD_TOTALS, &sum(&batch.totals), |(action, enqueued, completed)| {
            [number(action.0), number(large(*enqueued)), number(large(*completed))]
        });
        script.add(END_INCARNATIONS, &batch.ended_incarnations, |(incarnation, worker, at)| {
            [Cell::Bytes(incarnation.0.as_bytes()), plain(worker.as_str()), time(*at)]
        });
        script.add(TELL, &batch.events, event);
        let cut: Vec<&Story> = batch.stories.iter().filter(|story| story.first > 1).collect();
        script.add(FORGET_EVENTS, &cut, |story| [number(story.id.0), number(large(story.first))]);
        script.add(PUT_STORIES, &batch.stories, story);
        script.add(NOTE, &batch.audit, noted);
        let announced: Vec<String> = announcements::column(&batch.announced).into_iter().collect();
        script.add(ANNOUNCE, &announced, |events| [plain(events)]);
        script
    }

    /// Adds a statement over the rows, if there are any.
    fn add<'r, T, const N: usize>(
        &mut self,
        statement: &'static str,
        rows: &'r [T],
        cells: impl Fn(&'r T) -> [Cell<'r>; N],
    ) {
        if rows.is_empty() {
            return;
        }
        let mut pieces = Vec::new();
        let mut rest = rows;
        while let Some(log) = rest.len().checked_ilog2() {
            let (piece, after) = rest.split_at(ROWS_MAX.min(1 << log));
            let mut values = SqliteArguments::default();
            values.reserve(piece.len() * N, 0);
            piece.iter().flat_map(&cells).for_each(|cell| cell.add_to(&mut values));
            pieces.push(values);
            rest = after;
        }
        self.steps.push(Step { statement, width: N, pieces, does: None });
    }

    /// As [`Script::add`], for rows of executions that must live.
    fn add_living<'r, T, const N: usize>(
        &mut self,
        statement: &'static str,
        what: &'static str,
        rows: &'r [T],
        cells: impl Fn(&'r T) -> [Cell<'r>; N],
    ) {
        self.add(statement, rows, cells);
        if !rows.is_empty()
            && let Some(step) = self.steps.last_mut()
        {
            step.does = Some((what, rows.len()));
        }
    }
}

/// The text of a statement over so many rows.
fn text(statement: &str, width: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; width].join(","));
    statement.replace(ROWS, &vec![row; rows].join(","))
}

/// The end of a batch that could be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Commit,
    /// It was a trial.
    Rollback,
}

/// Writes a batch under `epoch`, whole or not at all.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    script: Script,
    end: End,
) -> Result<(), CommitError> {
    match within(transact(connection, epoch, script, end)).await {
        Ok(Chained::Yes) => Ok(()),
        Ok(Chained::Deposed(theirs)) => Err(CommitError::Deposed { ours: epoch, theirs }),
        Err(error) => Err(CommitError::Unknown(error)),
    }
}

enum Chained {
    Yes,
    Deposed(Epoch),
}

async fn transact(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    script: Script,
    end: End,
) -> Result<Chained, sqlx::Error> {
    let Script { number, counters, steps } = script;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let db = &mut *transaction;
    let chained = sqlx::query(CHAIN)
        .bind(PARTITION)
        .bind(epoch.0)
        .bind(number)
        .bind(counters.next_id)
        .bind(counters.next_fence)
        .bind(counters.next_action)
        .execute(&mut *db)
        .await?;
    if chained.rows_affected() == 0 {
        let theirs = Epoch(sqlx::query_scalar(EPOCH).bind(PARTITION).fetch_one(&mut *db).await?);
        transaction.rollback().await?;
        if theirs == epoch {
            return Err(violated(format!("batch {number} does not follow the last one")));
        }
        return Ok(Chained::Deposed(theirs));
    }
    for Step { statement, width, pieces, does } in steps {
        let mut touched = 0;
        for values in pieces {
            // Safe, since all of the text but its number of rows is a constant.
            let text = AssertSqlSafe(text(statement, width, values.len() / width));
            touched += sqlx::query_with(text, values).execute(&mut *db).await?.rows_affected();
        }
        if let Some((what, expected)) = does
            && u64::try_from(expected) != Ok(touched)
        {
            return Err(violated(format!("{expected} executions {what}, but {touched} of them live")));
        }
    }
    match end {
        End::Commit => transaction.commit().await?,
        End::Rollback => transaction.rollback().await?,
    }
    Ok(Chained::Yes)
}

/// The batch does not fit the journal; nothing of it is written.
fn violated(reason: String) -> sqlx::Error {
    sqlx::Error::Protocol(reason)
}

/// One value of a row.
enum Cell<'r> {
    Null,
    Flag(bool),
    Number(i64),
    Text(Cow<'r, str>),
    Bytes(&'r [u8]),
}

impl Cell<'_> {
    fn add_to(self, values: &mut SqliteArguments) {
        let added = match self {
            Self::Null => values.add(None::<i64>),
            Self::Flag(flag) => values.add(flag),
            Self::Number(number) => values.add(number),
            Self::Text(text) => values.add(Arc::<str>::from(text)),
            Self::Bytes(bytes) => values.add(bytes),
        };
        added.expect("numbers, text and bytes are what SQLite takes");
    }
}

fn number<'r>(number: i64) -> Cell<'r> {
    Cell::Number(number)
}

fn count<'r>(count: u32) -> Cell<'r> {
    Cell::Number(count.into())
}

fn time<'r>(time: Timestamp) -> Cell<'r> {
    Cell::Number(time.as_micros())
}

fn plain(text: &str) -> Cell<'_> {
    Cell::Text(text.into())
}

fn hidden(text: &str) -> Cell<'_> {
    Cell::Text(hide(text))
}

fn maybe<'r, T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'r>) -> Cell<'r> {
    value.map_or(Cell::Null, cell)
}

fn accepted(row: &Accepted) -> [Cell<'_>; 29] {
    let (snapshot, request) = (&row.snapshot, &row.request);
    let [
        id,
        place,
        queued,
        not_before,
        fence,
        scheduled,
        started,
        incarnation,
        attempt,
        failures,
        losses,
        keeps,
        cancel,
        status,
        worker,
        after_fence,
    ] = state(snapshot);
    [
        id,
        place,
        queued,
        not_before,
        fence,
        scheduled,
        started,
        incarnation,
        attempt,
        failures,
        losses,
        keeps,
        cancel,
        status,
        worker,
        after_fence,
        number(snapshot.action.0),
        time(snapshot.enqueued_at),
        maybe(request.timeout, |timeout| number(timeout_ns(timeout))),
        maybe(snapshot.key.as_deref(), hidden),
        maybe(request.name.as_ref().map(RequestName::as_text), hidden),
        Cell::Bytes(&request.digest),
        maybe(detail_text(request.detail), |text| Cell::Text(text.into())),
        maybe(request.correlation_id.as_deref(), hidden),
        maybe(request.trace_id.as_deref(), hidden),
        maybe(request.source.as_deref(), hidden),
        maybe(request.reply_to.as_deref(), hidden),
        plain(reply_text(request.reply)),
        plain(request.parameters.get()),
    ]
}

/// The columns that may change while an execution lives.
fn state(snapshot: &Snapshot) -> [Cell<'_>; 16] {
    let lease = snapshot.lease.as_ref();
    [
        number(snapshot.id.0),
        number(snapshot.place),
        time(snapshot.queued_at),
        maybe(snapshot.not_before, time),
        maybe(lease, |lease| number(lease.fence.0)),
        maybe(lease, |lease| time(lease.scheduled_at)),
        maybe(lease.and_then(|lease| lease.started_at), time),
        maybe(lease, |lease| Cell::Bytes(lease.incarnation.0.as_bytes())),
        count(snapshot.attempt),
        count(snapshot.failures),
        count(snapshot.losses),
        Cell::Flag(snapshot.keeps_slot),
        Cell::Flag(snapshot.cancel_requested),
        plain(snapshot.status.as_str()),
        maybe(lease, |lease| plain(lease.worker.as_str())),
        maybe(lease.and_then(|lease| lease.after), |after| number(after.0)),
    ]
}

fn attempt(row: &AttemptEnded) -> [Cell<'_>; 10] {
    [
        number(row.id.0),
        number(row.lease.fence.0),
        count(row.attempt),
        plain(row.outcome.as_str()),
        plain(row.lease.worker.as_str()),
        time(row.lease.scheduled_at),
        maybe(row.lease.started_at, time),
        time(row.ended_at),
        maybe(row.error.as_ref(), |error| Cell::Text(json(error).into())),
        maybe(left(row), plain),
    ]
}

fn settled(row: &Arc<Settled>) -> [Cell<'_>; 13] {
    let lease = row.lease.as_ref();
    [
        number(row.id.0),
        maybe(lease, |lease| time(lease.scheduled_at)),
        maybe(lease.and_then(|lease| lease.started_at), time),
        time(row.ended_at),
        maybe(lease, |lease| number(lease.fence.0)),
        maybe(lease, |lease| Cell::Bytes(lease.incarnation.0.as_bytes())),
        count(row.attempt),
        count(row.failures),
        count(row.losses),
        plain(row.status.as_str()),
        maybe(lease, |lease| plain(lease.worker.as_str())),
        maybe(row.result.as_deref(), |result| plain(result.get())),
        maybe(row.error.as_ref(), |error| Cell::Text(json(error).into())),
    ]
}

fn event(row: &Arc<Event>) -> [Cell<'_>; 4] {
    [
        number(row.execution_id.0),
        number(large(row.number)),
        plain(row.what.kind().as_str()),
        Cell::Text(json(row).into()),
    ]
}

fn story(row: &Story) -> [Cell<'_>; 7] {
    [
        number(row.id.0),
        number(large(row.first)),
        number(large(row.last)),
        count(row.attempt),
        number(large(row.sequence)),
        maybe(row.awaits.map(large), number),
        Cell::Text(json(&row.head()).into()),
    ]
}

fn noted(entry: &Audit) -> [Cell<'_>; 10] {
    let action = entry.action.as_ref();
    [
        time(entry.at),
        plain(entry.changed.as_str()),
        hidden(&entry.by.actor),
        plain(audit::via_text(entry.by.via)),
        maybe(entry.by.reason.as_deref(), hidden),
        maybe(action, |(id, _)| number(id.0)),
        maybe(action, |(_, name)| plain(name.as_str())),
        maybe(entry.execution_id, |id| number(id.0)),
        maybe(entry.fence, |fence| number(fence.0)),
        maybe(audit::changes_text(&entry.changes), |text| Cell::Text(text.into())),
    ]
}
