//! Whether the promises were kept, judged by the journal alone: order of grants, limits, one end each.
//!
//! Starts and ends are the workers' stamps, so on several hosts the judgement is as good as their clocks. Limits are
//! those of today's policy. An attempt that was handed back leaves no trace but a later fence; after one, the order of
//! fences may differ from the order of the line.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::{ActionId, ExecutionId, Fence, Timestamp, http};

/// The most violations that are spelt out.
pub const VIOLATIONS_MAX: usize = 100;

/// What was looked at, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub executions: u64,
    /// Attempts that were granted a slot.
    pub attempts: u64,
    /// One sentence each, at most [`VIOLATIONS_MAX`].
    pub violations: Vec<String>,
}

impl Verdict {
    fn accuse(&mut self, violation: impl FnOnce() -> String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation());
        }
    }
}

/// One attempt, or an execution that has none out.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) execution: ExecutionId,
    pub(crate) action: ActionId,
    pub(crate) key: Option<String>,
    pub(crate) attempt: u32,
    /// `None`: no slot is held.
    pub(crate) fence: Option<Fence>,
    pub(crate) started_at: Option<Timestamp>,
    /// `None`: still out.
    pub(crate) ended_at: Option<Timestamp>,
}

/// Judges all attempts of some executions, in any order. `both` are executions that live although they have settled,
/// `endless` are settled ones without a terminal status.
pub(crate) fn judge(actions: &[http::Action], grants: Vec<Grant>, both: &[i64], endless: &[i64]) -> Verdict {
    let mut verdict = Verdict::default();
    for id in both {
        verdict.accuse(|| format!("execution {id} has settled and lives"));
    }
    for id in endless {
        verdict.accuse(|| format!("execution {id} has settled without a terminal status"));
    }
    let executions: BTreeSet<ExecutionId> = grants.iter().map(|grant| grant.execution).collect();
    verdict.executions = executions.len() as u64;
    verdict.attempts = grants.iter().filter(|grant| grant.fence.is_some()).count() as u64;

    let mut lines: BTreeMap<ActionId, Vec<Grant>> = BTreeMap::new();
    for grant in grants {
        lines.entry(grant.action).or_default().push(grant);
    }
    for (id, grants) in lines {
        let action = actions.iter().find(|action| action.action_id == id);
        let name = action.map_or_else(|| format!("deleted action {id}"), |action| action.action_ref.to_string());
        let (limit, key_limit) = action.map_or((None, None), |action| (action.policy.limit, action.policy.key_limit));
        repeated_starts(&mut verdict, &name, &grants);
        overlap(&mut verdict, &name, limit, &grants);
        if key_limit.is_none() {
            order(&mut verdict, &name, &grants);
            continue;
        }
        // What has no key has a line of its own; only the limit of the action holds for it.
        let mut keys: BTreeMap<Option<String>, Vec<Grant>> = BTreeMap::new();
        for grant in grants {
            keys.entry(grant.key.clone()).or_default().push(grant);
        }
        for (key, grants) in keys {
            let line = key.as_ref().map_or_else(|| name.clone(), |key| format!("{name} [{key}]"));
            overlap(&mut verdict, &line, key_limit.filter(|_| key.is_some()), &grants);
            order(&mut verdict, &line, &grants);
        }
    }
    verdict
}

/// No attempt number may be granted under two fences and start under both.
fn repeated_starts(verdict: &mut Verdict, name: &str, grants: &[Grant]) {
    let mut started = BTreeSet::new();
    for grant in grants.iter().filter(|grant| grant.started_at.is_some()) {
        if !started.insert((grant.execution, grant.attempt)) {
            verdict
                .accuse(|| format!("{name}: attempt {} of execution {} started twice", grant.attempt, grant.execution));
        }
    }
}

/// First attempts get their slots in the order of the line, which is the order of ids.
fn order(verdict: &mut Verdict, line: &str, grants: &[Grant]) {
    let mut first: Vec<(Fence, ExecutionId)> = grants
        .iter()
        .filter(|grant| grant.attempt == 1)
        .filter_map(|grant| Some((grant.fence?, grant.execution)))
        .collect();
    first.sort_unstable();
    for pair in first.windows(2) {
        if let [(_, before), (_, after)] = pair
            && before > after
        {
            verdict.accuse(|| format!("{line}: execution {before} got its slot before {after}, which was ahead of it"));
        }
    }
}

