//! Any message may arrive twice, late or never, and none may matter twice.

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{Epoch, Fence, OutcomeKind, Status};
use slotline_scheduler::{Input, Limits, Order};

use crate::world::{BACKOFF, HEARTBEAT, WORKER, World, outcome, seconds, slots, tries, unlimited};

fn dispatches(world: &World) -> Vec<(u64, AttemptKey, Fence)> {
    let dispatch = |order: &Order| match order {
        Order::Dispatch(dispatch) => Some(((dispatch.id, dispatch.attempt), dispatch.fence)),
        Order::Recorded { .. } | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => None,
    };
    world.orders.iter().filter_map(|sent| dispatch(&sent.order).map(|(key, fence)| (sent.n, key, fence))).collect()
}

fn recorded(world: &World) -> Vec<AttemptKey> {
    let recorded = |order: Order| match order {
        Order::Recorded { attempts } => attempts,
        Order::Dispatch(_) | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => Vec::new(),
    };
    world.orders_to(WORKER).into_iter().flat_map(recorded).collect()
}

#[test]
fn a_completion_told_twice_frees_one_slot() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b", "c"]);
    let completed = world.word("a", OutcomeKind::Completed);
    world.tell(completed.clone());
    world.tell(completed);
    assert_eq!(world.running(), ["b"]);
    assert_eq!(world.settled.len(), 1);
    assert_eq!(recorded(&world).len(), 2, "told twice, answered twice: the first answer may have been lost");
}

#[test]
fn a_failure_told_twice_is_one_failure() {
    let mut world = World::with_line("email", Limits { retry: tries(3), ..slots(1) });
    world.submit(["a"]);
    let failed = world.word("a", OutcomeKind::Failed);
    world.tell(failed.clone());
    world.tell(failed.clone());
    world.pass(BACKOFF);
    world.tell(failed);
    assert_eq!(world.running(), ["a"], "the second attempt goes on");
    assert_eq!((world.snapshot("a").attempt, world.snapshot("a").failures), (2, 1));
}

#[test]
fn a_hand_back_told_twice_does_not_touch_the_attempt_that_followed() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    let returned = world.hand_back("a", false, "recall");
    world.tell(returned.clone());
    let first = recorded(&world);
    assert_eq!(world.held_by(WORKER), ["a"], "the same worker has it again");
    world.tell(returned);
    assert_eq!(world.held_by(WORKER), ["a"]);
    let (_, key, _) = dispatches(&world)[1];
    assert!(!first.contains(&key) && !recorded(&world).contains(&key), "{key:?} is live, and must not be forgotten");
    world.complete("a");
    assert_eq!(world.status("a"), Status::Completed);
}

#[test]
fn every_grant_has_an_attempt_number_of_its_own() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    for _ in 0..3 {
        let returned = world.hand_back("a", false, "recall");
        world.tell(returned);
    }
    let numbers: Vec<_> = dispatches(&world).into_iter().map(|(_, (_, attempt), _)| attempt).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[test]
fn a_stale_fence_changes_nothing() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    let before = world.snapshot("a");
    let (key, incarnation) = ((world.id("a"), 1), world.incarnation(WORKER));
    let fence = Fence(999);
    let outcome = outcome(OutcomeKind::Completed, world.now);
    world.tell(Input::Started { key, fence, started_at: world.now });
    world.tell(Input::Completed { key, fence, incarnation, outcome });
    world.tell(Input::Returned { key, fence, incarnation, started: true, reason: "drain".to_owned() });
    assert_eq!(world.snapshot("a"), before);
    assert_eq!(recorded(&world), [], "the lease is live: its worker must not forget it");
}

#[test]
fn a_start_told_late_is_noted_and_told_twice_is_noted_once() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    let fence = world.snapshot("a").lease.expect("it is out").fence;
    let key = (world.id("a"), 1);
    world.beat(WORKER);
    assert_eq!(world.status("a"), Status::Running, "by the heartbeat");
    let started_at = world.now;
    world.tell(Input::Started { key, fence, started_at });
    world.tell(Input::Started { key, fence, started_at: started_at + seconds(9) });
    assert_eq!(world.snapshot("a").lease.and_then(|lease| lease.started_at), Some(started_at));
    world.cancel("a");
    world.tell(Input::Started { key, fence, started_at });
    assert_eq!(world.status("a"), Status::Cancelling);
}

