//! The journal as data: one row of leadership, and what each batch makes durable. It alone tells the history what is
//! committed, by comparing what it had with what it has.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use slotline_protocol::policy::{OnIsolation, Policy};
use slotline_protocol::{ActionId, ActionRef, Epoch, ExecutionId, Fence, Incarnation, Status, Timestamp};
use slotline_scheduler::{Counters, Snapshot};

use crate::clock::{self, Micros, SECOND};
use crate::history::{Fact, Rules};
use crate::plan::Mistake;
use crate::stage::{CALL_DEADLINE, Event, Stage, Why};
use crate::wire::{ActionRow, Answer, Ask, Batch, DbId, Mark, Recovered, Standing};

pub(crate) struct Journal {
    /// Which copy it is.
    site: usize,
    pub(crate) is_up: bool,
    pub(crate) frozen: bool,
    waiting: Vec<(DbId, Ask)>,
    holder: Option<DbId>,
    line: VecDeque<DbId>,
    rows: Rows,
    life: u32,
    /// What it goes back to when it is rewound.
    dump: Option<Box<Rows>>,
}

/// All that the journal holds.
#[derive(Clone)]
struct Rows {
    epoch: Epoch,
    batch: i64,
    actions: BTreeMap<ActionId, ActionRow>,
    live: BTreeMap<ExecutionId, Snapshot>,
    requests: BTreeMap<usize, ExecutionId>,
    ended: Vec<Incarnation>,
    counters: Counters,
    generation: u64,
    rewound_below: ExecutionId,
    former: (Epoch, i64),
    doubt: Option<bool>,
    floor: Option<Counters>,
}

impl Journal {
    pub(crate) fn new(policies: &[Policy], stage: &mut Stage) -> Self {
        let mut journal = Self {
            site: 0,
            is_up: true,
            frozen: false,
            waiting: Vec::new(),
            holder: None,
            line: VecDeque::new(),
            rows: Rows {
                epoch: Epoch(0),
                batch: 0,
                actions: BTreeMap::new(),
                live: BTreeMap::new(),
                requests: BTreeMap::new(),
                ended: Vec::new(),
                counters: Counters { next_id: 1, next_fence: 1, next_action: policies.len() as i64 + 1 },
                generation: 1,
                rewound_below: ExecutionId(0),
                former: (Epoch(0), 0),
                doubt: None,
                floor: None,
            },
            life: 0,
            dump: None,
        };
        for (index, policy) in policies.iter().enumerate() {
            let row = ActionRow {
                id: action_id(index),
                action_ref: action_ref(index),
                policy: Rc::new(policy.clone()),
                paused: false,
            };
            journal.put(row, stage);
        }
        journal
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.rows.epoch
    }

