//! A batch as one transaction of a few statements, none per execution: rows travel as one JSON array each list.
//!
//! Bytes (digests, incarnations) travel as hexadecimal digits. `jsonb_each` gives each row in SQLite's binary form, which
//! is taken apart without being written and read as text once for each column.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use slotline_protocol::record::Event;
use slotline_protocol::{Epoch, Timestamp};
use slotline_scheduler::Snapshot;
use sqlx::{Connection, SqliteConnection};

use crate::batch::{Accepted, EndedAttempt, Settled, collapse, sum};
use crate::deadline::within;
use crate::leadership::PARTITION;
use crate::row::{detail_text, json, large, reply_text, timeout_ns};
use crate::text::hide;
use crate::{Batch, CommitError, Counters, Story};

const CHAIN: &str = "UPDATE leadership SET batch = $3, next_id = $4, next_fence = $5, next_action = $6 \
    WHERE partition_id = $1 AND epoch = $2 AND batch = $3 - 1";

const EPOCH: &str = "SELECT epoch FROM leadership WHERE partition_id = $1";

const DELETE_ACTIONS: &str = "UPDATE actions SET deleted_at = d.at, updated_at = d.at \
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS at FROM jsonb_each($1)) AS d WHERE actions.id = d.id";

const PUT_ACTIONS: &str = "INSERT INTO actions (id, ref, policy, paused, created_at, updated_at, deleted_at) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 \
    FROM jsonb_each($1) WHERE true ON CONFLICT (id) DO UPDATE SET ref = excluded.ref, policy = excluded.policy, \
    paused = excluded.paused, updated_at = excluded.updated_at, deleted_at = excluded.deleted_at";

/// A `message_id` that is known already is refused by the key.
const NAME: &str = "INSERT INTO messages (message_id, execution_id, digest) \
    SELECT value ->> 20, value ->> 0, unhex(value ->> 21) FROM jsonb_each($1) WHERE value ->> 20 IS NOT NULL";

const ACCEPT: &str = "INSERT INTO live (id, place, queued_at, not_before, fence, scheduled_at, started_at, \
    incarnation, attempt, failures, losses, keeps_slot, cancel_requested, status, worker, after_fence, action_id, \
    enqueued_at, timeout_ns, concurrency_key, message_id, digest, detail, correlation_id, trace_id, source, reply_to, reply, \
    parameters) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, \
    unhex(value ->> 7), value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, \
    value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18, value ->> 19, value ->> 20, \
    unhex(value ->> 21), value ->> 22, value ->> 23, value ->> 24, value ->> 25, value ->> 26, value ->> 27, \
    value ->> 28 \
    FROM jsonb_each($1)";

const CHANGE: &str = "UPDATE live SET place = c.value ->> 1, queued_at = c.value ->> 2, not_before = c.value ->> 3, \
    fence = c.value ->> 4, scheduled_at = c.value ->> 5, started_at = c.value ->> 6, \
    incarnation = unhex(c.value ->> 7), attempt = c.value ->> 8, failures = c.value ->> 9, losses = c.value ->> 10, \
    keeps_slot = c.value ->> 11, cancel_requested = c.value ->> 12, status = c.value ->> 13, worker = c.value ->> 14, \
    after_fence = c.value ->> 15 \
    FROM jsonb_each($1) AS c WHERE live.id = c.value ->> 0";

const END_ATTEMPTS: &str = "INSERT INTO attempts (execution_id, fence, attempt, outcome, worker, scheduled_at, \
    started_at, ended_at, error) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, \
    value ->> 8 FROM jsonb_each($1)";

