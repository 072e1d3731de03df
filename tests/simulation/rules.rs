//! Each rule against the smallest history that breaks it.

use std::sync::Arc;

use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence, Status};

use crate::checker::{Checker, Rule};
use crate::history::{Entry, Fact, Rules};
use crate::plan::Plan;
use crate::world::World;

fn rule_of(facts: Vec<Fact>) -> Option<Rule> {
    let entries: Vec<_> = facts.into_iter().enumerate().map(|(at, fact)| Entry { at: at as u64, fact }).collect();
    Checker::check(&entries).err().map(|violation| violation.rule)
}

fn action() -> ActionRef {
    ActionRef::new("sim.a0").expect("a name")
}

fn request(number: i64) -> Arc<str> {
    format!("r{number}").into()
}

/// An action with one slot, and two executions in its line.
fn two_in_line() -> Vec<Fact> {
    let rules = Rules { limit: Some(1), ..Rules::default() };
    let mut facts = vec![Fact::ActionPut { action: action(), rules }, Fact::Led { epoch: Epoch(1) }];
    for id in [1, 2] {
        facts.push(Fact::Enqueued { request: request(id) });
        facts.push(Fact::Confirmed { request: request(id) });
    }
    facts.push(Fact::Committed { epoch: Epoch(1), batch: 1 });
    for id in [1, 2] {
        let execution = ExecutionId(id);
        facts.push(Fact::Accepted { execution, request: request(id), action: action(), key: None });
        facts.push(Fact::Waits { execution, place: id });
    }
    facts.push(Fact::Committed { epoch: Epoch(1), batch: 2 });
    facts
}

fn granted(id: i64, fence: i64) -> Fact {
    Fact::Granted { execution: ExecutionId(id), attempt: 1, fence: Fence(fence), place: id }
}

fn ahead(id: i64, fence: i64, after: i64) -> Fact {
    let (execution, fence, after) = (ExecutionId(id), Fence(fence), Fence(after));
    Fact::SentAhead { execution, attempt: 1, fence, place: id, after }
}

fn back(id: i64, fence: i64) -> Fact {
    Fact::TakenBack { execution: ExecutionId(id), fence: Fence(fence) }
}

fn failed(id: i64) -> Fact {
    Fact::Settled { execution: ExecutionId(id), status: Status::Failed }
}

fn began(id: i64, fence: i64) -> Fact {
    Fact::Began { execution: ExecutionId(id), attempt: 1, fence: Fence(fence) }
}

fn ended(id: i64, fence: i64) -> Fact {
    Fact::Ended { execution: ExecutionId(id), attempt: 1, fence: Fence(fence) }
}

fn released(id: i64, fence: i64) -> Fact {
    Fact::Released { execution: ExecutionId(id), fence: Fence(fence) }
}

fn settled(id: i64) -> Fact {
    Fact::Settled { execution: ExecutionId(id), status: Status::Completed }
}

fn after(mut facts: Vec<Fact>, more: impl IntoIterator<Item = Fact>) -> Option<Rule> {
    facts.extend(more);
    rule_of(facts)
}

#[test]
fn one_after_the_other_is_as_it_should_be() {
    let one = [granted(1, 1), began(1, 1), ended(1, 1), released(1, 1), settled(1)];
    let other = [granted(2, 2), began(2, 2), ended(2, 2), released(2, 2), settled(2), Fact::Closed];
    assert_eq!(after(two_in_line(), one.into_iter().chain(other)), None);
}

#[test]
fn one_that_was_sent_ahead_begins_when_the_one_before_is_gone_and_gets_its_slot() {
    let early = [granted(1, 1), began(1, 1), ahead(2, 2, 1), ended(1, 1), began(2, 2), ended(2, 2)];
    let late = [released(1, 1), settled(1), granted(2, 2), released(2, 2), settled(2), Fact::Closed];
    assert_eq!(after(two_in_line(), early.into_iter().chain(late)), None);
    let in_vain = [granted(1, 1), ahead(2, 2, 1), released(1, 1), failed(1), back(2, 2), granted(2, 3)];
    let again = [began(2, 3), ended(2, 3), released(2, 3), settled(2), Fact::Closed];
    assert_eq!(after(two_in_line(), in_vain.into_iter().chain(again)), None);
}

