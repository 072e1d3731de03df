//! A batch as one call of `slotline_commit`: one statement, one transaction, one round trip.
//!
//! Rows travel as columns, an array each, in the order of the function's arguments. A column without any value is null,
//! which `unnest` fills up with nulls: PostgreSQL would make an object of an empty array, too, some microseconds each,
//! and most batches leave most columns out.

use std::borrow::Cow;
use std::sync::Arc;

use slotline_protocol::message::Failure;
use slotline_protocol::record::Event;
use slotline_protocol::{Epoch, Timestamp, http};
use slotline_scheduler::{AttemptEnded, Lease, Settled, Snapshot};
use sqlx::postgres::{PgArguments, PgConnection, PgDatabaseError};
use sqlx::query::Query;
use sqlx::{Connection, Postgres};

use crate::batch::{Accepted, ActionChange, Request, left};
use crate::deadline::within;
use crate::leadership::PARTITION;
use crate::row::{detail_text, json, large, reply_text, timeout_ns};
use crate::stamp::Stamp;
use crate::text::hide;
use crate::{Batch, CommitError, Error, Story, announcements, audit, culprit};

const CALL: &str = "SELECT slotline_commit(\
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, \
    $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, $46, \
    $47, $48, $49, $50, $51, $52, $53, $54, $55, $56, $57, $58, $59, $60, $61, $62, $63, $64, $65, $66, $67, $68, \
    $69, $70, $71, $72, $73, $74, $75, $76, $77, $78, $79, $80, $81, $82, $83, $84, $85, $86, $87, $88, $89, $90, \
    $91, $92, $93, $94, $95, $96)";

/// The error of `slotline_commit` when another executor leads; the detail is the current epoch.
const DEPOSED: &str = "SL001";

/// The statement that writes one batch, with all its rows.
pub(crate) type Call = Query<'static, Postgres, PgArguments>;

