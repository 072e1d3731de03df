//! The duty book: what a worker owes for every attempt it was granted.
//!
//! `(state, now, input) -> effects`, and nothing else: no I/O, no clock, no chance, no logging. [`crate::driver`]
//! stands between it and the world, in a daemon as in the simulator.
//!
//! - An order whose `(epoch, n)` is not above the highest seen changes nothing. An entry is kept until it is recorded,
//!   so no `(execution, attempt)` starts twice.
//! - **The fence is a latch.** Attempts may run only while the last confirmed heartbeat was sent less than the fence
//!   ago, and a confirm counts only if it is handled before that. Past it the incarnation is over for ever: what runs
//!   is killed, what ended is reported in its farewell, and the worker goes on as a new incarnation.
//! - The end of an attempt is reported until it is recorded.
//! - An attempt with a predecessor starts when that has *completed* here, and is handed back on any other ending.
//!
//! Not here: what an action runs (`command`, handlers), and how effects are carried out ([`crate::driver`]).

mod alarm;
mod effect;
mod entry;
mod farewell;
mod former;
mod input;
mod life;
pub(crate) mod limit;
mod orders;
mod pace;
mod phase;
mod recent;
mod room;
mod shortage;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotline_protocol::message::{self, Account, AttemptKey, Highest, Lineage};
use slotline_protocol::{Epoch, Incarnation, Sizes};

pub use effect::{Effect, Start, Traced};
use entry::{Cause, Entry, Stage};
use former::Former;
pub use input::{AttemptOutput, Config, Ending, Input, JsonText, Now, OnDrain, Order, ServedAction, Terms};
pub use pace::NEWS_PER_SECOND;
pub(crate) use pace::{absorb, replaces};
pub use phase::{PHASES_MAX, Phase};
pub use recent::PROGRESS_EVENTS;
use shortage::Ceiling;
pub use shortage::{RAISE_AFTER, RAISE_AFTER_MAX, Shortage};

/// The most attempts held at once, so that a heartbeat fits its envelope. A dispatch past it is not taken, and the
/// executor sees that it was not.
pub const ENTRIES_MAX: usize = Account::ENTRIES_MAX;
/// How long a drained worker waits for the last outcomes to be recorded, and for its farewell to be confirmed.
pub const FAREWELL_WAIT: Duration = Duration::from_secs(5);
/// Wait before a refused heartbeat is sent again: many tries within any fence, and no load to speak of.
pub const REFUSED_WAIT: Duration = Duration::from_millis(250);
/// Between two answers to hints: every client that gets past the broker's rights may send them.
pub const HINT_EVERY: Duration = Duration::from_millis(250);
/// How long an attempt may outlive its kill before the worker process ends itself.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// The state of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Duty {
    config: Config,
    terms: Terms,
    /// What the broker takes.
    sizes: Sizes,
    incarnation: Incarnation,
    life: Life,
    drain: Option<Drain>,
    /// The highest order seen by this incarnation.
    seen: (Epoch, u64),
    /// The highest numbers that any incarnation of this process was given.
    highest: Highest,
    /// The journal of the newest greeting, and whether its leader wants an account.
    journal: Option<Lineage>,
    wants_account: bool,
    entries: BTreeMap<AttemptKey, Entry>,
    /// The attempts that wait for each predecessor.
    successors: BTreeMap<AttemptKey, BTreeSet<AttemptKey>>,
    /// When an entry must be looked at, one row for each that must.
    alarms: BTreeSet<(Duration, AttemptKey)>,
    /// The entries that run, kept beside the table so that a look at an idle worker costs nothing.
    running: BTreeSet<AttemptKey>,
    beat_at: Duration,
    /// When the incarnation's first heartbeat was sent: from then on an executor may know it and count its silence.
    first_beat: Option<Duration>,
    formers: Vec<Former>,
    /// From when on a hint is answered at once again.
    hint_at: Duration,
    /// The outbox is full: nothing starts, and reports are held back.
    is_congested: bool,
    /// While the worker is short of something.
    ceiling: Option<Ceiling>,
    /// Something is kept for a process after this one.
    has_kept: bool,
}