/// Sweeps over starts and ends; at no moment may more than `limit` run.
fn overlap(verdict: &mut Verdict, line: &str, limit: Option<u32>, grants: &[Grant]) {
    let Some(limit) = limit else {
        return;
    };
    // An end sorts before a start of the same microsecond: a hand-over is no overlap.
    let mut turns: Vec<(Timestamp, i64, ExecutionId)> = Vec::new();
    for grant in grants {
        if let Some(started_at) = grant.started_at {
            turns.push((started_at, 1, grant.execution));
            if let Some(ended_at) = grant.ended_at {
                turns.push((ended_at.max(started_at), -1, grant.execution));
            }
        }
    }
    turns.sort_unstable();
    let mut running = 0;
    for (at, change, execution) in turns {
        running += change;
        if change > 0 && running > i64::from(limit) {
            verdict
                .accuse(|| format!("{line}: {running} ran at {at} when execution {execution} started, limit {limit}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::{ActionRef, Policy};

    use super::*;

    fn action(limit: Option<u32>, key_limit: Option<u32>) -> http::Action {
        http::Action {
            action_id: ActionId(1),
            action_ref: ActionRef::new("demo.line").expect("valid"),
            paused: false,
            policy: Policy { limit, key_limit, ..Policy::default() },
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }

    fn ran(execution: i64, fence: i64, started: i64, ended: i64) -> Grant {
        Grant {
            execution: ExecutionId(execution),
            action: ActionId(1),
            key: None,
            attempt: 1,
            fence: Some(Fence(fence)),
            started_at: Some(Timestamp::from_micros(started)),
            ended_at: Some(Timestamp::from_micros(ended)),
        }
    }

    fn violations(limit: u32, grants: &[Grant]) -> Vec<String> {
        judge(&[action(Some(limit), None)], grants.to_vec(), &[], &[]).violations
    }

    #[test]
    fn a_line_in_order_and_within_its_limit_is_clean() {
        let grants = [ran(1, 1, 10, 20), ran(2, 2, 20, 30), ran(3, 3, 30, 40)];
        let verdict = judge(&[action(Some(1), None)], grants.to_vec(), &[], &[]);
        assert_eq!(verdict, Verdict { executions: 3, attempts: 3, violations: Vec::new() });
    }

    #[test]
    fn an_overlap_beyond_the_limit_is_seen() {
        let grants = [ran(1, 1, 10, 21), ran(2, 2, 20, 30), ran(3, 3, 20, 25)];
        assert_eq!(violations(1, &grants).len(), 2);
        assert_eq!(violations(2, &grants).len(), 1);
        assert_eq!(violations(3, &grants).len(), 0);
        let endless = Grant { ended_at: None, ..ran(1, 1, 10, 0) };
        assert_eq!(violations(1, &[endless, ran(2, 2, 500, 600)]).len(), 1);
    }

    #[test]
    fn a_grant_out_of_order_is_seen() {
        let found = violations(9, &[ran(1, 2, 10, 20), ran(2, 1, 10, 20)]);
        assert_eq!(found, ["demo.line: execution 2 got its slot before 1, which was ahead of it"]);
    }

    #[test]
    fn each_key_is_a_line_of_its_own() {
        let key = |key: &str, grant| Grant { key: Some(key.to_owned()), ..grant };
        let keyed = [key("a", ran(1, 2, 10, 20)), key("b", ran(2, 1, 10, 20))];
        assert_eq!(judge(&[action(None, Some(1))], keyed.to_vec(), &[], &[]).violations, Vec::<String>::new());
        let same = [key("a", ran(1, 2, 10, 20)), key("a", ran(2, 1, 10, 20))];
        assert_eq!(judge(&[action(None, Some(1))], same.to_vec(), &[], &[]).violations.len(), 2);
    }

    #[test]
    fn an_attempt_that_started_twice_and_a_broken_end_are_seen() {
        let grants = [ran(1, 1, 10, 20), ran(1, 2, 30, 40)];
        assert_eq!(violations(9, &grants), ["demo.line: attempt 1 of execution 1 started twice"]);
        assert_eq!(judge(&[], Vec::new(), &[7], &[8]).violations.len(), 2);
    }
}
