//! A journal that is older than the world: what workers hold is found out before anything is granted.

use serde_json::value::RawValue;
use slotline_protocol::message::{Account, EndReason, Heartbeat, Highest, Holding, Shown};
use slotline_protocol::{ActionRef, Detail, Epoch, ExecutionId, Fence, OutcomeKind, Status};
use slotline_scheduler::{Input, Limits, Order};

use crate::world::{HEARTBEAT, LEASE, WORKER, World, key_slots, slots, tries};

/// A whole lease passes, in which these workers beat as they do, and the probe after it comes back.
fn wait_it_out(world: &mut World, workers: &[&str]) {
    let end = world.now + LEASE;
    while world.now < end {
        for worker in workers {
            world.beat(worker);
        }
        world.pass(HEARTBEAT);
    }
    world.probe_both();
}

fn is_over(world: &World) -> bool {
    world.scheduler.in_doubt().is_none_or(|doubt| doubt.is_over)
}

#[test]
fn nothing_is_granted_before_a_whole_lease_has_shown_what_lives() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.complete("a");
    let dump = world.dump();
    world.rewind(dump);
    world.beat(WORKER);
    world.probe_both();
    assert!(!is_over(&world), "a silent worker may live a lease long");
    world.pass(LEASE - HEARTBEAT);
    world.beat(WORKER);
    world.probe_both();
    assert!(!is_over(&world));
    world.pass(HEARTBEAT);
    world.beat(WORKER);
    world.probe_both();
    assert!(is_over(&world));
    assert_eq!(world.started(), Vec::<String>::new());
    world.settle_doubt();
    world.beat(WORKER);
    world.submit(["b"]);
    assert_eq!(world.running(), ["b"]);
}

#[test]
fn an_attempt_that_the_journal_does_not_know_holds_its_slot_and_its_end_is_its_own() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["old"]);
    world.complete("old");
    let dump = world.dump();
    world.submit(["a", "b"]);
    let (a, fence) = (world.id("a"), world.snapshot("a").lease.expect("it runs").fence);
    world.rewind(dump);
    world.beat(WORKER);
    world.beat(WORKER);
    assert_eq!(world.recovered, [a]);
    assert_eq!(world.snapshot("a").lease.expect("taken over").fence, fence);
    wait_it_out(&mut world, &[WORKER]);
    world.settle_doubt();
    world.beat(WORKER);
    world.submit(["c"]);
    assert_eq!(world.running(), ["a"], "the slot is taken");
    assert!(world.id("c") > a, "no id is given twice");
    assert_eq!(world.why("c").held_by, [a]);
    world.complete("a");
    assert_eq!((world.status("a"), world.running()), (Status::Completed, vec!["c".to_owned()]));
    assert!(world.snapshot("c").lease.expect("granted").fence > fence, "no fence is given twice");
}

#[test]
fn an_attempt_that_the_journal_does_not_know_holds_the_slot_of_its_key() {
    let mut world = World::with_line("email", key_slots(1));
    let dump = world.dump();
    world.submit_key("x", ["a"]);
    world.rewind(dump);
    wait_it_out(&mut world, &[WORKER]);
    world.settle_doubt();
    world.beat(WORKER);
    world.submit_key("x", ["b"]);
    world.submit_key("y", ["c"]);
    assert_eq!(world.running(), ["a", "c"]);
}

#[test]
fn what_was_taken_over_can_be_cancelled_and_tried_again() {
    let limits = Limits { retry: tries(2), ..slots(2) };
    let mut world = World::with_line("email", limits);
    let dump = world.dump();
    world.submit(["a", "b"]);
    world.rewind(dump);
    world.beat(WORKER);
    world.cancel("a");
    assert!(world.orders_to(WORKER).iter().any(|order| matches!(order, Order::Cancel { .. })));
    world.end("a", OutcomeKind::Cancelled);
    assert_eq!(world.status("a"), Status::Cancelled);
    world.fail("b");
    wait_it_out(&mut world, &[WORKER]);
    world.settle_doubt();
    world.pass(crate::world::BACKOFF);
    world.beat(WORKER);
    assert_eq!(world.running(), ["b"]);
    assert_eq!(world.snapshot("b").attempt, 1_001, "no attempt number is used twice");
}

