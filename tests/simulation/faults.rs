//! What can go wrong, as data: single blows with a time and a target, and rates of small mischief.

use crate::chance::Chance;
use crate::clock::{MS, Micros, SECOND};
use crate::plan::Plan;
use crate::wire::LANES;

/// One blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Micros,
    pub(crate) lasts: Micros,
    pub(crate) blow: Blow,
}

/// Kinds beyond those that [`Blow::choose`] counts.
pub(crate) const LEADER_ALONE: u64 = 23;
pub(crate) const CLOCK_STEPS: u64 = 24;
pub(crate) const TWO_PRIMARIES: u64 = 25;
pub(crate) const LIAR: u64 = 26;

/// Someone on the network of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Executor(usize),
    Worker(usize),
    Publisher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    CrashExecutor(usize),
    /// Asked to end: it hands leadership over.
    EndExecutor(usize),
    FreezeExecutor(usize),
    CrashWorker(usize),
    /// The whole machine, with every process on it; nobody says good-bye.
    LosePower(usize),
    FreezeWorker(usize),
    /// The worker, its shims and their commands.
    FreezeHost(usize),
    DrainWorker(usize),
    /// To the broker, from it, or both.
    Cut {
        node: Node,
        up: bool,
        down: bool,
    },
    /// What is delivered to this one from one of its queues comes late, behind all that came before it; its connections
    /// are well.
    Flood {
        node: Node,
        lane: usize,
    },
    /// Every connection of this one is reset.
    Reset(Node),
    CutJournal(usize),
    BrokerRestarts,
    BrokerFreezes,
    /// Every queue but the requests queue is deleted.
    BrokerEmptied,
    /// Publications are not read.
    BrokerBlocks,
    /// Publications are refused.
    BrokerRefuses,
    /// The queue of a leader refuses the heartbeats of this worker, and takes what others publish: it is full whenever
    /// they come.
    QueueRefuses(usize),
    /// One queue, as if it had expired.
    QueueGone(u64),
    /// The consumers of one queue are cancelled.
    ConsumerCancelled(u64),
    JournalRestarts,
    JournalFreezes,
    /// What is committed meanwhile is forgotten.
    JournalRewinds,
    /// A replica has what was committed before, is promoted in the end, and some executors go over to it while the others
    /// stay with the old primary.
    TwoPrimaries,
    /// The leader's session with the journal is ended by the server.
    LeaderCutOff,
    /// Whoever leads then has no way to the broker, while all others have.
    LeaderAlone,
    /// A stranger publishes what workers and executors would.
    Liar,
    /// The wall clock of an executor's host is set: what it would have shown at true time zero.
    ClockSteps(usize, u64),
}

/// Parts in ten thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) dropped: u32,
    pub(crate) duplicated: u32,
    pub(crate) delayed: u32,
    pub(crate) commit_refused: u32,
    /// The outcome is not told: half of these are applied.
    pub(crate) commit_unknown: u32,
    pub(crate) commit_slow: u32,
    /// A daemon dies between two of its effects.
    pub(crate) crash_between: u32,
    /// A daemon freezes between two of its effects.
    pub(crate) freeze_between: u32,
    pub(crate) spawn_fails: u32,
    /// A worker has too little of something to start an attempt, and hands it back.
    pub(crate) is_short: u32,
}

impl Fault {
    pub(crate) fn ends_at(&self) -> Micros {
        self.at + self.lasts
    }

