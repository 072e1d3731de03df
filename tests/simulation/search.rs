//! Many seeds on all cores, and what to say of one that fails.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::plan::{Mistake, Plan};
use crate::shrink::{essence, shrink};
use crate::world::World;

/// How a search went.
pub(crate) struct Search {
    pub(crate) seeds: u64,
    pub(crate) steps: u64,
    /// Virtual seconds.
    pub(crate) lived: u64,
    pub(crate) took: f64,
    /// The lowest seed that was found to fail.
    pub(crate) failed: Option<u64>,
}

/// Runs `count` seeds from `first` until one fails.
pub(crate) fn search(first: u64, count: u64) -> Search {
    search_among(count, &|index| Plan::of(first + index), first)
}

/// The same for a mistake, which blows of some kinds bring to light.
pub(crate) fn search_mistake(count: u64, mistake: Mistake, kinds: &[u64]) -> Search {
    search_among(count, &|seed| Plan { mistake: Some(mistake), ..Plan::among(seed, Some(kinds)) }, 0)
}

fn search_among(count: u64, plan: &(dyn Fn(u64) -> Plan + Sync), first: u64) -> Search {
    let began = Instant::now();
    let (next, steps, lived) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (failed, is_over) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let outcome = World::new(plan(index), false).run();
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    lived.fetch_add(outcome.took / 1_000_000, Ordering::Relaxed);
                    if outcome.violation.is_some() {
                        failed.fetch_min(first + index, Ordering::Relaxed);
                        is_over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Search {
        seeds: next.load(Ordering::Relaxed).min(count),
        steps: steps.load(Ordering::Relaxed),
        lived: lived.load(Ordering::Relaxed),
        took: began.elapsed().as_secs_f64(),
        failed: Some(failed.load(Ordering::Relaxed)).filter(|seed| *seed != u64::MAX),
    }
}

/// Everything that helps to understand why `seed` fails; `None` if it does not.
pub(crate) fn explain(seed: u64) -> Option<String> {
    let plan = Plan::of(seed);
    let violation = World::new(plan.clone(), false).run().violation?;
    let failure = shrink(plan, violation.rule);
    let shrunk = failure.outcome.violation.as_ref().unwrap_or(&violation);
    let plan = &failure.plan;
    let mut text = format!(
        "seed {seed} breaks {:?} at {:.3} s: {}\n  shrunk to {} executors, {} workers, {} requests, {} faults, {:?}: {}\n",
        violation.rule,
        violation.at as f64 / 1e6,
        violation.detail,
        plan.executors.len(),
        plan.workers.len(),
        plan.requests.len(),
        plan.faults.len(),
        plan.rates,
        shrunk.detail,
    );
    for action in &plan.actions {
        text.push_str(&format!("  {:?}\n", action.policy));
    }
    if std::env::var_os("TRACE").is_some() {
        for (at, line) in &failure.outcome.trace {
            text.push_str(&format!("{:>10.3} s  {line}\n", *at as f64 / 1e6));
        }
    }
    for line in essence(&failure.outcome.trace, shrunk) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&format!("replay it with SEED={seed} cargo sim\n"));
    Some(text)
}
