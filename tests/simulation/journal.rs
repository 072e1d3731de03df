//! The journal as data: one row of leadership, and what each batch makes durable. It alone tells the history what is
//! committed, by comparing what it had with what it has.

mod commit;
mod stories;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slotline_executor::leader::Mark;
use slotline_protocol::Policy;
use slotline_protocol::http::Action;
use slotline_protocol::message::Lineage;
use slotline_protocol::{ActionId, ActionRef, Epoch, ExecutionId, Incarnation};
use slotline_scheduler::{Counters, Snapshot};
use slotline_store::{ActionState, Known, Recovered, Request, Rewind, Standing};
use uuid::Uuid;

use crate::clock::{self, Micros, SECOND};
use crate::history::Fact;
use crate::plan::Mistake;
use crate::stage::{CALL_DEADLINE, Event, Stage, Why};
use crate::wire::{Answer, Ask, Commit, DbId};
use stories::Stories;

/// There is one journal.
const IDENTITY: Uuid = Uuid::from_u128(1);

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
    actions: BTreeMap<ActionId, Action>,
    live: BTreeMap<ExecutionId, Snapshot>,
    /// Of those that live.
    requests: BTreeMap<ExecutionId, Arc<Request>>,
    /// Every execution that was ever accepted, by the request that it is of.
    known: BTreeMap<usize, Known>,
    accepted: BTreeSet<ExecutionId>,
    ended: Vec<Incarnation>,
    stories: Stories,
    counters: Counters,
    /// The longest lease that a worker may go by.
    lease: Duration,
    generation: u64,
    rewound_below: ExecutionId,
    former: (Epoch, i64),
    doubt: Option<String>,
    floor: Option<Counters>,
}

