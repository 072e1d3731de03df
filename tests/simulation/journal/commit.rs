//! What each batch makes durable, and what it tells the history, by comparing what the journal had with what it has.

use std::sync::Arc;

use slotline_protocol::http::Action;
use slotline_protocol::policy::OnIsolation;
use slotline_protocol::{ExecutionId, Fence, Status, Timestamp};
use slotline_scheduler::{Settled, Snapshot};
use slotline_store::{AcceptedRequest, ActionChange, Known};

use super::{Journal, action_ref};
use crate::clock::{self, Micros};
use crate::history::{Fact, Rules};
use crate::mail::number;
use crate::stage::Stage;
use crate::wire::Commit;

/// The digest of a request whose body is not known.
const UNKNOWN_DIGEST: [u8; 32] = [0; 32];

impl Journal {
    pub(super) fn apply(&mut self, Commit { cut_at, epoch, batch, .. }: Commit, stage: &mut Stage) {
        self.rows.batch = batch.number;
        self.rows.counters = batch.counters;
        stage.record_of(self.site, Fact::Committed { epoch, batch: batch.number });
        for change in batch.actions {
            if let ActionChange::Put(action) = change {
                self.put(action, stage);
            }
        }
        let in_doubt = self.rows.doubt.is_some();
        let mut moved: Vec<Snapshot> = Vec::with_capacity(batch.live.len() + batch.accepted.len());
        for accepted in batch.accepted {
            moved.push(self.accept(accepted, stage));
        }
        if let Some((id, number)) = self.rows.stories.tell(&batch.events) {
            stage.misnumbered(id, number);
        }
        self.note_who_stands(&batch.settled, &batch.live, stage);
        moved.extend(batch.live);
        // What ended comes first, then what was granted in order of the grants, then what waits.
        for settled in &batch.settled {
            let id = settled.id;
            moved.retain(|snapshot| snapshot.id != id);
            self.release(id, None, stage);
            self.settle(settled);
            stage.record_of(self.site, Fact::Settled { execution: id, status: settled.status });
        }
        self.rows.stories.put(batch.stories, |id| self.rows.live.contains_key(&id));
        for snapshot in &moved {
            self.release(snapshot.id, snapshot.lease.as_ref().map(|lease| lease.fence), stage);
        }
        moved.sort_by_key(|snapshot| snapshot.lease.as_ref().map_or(i64::MAX, |lease| lease.fence.0));
        for snapshot in moved {
            self.take(snapshot, cut_at, in_doubt, stage);
        }
        for (incarnation, _, _) in batch.ended_incarnations {
            if !self.rows.ended.contains(&incarnation) {
                self.rows.ended.push(incarnation);
            }
        }
    }

    /// An execution that was granted and taken back within this batch stands in no line.
    fn note_who_stands(&self, settled: &[Arc<Settled>], live: &[Snapshot], stage: &mut Stage) {
        let completed = settled.iter().filter(|settled| settled.status == Status::Completed);
        let left: Vec<Fence> =
            completed.filter_map(|settled| Some(self.rows.live.get(&settled.id)?.lease.as_ref()?.fence)).collect();
        for snapshot in live {
            let Some(before) = self.rows.live.get(&snapshot.id) else { continue };
            let granted = u32::from(snapshot.lease.is_some());
            let has_begun =
                before.lease.as_ref().and_then(|lease| lease.after).is_some_and(|after| left.contains(&after));
            let is_over =
                before.lease.as_ref().map(|lease| lease.fence) != snapshot.lease.as_ref().map(|lease| lease.fence);
            if before.attempt + granted < snapshot.attempt || has_begun && is_over {
                // The same for one that waited before, and for one that was sent ahead and has begun and ended.
                stage.record_of(self.site, Fact::Stands { execution: snapshot.id });
            }
        }
    }