#[test]
fn a_lost_dispatch_is_sent_again_once_a_heartbeat_shows_it_missing() {
    let mut world = World::with_line("email", slots(1));
    world.deafen(WORKER);
    world.submit(["a"]);
    world.beat(WORKER);
    assert_eq!(dispatches(&world).len(), 1, "it may still be on its way");
    world.undeafen(WORKER);
    world.beat(WORKER);
    let [(n1, key1, fence1), (n2, key2, fence2)] = dispatches(&world)[..] else { panic!("sent twice") };
    assert_eq!((key1, fence1), (key2, fence2), "the same attempt, under its old fence");
    assert!(n2 > n1);
    world.complete("a");
    assert_eq!(world.status("a"), Status::Completed);
}

#[test]
fn a_dispatch_that_no_heartbeat_covers_is_sent_again_after_a_while() {
    let mut world = World::with_line("email", slots(1));
    world.deafen(WORKER);
    world.submit(["a"]);
    world.pass(HEARTBEAT * 2);
    world.beat(WORKER);
    assert_eq!(dispatches(&world).len(), 1);
    world.pass(seconds(1));
    world.beat(WORKER);
    assert_eq!(dispatches(&world).len(), 2);
    world.beat(WORKER);
    assert_eq!(dispatches(&world).len(), 2, "once, and then again only after a while");
}

#[test]
fn a_missing_entry_never_ends_a_lease() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    world.worker_mut(WORKER).holding.clear();
    for _ in 0..5 {
        world.deafen(WORKER);
        world.pass(HEARTBEAT);
        world.beat(WORKER);
    }
    assert_eq!(world.running(), ["a"]);
}

#[test]
fn a_lost_order_to_cancel_is_given_again() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.deafen(WORKER);
    world.cancel("a");
    world.beat(WORKER);
    let cancels =
        |world: &World| world.orders_to(WORKER).iter().filter(|order| matches!(order, Order::Cancel { .. })).count();
    assert_eq!(cancels(&world), 1);
    world.undeafen(WORKER);
    world.beat(WORKER);
    assert_eq!(cancels(&world), 2);
    world.beat(WORKER);
    assert_eq!(cancels(&world), 2, "the worker says that it is ending it");
}

#[test]
fn dispatch_and_cancel_lost_together_come_again_together() {
    let mut world = World::with_line("email", slots(1));
    world.deafen(WORKER);
    world.submit(["a"]);
    world.cancel("a");
    world.undeafen(WORKER);
    world.beat(WORKER);
    let orders = world.orders_to(WORKER);
    assert!(
        matches!(&orders[..], [_, _, Order::Dispatch(_), Order::Cancel { .. }]),
        "the worker can only answer for what it has: {orders:?}"
    );
    world.end("a", OutcomeKind::Cancelled);
    assert_eq!(world.status("a"), Status::Cancelled);
}

#[test]
fn a_lost_recorded_is_said_again() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.deafen(WORKER);
    world.complete("a");
    world.undeafen(WORKER);
    assert_eq!(world.worker(WORKER).unrecorded.len(), 1);
    world.beat(WORKER);
    assert_eq!(world.worker(WORKER).unrecorded.len(), 0);
}

#[test]
fn an_outcome_that_is_on_its_way_is_neither_recorded_nor_dispatched_again() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    let completed = world.word("a", OutcomeKind::Completed);
    world.pass(HEARTBEAT * 3);
    world.beat(WORKER);
    assert_eq!((dispatches(&world).len(), recorded(&world)), (1, Vec::new()));
    world.tell(completed);
    assert_eq!(world.running(), ["b"]);
}

#[test]
fn an_outcome_of_something_long_settled_may_be_forgotten() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.complete("a");
    let worker = world.worker_mut(WORKER);
    worker.unrecorded.insert((slotline_protocol::ExecutionId(1), 1), Fence(1));
    worker.unrecorded.insert((slotline_protocol::ExecutionId(500), 3), Fence(9));
    world.beat(WORKER);
    assert!(world.worker(WORKER).unrecorded.is_empty());
}

