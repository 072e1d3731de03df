//! What people see of lines: rows, pages in line order, holders, and when what waits will start.

use std::time::Duration;

use slotline_protocol::lines::LineState;
use slotline_protocol::{ExecutionId, OutcomeKind, Timestamp};
use slotline_scheduler::{Input, Limits, OtherLines, WhichLine};

use crate::world::{World, at, key_slots, seconds, slots};

impl World {
    /// Lets it run for so long, and complete.
    fn run_for(&mut self, name: &str, length: Duration) {
        self.pass(length);
        let mut completed = self.word(name, OutcomeKind::Completed);
        if let Input::Completed { outcome, .. } = &mut completed {
            outcome.started_at = Some(outcome.ended_at - length);
        }
        self.tell(completed);
    }

    fn eta(&self, name: &str) -> Option<(Timestamp, Timestamp)> {
        let waiting = self.scheduler.explain_whole(self.id(name), self.now).expect("it waits");
        waiting.eta_low.zip(waiting.eta_high)
    }

    fn state(&self, action: &str) -> LineState {
        self.scheduler.line_row(self.action(action)).expect("a known action").state
    }

    /// The positions and ids of a page, and the cursor of the next.
    fn page(&self, which: &WhichLine, cursor: Option<&str>, limit: usize) -> (Vec<(u64, ExecutionId)>, Option<String>) {
        let id = self.action("email");
        let page = self.scheduler.waiting_page(id, which, cursor, limit, self.now).expect("it has such a line");
        (page.data.iter().map(|item| (item.position, item.execution_id)).collect(), page.next_cursor)
    }
}

fn placed(world: &World, expected: &[(u64, &str)]) -> Vec<(u64, ExecutionId)> {
    expected.iter().map(|(position, name)| (*position, world.id(name))).collect()
}

#[test]
fn a_line_says_in_one_word_how_it_stands() {
    let mut world = World::without_workers("email", slots(1));
    assert_eq!(world.state("email"), LineState::Idle);
    world.submit(["a"]);
    assert_eq!(world.state("email"), LineState::Stuck, "a slot is free, and no worker serves it");
    world.start_worker("w1", 2);
    assert_eq!(world.state("email"), LineState::Running);
    world.submit(["b"]);
    assert_eq!(world.state("email"), LineState::Waiting);
    world.pause("email");
    assert_eq!(world.state("email"), LineState::Paused);
}

#[test]
fn a_row_counts_what_waits_runs_started_and_failed() {
    let mut world = World::with_line("email", slots(2));
    world.submit(["a", "b", "c", "d"]);
    world.complete("a");
    world.end("b", OutcomeKind::Failed);
    let row = world.scheduler.line_row(world.action("email")).expect("a known action");
    assert_eq!((row.waiting, row.running, row.limit, row.keys), (0, 2, Some(2), 0));
    assert_eq!((row.total_enqueued, row.total_completed, row.started, row.failed), (4, 2, 4, 1));
    assert_eq!((row.oldest_enqueued_at, row.run_mean_seconds), (None, None));
}

#[test]
fn pages_follow_the_order_of_the_line_and_what_leaves_does_not_shift_them() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(0), ..slots(1) });
    world.submit(["a", "b", "c", "d", "e", "f"]);
    let (first, cursor) = world.page(&WhichLine::Only, None, 2);
    assert_eq!(first, placed(&world, &[(1, "b"), (2, "c")]));
    world.complete("a");
    world.cancel("c");
    let (second, cursor) = world.page(&WhichLine::Only, cursor.as_deref(), 2);
    assert_eq!(second, placed(&world, &[(1, "d"), (2, "e")]), "b runs, and c is gone");
    let (third, cursor) = world.page(&WhichLine::Only, cursor.as_deref(), 2);
    assert_eq!((third, cursor), (placed(&world, &[(3, "f")]), None));
    let (beyond, cursor) = world.page(&WhichLine::Only, Some("9000000.9000000"), 2);
    assert_eq!((beyond, cursor), (Vec::new(), None));
}