const SETTLE: &str = "INSERT INTO history (id, action_id, enqueued_at, scheduled_at, started_at, ended_at, fence, \
    timeout_ns, incarnation, attempt, failures, losses, status, worker, concurrency_key, message_id, detail, \
    correlation_id, trace_id, source, parameters, result, error) \
    SELECT live.id, live.action_id, live.enqueued_at, s.value ->> 1, s.value ->> 2, s.value ->> 3, s.value ->> 4, \
    live.timeout_ns, unhex(s.value ->> 5), s.value ->> 6, s.value ->> 7, s.value ->> 8, s.value ->> 9, \
    s.value ->> 10, live.concurrency_key, live.message_id, live.detail, live.correlation_id, \
    live.trace_id, live.source, live.parameters, s.value ->> 11, s.value ->> 12 \
    FROM jsonb_each($1) AS s CROSS JOIN live ON live.id = s.value ->> 0";

const LEAVE: &str = "DELETE FROM live WHERE id IN (SELECT value ->> 0 FROM jsonb_each($1))";

const ADD_TOTALS: &str = "INSERT INTO action_totals (action_id, enqueued, completed) \
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each($1) WHERE true \
    ON CONFLICT (action_id) DO UPDATE SET enqueued = enqueued + excluded.enqueued, \
    completed = completed + excluded.completed";

const END_INCARNATIONS: &str = "INSERT INTO ended_incarnations (incarnation, worker, ended_at) \
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2 FROM jsonb_each($1) WHERE true ON CONFLICT DO NOTHING";

/// A number that was given before is refused by the key.
const TELL: &str = "INSERT INTO events (execution_id, number, kind, body) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each($1)";

const FORGET_EVENTS: &str = "DELETE FROM events WHERE (execution_id, number) IN (SELECT e.execution_id, e.number \
    FROM jsonb_each($1) AS r CROSS JOIN events AS e ON e.execution_id = r.value ->> 0 AND e.number < r.value ->> 1)";

const PUT_STORIES: &str = "INSERT INTO stories (execution_id, first, last, attempt, sequence, awaits, head) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 \
    FROM jsonb_each($1) WHERE true ON CONFLICT (execution_id) DO UPDATE SET first = excluded.first, \
    last = excluded.last, attempt = excluded.attempt, sequence = excluded.sequence, awaits = excluded.awaits, \
    head = excluded.head";

/// What writes one batch, with all its rows.
pub(crate) struct Script {
    number: i64,
    counters: Counters,
    steps: Vec<Step>,
}

/// Statements that each take the same array of rows.
struct Step {
    statements: &'static [&'static str],
    rows: Arc<str>,
    /// What the statements do with how many executions, which must all live.
    does: Option<(&'static str, usize)>,
}

impl Script {
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut script = Self { number: batch.number, counters: batch.counters, steps: Vec::new() };
        let actions = collapse(&batch.actions);
        script.add(&[DELETE_ACTIONS], &actions.deleted, |(id, at)| [number(id.0), time(*at)]);
        script.add(&[PUT_ACTIONS], &actions.put, |(action, deleted_at)| {
            [
                number(action.action_id.0),
                plain(action.action_ref.as_str()),
                Cell::Text(json(&action.policy).into()),
                Cell::Flag(action.paused),
                time(action.created_at),
                time(action.updated_at),
                maybe(*deleted_at, time),
            ]
        });
        script.add(&[NAME, ACCEPT], &batch.accepted, accepted);
        script.add_living(&[CHANGE], "changed", &batch.live, state);
        script.add(&[END_ATTEMPTS], &batch.attempts, attempt);
        script.add_living(&[SETTLE, LEAVE], "settled", &batch.settled, settled);
        script.add(&[ADD_TOTALS], &sum(&batch.totals), |(action, enqueued, completed)| {
            [number(action.0), number(large(*enqueued)), number(large(*completed))]
        });
        script.add(&[END_INCARNATIONS], &batch.ended_incarnations, |(incarnation, worker, at)| {
            [Cell::Text(incarnation.0.simple().to_string().into()), plain(worker.as_str()), time(*at)]
        });
        script.add(&[TELL], &batch.events, event);
        let cut: Vec<&Story> = batch.stories.iter().filter(|story| story.first > 1).collect();
        script.add(&[FORGET_EVENTS], &cut, |story| [number(story.id.0), number(large(story.first))]);
        script.add(&[PUT_STORIES], &batch.stories, story);
        script
    }

    /// Adds statements over the rows, if there are any.
    fn add<'r, T, const N: usize>(
        &mut self,
        statements: &'static [&'static str],
        rows: &'r [T],
        cells: impl Fn(&'r T) -> [Cell<'r>; N],
    ) where
        [Cell<'r>; N]: Serialize,
    {
        if !rows.is_empty() {
            let rows = json(&rows.iter().map(cells).collect::<Vec<_>>()).into();
            self.steps.push(Step { statements, rows, does: None });
        }
    }

    /// As [`Script::add`], for rows of executions that must live.
    fn add_living<'r, T, const N: usize>(
        &mut self,
        statements: &'static [&'static str],
        what: &'static str,
        rows: &'r [T],
        cells: impl Fn(&'r T) -> [Cell<'r>; N],
    ) where
        [Cell<'r>; N]: Serialize,
    {
        self.add(statements, rows, cells);
        if !rows.is_empty()
            && let Some(step) = self.steps.last_mut()
        {
            step.does = Some((what, rows.len()));
        }
    }
}