#[test]
fn an_execution_that_waits_by_the_journal_and_is_out_in_the_world_is_adopted() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b", "c"]);
    let dump = world.dump();
    world.complete("a");
    let fence = world.snapshot("b").lease.expect("it runs").fence;
    world.rewind(dump);
    world.beat(WORKER);
    let snapshot = world.snapshot("b");
    assert_eq!((snapshot.status, snapshot.lease.expect("adopted").fence), (Status::Running, fence));
    assert_eq!(world.status("a"), Status::Queued, "its end is not known, and nothing of it runs");
    wait_it_out(&mut world, &[WORKER]);
    world.settle_doubt();
    world.beat(WORKER);
    assert_eq!(world.running(), ["b"]);
    world.run_until_idle();
    assert_eq!(world.finished(), ["a", "b", "a", "c"], "the first of them was forgotten");
    world.assert_nothing_is_left();
}

#[test]
fn an_outcome_that_the_journal_forgot_is_taken_once_its_attempt_is_known() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    let dump = world.dump();
    world.complete("a");
    let untold = world.word("b", OutcomeKind::Completed);
    world.rewind(dump);
    world.tell(untold.clone());
    let nothing = world.orders_to(WORKER).iter().all(|order| !matches!(order, Order::Recorded { .. }));
    assert!(nothing, "the worker must not forget it");
    world.beat(WORKER);
    world.tell(untold);
    assert_eq!(world.status("b"), Status::Completed);
}

#[test]
fn a_lease_whose_attempt_ended_meanwhile_goes_back_to_its_place_uncharged() {
    let mut world = World::with_line("email", Limits { max_lost_attempts: 0, ..slots(1) });
    world.submit(["a", "b"]);
    let dump = world.dump();
    world.complete("a");
    world.complete("b");
    world.rewind(dump);
    wait_it_out(&mut world, &[WORKER]);
    assert_eq!(world.status("a"), Status::Queued);
    world.settle_doubt();
    world.beat(WORKER);
    assert_eq!(world.running(), ["a"]);
    assert_eq!((world.snapshot("a").attempt, world.snapshot("a").losses), (1_001, 0));
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn a_lease_of_an_incarnation_that_is_gone_goes_back_to_its_place_uncharged() {
    let mut world = World::with_line("email", Limits { max_lost_attempts: 0, ..slots(1) });
    world.submit(["a"]);
    let dump = world.dump();
    world.end_worker(WORKER, EndReason::Drain);
    world.rewind(dump);
    world.start_worker("w2", 10);
    wait_it_out(&mut world, &["w2"]);
    assert_eq!((world.status("a"), world.snapshot("a").losses), (Status::Queued, 0));
}

#[test]
fn a_lease_that_moved_to_another_worker_meanwhile_is_found_there() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    let dump = world.dump();
    let returned = world.hand_back("a", false, "drain");
    world.start_worker("w2", 10);
    world.tell(returned);
    assert_eq!(world.held_by("w2"), ["a"]);
    let fence = world.snapshot("a").lease.expect("it runs").fence;
    world.worker_mut(WORKER).unrecorded.clear();
    world.rewind(dump);
    world.beat("w2");
    world.beat(WORKER);
    let lease = world.snapshot("a").lease.expect("adopted");
    assert_eq!((lease.fence, lease.incarnation), (fence, world.incarnation("w2")));
    world.complete("a");
    assert_eq!(world.status("a"), Status::Completed);
}

#[test]
fn what_was_sent_ahead_and_began_meanwhile_is_believed() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(2), ..slots(1) });
    world.submit(["a", "b"]);
    assert_eq!(world.ahead(), ["b"]);
    let dump = world.dump();
    world.complete("a");
    world.rewind(dump);
    world.beat(WORKER);
    assert_eq!((world.status("a"), world.status("b")), (Status::Queued, Status::Running));
    world.complete("b");
    assert_eq!(world.status("b"), Status::Completed);
}

