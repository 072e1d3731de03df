//! A batch as one transaction of a few statements, none per execution: each takes many rows, whose values are bound.
//!
//! Statements are kept prepared, which needs their texts to be few: a list of rows is cut into pieces of powers of two.
//! A failure ends the whole transaction, so inserts and updates have `OR FAIL`: SQLite then keeps no copy of the pages
//! that the single statement would have to restore. Nor does it where no function is called.

use std::sync::{Arc, LazyLock};

use slotline_protocol::Epoch;
use slotline_scheduler::Counters;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Connection, SqliteConnection};

use crate::batch::{AcceptedRequest, collapse, sum};
use crate::columns::{self, Cell, Column};
use crate::deadline::within;
use crate::leadership::PARTITION;
use crate::row::{json, large, timeout_ns};
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

static ACCEPT: LazyLock<String> = LazyLock::new(|| insert("live", &columns::ACCEPTED));

static CHANGE: LazyLock<String> = LazyLock::new(|| {
    let (names, changed) = (columns::names(&columns::STATE), columns::each(&columns::STATE, "$ = c.$"));
    format!("WITH c ({names}) AS (VALUES {ROWS}) UPDATE OR FAIL live SET {changed} FROM c WHERE live.id = c.id")
});

static END_ATTEMPTS: LazyLock<String> = LazyLock::new(|| insert("attempts", &columns::ATTEMPTS));

static SETTLE: LazyLock<String> = LazyLock::new(|| {
    let (names, brought) = (columns::names(&columns::SETTLED), columns::each(&columns::SETTLED, "s.$"));
    let (kept, from_live) = (columns::KEPT.join(", "), columns::KEPT.map(|name| format!("live.{name}")).join(", "));
    format!(
        "WITH s ({names}) AS (VALUES {ROWS}) INSERT OR FAIL INTO history ({names}, {kept}) \
        SELECT s.id, {brought}, {from_live} FROM s CROSS JOIN live ON live.id = s.id"
    )
});

const LEAVE: &str = "DELETE FROM live WHERE id IN (VALUES $rows)";

static ADD_TOTALS: LazyLock<String> = LazyLock::new(|| {
    let (names, added) = (columns::names(&columns::TOTALS), columns::each(&columns::TOTALS, "$ = $ + excluded.$"));
    format!("INSERT INTO action_totals ({names}) VALUES {ROWS} ON CONFLICT (action_id) DO UPDATE SET {added}")
});

static END_INCARNATIONS: LazyLock<String> = LazyLock::new(|| {
    let names = columns::names(&columns::ENDED_INCARNATIONS);
    format!("INSERT INTO ended_incarnations ({names}) VALUES {ROWS} ON CONFLICT DO NOTHING")
});

/// A number that was given before is refused by the key.
static TELL: LazyLock<String> = LazyLock::new(|| insert("events", &columns::EVENTS));

const FORGET_EVENTS: &str = "WITH r (id, first) AS (VALUES $rows) \
    DELETE FROM events WHERE (execution_id, number) IN (SELECT e.execution_id, e.number \
    FROM r CROSS JOIN events AS e ON e.execution_id = r.id AND e.number < r.first)";

static PUT_STORIES: LazyLock<String> = LazyLock::new(|| {
    let (names, put) = (columns::names(&columns::STORIES), columns::each(&columns::STORIES, "$ = excluded.$"));
    format!("INSERT INTO stories ({names}) VALUES {ROWS} ON CONFLICT (execution_id) DO UPDATE SET {put}")
});

const NOTE: &str = "INSERT OR FAIL INTO audit (at, changed, actor, via, reason, action_id, action_ref, execution_id, \
    fence, changes) VALUES $rows";
const ANNOUNCE: &str = "INSERT INTO announcements (epoch, batch, events) \
    SELECT epoch, batch, column1 FROM leadership CROSS JOIN (VALUES $rows)";