#[test]
fn a_heartbeat_in_the_batch_of_a_grant_sends_nothing_twice() {
    let mut world = World::with_line("email", unlimited());
    let action = world.action("email");
    world.worker_mut(WORKER).seen = (Epoch(1), 1_000);
    let heartbeat = world.worker(WORKER).heartbeat(world.now);
    let now = world.now;
    world.scheduler.handle(Input::Requested { token: 1, action, key: None, bytes: 2 }, now);
    world.scheduler.handle(Input::Heartbeat(heartbeat.clone()), now);
    world.scheduler.handle(Input::CancelRequested { id: slotline_protocol::ExecutionId(1), reason: None }, now);
    world.scheduler.handle(Input::Heartbeat(heartbeat), now);
    let orders = world.scheduler.take_effects().orders;
    assert_eq!(orders.len(), 2, "one dispatch, one cancel: {orders:?}");
}

#[test]
fn a_cancel_in_the_batch_that_shows_its_dispatch_missing_is_ordered_once() {
    let mut world = World::with_line("email", slots(1));
    world.deafen(WORKER);
    world.submit(["a"]);
    world.undeafen(WORKER);
    let (id, now, heartbeat) = (world.id("a"), world.now, world.worker(WORKER).heartbeat(world.now));
    world.scheduler.handle(Input::CancelRequested { id, reason: None }, now);
    world.scheduler.handle(Input::Heartbeat(heartbeat), now);
    let orders = world.scheduler.take_effects().orders;
    assert_eq!(orders.len(), 2, "one dispatch, one cancel: {orders:?}");
}

#[test]
fn an_attempt_lost_and_granted_again_in_one_batch_is_sent_once() {
    let mut world = World::with_line("email", slots(1)).with_worker("w2", 5);
    let action = world.action("email");
    let (now, incarnation) = (world.now, world.incarnation(WORKER));
    let reason = slotline_protocol::message::EndReason::Replaced;
    world.scheduler.handle(Input::Requested { token: 1, action, key: None, bytes: 2 }, now);
    world.scheduler.handle(Input::IncarnationEnded { incarnation, reason }, now);
    let orders = world.scheduler.take_effects().orders;
    let [sent] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!(sent.incarnation, world.incarnation("w2"));
}

#[test]
fn what_somebody_else_orders_is_numbered_between_the_schedulers_own() {
    let mut world = World::with_line("email", slots(2));
    world.submit(["a"]);
    let highest = |world: &World| world.orders.iter().map(|sent| sent.n).max();
    let before = highest(&world);
    let ours = world.scheduler.number_order();
    world.submit(["b"]);
    assert!(before < Some(ours) && Some(ours) < highest(&world), "{before:?} < {ours} < {:?}", highest(&world));
}

#[test]
fn what_is_decided_can_be_seen_before_it_is_taken() {
    let mut world = World::with_line("email", slots(1));
    let action = world.action("email");
    world.scheduler.handle(Input::Requested { token: 7, action, key: None, bytes: 2 }, world.now);
    assert_eq!(world.scheduler.effects().accepted.len(), 1);
    assert_eq!(world.scheduler.take_effects().accepted.len(), 1);
    assert_eq!(world.scheduler.effects().accepted.len(), 0);
}

#[test]
fn nothing_follows_a_terminal_status() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    let fence = world.snapshot("a").lease.expect("it runs").fence;
    let (id, incarnation) = (world.id("a"), world.incarnation(WORKER));
    world.complete("a");
    let key = (id, 1);
    for input in [
        Input::Started { key, fence, started_at: world.now },
        Input::Completed { key, fence, incarnation, outcome: outcome(OutcomeKind::Failed, world.now) },
        Input::Returned { key, fence, incarnation, started: true, reason: "drain".to_owned() },
        Input::CancelRequested { id, reason: None },
    ] {
        world.scheduler.handle(input.clone(), world.now);
        let effects = world.scheduler.take_effects();
        assert!(effects.announcements.is_empty() && effects.settled.is_empty(), "{input:?}: {effects:?}");
        assert!(effects.changed.is_empty() && effects.attempts.is_empty(), "{input:?}: {effects:?}");
    }
}
