//! Each judgement by itself, on a few grants. Against whole journals: `tests/conformance/verify.rs`.

use slotline_protocol::audit::Changed;
use slotline_protocol::change::{differences, override_difference, pause_difference};
use slotline_protocol::policy::OnIsolation;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, LimitOverride, Policy, Timestamp, WorkerName, http};

use super::course::Change;
use super::facts::{Grant, RecordRange, Total};
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

/// The judgement on a sound journal that has these grants, and whose audit has these changes.
fn judged(actions: Vec<http::Action>, changes: &[Change], grants: &[Grant]) -> JournalVerdict {
    let ledger = facts::Ledger { epoch: 1, next_id: 100, next_fence: 100, next_action: 2, ..facts::Ledger::default() };
    judge(Facts { actions, changes: changes.to_vec(), grants: grants.to_vec(), ledger, ..Facts::default() })
}

/// The violations of such a journal.
fn violations(action: http::Action, grants: &[Grant]) -> Vec<String> {
    judged(vec![action], &[], grants).violations
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
    // The executor dates a loss, whichever worker ran the attempt.
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

/// A change of the action before this fence, from one policy to another.
fn changed(fence: i64, old: Option<&http::Action>, new: Option<&http::Action>) -> Change {
    let policy = |it: Option<&http::Action>| it.map(|it| it.policy.clone());
    let mut changes = differences(policy(old).as_ref(), policy(new).as_ref());
    let temporary = |it: Option<&http::Action>| it.and_then(|it| it.limit_override.clone());
    if temporary(old) != temporary(new) {
        changes.push(override_difference(temporary(old).as_ref(), temporary(new).as_ref()));
    }
    let changed = match (old, new) {
        (None, _) => Changed::ActionCreated,
        (_, None) => Changed::ActionDeleted,
        (Some(_), Some(_)) => Changed::PolicyChanged,
    };
    Change { action: ActionId(1), name: "demo.line".to_owned(), changed, fence, changes }
}

fn paused(fence: i64) -> Change {
    let changes = vec![pause_difference(true)];
    Change { action: ActionId(1), name: "demo.line".to_owned(), changed: Changed::Paused, fence, changes }
}

fn of_limit(limit: u32) -> http::Action {
    // Changed lately, which does not matter where the audit has everything.
    http::Action { updated_at: at(1_000_000), ..action(Some(limit), None) }
}

#[test]
fn each_slot_is_judged_by_the_limit_that_held_as_it_was_granted() {
    let (one, three) = (of_limit(1), of_limit(3));
    let course = [
        changed(1, None, Some(&one)),
        changed(3, Some(&one), Some(&three)),
        paused(4),
        changed(6, Some(&three), Some(&one)),
    ];
    // One at a time, then three, whose surplus runs out, then one again.
    let sound = [
        ran(1, 1, 10, 20),
        ran(2, 2, 20, 30),
        ran(3, 3, 30, 60),
        ran(4, 4, 31, 70),
        ran(5, 5, 32, 80),
        ran(6, 6, 80, 90),
    ];
    let verdict = judged(vec![one.clone()], &course, &sound);
    assert_eq!((verdict.violations, verdict.unjudged), (vec![], vec![]));
    let examined = |check| verdict.checks.iter().find(|it| it.check == check).map(|it| it.examined);
    assert_eq!((examined(Check::Limits), examined(Check::Order)), (Some(6), Some(6)));
    // The same before the raise, and after the fall.
    for (index, broken) in [(1, ran(2, 2, 19, 30)), (5, ran(6, 6, 79, 90))] {
        let mut grants = sound.to_vec();
        grants[index] = broken;
        let verdict = judged(vec![one.clone()], &course, &grants);
        assert!(verdict.violations.len() == 1 && verdict.violations[0].contains("limit 1"), "{verdict:?}");
    }
    // A fourth beside three.
    let mut grants = sound.to_vec();
    grants.push(Grant { attempt: 2, ..ran(2, 5, 40, 50) });
    grants[4] = ran(5, 6, 32, 80);
    grants[5] = ran(6, 7, 80, 90);
    let verdict = judged(vec![three], &course[..3], &grants);
    assert!(verdict.violations.iter().any(|it| it.contains("4 ran") && it.contains("limit 3")), "{verdict:?}");
}

#[test]
fn who_was_slow_to_start_is_judged_by_the_limit_at_the_last_grant_beside_it() {
    let (one, three) = (of_limit(1), of_limit(3));
    let course = [changed(1, None, Some(&one)), changed(2, Some(&one), Some(&three))];
    // Granted under one slot, and started when two others had theirs under three.
    let grants = [ran(1, 1, 50, 90), ran(2, 2, 20, 80), ran(3, 3, 20, 80)];
    assert_eq!(judged(vec![three], &course, &grants).violations, [""; 0]);
}

#[test]
fn an_override_counts_while_it_lasts_and_the_declared_limit_before_and_after() {
    let declared = of_limit(1);
    let temporary = LimitOverride { limit: Some(2), until: at(90), since: at(1), actor: String::new(), reason: None };
    let overridden = http::Action { limit_override: Some(temporary), ..declared.clone() };
    let end = Change { changed: Changed::OverrideEnded, ..changed(5, Some(&overridden), Some(&declared)) };
    let course = [changed(1, None, Some(&declared)), changed(3, Some(&declared), Some(&overridden)), end];
    let both = |fence| [ran(1, fence, 10, 40), ran(2, fence + 1, 20, 40)];
    for (fence, wrong) in [(1, 1), (3, 0), (5, 1)] {
        assert_eq!(judged(vec![declared.clone()], &course, &both(fence)).violations.len(), wrong, "{fence}");
    }
    assert_eq!(judged(vec![overridden], &course[..2], &both(7)).violations, [""; 0], "it lasts");
}

#[test]
fn lines_are_what_they_were_as_keys_began_and_ceased_to_matter() {
    let key = |key: &str, grant| Grant { key: Some(key.to_owned()), ..grant };
    let (whole, keyed) = (action(None, None), action(None, Some(1)));
    let course = [
        changed(1, None, Some(&whole)),
        changed(3, Some(&whole), Some(&keyed)),
        changed(5, Some(&keyed), Some(&whole)),
    ];
    // The second passes the first of another key while keys matter, and only then.
    let pair = |fence| [key("b", ran(2, fence, 10, 20)), key("a", ran(1, fence + 1, 10, 20))];
    for (fence, wrong) in [(1, 1), (3, 0), (5, 1)] {
        assert_eq!(judged(vec![whole.clone()], &course, &pair(fence)).violations.len(), wrong, "{fence}");
    }
    let same = [key("a", ran(1, 3, 10, 20)), key("a", ran(2, 4, 15, 20))];
    let found = judged(vec![whole], &course, &same).violations;
    assert!(found.len() == 1 && found[0].starts_with("demo.line [a]: 2 ran"), "{found:?}");
}

#[test]
fn what_the_audit_does_not_tell_is_named_and_not_judged() {
    let grants = [ran(1, 1, 10, 40), ran(2, 2, 20, 40), ran(3, 3, 50, 60)];
    let (one, two) = (of_limit(1), of_limit(2));
    let course = [changed(1, None, Some(&two)), changed(3, Some(&two), Some(&one))];
    let named = |verdict: &JournalVerdict, count: &str| {
        assert_eq!(verdict.violations, [""; 0]);
        let [sentence] = verdict.unjudged.as_slice() else { panic!("one sentence: {verdict:?}") };
        assert!(sentence.starts_with("demo.line") && sentence.contains(&format!(": {count} attempts")), "{sentence}");
    };
    assert_eq!(judged(vec![one.clone()], &course, &grants).unjudged, [""; 0]);
    named(&judged(vec![one.clone()], &course[1..], &grants), "2");
    named(&judged(vec![one.clone()], &[], &grants), "3");
    named(&judged(vec![of_limit(7)], &course, &grants), "3");
    let verdict = judged(vec![], &[], &grants);
    assert!(verdict.unjudged[0].starts_with("deleted action 1: 3 attempts"), "{verdict:?}");
    // The audit has all of a deleted action as well.
    let deleted = [course[0].clone(), course[1].clone(), changed(4, Some(&one), None)];
    let verdict = judged(vec![], &deleted, &[ran(1, 3, 10, 40), ran(2, 3, 20, 40)]);
    assert!(verdict.unjudged.is_empty() && verdict.violations.iter().any(|it| it.contains("limit 1")), "{verdict:?}");
}

#[test]
fn what_was_granted_in_a_lost_part_of_the_journal_is_not_judged_by_what_is_left_of_it() {
    let rewind = PastRewind {
        generation: 2,
        settled_at: at(500),
        reason: "restored".to_owned(),
        from: ExecutionId(2),
        shown: ExecutionId(4),
        resumed: ExecutionId(9),
        lost_fences: 2..9,
        recovered: vec![ExecutionId(2), ExecutionId(3)],
    };
    let grants = vec![ran(1, 1, 10, 20), ran(2, 2, 20, 60), ran(3, 3, 20, 60), ran(9, 9, 60, 70)];
    let ledger = facts::Ledger { epoch: 1, next_id: 100, next_fence: 100, next_action: 2, ..facts::Ledger::default() };
    let (actions, changes) = (vec![of_limit(1)], vec![changed(1, None, Some(&of_limit(1)))]);
    let verdict = judge(Facts { actions, changes, grants, ledger, rewinds: vec![rewind], ..Facts::default() });
    assert_eq!(verdict.violations, [""; 0]);
    assert!(verdict.unjudged.len() == 1 && verdict.unjudged[0].contains("2 attempts"), "{verdict:?}");
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

fn record(first: i64, last: i64, written: i64) -> RecordRange {
    let execution = ExecutionId(7);
    let (lowest, highest) = if written > 0 { (Some(first), Some(first + written - 1)) } else { (None, None) };
    RecordRange { execution, is_over: Some(false), first, last, awaits: None, written, lowest, highest }
}

#[test]
fn a_record_is_whole_from_its_first_event_to_its_last() {
    let over = |record| RecordRange { is_over: Some(true), ..record };
    let wrong = |record| {
        let facts = Facts { records: vec![record], ..Facts::default() };
        let ledger = facts::Ledger { epoch: 1, next_id: 1, next_fence: 1, next_action: 1, ..facts::Ledger::default() };
        judge(Facts { ledger, ..facts }).violations
    };
    for sound in [
        record(1, 5, 5),
        record(3, 5, 3),
        over(record(1, 5, 4)),
        over(RecordRange { awaits: Some(9), ..record(1, 5, 5) }),
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
        RecordRange { lowest: Some(2), highest: Some(6), ..record(1, 5, 5) },
        RecordRange { highest: Some(5), ..record(1, 5, 4) },
        RecordRange { is_over: None, ..record(1, 5, 5) },
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
