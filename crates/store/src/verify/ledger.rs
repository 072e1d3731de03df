//! How the rows of the journal must agree with each other.

use super::facts::{Facts, Ledger, RecordRange};
use super::{Check, JournalVerdict};

/// One end each, and a slot where one is due.
pub(super) fn ends(verdict: &mut JournalVerdict, facts: &Facts) {
    let settled = facts.grants.iter().filter(|grant| grant.ended_at.is_some()).count();
    verdict.examine(Check::Ends, settled);
    for id in &facts.both {
        verdict.accuse(Check::Ends, || format!("execution {id} has settled and lives"));
    }
    for id in &facts.endless {
        verdict.accuse(Check::Ends, || format!("execution {id} has settled without a terminal status"));
    }
    verdict.examine(Check::Slots, facts.grants.len() - settled);
    for id in &facts.unfit {
        verdict.accuse(Check::Slots, || format!("execution {id} is out without a slot, or waits with one"));
    }
}

pub(super) fn records(verdict: &mut JournalVerdict, facts: &Facts) {
    verdict.examine(Check::Records, facts.records.len());
    for record in &facts.records {
        if let Some(wrong) = wrong(record) {
            verdict.accuse(Check::Records, || format!("the record of execution {} {wrong}", record.execution));
        }
    }
    for id in &facts.orphans {
        verdict.accuse(Check::Records, || format!("execution {id} has events, and nothing says how far they go"));
    }
    for id in &facts.untold {
        verdict.accuse(Check::Records, || format!("execution {id} was tried more than once, and has no record of it"));
    }
}

fn wrong(record: &RecordRange) -> Option<String> {
    let RecordRange { first, last, awaits, written, lowest, highest, .. } = *record;
    let Some(is_over) = record.is_over else { return Some("is of no execution".to_owned()) };
    // The event that settles it follows from its row and is not written.
    let end = if is_over && awaits.is_none() { last - 1 } else { last };
    if first < 1 || first > end + 1 {
        return Some(format!("goes from event {first} to {last}"));
    }
    let due = end - first + 1;
    match (lowest, highest) {
        (None, None) if due == 0 => None,
        (Some(lowest), Some(highest)) if (lowest, highest, written) == (first, end, due) => None,
        (Some(lowest), Some(highest)) => {
            Some(format!("should have events {first} to {end}, and has {written} from {lowest} to {highest}"))
        }
        (None, _) | (_, None) => Some(format!("should have events {first} to {end}, and has none")),
    }
}

/// The totals, and the counters.
pub(super) fn sums(verdict: &mut JournalVerdict, facts: &Facts) {
    verdict.examine(Check::Totals, facts.totals.len());
    for total in &facts.totals {
        let lost = total.enqueued - total.completed - total.living;
        if lost != 0 {
            let name = facts.actions.iter().find(|action| action.action_id == total.action);
            let name = name.map_or_else(|| format!("action {}", total.action), |action| action.action_ref.to_string());
            let (enqueued, completed, living) = (total.enqueued, total.completed, total.living);
            verdict.accuse(Check::Totals, || {
                format!("{name}: {enqueued} were taken, {completed} settled and {living} live, which leaves {lost}")
            });
        }
    }
    let Ledger { epoch, batch, next_id, next_fence, next_action, highest_id, highest_place, highest_action } =
        facts.ledger;
    let highest_fence = facts.grants.iter().filter_map(|grant| grant.fence).max().map_or(0, |fence| fence.0);
    for (name, next, highest) in [
        ("id", next_id, highest_id),
        ("place", next_id, highest_place),
        ("fence", next_fence, highest_fence),
        ("action", next_action, highest_action),
    ] {
        verdict.examine(Check::Counters, 1);
        if next <= highest {
            verdict.accuse(Check::Counters, || format!("the next {name} is {next}, but {highest} was given away"));
        }
    }
    verdict.examine(Check::Counters, 2);
    if epoch < 1 && highest_id > 0 {
        verdict.accuse(Check::Counters, || format!("there are executions under epoch {epoch}, in which nobody led"));
    }
    if batch < 0 {
        verdict.accuse(Check::Counters, || format!("the last batch is number {batch}"));
    }
}
