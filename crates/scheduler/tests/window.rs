//! How far ahead a line is sent: as much as covers the way to its worker and back twice, refilled when half is gone, and
//! back within one round trip when its slot or its worker's room is another's turn.

use std::collections::VecDeque;
use std::time::Duration;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{Fence, Incarnation, OutcomeKind, Timestamp};
use slotline_scheduler::{BULKY_BYTES, Dispatch, Input, Limits, Order};

use crate::world::{HEARTBEAT, WORKER, World, key_slots, outcome, seconds, slots};

const MS: Duration = Duration::from_millis(1);
/// From the scheduler to the worker, or back.
const HOP: Duration = Duration::from_millis(2);

/// One slot, and as many ahead as fit.
fn fitting() -> Limits {
    Limits { run_ahead: None, ..slots(1) }
}

/// A report under way: when it arrives, and what it reports.
type Report = (Timestamp, AttemptKey, Fence, Incarnation, Duration);

/// A worker two milliseconds away, whose attempts take a given time each, one after the other.
struct Remote {
    world: World,
    runs: Duration,
    reports: VecDeque<Report>,
    /// When the last attempt ends there.
    free_at: Timestamp,
    heard: usize,
    /// How many dispatches came with each batch that had any.
    batches: Vec<usize>,
    most_ahead: u64,
}

impl Remote {
    fn new(world: World, runs: Duration) -> Self {
        let (free_at, heard) = (world.now, 0);
        let mut remote =
            Self { world, runs, reports: VecDeque::new(), free_at, heard, batches: Vec::new(), most_ahead: 0 };
        remote.hear();
        remote.most_ahead = remote.ahead();
        remote
    }

    /// The dispatches since the last time arrive, and their attempts end in turn.
    fn hear(&mut self) {
        let sent: Vec<_> = self.world.orders[self.heard..].to_vec();
        self.heard = self.world.orders.len();
        let dispatches: Vec<(Incarnation, Dispatch)> = sent
            .into_iter()
            .filter_map(|sent| match sent.order {
                Order::Dispatch(dispatch) => Some((sent.incarnation, dispatch)),
                Order::Recorded { .. } | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => None,
            })
            .collect();
        self.batches.extend((!dispatches.is_empty()).then_some(dispatches.len()));
        for (incarnation, dispatch) in dispatches {
            let came_at = self.world.now + HOP;
            self.free_at = self.free_at.max(came_at) + self.runs;
            let key = (dispatch.id, dispatch.attempt);
            let report = (self.free_at + HOP, key, dispatch.fence, incarnation, self.free_at.since(came_at));
            self.reports.push_back(report);
        }
    }

    /// The next report arrives. False if none is under way.
    fn step(&mut self) -> bool {
        let Some((at, key, fence, incarnation, held)) = self.reports.pop_front() else { return false };
        self.world.now = self.world.now.max(at);
        let name = self.world.name(key.0);
        self.world.word(&name, OutcomeKind::Completed);
        let mut outcome = outcome(OutcomeKind::Completed, self.world.now);
        outcome.held = Some(held);
        self.world.tell(Input::Completed { key, fence, incarnation, outcome });
        self.most_ahead = self.most_ahead.max(self.ahead());
        self.hear();
        true
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            assert!(self.step(), "something is under way");
        }
    }

    fn ahead(&self) -> u64 {
        let action = self.world.actions.values().next().expect("an action").0;
        self.world.scheduler.queue_stats(action, self.world.now).expect("a known action").ahead_count
    }
}

/// A line of so many executions, each of which takes so long, after so many have ended.
fn line(limits: Limits, runs: Duration, steps: usize) -> Remote {
    let mut world = World::with_line("email", limits);
    world.submit_many(2_000);
    let mut remote = Remote::new(world, runs);
    remote.steps(steps);
    remote
}

#[test]
fn a_line_goes_as_fast_as_its_worker() {
    for (micros, of_ideal) in [(20, 0.7), (100, 0.9), (1_000, 0.98), (10_000, 0.99)] {
        let runs = Duration::from_micros(micros);
        let mut world = World::with_line("email", fitting());
        world.submit_many(2_000);
        let began = world.now;
        let mut remote = Remote::new(world, runs);
        while remote.step() {}
        let took = remote.world.now.since(began);
        // What starts a line is a few round trips, whatever the window.
        let ideal = runs * 2_000 + 14 * HOP;
        assert!(took.mul_f64(of_ideal) <= ideal, "{took:?} of {ideal:?} for {runs:?}");
        assert_eq!(remote.world.finished().len(), 2_000);
        remote.world.assert_nothing_is_left();
    }
}

