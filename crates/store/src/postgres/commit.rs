//! A batch as one call of `slotline_commit`: one statement, one transaction, one round trip.
//!
//! Rows travel as columns, an array each, in the order of the function's arguments. A column without any value is null,
//! which `unnest` fills up with nulls: PostgreSQL would make an object of an empty array, too, some microseconds each,
//! and most batches leave most columns out.

use std::sync::LazyLock;

use slotline_protocol::{Epoch, Timestamp, http};
use sqlx::postgres::{PgArguments, PgConnection, PgDatabaseError};
use sqlx::query::Query;
use sqlx::{Connection, Encode, Postgres, Type};

use crate::batch::ActionChange;
use crate::columns::{self, Cell, Column, ColumnKind};
use crate::deadline::within;
use crate::leadership::PARTITION;
use crate::row::{json, timeout_ns};
use crate::stamp::Stamp;
use crate::{Batch, CommitError, Error, announcements, audit, culprit};

/// The arguments of `slotline_commit`, in its order.
pub(crate) static ARGUMENTS: LazyLock<Vec<CommitArgument>> = LazyLock::new(|| {
    let first = [("p_partition", "int4"), ("p_epoch", "int8"), ("p_batch", "int8")];
    let counters = [("p_next_id", "int8"), ("p_next_fence", "int8"), ("p_next_action", "int8")];
    let actions = [("d_id", "_int8"), ("d_at", "_timestamptz"), ("a_rows", "text")];
    let one = |&(name, kind): &(&str, &'static str)| CommitArgument { name: name.to_owned(), kind };
    let mut all: Vec<CommitArgument> = first.iter().chain(&counters).chain(&actions).map(one).collect();
    all.extend(arrays("n", &columns::ACCEPTED));
    all.extend(arrays("l", &columns::STATE));
    all.extend(arrays("t", &columns::ATTEMPTS));
    all.extend(arrays("s", &columns::SETTLED));
    all.extend(arrays("c", &columns::TOTALS));
    all.extend(arrays("i", &columns::ENDED_INCARNATIONS));
    all.extend(arrays("e", &columns::EVENTS));
    all.extend(arrays("r", &columns::STORIES));
    all.extend([("u_rows", "text"), ("p_announced", "text")].iter().map(one));
    all
});

static CALL: LazyLock<String> = LazyLock::new(|| {
    let arguments: Vec<String> = (1..=ARGUMENTS.len()).map(|number| format!("${number}")).collect();
    format!("SELECT slotline_commit({})", arguments.join(", "))
});

/// One argument, by its name and its type in `pg_type`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommitArgument {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
}

fn arrays<R>(prefix: &str, columns: &[Column<R>]) -> Vec<CommitArgument> {
    let array =
        |column: &Column<R>| CommitArgument { name: format!("{prefix}_{}", column.name), kind: array_of(column.kind) };
    columns.iter().map(array).collect()
}

fn array_of(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Flag => "_bool",
        ColumnKind::Count => "_int4",
        ColumnKind::Number => "_int8",
        ColumnKind::Time => "_timestamptz",
        ColumnKind::Id => "_uuid",
        ColumnKind::Text => "_text",
        ColumnKind::Bytes => "_bytea",
    }
}

/// The error of `slotline_commit` when another executor leads; the detail is the current epoch.
const DEPOSED: &str = "SL001";

/// The statement that writes one batch, with all its rows.
pub(crate) type Call = Query<'static, Postgres, PgArguments>;

/// The call that writes `batch` under `epoch`.
pub(crate) fn call(epoch: Epoch, batch: &Batch) -> Call {
    let mut call = sqlx::query(CALL.as_str())
        .bind(PARTITION)
        .bind(epoch.0)
        .bind(batch.number)
        .bind(batch.counters.next_id)
        .bind(batch.counters.next_fence)
        .bind(batch.counters.next_action);
    bind_actions(&mut call, &batch.actions);
    bind_rows(&mut call, &columns::ACCEPTED, &batch.accepted);
    bind_rows(&mut call, &columns::STATE, &batch.live);
    bind_rows(&mut call, &columns::ATTEMPTS, &batch.attempts);
    bind_rows(&mut call, &columns::SETTLED, &batch.settled);
    bind_rows(&mut call, &columns::TOTALS, &crate::batch::sum(&batch.totals));
    bind_rows(&mut call, &columns::ENDED_INCARNATIONS, &batch.ended_incarnations);
    bind_rows(&mut call, &columns::EVENTS, &batch.events);
    bind_rows(&mut call, &columns::STORIES, &batch.stories);
    call.bind(audit::rows(&batch.audit)).bind(announcements::column(&batch.announced))
}

