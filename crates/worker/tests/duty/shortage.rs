//! A worker that is short of something: what it can't start is handed back, and it takes less until that has passed.

use slotline_protocol::OutcomeKind;
use slotline_worker::duty::{Effect, Input, RAISE_AFTER, RAISE_AFTER_MAX, Shortage};

use super::world::{World, key, s};

fn short(world: &mut World, id: i64) {
    world.input(Input::Unstarted { key: key(id), shortage: Shortage::Files });
}

/// The capacity that each heartbeat since the last look has announced.
fn capacities(world: &mut World) -> Vec<u32> {
    world.take_heartbeats().into_iter().map(|beat| beat.capacity).collect()
}

#[test]
fn what_the_worker_had_too_little_to_start_is_handed_back_unstarted_and_uncharged() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).after(1).send();
    short(&mut world, 1);
    assert_eq!(
        world.take_returned(),
        [(key(1), "shortage".to_owned(), false), (key(2), "predecessor".to_owned(), false)]
    );
    assert_eq!(world.take_completed(), [], "it is no failure of the job's");
    assert!(world.duty.running().next().is_none());
}

#[test]
fn a_shortage_lowers_the_capacity_to_what_runs_at_once_and_is_told_once() {
    let mut world = World::new();
    (1..=4).for_each(|id| world.dispatch(id).send());
    (1..=2).for_each(|id| world.started(id));
    world.take_heartbeats();
    short(&mut world, 3);
    short(&mut world, 4);
    assert_eq!(capacities(&mut world), [3], "of two that fail together the second is no news");
    let told = world.take(|effect| match effect {
        Effect::TakeLess { shortage, most } => Some((*shortage, *most)),
        _ => None,
    });
    assert_eq!(told, [(Shortage::Files, 3)]);
    world.dispatch(5).send();
    assert_eq!(world.take_returned().last().map(|returned| returned.1.clone()).as_deref(), Some("shortage"));
    assert_eq!(world.take_started(), [key(1), key(2), key(3), key(4)], "the fifth was not even tried");
}

#[test]
fn a_worker_tries_twice_as_much_each_time_until_it_takes_all_again() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.take_heartbeats();
    short(&mut world, 1);
    assert_eq!(capacities(&mut world), [0]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        world.advance(RAISE_AFTER);
        seen.extend(capacities(&mut world).last().copied());
    }
    assert_eq!(seen, [1, 2, 4]);
    let all = world.take(|effect| matches!(effect, Effect::TakeAll).then_some(()));
    assert_eq!(all.len(), 1);
}

#[test]
fn a_shortage_that_lasts_is_tried_less_and_less_often() {
    let mut world = World::new();
    let mut id = 0;
    let mut fail = |world: &mut World| {
        id += 1;
        world.dispatch(id).send();
        short(world, id);
        world.take_heartbeats();
    };
    fail(&mut world);
    let mut wait = RAISE_AFTER;
    while wait < RAISE_AFTER_MAX {
        world.advance_connected(wait - s(1));
        world.dispatch(1_000 + i64::try_from(wait.as_secs()).expect("small")).send();
        assert_eq!(world.take_returned().last().map(|returned| returned.2), Some(false), "it takes none yet");
        world.advance_connected(s(1));
        fail(&mut world);
        wait = (wait * 2).min(RAISE_AFTER_MAX);
    }
}

#[test]
fn one_that_was_cancelled_before_it_could_not_be_started_ends_as_cancelled() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.cancel(1, None);
    short(&mut world, 1);
    assert_eq!(world.take_completed(), [(key(1), OutcomeKind::Cancelled, Some("cancelled".to_owned()))]);
    assert_eq!(world.take_returned(), []);
}