/// Where the incarnation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    /// `confirmed`: when the last confirmed heartbeat was sent. Nothing starts before the first.
    Alive {
        confirmed: Option<Duration>,
    },
    /// Over; what runs is being killed.
    Over {
        since: Duration,
    },
    /// Waits for the next incarnation.
    Between,
    /// Drained; its farewell is on the way.
    Leaving {
        until: Duration,
    },
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Drain {
    /// When running work is ended.
    deadline: Duration,
    ended: bool,
    /// Until when the worker waits for its outcomes to be recorded, once nothing runs.
    farewell_at: Option<Duration>,
}

impl Duty {
    pub fn new(config: Config, incarnation: Incarnation, now: Now) -> Self {
        let terms = config.terms;
        Self {
            config,
            terms,
            sizes: Sizes::FULL,
            incarnation,
            life: Life::Alive { confirmed: None },
            drain: None,
            seen: (Epoch(0), 0),
            highest: Highest::default(),
            journal: None,
            wants_account: false,
            entries: BTreeMap::new(),
            successors: BTreeMap::new(),
            alarms: BTreeSet::new(),
            running: BTreeSet::new(),
            beat_at: now.boot,
            first_beat: None,
            formers: Vec::new(),
            hint_at: Duration::ZERO,
            is_congested: false,
            ceiling: None,
            has_kept: false,
        }
    }

    /// Keeps to what the broker takes from now on; to be called before the input of a new session.
    pub fn keep_to(&mut self, sizes: Sizes) {
        self.sizes = sizes;
    }

    /// Reports that nothing lives of an incarnation of an earlier process. The caller must have proof of that.
    pub fn replaces(&mut self, incarnation: Incarnation) {
        if self.formers.iter().all(|former| former.incarnation != incarnation) {
            self.formers.push(Former::replaced(incarnation));
        }
    }

    /// Takes over what an earlier process has kept: it is reported until it is recorded. To be called before
    /// [`Self::replaces`], which would report it as lost.
    pub fn inherits(&mut self, ended: message::Ended) {
        self.has_kept = true;
        self.formers.push(Former::kept(ended));
    }

    /// Takes what happened; pushes what is to be done, in order.
    pub fn handle(&mut self, now: Now, input: Input, fx: &mut Vec<Effect>) {
        if self.life == Life::Finished {
            return;
        }
        // First of all, so that nothing is judged under a fence that has passed.
        self.check_fence(now, fx);
        match input {
            Input::Ordered { incarnation, order } => {
                if incarnation == self.incarnation {
                    self.ordered(now, order, fx);
                }
            }
            Input::Hinted { incarnation } => {
                if incarnation == self.incarnation {
                    self.hinted(now, fx);
                }
            }
            Input::Introduced { incarnation, order } => {
                if incarnation == self.incarnation {
                    self.introduced(now, order, fx);
                }
            }
            Input::Started { key, at } => self.started(key, at, fx),
            Input::Reported { key, event } => self.reported(now, key, event, fx),
            Input::Ended { key, ending } => self.ended(now, key, ending, fx),
            Input::Unstarted { key, shortage } => self.unstarted(now, key, shortage, fx),
            Input::HeartbeatConfirmed { incarnation, sent } => self.confirmed(now, incarnation, sent, fx),
            Input::HeartbeatRefused { incarnation } => self.refused(now, incarnation),
            Input::FarewellConfirmed { incarnation } => self.farewell_confirmed(now, incarnation),
            Input::SessionOpened { incarnation } => {
                if incarnation == self.incarnation && matches!(self.life, Life::Alive { .. }) {
                    self.beat(now, fx);
                    self.tell_all(now, fx);
                }
                self.say_farewells(now, fx);
            }
            Input::DrainRequested => self.drain(now, fx),
            Input::StopRequested => self.stop(now, fx),
            Input::NewIncarnation(incarnation) => {
                if self.life == Life::Between {
                    self.incarnation = incarnation;
                    self.life = Life::Alive { confirmed: None };
                    self.seen = (Epoch(0), 0);
                    (self.journal, self.wants_account) = (None, false);
                    self.beat_at = now.boot;
                    self.first_beat = None;
                }
            }
            Input::OutboxFilled => self.congested(),
            Input::OutboxEmptied => self.uncongested(now, fx),
            Input::Tick => {}
        }
        self.ring(now, fx);
        self.settle(now, fx);
    }

