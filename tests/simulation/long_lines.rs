//! Lines that are long and fast, in some of the plans: hundreds of executions of a moment's length in a line with one
//! slot, so that the scheduler sends many of them ahead, and people who change that line in the middle of it.

use slotline_protocol::policy::Policy;

use crate::chance::Chance;
use crate::clock::{MS, Micros, SECOND};
use crate::plan::{Operation, Plan, RequestPlan};

/// The longest run of most attempts.
const SHORT_MAX: Micros = 3 * MS;
/// Of a hundred attempts so many run for longer, and may fail.
const OTHERS: u64 = 2;

/// Adds one to the plan of `seed`, if that is to have one.
pub(crate) fn add(plan: &mut Plan, seed: u64, within: Micros) {
    let mut chance = Chance::of(seed, 4);
    if !chance.percent(4) {
        return;
    }
    let action = chance.index(plan.actions.len());
    let (run_ahead, has_keys) = (chance.pick(&[None, None, None, Some(40)]), chance.percent(30));
    let lines = |policy: &Policy| Policy {
        limit: Some(1),
        key_limit: has_keys.then_some(1),
        run_ahead,
        max_queue_length: None,
        ..policy.clone()
    };
    let policy = &mut plan.actions[action].policy;
    *policy = lines(policy);
    let mut at = chance.below(within);
    let number = plan.requests.len();
    let count = usize::try_from(chance.spread(40, 160)).unwrap_or(40);
    plan.requests.extend((number..number + count).map(|number| {
        at += if chance.percent(95) { chance.below(2 * MS) } else { chance.below(SECOND) };
        RequestPlan {
            id: format!("r{number}").into(),
            number,
            at,
            action,
            key: (has_keys && chance.percent(10)).then(|| chance.pick(&["a", "b"]).into()),
            cancel_at: chance.percent(1).then(|| at + chance.spread(MS, 2 * SECOND)),
            runs_for: (!chance.percent(OTHERS)).then(|| chance.spread(50, SHORT_MAX)),
        }
    }));
    change(plan, action, at, &lines, &mut chance);
}

/// A pause or another limit while the line moves; in the end it is open.
fn change(plan: &mut Plan, action: usize, began: Micros, lines: &dyn Fn(&Policy) -> Policy, chance: &mut Chance) {
    for operation in plan.operations.iter_mut().filter(|operation| operation.action == action) {
        operation.policy = lines(&operation.policy);
    }
    if !chance.percent(60) {
        return;
    }
    let mut at = began + chance.spread(MS, 2 * SECOND);
    let before = plan.actions[action].policy.clone();
    for _ in 0..chance.between(1, 3) {
        let paused = chance.percent(50);
        let policy = Policy { limit: chance.pick(&[Some(1), Some(1), Some(2)]), ..before.clone() };
        plan.operations.push(Operation { at, action, policy, paused });
        at += chance.spread(MS, SECOND);
        plan.operations.push(Operation { at, action, policy: before.clone(), paused: false });
        at += chance.spread(MS, SECOND);
    }
    plan.operations.sort_by_key(|operation| operation.at);
}
