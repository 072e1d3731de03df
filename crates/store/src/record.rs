//! The record of what happened to each execution, as far as it is written apart from its row.
//!
//! Most executions wait, start once and end, and report nothing. All of that follows from their rows, so their events
//! are not written: [`plain`] derives them. As soon as anything else happens, the events so far and all further ones
//! are written, with a [`Story`] of how far the record goes.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use slotline_protocol::record::{Event, Latest, Newest};
use slotline_protocol::{ExecutionId, Incarnation, Status, http};

/// The state of the record of one execution, where it does not follow from its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    pub id: ExecutionId,
    /// The oldest event that is kept; those before it are forgotten.
    pub first: u64,
    /// The newest event. The one that settles the execution counts, although it follows from the row and is not
    /// written.
    pub last: u64,
    /// The attempt whose events are taken, and the number of the last one taken of it, on the wire.
    pub attempt: u32,
    pub sequence: u64,
    /// The status after the newest event that changed it; of a settled execution, before its end.
    pub status: Status,
    pub newest: Newest,
    pub latest: Option<Latest>,
    /// The execution has settled, but events of its last attempt up to this number (on the wire) are still awaited; the
    /// event that settles it follows them.
    pub awaits: Option<u64>,
}

/// The part of a story that shows the progress of the execution, as one column of JSON: it is read and written only
/// whole.
#[derive(Serialize, Deserialize)]
pub(crate) struct Head<'s> {
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) newest: Cow<'s, Newest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latest: Option<Cow<'s, Latest>>,
}

impl Story {
    pub(crate) fn head(&self) -> Head<'_> {
        let latest = self.latest.as_ref().map(Cow::Borrowed);
        Head { status: self.status, newest: Cow::Borrowed(&self.newest), latest }
    }

    /// Sets the progress in `execution`.
    pub(crate) fn show_in(&self, execution: &mut http::Execution) {
        execution.progress.clone_from(&self.latest);
        execution.progress_events.clone_from(&self.newest);
        execution.awaits_events = self.awaits.is_some() && execution.status.is_terminal();
    }
}

/// A story that a new leader continues.
#[derive(Clone, Debug)]
pub struct OpenStory {
    pub story: Story,
    /// The newest reports, oldest first, at most [`RECENT_MAX`]; of executions with an attempt out, and of those in
    /// `settled`.
    pub recent: Vec<Event>,
    /// The settled execution whose last events are awaited, and the incarnation that may still have them.
    pub settled: Option<(Box<http::Execution>, Option<Incarnation>)>,
}

/// Joins what was read in parts; by execution.
pub(crate) fn open(
    live: Vec<Story>,
    awaiting: Vec<(Story, http::Execution, Option<Incarnation>)>,
    recent: Vec<Event>,
) -> Vec<OpenStory> {
    let mut recent_of: HashMap<ExecutionId, Vec<Event>> = HashMap::new();
    for event in recent {
        recent_of.entry(event.execution_id).or_default().push(event);
    }
    let mut take = |id| recent_of.remove(&id).unwrap_or_default();
    let live = live.into_iter().map(|story| (story, None));
    let awaiting = awaiting.into_iter().map(|(story, mut execution, incarnation)| {
        story.show_in(&mut execution);
        (story, Some((Box::new(execution), incarnation)))
    });
    let mut open: Vec<OpenStory> =
        live.chain(awaiting).map(|(story, settled)| OpenStory { recent: take(story.id), story, settled }).collect();
    open.sort_unstable_by_key(|open| open.story.id);
    open
}

/// The most reports in the error of a time-out or a loss.
pub const RECENT_MAX: usize = 10;
/// The same in the type of a database's count.
pub(crate) const RECENT_ROWS: i64 = RECENT_MAX as i64;

/// A part of one execution's record.
#[derive(Clone, Debug)]
pub struct RecordPart {
    /// Ascending without a gap. Begins with one gap event where older ones are forgotten.
    pub events: Vec<Event>,
    /// The newest event of the record.
    pub last: u64,
    /// The newest event is the one that settles the execution: nothing follows it.
    pub is_over: bool,
}

/// Reads the stories for a new leader, on a connection of either database. `$recent` names the newest reports.
macro_rules! stories {
    ($connection:expr, $recent:expr) => {{
        let connection: &mut _ = $connection;
        let mut told = Vec::new();
        let mut rows = sqlx::query(crate::sql::LIVE_STORIES).fetch(&mut *connection);
        while let Some(row) = within(rows.try_next()).await? {
            told.extend(crate::row::story(&row)?);
        }
        drop(rows);
        let mut awaiting = Vec::new();
        let mut rows = sqlx::query(crate::sql::AWAITING).fetch(&mut *connection);
        while let Some(row) = within(rows.try_next()).await? {
            let story = crate::row::story(&row)?;
            let (execution, incarnation) = (crate::row::execution(&row)?, crate::row::incarnation(&row)?);
            awaiting.extend(story.map(|story| (story, execution, incarnation)));
        }
        drop(rows);
        let mut recent = Vec::new();
        let mut rows = sqlx::query($recent).bind(crate::record::RECENT_ROWS).fetch(&mut *connection);
        while let Some(row) = within(rows.try_next()).await? {
            recent.push(crate::row::event(&row)?.0);
        }
        drop(rows);
        crate::record::open(told, awaiting, recent)
    }};
}

pub(crate) use stories;
