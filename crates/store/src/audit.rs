//! The audit: every change with its actor, written in the commit that makes the change, and read page by page.
//!
//! An entry for a change of an action has the first fence that can be granted after it, so that each grant can be
//! judged by the rules of its time, whatever any clock showed. Pages are keyed by the entries' numbers, newest first,
//! so that neither new entries nor forgotten ones shift a page.

use serde_json::{Value, json};
use slotline_protocol::audit::{By, Changed, Entry, REASON_CHARS_MAX, Via};
use slotline_protocol::change::Difference;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, Timestamp, http};

use crate::row::{self, Columns};
use crate::text::{hide, show};
use crate::{Error, PageRequest};

/// The most bytes of changes on one page; the page ends early beyond it.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// An entry before it is written: the database numbers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    pub at: Timestamp,
    pub changed: Changed,
    pub by: By,
    pub action: Option<(ActionId, ActionRef)>,
    pub execution_id: Option<ExecutionId>,
    /// The first fence that can be granted after the change; only for changes of actions.
    pub fence: Option<Fence>,
    pub changes: Vec<Difference>,
}

impl Audit {
    /// An action was changed, before any attempt of this fence is granted.
    pub fn of_action(
        at: Timestamp,
        changed: Changed,
        by: By,
        action: &http::Action,
        fence: Fence,
        changes: Vec<Difference>,
    ) -> Self {
        let action = Some((action.action_id, action.action_ref.clone()));
        Self { at, changed, by, action, execution_id: None, fence: Some(fence), changes }
    }

    /// A cancellation was requested. A publisher's reason may be of any length: it is cut to the length that any other
    /// reason may have.
    pub fn of_cancel(at: Timestamp, by: By, execution_id: ExecutionId, action: (ActionId, ActionRef)) -> Self {
        let clipped = |reason: String| reason.chars().take(REASON_CHARS_MAX).collect();
        let by = By { reason: by.reason.map(clipped), ..by };
        let (changed, execution_id) = (Changed::CancelRequested, Some(execution_id));
        Self { at, changed, by, action: Some(action), execution_id, fence: None, changes: Vec::new() }
    }
}

/// Which entries to list. The default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of actions of this name, deleted ones included.
    pub action_ref: Option<ActionRef>,
    pub execution_id: Option<ExecutionId>,
    pub actor: Option<String>,
}

/// In the form of the column; null without changes.
pub(crate) fn changes_text(changes: &[Difference]) -> Option<String> {
    (!changes.is_empty()).then(|| row::json(&changes))
}

pub(crate) fn via_text(via: Via) -> &'static str {
    match via {
        Via::Http => "http",
        Via::Amqp => "amqp",
        Via::Executor => "executor",
    }
}

/// The rows of these entries as one text, for `slotline_commit`; null if there are none.
pub(crate) fn rows(entries: &[Audit]) -> Option<String> {
    let row = |entry: &Audit| {
        json!({
            "at": entry.at,
            "changed": entry.changed,
            "actor": hide(&entry.by.actor),
            "via": via_text(entry.by.via),
            "reason": entry.by.reason.as_deref().map(hide),
            "action_id": entry.action.as_ref().map(|(id, _)| id.0),
            "action_ref": entry.action.as_ref().map(|(_, name)| name.as_str()),
            "execution_id": entry.execution_id.map(|id| id.0),
            "fence": entry.fence.map(|fence| fence.0),
            "changes": changes_text(&entry.changes),
        })
    };
    (!entries.is_empty()).then(|| Value::Array(entries.iter().map(row).collect()).to_string())
}

macro_rules! columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT id, at, changed, actor, via, reason, action_ref, execution_id, dead_letter, changes FROM audit ",
            $($rest,)*
        )
    };
}

/// A filter that is not set costs nothing on PostgreSQL, where each call is planned for its own values.
pub(crate) const LIST: &str = columns!(
    "WHERE id < $1 AND (CAST($3 AS text) IS NULL OR action_ref = $3) "
    "AND (CAST($4 AS bigint) IS NULL OR execution_id = $4) "
    "AND (CAST($5 AS text) IS NULL OR actor = $5) ORDER BY id DESC LIMIT $2"
);