fn insert<R>(table: &str, columns: &[Column<R>]) -> String {
    format!("INSERT OR FAIL INTO {table} ({}) VALUES {ROWS}", columns::names(columns))
}

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
        script.add(DELETE_ACTIONS, &actions.deleted, |(id, at)| [id.0.into(), (*at).into()]);
        script.add(PUT_ACTIONS, &actions.put, |(action, deleted_at)| {
            [
                action.action_id.0.into(),
                action.action_ref.as_str().into(),
                json(&action.policy).into(),
                action.paused.into(),
                action.limit_override.as_ref().map(json).into(),
                action.created_at.into(),
                action.updated_at.into(),
                (*deleted_at).into(),
            ]
        });
        script.add(NOTE_TIMEOUTS, &actions.put, |(action, _)| {
            [action.action_id.0.into(), action.updated_at.into(), action.policy.timeout.map(timeout_ns).into()]
        });
        let named: Vec<_> = batch.accepted.iter().filter(|accepted| accepted.request.name.is_some()).collect();
        script.add(NAME, &named, |accepted| {
            let AcceptedRequest { snapshot, request } = accepted;
            [
                request.name.as_ref().map(|name| hide(name.as_text())).into(),
                snapshot.id.0.into(),
                request.digest.as_slice().into(),
            ]
        });
        script.add_columns(&ACCEPT, &columns::ACCEPTED, &batch.accepted);
        script.add_columns(&CHANGE, &columns::STATE, &batch.live);
        script.expect_all("changed", batch.live.len());
        script.add_columns(&END_ATTEMPTS, &columns::ATTEMPTS, &batch.attempts);
        script.add_columns(&SETTLE, &columns::SETTLED, &batch.settled);
        script.expect_all("settled", batch.settled.len());
        script.add(LEAVE, &batch.settled, |settled| [settled.id.0.into()]);
        script.expect_all("left", batch.settled.len());
        script.add_columns(&ADD_TOTALS, &columns::TOTALS, &sum(&batch.totals));
        script.add_columns(&END_INCARNATIONS, &columns::ENDED_INCARNATIONS, &batch.ended_incarnations);
        script.add_columns(&TELL, &columns::EVENTS, &batch.events);
        let cut: Vec<&Story> = batch.stories.iter().filter(|story| story.first > 1).collect();
        script.add(FORGET_EVENTS, &cut, |story| [story.id.0.into(), large(story.first).into()]);
        script.add_columns(&PUT_STORIES, &columns::STORIES, &batch.stories);
        script.add(NOTE, &batch.audit, noted);
        let announced: Vec<String> = announcements::column(&batch.announced).into_iter().collect();
        script.add(ANNOUNCE, &announced, |events| [events.as_str().into()]);
        script
    }

    /// Adds a statement over the rows, if there are any; `cells` gives the values of one.
    fn add<'r, T, const N: usize>(
        &mut self,
        statement: &'static str,
        rows: &'r [T],
        cells: impl Fn(&'r T) -> [Cell<'r>; N],
    ) {
        self.add_rows(statement, N, rows, |row, values| cells(row).into_iter().for_each(|cell| add(cell, values)));
    }

    /// The same, of rows with these columns.
    fn add_columns<R>(&mut self, statement: &'static str, columns: &[Column<R>], rows: &[R]) {
        self.add_rows(statement, columns.len(), rows, |row, values| {
            columns.iter().for_each(|column| add((column.cell)(row), values));
        });
    }

    fn add_rows<'r, T>(
        &mut self,
        statement: &'static str,
        width: usize,
        rows: &'r [T],
        add_row: impl Fn(&'r T, &mut SqliteArguments),
    ) {
        if rows.is_empty() {
            return;
        }
        let mut pieces = Vec::new();
        let mut rest = rows;
        while let Some(log) = rest.len().checked_ilog2() {
            let (piece, after) = rest.split_at(ROWS_MAX.min(1 << log));
            let mut values = SqliteArguments::default();
            values.reserve(piece.len() * width, 0);
            piece.iter().for_each(|row| add_row(row, &mut values));
            pieces.push(values);
            rest = after;
        }
        self.steps.push(Step { statement, width, pieces, does: None });
    }

    /// The statement added last, if there are `rows`, does this with as many executions, which must all live.
    fn expect_all(&mut self, what: &'static str, rows: usize) {
        if let Some(step) = self.steps.last_mut().filter(|_| rows > 0) {
            step.does = Some((what, rows));
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

fn add(cell: Cell<'_>, values: &mut SqliteArguments) {
    let added = match cell {
        Cell::Null => values.add(None::<i64>),
        Cell::Flag(flag) => values.add(flag),
        Cell::Count(count) => values.add(i64::from(count)),
        Cell::Number(number) => values.add(number),
        Cell::Time(time) => values.add(time.as_micros()),
        Cell::Id(id) => values.add(id.as_bytes().as_slice()),
        Cell::Text(text) => values.add(Arc::<str>::from(text)),
        Cell::Bytes(bytes) => values.add(bytes),
    };
    added.expect("numbers, text and bytes are what SQLite takes");
}

fn noted(entry: &Audit) -> [Cell<'_>; 10] {
    let action = entry.action.as_ref();
    [
        entry.at.into(),
        entry.changed.as_str().into(),
        hide(&entry.by.actor).into(),
        audit::via_text(entry.by.via).into(),
        entry.by.reason.as_deref().map(hide).into(),
        action.map(|(id, _)| id.0).into(),
        action.map(|(_, name)| name.as_str()).into(),
        entry.execution_id.map(|id| id.0).into(),
        entry.fence.map(|fence| fence.0).into(),
        audit::changes_text(&entry.changes).into(),
    ]
}
