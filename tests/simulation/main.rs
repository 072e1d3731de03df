//! The production scheduler, the leader with its marks of the journal, and the worker's driver with its duty book, in a
//! hostile, deterministic world: one seed, virtual time.
//!
//! `SEED=n cargo sim` runs one seed and shows what happened; `SEEDS=n` runs that many, `FIRST=n` those from there on. A failure prints its seed and a
//! trace that was made as short as it gets. The pure machines are the real ones, and so is the encoder of messages in some of
//! the worlds (`codec`); everything around them is a model of the daemons and servers, each file of which names what it
//! stands for.
//! Not here: real servers and processes (`tests/system`). The checker is for them as well.

mod broker;
mod chains;
mod chance;
mod checker;
mod clock;
mod codec;
mod executor;
mod faults;
mod history;
mod journal;
mod liar;
mod long_lines;
mod mail;
mod mistakes;
mod plan;
mod process;
mod publisher;
mod rules;
mod scenarios;
mod seal;
mod search;
mod shrink;
mod stage;
mod term;
mod wire;
mod worker;
mod world;

use plan::Plan;
use search::{explain, say, search};
use world::World;

/// Seeds that are run where nobody says how many: as many as two cores run in some minutes.
const SEEDS: u64 = 100_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

#[test]
fn whatever_goes_wrong_every_rule_holds() {
    if let Some(seed) = number("SEED") {
        let report = explain(seed);
        println!("{}", report.as_deref().unwrap_or("every rule holds"));
        assert!(report.is_none(), "a rule does not hold");
        return;
    }
    let found = search(number("FIRST").unwrap_or(0), number("SEEDS").unwrap_or(SEEDS));
    say(&found.to_string());
    if let Some(failed) = found.failed {
        // At once, for whoever does not wait for the shortest trace.
        say(&failed.to_string());
        assert!(std::env::var_os("BRIEF").is_none(), "a rule does not hold");
        panic!("{}", explain(failed.seed).unwrap_or_else(|| format!("seed {} fails only once", failed.seed)));
    }
}

#[test]
fn without_faults_everything_completes() {
    let outcome = World::new(Plan::calm(1, 1, 5), false).run();
    assert_eq!(outcome.violation, None);
}
