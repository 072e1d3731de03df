//! Every order in which things can happen, in worlds small enough: lease, fence, dispatch and leadership.
//!
//! The production scheduler, and the production driver and duty book of a worker, searched to the last state, where `tests/simulation` plays them
//! by chance in a larger world. What stands around them is as small as it can be and still does what brokers, journals,
//! networks and processes do to these two. A broken rule is told as the way to it.
//!
//! The small worlds know every order of every step. The large ones have everybody act in turn, and let anything go wrong
//! between any two steps (`choices`). Not here: what has no part in who may run what, see `wire`.

mod action;
mod choices;
mod codec;
mod completion;
mod executor;
mod journal;
mod mistake;
mod rules;
mod search;
mod shared;
mod steps;
mod time;
mod wire;
mod words;
mod worker;
mod world;

use mistake::Mistake;
use search::{Found, search};
use world::{Scale, Troubles};

const NO_TROUBLES: Troubles = Troubles { crashes: 0, coups: 0, losses: 0, cuts: 0, stalls: 0 };

/// Two executors and one worker that have just started, and every order of whatever they do.
const SMALL: Scale = Scale {
    executors: 2,
    workers: 1,
    executions: 2,
    limit: 1,
    begins_at_work: false,
    detours: None,
    horizon: 3,
    troubles: NO_TROUBLES,
    mistake: None,
};

/// Two executors and two workers with the first of three executions running.
const LARGE: Scale = Scale { workers: 2, executions: 3, begins_at_work: true, detours: Some(0), ..SMALL };

/// What the large world with two crashes must have at least.
const UNIQUE_MIN: usize = 1_000_000;

fn run(name: &str, scale: Scale) -> Found {
    let found = search(scale);
    let end = if found.broken.is_none() { "all there are" } else { "and there are more" };
    let Found { states, unique, depth, .. } = found;
    println!("{name}: {states} states, {unique} unique, {end}; depth {depth}, {:.1} s", found.took.as_secs_f64());
    for (name, steps) in &found.seen {
        println!("    after {steps} steps: {name}");
    }
    found
}

/// Searches a world to its end, in which every rule has to hold.
fn holds(name: &str, scale: Scale) -> Found {
    let found = run(name, scale);
    if let Some((_, told)) = &found.broken {
        panic!("{name}: {told}");
    }
    found
}

/// A search that does not come to the interesting places shows nothing.
fn assert_seen(worlds: &[Found], elsewhere: &[&str]) {
    let is_seen = |name| worlds.iter().any(|found| found.seen.iter().any(|(seen, _)| *seen == name));
    let unseen =
        worlds.iter().flat_map(|found| &found.unseen).filter(|name| !is_seen(**name) && !elsewhere.contains(name));
    let unseen: Vec<_> = unseen.collect();
    assert!(unseen.is_empty(), "nowhere was it seen that {unseen:?}");
}

/// Searches a world where something is done wrong, and sees that this rule does not hold there.
fn finds(mistake: Mistake, scale: Scale, rule: &str) {
    let found = run(&format!("{mistake:?}"), Scale { mistake: Some(mistake), ..scale });
    let (broken, told) = found.broken.unwrap_or_else(|| panic!("{mistake:?} was not found"));
    println!("{told}");
    assert_eq!(broken, rule, "what is broken where {mistake:?}");
}

#[test]
fn every_rule_holds_in_every_state_of_the_small_worlds() {
    let worlds = [
        holds("any order, a crash", Scale { troubles: Troubles { crashes: 1, ..NO_TROUBLES }, ..SMALL }),
        holds("any order, a change of leadership", Scale { troubles: Troubles { coups: 1, ..NO_TROUBLES }, ..SMALL }),
        holds("any order, a stall", Scale { executions: 1, troubles: Troubles { stalls: 1, ..NO_TROUBLES }, ..SMALL }),
    ];
    // That takes a leader that is cut off while another takes over.
    assert_seen(&worlds, &[rules::DEPOSED_IN_MID_DISPATCH]);
}

#[test]
fn every_rule_holds_with_two_crashes_at_any_moment() {
    let troubles = Troubles { crashes: 2, ..NO_TROUBLES };
    let found = holds("in turn, two crashes", Scale { horizon: 5, troubles, ..LARGE });
    assert!(found.unique >= UNIQUE_MIN, "only {} states", found.unique);
}

#[test]
fn every_rule_holds_with_any_trouble_at_any_moment() {
    let large = |troubles| Scale { troubles, ..LARGE };
    let worlds = [
        holds("in turn, a change of leadership and a stall", large(Troubles { coups: 1, stalls: 1, ..NO_TROUBLES })),
        holds("in turn, a crash and a lost message", large(Troubles { crashes: 1, losses: 1, ..NO_TROUBLES })),
        holds("in turn, a crash and a lost session", large(Troubles { crashes: 1, cuts: 1, ..NO_TROUBLES })),
        holds("once out of turn, a crash", {
            Scale { detours: Some(1), horizon: 4, ..large(Troubles { crashes: 1, ..NO_TROUBLES }) }
        }),
    ];
    assert_seen(&worlds, &[]);
}

#[test]
fn whatever_is_done_wrong_is_found() {
    let crash = Scale { troubles: Troubles { crashes: 1, ..NO_TROUBLES }, ..SMALL };
    let coup = Scale { troubles: Troubles { coups: 1, ..NO_TROUBLES }, ..SMALL };
    let stall = Scale { troubles: Troubles { stalls: 1, ..NO_TROUBLES }, detours: Some(0), ..SMALL };
    let stalled_coup = Scale {
        executions: 1,
        horizon: 4,
        troubles: Troubles { coups: 1, stalls: 1, ..NO_TROUBLES },
        detours: Some(0),
        ..SMALL
    };
    finds(Mistake::IgnoresTheEpoch, coup, rules::ONE_WRITES);
    finds(Mistake::SpeaksBeforeItCommits, crash, rules::COMMITTED);
    finds(Mistake::ForgetsLeases, crash, rules::BELIEVED);
    finds(Mistake::CountsSilenceByTheClock, stall, rules::LEASED);
    finds(Mistake::TakesAReturnForALoss, crash, rules::LEASED);
    finds(Mistake::IgnoresOrderNumbers, stalled_coup, rules::ONCE);
    finds(Mistake::KeepsNoFence, stall, rules::LEASED);
}
