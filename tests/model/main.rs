//! Every order in which things can happen, in worlds small enough: lease, fence, dispatch and leadership.
//!
//! The production scheduler and the production duty book, searched breadth-first, where `tests/simulation` plays them by
//! chance in a larger world. What stands around them is as small as it can be and still does what brokers, journals,
//! networks and processes do to these two. A broken rule is told as the shortest way to it.
//!
//! `STATES=all` searches what is promised: every state of the small worlds, and a million of the large one. It is meant
//! for a build that is optimized. Without it every search ends after a few thousand states.

mod action;
mod choices;
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

/// States made by each search where nobody asks for all.
const STATES_QUICK: usize = 20_000;
/// States made of the large world: known ones among them, so that a million remain.
const STATES_LARGE: usize = 4_500_000;
/// What the large world must have at least, each counted once.
const UNIQUE_LARGE: usize = 1_000_000;

const NO_TROUBLES: Troubles = Troubles { crashes: 0, coups: 0, losses: 0, cuts: 0, stalls: 0 };

/// One worker, two executors, and nothing that goes wrong yet.
const SMALL: Scale = Scale {
    executors: 2,
    workers: 1,
    executions: 2,
    limit: 1,
    begins_at_work: false,
    horizon: 3,
    troubles: NO_TROUBLES,
    mistake: None,
};

const LARGE: Scale = Scale {
    executors: 2,
    workers: 2,
    executions: 3,
    limit: 1,
    begins_at_work: true,
    horizon: 4,
    troubles: Troubles { crashes: 2, coups: 1, losses: 1, cuts: 1, stalls: 2 },
    mistake: None,
};

fn is_thorough() -> bool {
    std::env::var("STATES").is_ok_and(|states| states == "all")
}

fn run(name: &str, scale: Scale, states_max: Option<usize>) -> Found {
    let found = search(scale, states_max);
    let end = if found.is_exhausted { "all there are" } else { "and there are more" };
    let Found { states, unique, depth, .. } = found;
    println!("{name}: {states} states, {unique} unique, {end}; depth {depth}, {:.1} s", found.took.as_secs_f64());
    for (name, steps) in &found.seen {
        println!("    after {steps} steps: {name}");
    }
    found
}

/// Searches a world in which every rule has to hold.
fn holds(name: &str, scale: Scale, states_max: Option<usize>) -> Found {
    let found = run(name, scale, states_max);
    if let Some((_, told)) = &found.broken {
        panic!("{name}: {told}");
    }
    found
}

fn small_worlds() -> Vec<(&'static str, Scale)> {
    vec![
        ("a crash", Scale { troubles: Troubles { crashes: 1, ..NO_TROUBLES }, ..SMALL }),
        ("a change of leadership", Scale { troubles: Troubles { coups: 1, ..NO_TROUBLES }, ..SMALL }),
    ]
}

#[test]
fn every_rule_holds_in_every_state_of_the_small_worlds() {
    let states_max = (!is_thorough()).then_some(STATES_QUICK);
    let mut seen = Vec::new();
    let mut all = Vec::new();
    for (name, scale) in small_worlds() {
        let found = holds(name, scale, states_max);
        assert!(found.is_exhausted || !is_thorough(), "{name}: not every state was searched");
        seen.extend(found.seen.iter().map(|(name, _)| *name));
        all = found.seen.into_iter().map(|(name, _)| name).chain(found.unseen).collect();
    }
    all.retain(|name| !seen.contains(name));
    assert!(all.is_empty() || !is_thorough(), "nowhere was it seen that {all:?}");
}

#[test]
fn every_rule_holds_in_a_million_states_of_the_large_world() {
    let states_max = if is_thorough() { STATES_LARGE } else { STATES_QUICK };
    let found = holds("the large world", LARGE, Some(states_max));
    assert!(found.unique >= UNIQUE_LARGE || !is_thorough(), "only {} states", found.unique);
}

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default)
}

#[test]
fn probe() {
    let scale = Scale {
        executors: env("E", 2),
        workers: env("W", 1),
        executions: env("X", 2) as u8,
        limit: env("L", 1) as u32,
        begins_at_work: env("BUSY", 0) > 0,
        horizon: env("H", 3) as u8,
        troubles: Troubles {
            crashes: env("CRASH", 0) as u8,
            coups: env("COUP", 0) as u8,
            losses: env("LOSS", 0) as u8,
            cuts: env("CUT", 0) as u8,
            stalls: env("STALL", 0) as u8,
        },
        mistake: match env("MISTAKE", 0) {
            1 => Some(Mistake::IgnoresTheEpoch),
            2 => Some(Mistake::SpeaksBeforeItCommits),
            3 => Some(Mistake::CountsSilenceByTheClock),
            4 => Some(Mistake::TakesAReturnForALoss),
            5 => Some(Mistake::IgnoresOrderNumbers),
            6 => Some(Mistake::FenceCountsFromTheConfirm),
            7 => Some(Mistake::TakesALateFirstConfirm),
            _ => None,
        },
    };
    let max = env("MAX", 20_000);
    let found = run("probe", scale, (max > 0).then_some(max));
    if let Some((_, told)) = found.broken {
        println!("{told}");
    }
}
