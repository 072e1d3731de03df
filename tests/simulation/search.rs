//! Many seeds on all cores, and what to say of one that fails.

use std::fmt;
use std::io::Write;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::chains;
use crate::checker::Violation;
use crate::plan::{Mistake, Plan};
use crate::shrink::{essence, shrink};
use crate::world::{Outcome, World};

/// So many seeds lie between two lines of progress.
const PROGRESS_EVERY: u64 = 10_000;

/// How a search went.
pub(crate) struct Search {
    pub(crate) seeds: u64,
    pub(crate) steps: u64,
    /// Virtual seconds.
    pub(crate) lived: u64,
    pub(crate) took: f64,
    /// The lowest seed that was found to fail.
    pub(crate) failed: Option<Failed>,
}

/// A seed that breaks a rule, at this step of its run.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) seed: u64,
    pub(crate) step: u64,
    pub(crate) violation: Violation,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, violation: Violation { rule, at, detail, .. } } = self;
        write!(f, "seed {seed} breaks {rule:?} at step {step}, {:.3} s: {detail}", *at as f64 / 1e6)
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, steps, lived, took, failed: _ } = self;
        let (hours, per_second) = (lived / 3600, *seeds as f64 / took);
        write!(
            f,
            "{seeds} seeds, {steps} steps, {hours} virtual hours in {took:.1} s: {per_second:.0} seeds per second"
        )
    }
}

/// Runs `count` seeds from `first` until one fails.
pub(crate) fn search(first: u64, count: u64) -> Search {
    search_among(count, first, &|index, goes_on| {
        let seed = first + index;
        let outcome = World::new(Plan::of(seed), false).run_while(goes_on);
        match chains::play(seed).filter(|_| outcome.violation.is_none()) {
            Some((violation, trace)) => Outcome { violation: Some(violation), steps: trace.len() as u64, ..outcome },
            None => outcome,
        }
    })
}

/// The same for a mistake, which blows of some kinds bring to light.
pub(crate) fn search_mistake(count: u64, mistake: Mistake, kinds: &[u64]) -> Search {
    search_among(count, 0, &|seed, goes_on| {
        World::new(Plan { mistake: Some(mistake), ..Plan::among(seed, Some(kinds)) }, false).run_while(goes_on)
    })
}

/// Whether the search goes on: it stops once one world has failed.
type GoesOn<'a> = &'a dyn Fn() -> bool;

fn search_among(count: u64, first: u64, run: &(dyn Fn(u64, GoesOn<'_>) -> Outcome + Sync)) -> Search {
    let began = Instant::now();
    let (next, steps, lived) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let failed: Mutex<Option<Failed>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    if index > 0 && index.is_multiple_of(PROGRESS_EVERY) {
                        say(&format!("{index} seeds in {:.0} s", began.elapsed().as_secs_f64()));
                    }
                    let outcome = run(index, &|| !is_over.load(Ordering::Relaxed));
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    lived.fetch_add(outcome.took / 1_000_000, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        is_over.store(true, Ordering::Relaxed);
                        let seed = first + index;
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        if failed.as_ref().is_none_or(|other| seed < other.seed) {
                            *failed = Some(Failed { seed, step: outcome.steps, violation });
                        }
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
        failed: failed.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

/// Tells people, also where the output of tests is kept back until one fails: minutes of silence look like a hang.
pub(crate) fn say(line: &str) {
    // Nobody to tell it to is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Everything that helps to understand why `seed` fails; `None` if it does not.
pub(crate) fn explain(seed: u64) -> Option<String> {
    let plan = Plan::of(seed);
    let outcome = World::new(plan.clone(), false).run();
    let Some(violation) = outcome.violation else {
        let (violation, trace) = chains::play(seed)?;
        return Some(format!("{}\n{}", Failed { seed, step: trace.len() as u64, violation }, trace.join("\n")));
    };
    let step = outcome.steps;
    let failure = shrink(plan, violation.rule);
    let shrunk = failure.outcome.violation.as_ref().unwrap_or(&violation);
    let plan = &failure.plan;
    let mut text = format!(
        "{}\n  shrunk to {} executors, {} workers, {} requests, {} faults, {:?}: {}\n",
        Failed { seed, step, violation: violation.clone() },
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
