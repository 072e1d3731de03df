use uuid::Uuid;

use super::*;

const EPOCH: Epoch = Epoch(7);
const PATIENCE: Duration = Duration::from_secs(5);

struct World {
    rivals: Rivals,
    now: Timestamp,
    n: u64,
}

fn incarnation(number: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(number))
}

fn name() -> WorkerName {
    WorkerName::new("w1").expect("a name")
}

impl World {
    fn new() -> Self {
        Self { rivals: Rivals::default(), now: Timestamp::from_micros(1_000_000), n: 10 }
    }

    /// A heartbeat of a worker that has seen this; returns the workers that are refused by it.
    fn beats_with(&mut self, number: u128, seen: (i64, u64), is_draining: bool) -> Vec<Incarnation> {
        let process = Some(Process { host: format!("host-{number}"), pid: 42 });
        let sign = Sign { incarnation: incarnation(number), seen: (Epoch(seen.0), seen.1), is_draining, process };
        let refused = self.rivals.heard(&name(), sign, EPOCH, self.now, PATIENCE);
        refused.into_iter().map(|refused| refused.incarnation).collect()
    }

    fn beats(&mut self, number: u128, seen: u64) -> Vec<Incarnation> {
        self.beats_with(number, (EPOCH.0, seen), false)
    }

    /// A batch is cut; returns the workers that are greeted, each with its number.
    fn greets(&mut self) -> Vec<(Incarnation, u64)> {
        let n = &mut self.n;
        self.rivals.greet(|| {
            *n += 1;
            *n
        })
    }
}

#[test]
fn of_two_that_live_the_later_is_refused_and_hears_where_the_other_is() {
    let mut world = World::new();
    assert!(world.beats(1, 1).is_empty());
    assert!(world.greets().is_empty(), "it is alone");
    assert!(world.beats(2, 5).is_empty());
    assert_eq!(world.greets(), [(incarnation(1), 11)]);
    assert!(world.beats(1, 10).is_empty(), "this one may have been sent before");
    assert_eq!(world.greets(), [(incarnation(1), 12)], "the greeting may have been lost");
    assert_eq!(world.beats(1, 11), [incarnation(2)], "the first greeting suffices");
    assert!(world.greets().is_empty());
    let refusals = world.rivals.take_refusals();
    let reason = &refusals[&incarnation(2)];
    assert!(
        reason.starts_with("a worker named w1 runs already, on host host-1 as process 42, incarnation"),
        "{reason}"
    );
}

#[test]
fn one_that_was_killed_and_started_again_is_taken_however_late_the_last_word_of_the_dead_one_comes() {
    let mut world = World::new();
    world.beats(1, 9);
    world.beats(2, 10);
    assert_eq!(world.greets().len(), 1);
    // The heartbeats that the dead worker had sent: it has seen no greeting, and never will.
    for _ in 0..3 {
        assert!(world.beats(1, 10).is_empty());
        world.greets();
        assert!(world.beats(2, 99).is_empty());
    }
    world.rivals.departed(&name(), incarnation(1));
    assert!(world.beats(2, 99).is_empty());
    assert!(!world.rivals.is_waiting());
}

#[test]
fn a_greeting_that_was_for_one_proves_nothing_against_the_next() {
    let mut world = World::new();
    world.beats(1, 1);
    world.beats(2, 1);
    assert_eq!(world.greets(), [(incarnation(1), 11)]);
    // The first answers, and is killed; the answer arrives after the heartbeat of the third.
    world.beats(3, 1);
    assert_eq!(world.beats(1, 11), [incarnation(2)]);
    assert_eq!(world.greets(), [(incarnation(1), 12), (incarnation(2), 13)]);
}

#[test]
fn the_next_leader_holds_for_earlier_what_a_leader_before_has_greeted() {
    let mut world = World::new();
    world.beats(2, 1);
    assert!(world.beats_with(1, (6, 80), false).is_empty());
    assert_eq!(world.greets(), [(incarnation(1), 11)], "though it was heard later");
    assert_eq!(world.beats(1, 11), [incarnation(2)]);
}

#[test]
fn a_worker_that_drains_neither_refuses_nor_is_refused() {
    let mut world = World::new();
    world.beats(1, 1);
    world.beats_with(1, (EPOCH.0, 1), true);
    world.beats(2, 1);
    assert!(world.greets().is_empty());
    let mut world = World::new();
    world.beats(1, 1);
    world.beats(2, 1);
    world.greets();
    world.beats_with(2, (EPOCH.0, 1), true);
    assert!(world.beats(1, 11).is_empty());
}

#[test]
fn a_refusal_is_repeated_until_it_is_obeyed_and_is_news_once() {
    let mut world = World::new();
    world.beats(1, 1);
    world.beats(2, 1);
    world.greets();
    assert_eq!(world.beats(1, 11).len(), 1);
    assert_eq!(world.rivals.take_refusals().len(), 1);
    assert!(world.beats(2, 1).is_empty() && !world.rivals.is_waiting(), "it is on its way");
    world.now = world.now + PATIENCE;
    assert!(world.beats(2, 1).is_empty());
    assert_eq!(world.rivals.take_refusals().len(), 1);
    world.now = world.now + PATIENCE;
    world.beats_with(2, (EPOCH.0, 1), true);
    assert!(!world.rivals.is_waiting());
}