#[test]
fn as_many_are_ahead_as_cover_the_way_there_and_back_twice() {
    for (runs, expected) in [(MS, 8), (2 * MS, 4), (4 * MS, 2), (10 * MS, 1), (seconds(600), 1)] {
        let mut remote = line(fitting(), runs, 100);
        remote.most_ahead = 0;
        remote.steps(100);
        assert_eq!(remote.most_ahead, expected, "for {runs:?}");
    }
    assert_eq!(line(fitting(), Duration::from_micros(2), 1_900).most_ahead, 256, "and never more than this");
}

#[test]
fn half_of_the_window_is_refilled_at_once() {
    let mut remote = line(fitting(), MS, 100);
    remote.batches.clear();
    remote.steps(100);
    assert!(remote.batches.iter().all(|count| (4..=5).contains(count)), "{:?}", remote.batches);
}

#[test]
fn a_number_is_a_ceiling_and_nothing_more() {
    let most = |run_ahead, runs| line(Limits { run_ahead: Some(run_ahead), ..slots(1) }, runs, 200).most_ahead;
    assert_eq!([most(0, MS), most(3, MS), most(100, MS)], [0, 3, 8]);
    assert_eq!(most(100, seconds(60)), 2, "the first window, before anything is known");
}

#[test]
fn long_executions_have_one_ahead_after_the_second() {
    let mut remote = line(fitting(), seconds(60), 2);
    for _ in 0..20 {
        remote.steps(1);
        assert_eq!(remote.ahead(), 1);
    }
}

#[test]
fn a_pause_and_a_narrower_limit_call_all_of_a_long_chain_back_at_once() {
    let mut remote = line(fitting(), Duration::from_micros(20), 1_000);
    let ahead = remote.world.ahead();
    assert!(ahead.len() > 100, "{}", ahead.len());
    remote.world.pause("email");
    assert_eq!(remote.world.recalled(), ahead);
    for name in &ahead {
        let word = remote.world.hand_back(name, false, "recall");
        remote.world.tell(word);
    }
    remote.world.resume("email");
    assert_eq!(remote.world.ahead(), [""; 0], "not before the slot changes hands");
    let running = remote.world.running();
    remote.world.complete(&running[0]);
    assert_eq!(remote.world.ahead().len(), 2, "the window grows anew");
    remote.world.run_until_idle();
    let finished = remote.world.finished();
    assert!(finished.is_sorted(), "in order all the same");
    assert_eq!(finished.len(), 2_000);
}

#[test]
fn another_key_whose_turn_it_is_calls_the_chain_back_at_once() {
    let limits = Limits { limit: Some(1), run_ahead: None, ..key_slots(1) };
    let mut world = World::with_line("email", limits);
    world.submit_key("x", ["x1", "x2", "x3", "x4"]);
    assert_eq!(world.ahead(), ["x2", "x3"]);
    world.submit_key("y", ["y1"]);
    assert_eq!(world.recalled(), ["x2", "x3"]);
    world.submit_key("z", ["z1"]);
    assert_eq!(world.recalled(), ["x2", "x3"], "once");
    for name in ["x2", "x3"] {
        let word = world.hand_back(name, false, "recall");
        world.tell(word);
    }
    world.complete("x1");
    assert_eq!(world.running(), ["y1"]);
}

#[test]
fn another_line_that_waits_for_the_room_calls_the_chain_back_at_once() {
    let mut world = World::without_workers("email", fitting()).and_line("sms", slots(1)).with_worker("w", 1);
    world.submit_to("email", None, ["e1", "e2", "e3", "e4"]);
    assert_eq!(world.ahead(), ["e2", "e3"]);
    world.submit_to("sms", None, ["s1"]);
    assert_eq!(world.recalled(), ["e2", "e3"], "else it would have the room before s1");
    for name in ["e2", "e3"] {
        let word = world.hand_back(name, false, "recall");
        world.tell(word);
    }
    world.complete("e1");
    assert_eq!(world.running(), ["s1"]);
    world.complete("s1");
    assert_eq!((world.running(), world.ahead()), (vec!["e2".to_owned()], vec!["e3".to_owned(), "e4".to_owned()]));
}