#[test]
fn leases_that_were_granted_under_wider_rules_run_on_beside_one_that_was_sent_ahead() {
    let rules = |limit| Fact::ActionPut { action: action(), rules: Rules { limit: Some(limit), ..Rules::default() } };
    let mut facts = two_in_line();
    facts.extend([granted(1, 1), ahead(2, 2, 1), Fact::Committed { epoch: Epoch(1), batch: 3 }, rules(2)]);
    let third = request(3);
    facts.push(Fact::Enqueued { request: third.clone() });
    facts.push(Fact::Accepted { execution: ExecutionId(3), request: third, action: action(), key: None });
    facts.extend([granted(3, 3), Fact::Committed { epoch: Epoch(1), batch: 4 }, rules(1)]);
    facts.push(Fact::Committed { epoch: Epoch(1), batch: 5 });
    assert_eq!(after(facts, [released(1, 1), settled(1), granted(2, 2)]), None);
}

#[test]
fn what_was_taken_over_from_its_worker_runs_on_beside_one_that_was_sent_ahead() {
    let (third, execution) = (request(3), ExecutionId(3));
    let mut facts = two_in_line();
    facts.extend([granted(1, 1), ahead(2, 2, 1), Fact::Dumped, Fact::Enqueued { request: third.clone() }]);
    facts.push(Fact::Accepted { execution, request: third.clone(), action: action(), key: None });
    // The journal forgets it, and its worker holds it: that it waits for the second no heartbeat says.
    facts.extend([ahead(3, 3, 2), Fact::Rewound]);
    facts.push(Fact::Recovered { execution, request: third, action: action(), key: None });
    facts.push(Fact::Adopted { execution, attempt: 1, fence: Fence(3) });
    let one_leaves = [released(1, 1), settled(1)];
    assert_eq!(after(facts.clone(), one_leaves.clone().into_iter().chain([granted(2, 2)])), None);
    let one_more = granted(2, 4);
    assert_eq!(after(facts, one_leaves.into_iter().chain([back(2, 2), one_more])), Some(Rule::LimitHolds));
}

