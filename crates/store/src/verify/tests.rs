//! Each judgement by itself, on a few grants. Against whole journals: `tests/conformance/verify.rs`.

use slotline_protocol::policy::OnIsolation;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, Policy, Timestamp, WorkerName, http};

use super::facts::{Grant, Record, Total};
use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis * 1000)
}

fn action(limit: Option<u32>, key_limit: Option<u32>) -> http::Action {
    http::Action {
        action_id: ActionId(1),
        action_ref: ActionRef::new("demo.line").expect("valid"),
        paused: false,
        policy: Policy { limit, key_limit, ..Policy::default() },
        limit_override: None,
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
        worker: Some(WorkerName::new("worker-1").expect("valid")),
        scheduled_at: Some(at(fence)),
        started_at: Some(at(started)),
        ended_at: Some(at(ended)),
        is_by_its_worker: true,
    }
}

fn on(worker: &str, grant: Grant) -> Grant {
    Grant { worker: Some(WorkerName::new(worker).expect("valid")), ..grant }
}

/// What is wrong with a sound journal that has these grants.
fn violations(action: http::Action, grants: &[Grant]) -> Vec<String> {
    let ledger = facts::Ledger { epoch: 1, next_id: 100, next_fence: 100, next_action: 2, ..facts::Ledger::default() };
    judge(Facts { actions: vec![action], grants: grants.to_vec(), ledger, ..Facts::default() }).violations
}

fn limited(limit: u32, grants: &[Grant]) -> Vec<String> {
    violations(action(Some(limit), None), grants)
}

#[test]
fn a_line_in_order_and_within_its_limit_is_clean() {
    assert_eq!(limited(1, &[ran(1, 1, 10, 20), ran(2, 2, 20, 30), ran(3, 3, 30, 40)]), [""; 0]);
}

#[test]
fn an_overlap_beyond_the_limit_is_seen() {
    let grants = [ran(1, 1, 10, 21), ran(2, 2, 20, 30), ran(3, 3, 20, 25)];
    assert_eq!(limited(1, &grants).len(), 2);
    assert_eq!(limited(2, &grants).len(), 1);
    assert_eq!(limited(3, &grants).len(), 0);
    let endless = Grant { ended_at: None, ..ran(1, 1, 10, 0) };
    assert_eq!(limited(1, &[endless, ran(2, 2, 500, 600)]).len(), 1);
}

#[test]
fn clocks_of_two_hosts_may_disagree_by_the_tolerance_and_no_more() {
    let tolerance = i64::try_from(CLOCK_TOLERANCE.as_millis()).expect("small");
    let beside = |overlap| [ran(1, 1, 0, 1000), on("worker-2", ran(2, 2, 1000 - overlap, 2000))];
    assert_eq!(limited(1, &beside(tolerance)), [""; 0]);
    assert_eq!(limited(1, &beside(tolerance + 1)).len(), 1);
    // A loss is dated by the executor, whoever ran it.
    let lost = |overlap| [Grant { is_by_its_worker: false, ..ran(1, 1, 0, 1000) }, ran(2, 2, 1000 - overlap, 2000)];
    assert_eq!(limited(1, &lost(tolerance)), [""; 0]);
    assert_eq!(limited(1, &lost(tolerance + 1)).len(), 1);
}

#[test]
fn what_was_granted_under_another_policy_is_not_judged_by_this_one() {
    let grants = [ran(1, 2, 10, 40), ran(2, 1, 10, 40), ran(3, 3, 20, 40)];
    assert_eq!(limited(1, &grants).len(), 3);
    let lately = |at_fence| http::Action { updated_at: at(at_fence), ..action(Some(1), None) };
    // The third started among two others, and after the change.
    assert_eq!(violations(lately(3), &grants).len(), 1);
    assert_eq!(violations(lately(4), &grants), [""; 0]);
    let mut isolated = action(Some(1), None);
    isolated.policy.on_isolation = OnIsolation::Continue;
    assert_eq!(violations(isolated, &grants).len(), 1, "the order holds all the same");
}

#[test]
fn a_grant_out_of_order_is_seen() {
    let found = limited(9, &[ran(1, 2, 10, 20), ran(2, 1, 10, 20)]);
    assert_eq!(found, ["demo.line: execution 2 got its slot before 1, which was ahead of it"]);
}

