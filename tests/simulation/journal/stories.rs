//! The record as the journal has it: how far each goes, and what a new leader goes on with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slotline_protocol::http::{Execution, TimeoutFrom};
use slotline_protocol::record::{Event, Newest, What};
use slotline_protocol::{ExecutionId, Incarnation};
use slotline_scheduler::{Settled, Snapshot};
use slotline_store::{OpenStory, RECENT_MAX, Request, Story};

#[derive(Clone, Default)]
pub(super) struct Stories {
    stories: BTreeMap<ExecutionId, Story>,
    /// The newest event that is written of each.
    last: BTreeMap<ExecutionId, u64>,
    /// The newest reports.
    recent: BTreeMap<ExecutionId, VecDeque<Arc<Event>>>,
    /// Settled executions whose last events are awaited, and the incarnations that may still have them.
    settled: BTreeMap<ExecutionId, (Box<Execution>, Option<Incarnation>)>,
}

impl Stories {
    /// Writes events. Gives back the first whose number does not follow the one before.
    pub(super) fn tell(&mut self, events: &[Arc<Event>]) -> Option<(ExecutionId, u64)> {
        let mut wrong = None;
        for event in events {
            let before = self.last.insert(event.execution_id, event.number).unwrap_or_default();
            if event.number != before + 1 {
                wrong.get_or_insert((event.execution_id, event.number));
            }
            if matches!(event.what, What::Progress(_)) {
                let recent = self.recent.entry(event.execution_id).or_default();
                recent.push_back(event.clone());
                if recent.len() > RECENT_MAX {
                    recent.pop_front();
                }
            }
        }
        wrong
    }

    /// To be called with the stories of the same batch to come.
    pub(super) fn settle(&mut self, settled: &Settled, snapshot: &Snapshot, request: &Request) {
        let lease = settled.lease.as_ref();
        let execution = Execution {
            execution_id: settled.id,
            action_id: snapshot.action,
            action_ref: settled.action_ref.clone(),
            status: settled.status,
            attempt: settled.counts_as,
            grant: settled.attempt,
            concurrency_key: None,
            parameters: request.parameters.clone(),
            timeout_seconds: None,
            timeout_from: TimeoutFrom::default(),
            progress_detail: request.detail,
            message_id: None,
            correlation_id: None,
            trace_id: None,
            source: None,
            enqueued_at: snapshot.enqueued_at,
            scheduled_at: lease.map(|lease| lease.scheduled_at),
            start_time: lease.and_then(|lease| lease.started_at),
            end_time: Some(settled.ended_at),
            worker: lease.map(|lease| lease.worker.clone()),
            fence: lease.map(|lease| lease.fence),
            result: settled.result.clone(),
            error: settled.error.clone(),
            position: None,
            waiting: None,
            progress: None,
            progress_events: Newest::default(),
            earlier_attempts: Vec::new(),
            awaits_events: false,
        };
        self.settled.insert(settled.id, (Box::new(execution), lease.map(|lease| lease.incarnation)));
    }

    /// Takes the stories of a batch. What has settled and awaits nothing more is over.
    pub(super) fn put(&mut self, stories: Vec<Story>, lives: impl Fn(ExecutionId) -> bool) {
        for story in stories {
            self.stories.insert(story.id, story);
        }
        let awaits = |story: &Story| story.awaits.is_some();
        self.settled.retain(|id, _| self.stories.get(id).is_some_and(awaits));
        self.stories.retain(|id, story| awaits(story) || lives(*id));
        self.recent.retain(|id, _| self.stories.contains_key(id) || lives(*id));
    }

    /// What a new leader goes on with, of those that live and of those whose last events are awaited.
    pub(super) fn open(&self, live: &[Snapshot]) -> Vec<OpenStory> {
        let is_out = |id| live.iter().any(|snapshot| snapshot.id == id && snapshot.lease.is_some());
        let recent = |id| -> Vec<Event> {
            let recent = self.recent.get(&id).filter(|_| self.settled.contains_key(&id) || is_out(id));
            recent.into_iter().flatten().map(|event| Event::clone(event)).collect()
        };
        let open = |(id, story): (&ExecutionId, &Story)| OpenStory {
            story: story.clone(),
            recent: recent(*id),
            settled: self.settled.get(id).cloned(),
        };
        self.stories.iter().map(open).collect()
    }
}