    pub(crate) fn arrive(&mut self, db: DbId, ask: Ask, stage: &mut Stage) {
        if self.frozen {
            self.waiting.push((db, ask));
            return;
        }
        let ignores = stage.mistake == Some(Mistake::IgnoresTheEpoch) && matches!(ask, Ask::Commit(_));
        if !(stage.dbs[db].server_up || ignores) {
            return;
        }
        if !self.is_up {
            return self.end_session(db, stage);
        }
        stage.dbs[db].heard_at = stage.now;
        match ask {
            Ask::Lead => {
                self.line.push_back(db);
                self.seat_next(stage);
            }
            Ask::Recover => {
                let mut live: Vec<_> = self.rows.live.values().cloned().collect();
                live.sort_by_key(|snapshot| snapshot.place);
                let recovered = Recovered {
                    actions: self.rows.actions.values().cloned().collect(),
                    live,
                    ended: self.rows.ended.clone(),
                    counters: self.rows.counters,
                    requests: self.rows.requests.iter().map(|(number, id)| (*id, *number)).collect(),
                    standing: Standing {
                        generation: self.rows.generation,
                        rewound_below: self.rows.rewound_below,
                        former: self.rows.former,
                        doubt: self.rows.doubt,
                        floor: self.rows.floor.unwrap_or(self.rows.counters),
                        settled: self.settled_in_doubt(),
                        site: self.site,
                        life: self.life,
                    },
                };
                stage.answer(db, Answer::Recovered(Box::new(recovered)));
            }
            Ask::Commit(batch) => self.commit(db, *batch, stage),
            Ask::Judge { doubt } if self.holder == Some(db) => {
                self.rows.doubt = doubt.then_some(true);
                self.rows.floor = doubt.then(|| self.rows.floor.unwrap_or(self.rows.counters));
                stage.answer(db, Answer::Noted);
            }
            Ask::Doubt { above } if self.holder == Some(db) => {
                self.rows.epoch = self.rows.epoch.max(above);
                self.rows.doubt = Some(true);
                self.rows.floor.get_or_insert(self.rows.counters);
                stage.answer(db, Answer::Noted);
            }
            Ask::Settle { generation, next } if self.holder == Some(db) => {
                self.rows.generation = generation;
                self.rows.counters = next;
                self.rows.rewound_below = ExecutionId(next.next_id);
                (self.rows.doubt, self.rows.floor) = (None, None);
                stage.answer(db, Answer::Noted);
            }
            Ask::Judge { .. } | Ask::Doubt { .. } | Ask::Settle { .. } => self.end_session(db, stage),
            Ask::Ping => stage.answer(db, Answer::Pong),
            Ask::Close => self.end_session(db, stage),
        }
    }

    fn commit(&mut self, db: DbId, batch: Batch, stage: &mut Stage) {
        let chained = batch.epoch == self.rows.epoch && batch.number == self.rows.batch + 1 && self.holder == Some(db);
        let ignores = stage.mistake == Some(Mistake::IgnoresTheEpoch);
        if !(chained || ignores) || stage.chance.parts(stage.rates.commit_refused) {
            stage.trace(|| format!("the journal refuses batch {} of epoch {}", batch.number, batch.epoch));
            return self.end_session(db, stage);
        }
        let is_unknown = stage.chance.parts(stage.rates.commit_unknown);
        if is_unknown && stage.chance.percent(50) {
            stage.trace(|| format!("batch {} of epoch {} is lost, and nobody knows", batch.number, batch.epoch));
            return self.end_session(db, stage);
        }
        let number = batch.number;
        self.apply(batch, stage);
        if is_unknown {
            stage.trace(|| format!("batch {number} is committed, and nobody knows"));
            return self.end_session(db, stage);
        }
        stage.answer(db, Answer::Committed { batch: number });
    }

