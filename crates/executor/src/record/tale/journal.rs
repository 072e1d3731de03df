//! A tale in the journal: where a new leader resumes, and what it leaves for the next.

use std::sync::Arc;

use slotline_protocol::record::{Event, What};
use slotline_protocol::{ActionRef, OutcomeKind, Status, Timestamp, http};
use slotline_scheduler::{Lease, Snapshot};
use slotline_store::{OpenStory, Story};

use super::{Attempt, Held, Of, Tale};
use crate::record::word::{End, Out};

impl Tale {
    /// The tale of a live execution that follows from its row.
    pub(in crate::record) fn of_row(action_ref: ActionRef, snapshot: &Snapshot) -> Self {
        let mut tale = Self::new(action_ref, snapshot.id);
        // The leader before has recorded all of this.
        let mut unheard = Out::default();
        tale.queued(snapshot.enqueued_at, &mut unheard);
        if let Some(lease) = snapshot.leased() {
            let of = Of { grant: snapshot.attempt, attempt: snapshot.counts_as() };
            tale.moves(Status::Scheduled, of, Some(lease.clone()), lease.scheduled_at, &mut unheard);
            if let Some(started_at) = lease.started_at {
                tale.starts(started_at, &mut unheard);
                if let Some(attempt) = &mut tale.attempt {
                    attempt.sequence = 2;
                }
            }
        }
        tale.is_as(snapshot);
        tale
    }

    /// The tale of a live execution with written events.
    pub(in crate::record) fn reopened(
        action_ref: ActionRef,
        open: OpenStory,
        snapshot: &Snapshot,
        out: &mut Out,
    ) -> Self {
        let OpenStory { story, recent, .. } = open;
        let mut tale = Self::written(action_ref, &story, recent);
        if let Some(lease) = snapshot.leased() {
            let mut attempt = Attempt::new(snapshot.attempt, snapshot.counts_as(), lease);
            if story.attempt == snapshot.attempt {
                attempt.sequence = story.sequence;
            }
            tale.newest_attempt = Of { grant: attempt.number, attempt: attempt.counts_as };
            tale.attempt = Some(attempt);
        }
        if let Some(last) = story.awaits {
            // The leader before held back what came after events that it waited for.
            let at = snapshot.lease.as_ref().map_or(snapshot.queued_at, |lease| lease.scheduled_at);
            tale.lose(snapshot.tried, story.sequence.saturating_add(1), last, at, out);
            tale.is_as(snapshot);
            if tale.status != story.status {
                let worker = snapshot.lease.as_ref().map(|lease| lease.worker.clone());
                let moved = What::Status { previous: story.status, new: tale.status, worker };
                tale.push(moved, snapshot.counts_as(), at, out);
            }
        }
        tale
    }

    /// A settled execution whose last events are awaited; `None` if the journal has none such.
    pub(in crate::record) fn unfinished(open: OpenStory, now: Timestamp, out: &mut Out) -> Option<Self> {
        let OpenStory { story, recent, settled } = open;
        let (execution, incarnation) = settled?;
        let (at, last_sequence) = (execution.end_time?, story.awaits?);
        let mut tale = Self::written(execution.action_ref.clone(), &story, recent);
        match (incarnation, execution.fence, execution.worker) {
            (Some(incarnation), Some(fence), Some(worker)) => {
                let started_at = execution.start_time;
                let lease = Lease { worker, incarnation, fence, scheduled_at: at, started_at, after: None };
                let mut attempt = Attempt::new(story.attempt, execution.attempt, &lease);
                attempt.sequence = story.sequence;
                attempt.end = Some(End {
                    key: (story.id, story.attempt),
                    fence,
                    last_sequence,
                    started_at: execution.start_time,
                    at,
                    outcome: execution.status.as_str().parse::<OutcomeKind>().ok(),
                    return_code: None,
                    message: execution.error.as_ref().map(|error| error.message.clone()),
                });
                tale.newest_attempt = Of { grant: attempt.number, attempt: attempt.counts_as };
                tale.attempt = Some(attempt);
            }
            // No worker is known that may have them.
            _ => tale.lose(execution.attempt, story.sequence.saturating_add(1), last_sequence, at, out),
        }
        let http::Execution { status, result, error, attempt, start_time: started_at, .. } = *execution;
        let settled = What::Settled { previous: tale.status, status, result, error };
        tale.held.push_back(Held::Settle { settled, attempt, started_at, at });
        tale.set_due(Some(now), out);
        Some(tale)
    }

    /// Takes the status over. The leader may have learnt from a heartbeat that it runs; the event of that is still to
    /// come.
    fn is_as(&mut self, snapshot: &Snapshot) {
        let has_started = snapshot.lease.as_ref().is_some_and(|lease| lease.started_at.is_some());
        self.status = match snapshot.status {
            Status::Running if !has_started => Status::Scheduled,
            status => status,
        };
    }

    fn written(action_ref: ActionRef, story: &Story, recent: Vec<Event>) -> Self {
        Self {
            status: story.status,
            first: story.first,
            last: story.last,
            plain: None,
            newest: story.newest.clone(),
            latest: story.latest.clone(),
            recent: recent.into_iter().map(Arc::new).collect(),
            ..Self::new(action_ref, story.id)
        }
    }

    /// The whole story, where the row does not stand for it, with the newest `kept` events and up to an eighth more, so
    /// that the oldest are not forgotten one by one.
    pub(in crate::record) fn story(&mut self, kept: u64) -> Story {
        if self.last + 1 - self.first > kept + kept / 8 {
            self.first = self.last + 1 - kept;
        }
        let attempt = self.attempt.as_ref();
        let end = attempt.and_then(|attempt| attempt.end.as_ref());
        Story {
            id: self.id,
            first: self.first,
            last: self.last,
            attempt: attempt.map_or(0, |attempt| attempt.number),
            sequence: attempt.map_or(0, |attempt| attempt.sequence),
            status: self.status,
            newest: self.newest.clone(),
            latest: self.latest.clone(),
            awaits: end.filter(|_| !self.held.is_empty()).map(|end| end.last_sequence),
        }
    }
}
