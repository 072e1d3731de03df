//! Every order in which things can happen, for a world small enough: lease, fence, dispatch and leadership.
//!
//! The production scheduler and the production duty book, exhaustively, where `tests/simulation` plays them by chance in
//! a larger world. What stands around them is as small as it can be and still do everything that brokers, journals,
//! networks and processes do to these two. A broken rule is told as the shortest way to it.

mod action;
mod completion;
mod executor;
mod journal;
mod mistake;
mod rules;
mod search;
mod shared;
mod time;
mod wire;
mod worker;
mod world;

use search::{Found, search};
use world::{Scale, Troubles};

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default)
}

fn tell(found: &Found) {
    println!(
        "{} states, {} unique, depth {}, {:.1} s",
        found.states,
        found.unique,
        found.depth,
        found.took.as_secs_f64()
    );
    for (name, steps) in &found.seen {
        println!("  seen after {steps} steps: {name}");
    }
    for name in &found.unseen {
        println!("  never seen: {name}");
    }
    if let Some((_, told)) = &found.broken {
        println!("{told}");
    }
}

#[test]
fn probe() {
    let scale = Scale {
        executors: env("E", 2),
        workers: env("W", 1),
        executions: env("X", 2) as u8,
        limit: env("L", 1) as u32,
        slow: env("SLOW", 1) as u32,
        horizon: env("H", 3) as u8,
        troubles: Troubles {
            crashes: env("CRASH", 1) as u8,
            coups: env("COUP", 1) as u8,
            losses: env("LOSS", 0) as u8,
            cuts: env("CUT", 0) as u8,
        },
        mistake: None,
    };
    let max = env("MAX", 20_000);
    tell(&search(scale, (max > 0).then_some(max)));
}
