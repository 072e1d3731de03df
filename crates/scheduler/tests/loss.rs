//! When an incarnation is lost, and what becomes of the attempts that it held.

use slotline_protocol::message::EndReason;
use slotline_protocol::{Fence, OutcomeKind, Status};
use slotline_scheduler::{Input, Limits, Order, ProbedQueue};

use crate::world::{HEARTBEAT, LEASE, WORKER, World, at, outcome, seconds, slots};

/// One line with one slot; `a` runs, `b` waits.
fn world() -> World {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    world
}

#[test]
fn silence_alone_declares_nobody_lost() {
    let mut world = world();
    world.pass(LEASE * 100);
    assert_eq!(world.running(), ["a"]);
    assert!(world.probes > 100, "and probes go out all the while");
}

#[test]
fn a_probe_must_come_back_from_both_queues() {
    for queue in [ProbedQueue::Completions, ProbedQueue::Heartbeats] {
        let mut world = world();
        world.pass(LEASE);
        world.probe(queue);
        world.pass(LEASE);
        world.probe(queue);
        assert_eq!(world.running(), ["a"], "{queue:?} alone proves nothing");
        world.probe_both();
        assert_eq!(world.running(), Vec::<String>::new());
        assert_eq!(world.ended, [world.incarnation(WORKER)]);
    }
}