#[test]
fn each_rule_is_broken_by_what_breaks_it() {
    let dispatched = Fact::Dispatched { execution: ExecutionId(1), attempt: 1, fence: Fence(1) };
    let recorded = Fact::Recorded { execution: ExecutionId(1), attempt: 1 };
    let said = |sequence| Fact::Said { execution: ExecutionId(1), attempt: 1, sequence };
    let numbered = |number| Fact::Numbered { execution: ExecutionId(1), number };
    let told = Fact::Told { execution: ExecutionId(1), attempt: 1, last_sequence: 3 };
    let committed = |epoch, batch| Fact::Committed { epoch: Epoch(epoch), batch };
    let accepted = |id| Fact::Accepted { execution: ExecutionId(9), request: request(id), action: action(), key: None };
    let execution = ExecutionId(1);
    let left = Fact::Left { execution, attempt: 1 };
    let promoted = Fact::Promoted { site: 1 };
    let copy = |site| Fact::Of { site };
    let led = |epoch| vec![Fact::Led { epoch: Epoch(epoch) }, Fact::Feeds { epoch: Epoch(epoch) }];
    let again = Fact::Granted { execution, attempt: 2, fence: Fence(2), place: 1 };
    let begins_again = Fact::Began { execution, attempt: 2, fence: Fence(2) };
    let cases: Vec<(Rule, Vec<Fact>)> = vec![
        (Rule::LimitHolds, vec![granted(1, 1), granted(2, 2)]),
        // The batches of a new leader are counted from the start: this is not the one in which the action was put.
        (Rule::LimitHolds, vec![Fact::Led { epoch: Epoch(2) }, granted(1, 1), granted(2, 2)]),
        (Rule::LimitHolds, vec![ahead(2, 2, 1)]),
        (Rule::LimitHolds, vec![granted(1, 1), ahead(2, 2, 1), granted(2, 2)]),
        (Rule::LimitHolds, vec![granted(1, 1), ahead(2, 2, 1), released(1, 1), failed(1), granted(2, 2)]),
        (Rule::ProcessesWithinLeases, vec![granted(1, 1), began(1, 1), ahead(2, 2, 1), began(2, 2)]),
        (Rule::ProcessesWithinLeases, vec![granted(1, 1), ahead(2, 2, 1), began(2, 2), back(2, 2)]),
        (Rule::ProcessesWithinLeases, vec![granted(1, 1), ahead(2, 2, 1), back(2, 2), began(2, 2)]),
        (Rule::GrantsAreInOrder, vec![granted(2, 1)]),
        (
            Rule::GrantsAreInOrder,
            vec![granted(1, 1), released(1, 1), Fact::Rejoins { execution: ExecutionId(1), place: 3 }],
        ),
        (
            Rule::AcceptedInOrder,
            vec![
                Fact::Enqueued { request: request(3) },
                Fact::Enqueued { request: request(4) },
                Fact::Accepted { execution: ExecutionId(4), request: request(4), action: action(), key: None },
                Fact::Accepted { execution: ExecutionId(5), request: request(3), action: action(), key: None },
            ],
        ),
        (Rule::OneTerminalStatus, vec![settled(1), settled(1)]),
        (Rule::OneTerminalStatus, vec![accepted(1)]),
        (Rule::OneTerminalStatus, vec![settled(1), granted(1, 1)]),
        (Rule::NoAttemptTwice, vec![granted(1, 1), began(1, 1), ended(1, 1), began(1, 1)]),
        (Rule::ProcessesWithinLeases, vec![began(1, 1)]),
        (Rule::NoNumberTwice, vec![Fact::Adopted { execution: ExecutionId(1), attempt: 1, fence: Fence(9) }]),
        (
            Rule::NoNumberTwice,
            vec![
                Fact::Dumped,
                granted(1, 1),
                began(1, 1),
                Fact::Rewound,
                Fact::Adopted { execution: ExecutionId(2), attempt: 1, fence: Fence(1) },
            ],
        ),
        // Two copies of the journal, each of which gives what the other gives.
        (Rule::NoNumberTwice, vec![Fact::Dumped, promoted, granted(1, 1), copy(1), granted(1, 1)]),
        (Rule::NoNumberTwice, [vec![Fact::Dumped, Fact::Promoted { site: 1 }], led(2), vec![copy(1)], led(2)].concat()),
        (
            Rule::LimitHolds,
            vec![
                Fact::Dumped,
                Fact::Promoted { site: 1 },
                granted(1, 1),
                began(1, 1),
                copy(1),
                again.clone(),
                begins_again.clone(),
            ],
        ),
        // A process that the journal forgot counts all the same.
        (Rule::LimitHolds, vec![Fact::Dumped, granted(1, 1), began(1, 1), Fact::Rewound, again, begins_again]),
        (Rule::ProcessesWithinLeases, vec![granted(1, 1), began(1, 1), released(1, 1)]),
        (Rule::ProcessesWithinLeases, vec![granted(1, 1), released(1, 1), began(1, 1)]),
        (Rule::NoEffectBeforeItsCommit, vec![dispatched]),
        (Rule::NoEffectBeforeItsCommit, vec![granted(1, 1), recorded]),
        (Rule::NoEffectBeforeItsCommit, vec![Fact::Answered { request: request(7) }]),
        (Rule::EpochsRise, vec![Fact::Led { epoch: Epoch(1) }]),
        (Rule::EpochsRise, vec![committed(1, 4)]),
        (Rule::EpochsRise, vec![Fact::Led { epoch: Epoch(2) }, committed(1, 3)]),
        (Rule::EventsAreGapFree, vec![said(1), said(3)]),
        (Rule::EventsAreGapFree, vec![said(1), said(2), told]),
        (Rule::EventsAreGapFree, vec![numbered(1), numbered(1)]),
        (Rule::LiesChangeNothing, vec![Fact::Believed { lie: "heartbeat".to_owned() }]),
        (Rule::EndedIsTold, vec![left, Fact::Followed { execution, attempt: 1 }]),
        (Rule::NothingIsLost, vec![settled(1), settled(2), Fact::Confirmed { request: request(8) }, Fact::Closed]),
        (Rule::NothingUnacceptedRuns, vec![accepted(8)]),
        (Rule::NothingUnacceptedRuns, vec![granted(8, 1)]),
        (Rule::NoOrphans, vec![granted(1, 1), began(1, 1), Fact::Closed]),
        (Rule::EverythingEnds, vec![Fact::Closed]),
        (Rule::EverythingEnds, vec![Fact::FaultsStopped { bound: 1 }, settled(1), settled(2), Fact::Closed]),
    ];
    for (rule, facts) in cases {
        let told = format!("{facts:?}");
        assert_eq!(after(two_in_line(), facts), Some(rule), "{told}");
    }
}