#[test]
fn each_key_has_pages_of_its_own() {
    let mut world = World::with_line("email", key_slots(1));
    world.submit_key("x", ["x1", "x2"]);
    world.submit_key("y", ["y1"]);
    world.submit(["k1", "k2"]);
    let key = |key: &str| WhichLine::Of(key.into());
    assert_eq!(world.page(&key("x"), None, 9).0, placed(&world, &[(1, "x2")]));
    assert_eq!(world.page(&WhichLine::Keyless, None, 9).0, placed(&world, &[(1, "k2")]));
    assert_eq!(world.page(&key("nothing"), None, 9), (Vec::new(), None));
    let id = world.action("email");
    let held = |which: Option<&WhichLine>| {
        let page = world.scheduler.holders_page(id, which, None, 9).expect("it has such a line");
        page.data.iter().map(|holder| holder.execution_id).collect::<Vec<_>>()
    };
    assert_eq!(held(Some(&key("y"))), [world.id("y1")]);
    assert_eq!(held(None), ["x1", "y1", "k1"].map(|name| world.id(name)));
    let refused = world.scheduler.waiting_page(id, &WhichLine::Only, None, 9, world.now);
    assert_eq!(refused.map(|_| ()), Err(OtherLines { has_keys: true }));
}

#[test]
fn holders_come_by_id_in_pages_with_their_workers() {
    let mut world = World::with_line("email", slots(3));
    world.submit(["a", "b", "c"]);
    let id = world.action("email");
    let first = world.scheduler.holders_page(id, None, None, 2).expect("one line");
    assert_eq!(first.data.iter().map(|holder| holder.execution_id).collect::<Vec<_>>(), [world.id("a"), world.id("b")]);
    assert!(first.data.iter().all(|holder| holder.worker.is_some() && !holder.is_uncertain));
    let after = first.next_cursor.and_then(|cursor| cursor.parse().ok());
    let second = world.scheduler.holders_page(id, None, after, 2).expect("one line");
    assert_eq!(second.data.iter().map(|holder| holder.execution_id).collect::<Vec<_>>(), [world.id("c")]);
    assert_eq!(second.next_cursor, None);
    let other = world.scheduler.holders_page(id, Some(&WhichLine::Keyless), None, 2);
    assert_eq!(other.map(|_| ()), Err(OtherLines { has_keys: false }));
}

#[test]
fn the_start_of_what_waits_is_foreseen_once_five_have_run() {
    let mut world = World::with_line("email", Limits { run_ahead: Some(0), ..slots(1) });
    world.submit(["a", "b", "c", "d", "e", "f", "g", "h"]);
    for name in ["a", "b", "c", "d"] {
        world.run_for(name, seconds(2));
    }
    assert_eq!(world.eta("g"), None, "four runs are too few");
    world.run_for("e", seconds(2));
    let begun = world.now;
    world.pass(seconds(1));
    let exactly = |length| Some((begun + seconds(length), begun + seconds(length)));
    assert_eq!((world.eta("g"), world.eta("h")), (exactly(2), exactly(4)));
    world.pause("email");
    assert_eq!(world.eta("g"), None, "nothing starts while it is paused");
}

#[test]
fn the_oldest_of_ten_thousand_keys_and_more_is_found() {
    let mut world = World::with_line("email", Limits { limit: Some(1), ..key_slots(1) });
    world.submit_key("first", ["a", "b"]);
    world.pass(seconds(1));
    for number in 0..10_001 {
        world.submit_one("email", Some(&format!("key {number}")), &format!("e{number}"));
    }
    let row = world.scheduler.line_row(world.action("email")).expect("a known action");
    assert_eq!((row.keys, row.waiting), (10_002, 10_002));
    assert_eq!(row.oldest_enqueued_at.map(|moment| moment < at(0) + seconds(1)), Some(true), "{row:?}");
}
