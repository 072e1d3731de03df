//! A page of one execution's record, put together from its row, its story and its events.
//!
//! All three must be of one moment, which the databases ensure by one read-only snapshot. Read one after another they
//! could disagree: the leader may forget events between the reading of `first` and theirs, which would leave a hole, or
//! give a number to the end between the reading of the row and of `last`, which would then be missing from the page. So
//! a disagreement here is a fault of the writer, and is an error.

use slotline_protocol::message::GapReason;
use slotline_protocol::record::{Event, What};
use slotline_protocol::{Timestamp, http};

use crate::browse::{PAGE_BYTES_MAX, PAGE_LIMIT_MAX};
use crate::plain::settled;
use crate::row::large;
use crate::{Error, RecordPart, Story, plain};

/// A query for the events after a number.
pub(crate) struct EventsAfter {
    pub(crate) after: u64,
    limit: usize,
}

impl EventsAfter {
    pub(crate) fn new(after: u64, limit: u32) -> Self {
        Self { after, limit: usize::try_from(limit.clamp(1, PAGE_LIMIT_MAX)).expect("a thousand fits") }
    }

    /// The events of an execution without a story.
    pub(crate) fn of_plain(&self, execution: &http::Execution) -> RecordPart {
        let mut events = plain(execution);
        let last = events.last().map_or(0, |event| event.number);
        events.retain(|event| event.number > self.after);
        events.truncate(self.limit);
        let end = events.last().map_or(self.after, |event| event.number);
        RecordPart { is_over: execution.status.is_terminal() && end >= last, events, last }
    }

    /// The events of an execution with a story; to be filled with the written ones.
    pub(crate) fn of_story(&self, execution: http::Execution, story: Story) -> EventPage {
        let end = if story.awaits.is_none() { settled(&execution, story.status, story.last) } else { None };
        EventPage {
            next: self.after.saturating_add(1).max(story.first),
            limit: self.limit,
            after: self.after,
            end,
            events: Vec::new(),
            bytes: 0,
            is_full: false,
            story,
            execution,
        }
    }
}

/// The page while it fills.
pub(crate) struct EventPage {
    execution: http::Execution,
    story: Story,
    after: u64,
    limit: usize,
    /// The number that must come next.
    next: u64,
    /// The event that settles the execution, once nothing else may come before it.
    end: Option<Event>,
    events: Vec<Event>,
    bytes: usize,
    is_full: bool,
}

impl EventPage {
    /// Above which number to read written events, and how many: one less where a gap comes first, but always one, which
    /// gives the gap its time.
    pub(crate) fn wanted(&self) -> (i64, i64) {
        let gaps = usize::from(self.next - 1 > self.after);
        let rows = (self.limit - gaps).max(1);
        (large(self.next - 1), i64::try_from(rows).expect("a thousand fits"))
    }

    /// Adds the next written event if there is room; `false` if there is none, and nothing more need be read.
    pub(crate) fn push(&mut self, event: Event, bytes: usize) -> Result<bool, Error> {
        if event.number != self.next || event.number >= self.beyond() {
            return Err(self.corrupt(&format!("event {} where {} was due", event.number, self.next)));
        }
        Ok(self.add(event, bytes))
    }

    /// The first number that no written event can have.
    fn beyond(&self) -> u64 {
        if self.end.is_some() { self.story.last } else { self.story.last.saturating_add(1) }
    }

    fn add(&mut self, event: Event, bytes: usize) -> bool {
        if self.events.is_empty() {
            let forgotten = event.number - 1 - self.after;
            if forgotten > 0 {
                self.events.push(self.gap(forgotten, &event));
            }
        }
        self.bytes = self.bytes.saturating_add(bytes);
        let is_first = self.events.is_empty();
        if self.events.len() == self.limit || (self.bytes > PAGE_BYTES_MAX && !is_first) {
            self.is_full = true;
            return false;
        }
        self.next = event.number + 1;
        self.events.push(event);
        true
    }

    /// Stands for the events before the first that is kept.
    fn gap(&self, count: u64, kept: &Event) -> Event {
        let (attempt, timestamp): (u32, Timestamp) = (kept.attempt, kept.timestamp);
        let what = What::Gap { count, reason: GapReason::Pruned };
        let (execution_id, action_ref) = (self.execution.execution_id, self.execution.action_ref.clone());
        Event { execution_id, action_ref, number: kept.number - 1, attempt, timestamp, what }
    }

    /// Whether the page ends before the written events do.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The page, once all events that were wanted are in it.
    pub(crate) fn finish(mut self) -> Result<RecordPart, Error> {
        if self.events.len() < self.limit && !self.is_full {
            if self.next < self.beyond() {
                return Err(self.corrupt(&format!("event {} is missing", self.next)));
            }
            if let Some(end) = self.end.take_if(|end| end.number == self.next) {
                let bytes = match &end.what {
                    What::Settled { result, .. } => result.as_ref().map_or(0, |result| result.get().len()),
                    _ => 0,
                };
                self.add(end, bytes);
            }
        }
        let reached = self.events.last().map_or(self.after, |event| event.number);
        let is_settled = self.execution.status.is_terminal() && self.story.awaits.is_none();
        Ok(RecordPart { is_over: is_settled && reached >= self.story.last, events: self.events, last: self.story.last })
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::Corrupt { column: "number", id: self.execution.execution_id.0, reason: reason.to_owned() }
    }
}
