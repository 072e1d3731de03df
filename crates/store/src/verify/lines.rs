//! Who got a slot, when, and who else ran meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::policy::OnIsolation;
use slotline_protocol::{ActionId, ExecutionId, Fence, Timestamp, http};

use super::facts::{Facts, Grant};
use super::{CLOCK_TOLERANCE, Check, Verdict};

pub(super) fn judge(verdict: &mut Verdict, facts: &Facts) {
    let executions: BTreeSet<ExecutionId> = facts.grants.iter().map(|grant| grant.execution).collect();
    verdict.executions = u64::try_from(executions.len()).expect("64 bits hold a length");
    let granted = facts.grants.iter().filter(|grant| grant.fence.is_some()).count();
    verdict.attempts = u64::try_from(granted).expect("64 bits hold a length");

    unique_fences(verdict, &facts.grants);
    let actions: BTreeMap<ActionId, &http::Action> =
        facts.actions.iter().map(|action| (action.action_id, action)).collect();
    let mut lines: BTreeMap<ActionId, Vec<&Grant>> = BTreeMap::new();
    for grant in facts.grants.iter().filter(|grant| grant.fence.is_some()) {
        lines.entry(grant.action).or_default().push(grant);
    }
    for (id, mut grants) in lines {
        grants.sort_unstable_by_key(|grant| grant.fence);
        let action = actions.get(&id).copied();
        let name = action.map_or_else(|| format!("deleted action {id}"), |action| action.action_ref.to_string());
        attempts(verdict, &name, &grants);
        moments(verdict, &name, &grants);
        let Some(action) = action else { continue };
        under_policy(verdict, action, &grants);
    }
}

/// Limits and order, as the policy has it.
fn under_policy(verdict: &mut Verdict, action: &http::Action, grants: &[&Grant]) {
    let (name, policy) = (action.action_ref.as_str(), &action.policy);
    // It gave its limit up for itself, knowingly.
    let is_bound = policy.on_isolation == OnIsolation::Stop;
    let since = action.updated_at;
    overlap(verdict, name, policy.limit.filter(|_| is_bound), since, grants);
    if policy.key_limit.is_none() {
        return order(verdict, name, since, grants);
    }
    let mut keys: BTreeMap<Option<&str>, Vec<&Grant>> = BTreeMap::new();
    for grant in grants {
        keys.entry(grant.key.as_deref()).or_default().push(grant);
    }
    for (key, grants) in keys {
        // What has no key shares a line of its own.
        let line = key.map_or_else(|| format!("{name} [no key]"), |key| format!("{name} [{key}]"));
        overlap(verdict, &line, policy.key_limit.filter(|_| is_bound), since, &grants);
        order(verdict, &line, since, &grants);
    }
}

fn unique_fences(verdict: &mut Verdict, grants: &[Grant]) {
    let mut holders: BTreeMap<Fence, &Grant> = BTreeMap::new();
    for grant in grants {
        let Some(fence) = grant.fence else { continue };
        verdict.examine(Check::Fences, 1);
        if let Some(other) = holders.insert(fence, grant) {
            let (first, second) = (grant.execution.min(other.execution), grant.execution.max(other.execution));
            verdict.accuse(Check::Fences, || format!("fence {fence} was given to execution {first} and to {second}"));
        }
    }
}

/// No attempt number is granted twice, and a later one has the higher fence. `grants` ascend by fence.
fn attempts(verdict: &mut Verdict, name: &str, grants: &[&Grant]) {
    let mut newest: BTreeMap<ExecutionId, u32> = BTreeMap::new();
    verdict.examine(Check::Attempts, grants.len());
    for grant in grants {
        let (execution, attempt) = (grant.execution, grant.attempt);
        match newest.insert(execution, attempt) {
            Some(earlier) if earlier == attempt => verdict.accuse(Check::Attempts, || {
                format!("{name}: attempt {attempt} of execution {execution} was granted twice")
            }),
            Some(earlier) if earlier > attempt => verdict.accuse(Check::Fences, || {
                format!("{name}: attempt {attempt} of execution {execution} has a higher fence than attempt {earlier}")
            }),
            Some(_) | None => {}
        }
    }
}

