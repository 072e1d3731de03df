//! One executor process: the production scheduler while it leads, the commit under way, and what has left it but has
//! not reached the broker yet.
//!
//! Stands for `crates/executor/src/{term,outbox,flight,mail,inbox}.rs`. An idle leader commits at once; while a commit is
//! under way the next batch gathers. What a commit has made true leaves even if its term ends before it has left.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use slotline_protocol::message::EndReason;
use slotline_protocol::{Epoch, Incarnation};
use slotline_scheduler::{Config, Effects, Input, Limits, ProbedQueue, RecoveredAction, Scheduler, Sent, Snapshot};

use crate::action::Stall;
use crate::journal::{Batch, Journal, Row};
use crate::mistake::Mistake;
use crate::rules::Rule;
use crate::shared::{Kept, Part, Shared, hash_as_shown};
use crate::time::{TERMS, Tick, of_leader};
use crate::wire::{ACTION, Order, Word, action_ref};

#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Executor {
    pub(crate) term: Option<Term>,
    pub(crate) stall: Option<Stall>,
    /// On its way to the broker, in order.
    pub(crate) outgoing: VecDeque<Arc<Letter>>,
}

/// One leadership, and the queues that belong to it.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Term {
    pub(crate) epoch: Epoch,
    pub(crate) machine: Shared<Machine>,
    /// The last batch handed to a commit.
    batch: i64,
    pub(crate) flight: Option<Flight>,
    pub(crate) completions: VecDeque<Arc<Word>>,
    pub(crate) heartbeats: VecDeque<Arc<Word>>,
}

/// The production scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Machine(pub(crate) Scheduler);

impl Hash for Machine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_as_shown(&self.0, state);
    }
}

impl Part for Machine {
    fn kept() -> &'static Kept<Self> {
        static KEPT: LazyLock<Kept<Machine>> = Kept::new();
        &KEPT
    }
}

impl Part for Executor {
    fn kept() -> &'static Kept<Self> {
        static KEPT: LazyLock<Kept<Executor>> = Kept::new();
        &KEPT
    }

    fn put_away(&mut self) {
        if let Some(term) = &mut self.term {
            term.machine.put_away();
        }
    }
}

/// A batch under way, and what may leave once it is committed.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Flight {
    pub(crate) batch: Arc<Batch>,
    letters: Vec<Arc<Letter>>,
}

/// One message of a leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Letter {
    /// To every worker there is.
    Hello(Order),
    /// To one incarnation; all of one type.
    Orders(Incarnation, Vec<Order>),
    /// To itself.
    Probe { queue: ProbedQueue, epoch: Epoch, published_at: Tick },
}

impl Letter {
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Hello(order) => order.epoch(),
            Self::Orders(_, orders) => orders.first().map_or(Epoch(0), Order::epoch),
            Self::Probe { epoch, .. } => *epoch,
        }
    }
}

impl Letter {
    fn is_probe(&self) -> bool {
        matches!(self, Self::Probe { .. })
    }

    pub(crate) fn is_dispatch(&self) -> bool {
        matches!(self, Self::Orders(_, orders) if orders.iter().any(|o| matches!(o, Order::Dispatch { .. })))
    }
}

impl Executor {
    /// Takes the lead: raises the epoch, reads what lives, and has queues of its own before it hears anybody.
    pub(crate) fn take_over(&mut self, journal: &mut Journal, limit: u32, now: Tick, mistake: Option<Mistake>) {
        let epoch = journal.seat();
        let limits = Limits {
            limit: Some(limit),
            key_limit: None,
            queue_timeout: None,
            max_queue_length: None,
            max_lost_attempts: 3,
            // Chains would multiply the states; the simulation has them.
            run_ahead: Some(0),
            retry: Default::default(),
        };
        let action = RecoveredAction {
            id: ACTION,
            action_ref: action_ref(),
            limits,
            paused: false,
            total_enqueued: 0,
            total_completed: 0,
        };
        let is_read = |snapshot: &Snapshot| snapshot.lease.is_none() || mistake != Some(Mistake::ForgetsLeases);
        let mut live: Vec<_> = journal.live.values().map(|Row(snapshot)| snapshot.clone()).filter(is_read).collect();
        live.sort_by_key(|snapshot| snapshot.place);
        let scheduler = Scheduler::recover(
            Config { lease: TERMS.lease, heartbeat: TERMS.heartbeat },
            epoch,
            journal.counters,
            [action],
            live,
            journal.ended.iter().copied(),
            of_leader(now),
        );
        self.term = Some(Term {
            epoch,
            machine: Shared::new(Machine(scheduler)),
            batch: 0,
            flight: None,
            completions: VecDeque::new(),
            heartbeats: VecDeque::new(),
        });
        self.apply([Input::SessionOpened], now, mistake);
    }