/// The call that writes `batch` under `epoch`.
pub(crate) fn call(epoch: Epoch, batch: &Batch) -> Call {
    let call = sqlx::query(CALL)
        .bind(PARTITION)
        .bind(epoch.0)
        .bind(batch.number)
        .bind(batch.counters.next_id)
        .bind(batch.counters.next_fence)
        .bind(batch.counters.next_action);
    let call = actions(call, &batch.actions);
    let call = accepted(call, &batch.accepted);
    let call = state(call, &batch.live, |snapshot| snapshot);
    let call = attempts(call, &batch.attempts);
    let call = settled(call, &batch.settled);
    let totals = crate::batch::sum(&batch.totals);
    let call = call
        .bind(column(&totals, |(action, ..)| action.0))
        .bind(column(&totals, |(_, enqueued, _)| large(*enqueued)))
        .bind(column(&totals, |(_, _, completed)| large(*completed)))
        .bind(column(&batch.ended_incarnations, |(incarnation, ..)| incarnation.0))
        .bind(column(&batch.ended_incarnations, |(_, worker, _)| worker.as_str()))
        .bind(column(&batch.ended_incarnations, |(.., at)| Stamp(*at)));
    let call = stories(events(call, &batch.events), &batch.stories);
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

fn column<'r, T, U>(rows: &'r [T], value: impl Fn(&'r T) -> U) -> Option<Vec<U>> {
    (!rows.is_empty()).then(|| rows.iter().map(value).collect())
}

fn sparse<'r, T, U>(rows: &'r [T], value: impl Fn(&'r T) -> Option<U>) -> Option<Vec<Option<U>>> {
    let values: Vec<Option<U>> = rows.iter().map(value).collect();
    values.iter().any(Option::is_some).then_some(values)
}

fn stamp(time: Timestamp) -> Stamp {
    Stamp(time)
}

fn small(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn shown(text: &Option<String>) -> Option<Cow<'_, str>> {
    text.as_deref().map(hide)
}

fn error(failure: &Option<Failure>) -> Option<String> {
    failure.as_ref().map(json)
}

fn actions(call: Call, changes: &[ActionChange]) -> Call {
    let changes = crate::batch::collapse(changes);
    let (deleted, put) = (changes.deleted, changes.put);
    call.bind(column(&deleted, |(id, _)| id.0))
        .bind(column(&deleted, |(_, at)| Stamp(*at)))
        .bind((!put.is_empty()).then(|| serde_json::Value::Array(put.iter().map(action).collect()).to_string()))
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

fn accepted(call: Call, rows: &[Accepted]) -> Call {
    fn request(row: &Accepted) -> &Request {
        &row.request
    }
    state(call, rows, |row| &row.snapshot)
        .bind(column(rows, |row| row.snapshot.action.0))
        .bind(column(rows, |row| Stamp(row.snapshot.enqueued_at)))
        .bind(sparse(rows, |row| request(row).timeout.map(timeout_ns)))
        .bind(sparse(rows, |row| row.snapshot.key.as_deref().map(hide)))
        .bind(sparse(rows, |row| request(row).name.as_ref().map(|name| hide(name.as_text()))))
        .bind(column(rows, |row| request(row).digest.as_slice()))
        .bind(sparse(rows, |row| detail_text(request(row).detail)))
        .bind(sparse(rows, |row| shown(&request(row).correlation_id)))
        .bind(sparse(rows, |row| shown(&request(row).trace_id)))
        .bind(sparse(rows, |row| shown(&request(row).source)))
        .bind(sparse(rows, |row| shown(&request(row).reply_to)))
        .bind(column(rows, |row| reply_text(request(row).reply)))
        .bind(column(rows, |row| request(row).parameters.get()))
}

/// The columns that may change while an execution lives.
fn state<T>(call: Call, rows: &[T], snapshot: impl Fn(&T) -> &Snapshot) -> Call {
    let lease = |row| snapshot(row).lease.as_ref();
    call.bind(column(rows, |row| snapshot(row).id.0))
        .bind(column(rows, |row| snapshot(row).place))
        .bind(column(rows, |row| Stamp(snapshot(row).queued_at)))
        .bind(sparse(rows, |row| snapshot(row).not_before.map(stamp)))
        .bind(sparse(rows, |row| lease(row).map(|lease| lease.fence.0)))
        .bind(sparse(rows, |row| lease(row).map(|lease| Stamp(lease.scheduled_at))))
        .bind(sparse(rows, |row| lease(row).and_then(|lease| lease.started_at).map(stamp)))
        .bind(sparse(rows, |row| lease(row).map(|lease| lease.incarnation.0)))
        .bind(column(rows, |row| small(snapshot(row).attempt)))
        .bind(column(rows, |row| small(snapshot(row).failures)))
        .bind(column(rows, |row| small(snapshot(row).losses)))
        .bind(column(rows, |row| snapshot(row).keeps_slot))
        .bind(column(rows, |row| snapshot(row).cancel_requested))
        .bind(column(rows, |row| snapshot(row).status.as_str()))
        .bind(sparse(rows, |row| lease(row).map(|lease| lease.worker.as_str())))
        .bind(sparse(rows, |row| lease(row).and_then(|lease| lease.after).map(|after| after.0)))
}

fn attempts(call: Call, rows: &[AttemptEnded]) -> Call {
    call.bind(column(rows, |row| row.id.0))
        .bind(column(rows, |row| row.lease.fence.0))
        .bind(column(rows, |row| small(row.attempt)))
        .bind(column(rows, |row| row.outcome.as_str()))
        .bind(column(rows, |row| row.lease.worker.as_str()))
        .bind(column(rows, |row| Stamp(row.lease.scheduled_at)))
        .bind(sparse(rows, |row| row.lease.started_at.map(stamp)))
        .bind(column(rows, |row| Stamp(row.ended_at)))
        .bind(sparse(rows, |row| error(&row.error)))
        .bind(sparse(rows, left))
}

fn settled(call: Call, rows: &[Arc<Settled>]) -> Call {
    fn lease(row: &Arc<Settled>) -> Option<&Lease> {
        row.lease.as_ref()
    }
    call.bind(column(rows, |row| row.id.0))
        .bind(sparse(rows, |row| lease(row).map(|lease| Stamp(lease.scheduled_at))))
        .bind(sparse(rows, |row| lease(row).and_then(|lease| lease.started_at).map(stamp)))
        .bind(column(rows, |row| Stamp(row.ended_at)))
        .bind(sparse(rows, |row| lease(row).map(|lease| lease.fence.0)))
        .bind(sparse(rows, |row| lease(row).map(|lease| lease.incarnation.0)))
        .bind(column(rows, |row| small(row.attempt)))
        .bind(column(rows, |row| small(row.failures)))
        .bind(column(rows, |row| small(row.losses)))
        .bind(column(rows, |row| row.status.as_str()))
        .bind(sparse(rows, |row| lease(row).map(|lease| lease.worker.as_str())))
        .bind(sparse(rows, |row| row.result.as_ref().map(|result| result.get())))
        .bind(sparse(rows, |row| error(&row.error)))
}

/// Their bodies are JSON, which spells U+0000 in a way that a `text` column takes.
fn events(call: Call, rows: &[Arc<Event>]) -> Call {
    call.bind(column(rows, |row| row.execution_id.0))
        .bind(column(rows, |row| large(row.number)))
        .bind(column(rows, |row| row.what.kind().as_str()))
        .bind(column(rows, json))
}

fn stories(call: Call, rows: &[Story]) -> Call {
    call.bind(column(rows, |row| row.id.0))
        .bind(column(rows, |row| large(row.first)))
        .bind(column(rows, |row| large(row.last)))
        .bind(column(rows, |row| small(row.attempt)))
        .bind(column(rows, |row| large(row.sequence)))
        .bind(sparse(rows, |row| row.awaits.map(large)))
        .bind(column(rows, |row| json(&row.head())))
}