/// Of two grants the one with the higher fence was not granted before the other. `grants` ascend by fence.
fn moments(verdict: &mut Verdict, name: &str, grants: &[&Grant]) {
    let mut latest: Option<(Timestamp, ExecutionId)> = None;
    for grant in grants {
        let Some(at) = grant.scheduled_at else {
            let execution = grant.execution;
            verdict.accuse(Check::Fences, || format!("{name}: execution {execution} got a fence at no time"));
            continue;
        };
        // Each by the clock of the executor that led.
        if let Some((before, other)) = latest.filter(|(before, _)| at + CLOCK_TOLERANCE < *before) {
            let execution = grant.execution;
            verdict.accuse(Check::Fences, || {
                format!("{name}: execution {execution} was granted at {at} a higher fence than {other} at {before}")
            });
        }
        latest = latest.max(Some((at, grant.execution)));
    }
}

fn is_judged(grant: &Grant, since: Timestamp) -> bool {
    grant.scheduled_at.is_some_and(|at| at >= since)
}

/// First attempts get their slots in the order of the line, which is the order of ids. `grants` ascend by fence.
fn order(verdict: &mut Verdict, line: &str, since: Timestamp, grants: &[&Grant]) {
    let first = grants.iter().filter(|grant| grant.attempt == 1 && is_judged(grant, since));
    let first: Vec<ExecutionId> = first.map(|grant| grant.execution).collect();
    verdict.examine(Check::Order, first.len());
    for pair in first.windows(2) {
        if let [before, after] = pair
            && before > after
        {
            verdict.accuse(Check::Order, || {
                format!("{line}: execution {before} got its slot before {after}, which was ahead of it")
            });
        }
    }
}

/// Sweeps over starts and ends; at no moment may more than `limit` run.
fn overlap(verdict: &mut Verdict, line: &str, limit: Option<u32>, since: Timestamp, grants: &[&Grant]) {
    let Some(limit) = limit else { return };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // An end sorts before a start of the same microsecond: a hand-over is no overlap.
    let mut turns: Vec<(Timestamp, bool, usize)> = Vec::new();
    for (index, grant) in grants.iter().enumerate() {
        let Some((started_at, ended_at)) = span(grant) else { continue };
        turns.push((started_at, true, index));
        turns.push((ended_at, false, index));
    }
    turns.sort_unstable();
    let mut running: BTreeSet<usize> = BTreeSet::new();
    for (at, is_start, index) in turns {
        if !is_start {
            running.remove(&index);
            continue;
        }
        let grant = grants[index];
        let is_judged = is_judged(grant, since);
        verdict.examine(Check::Limits, usize::from(is_judged));
        if is_judged && running.len() >= limit {
            let beside = running.iter().filter(|other| overlaps(grants[**other], grant)).count();
            if beside >= limit {
                let (count, execution) = (beside + 1, grant.execution);
                verdict.accuse(Check::Limits, || {
                    format!("{line}: {count} ran at {at} when execution {execution} started, limit {limit}")
                });
            }
        }
        running.insert(index);
    }
}

/// When it ran, if it took any time at all.
fn span(grant: &Grant) -> Option<(Timestamp, Timestamp)> {
    let started_at = grant.started_at?;
    let ended_at = grant.ended_at.unwrap_or(Timestamp::MAX);
    (ended_at > started_at).then_some((started_at, ended_at))
}

/// Whether they surely ran at once, `later` having started later. One clock tells exactly; two only roughly.
fn overlaps(earlier: &Grant, later: &Grant) -> bool {
    let (Some((_, end)), Some((start, other_end))) = (span(earlier), span(later)) else { return false };
    let is_one_clock = earlier.worker.is_some() && earlier.worker == later.worker && earlier.is_by_its_worker;
    let common = end.min(other_end).since(start);
    if is_one_clock { !common.is_zero() } else { common > CLOCK_TOLERANCE }
}