/// The changes of actions, as they were journaled.
pub(crate) const COURSES: &str = "SELECT id, action_id, action_ref, changed, fence, changes FROM audit \
    WHERE fence IS NOT NULL ORDER BY id";

pub(crate) fn entry(row: &impl Columns) -> Result<Entry, Error> {
    let id = row.number("id")?;
    Ok(Entry {
        id,
        at: row.time("at")?,
        changed: changed(row, id)?,
        by: By {
            actor: show(row.text("actor")?),
            via: match row.text("via")? {
                "http" => Via::Http,
                "amqp" => Via::Amqp,
                "executor" => Via::Executor,
                other => return Err(corrupt("via", id, format!("{other:?} is no way to ask"))),
            },
            reason: row.maybe_text("reason")?.map(show),
        },
        action_ref: action_ref(row, id)?,
        execution_id: row.maybe_number("execution_id")?.map(ExecutionId),
        dead_letter: row.maybe_text("dead_letter")?.map(show),
        changes: changes(row, id)?,
    })
}

pub(crate) fn changed(row: &impl Columns, id: i64) -> Result<Changed, Error> {
    let text = row.text("changed")?;
    Changed::from_text(text).ok_or_else(|| corrupt("changed", id, format!("{text:?} is no change")))
}

pub(crate) fn action_ref(row: &impl Columns, id: i64) -> Result<Option<ActionRef>, Error> {
    let name = row.maybe_text("action_ref")?;
    name.map(|name| ActionRef::new(name).map_err(|error| corrupt("action_ref", id, error.to_string()))).transpose()
}

pub(crate) fn changes(row: &impl Columns, id: i64) -> Result<Vec<Difference>, Error> {
    let Some(text) = row.maybe_text("changes")? else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| corrupt("changes", id, error.to_string()))
}

fn corrupt(column: &'static str, id: i64, reason: String) -> Error {
    Error::Corrupt { column, id, reason }
}

/// Marks the format, so that a later one can be distinguished.
const PREFIX: &str = "a1-";

/// The number below which the page begins.
pub(crate) fn below(page: &PageRequest) -> Result<i64, Error> {
    let Some(cursor) = &page.cursor else { return Ok(i64::MAX) };
    let digits = cursor.strip_prefix(PREFIX).ok_or(Error::InvalidCursor)?;
    let id = i64::from_str_radix(digits, 16).map_err(|_| Error::InvalidCursor)?;
    if id >= 1 && self::cursor(id) == *cursor { Ok(id) } else { Err(Error::InvalidCursor) }
}

fn cursor(id: i64) -> String {
    format!("{PREFIX}{id:x}")
}

/// A page of `rows`, among which is one more than fits.
pub(crate) fn page<R: Columns>(rows: &[R], page: &PageRequest) -> Result<http::Page<Entry>, Error> {
    let (mut data, mut bytes) = (Vec::new(), 0);
    for row in rows.iter().take(page.limit()) {
        bytes += row.maybe_text("changes")?.map_or(0, str::len);
        if bytes > PAGE_BYTES_MAX && !data.is_empty() {
            break;
        }
        data.push(entry(row)?);
    }
    let next_cursor = data.last().filter(|_| data.len() < rows.len()).map(|last: &Entry| cursor(last.id));
    Ok(http::Page { data, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let read = |cursor: &str| below(&PageRequest { cursor: Some(cursor.to_owned()), limit: 1 });
        for id in [1, 42, i64::MAX] {
            assert_eq!(read(&cursor(id)).expect("our own cursor"), id);
        }
        for bad in ["", "1", "a1-", "a1-0", "a1-+1", "a1-01", "a1-g", "d1-1"] {
            assert!(matches!(read(bad), Err(Error::InvalidCursor)), "{bad}");
        }
    }
}
