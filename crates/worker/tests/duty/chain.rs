//! Chains: which attempt waits for which, and what becomes of the rest.

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::Holding;

use super::world::{World, key, ms, s};

#[test]
fn a_chain_starts_link_by_link_the_moment_each_predecessor_completes() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.dispatch(3).after(2).send();
    assert_eq!(world.take_started(), [key(1)]);
    assert_eq!(world.duty_heartbeat().holding[1], (key(2).0, 1, Holding::Pending));
    world.succeed(1, "1");
    assert_eq!(world.take_started(), [key(2)]);
    world.succeed(2, "1");
    assert_eq!(world.take_started(), [key(3)]);
}

#[test]
fn a_chain_whose_predecessor_fails_or_is_unknown_is_handed_back_to_its_last_link() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.dispatch(3).after(2).send();
    world.dispatch(4).after(77).send();
    assert_eq!(world.take_returned(), [(key(4), "predecessor".to_owned(), false)]);
    world.take_started();
    world.fail(1);
    assert_eq!(
        world.take_returned(),
        [(key(2), "predecessor".to_owned(), false), (key(3), "predecessor".to_owned(), false)]
    );
    assert_eq!(world.take_started(), []);
}

#[test]
fn a_very_long_chain_is_handed_back_without_exhausting_the_stack() {
    let mut world = World::new();
    world.dispatch(1).send();
    for id in 2..9_000 {
        world.dispatch(id).after(id - 1).send();
    }
    world.fail(1);
    assert_eq!(world.take_returned().len(), 8_998);
}

#[test]
fn a_chain_finds_a_predecessor_that_completed_before_it_came() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.succeed(1, "1");
    world.take_started();
    world.dispatch(2).after(1).send();
    assert_eq!(world.take_started(), [key(2)]);
    world.cancel(2, None);
    world.succeed(2, "1");
    world.dispatch(3).after(2).send();
    assert_eq!(world.take_started(), [], "cancelled is not completed");
}

#[test]
fn a_chain_whose_predecessor_is_cancelled_is_handed_back_though_the_process_exits_zero() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    world.cancel(1, None);
    world.succeed(1, "1");
    assert_eq!(world.take_completed()[0].1, OutcomeKind::Cancelled);
    assert_eq!(world.take_returned(), [(key(2), "predecessor".to_owned(), false)]);
}

#[test]
fn an_attempt_that_would_wait_for_itself_is_handed_back() {
    let mut world = World::new();
    world.dispatch(1).after(1).send();
    assert_eq!(world.take_returned(), [(key(1), "predecessor".to_owned(), false)]);
}

#[test]
fn what_runs_is_what_was_started_and_has_not_ended() {
    let mut world = World::new();
    world.dispatch(2).send();
    world.dispatch(1).send();
    world.dispatch(3).after(1).send();
    assert_eq!(world.duty.running().collect::<Vec<_>>(), [key(1), key(2)]);
    world.succeed(2, "1");
    assert_eq!(world.duty.running().collect::<Vec<_>>(), [key(1)]);
}

#[test]
fn the_report_of_what_was_sent_ahead_shows_how_long_it_was_here_each_time() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.clock(ms(5));
    world.dispatch(2).after(1).send();
    world.clock(ms(7));
    world.succeed(1, "1");
    world.clock(ms(4));
    world.succeed(2, "1");
    let held = |world: &mut World| -> Vec<_> {
        world.take_completions().into_iter().map(|completed| completed.held_micros).collect()
    };
    assert_eq!(held(&mut world), [None, Some(11_000)]);
    world.advance_connected(s(3));
    assert_eq!(
        held(&mut world),
        [None, Some(2_011_000)],
        "repeated after two seconds, and not because the way is long"
    );
}