/// Writes a batch under `epoch`, whole or not at all.
pub(super) async fn write(connection: &mut SqliteConnection, epoch: Epoch, script: Script) -> Result<(), CommitError> {
    match within(transact(connection, epoch, script)).await {
        Ok(Chained::Yes) => Ok(()),
        Ok(Chained::Deposed(theirs)) => Err(CommitError::Deposed { ours: epoch, theirs }),
        Err(error) => Err(CommitError::Unknown(error)),
    }
}

enum Chained {
    Yes,
    Deposed(Epoch),
}

async fn transact(connection: &mut SqliteConnection, epoch: Epoch, script: Script) -> Result<Chained, sqlx::Error> {
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
    for Step { statements, rows, does } in steps {
        for &statement in statements {
            let touched = sqlx::query(statement).bind(rows.clone()).execute(&mut *db).await?.rows_affected();
            if let Some((what, expected)) = does
                && u64::try_from(expected) != Ok(touched)
            {
                return Err(violated(format!("{expected} executions {what}, but {touched} of them live")));
            }
        }
    }
    transaction.commit().await?;
    Ok(Chained::Yes)
}

/// The journal does not hold what the batch says; nothing of the batch is written.
fn violated(reason: String) -> sqlx::Error {
    sqlx::Error::Protocol(reason)
}

/// One value of a row.
#[derive(Serialize)]
#[serde(untagged)]
enum Cell<'r> {
    Null,
    Flag(bool),
    Number(i64),
    Text(Cow<'r, str>),
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

fn hex<'r>(bytes: &[u8]) -> Cell<'r> {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Cell::Text(digits.map(|digit| char::from_digit(digit.into(), 16).expect("half a byte is a digit")).collect())
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
        maybe(request.message_id.as_deref(), hidden),
        hex(&request.digest),
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
        maybe(lease, |lease| hex(lease.incarnation.0.as_bytes())),
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

fn attempt(row: &EndedAttempt) -> [Cell<'_>; 9] {
    [
        number(row.execution_id.0),
        number(row.fence.0),
        count(row.attempt),
        plain(row.outcome.as_str()),
        maybe(row.worker.as_ref(), |worker| plain(worker.as_str())),
        time(row.scheduled_at),
        maybe(row.started_at, time),
        time(row.ended_at),
        maybe(row.error.as_ref(), |error| Cell::Text(json(error).into())),
    ]
}

fn settled(row: &Settled) -> [Cell<'_>; 13] {
    let lease = row.lease.as_ref();
    [
        number(row.id.0),
        maybe(lease, |lease| time(lease.scheduled_at)),
        maybe(lease.and_then(|lease| lease.started_at), time),
        time(row.ended_at),
        maybe(lease, |lease| number(lease.fence.0)),
        maybe(lease, |lease| hex(lease.incarnation.0.as_bytes())),
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