#[test]
fn another_line_that_has_room_elsewhere_calls_nothing_back() {
    let mut world = World::without_workers("email", fitting()).and_line("sms", slots(1));
    world.start_worker("w1", 1);
    world.submit_to("email", None, ["e1", "e2", "e3"]);
    world.start_worker("w2", 1);
    world.submit_to("sms", None, ["s1"]);
    assert_eq!((world.recalled(), world.ahead().len()), (vec![], 2));
}

#[test]
fn what_waits_behind_one_that_takes_longer_than_the_line_did_comes_back_but_for_the_next() {
    let mut remote = line(fitting(), MS, 100);
    let ahead = remote.world.ahead();
    remote.world.pass(HEARTBEAT);
    remote.world.beat(WORKER);
    assert_eq!(remote.world.recalled(), [""; 0], "it may have been held up for a moment");
    remote.world.pass(HEARTBEAT + MS);
    remote.world.beat(WORKER);
    assert_eq!(remote.world.recalled(), ahead[1..]);
}

#[test]
fn the_window_grows_anew_when_a_chain_is_handed_back() {
    let mut remote = line(fitting(), Duration::from_micros(20), 1_000);
    let (running, ahead) = (remote.world.running(), remote.world.ahead());
    remote.world.fail(&running[0]);
    for name in &ahead {
        let word = remote.world.hand_back(name, false, "predecessor");
        remote.world.tell(word);
    }
    assert_eq!(remote.world.running(), [ahead[0].clone()]);
    assert_eq!(remote.world.ahead().len(), 2);
}

#[test]
fn of_executions_with_large_parameters_few_are_ahead() {
    let mut world = World::with_line("email", fitting());
    world.submit_many(1_000);
    world.parameter_bytes = BULKY_BYTES + 1;
    world.submit(["large 1", "large 2", "large 3", "large 4", "large 5", "large 6"]);
    world.parameter_bytes = BULKY_BYTES;
    world.submit(["small 1", "small 2"]);
    let mut remote = Remote::new(world, Duration::from_micros(20));
    remote.steps(999);
    let large = |world: &World| world.ahead().iter().filter(|name| name.starts_with("large")).count();
    while remote.world.running() != ["large 5"] {
        assert!(large(&remote.world) <= 4, "{:?}", remote.world.ahead());
        remote.steps(1);
    }
    let ahead = remote.world.ahead();
    assert!(ahead.ends_with(&["small 1".to_owned(), "small 2".to_owned()]), "{ahead:?}");
    remote.world.change_leader();
    remote.world.run_until_idle();
    remote.world.assert_nothing_is_left();
}

#[test]
fn lines_that_share_a_worker_share_what_may_be_ahead_there() {
    let mut world = World::with_line("email", Limits { run_ahead: None, ..key_slots(1) });
    world.scheduler.bound_held(400);
    for line in 0..40 {
        for number in 0..60 {
            world.submit_one("email", Some(&format!("{line}")), &format!("{line:02} {number:02}"));
        }
    }
    let mut remote = Remote::new(world, Duration::from_micros(20));
    for _ in 0..2_000 {
        remote.steps(1);
        assert!(remote.ahead() <= 100, "a quarter of what the worker holds: {}", remote.ahead());
    }
    while remote.step() {}
    remote.world.assert_nothing_is_left();
}

#[test]
fn a_new_leader_goes_on_with_a_long_chain() {
    let mut remote = line(fitting(), Duration::from_micros(20), 1_000);
    let (running, ahead) = (remote.world.running(), remote.world.ahead());
    remote.world.change_leader();
    remote.heard = 0;
    remote.world.beat(WORKER);
    assert_eq!((remote.world.running(), remote.world.ahead()), (running, ahead));
    assert_eq!(remote.world.recalled(), [""; 0]);
    while remote.step() {}
    let finished = remote.world.finished();
    assert!(finished.is_sorted());
    assert_eq!(finished.len(), 2_000);
    remote.world.assert_nothing_is_left();
}