    /// The session with the broker ends and the next begins: what was on its way is gone, its probes count no more.
    pub(crate) fn reconnect(&mut self, now: Tick, mistake: Option<Mistake>) {
        self.outgoing.clear();
        if let Some(term) = &mut self.term {
            for queue in [&mut term.completions, &mut term.heartbeats] {
                queue.retain(|word| !matches!(**word, Word::Probe { .. }));
            }
            self.apply([Input::SessionOpened], now, mistake);
        }
    }

    /// A queue of its term, while it has one.
    pub(crate) fn queue(&mut self, queue: ProbedQueue) -> Option<&mut VecDeque<Arc<Word>>> {
        self.term.as_mut().map(|term| term.queue(queue))
    }

    /// Takes what comes next out of one of its queues.
    pub(crate) fn hear(&mut self, queue: ProbedQueue, now: Tick, mistake: Option<Mistake>) {
        let Some(word) = self.queue(queue).and_then(VecDeque::pop_front) else { return };
        match &*word {
            Word::Beat(beat) => self.apply([beat.write()], now, mistake),
            Word::Completed(word) => self.apply([word.write()], now, mistake),
            Word::Returned(word) => self.apply([word.write()], now, mistake),
            Word::Ended { incarnation, reason, completed, returned } => {
                let completed = completed.iter().map(|word| word.write());
                let returned = returned.iter().map(|word| word.write());
                let ended = Input::IncarnationEnded { incarnation: *incarnation, reason: *reason };
                self.apply(completed.chain(returned).chain([ended]), now, mistake);
            }
            Word::Probe { published_at } => {
                self.apply([Input::Probed { queue, published_at: of_leader(*published_at) }], now, mistake);
            }
        }
    }

    /// An order of this term found no queue.
    pub(crate) fn order_returned(&mut self, incarnation: Incarnation, now: Tick, mistake: Option<Mistake>) {
        let input = match mistake {
            Some(Mistake::TakesAReturnForALoss) => Input::IncarnationEnded { incarnation, reason: EndReason::Replaced },
            _ => Input::OrderReturned { incarnation },
        };
        self.apply([input], now, mistake);
    }

    pub(crate) fn is_due(&self, now: Tick) -> bool {
        let due = |term: &Term| term.machine.0.next_deadline().is_some_and(|at| at <= of_leader(now));
        self.term.as_ref().is_some_and(due)
    }

    pub(crate) fn tick(&mut self, now: Tick, mistake: Option<Mistake>) {
        self.apply([Input::Ticked], now, mistake);
    }

    /// The commit under way lands, or is refused and ends the term. Gives the rule that it breaks.
    pub(crate) fn commit(&mut self, journal: &mut Journal, now: Tick, mistake: Option<Mistake>) -> Option<Rule> {
        let term = self.term.as_mut()?;
        let Flight { batch, letters } = term.flight.take()?;
        if !journal.admits(&batch) && mistake != Some(Mistake::IgnoresTheEpoch) {
            self.term = None;
            return None;
        }
        let broken = journal.apply(&batch);
        self.outgoing.extend(letters);
        self.apply([], now, mistake);
        broken
    }

