//! Which execution got a slot, when, and which others ran meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use slotline_protocol::{ActionId, ExecutionId, Fence, Timestamp, http};

use super::course::{Change, Course, Rule, Unknown};
use super::facts::{Facts, Grant};
use super::{CLOCK_TOLERANCE, Check, JournalVerdict};

/// An attempt that was granted, and the rule at its grant.
struct Judged<'g> {
    grant: &'g Grant,
    rule: Option<Rule>,
}

pub(super) fn judge(verdict: &mut JournalVerdict, facts: &Facts) {
    let executions: BTreeSet<ExecutionId> = facts.grants.iter().map(|grant| grant.execution).collect();
    verdict.executions = u64::try_from(executions.len()).expect("64 bits hold a length");
    let granted = facts.grants.iter().filter(|grant| grant.fence.is_some()).count();
    verdict.attempts = u64::try_from(granted).expect("64 bits hold a length");

    unique_fences(verdict, &facts.grants);
    let actions: BTreeMap<ActionId, &http::Action> =
        facts.actions.iter().map(|action| (action.action_id, action)).collect();
    let mut changes: BTreeMap<ActionId, Vec<&Change>> = BTreeMap::new();
    for change in &facts.changes {
        changes.entry(change.action).or_default().push(change);
    }
    let lost: Vec<Range<i64>> = facts.rewinds.iter().map(|rewind| rewind.lost_fences.clone()).collect();
    let mut lines: BTreeMap<ActionId, Vec<&Grant>> = BTreeMap::new();
    for grant in facts.grants.iter().filter(|grant| grant.fence.is_some()) {
        lines.entry(grant.action).or_default().push(grant);
    }
    for (id, mut grants) in lines {
        grants.sort_unstable_by_key(|grant| grant.fence);
        let course = Course::new(id, actions.get(&id).copied(), changes.get(&id).map_or(&[], Vec::as_slice));
        attempts(verdict, &course.name, &grants);
        moments(verdict, &course.name, &grants);
        under_policy(verdict, &course, &lost, &grants);
    }
}

/// Limits and order, by the policy at each grant.
fn under_policy(verdict: &mut JournalVerdict, course: &Course, lost: &[Range<i64>], grants: &[&Grant]) {
    let mut unknown: BTreeMap<Unknown, u64> = BTreeMap::new();
    let judged: Vec<Judged> = grants
        .iter()
        .map(|&grant| {
            let rule = course.rule_of(grant, lost).map_err(|why| *unknown.entry(why).or_default() += 1).ok();
            Judged { grant, rule }
        })
        .collect();
    for (why, count) in unknown {
        verdict.pass_over(|| {
            let (name, because) = (&course.name, why.because());
            let attempts = if count == 1 { "attempt was" } else { "attempts were" };
            format!("{name}: {count} {attempts} not held against limits and order: {because}")
        });
    }
    let all: Vec<&Judged> = judged.iter().collect();
    overlap(verdict, &course.name, &all, |rule| rule.limit);
    order(verdict, &course.name, &all);
    if all.iter().any(|judged| judged.rule.is_some_and(|rule| rule.key_limit.is_some())) {
        let mut keys: BTreeMap<Option<&str>, Vec<&Judged>> = BTreeMap::new();
        for judged in all {
            keys.entry(judged.grant.key.as_deref()).or_default().push(judged);
        }
        for (key, judged) in keys {
            overlap(verdict, &line(&course.name, key), &judged, |rule| rule.key_limit);
        }
    }
}

/// The name of a key's line; executions without a key share a line of their own.
fn line(name: &str, key: Option<&str>) -> String {
    key.map_or_else(|| format!("{name} [no key]"), |key| format!("{name} [{key}]"))
}