#[test]
fn each_key_is_a_line_of_its_own() {
    let key = |key: &str, grant| Grant { key: Some(key.to_owned()), ..grant };
    let keyed = [key("a", ran(1, 2, 10, 20)), key("b", ran(2, 1, 10, 20))];
    assert_eq!(violations(action(None, Some(1)), &keyed), [""; 0]);
    let same = [key("a", ran(1, 2, 10, 20)), key("a", ran(2, 1, 10, 20))];
    assert_eq!(violations(action(None, Some(1)), &same).len(), 2);
}

#[test]
fn an_attempt_granted_twice_and_fences_that_repeat_or_fall_are_seen() {
    let twice = limited(9, &[ran(1, 1, 10, 20), ran(1, 2, 30, 40)]);
    assert_eq!(twice, ["demo.line: attempt 1 of execution 1 was granted twice"]);
    let again = limited(9, &[ran(1, 1, 10, 20), ran(2, 1, 30, 40)]);
    assert_eq!(again, ["fence 1 was given to execution 1 and to 2"]);
    let second = Grant { attempt: 2, ..ran(1, 1, 10, 20) };
    let fell = limited(9, &[second, ran(1, 2, 30, 40)]);
    assert_eq!(fell, ["demo.line: attempt 1 of execution 1 has a higher fence than attempt 2"]);
    let before = Grant { scheduled_at: Some(at(1000)), ..ran(1, 1, 2000, 2001) };
    let found = limited(9, &[before, Grant { scheduled_at: Some(at(899)), ..ran(2, 2, 2000, 2001) }]);
    assert!(found.len() == 1 && found[0].contains("a higher fence than 1"), "{found:?}");
}

fn record(first: i64, last: i64, written: i64) -> Record {
    let execution = ExecutionId(7);
    let (lowest, highest) = if written > 0 { (Some(first), Some(first + written - 1)) } else { (None, None) };
    Record { execution, is_over: Some(false), first, last, awaits: None, written, lowest, highest }
}

#[test]
fn a_record_is_whole_from_its_first_event_to_its_last() {
    let over = |record| Record { is_over: Some(true), ..record };
    let wrong = |record| {
        let facts = Facts { records: vec![record], ..Facts::default() };
        let ledger = facts::Ledger { epoch: 1, next_id: 1, next_fence: 1, next_action: 1, ..facts::Ledger::default() };
        judge(Facts { ledger, ..facts }).violations
    };
    for sound in [
        record(1, 5, 5),
        record(3, 5, 3),
        over(record(1, 5, 4)),
        over(Record { awaits: Some(9), ..record(1, 5, 5) }),
        over(record(1, 1, 0)),
    ] {
        assert_eq!(wrong(sound.clone()), [""; 0], "{sound:?}");
    }
    for broken in [
        record(1, 5, 4),
        record(1, 5, 0),
        record(0, 5, 6),
        record(9, 5, 0),
        over(record(1, 5, 5)),
        Record { lowest: Some(2), highest: Some(6), ..record(1, 5, 5) },
        Record { highest: Some(5), ..record(1, 5, 4) },
        Record { is_over: None, ..record(1, 5, 5) },
    ] {
        assert_eq!(wrong(broken.clone()).len(), 1, "{broken:?}");
    }
}

#[test]
fn sums_and_counters_are_held_against_what_there_is() {
    let total = Total { action: ActionId(1), enqueued: 9, completed: 5, living: 3 };
    let ledger = facts::Ledger {
        epoch: 0,
        batch: -1,
        next_id: 7,
        next_fence: 1,
        next_action: 1,
        highest_id: 7,
        highest_place: 8,
        highest_action: 1,
    };
    let verdict = judge(Facts { totals: vec![total], ledger, grants: vec![ran(1, 1, 1, 2)], ..Facts::default() });
    assert_eq!(verdict.violations.len(), 7, "{verdict:?}");
    assert!(verdict.violations[0].contains("which leaves 1"), "{verdict:?}");
    assert!(!verdict.holds());
}

#[test]
fn violations_beyond_the_bound_are_counted_and_not_spelt_out() {
    let ids: Vec<ExecutionId> = (0..VIOLATIONS_MAX as i64 + 5).map(ExecutionId).collect();
    let verdict = judge(Facts { both: ids, ..Facts::default() });
    assert_eq!(verdict.violations.len(), VIOLATIONS_MAX);
    let ends = verdict.checks.iter().find(|checked| checked.check == Check::Ends).expect("checked");
    assert_eq!(ends.violations, VIOLATIONS_MAX as u64 + 5);
}