#[test]
fn a_leader_that_stays_without_a_broker_is_found_and_one_that_hands_over_is_not() {
    const MINUTE: u64 = 60_000_000;
    let epoch = Epoch(1);
    let begun = || vec![(0, Fact::Led { epoch }), (1, Fact::Starves { epoch })];
    let later = (MINUTE, Fact::Confirmed { request: request(1) });
    let judge = |more: Vec<(u64, Fact)>| {
        let facts = begun().into_iter().chain(more);
        let entries: Vec<_> = facts.map(|(at, fact)| Entry { at, fact }).collect();
        Checker::check(&entries).err().map(|violation| violation.rule)
    };
    assert_eq!(judge(vec![later.clone()]), Some(Rule::LeadersHaveABroker));
    for end in [Fact::LockFreed, Fact::Feeds { epoch }, Fact::JournalStands { still: true }] {
        assert_eq!(judge(vec![(3, end), later.clone()]), None);
    }
}

#[test]
fn what_is_due_by_another_clock_is_found() {
    const HOUR: i64 = 3_600_000_000;
    let backs_off = |due_in| Fact::BacksOff { execution: ExecutionId(1), since: 0, due_in, at_most: 3_000_000 };
    for wrong in [HOUR, -HOUR] {
        assert_eq!(after(two_in_line(), [backs_off(wrong)]), Some(Rule::DueWhenItWas));
    }
    assert_eq!(after(two_in_line(), [backs_off(3_000_000), granted(1, 1)]), None);
    let long = Fact::BacksOff { execution: ExecutionId(1), since: 0, due_in: HOUR, at_most: HOUR };
    assert_eq!(after(two_in_line(), [long, granted(1, 1)]), Some(Rule::DueWhenItWas));
}

#[test]
fn a_history_that_was_written_down_is_judged_the_same() {
    let outcome = World::new(Plan::of(7), true).run();
    assert_eq!(outcome.violation, None);
    let text = serde_json::to_string(&outcome.history).expect("a history is plain data");
    let read: Vec<Entry> = serde_json::from_str(&text).expect("it reads back");
    assert_eq!(read, outcome.history);
    assert_eq!(Checker::check(&read), Ok(()));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2, 3] {
        let run = || World::new(Plan::of(seed), true).run().history;
        assert_eq!(run(), run());
    }
}
