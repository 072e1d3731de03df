//! What a commit writes, column by column: each has its name, its kind and its value said once, for both databases.
//!
//! Statement texts and bound values are made of these lists, in their order. Tests hold them against the schemas, and
//! against the arguments of `slotline_commit`.
//! Not here: changes of actions and the audit, which come seldom and travel as JSON to PostgreSQL.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use slotline_protocol::message::Failure;
use slotline_protocol::record::Event;
use slotline_protocol::{ActionId, Incarnation, Timestamp, WorkerName};
use slotline_scheduler::{AttemptEnded, Lease, Settled, Snapshot};
use uuid::Uuid;

use crate::Story;
use crate::batch::{AcceptedRequest, left};
use crate::row::{detail_text, json, large, reply_text, timeout_ns};
use crate::text::hide;

/// A column of the rows that are made of `R`.
#[derive(Debug)]
pub(crate) struct Column<R> {
    pub(crate) name: &'static str,
    pub(crate) kind: ColumnKind,
    pub(crate) cell: for<'r> fn(&'r R) -> Cell<'r>,
}

impl<R> Clone for Column<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Column<R> {}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    Flag,
    Count,
    Number,
    Time,
    Id,
    Text,
    Bytes,
}

/// The value of a column in one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'r> {
    Null,
    Flag(bool),
    Count(u32),
    Number(i64),
    Time(Timestamp),
    Id(Uuid),
    Text(Cow<'r, str>),
    Bytes(&'r [u8]),
}

macro_rules! cell_of {
    ($($from:ty => $cell:ident,)*) => {
        $(impl<'r> From<$from> for Cell<'r> {
            fn from(value: $from) -> Self {
                Self::$cell(value.into())
            }
        })*
    };
}

cell_of! {
    bool => Flag,
    u32 => Count,
    i64 => Number,
    Timestamp => Time,
    Uuid => Id,
    &'r str => Text,
    String => Text,
    Cow<'r, str> => Text,
    &'r [u8] => Bytes,
}

impl<'r, T: Into<Cell<'r>>> From<Option<T>> for Cell<'r> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

const fn column<R>(name: &'static str, kind: ColumnKind, cell: for<'r> fn(&'r R) -> Cell<'r>) -> Column<R> {
    Column { name, kind, cell }
}

/// What an execution that lives is made of.
pub(crate) trait Living {
    fn snapshot(&self) -> &Snapshot;

    fn lease(&self) -> Option<&Lease> {
        self.snapshot().lease.as_ref()
    }
}

impl Living for Snapshot {
    fn snapshot(&self) -> &Snapshot {
        self
    }
}

impl Living for AcceptedRequest {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// Columns of `live` that may change while an execution lives, its id first.
const fn state<R: Living>() -> [Column<R>; 16] {
    [
        column("id", ColumnKind::Number, |row| row.snapshot().id.0.into()),
        column("place", ColumnKind::Number, |row| row.snapshot().place.into()),
        column("queued_at", ColumnKind::Time, |row| row.snapshot().queued_at.into()),
        column("not_before", ColumnKind::Time, |row| row.snapshot().not_before.into()),
        column("fence", ColumnKind::Number, |row| row.lease().map(|lease| lease.fence.0).into()),
        column("scheduled_at", ColumnKind::Time, |row| row.lease().map(|lease| lease.scheduled_at).into()),
        column("started_at", ColumnKind::Time, |row| row.lease().and_then(|lease| lease.started_at).into()),
        column("incarnation", ColumnKind::Id, |row| row.lease().map(|lease| lease.incarnation.0).into()),
        column("attempt", ColumnKind::Count, |row| row.snapshot().attempt.into()),
        column("failures", ColumnKind::Count, |row| row.snapshot().failures.into()),
        column("losses", ColumnKind::Count, |row| row.snapshot().losses.into()),
        column("keeps_slot", ColumnKind::Flag, |row| row.snapshot().keeps_slot.into()),
        column("cancel_requested", ColumnKind::Flag, |row| row.snapshot().cancel_requested.into()),
        column("status", ColumnKind::Text, |row| row.snapshot().status.as_str().into()),
        column("worker", ColumnKind::Text, |row| row.lease().map(|lease| lease.worker.as_str()).into()),
        column("after_fence", ColumnKind::Number, |row| {
            row.lease().and_then(|lease| lease.after).map(|after| after.0).into()
        }),
    ]
}

/// The other columns of `live`.
const REQUESTED: [Column<AcceptedRequest>; 13] = [
    column("action_id", ColumnKind::Number, |row| row.snapshot.action.0.into()),
    column("enqueued_at", ColumnKind::Time, |row| row.snapshot.enqueued_at.into()),
    column("timeout_ns", ColumnKind::Number, |row| row.request.timeout.map(timeout_ns).into()),
    column("concurrency_key", ColumnKind::Text, |row| hidden(row.snapshot.key.as_deref())),
    column("message_id", ColumnKind::Text, |row| hidden(row.request.name.as_ref().map(|name| name.as_text()))),
    column("digest", ColumnKind::Bytes, |row| row.request.digest.as_slice().into()),
    column("detail", ColumnKind::Text, |row| detail_text(row.request.detail).into()),
    column("correlation_id", ColumnKind::Text, |row| hidden(row.request.correlation_id.as_deref())),
    column("trace_id", ColumnKind::Text, |row| hidden(row.request.trace_id.as_deref())),
    column("source", ColumnKind::Text, |row| hidden(row.request.source.as_deref())),
    column("reply_to", ColumnKind::Text, |row| hidden(row.request.reply_to.as_deref())),
    column("reply", ColumnKind::Text, |row| reply_text(row.request.reply).into()),
    column("parameters", ColumnKind::Text, |row| row.request.parameters.get().into()),
];

pub(crate) static STATE: [Column<Snapshot>; 16] = state();

/// All columns of `live`.
pub(crate) static ACCEPTED: LazyLock<Vec<Column<AcceptedRequest>>> =
    LazyLock::new(|| state().into_iter().chain(REQUESTED).collect());

/// All columns of `attempts`.
pub(crate) static ATTEMPTS: [Column<AttemptEnded>; 10] = [
    column("execution_id", ColumnKind::Number, |row| row.id.0.into()),
    column("fence", ColumnKind::Number, |row| row.lease.fence.0.into()),
    column("attempt", ColumnKind::Count, |row| row.attempt.into()),
    column("outcome", ColumnKind::Text, |row| row.outcome.as_str().into()),
    column("worker", ColumnKind::Text, |row| row.lease.worker.as_str().into()),
    column("scheduled_at", ColumnKind::Time, |row| row.lease.scheduled_at.into()),
    column("started_at", ColumnKind::Time, |row| row.lease.started_at.into()),
    column("ended_at", ColumnKind::Time, |row| row.ended_at.into()),
    column("error", ColumnKind::Text, |row| failure(&row.error)),
    column("result", ColumnKind::Text, |row| left(row).into()),
];

/// Columns of `history` that the end of an execution brings.
pub(crate) static SETTLED: [Column<Arc<Settled>>; 13] = [
    column("id", ColumnKind::Number, |row| row.id.0.into()),
    column("scheduled_at", ColumnKind::Time, |row| row.lease.as_ref().map(|lease| lease.scheduled_at).into()),
    column("started_at", ColumnKind::Time, |row| row.lease.as_ref().and_then(|lease| lease.started_at).into()),
    column("ended_at", ColumnKind::Time, |row| row.ended_at.into()),
    column("fence", ColumnKind::Number, |row| row.lease.as_ref().map(|lease| lease.fence.0).into()),
    column("incarnation", ColumnKind::Id, |row| row.lease.as_ref().map(|lease| lease.incarnation.0).into()),
    column("attempt", ColumnKind::Count, |row| row.attempt.into()),
    column("failures", ColumnKind::Count, |row| row.failures.into()),
    column("losses", ColumnKind::Count, |row| row.losses.into()),
    column("status", ColumnKind::Text, |row| row.status.as_str().into()),
    column("worker", ColumnKind::Text, |row| row.lease.as_ref().map(|lease| lease.worker.as_str()).into()),
    column("result", ColumnKind::Text, |row| row.result.as_ref().map(|result| result.get()).into()),
    column("error", ColumnKind::Text, |row| failure(&row.error)),
];

/// The other columns of `history`: they come from the row of `live`.
pub(crate) const KEPT: [&str; 10] = [
    "action_id",
    "enqueued_at",
    "timeout_ns",
    "concurrency_key",
    "message_id",
    "detail",
    "correlation_id",
    "trace_id",
    "source",
    "parameters",
];

/// All columns of `action_totals`.
pub(crate) static TOTALS: [Column<(ActionId, u64, u64)>; 3] = [
    column("action_id", ColumnKind::Number, |(action, ..)| action.0.into()),
    column("enqueued", ColumnKind::Number, |(_, enqueued, _)| large(*enqueued).into()),
    column("completed", ColumnKind::Number, |(_, _, completed)| large(*completed).into()),
];

/// All columns of `ended_incarnations`.
pub(crate) static ENDED_INCARNATIONS: [Column<(Incarnation, WorkerName, Timestamp)>; 3] = [
    column("incarnation", ColumnKind::Id, |(incarnation, ..)| incarnation.0.into()),
    column("worker", ColumnKind::Text, |(_, worker, _)| worker.as_str().into()),
    column("ended_at", ColumnKind::Time, |(.., at)| (*at).into()),
];

/// All columns of `events`. Their bodies are JSON, which spells U+0000 in a way that a `text` column takes.
pub(crate) static EVENTS: [Column<Arc<Event>>; 4] = [
    column("execution_id", ColumnKind::Number, |row| row.execution_id.0.into()),
    column("number", ColumnKind::Number, |row| large(row.number).into()),
    column("kind", ColumnKind::Text, |row| row.what.kind().as_str().into()),
    column("body", ColumnKind::Text, |row| json(row).into()),
];

/// All columns of `stories`.
pub(crate) static STORIES: [Column<Story>; 7] = [
    column("execution_id", ColumnKind::Number, |row| row.id.0.into()),
    column("first", ColumnKind::Number, |row| large(row.first).into()),
    column("last", ColumnKind::Number, |row| large(row.last).into()),
    column("attempt", ColumnKind::Count, |row| row.attempt.into()),
    column("sequence", ColumnKind::Number, |row| large(row.sequence).into()),
    column("awaits", ColumnKind::Number, |row| row.awaits.map(large).into()),
    column("head", ColumnKind::Text, |row| json(&row.head()).into()),
];

fn hidden(text: Option<&str>) -> Cell<'_> {
    text.map(hide).into()
}

fn failure(failure: &Option<Failure>) -> Cell<'_> {
    failure.as_ref().map(json).into()
}

/// The names of columns, in their order, as in `INSERT INTO live (id, place, ...)`.
pub(crate) fn names<R>(columns: &[Column<R>]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// All columns but the first, which is the key, each by this text: `$` stands for the name.
pub(crate) fn each<R>(columns: &[Column<R>], text: &str) -> String {
    columns[1..].iter().map(|column| text.replace('$', column.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