    /// A random choice of kinds, and of blows among them.
    pub(crate) fn choose(chance: &mut Chance, plan: &Plan, until: Micros, among: Option<&[u64]>) -> (Vec<Self>, Rates) {
        const KINDS: u64 = 23;
        let kinds: Vec<u64> = (0..KINDS).filter(|_| chance.percent(25)).collect();
        let kinds = among.map_or(kinds, |among| among.iter().copied().filter(|kind| *kind < KINDS).collect());
        let mut rate = |percent, last| if chance.percent(percent) { chance.below(last) as u32 } else { 0 };
        let rates = Rates {
            dropped: rate(25, 800),
            duplicated: rate(25, 1500),
            delayed: rate(25, 1500),
            commit_refused: rate(15, 200),
            commit_unknown: rate(20, 300),
            commit_slow: rate(20, 300),
            crash_between: rate(20, 60),
            freeze_between: rate(15, 40),
            spawn_fails: rate(10, 1500),
            is_short: rate(15, 4000),
        };
        let [fence, lease] = [plan.terms.fence, plan.terms.lease].map(|term| term.as_micros() as u64);
        let mut faults = Vec::new();
        if !kinds.is_empty() {
            for _ in 0..chance.below(9) {
                let kind = chance.pick(&kinds);
                let at = chance.below(until);
                let blow = Blow::choose(kind, chance, plan);
                let lasts = match blow {
                    // A short one shows nothing: everyone bears it.
                    Blow::Flood { .. } => chance.between(20 * SECOND, 120 * SECOND),
                    // Fences and leases end in the midst of it.
                    _ if chance.percent(15) => chance.between(fence, 2 * lease),
                    _ => chance.spread(10 * MS, 100 * SECOND),
                };
                let fault = Self { at, lasts, blow };
                faults.push(fault);
                // What is on its feet again is hit once more: recovery is where mistakes live.
                if chance.percent(25) {
                    let again = fault.ends_at() + chance.spread(MS, 2 * SECOND);
                    let blow = if chance.percent(50) { blow } else { Blow::choose(chance.pick(&kinds), chance, plan) };
                    faults.push(Self { at: again, lasts: chance.spread(10 * MS, 60 * SECOND), blow });
                }
            }
        }
        // Of other streams, so that the same seeds have the same blows beside these.
        let mut past = Chance::of(plan.seed, 4);
        if among.is_none() && past.percent(10) {
            let (at, lasts) = (past.below(until), past.spread(2 * SECOND, 200 * SECOND));
            faults.push(Self { at, lasts, blow: Blow::JournalRewinds });
        } else if among.map_or(past.percent(10), |kinds| kinds.contains(&TWO_PRIMARIES)) {
            let (at, lasts) = (past.below(until), past.spread(10 * MS, 60 * SECOND));
            faults.push(Self { at, lasts, blow: Blow::TwoPrimaries });
        }
        let mut more = Chance::of(plan.seed, 5);
        for kind in [LEADER_ALONE, CLOCK_STEPS] {
            if among.map_or(more.percent(20), |kinds| kinds.contains(&kind)) {
                for _ in 0..more.between(1, 3) {
                    let (at, lasts) = (more.below(until), more.spread(SECOND, 100 * SECOND));
                    let blow = match kind {
                        LEADER_ALONE => Blow::LeaderAlone,
                        _ => Blow::ClockSteps(more.index(plan.executors.len()), more.below(7200 * SECOND)),
                    };
                    faults.push(Self { at, lasts, blow });
                }
            }
        }
        let mut lies = Chance::of(plan.seed, 6);
        if among.map_or(lies.percent(3), |kinds| kinds.contains(&LIAR)) {
            let (at, lasts) = (lies.below(until / 2), lies.spread(10 * SECOND, 100 * SECOND));
            faults.push(Self { at, lasts, blow: Blow::Liar });
        }
        faults.sort_by_key(|fault| fault.at);
        (faults, rates)
    }
}

impl Blow {
    fn choose(kind: u64, chance: &mut Chance, plan: &Plan) -> Self {
        let executor = chance.index(plan.executors.len());
        let worker = chance.index(plan.workers.len());
        let node = match chance.below(5) {
            0 | 1 => Node::Executor(executor),
            2 | 3 => Node::Worker(worker),
            _ => Node::Publisher,
        };
        match kind {
            0 => Self::CrashExecutor(executor),
            1 => Self::EndExecutor(executor),
            2 => Self::FreezeExecutor(executor),
            3 => Self::CrashWorker(worker),
            4 => Self::LosePower(worker),
            5 => Self::FreezeWorker(worker),
            6 => Self::FreezeHost(worker),
            7 => Self::DrainWorker(worker),
            8 => Self::Cut { node, up: true, down: true },
            9 => Self::Cut { node, up: true, down: false },
            10 => Self::Cut { node, up: false, down: true },
            11 => Self::Reset(node),
            12 => Self::CutJournal(executor),
            13 => Self::BrokerRestarts,
            14 => Self::BrokerFreezes,
            15 => Self::BrokerEmptied,
            16 => Self::BrokerBlocks,
            17 => Self::BrokerRefuses,
            18 => Self::QueueGone(chance.next()),
            19 => {
                if chance.percent(50) {
                    Self::ConsumerCancelled(chance.next())
                } else {
                    Self::LeaderCutOff
                }
            }
            20 => {
                if chance.percent(50) {
                    Self::JournalRestarts
                } else {
                    Self::JournalFreezes
                }
            }
            21 => {
                let node = if chance.percent(60) { Node::Executor(executor) } else { Node::Worker(worker) };
                Self::Flood { node, lane: chance.index(LANES) }
            }
            _ => Self::QueueRefuses(worker),
        }
    }
}

impl Blow {
    /// Whether the plan still has whom this hits.
    pub(crate) fn has_target(&self, plan: &Plan) -> bool {
        let executor = |index: usize| index < plan.executors.len();
        let worker = |index: usize| index < plan.workers.len();
        match *self {
            Self::CrashExecutor(index)
            | Self::EndExecutor(index)
            | Self::FreezeExecutor(index)
            | Self::CutJournal(index)
            | Self::ClockSteps(index, _) => executor(index),
            Self::CrashWorker(index)
            | Self::LosePower(index)
            | Self::FreezeWorker(index)
            | Self::FreezeHost(index)
            | Self::DrainWorker(index)
            | Self::QueueRefuses(index) => worker(index),
            Self::Cut { node, .. } | Self::Reset(node) | Self::Flood { node, .. } => match node {
                Node::Executor(index) => executor(index),
                Node::Worker(index) => worker(index),
                Node::Publisher => true,
            },
            Self::BrokerRestarts
            | Self::BrokerFreezes
            | Self::BrokerEmptied
            | Self::BrokerBlocks
            | Self::BrokerRefuses
            | Self::QueueGone(_)
            | Self::ConsumerCancelled(_)
            | Self::JournalRestarts
            | Self::JournalFreezes
            | Self::JournalRewinds
            | Self::TwoPrimaries
            | Self::LeaderAlone
            | Self::Liar
            | Self::LeaderCutOff => true,
        }
    }
}
