//! A failure made small: what is not needed to break the same rule is left out, and of the trace only what matters is
//! shown.

use crate::checker::{Rule, Violation};
use crate::clock::Micros;
use crate::faults::Rates;
use crate::plan::Plan;
use crate::world::{Outcome, World};

/// The most steps of a trace that are shown.
pub(crate) const TRACE_SHOWN_MAX: usize = 50;
/// The most runs that shrinking may cost.
const RUNS_MAX: u32 = 3_000;

/// A plan that breaks a rule, and how.
pub(crate) struct Failure {
    pub(crate) plan: Plan,
    pub(crate) outcome: Outcome,
}

struct Shrinker {
    rule: Rule,
    plan: Plan,
    runs: u32,
}

/// Makes `plan`, which breaks `rule`, as small as it gets.
pub(crate) fn shrink(plan: Plan, rule: Rule) -> Failure {
    let mut shrinker = Shrinker { rule, plan, runs: 0 };
    while shrinker.pass() {}
    let outcome = World::new(shrinker.plan.clone(), true).run();
    Failure { plan: shrinker.plan, outcome }
}

impl Shrinker {
    /// Tries every way once. Whether one was of use.
    fn pass(&mut self) -> bool {
        let mut is_smaller = false;
        is_smaller |= self.drop_each(|plan| &mut plan.faults);
        is_smaller |= self.drop_each(|plan| &mut plan.operations);
        for rate in RATES {
            let mut plan = self.plan.clone();
            *rate(&mut plan.rates) = 0;
            is_smaller |= plan.rates != self.plan.rates && self.holds(plan);
        }
        is_smaller |= self.drop_each(|plan| &mut plan.requests);
        for index in 0..self.plan.requests.len() {
            if self.plan.requests[index].cancel_at.is_some() {
                let mut plan = self.plan.clone();
                plan.requests[index].cancel_at = None;
                is_smaller |= self.holds(plan);
            }
        }
        while self.plan.executors.len() > 1 && self.try_with(|plan| plan.executors.truncate(plan.executors.len() - 1)) {
            is_smaller = true;
        }
        while self.plan.workers.len() > 1 && self.try_with(|plan| plan.workers.truncate(plan.workers.len() - 1)) {
            is_smaller = true;
        }
        is_smaller
    }

    fn try_with(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.plan.clone();
        change(&mut plan);
        self.holds(plan)
    }

    /// Leaves out halves, quarters and single members of a list, as long as the rule is still broken.
    fn drop_each<T>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) -> bool {
        let mut is_smaller = false;
        let mut size = list(&mut self.plan).len().max(1);
        while size > 0 {
            let mut start = 0;
            while start < list(&mut self.plan).len() {
                let mut plan = self.plan.clone();
                let members = list(&mut plan);
                let end = (start + size).min(members.len());
                members.drain(start..end);
                if self.holds(plan) {
                    is_smaller = true;
                } else {
                    start += size;
                }
            }
            size /= 2;
        }
        is_smaller
    }

    /// Takes `plan` if it breaks the same rule.
    fn holds(&mut self, mut plan: Plan) -> bool {
        if self.runs >= RUNS_MAX || plan.faults.iter().any(|fault| !fault.blow.has_target(&plan)) {
            return false;
        }
        self.runs += 1;
        plan.requests.iter_mut().for_each(|request| request.at = request.at.min(plan.calm_at));
        let outcome = World::new(plan.clone(), false).run();
        let holds = outcome.violation.is_some_and(|violation| violation.rule == self.rule);
        if holds {
            self.plan = plan;
        }
        holds
    }
}

type Rate = fn(&mut Rates) -> &mut u32;
const RATES: [Rate; 10] = [
    |rates| &mut rates.dropped,
    |rates| &mut rates.duplicated,
    |rates| &mut rates.delayed,
    |rates| &mut rates.commit_refused,
    |rates| &mut rates.commit_unknown,
    |rates| &mut rates.commit_slow,
    |rates| &mut rates.crash_between,
    |rates| &mut rates.freeze_between,
    |rates| &mut rates.spawn_fails,
    |rates| &mut rates.is_short,
];

/// The steps that matter: every blow, and what is about the execution that broke the rule; the last of them.
pub(crate) fn essence(trace: &[(Micros, String)], violation: &Violation) -> Vec<String> {
    let id = violation.execution.map(|id| id.0);
    let matters = |line: &&(Micros, String)| {
        let line = &line.1;
        let is_about = id.is_some_and(|id| {
            [format!("ExecutionId({id})"), format!(" {id}/"), format!("({id}, ")].iter().any(|name| line.contains(name))
        });
        let is_noise = line.contains("heartbeat of") && !is_about;
        line.starts_with("!!")
            || is_about
            || (id.is_none() && !is_noise)
            || line.contains("leads")
            || line.contains(" as w")
            || line.contains("is over")
            || line.contains("Incarnation")
    };
    let lines: Vec<_> = trace.iter().filter(matters).collect();
    let skipped = lines.len().saturating_sub(TRACE_SHOWN_MAX);
    lines[skipped..].iter().map(|(at, line)| format!("{:>10.3} s  {line}", *at as f64 / 1e6)).collect()
}