#[test]
fn a_probe_published_before_the_lease_was_over_proves_nothing() {
    let mut world = world();
    world.pass(LEASE - seconds(1));
    let published_at = world.now;
    world.pass(LEASE);
    for queue in [ProbedQueue::Completions, ProbedQueue::Heartbeats] {
        world.tell(Input::Probed { queue, published_at });
    }
    assert_eq!(world.running(), ["a"], "the broker was slow, the worker may be well");
    world.probe_both();
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn any_message_of_the_incarnation_counts_the_silence_anew() {
    type Say = fn(&mut World);
    let messages: [(&str, Say); 4] = [
        ("heartbeat", |world| world.beat(WORKER)),
        ("started", |world| {
            let (key, fence) = ((world.id("a"), 1), world.snapshot("a").lease.expect("it is out").fence);
            world.tell(Input::Started { key, fence, started_at: world.now });
        }),
        ("completed", |world| {
            let (key, incarnation) = ((world.id("b"), 7), world.incarnation(WORKER));
            let outcome = outcome(OutcomeKind::Completed, world.now);
            world.tell(Input::Completed { key, fence: Fence(77), incarnation, outcome });
        }),
        ("returned", |world| {
            let (key, incarnation) = ((world.id("b"), 7), world.incarnation(WORKER));
            let reason = "drain".to_owned();
            world.tell(Input::Returned { key, fence: Fence(77), incarnation, started: false, reason });
        }),
    ];
    for (name, say) in messages {
        let mut world = world();
        world.pass(LEASE - seconds(1));
        say(&mut world);
        world.pass(LEASE - seconds(1));
        world.probe_both();
        assert_eq!(world.running(), ["a"], "{name}");
        world.pass(seconds(1));
        world.probe_both();
        assert_eq!(world.running(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_new_session_counts_every_silence_anew_and_forgets_its_probes() {
    let mut world = world();
    world.pass(LEASE);
    world.probe(ProbedQueue::Heartbeats);
    world.tell(Input::SessionOpened);
    assert_eq!(world.hellos, 2, "and workers are greeted");
    world.probe(ProbedQueue::Completions);
    assert_eq!(world.running(), ["a"]);
    world.pass(LEASE - seconds(1));
    world.probe_both();
    assert_eq!(world.running(), ["a"]);
    world.pass(seconds(1));
    world.probe_both();
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn probes_go_out_once_a_heartbeat_however_many_sessions_there_were() {
    let mut world = world();
    world.pass(seconds(2));
    world.tell(Input::SessionOpened);
    world.tell(Input::SessionOpened);
    let before = world.probes;
    world.pass(HEARTBEAT * 10);
    assert_eq!(world.probes - before, 10);
}

#[test]
fn a_lost_attempt_keeps_its_place_and_is_tried_again_as_the_next_attempt() {
    let mut world = world();
    world.start_worker("w2", 5);
    world.pass(LEASE);
    world.beat("w2");
    world.probe_both();
    assert_eq!(world.held_by("w2"), ["a"]);
    let snapshot = world.snapshot("a");
    assert_eq!((snapshot.attempt, snapshot.losses, snapshot.failures), (2, 1, 0));
    let ended = world.attempts.first().expect("the record of the lost attempt");
    assert_eq!((ended.attempt, ended.outcome), (1, OutcomeKind::Lost));
    assert_eq!(
        ended.error.as_ref().map(|error| error.message.as_str()),
        Some("Execution 1 (test.email): attempt 1 on worker w1 was lost with it")
    );
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "a", "b"]);
}

#[test]
fn an_execution_may_be_lost_so_often_and_then_fails() {
    let mut world = World::without_workers("email", Limits { max_lost_attempts: 2, ..slots(1) });
    world.submit(["a"]);
    for lost in 1..=3 {
        assert_eq!(world.status("a"), Status::Queued, "after {} losses", lost - 1);
        world.start_worker("w", 1);
        world.end_worker("w", EndReason::Replaced);
    }
    assert_eq!((world.status("a"), world.code("a")), (Status::Failed, "worker_lost"));
    assert_eq!(world.ending("a").losses, 3);
    world.assert_nothing_is_left();
}

#[test]
fn a_worker_that_ended_at_its_fence_or_drained_costs_no_charge() {
    for reason in [EndReason::Fence, EndReason::Drain] {
        let mut world = World::with_line("email", Limits { max_lost_attempts: 0, ..slots(1) });
        world.submit(["a"]);
        world.end_worker(WORKER, reason);
        assert_eq!((world.status("a"), world.snapshot("a").losses), (Status::Queued, 0), "{reason:?}");
    }
}

#[test]
fn an_attempt_that_only_a_heartbeat_has_shown_to_run_counts_once_it_is_lost() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    // The report of its start was lost with its worker.
    world.beat(WORKER);
    assert_eq!(world.snapshot("a").lease.expect("it is out").started_at, None);
    world.end_worker(WORKER, EndReason::Replaced);
    assert_eq!(world.snapshot("a").tried, 1);
    let lost = &world.attempts[0].lease;
    assert_eq!(lost.started_at, Some(lost.scheduled_at), "the journal must count as the scheduler does");
    world.start_worker(WORKER, 5);
    assert_eq!(world.snapshot("a").counts_as(), 2);
    let (key, incarnation) = ((world.id("a"), 2), world.incarnation(WORKER));
    let fence = world.worker_mut(WORKER).let_go(key);
    world.tell(Input::Returned { key, fence, incarnation, started: true, reason: "drain".to_owned() });
    assert_eq!(world.snapshot("a").tried, 2, "it had begun, by its worker's word");
}

#[test]
fn a_loss_without_charge_never_fails_an_execution_whatever_it_lost_before() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    for _ in 0..3 {
        world.end_worker(WORKER, EndReason::Replaced);
        world.start_worker(WORKER, 5);
    }
    world.put("email", Limits { max_lost_attempts: 1, ..slots(1) });
    world.end_worker(WORKER, EndReason::Fence);
    assert_eq!(world.status("a"), Status::Queued);
}

#[test]
fn a_lost_incarnation_is_lost_for_ever_and_is_told_so() {
    let mut world = world();
    world.pass(LEASE);
    world.probe_both();
    assert_eq!(world.ended, [world.incarnation(WORKER)]);
    world.beat(WORKER);
    assert_eq!(world.orders_to(WORKER).last(), Some(&Order::Lost));
    assert!(world.worker(WORKER).is_lost);
    assert_eq!(world.running(), Vec::<String>::new(), "it gets nothing");
    assert_eq!(world.scheduler.workers().count(), 0);
}

#[test]
fn what_a_lost_incarnation_says_late_changes_nothing_and_may_be_forgotten() {
    let mut world = world();
    let late = world.word("a", OutcomeKind::Completed);
    world.pass(LEASE);
    world.probe_both();
    world.start_worker("w2", 5);
    world.tell(late);
    assert_eq!(world.held_by("w2"), ["a"], "the second attempt goes on");
    assert!(world.settled.is_empty());
    assert!(matches!(world.orders_to(WORKER).last(), Some(Order::Recorded { .. })));
}

#[test]
fn an_incarnation_that_ended_before_anyone_knew_it_stays_ended() {
    let mut world = World::without_workers("email", slots(1));
    world.start_worker("w1", 5);
    let stray = world.worker("w1").heartbeat(world.now);
    let unknown = slotline_protocol::Incarnation(uuid::Uuid::from_u128(77));
    world.tell(Input::IncarnationEnded { incarnation: unknown, reason: EndReason::Replaced });
    world.tell(Input::Heartbeat(slotline_protocol::message::Heartbeat { incarnation: unknown, ..stray }));
    assert_eq!(world.scheduler.workers().count(), 1);
    assert!(matches!(world.orders.last(), Some(sent) if sent.order == Order::Lost && sent.incarnation == unknown));
}

#[test]
fn outcomes_told_with_the_end_count_and_only_the_rest_is_lost() {
    let mut world = World::with_line("email", slots(3));
    world.submit(["a", "b", "c"]);
    let done = world.word("b", OutcomeKind::Completed);
    let incarnation = world.incarnation(WORKER);
    world.scheduler.handle(done, world.now);
    world.scheduler.handle(Input::IncarnationEnded { incarnation, reason: EndReason::Fence }, world.now);
    world.settle_batch();
    assert_eq!(world.finished(), ["b"]);
    world.start_worker("w2", 5);
    assert_eq!(world.held_by("w2"), ["a", "c"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn a_probe_that_comes_back_late_does_not_undo_a_newer_one() {
    let mut world = world();
    world.pass(LEASE);
    world.probe(ProbedQueue::Heartbeats);
    world.tell(Input::Probed { queue: ProbedQueue::Heartbeats, published_at: at(1) });
    world.probe(ProbedQueue::Completions);
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn a_worker_that_may_go_by_a_longer_lease_of_an_earlier_leader_is_given_that_long() {
    let mut world = world();
    world.deafen(WORKER);
    world.change_leader();
    world.scheduler.inherit_lease(LEASE * 3);
    world.beat(WORKER);
    world.pass(LEASE * 2);
    world.probe_both();
    assert_eq!(world.running(), ["a"], "its fence may not have fallen yet");
    assert!(!world.terms_are_known);
    world.pass(LEASE);
    world.probe_both();
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn once_a_worker_has_seen_this_leaders_greeting_its_own_lease_counts() {
    let mut world = world();
    world.change_leader();
    world.scheduler.inherit_lease(LEASE * 3);
    world.beat(WORKER);
    assert!(world.terms_are_known, "and nobody else holds a lease");
    world.pass(LEASE);
    world.probe_both();
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn a_leader_whose_lease_is_as_long_as_any_before_has_nothing_to_wait_for() {
    let mut world = world();
    world.change_leader();
    world.scheduler.inherit_lease(LEASE);
    world.beat(WORKER);
    assert!(!world.terms_are_known, "nothing is to be forgotten");
}

#[test]
fn only_a_worker_that_holds_something_keeps_a_longer_lease_in_mind() {
    let mut world = World::without_workers("email", slots(1)).with_worker("w1", 5).with_worker("w2", 5);
    world.submit(["a"]);
    let [holder, idle] = if world.held_by("w1").is_empty() { ["w2", "w1"] } else { ["w1", "w2"] };
    world.deafen("w1");
    world.deafen("w2");
    world.change_leader();
    world.scheduler.inherit_lease(LEASE * 3);
    world.beat(idle);
    world.beat(holder);
    assert!(!world.terms_are_known, "the holder has not seen the greeting");
    world.undeafen(holder);
    world.beat(holder);
    assert!(world.terms_are_known, "the other, which has not either, holds nothing");
}
