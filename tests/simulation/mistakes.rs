//! The checker checked: each mistake that is made on purpose must be found.

use crate::faults::{CLOCK_STEPS, LEADER_ALONE, LIAR, TWO_PRIMARIES};
use crate::plan::Mistake;
use crate::search::search_mistake;

/// Seeds within which a mistake must show.
const FOUND_WITHIN: u64 = 20_000;

/// Kinds of blows, as `Blow::choose` counts them.
const CRASH_EXECUTOR: u64 = 0;
const FREEZE_EXECUTOR: u64 = 2;
const CRASH_WORKER: u64 = 3;
const FREEZE_WORKER: u64 = 5;
const CUT: u64 = 8;
const RESET: u64 = 11;
const QUEUE_GONE: u64 = 18;

fn is_found(mistake: Mistake, kinds: &[u64]) {
    let found = search_mistake(FOUND_WITHIN, mistake, kinds);
    println!("{mistake:?}: {:?}", found.failed);
    assert!(found.failed.is_some(), "{mistake:?} was not found in {FOUND_WITHIN} seeds");
}

#[test]
fn effects_that_leave_before_their_commit_are_found() {
    is_found(Mistake::SpeaksBeforeItCommits, &[CRASH_EXECUTOR]);
}

#[test]
fn requests_that_are_acked_before_their_commit_are_found() {
    is_found(Mistake::AcksBeforeItCommits, &[CRASH_EXECUTOR]);
}

#[test]
fn a_guess_at_an_unknown_commit_is_found() {
    is_found(Mistake::GuessesAtCommits, &[CRASH_EXECUTOR]);
}

#[test]
fn a_commit_of_a_deposed_leader_is_found() {
    is_found(Mistake::IgnoresTheEpoch, &[FREEZE_EXECUTOR]);
}

#[test]
fn a_loss_that_is_declared_before_the_fence_is_found() {
    is_found(Mistake::LosesTooEarly, &[CUT]);
}

#[test]
fn a_returned_order_that_ends_leases_is_found() {
    is_found(Mistake::TakesAReturnForALoss, &[CUT, QUEUE_GONE]);
}

#[test]
fn an_order_that_is_taken_twice_is_found() {
    is_found(Mistake::IgnoresOrderNumbers, &[RESET, CRASH_WORKER]);
}

#[test]
fn a_process_that_outlives_its_fence_is_found() {
    is_found(Mistake::ShimIgnoresTheFence, &[FREEZE_WORKER]);
}

#[test]
fn a_leader_that_stays_without_its_broker_is_found() {
    is_found(Mistake::LeadsWithoutABroker, &[LEADER_ALONE]);
}

#[test]
fn a_leader_that_goes_by_its_own_clock_is_found() {
    is_found(Mistake::GoesByItsOwnClock, &[CLOCK_STEPS, CRASH_EXECUTOR]);
}

#[test]
fn a_leader_that_believes_every_copy_of_the_journal_is_found() {
    is_found(Mistake::BelievesEveryCopy, &[TWO_PRIMARIES]);
}

#[test]
fn a_leader_that_believes_strangers_is_found() {
    is_found(Mistake::BelievesStrangers, &[LIAR]);
}

#[test]
fn a_worker_that_obeys_strangers_is_found() {
    is_found(Mistake::ObeysStrangers, &[LIAR]);
}

#[test]
fn a_queue_that_loses_its_order_is_found() {
    is_found(Mistake::ReturnsToTheEnd, &[RESET, CRASH_EXECUTOR]);
}
