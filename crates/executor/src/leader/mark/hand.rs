//! What one leader writes into its marks, and which numbers it may give by them.

use std::time::Duration;

use slotline_broker::topology;
use slotline_protocol::Epoch;
use slotline_protocol::message::Lineage;
use slotline_scheduler::Counters;
use slotline_store::Standing;

use super::{Mark, Marks, Numbers};

/// Numbers of each kind that a leader may give by one mark. They are skipped only where the journal may have gone back.
/// With fewer than half of them left, the next mark is due.
pub(crate) const RESERVE: i64 = 20_000;
/// How far behind the commits the newest mark may be.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// How long a leader goes without a look at the marks of others: so long at most does the leader of a superseded copy lead on
/// that hears of nothing, since the workers follow the other.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The most copies of the journal that are remembered as superseded; the oldest is forgotten first.
const RETIRED_MAX: usize = 16;
/// The most marks that a leader leaves before it looks for those of others: few enough that the claim to another copy of the
/// journal is still in the queue then.
pub(crate) const UNLOOKED_MAX: u32 = topology::MARKS_MAX / 2 - 1;

/// The hand of one leader: what it writes into its marks, and what it may give by them.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    mark: Mark,
    /// See [`RESERVE`] and [`UNLOOKED_MAX`].
    reserve: i64,
    unlooked_max: u32,
    /// Covered by a confirmed mark of this leader.
    confirmed: Numbers,
    /// Covered by the marks of those before it.
    inherited: Numbers,
    /// A mark that raises the reserve is on its way.
    is_renewing: bool,
    /// Marks that were left since those of others were read.
    unlooked: u32,
}

impl Hand {
    /// For the leader of `epoch`, which may give nothing before its first mark is confirmed.
    pub(crate) fn new(
        standing: &Standing,
        epoch: Epoch,
        lease: Duration,
        marks: &Marks,
        reserve: i64,
        unlooked_max: u32,
    ) -> Self {
        let next = Numbers::from(standing.counters);
        let mut retired = marks.retired();
        if let Some(mark) = marks.newest()
            && mark.journal.identity == standing.lineage.identity
            && mark.site != standing.site
            && !retired.contains(&mark.site)
        {
            retired.push(mark.site.clone());
        }
        retired.retain(|site| *site != standing.site);
        retired.drain(..retired.len().saturating_sub(RETIRED_MAX));
        let lease = lease.max(marks.lease());
        let mark = Mark {
            journal: standing.lineage,
            epoch,
            batch: 0,
            next,
            reserved: next,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            site: standing.site.clone(),
            life: standing.life.clone(),
            log: standing.log,
            retired,
            is_last: false,
        };
        let inherited = marks.reserved().into();
        Self { mark, reserve, unlooked_max, confirmed: next, inherited, is_renewing: false, unlooked: 0 }
    }

    /// What may be given by now.
    pub(crate) fn confirmed(&self) -> Counters {
        self.confirmed.into()
    }

    /// Notes what is committed.
    pub(crate) fn committed(&mut self, batch: i64, next: Counters) {
        self.mark.batch = batch;
        self.mark.next = next.into();
    }

    pub(crate) fn batch(&self) -> i64 {
        self.mark.batch
    }

    /// Whether it may leave another mark without a look at those of others, which its own would push out of the queue.
    pub(crate) fn may_leave(&self) -> bool {
        self.unlooked < self.unlooked_max
    }

    /// The mark of a whole reserve above `next`, if one is due and none is on its way. It is left with a look at the others.
    pub(crate) fn renewal(&mut self, next: Counters) -> Option<Mark> {
        let given = Numbers::from(next);
        let left = |of: fn(Numbers) -> i64| of(self.confirmed) - of(given);
        let least = left(|of| of.execution).min(left(|of| of.fence)).min(left(|of| of.action));
        let is_due = least < self.reserve / 2 || !self.may_leave();
        if is_due { self.look(next) } else { None }
    }

    /// The same although none is due: for the look at the others.
    pub(crate) fn look(&mut self, next: Counters) -> Option<Mark> {
        (!self.is_renewing).then(|| self.first(next))
    }

    /// The same for a new session, whatever is left.
    pub(crate) fn first(&mut self, next: Counters) -> Mark {
        self.is_renewing = true;
        let next = Numbers::from(next);
        let above = |number: i64, inherited: i64| number.saturating_add(self.reserve).max(inherited);
        self.mark.reserved = Numbers {
            execution: above(next.execution, self.inherited.execution),
            fence: above(next.fence, self.inherited.fence),
            action: above(next.action, self.inherited.action),
        };
        self.mark.clone()
    }

    /// The broker has a mark with this reserve, or did not take it.
    pub(crate) fn renewed(&mut self, reserved: Option<Counters>) {
        self.is_renewing = false;
        if let Some(reserved) = reserved {
            self.confirmed = reserved.into();
            self.unlooked = 1;
        }
    }

    /// The queue of the marks is empty: there is none that another one would push out.
    pub(crate) fn found_nothing(&mut self) {
        self.unlooked = 0;
    }

    /// How far it has come, within what is reserved; nothing waits for its confirm.
    pub(crate) fn progress(&mut self, is_last: bool) -> Mark {
        self.unlooked += 1;
        Mark { is_last, ..self.mark.clone() }
    }

    /// Of a leader in doubt, which gives nothing: this copy of the journal is led on, and others are not to be.
    pub(crate) fn claim(&self) -> Mark {
        Mark { reserved: self.inherited, ..self.mark.clone() }
    }

    /// The mark of a journal that was settled with these numbers, as this generation.
    pub(crate) fn settled(&self, generation: u64, next: Counters) -> Mark {
        let journal = Lineage { generation, ..self.mark.journal };
        Mark { journal, next: next.into(), reserved: next.into(), ..self.mark.clone() }
    }
}