    /// When a `Tick` is due, if nothing happens before. `None`: never.
    pub fn next_deadline(&self) -> Option<Duration> {
        let life = match self.life {
            Life::Alive { confirmed } => [
                Some(self.beat_at),
                confirmed.map(|sent| sent + self.terms.fence),
                self.ceiling.map(|ceiling| ceiling.raise_at),
            ],
            Life::Over { since } => [Some(since + KILL_WAIT), None, None],
            Life::Between => [None; 3],
            Life::Leaving { until } => [Some(until), None, None],
            Life::Finished => return None,
        };
        let drain = self.drain.filter(|_| matches!(self.life, Life::Alive { .. })).and_then(|drain| {
            match (self.running.is_empty(), drain.ended) {
                (true, _) => drain.farewell_at,
                (false, true) => self.give_up_at(drain),
                (false, false) => Some(drain.deadline),
            }
        });
        let formers = self.formers.iter().filter_map(Former::next_alarm).min();
        let alarm = self.alarms.first().map(|(at, _)| *at);
        life.into_iter().chain([drain, formers, alarm]).flatten().min()
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Attempts started, or being started, and not known to have ended; in the order of their keys.
    pub fn running(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.running.iter().copied()
    }

    /// Attempts that ended and are not known to be recorded.
    pub fn unrecorded(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.entries.values().filter(|entry| entry.word().is_some()).map(|entry| entry.task.key)
    }

    /// Until when attempts may run, as far as is known now. `None`: nothing may start.
    pub fn fence_deadline(&self) -> Option<Duration> {
        match self.life {
            Life::Alive { confirmed } => confirmed.map(|sent| sent + self.terms.fence),
            Life::Over { .. } | Life::Between | Life::Leaving { .. } | Life::Finished => None,
        }
    }

    /// How long after a confirmed heartbeat was sent the fence falls.
    pub fn fence(&self) -> Duration {
        self.terms.fence
    }

    // ---- the latch ----

    fn check_fence(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if self.fence_deadline().is_some_and(|deadline| now.boot >= deadline) {
            self.end_incarnation(now, fx);
        }
    }

    /// The latch falls: nothing starts in this incarnation any more, and what runs is killed.
    fn end_incarnation(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.life = Life::Over { since: now.boot };
        let waiting: Vec<_> = self.entries.values().filter(|entry| entry.is_waiting()).map(|e| e.task.key).collect();
        for key in waiting {
            self.forget(key);
        }
        let running: Vec<_> = self.running.iter().copied().filter(|key| self.entries.contains_key(key)).collect();
        for key in running {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.task.is_isolated_ok {
                continue;
            }
            if let Some(run) = entry.run_mut() {
                // An attempt that was asked to end before keeps the cause of that.
                run.cause.get_or_insert(Cause::Fenced);
                run.kill_at = None;
                fx.push(Effect::Kill { key });
            }
            self.rearm(key);
        }
    }

    fn confirmed(&mut self, now: Now, incarnation: Incarnation, sent: Duration, fx: &mut Vec<Effect>) {
        let Life::Alive { confirmed } = &mut self.life else { return };
        // A confirm that took longer than the fence proves nothing about now.
        if incarnation != self.incarnation || now.boot >= sent + self.terms.fence {
            return;
        }
        let is_first = confirmed.is_none();
        // A leader that got an earlier heartbeat, whose confirm came too late or never, may count it as lost by now.
        if is_first && self.first_beat.is_some_and(|first| now.boot >= first + self.terms.fence) {
            return self.end_incarnation(now, fx);
        }
        if confirmed.is_some_and(|before| before >= sent) {
            return;
        }
        *confirmed = Some(sent);
        fx.push(Effect::Extend { deadline: sent + self.terms.fence });
        if is_first {
            self.start_ready(now, fx);
        }
    }

    /// A queue refused a heartbeat: the leader's, which is full or away, or that of a leader long gone whose node is
    /// away. It is unknown which, so the heartbeat counts for nothing, and is sent again before long.
    fn refused(&mut self, now: Now, incarnation: Incarnation) {
        if incarnation == self.incarnation {
            self.beat_at = self.beat_at.min(now.boot + REFUSED_WAIT);
        }
    }

    fn beat(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let isolated: usize = self.formers.iter().map(|former| former.isolated.len()).sum();
        self.beat_at = now.boot + self.terms.heartbeat;
        self.first_beat.get_or_insert(now.boot);
        let heartbeat = message::Heartbeat {
            worker: self.config.worker.clone(),
            incarnation: self.incarnation,
            capacity: self.room().saturating_sub(u32::try_from(isolated).unwrap_or(u32::MAX)),
            holding: self
                .entries
                .values()
                .filter_map(|entry| Some((entry.task.key.0, entry.task.key.1, entry.holding()?)))
                .collect(),
            unrecorded: self.unrecorded().collect(),
            seen: self.seen,
            actions: self
                .config
                .actions
                .iter()
                .map(|(action_ref, action)| message::Served {
                    action_ref: action_ref.clone(),
                    capabilities: action.capabilities.clone(),
                })
                .collect(),
            labels: self.config.labels.clone(),
            draining: self.drain.is_some(),
            sent_at: now.wall,
            journal: self.journal,
            highest: self.highest,
            account: None,
            process: self.config.process.clone(),
        };
        if !self.wants_account {
            return fx.push(Effect::Beat { heartbeat, sent: now.boot });
        }
        for account in self.accounts() {
            let heartbeat = message::Heartbeat { account: Some(account), ..heartbeat.clone() };
            fx.push(Effect::Beat { heartbeat, sent: now.boot });
        }
    }

    /// All that is held or not known to be recorded, in parts that fit an envelope each.
    fn accounts(&self) -> Vec<Account> {
        let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (attempts_max, parameter_bytes_max) = self.sizes.account();
        for shown in self.entries.values().map(Entry::shown) {
            if part.len() >= attempts_max || bytes > parameter_bytes_max {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            bytes += shown.parameters.get().len();
            part.push(shown);
        }
        parts.push(part);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let count = number(parts.len());
        let account = |(part, attempts)| Account { part: number(part), parts: count, attempts };
        parts.into_iter().enumerate().map(account).collect()
    }

    // ---- the table ----

    fn entry_mut(&mut self, key: AttemptKey) -> Option<&mut Entry> {
        match self.entries.get_mut(&key) {
            Some(entry) => Some(entry),
            None => self.formers.iter_mut().find_map(|former| former.isolated.get_mut(&key)),
        }
    }

    /// The incarnation under which an attempt was granted.
    fn incarnation_of(&self, key: AttemptKey) -> Incarnation {
        let former = self.formers.iter().find(|former| former.isolated.contains_key(&key));
        former.map_or(self.incarnation, |former| former.incarnation)
    }

    fn forget(&mut self, key: AttemptKey) {
        if let Some(entry) = self.entries.remove(&key) {
            if let Some(at) = entry.alarm {
                self.alarms.remove(&(at, key));
            }
            if let Stage::Waiting { after: Some(predecessor), .. } = entry.stage
                && let Some(others) = self.successors.get_mut(&predecessor)
            {
                others.remove(&key);
            }
            self.successors.remove(&key);
        }
    }
}