#[test]
fn a_worker_that_shows_more_than_the_journal_has_given_is_evidence() {
    let mut world = World::with_line("email", slots(1));
    let heartbeat = world.worker(WORKER).heartbeat(world.now);
    let given = Highest { execution_id: ExecutionId(0), fence: Fence(0) };
    let shows = |highest, epoch| Input::Heartbeat(Heartbeat { highest, seen: (Epoch(epoch), 1), ..heartbeat.clone() });
    world.tell(shows(given, 1));
    assert_eq!(world.evidence, None);
    world.tell(shows(Highest { fence: Fence(50), ..given }, 1));
    assert_eq!(world.evidence.take().map(|evidence| evidence.highest.fence), Some(Fence(50)));
    world.tell(shows(Highest { execution_id: ExecutionId(50), ..given }, 1));
    assert_eq!(world.evidence.take().map(|evidence| evidence.highest.execution_id), Some(ExecutionId(50)));
    world.tell(shows(given, 7));
    assert_eq!(world.evidence.take().map(|evidence| evidence.epoch), Some(Epoch(7)));
}

#[test]
fn numbers_that_no_journal_can_have_come_to_change_nothing_and_are_counted() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    let (counters, key) = (world.scheduler.counters(), (world.id("a"), 1));
    for in_doubt in [false, true] {
        if in_doubt {
            let dump = world.dump();
            world.rewind(dump);
            world.beat(WORKER);
            world.wild = 0;
        }
        let before = (world.scheduler.counters(), world.scheduler.in_doubt(), world.status("a"));
        let (heartbeat, wild) = (world.worker(WORKER).heartbeat(world.now), 1 << 62);
        let shown = Shown {
            execution_id: ExecutionId(wild),
            attempt: 1,
            counts_as: None,
            fence: Fence(wild),
            action_ref: ActionRef::new("demo.echo").expect("a name"),
            state: Some(Holding::Running),
            parameters: RawValue::from_string("{}".to_owned()).expect("JSON").into(),
            concurrency_key: None,
            message_id: None,
            timeout_seconds: None,
            progress: Detail::default(),
            correlation_id: None,
            trace_id: None,
        };
        let high = Highest { execution_id: ExecutionId(1), fence: Fence(1) };
        let capacity = 77;
        let all = [
            Heartbeat { seen: (Epoch(wild), 1), capacity, ..heartbeat.clone() },
            Heartbeat { highest: Highest { execution_id: ExecutionId(wild), ..high }, capacity, ..heartbeat.clone() },
            Heartbeat { highest: Highest { fence: Fence(wild), ..high }, capacity, ..heartbeat.clone() },
            Heartbeat {
                account: Some(Account { part: 0, parts: 1, attempts: vec![shown] }),
                capacity,
                ..heartbeat.clone()
            },
        ];
        for heartbeat in all {
            world.tell(Input::Heartbeat(heartbeat));
        }
        assert_eq!(world.wild, 4);
        let incarnation = heartbeat.incarnation;
        world.tell(Input::Returned {
            key,
            fence: Fence(wild),
            incarnation,
            started: false,
            reason: "drain".to_owned(),
        });
        assert_eq!((world.wild, world.evidence.take()), (5, None));
        let after = (world.scheduler.counters(), world.scheduler.in_doubt(), world.status("a"));
        assert_eq!(after, before);
        assert!(world.scheduler.workers().all(|worker| worker.capacity != capacity), "the rest of it counts no more");
    }
    assert!(counters.next_fence < 10);
}

#[test]
fn an_execution_of_an_action_that_the_journal_does_not_know_is_taken_over_once_there_is_one() {
    let mut world = World::with_line("email", slots(1));
    let dump = world.dump();
    world.put("sms", slots(1));
    world.start_worker("w2", 10);
    world.submit_to("sms", None, ["a"]);
    let actions = world.actions.clone();
    world.actions.remove("sms");
    world.rewind(dump);
    world.beat("w2");
    assert_eq!((world.unknown_actions.len(), world.recovered.len()), (1, 0));
    world.actions = actions;
    world.put("sms", slots(1));
    world.beat("w2");
    assert_eq!(world.recovered.len(), 1);
}

#[test]
fn no_number_is_given_beyond_the_reserve() {
    let mut world = World::with_line("email", slots(10));
    let mut counters = world.scheduler.counters();
    counters.next_fence += 2;
    world.scheduler.reserve(counters);
    world.submit(["a", "b", "c"]);
    assert_eq!(world.running(), ["a", "b"]);
    counters.next_fence += 1;
    world.scheduler.reserve(counters);
    world.tell(Input::Ticked);
    assert_eq!(world.running(), ["a", "b", "c"]);
}