    /// Takes what happened, and hands what has gathered to a commit if none is under way.
    fn apply(&mut self, inputs: impl IntoIterator<Item = Input>, now: Tick, mistake: Option<Mistake>) {
        let Some(Term { epoch, machine, batch, flight, .. }) = &mut self.term else { return };
        let packed = machine.change(|machine| {
            for input in inputs {
                machine.0.handle(input, of_leader(now));
            }
            if mistake == Some(Mistake::CountsSilenceByTheClock) {
                // As if the probes had come back at once, whatever is in front of them.
                for queue in [ProbedQueue::Completions, ProbedQueue::Heartbeats] {
                    machine.0.handle(Input::Probed { queue, published_at: of_leader(now) }, of_leader(now));
                }
            }
            flight.is_none().then(|| pack(machine, *epoch, *batch + 1, now))
        });
        let Some((packed, letters)) = packed else { return };
        let needs_no_commit = packed.is_empty() && letters.iter().all(|letter| letter.is_probe());
        let may_leave = needs_no_commit || mistake == Some(Mistake::SpeaksBeforeItCommits);
        let (leaving, kept) = if may_leave { (letters, Vec::new()) } else { (Vec::new(), letters) };
        self.outgoing.extend(leaving);
        if !needs_no_commit {
            *batch += 1;
            *flight = Some(Flight { batch: Arc::new(packed), letters: kept });
        }
    }
}

impl Term {
    fn queue(&mut self, queue: ProbedQueue) -> &mut VecDeque<Arc<Word>> {
        match queue {
            ProbedQueue::Completions => &mut self.completions,
            ProbedQueue::Heartbeats => &mut self.heartbeats,
        }
    }

    pub(crate) fn queued(&self, queue: ProbedQueue) -> &VecDeque<Arc<Word>> {
        match queue {
            ProbedQueue::Completions => &self.completions,
            ProbedQueue::Heartbeats => &self.heartbeats,
        }
    }
}

/// Everything since the last cut: what to commit, and the letters in the order in which they leave.
fn pack(Machine(scheduler): &mut Machine, epoch: Epoch, number: i64, now: Tick) -> (Batch, Vec<Arc<Letter>>) {
    let effects = scheduler.take_effects();
    let batch = Batch {
        epoch,
        number,
        counters: scheduler.counters(),
        live: effects.changed.iter().filter_map(|id| scheduler.snapshot(*id)).map(Row).collect(),
        settled: effects.settled.iter().map(|settled| (settled.id, settled.status)).collect(),
        ended: effects.ended_incarnations.iter().map(|departed| departed.incarnation).collect(),
    };
    (batch, letters(&effects, epoch, now))
}

fn letters(effects: &Effects, epoch: Epoch, now: Tick) -> Vec<Arc<Letter>> {
    let mut letters = Vec::new();
    letters.extend(effects.hello.map(|_| Letter::Hello(Order::Hint { epoch })));
    for (incarnation, n) in &effects.greetings {
        letters.push(Letter::Orders(*incarnation, vec![Order::Hello { epoch, n: *n, lost: false }]));
    }
    let mut by_worker: BTreeMap<Incarnation, Vec<Order>> = BTreeMap::new();
    for Sent { incarnation, n, order } in &effects.orders {
        by_worker.entry(*incarnation).or_default().push(written(epoch, *n, order));
    }
    for (incarnation, orders) in by_worker {
        let same = |one: &Order, other: &Order| std::mem::discriminant(one) == std::mem::discriminant(other);
        letters.extend(orders.chunk_by(same).map(|run| Letter::Orders(incarnation, run.to_vec())));
    }
    if effects.probe {
        let probe = |queue| Letter::Probe { queue, epoch, published_at: now };
        letters.extend([ProbedQueue::Completions, ProbedQueue::Heartbeats].map(probe));
    }
    letters.into_iter().map(Arc::new).collect()
}

fn written(epoch: Epoch, n: u64, order: &slotline_scheduler::Order) -> Order {
    use slotline_scheduler::Order as Given;
    match order {
        Given::Recorded { attempts } => Order::Recorded { epoch, n, attempts: attempts.clone() },
        Given::Dispatch(dispatch) => {
            Order::Dispatch { epoch, n, key: (dispatch.id, dispatch.attempt), fence: dispatch.fence }
        }
        Given::Lost => Order::Hello { epoch, n, lost: true },
        Given::Recall { .. } => unreachable!("nobody is sent ahead in this world"),
        Given::Cancel { .. } => unreachable!("nobody cancels anything in this world"),
    }
}
