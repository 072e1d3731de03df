//! What must always hold, and what must be seen to happen now and then.

use slotline_protocol::Incarnation;

use crate::executor::Letter;
use crate::journal::Row;
use crate::wire::Order;
use crate::worker::Stage;
use crate::world::{Scale, World};

pub(crate) const LIMIT: &str = "never more run than the limit";
pub(crate) const LEASED: &str = "whatever runs has its lease, a live incarnation and a fence";
pub(crate) const ONCE: &str = "no attempt starts twice";
pub(crate) const SETTLED_ONCE: &str = "every execution settles at most once";
pub(crate) const IN_ORDER: &str = "slots are granted in order";
pub(crate) const ONE_WRITES: &str = "only the leader writes";
pub(crate) const COMMITTED: &str = "nothing is said before it is committed";
pub(crate) const BELIEVED: &str = "the leader believes what the journal has";
pub(crate) const ENDS_WELL: &str = "everything settles once nothing goes wrong any more";
pub(crate) const SETTLES: &str = "everything settles";
pub(crate) const DEPOSED_IN_MID_DISPATCH: &str = "a leader is deposed with an effect in flight";

/// A rule that a single step can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    OnlyTheLeaderWrites,
    SettledOnce,
    GrantsInOrder,
    NoAttemptTwice,
}

pub(crate) fn only_the_leader_writes(world: &World) -> bool {
    world.broken != Some(Rule::OnlyTheLeaderWrites)
}

pub(crate) fn settled_once(world: &World) -> bool {
    world.broken != Some(Rule::SettledOnce)
}

pub(crate) fn grants_in_order(world: &World) -> bool {
    world.broken != Some(Rule::GrantsInOrder)
}

pub(crate) fn no_attempt_twice(world: &World) -> bool {
    let mut begun = world.workers.iter().flat_map(|worker| worker.begun()).collect::<Vec<_>>();
    begun.sort_unstable();
    world.broken != Some(Rule::NoAttemptTwice) && begun.windows(2).all(|pair| pair[0] != pair[1])
}

/// No more processes run, and no more leases are in the journal, than there are slots.
pub(crate) fn the_limit_holds(scale: &Scale, world: &World) -> bool {
    let limit = scale.limit as usize;
    world.running().count() <= limit && world.journal.leases() <= limit
}

/// Whatever runs has its lease in the journal, under an incarnation that lives and a fence that has not fallen.
pub(crate) fn processes_within_leases(world: &World) -> bool {
    world.running().all(|(fence, process)| {
        world.now < process.deadline
            && !world.journal.ended.contains(&process.incarnation)
            && world.lease(process.key) == Some((fence, process.incarnation))
    })
}

/// What a leader without a commit under way believes is what the journal has.
pub(crate) fn leader_and_journal_agree(world: &World) -> bool {
    let terms = world.executors.iter().filter_map(|executor| executor.term.as_ref());
    terms.filter(|term| term.epoch == world.journal.epoch && term.flight.is_none()).all(|term| {
        let scheduler = &term.machine.0;
        world.journal.live.iter().all(|(id, Row(snapshot))| scheduler.snapshot(*id).as_ref() == Some(snapshot))
            && world.journal.settled.iter().all(|id| scheduler.status(*id).is_none())
    })
}

/// What orders say is in the journal by the time they leave: the grant of an attempt, its end, the end of an incarnation.
pub(crate) fn nothing_is_said_before_its_commit(world: &World) -> bool {
    let is_committed = |to: Incarnation, order: &Order| match order {
        Order::Dispatch { fence, .. } => fence.0 < world.journal.counters.next_fence,
        Order::Recorded { attempts, .. } => attempts.iter().all(|key| world.lease(*key).is_none()),
        Order::Hint { .. } => true,
        Order::Hello { lost, .. } => !lost || world.journal.ended.contains(&to),
    };
    let mut leaving = world.executors.iter().flat_map(|executor| &executor.outgoing);
    let mut queued = world.workers.iter().flat_map(|worker| worker.orders.iter().map(|orders| (worker.name(), orders)));
    leaving.all(|letter| match &**letter {
        Letter::Orders(to, orders) => orders.iter().all(|order| is_committed(*to, order)),
        Letter::Hello(_) | Letter::Probe { .. } => true,
    }) && queued.all(|(to, orders)| orders.iter().all(|order| is_committed(to, order)))
}

/// The rule that does not hold here, but for what must come about in the end.
pub(crate) fn broken(scale: &Scale, world: &World) -> Option<&'static str> {
    let rules = [
        // What a single step broke first: it says more.
        (ONCE, no_attempt_twice(world)),
        (LIMIT, the_limit_holds(scale, world)),
        (LEASED, processes_within_leases(world)),
        (SETTLED_ONCE, settled_once(world)),
        (IN_ORDER, grants_in_order(world)),
        (ONE_WRITES, only_the_leader_writes(world)),
        (COMMITTED, nothing_is_said_before_its_commit(world)),
        (BELIEVED, leader_and_journal_agree(world)),
    ];
    rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
}

// ---- what must be seen ----

pub(crate) fn a_loss_is_declared(world: &World) -> bool {
    world.remarkable.loss_by_silence
}

pub(crate) fn a_dispatch_is_sent_again(world: &World) -> bool {
    world.remarkable.resend
}

pub(crate) fn a_batch_is_refused(world: &World) -> bool {
    world.remarkable.refusal
}

/// A dispatch of a leader that was deposed meanwhile is still on its way to the broker.
pub(crate) fn deposed_with_an_effect_in_flight(world: &World) -> bool {
    let letters = world.executors.iter().flat_map(|executor| executor.outgoing.iter());
    letters.filter(|letter| letter.epoch() < world.journal.epoch).any(|letter| letter.is_dispatch())
}

/// A dispatch of a leader that was deposed reaches its worker.
pub(crate) fn a_late_dispatch_arrives(world: &World) -> bool {
    world.remarkable.stale_order
}

/// The process went on under a new name after its fence, and runs something.
pub(crate) fn a_worker_goes_on_under_a_new_name(world: &World) -> bool {
    world.workers.iter().any(|worker| worker.incarnations > worker.starts && worker.runs_something())
}

pub(crate) fn an_attempt_follows_one_that_was_lost(world: &World) -> bool {
    world.workers.iter().any(|worker| worker.begun().any(|(_, attempt)| attempt > 1))
}

pub(crate) fn an_attempt_outlives_its_worker(world: &World) -> bool {
    world.running().any(|(_, process)| process.stage == Stage::Orphan)
}

pub(crate) fn two_leaders_coexist(world: &World) -> bool {
    world.executors.iter().filter(|executor| executor.term.is_some()).count() == 2
}

pub(crate) fn everything_is_settled(world: &World) -> bool {
    world.journal.live.is_empty()
}