/// What a failed call means for the leader.
pub(super) fn outcome(ours: Epoch, error: Error) -> CommitError {
    if let Error::Unavailable(cause) = &error
        && let Some(raised) = cause.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        && raised.code() == DEPOSED
    {
        let theirs = raised.detail().and_then(|detail| detail.parse().ok()).unwrap_or_default();
        return CommitError::Deposed { ours, theirs };
    }
    CommitError::Unknown(error)
}

/// Writes batches on the session of a leader, and rolls them back.
pub(super) struct Rehearsal {
    pub(super) epoch: Epoch,
    pub(super) connection: PgConnection,
}

impl culprit::Rehearsal for Rehearsal {
    async fn refusal(&mut self, batch: &Batch) -> Result<Option<String>, Error> {
        let mut transaction = within(self.connection.begin()).await?;
        let written = within(call(self.epoch, batch).execute(&mut *transaction)).await;
        within(transaction.rollback()).await?;
        match written {
            Ok(_) => Ok(None),
            Err(Error::Refused(words)) => Ok(Some(words)),
            Err(error) => Err(error),
        }
    }
}

/// Binds an array for each column.
fn bind_rows<R>(call: &mut Call, columns: &[Column<R>], rows: &[R]) {
    for column in columns {
        match column.kind {
            ColumnKind::Flag => {
                bind(call, array(rows, column, |cell| if let Cell::Flag(flag) = cell { Some(flag) } else { None }))
            }
            ColumnKind::Count => bind(
                call,
                array(rows, column, |cell| if let Cell::Count(count) = cell { Some(small(count)) } else { None }),
            ),
            ColumnKind::Number => bind(
                call,
                array(rows, column, |cell| if let Cell::Number(number) = cell { Some(number) } else { None }),
            ),
            ColumnKind::Time => bind(
                call,
                array(rows, column, |cell| if let Cell::Time(time) = cell { Some(Stamp(time)) } else { None }),
            ),
            ColumnKind::Id => {
                bind(call, array(rows, column, |cell| if let Cell::Id(id) = cell { Some(id) } else { None }))
            }
            ColumnKind::Text => {
                bind(call, array(rows, column, |cell| if let Cell::Text(text) = cell { Some(text) } else { None }))
            }
            ColumnKind::Bytes => {
                bind(call, array(rows, column, |cell| if let Cell::Bytes(bytes) = cell { Some(bytes) } else { None }))
            }
        }
    }
}

fn bind<'q, T: Encode<'q, Postgres> + Type<Postgres>>(call: &mut Call, value: T) {
    call.try_bind(value).expect("numbers, times, text and bytes are what PostgreSQL takes");
}

/// The values of a column; `None` if no row has any. `value` gives that of a cell, whose kind is the column's.
fn array<'r, R, T>(rows: &'r [R], column: &Column<R>, value: impl Fn(Cell<'r>) -> Option<T>) -> Option<Vec<Option<T>>> {
    if rows.is_empty() {
        return None;
    }
    let mut has_any = false;
    let values = rows.iter().map(|row| {
        let cell = (column.cell)(row);
        let is_null = matches!(cell, Cell::Null);
        let value = value(cell);
        debug_assert_eq!(value.is_none(), is_null, "a cell is of the kind of its column");
        has_any |= !is_null;
        value
    });
    let values = values.collect();
    has_any.then_some(values)
}

fn small(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn bind_actions(call: &mut Call, changes: &[ActionChange]) {
    let changes = crate::batch::collapse(changes);
    let (deleted, put) = (changes.deleted, changes.put);
    let ids = || deleted.iter().map(|(id, _)| id.0).collect::<Vec<_>>();
    let times = || deleted.iter().map(|(_, at)| Stamp(*at)).collect::<Vec<_>>();
    bind(call, (!deleted.is_empty()).then(ids));
    bind(call, (!deleted.is_empty()).then(times));
    bind(call, (!put.is_empty()).then(|| serde_json::Value::Array(put.iter().map(action).collect()).to_string()));
}

/// Actions are changed seldom: they travel as one text, and leave the arguments to the rows of every batch.
fn action((action, deleted_at): &(&http::Action, Option<Timestamp>)) -> serde_json::Value {
    serde_json::json!({
        "id": action.action_id.0,
        "ref": action.action_ref,
        "policy": json(&action.policy),
        "paused": action.paused,
        "limit_override": action.limit_override.as_ref().map(json),
        "created_at": action.created_at,
        "updated_at": action.updated_at,
        "deleted_at": deleted_at,
        "timeout_ns": action.policy.timeout.map(timeout_ns),
    })
}