    fn apply(&mut self, batch: Batch, stage: &mut Stage) {
        self.rows.batch = batch.number;
        self.rows.counters = batch.counters;
        stage.record_of(self.site, Fact::Committed { epoch: batch.epoch, batch: batch.number });
        for row in batch.actions {
            self.put(row, stage);
        }
        let mut moved: Vec<Snapshot> = Vec::with_capacity(batch.live.len() + batch.accepted.len());
        let in_doubt = self.rows.doubt == Some(true);
        let accepted = batch.accepted.into_iter().map(|row| (row, false));
        let recovered = batch.recovered.into_iter().map(|row| (row, true));
        for ((snapshot, number), is_recovered) in accepted.chain(recovered) {
            self.rows.requests.insert(number, snapshot.id);
            let action = self.rows.actions.get(&snapshot.action).map(|row| row.action_ref.clone());
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
            let mut fresh = snapshot.clone();
            fresh.lease = None;
            // One that was granted and lost before anybody heard of it has no plain order among the others of its batch.
            if snapshot.attempt == u32::from(snapshot.lease.is_some()) {
                stage.record_of(self.site, Fact::Waits { execution: snapshot.id, place: snapshot.place });
            }
            self.rows.live.insert(snapshot.id, fresh);
            moved.push(snapshot);
        }
        let completed = batch.settled.iter().filter(|(_, status)| *status == Status::Completed);
        let left: Vec<Fence> =
            completed.filter_map(|(id, _)| Some(self.rows.live.get(id)?.lease.as_ref()?.fence)).collect();
        for snapshot in &batch.live {
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
        moved.extend(batch.live);
        // What ended comes first, then what was granted in order of the grants, then who waits.
        for (id, status) in batch.settled {
            moved.retain(|snapshot| snapshot.id != id);
            self.release(id, None, stage);
            self.rows.live.remove(&id);
            stage.record_of(self.site, Fact::Settled { execution: id, status });
        }
        for snapshot in &moved {
            self.release(snapshot.id, snapshot.lease.as_ref().map(|lease| lease.fence), stage);
        }
        moved.sort_by_key(|snapshot| snapshot.lease.as_ref().map_or(i64::MAX, |lease| lease.fence.0));
        for snapshot in moved {
            self.backs_off(&snapshot, batch.cut_at, stage);
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
        for incarnation in batch.ended {
            if !self.rows.ended.contains(&incarnation) {
                self.rows.ended.push(incarnation);
            }
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

    fn put(&mut self, row: ActionRow, stage: &mut Stage) {
        let rules = Rules {
            limit: row.policy.limit,
            key_limit: row.policy.key_limit,
            paused: row.paused,
            runs_on: row.policy.on_isolation == OnIsolation::Continue,
        };
        stage.record_of(self.site, Fact::ActionPut { action: row.action_ref.clone(), rules });
        self.rows.actions.insert(row.id, row);
    }

    /// Which executions the journal has for these requests.
    pub(crate) fn look_up(&self, numbers: &[usize]) -> Option<Vec<Option<ExecutionId>>> {
        (self.is_up && !self.frozen)
            .then(|| numbers.iter().map(|number| self.rows.requests.get(number).copied()).collect())
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

    // ---- the lock ----

    /// What leaders in the same doubt took over from workers, and has ended since.
    fn settled_in_doubt(&self) -> Vec<ExecutionId> {
        let Some(floor) = self.rows.floor else { return Vec::new() };
        let accepted = self.rows.requests.values().copied().filter(|id| id.0 >= floor.next_id);
        accepted.filter(|id| !self.rows.live.contains_key(id)).collect()
    }

    fn seat_next(&mut self, stage: &mut Stage) {
        if self.holder.is_some() {
            return;
        }
        let Some(db) = self.line.pop_front() else { return };
        self.holder = Some(db);
        if self.rows.doubt.is_none() {
            self.rows.former = (self.rows.epoch, self.rows.batch);
        }
        self.rows.doubt.get_or_insert(false);
        self.rows.epoch = Epoch(self.rows.epoch.0 + 1);
        self.rows.batch = 0;
        stage.dbs[db].heard_at = stage.now;
        stage.record_of(self.site, Fact::Led { epoch: self.rows.epoch });
        stage.record_of(self.site, Fact::Starves { epoch: self.rows.epoch });
        stage.answer(db, Answer::Led { epoch: self.rows.epoch, at: clock::of_the_journal(stage.now) });
        stage.after(CALL_DEADLINE, Event::JournalSuspects { db, why: Why::Gone });
    }

    /// The server's side of a session ends, and with it the lock.
    pub(crate) fn end_session(&mut self, db: DbId, stage: &mut Stage) {
        if !std::mem::replace(&mut stage.dbs[db].server_up, false) {
            return;
        }
        self.line.retain(|other| *other != db);
        stage.answer(db, Answer::Failed);
        if self.holder == Some(db) {
            self.holder = None;
            stage.record_of(self.site, Fact::LockFreed);
            self.seat_next(stage);
        }
    }

    /// Ends the session of a leader that has been silent for too long.
    pub(crate) fn suspect(&mut self, db: DbId, why: Why, stage: &mut Stage) {
        if !stage.dbs[db].server_up || !self.is_up {
            return;
        }
        match why {
            Why::CutSince(since) => {
                if stage.journal_links[stage.dbs[db].executor].up_cut == Some(since) {
                    self.end_session(db, stage);
                }
            }
            Why::Gone | Why::FrozenSince(_) => {
                let silent_until = stage.dbs[db].heard_at + CALL_DEADLINE;
                if self.frozen {
                    stage.after(SECOND, Event::JournalSuspects { db, why });
                } else if silent_until <= stage.now {
                    self.end_session(db, stage);
                } else {
                    stage.at(silent_until, Event::JournalSuspects { db, why });
                }
            }
        }
    }

    // ---- what hurts ----

    pub(crate) fn stop(&mut self, stage: &mut Stage) {
        self.is_up = false;
        if std::mem::take(&mut self.frozen) {
            stage.record_of(self.site, Fact::JournalStands { still: false });
        }
        self.waiting.clear();
        self.line.clear();
        for db in 0..stage.dbs.len() {
            if stage.dbs[db].site == self.site {
                self.end_session(db, stage);
            }
        }
    }

    pub(crate) fn start(&mut self) {
        self.life += u32::from(!self.is_up);
        self.is_up = true;
    }

    /// Keeps what the journal holds now, for [`Self::rewind`].
    pub(crate) fn dump(&mut self, stage: &mut Stage) {
        self.dump = Some(Box::new(self.rows.clone()));
        stage.record_of(self.site, Fact::Dumped);
    }

    /// The server dies, and comes back with what it held at the last dump. Only where a mark shows it: what is lost
    /// within the second that no mark covers can be told by workers alone, and that is no promise.
    pub(crate) fn rewind(&mut self, marks: &VecDeque<Mark>, stage: &mut Stage) -> bool {
        let Some(dump) = self.dump.take() else { return false };
        let known = if dump.doubt.is_none() { (dump.epoch, dump.batch) } else { dump.former };
        if !marks.iter().any(|mark| mark.site == self.site && (mark.epoch, mark.batch) > known) {
            return false;
        }
        self.stop(stage);
        self.rows = *dump;
        stage.record_of(self.site, Fact::Rewound);
        self.start();
        true
    }

    pub(crate) fn freeze(&mut self, stage: &mut Stage) {
        self.frozen = true;
        stage.record_of(self.site, Fact::JournalStands { still: true });
    }

    /// A copy that holds what this one held at the last dump. This one goes on. Only where it has been led on: else nothing
    /// tells the two apart.
    pub(crate) fn promote(&mut self, marks: &VecDeque<Mark>, stage: &mut Stage) -> Option<Self> {
        let rows = *self.dump.take()?;
        if !marks.iter().any(|mark| mark.site == self.site) {
            return None;
        }
        let site = self.site + 1;
        stage.record_of(self.site, Fact::Promoted { site });
        Some(Self {
            site,
            is_up: true,
            frozen: false,
            waiting: Vec::new(),
            holder: None,
            line: VecDeque::new(),
            rows,
            life: self.life + 1,
            dump: None,
        })
    }

    pub(crate) fn thaw(&mut self, stage: &mut Stage) {
        if std::mem::take(&mut self.frozen) {
            stage.record_of(self.site, Fact::JournalStands { still: false });
        }
        for (db, ask) in std::mem::take(&mut self.waiting) {
            self.arrive(db, ask, stage);
        }
    }

    pub(crate) fn cut_leader_off(&mut self, stage: &mut Stage) {
        if let Some(db) = self.holder {
            self.end_session(db, stage);
        }
    }
}

/// How much longer a commit takes than it should.
pub(crate) fn slowness(stage: &mut Stage) -> Micros {
    if stage.chance.parts(stage.rates.commit_slow) { stage.chance.spread(10_000, 14 * SECOND) } else { 0 }
}

pub(crate) fn action_id(index: usize) -> ActionId {
    ActionId(index as i64 + 1)
}

pub(crate) fn action_ref(index: usize) -> ActionRef {
    ActionRef::new(&format!("sim.a{index}")).expect("words joined by a dot")
}