impl Journal {
    pub(crate) fn new(policies: &[Policy], lease: Duration, stage: &mut Stage) -> Self {
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
                known: BTreeMap::new(),
                accepted: BTreeSet::new(),
                ended: Vec::new(),
                stories: Stories::default(),
                counters: Counters { next_id: 1, next_fence: 1, next_action: policies.len() as i64 + 1 },
                lease,
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
            let at = clock::of_the_journal(0);
            let action = Action {
                action_id: action_id(index),
                action_ref: action_ref(index),
                paused: false,
                policy: policy.clone(),
                limit_override: None,
                created_at: at,
                updated_at: at,
            };
            journal.put(action, stage);
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
            Ask::Stand => stage.answer(db, Answer::Stands(Box::new(self.standing()))),
            Ask::Recover => stage.answer(db, Answer::Recovered(Box::new(self.recover()))),
            Ask::Commit(written) => self.commit(db, *written, stage),
            Ask::TakeTerms { doubt } if self.holder == Some(db) => {
                self.rows.floor = doubt.as_ref().map(|_| self.rows.floor.unwrap_or(self.rows.counters));
                self.rows.doubt = doubt;
                stage.answer(db, Answer::Noted);
            }
            Ask::Doubt { reason, above } if self.holder == Some(db) => {
                self.rows.epoch = self.rows.epoch.max(above);
                self.rows.doubt = Some(reason);
                self.rows.floor.get_or_insert(self.rows.counters);
                stage.answer(db, Answer::Noted);
            }
            Ask::Settle(rewind) if self.holder == Some(db) => {
                let Rewind { generation, next, .. } = *rewind;
                self.rows.generation = generation;
                self.rows.counters = next;
                self.rows.rewound_below = ExecutionId(next.next_id);
                (self.rows.doubt, self.rows.floor) = (None, None);
                stage.answer(db, Answer::Noted);
            }
            Ask::TakeTerms { .. } | Ask::Doubt { .. } | Ask::Settle(_) => self.end_session(db, stage),
            Ask::Ping => stage.answer(db, Answer::Pong),
            Ask::Close => self.end_session(db, stage),
        }
    }

    fn standing(&self) -> Standing {
        let Rows { generation, former, counters, floor, lease, .. } = self.rows;
        Standing {
            lineage: Lineage { identity: IDENTITY, generation },
            former,
            doubt: self.rows.doubt.clone(),
            counters,
            floor: floor.unwrap_or(counters),
            settled: self.settled_in_doubt(),
            lease,
            site: site_name(self.site),
            life: self.life.to_string(),
            log: 0,
        }
    }

    fn recover(&self) -> Recovered {
        let mut live: Vec<_> = self.rows.live.values().cloned().collect();
        live.sort_unstable_by_key(|snapshot| (snapshot.place, snapshot.id));
        let state = |action: &Action| ActionState { action: action.clone(), total_enqueued: 0, total_completed: 0 };
        Recovered {
            actions: self.rows.actions.values().map(state).collect(),
            stories: self.rows.stories.open(&live),
            live,
            ended: self.rows.ended.clone(),
            counters: self.rows.counters,
            rewound_below: self.rows.rewound_below,
            generation: self.rows.generation,
        }
    }

    fn commit(&mut self, db: DbId, written: Commit, stage: &mut Stage) {
        let (epoch, number) = (written.epoch, written.batch.number);
        let chained = epoch == self.rows.epoch && number == self.rows.batch + 1 && self.holder == Some(db);
        let ignores = stage.mistake == Some(Mistake::IgnoresTheEpoch);
        if !(chained || ignores) || stage.chance.parts(stage.rates.commit_refused) {
            stage.trace(|| format!("the journal refuses batch {number} of epoch {epoch}"));
            return self.end_session(db, stage);
        }
        let is_unknown = stage.chance.parts(stage.rates.commit_unknown);
        if is_unknown && stage.chance.percent(50) {
            stage.trace(|| format!("batch {number} of epoch {epoch} is lost, and nobody knows"));
            return self.end_session(db, stage);
        }
        let request = |id: &ExecutionId| Some((*id, self.rows.requests.get(id)?.clone()));
        let found = written.lacking.iter().filter_map(request).collect();
        self.apply(written, stage);
        if is_unknown {
            stage.trace(|| format!("batch {number} is committed, and nobody knows"));
            return self.end_session(db, stage);
        }
        stage.answer(db, Answer::Committed(found));
    }

    /// Which executions the journal has for these requests.
    pub(crate) fn look_up(&self, numbers: &[usize]) -> Option<Vec<Option<Known>>> {
        (self.is_up && !self.frozen)
            .then(|| numbers.iter().map(|number| self.rows.known.get(number).cloned()).collect())
    }

    // ---- the lock ----

    /// What leaders in the same doubt took over from workers, and has ended since.
    fn settled_in_doubt(&self) -> Vec<ExecutionId> {
        let Some(floor) = self.rows.floor else { return Vec::new() };
        let accepted = self.rows.accepted.range(ExecutionId(floor.next_id)..).copied();
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
        self.rows.doubt.get_or_insert_default();
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
    pub(crate) fn rewind(&mut self, marks: &VecDeque<Rc<Mark>>, stage: &mut Stage) -> bool {
        let Some(dump) = self.dump.take() else { return false };
        let known = if dump.doubt.is_none() { (dump.epoch, dump.batch) } else { dump.former };
        if !marks.iter().any(|mark| mark.site() == site_name(self.site) && (mark.epoch(), mark.batch()) > known) {
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
    pub(crate) fn promote(&mut self, marks: &VecDeque<Rc<Mark>>, stage: &mut Stage) -> Option<Self> {
        let rows = *self.dump.take()?;
        if !marks.iter().any(|mark| mark.site() == site_name(self.site)) {
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

/// As marks name a copy of the journal.
fn site_name(site: usize) -> String {
    format!("copy {site}")
}

pub(crate) fn action_id(index: usize) -> ActionId {
    ActionId(index as i64 + 1)
}

pub(crate) fn action_ref(index: usize) -> ActionRef {
    ActionRef::new(&format!("sim.a{index}")).expect("words joined by a dot")
}
