//! Cancelling, from any state: in line it acts at once; at work it sends an order, and only the worker's report ends
//! it.

use slotline_protocol::message::{EndReason, Failure};
use slotline_protocol::{ExecutionId, OutcomeKind, Status};
use slotline_scheduler::{Input, Limits, Order, Outcome};

use crate::world::{BACKOFF, WORKER, World, key_slots, slots, strict_tries, tries};

fn cancels(world: &World) -> usize {
    world.orders.iter().filter(|sent| matches!(sent.order, Order::Cancel { .. })).count()
}

#[test]
fn in_line_it_is_gone_at_once() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b", "c", "d"]);
    world.cancel("c");
    assert_eq!((world.status("c"), world.code("c")), (Status::Cancelled, "cancelled"));
    assert_eq!(world.ending("c").lease, None);
    world.run_until_idle();
    assert_eq!(world.started(), ["a", "b", "d"]);
    world.assert_nothing_is_left();
}

#[test]
fn at_work_the_slot_stays_taken_until_the_workers_word() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    world.cancel("a");
    assert_eq!(world.status("a"), Status::Cancelling);
    assert_eq!(world.running(), ["a"]);
    assert_eq!(cancels(&world), 1);
    world.end("a", OutcomeKind::Cancelled);
    assert_eq!(world.status("a"), Status::Cancelled);
    assert_eq!(world.running(), ["b"]);
}

#[test]
fn asking_twice_is_asking_once() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    world.cancel("b");
    world.cancel("b");
    world.cancel("a");
    world.cancel("a");
    assert_eq!(cancels(&world), 1);
    world.end("a", OutcomeKind::Cancelled);
    world.cancel("a");
    assert_eq!(world.settled.len(), 2);
    world.assert_nothing_is_left();
}

#[test]
fn nobody_knows_an_unknown_execution() {
    let mut world = World::with_line("email", slots(1));
    world.tell(Input::CancelRequested { id: ExecutionId(77), reason: None });
    assert!(world.settled.is_empty() && world.orders.is_empty());
}

#[test]
fn a_cancelling_attempt_is_never_tried_again() {
    for kind in [OutcomeKind::Failed, OutcomeKind::Timeout, OutcomeKind::Cancelled] {
        let mut world = World::with_line("email", Limits { retry: tries(5), ..slots(1) });
        world.submit(["a", "b"]);
        world.cancel("a");
        world.end("a", kind);
        assert_eq!(world.status("a"), Status::Cancelled, "{kind}");
        world.run_until_idle();
        world.assert_nothing_is_left();
    }
}

#[test]
fn what_was_complete_before_the_order_came_is_completed() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a"]);
    world.cancel("a");
    world.complete("a");
    assert_eq!(world.status("a"), Status::Completed);
    assert_eq!(world.ending("a").error, None);
}

#[test]
fn a_cancelling_attempt_that_is_lost_or_handed_back_is_cancelled() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["lost", "b"]);
    world.cancel("lost");
    world.end_worker(WORKER, EndReason::Replaced);
    assert_eq!(world.status("lost"), Status::Cancelled);
    assert_eq!(world.status("b"), Status::Queued);

    for started in [true, false] {
        let mut world = World::with_line("email", slots(1));
        world.submit(["back", "b"]);
        world.cancel("back");
        let returned = world.hand_back("back", started, "recall");
        world.tell(returned);
        assert_eq!(world.status("back"), Status::Cancelled, "started: {started}");
        assert_eq!(world.running(), ["b"]);
    }
}

#[test]
fn while_it_backs_off_it_is_gone_at_once_and_so_is_the_slot_it_kept() {
    for retry in [tries(3), strict_tries(3)] {
        let mut world = World::with_line("deploy", Limits { retry, ..key_slots(1) });
        world.submit_key("x", ["a", "b"]);
        world.fail("a");
        world.cancel("a");
        assert_eq!(world.status("a"), Status::Cancelled);
        assert_eq!(world.running(), ["b"]);
        world.pass(BACKOFF);
        assert_eq!(world.running(), ["b"]);
        world.run_until_idle();
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_kept_slot_that_is_due_again_is_freed_by_cancelling() {
    let mut world = World::with_line("email", Limits { retry: strict_tries(3), ..slots(1) });
    world.submit(["a", "b"]);
    world.fail("a");
    world.pause("email");
    world.pass(BACKOFF);
    world.cancel("a");
    world.resume("email");
    assert_eq!(world.running(), ["b"]);
    world.run_until_idle();
    world.assert_nothing_is_left();
}

#[test]
fn the_reason_travels_to_the_worker_and_into_the_record() {
    let mut world = World::with_line("email", slots(1));
    world.submit(["a", "b"]);
    for name in ["a", "b"] {
        world.tell(Input::CancelRequested { id: world.id(name), reason: Some("wrong list".to_owned()) });
    }
    let order = world.orders_to(WORKER).pop();
    assert!(matches!(order, Some(Order::Cancel { reason: Some(reason), .. }) if reason == "wrong list"));
    let error = world.ending("b").error.as_ref().expect("why it ended");
    assert!(error.message.ends_with("was cancelled in the line: wrong list"), "{error:?}");
}

#[test]
fn granted_and_cancelled_in_one_batch_is_told_in_that_order() {
    let mut world = World::with_line("email", slots(1));
    let action = world.action("email");
    world.scheduler.handle(Input::Requested { token: 1, action, key: None, bytes: 2 }, world.now);
    world.scheduler.handle(Input::CancelRequested { id: ExecutionId(1), reason: None }, world.now);
    let orders = world.scheduler.take_effects().orders;
    assert!(
        matches!(&orders[..], [dispatch, cancel]
            if matches!(dispatch.order, Order::Dispatch(_)) && matches!(cancel.order, Order::Cancel { .. })),
        "{orders:?}"
    );
}

#[test]
fn only_a_cancellation_without_a_reason_is_given_one() {
    let mut world = World::with_line("email", slots(3));
    world.submit(["a", "b", "c"]);
    world.cancel("a");
    world.cancel("b");
    for (name, kind, error) in [
        ("a", OutcomeKind::Cancelled, None),
        ("b", OutcomeKind::Cancelled, Some(Failure::new("stopped", "at the worker's own word"))),
        ("c", OutcomeKind::Failed, None),
    ] {
        let Input::Completed { key, fence, incarnation, outcome } = world.word(name, kind) else { panic!("an end") };
        world.tell(Input::Completed { key, fence, incarnation, outcome: Outcome { error, ..outcome } });
    }
    let code = |name: &str| world.ending(name).error.as_ref().map(|error| error.code.as_str());
    assert_eq!([code("a"), code("b"), code("c")], [Some("cancelled"), Some("stopped"), None]);
}

#[test]
fn one_sent_ahead_that_ended_unasked_as_cancelled_is_believed_after_the_one_before_it() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(2), ..slots(1) });
    world.submit(["a", "b"]);
    let first = world.word("a", OutcomeKind::Completed);
    let second = world.word("b", OutcomeKind::Cancelled);
    world.tell(second.clone());
    assert_eq!(world.status("b"), Status::Queued, "it began, so the one before it has completed, and that comes");
    assert_eq!(world.worker(WORKER).unrecorded.len(), 2, "its worker goes on telling it");
    world.tell(first);
    world.tell(second);
    assert_eq!((world.status("a"), world.status("b")), (Status::Completed, Status::Cancelled));
    world.assert_nothing_is_left();
}
