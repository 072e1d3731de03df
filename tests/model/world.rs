//! The world: two kinds of daemon, the broker between them, the journal, and one clock.
//!
//! Whoever has something to do does it in any order, so a message in a queue and a commit under way are nothing special;
//! time waits for everybody who can act. What goes wrong is counted, so that there is an end to it: a daemon that is
//! frozen or cut off, and goes on whenever it likes, is one of those. Not here: what may happen next (`choices`), and
//! what then is (`steps`).

use std::hash::{Hash, Hasher};

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{Fence, Incarnation};
use slotline_scheduler::ProbedQueue;

use crate::action::Action;
use crate::executor::{Executor, Machine};
use crate::journal::{Journal, Row};
use crate::mistake::Mistake;
use crate::rules::Rule;
use crate::shared::{Part, Shared};
use crate::time::Tick;
use crate::wire::{Order, Word};
use crate::worker::{Process, Worker};

/// The queues of a leader.
pub(crate) const QUEUES: [ProbedQueue; 2] = [ProbedQueue::Completions, ProbedQueue::Heartbeats];

/// How large a world is, and how much may go wrong in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) executors: usize,
    pub(crate) workers: usize,
    pub(crate) executions: u8,
    pub(crate) limit: u32,
    /// Whether the search begins once the first attempt runs, with everybody introduced, and not when all is new.
    pub(crate) begins_at_work: bool,
    /// How many steps may be taken out of turn; `None`: every one. Then the search knows every order.
    pub(crate) detours: Option<u8>,
    /// The last tick of the search.
    pub(crate) horizon: Tick,
    pub(crate) troubles: Troubles,
    pub(crate) mistake: Option<Mistake>,
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Troubles {
    /// Deaths of executors and workers.
    pub(crate) crashes: u8,
    /// Changes of leadership while somebody leads.
    pub(crate) coups: u8,
    /// Messages lost or delivered twice.
    pub(crate) losses: u8,
    /// Sessions lost, with the broker or the journal.
    pub(crate) cuts: u8,
    /// Daemons frozen, or cut off from the broker.
    pub(crate) stalls: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: Tick,
    pub(crate) journal: Shared<Journal>,
    pub(crate) executors: Vec<Shared<Executor>>,
    pub(crate) workers: Vec<Shared<Worker>>,
    pub(crate) troubles: Troubles,
    /// How many steps may still be taken out of turn.
    pub(crate) detours: Option<u8>,
    /// A rule that a step broke.
    pub(crate) broken: Option<Rule>,
    /// What the last step was remarkable for; no part of where the world stands.
    pub(crate) remarkable: Remarkable,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Remarkable {
    /// An incarnation was declared lost for its silence.
    pub(crate) loss_by_silence: bool,
    /// A dispatch left that had left before.
    pub(crate) resend: bool,
    /// A batch was refused, for another leads.
    pub(crate) refusal: bool,
    /// A worker's order was old.
    pub(crate) stale_order: bool,
}

/// Lets go of what searches kept of their worlds.
pub(crate) fn forget() {
    Journal::kept().forget();
    Executor::kept().forget();
    Machine::kept().forget();
    Worker::kept().forget();
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let Self { now, journal, executors, workers, troubles, detours, broken, remarkable: _ } = self;
        *now == other.now
            && *journal == other.journal
            && *executors == other.executors
            && *workers == other.workers
            && *troubles == other.troubles
            && *detours == other.detours
            && *broken == other.broken
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { now, journal, executors, workers, troubles, detours, broken, remarkable: _ } = self;
        (now, journal, executors, workers, troubles, detours, broken).hash(state);
    }
}

impl World {
    /// Everybody has just started, and the first executor leads.
    pub(crate) fn new(scale: &Scale) -> Self {
        let mut world = Self {
            now: 0,
            journal: Shared::new(Journal::new(scale.executions)),
            executors: vec![Shared::new(Executor::default()); scale.executors],
            workers: (0..scale.workers).map(|index| Shared::new(Worker::new(index, 0, scale.mistake))).collect(),
            troubles: scale.troubles,
            detours: None,
            broken: None,
            remarkable: Remarkable::default(),
        };
        world.take(scale, Action::TakeOver(0));
        while scale.begins_at_work && world.running().next().is_none() {
            world.take(scale, world.fair_turn());
        }
        world.detours = scale.detours;
        world
    }

    /// Nothing goes wrong any more from here on, and all orders are one.
    pub(crate) fn go_straight(&mut self) {
        self.troubles = Troubles::default();
        self.detours = None;
    }

    pub(crate) fn has_leader(&self) -> bool {
        let leads = |executor: &Shared<Executor>| executor.term.as_ref().is_some_and(|t| t.epoch == self.journal.epoch);
        self.executors.iter().any(leads)
    }

    /// Every process that runs, by its fence.
    pub(crate) fn running(&self) -> impl Iterator<Item = (Fence, &Process)> {
        let processes = self.workers.iter().flat_map(|worker| worker.processes.iter());
        processes.filter(|(_, process)| process.runs()).map(|(fence, process)| (*fence, process))
    }

    /// The lease that the journal has of an attempt.
    pub(crate) fn lease(&self, (id, attempt): AttemptKey) -> Option<(Fence, Incarnation)> {
        let Row(snapshot) = self.journal.live.get(&id)?;
        let lease = snapshot.lease.as_ref().filter(|_| snapshot.attempt == attempt)?;
        Some((lease.fence, lease.incarnation))
    }

    pub(crate) fn next_word(&self, e: usize, queue: ProbedQueue) -> Option<&Word> {
        self.executors[e].term.as_ref()?.queued(queue).front().map(|word| &**word)
    }

    /// How many incarnations end with the commit that is under way.
    pub(crate) fn ended_by(&self, e: usize) -> usize {
        let flight = self.executors[e].term.as_ref().and_then(|term| term.flight.as_ref());
        flight.map_or(0, |flight| flight.batch.ended.len())
    }

    /// Whether the worker has this attempt, or had it, or has an order for it in its queue.
    pub(crate) fn has_left_before(&self, w: usize, order: &Order) -> bool {
        let Order::Dispatch { key, .. } = order else { return false };
        let same = |other: &Order| matches!(other, Order::Dispatch { key: other, .. } if other == key);
        let worker = &self.workers[w];
        worker.has_begun(*key) || worker.orders.iter().any(|orders| orders.iter().any(same))
    }

    pub(crate) fn is_next_order_stale(&self, w: usize) -> bool {
        let worker = &self.workers[w];
        worker.orders.front().is_some_and(|orders| {
            orders.iter().all(|order| order.epoch() < self.journal.epoch && matches!(order, Order::Dispatch { .. }))
        })
    }
}
