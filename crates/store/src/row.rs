//! From rows to values: the only place where strings become enums.
//!
//! A value that this program did not write is an error that names the row, never a guess. Not here: values to rows;
//! their order is each database's own (`postgres::columns`, `sqlite::commit`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::message::{Failure, Lineage, Reply};
use slotline_protocol::proof::{SECRET_BYTES, Secret};
use slotline_protocol::record::{Event, Newest};
use slotline_protocol::{
    ActionId, Detail, Epoch, ExecutionId, Fence, Incarnation, LimitOverride, OutcomeKind, Policy, RequestName, Status,
    Timestamp, WorkerName, http,
};
use slotline_scheduler::{BULKY_BYTES, Counters, Lease, Snapshot};
use sqlx::types::Uuid;

use crate::durations::Sample;
use crate::record::Head;
use crate::text::show;
use crate::verify::course::Change;
use crate::verify::facts::{Grant, Ledger, RecordRange, Total};
use crate::{ActionState, Error, Known, PastRewind, Request, Standing, Story, audit, leadership, standing};

/// A row of either database, by the names of its columns.
pub(crate) trait Columns {
    fn flag(&self, column: &'static str) -> Result<bool, sqlx::Error>;
    fn count(&self, column: &'static str) -> Result<i64, sqlx::Error>;
    fn number(&self, column: &'static str) -> Result<i64, sqlx::Error>;
    fn maybe_number(&self, column: &'static str) -> Result<Option<i64>, sqlx::Error>;
    fn time(&self, column: &'static str) -> Result<Timestamp, sqlx::Error>;
    fn maybe_time(&self, column: &'static str) -> Result<Option<Timestamp>, sqlx::Error>;
    fn text(&self, column: &'static str) -> Result<&str, sqlx::Error>;
    fn maybe_text(&self, column: &'static str) -> Result<Option<&str>, sqlx::Error>;
    fn bytes(&self, column: &'static str) -> Result<&[u8], sqlx::Error>;
    fn maybe_uuid(&self, column: &'static str) -> Result<Option<Uuid>, sqlx::Error>;
}

/// Concurrency keys seen so far: a million executions of one key share one string.
#[derive(Default)]
pub(crate) struct Keys(HashSet<Arc<str>>);

impl Keys {
    fn shared(&mut self, key: &str) -> Arc<str> {
        if let Some(known) = self.0.get(key) {
            return known.clone();
        }
        let key: Arc<str> = key.into();
        self.0.insert(key.clone());
        key
    }
}

pub(crate) fn snapshot(row: &impl Columns, keys: &mut Keys) -> Result<Snapshot, Error> {
    let id = ExecutionId(row.number("id")?);
    Ok(Snapshot {
        id,
        action: ActionId(row.number("action_id")?),
        key: row.maybe_text("concurrency_key")?.map(|key| keys.shared(&show(key))),
        status: status(row, id)?,
        place: row.number("place")?,
        attempt: count(row, "attempt", id)?,
        tried: tried(row, id)?,
        failures: count(row, "failures", id)?,
        losses: count(row, "losses", id)?,
        enqueued_at: row.time("enqueued_at")?,
        queued_at: row.time("queued_at")?,
        not_before: row.maybe_time("not_before")?,
        keeps_slot: row.flag("keeps_slot")?,
        cancel_requested: row.flag("cancel_requested")?,
        is_bulky: usize::try_from(row.number("parameter_bytes")?).is_ok_and(|bytes| bytes > BULKY_BYTES),
        lease: lease(row, id)?,
    })
}

/// A lease is there whole or not at all; its fence shows which.
fn lease(row: &impl Columns, id: ExecutionId) -> Result<Option<Lease>, Error> {
    let Some(fence) = row.maybe_number("fence")? else {
        return Ok(None);
    };
    let missing = |column| Error::Corrupt { column, id: id.0, reason: "a lease lacks it".to_owned() };
    Ok(Some(Lease {
        worker: worker(row, id)?.ok_or_else(|| missing("worker"))?,
        incarnation: Incarnation(row.maybe_uuid("incarnation")?.ok_or_else(|| missing("incarnation"))?),
        fence: Fence(fence),
        scheduled_at: row.maybe_time("scheduled_at")?.ok_or_else(|| missing("scheduled_at"))?,
        started_at: row.maybe_time("started_at")?,
        after: row.maybe_number("after_fence")?.map(Fence),
    }))
}

pub(crate) fn request(row: &impl Columns) -> Result<(ExecutionId, Request), Error> {
    let id = ExecutionId(row.number("id")?);
    let request = Request {
        name: shown(row, "message_id")?.map(RequestName::from_text),
        digest: digest(row, id)?,
        parameters: raw(row.text("parameters")?, "parameters", id)?,
        timeout: timeout(row, "timeout_ns", id)?,
        detail: detail(row, id)?,
        correlation_id: shown(row, "correlation_id")?,
        trace_id: shown(row, "trace_id")?,
        source: shown(row, "source")?,
        reply_to: shown(row, "reply_to")?,
        reply: match row.text("reply")? {
            "accepted" => Reply::Accepted,
            "settled" => Reply::Settled,
            other => return Err(corrupt("reply", id, &format!("{other:?} is no reply"))),
        },
    };
    Ok((id, request))
}

/// The spelling of a [`Reply`] in the journal.
pub(crate) fn reply_text(reply: Reply) -> &'static str {
    match reply {
        Reply::Accepted => "accepted",
        Reply::Settled => "settled",
    }
}

/// The spelling of a [`Detail`] in the journal; the default, which nearly all have, is left out.
pub(crate) fn detail_text(detail: Detail) -> Option<String> {
    match detail {
        Detail::Default => None,
        Detail::Quiet | Detail::Negotiated { .. } => Some(json(&detail)),
    }
}

/// JSON of a plain value.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data with string keys")
}

/// A count or number of an event as a column; none comes near the end.
pub(crate) fn large(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time-out in nanoseconds; no policy or message allows more than a year.
pub(crate) fn timeout_ns(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn execution(row: &impl Columns) -> Result<http::Execution, Error> {
    let id = ExecutionId(row.number("id")?);
    let status = status(row, id)?;
    // The grant of an execution that was sent ahead of its slot is not shown yet.
    let is_granted = status != Status::Queued;
    let fence = row.maybe_number("fence")?.filter(|_| is_granted).map(Fence);
    let (timeout, timeout_from) = match (timeout(row, "timeout_ns", id)?, timeout(row, "action_timeout_ns", id)?) {
        (Some(timeout), _) => (Some(timeout), http::TimeoutFrom::Request),
        (None, Some(timeout)) => (Some(timeout), http::TimeoutFrom::Action),
        (None, None) => (None, http::TimeoutFrom::Default),
    };
    let message_id = shown(row, "message_id")?.map(|text| RequestName::from_text(text).message_id().to_owned());
    Ok(http::Execution {
        execution_id: id,
        action_id: ActionId(row.number("action_id")?),
        action_ref: parsed(row.text("ref")?, "ref", id)?,
        status,
        attempt: tried(row, id)? + u32::from(fence.is_some()),
        grant: count(row, "attempt", id)?,
        concurrency_key: shown(row, "concurrency_key")?,
        parameters: raw(row.text("parameters")?, "parameters", id)?,
        timeout_seconds: timeout.map(|timeout| timeout.as_secs_f64()),
        timeout_from,
        progress_detail: detail(row, id)?,
        correlation_id: shown(row, "correlation_id")?.or_else(|| message_id.clone()),
        message_id,
        trace_id: shown(row, "trace_id")?,
        source: shown(row, "source")?,
        enqueued_at: row.time("enqueued_at")?,
        scheduled_at: row.maybe_time("scheduled_at")?.filter(|_| is_granted),
        start_time: row.maybe_time("started_at")?.filter(|_| is_granted),
        end_time: row.maybe_time("ended_at")?,
        worker: worker(row, id)?.filter(|_| is_granted),
        fence,
        result: row.maybe_text("result")?.map(|text| raw(text, "result", id)).transpose()?,
        error: failure(row, id)?,
        position: None,
        waiting: None,
        progress: None,
        progress_events: Newest::default(),
        earlier_attempts: Vec::new(),
        awaits_events: false,
    })
}

/// The story beside an execution, by the columns of `sql::story_columns`.
pub(crate) fn story(row: &impl Columns) -> Result<Option<Story>, Error> {
    let Some(first) = row.maybe_number("story_first")? else {
        return Ok(None);
    };
    let id = ExecutionId(row.number("id")?);
    let positive = |column, number| u64::try_from(number).map_err(|_| corrupt(column, id, "negative"));
    let head: Head<'static> =
        serde_json::from_str(row.text("story_head")?).map_err(|error| corrupt("head", id, &error.to_string()))?;
    Ok(Some(Story {
        id,
        first: positive("first", first)?,
        last: positive("last", row.number("story_last")?)?,
        attempt: count(row, "story_attempt", id)?,
        sequence: positive("sequence", row.number("story_sequence")?)?,
        awaits: row.maybe_number("story_awaits")?.map(|awaits| positive("awaits", awaits)).transpose()?,
        status: head.status,
        newest: head.newest.into_owned(),
        latest: head.latest.map(Cow::into_owned),
    }))
}

/// An event, and how many bytes it is.
pub(crate) fn event(row: &impl Columns) -> Result<(Event, usize), Error> {
    let id = ExecutionId(row.number("execution_id")?);
    let body = row.text("body")?;
    let event: Event = serde_json::from_str(body).map_err(|error| corrupt("body", id, &error.to_string()))?;
    // Its own ids must be those of its row, or the numbers could not be trusted.
    if event.execution_id != id || large(event.number) != row.number("number")? {
        return Err(corrupt("body", id, "it is another event than its key says"));
    }
    Ok((event, body.len()))
}

pub(crate) fn incarnation(row: &impl Columns) -> Result<Option<Incarnation>, Error> {
    Ok(row.maybe_uuid("incarnation")?.map(Incarnation))
}

pub(crate) fn attempt(row: &impl Columns) -> Result<(ExecutionId, http::Attempt), Error> {
    let id = ExecutionId(row.number("execution_id")?);
    let counts_as = u32::try_from(row.number("counts_as")?).map_err(|_| corrupt("counts_as", id, "negative"))?;
    let attempt = http::Attempt {
        attempt: counts_as,
        grant: count(row, "attempt", id)?,
        fence: Fence(row.number("fence")?),
        worker: worker(row, id)?,
        outcome: {
            let text = row.text("outcome")?;
            OutcomeKind::from_str(text).map_err(|_| Error::UnknownStatus { id, found: text.to_owned() })?
        },
        error: failure(row, id)?,
        result: row.maybe_text("result")?.map(|text| raw(text, "result", id)).transpose()?,
        start_time: row.maybe_time("started_at")?,
        end_time: row.time("ended_at")?,
    };
    Ok((id, attempt))
}

pub(crate) fn secret(value: &[u8]) -> Result<Secret, Error> {
    let reason = || format!("it has {} bytes: expected at least {SECRET_BYTES}", value.len());
    Secret::new(value).ok_or_else(|| Error::Corrupt { column: "secrets.value", id: 0, reason: reason() })
}

pub(crate) fn action(row: &impl Columns) -> Result<http::Action, Error> {
    let id = row.number("id")?;
    let policy: Policy = serde_json::from_str(row.text("policy")?).map_err(|error| Error::Corrupt {
        column: "policy",
        id,
        reason: error.to_string(),
    })?;
    Ok(http::Action {
        action_id: ActionId(id),
        action_ref: parsed(row.text("ref")?, "ref", ExecutionId(id))?,
        paused: row.flag("paused")?,
        policy,
        limit_override: limit_override(row, id)?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn limit_override(row: &impl Columns, id: i64) -> Result<Option<LimitOverride>, Error> {
    let corrupt = |error: serde_json::Error| Error::Corrupt { column: "limit_override", id, reason: error.to_string() };
    row.maybe_text("limit_override")?.map(|text| serde_json::from_str(text).map_err(corrupt)).transpose()
}

pub(crate) fn action_state(row: &impl Columns) -> Result<ActionState, Error> {
    let action = action(row)?;
    let total = |column| {
        u64::try_from(row.number(column)?).map_err(|_| Error::Corrupt {
            column,
            id: action.action_id.0,
            reason: "negative".to_owned(),
        })
    };
    Ok(ActionState { total_enqueued: total("enqueued")?, total_completed: total("completed")?, action })
}

pub(crate) fn known(row: &impl Columns) -> Result<Known, Error> {
    let execution_id = ExecutionId(row.number("id")?);
    let name = RequestName::from_text(show(row.text("message_id")?));
    Ok(Known { name, execution_id, digest: digest(row, execution_id)? })
}

pub(crate) fn counters(row: &impl Columns) -> Result<Counters, Error> {
    Ok(Counters {
        next_id: row.number("next_id")?,
        next_fence: row.number("next_fence")?,
        next_action: row.number("next_action")?,
    })
}

/// Executions below were known before the last rewind.
pub(crate) fn rewound_below(row: &impl Columns) -> Result<ExecutionId, Error> {
    Ok(ExecutionId(row.number("rewound_below")?))
}

/// In the type of a database's number.
pub(crate) fn signed(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

pub(crate) fn generation(row: &impl Columns) -> Result<u64, Error> {
    Ok(u64::try_from(row.number("generation")?).unwrap_or_default())
}

pub(crate) fn standing(row: &impl Columns) -> Result<Standing, Error> {
    let counters = counters(row)?;
    let floor = Counters {
        next_id: row.maybe_number("floor_id")?.unwrap_or(counters.next_id),
        next_fence: row.maybe_number("floor_fence")?.unwrap_or(counters.next_fence),
        next_action: counters.next_action,
    };
    Ok(Standing {
        lineage: Lineage { identity: row.maybe_uuid("identity")?.unwrap_or_default(), generation: generation(row)? },
        former: (Epoch(row.number("former_epoch")?), row.number("former_batch")?),
        doubt: row.maybe_text("doubt")?.map(str::to_owned),
        counters,
        floor,
        settled: Vec::new(),
        lease: leadership::lease(row.number("lease_us")?),
        site: row.text("site")?.to_owned(),
        life: row.text("life")?.to_owned(),
        log: row.number("log")?,
    })
}

pub(crate) fn rewind(row: &impl Columns) -> Result<PastRewind, Error> {
    Ok(PastRewind {
        generation: generation(row)?,
        settled_at: row.time("settled_at")?,
        reason: row.text("reason")?.to_owned(),
        from: ExecutionId(row.number("floor_id")?),
        shown: ExecutionId(row.number("shown_id")?),
        resumed: ExecutionId(row.number("next_id")?),
        lost_fences: row.number("floor_fence")?..row.number("next_fence")?,
        recovered: standing::parse_list(row.text("recovered")?),
    })
}

pub(crate) fn sample(row: &impl Columns) -> Result<Sample, Error> {
    let started_at = row.maybe_time("started_at")?;
    let earlier = row.maybe_time("earlier_started_at")?;
    Ok(Sample {
        enqueued_at: row.time("enqueued_at")?,
        first_started_at: earlier.into_iter().chain(started_at).min(),
        started_at,
        ended_at: row.time("ended_at")?,
    })
}

pub(crate) fn grant(row: &impl Columns) -> Result<Grant, Error> {
    let execution = ExecutionId(row.number("id")?);
    Ok(Grant {
        execution,
        action: ActionId(row.number("action_id")?),
        key: shown(row, "concurrency_key")?,
        attempt: count(row, "attempt", execution)?,
        fence: row.maybe_number("fence")?.map(Fence),
        worker: worker(row, execution)?,
        scheduled_at: row.maybe_time("scheduled_at")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
        is_by_its_worker: row.maybe_text("outcome")?.is_none_or(|outcome| outcome == Status::Completed.as_str()),
    })
}

/// A change of an action, as far as the judgement needs it.
pub(crate) fn change(row: &impl Columns) -> Result<Change, Error> {
    let id = row.number("id")?;
    Ok(Change {
        action: ActionId(row.maybe_number("action_id")?.unwrap_or_default()),
        name: audit::action_ref(row, id)?.map(|name| name.to_string()).unwrap_or_default(),
        changed: audit::changed(row, id)?,
        fence: row.maybe_number("fence")?.unwrap_or_default(),
        changes: audit::changes(row, id)?,
    })
}

pub(crate) fn execution_id(row: &impl Columns) -> Result<ExecutionId, Error> {
    Ok(ExecutionId(row.number("id")?))
}

/// The extent of a record, without its content.
pub(crate) fn record(row: &impl Columns) -> Result<RecordRange, Error> {
    let execution = execution_id(row)?;
    let status = row.maybe_text("status")?.map(|_| status(row, execution)).transpose()?;
    Ok(RecordRange {
        execution,
        is_over: status.map(Status::is_terminal),
        first: row.number("first")?,
        last: row.number("last")?,
        awaits: row.maybe_number("awaits")?,
        written: row.number("written")?,
        lowest: row.maybe_number("lowest")?,
        highest: row.maybe_number("highest")?,
    })
}

pub(crate) fn total(row: &impl Columns) -> Result<Total, Error> {
    Ok(Total {
        action: ActionId(row.number("action_id")?),
        enqueued: row.number("enqueued")?,
        completed: row.number("completed")?,
        living: row.number("living")?,
    })
}

pub(crate) fn ledger(row: &impl Columns) -> Result<Ledger, Error> {
    let highest = |column| row.maybe_number(column).map(Option::unwrap_or_default);
    Ok(Ledger {
        epoch: row.number("epoch")?,
        batch: row.number("batch")?,
        next_id: row.number("next_id")?,
        next_fence: row.number("next_fence")?,
        next_action: row.number("next_action")?,
        highest_id: highest("live_id")?.max(highest("settled_id")?),
        highest_place: highest("highest_place")?,
        highest_action: highest("highest_action")?,
    })
}

fn status(row: &impl Columns, id: ExecutionId) -> Result<Status, Error> {
    let text = row.text("status")?;
    text.parse().map_err(|_| Error::UnknownStatus { id, found: text.to_owned() })
}

fn count(row: &impl Columns, column: &'static str, id: ExecutionId) -> Result<u32, Error> {
    u32::try_from(row.count(column)?).map_err(|_| corrupt(column, id, "negative"))
}

pub(crate) fn worker(row: &impl Columns, id: ExecutionId) -> Result<Option<WorkerName>, Error> {
    row.maybe_text("worker")?.map(|name| parsed(name, "worker", id)).transpose()
}

fn digest(row: &impl Columns, id: ExecutionId) -> Result<[u8; 32], Error> {
    row.bytes("digest")?.try_into().map_err(|_| corrupt("digest", id, "expected 32 bytes"))
}

fn timeout(row: &impl Columns, column: &'static str, id: ExecutionId) -> Result<Option<Duration>, Error> {
    row.maybe_number(column)?
        .map(|ns| u64::try_from(ns).map(Duration::from_nanos).map_err(|_| corrupt(column, id, "negative")))
        .transpose()
}

/// Attempts that have ended and had begun, or failed to.
fn tried(row: &impl Columns, id: ExecutionId) -> Result<u32, Error> {
    u32::try_from(row.number("tried")?).map_err(|_| corrupt("tried", id, "negative"))
}

fn detail(row: &impl Columns, id: ExecutionId) -> Result<Detail, Error> {
    match row.maybe_text("detail")? {
        None => Ok(Detail::Default),
        Some(text) => serde_json::from_str(text).map_err(|error| corrupt("detail", id, &error.to_string())),
    }
}

fn failure(row: &impl Columns, id: ExecutionId) -> Result<Option<Failure>, Error> {
    row.maybe_text("error")?
        .map(|text| serde_json::from_str(text).map_err(|error| corrupt("error", id, &error.to_string())))
        .transpose()
}

fn raw(text: &str, column: &'static str, id: ExecutionId) -> Result<Arc<RawValue>, Error> {
    let value = RawValue::from_string(text.to_owned()).map_err(|error| corrupt(column, id, &error.to_string()))?;
    Ok(value.into())
}

pub(crate) fn shown(row: &impl Columns, column: &'static str) -> Result<Option<String>, Error> {
    Ok(row.maybe_text(column)?.map(show))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str, column: &'static str, id: ExecutionId) -> Result<T, Error> {
    text.parse().map_err(|error: T::Err| corrupt(column, id, &error.to_string()))
}

fn corrupt(column: &'static str, id: ExecutionId, reason: &str) -> Error {
    Error::Corrupt { column, id: id.0, reason: reason.to_owned() }
}

/// Reads the columns of a row type; the databases differ only in the size of a count.
macro_rules! columns {
    ($row:ty, $count:ty) => {
        impl crate::row::Columns for $row {
            fn flag(&self, column: &'static str) -> Result<bool, sqlx::Error> {
                self.try_get(column)
            }

            fn count(&self, column: &'static str) -> Result<i64, sqlx::Error> {
                self.try_get::<$count, _>(column).map(i64::from)
            }

            fn number(&self, column: &'static str) -> Result<i64, sqlx::Error> {
                self.try_get(column)
            }

            fn maybe_number(&self, column: &'static str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(column)
            }

            fn time(&self, column: &'static str) -> Result<slotline_protocol::Timestamp, sqlx::Error> {
                self.try_get(column).map(|crate::stamp::Stamp(time)| time)
            }

            fn maybe_time(&self, column: &'static str) -> Result<Option<slotline_protocol::Timestamp>, sqlx::Error> {
                let stamp: Option<crate::stamp::Stamp> = self.try_get(column)?;
                Ok(stamp.map(|crate::stamp::Stamp(time)| time))
            }

            fn text(&self, column: &'static str) -> Result<&str, sqlx::Error> {
                self.try_get(column)
            }

            fn maybe_text(&self, column: &'static str) -> Result<Option<&str>, sqlx::Error> {
                self.try_get(column)
            }

            fn bytes(&self, column: &'static str) -> Result<&[u8], sqlx::Error> {
                self.try_get(column)
            }

            fn maybe_uuid(&self, column: &'static str) -> Result<Option<sqlx::types::Uuid>, sqlx::Error> {
                self.try_get(column)
            }
        }
    };
}

pub(crate) use columns;
