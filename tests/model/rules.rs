//! What must always hold, and what must be seen to happen now and then.

use crate::journal::Row;
use crate::world::{Scale, World};

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

/// Every rule but what must come about in the end.
pub(crate) fn all_hold(scale: &Scale, world: &World) -> bool {
    world.broken.is_none()
        && no_attempt_twice(world)
        && the_limit_holds(scale, world)
        && processes_within_leases(world)
        && leader_and_journal_agree(world)
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

pub(crate) fn two_leaders_coexist(world: &World) -> bool {
    world.executors.iter().filter(|executor| executor.term.is_some()).count() == 2
}

pub(crate) fn everything_is_settled(world: &World) -> bool {
    world.journal.live.is_empty()
}
