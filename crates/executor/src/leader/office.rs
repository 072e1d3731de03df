//! How a leader entered by the marks that it found, and why it stands down.

use std::time::Duration;

use slotline_protocol::message::Lineage;
use slotline_protocol::{Epoch, ExecutionId};
use slotline_scheduler::Counters;
use slotline_store::Standing;

use super::bounds::Bounds;
use super::mark::hand::Hand;
use super::mark::{Judgement, Mark, Marks};

/// How a leader entered.
#[derive(Clone, Debug)]
pub struct Office {
    pub(super) lineage: Lineage,
    /// Why the journal may be older than the world.
    pub(super) doubt: Option<String>,
    /// The session on which the first mark was left.
    pub(super) claimed_on: Option<u64>,
    /// The numbers that come next by the journal alone.
    pub(super) floor: Counters,
    /// What was taken over in the same doubt, and has ended since.
    pub(super) settled: Vec<ExecutionId>,
    /// The numbers that come next at least.
    pub(super) from: Counters,
    /// The longest lease that any worker may go by.
    pub(super) lease: Duration,
    /// The next execution by the newest mark.
    pub(super) next_execution: i64,
    /// The highest generation of the journal that any mark shows.
    pub(super) generation: u64,
    pub(super) hand: Hand,
}

/// Why a leader ends its term by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandDown {
    /// The journal is older than something shows: the next leader finds out, above this epoch.
    Doubted { reason: String, above: Epoch },
    /// Everything that the journal may have forgotten is known: the next leader goes on.
    Settled,
}

impl Office {
    /// Of the leader of `epoch`, by the marks that were found. `lease`: the one that it announces.
    pub fn new(
        standing: Standing,
        judgement: &Judgement,
        epoch: Epoch,
        lease: Duration,
        marks: &Marks,
        bounds: &Bounds,
    ) -> Self {
        let Bounds { reserve, unlooked_max, .. } = *bounds;
        let hand = Hand::new(&standing, epoch, lease.max(standing.lease), marks, reserve, unlooked_max);
        let (doubt, skips) = match judgement {
            Judgement::Sound { skips } => (None, *skips),
            Judgement::Doubted(reason) => (Some(reason.clone()), true),
        };
        Self {
            lineage: standing.lineage,
            doubt,
            claimed_on: None,
            floor: standing.floor,
            settled: standing.settled,
            from: if skips { marks.reserved() } else { standing.counters },
            lease: standing.lease.max(marks.lease()),
            next_execution: marks.next_execution(),
            generation: marks.generation(),
            hand,
        }
    }

    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// To be left before anything is granted, and before any worker is greeted: the leader of another copy of the journal
    /// stands down, and of two that begin at once at least one sees the other.
    pub fn claim(&mut self) -> Mark {
        if self.doubt.is_some() { self.hand.claim() } else { self.hand.first(self.from) }
    }

    /// The claim was left in this session.
    pub fn claimed(&mut self, session: u64, reserved: Counters) {
        if self.doubt.is_none() {
            self.hand.renewed(Some(reserved));
        }
        self.claimed_on = Some(session);
    }
}