    /// Notes what became of one that lives.
    fn take(&mut self, snapshot: Snapshot, cut_at: Micros, in_doubt: bool, stage: &mut Stage) {
        self.backs_off(&snapshot, cut_at, stage);
        let row = self.rows.live.get(&snapshot.id);
        let before = row.and_then(|before| before.lease.as_ref()).map(|lease| lease.fence);
        let has_failed = row.is_none_or(|before| before.failures < snapshot.failures);
        let was_ahead = row.and_then(|before| before.lease.as_ref()).is_some_and(|lease| lease.after.is_some());
        if let Some(lease) = &snapshot.lease {
            let Snapshot { id: execution, attempt, place, .. } = snapshot;
            let (is_new, fence) = (before != Some(lease.fence), lease.fence);
            match lease.after {
                Some(after) if is_new => {
                    stage.record_of(self.site, Fact::SentAhead { execution, attempt, fence, place, after });
                }
                // Nothing is granted in doubt: that is what a worker holds.
                None if in_doubt && (is_new || was_ahead) => {
                    stage.record_of(self.site, Fact::Adopted { execution, attempt, fence });
                }
                None if is_new || was_ahead => {
                    stage.record_of(self.site, Fact::Granted { execution, attempt, fence, place });
                }
                Some(_) | None => {}
            }
        } else if snapshot.status == Status::Queued && snapshot.not_before.is_none() && !snapshot.keeps_slot {
            let (execution, place) = (snapshot.id, snapshot.place);
            stage.record_of(
                self.site,
                if has_failed { Fact::Waits { execution, place } } else { Fact::Rejoins { execution, place } },
            );
        } else {
            stage.record_of(self.site, Fact::Stands { execution: snapshot.id });
        }
        self.rows.live.insert(snapshot.id, snapshot);
    }

    fn accept(&mut self, AcceptedRequest { snapshot, mut request }: AcceptedRequest, stage: &mut Stage) -> Snapshot {
        let number = number(&request);
        let is_recovered = request.digest == UNKNOWN_DIGEST;
        // A name is of one execution: one that was taken over from a worker goes without where another has it.
        if is_recovered && self.rows.known.contains_key(&number) {
            Arc::make_mut(&mut request).name = None;
        } else if let Some(name) = &request.name {
            let known = Known { name: name.clone(), execution_id: snapshot.id, digest: request.digest };
            self.rows.known.insert(number, known);
        }
        self.rows.accepted.insert(snapshot.id);
        self.rows.requests.insert(snapshot.id, request);
        let action = self.rows.actions.get(&snapshot.action).map(|action| action.action_ref.clone());
        let (execution, request) = (snapshot.id, stage.requests[number].clone());
        let (action, key) = (action.unwrap_or_else(|| action_ref(0)), snapshot.key.clone());
        stage.record_of(
            self.site,
            if is_recovered {
                Fact::Recovered { execution, request, action, key }
            } else {
                Fact::Accepted { execution, request, action, key }
            },
        );
        // One that was granted and lost before anybody heard of it has no plain order among the others of its batch.
        if snapshot.attempt == u32::from(snapshot.lease.is_some()) {
            stage.record_of(self.site, Fact::Waits { execution: snapshot.id, place: snapshot.place });
        }
        self.rows.live.insert(snapshot.id, Snapshot { lease: None, ..snapshot.clone() });
        snapshot
    }

    fn settle(&mut self, settled: &Settled) {
        let (snapshot, request) = (self.rows.live.remove(&settled.id), self.rows.requests.remove(&settled.id));
        if let (Some(snapshot), Some(request)) = (snapshot, request) {
            self.rows.stories.settle(settled, &snapshot, &request);
        }
    }

    fn release(&mut self, id: ExecutionId, next: Option<Fence>, stage: &mut Stage) {
        let Some(live) = self.rows.live.get_mut(&id) else { return };
        if let Some(lease) = live.lease.take_if(|lease| next != Some(lease.fence)) {
            let fence = lease.fence;
            stage.record_of(
                self.site,
                match lease.after {
                    None => Fact::Released { execution: id, fence },
                    Some(_) => Fact::TakenBack { execution: id, fence },
                },
            );
        }
    }

    pub(super) fn put(&mut self, action: Action, stage: &mut Stage) {
        let rules = Rules {
            limit: action.policy.limit,
            key_limit: action.policy.key_limit,
            paused: action.paused,
            runs_on: action.policy.on_isolation == OnIsolation::Continue,
        };
        stage.record_of(self.site, Fact::ActionPut { action: action.action_ref.clone(), rules });
        self.rows.actions.insert(action.action_id, action);
    }

    /// Whether it is due later than the journal has it so far, and whether that is as late as its policy says.
    fn backs_off(&self, snapshot: &Snapshot, since: Micros, stage: &mut Stage) {
        let before = self.rows.live.get(&snapshot.id).and_then(|before| before.not_before);
        let Some(due) = snapshot.not_before.filter(|due| before != Some(*due)) else { return };
        let Some(action) = self.rows.actions.get(&snapshot.action) else { return };
        let micros = |at: Timestamp| at.as_micros();
        stage.record_of(
            self.site,
            Fact::BacksOff {
                execution: snapshot.id,
                since,
                due_in: micros(due) - micros(clock::of_the_journal(since)),
                at_most: i64::try_from(action.policy.retry.backoff_max.as_micros()).unwrap_or(i64::MAX),
            },
        );
    }
}