fn unique_fences(verdict: &mut JournalVerdict, grants: &[Grant]) {
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
fn attempts(verdict: &mut JournalVerdict, name: &str, grants: &[&Grant]) {
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
fn moments(verdict: &mut JournalVerdict, name: &str, grants: &[&Grant]) {
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

/// First attempts get their slots in the order of their line, which is the order of ids. Which line that is depends on
/// whether keys mattered. `grants` ascend by fence.
fn order(verdict: &mut JournalVerdict, name: &str, grants: &[&Judged]) {
    let mut latest: BTreeMap<Option<&str>, ExecutionId> = BTreeMap::new();
    let mut were_keyed = None;
    for Judged { grant, rule } in grants.iter().filter(|judged| judged.grant.attempt == 1) {
        let are_keyed = rule.map(|rule| rule.key_limit.is_some());
        if were_keyed != are_keyed {
            latest.clear();
            were_keyed = are_keyed;
        }
        let Some(are_keyed) = are_keyed else { continue };
        verdict.examine(Check::Order, 1);
        let (key, after) = (grant.key.as_deref().filter(|_| are_keyed), grant.execution);
        if let Some(before) = latest.insert(key, after).filter(|before| *before > after) {
            let line = if are_keyed { line(name, key) } else { name.to_owned() };
            verdict.accuse(Check::Order, || {
                format!("{line}: execution {before} got its slot before {after}, which was ahead of it")
            });
        }
    }
}

/// Sweeps over starts and ends; at no moment may more run than the limit.
///
/// Of those that run at once the one with the highest fence got its slot last, when all the others had theirs: so the
/// limit at its grant is the one that counts. `grants` ascend by fence.
fn overlap(verdict: &mut JournalVerdict, line: &str, grants: &[&Judged], limit: impl Fn(&Rule) -> Option<u32>) {
    let limit = |judged: &Judged| judged.rule.as_ref().and_then(&limit).and_then(|limit| usize::try_from(limit).ok());
    let Some(least) = grants.iter().filter_map(|judged| limit(judged)).min() else { return };
    // An end sorts before a start of the same microsecond: a hand-off is no overlap.
    let mut turns: Vec<(Timestamp, bool, usize)> = Vec::new();
    for (index, judged) in grants.iter().enumerate() {
        let Some((started_at, ended_at)) = span(judged.grant) else { continue };
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
        let grant = grants[index].grant;
        let beside: Vec<usize> = match running.len() < least {
            // As nearly always: no limit could be violated.
            true => Vec::new(),
            false => running.iter().copied().filter(|other| overlaps(grants[*other].grant, grant)).collect(),
        };
        let last = beside.last().map_or(index, |last| index.max(*last));
        running.insert(index);
        let Some(limit) = limit(grants[last]) else { continue };
        // An attempt that its policy lets run on in isolation may run beside any.
        let is_bound = |index: &usize| grants[*index].rule.is_none_or(|rule| rule.is_bound);
        if !beside.iter().chain([&index]).all(is_bound) {
            continue;
        }
        verdict.examine(Check::Limits, 1);
        if beside.len() >= limit {
            let (count, execution) = (beside.len() + 1, grant.execution);
            verdict.accuse(Check::Limits, || {
                format!("{line}: {count} ran at {at} when execution {execution} started, limit {limit}")
            });
        }
    }
}

/// The time that it ran, if any.
fn span(grant: &Grant) -> Option<(Timestamp, Timestamp)> {
    let started_at = grant.started_at?;
    let ended_at = grant.ended_at.unwrap_or(Timestamp::MAX);
    (ended_at > started_at).then_some((started_at, ended_at))
}

/// Whether they surely ran at once, `later` having started later. Stamps of one clock compare exactly, those of two
/// only roughly.
fn overlaps(earlier: &Grant, later: &Grant) -> bool {
    let (Some((_, end)), Some((start, other_end))) = (span(earlier), span(later)) else { return false };
    let is_one_clock = earlier.worker.is_some() && earlier.worker == later.worker && earlier.is_by_its_worker;
    let common = end.min(other_end).since(start);
    if is_one_clock { !common.is_zero() } else { common > CLOCK_TOLERANCE }
}
