//! Long chains against chance: whatever happens to a line that moves, its slots pass in order, no more run than may, what is
//! ahead stands first in line, and everything ends.

use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use slotline_protocol::message::EndReason;
use slotline_protocol::{ActionId, ExecutionId, OutcomeKind, Status};
use slotline_scheduler::{Input, Limits, Snapshot};

use crate::world::{World, key_slots, slots};

/// Executions of the line, and the most that its slots may be.
const COUNT: usize = 600;
const LIMIT_MAX: u32 = 2;

/// What happens; numbers pick among whatever there is to pick from.
#[derive(Clone, Debug)]
enum Step {
    /// So many complete, one after the other.
    Complete(usize),
    /// One fails, and its worker hands back all behind it.
    Fail,
    /// The worker obeys the recalls that it got.
    HandBack,
    /// One is cancelled, and its worker ends it if it is there.
    Cancel(usize),
    Put {
        limit: u32,
        paused: bool,
        has_keys: bool,
    },
    /// Another line wants the room.
    Other,
    NewLeader,
    EndWorker,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1_usize..80).prop_map(Step::Complete),
        2 => Just(Step::Fail),
        5 => Just(Step::HandBack),
        2 => (0_usize..COUNT).prop_map(Step::Cancel),
        3 => (1..=LIMIT_MAX, proptest::bool::weighted(0.3), proptest::bool::weighted(0.3))
            .prop_map(|(limit, paused, has_keys)| Step::Put { limit, paused, has_keys }),
        1 => Just(Step::Other),
        1 => Just(Step::NewLeader),
        1 => Just(Step::EndWorker),
    ]
}

struct Run {
    world: World,
    others: usize,
    workers: usize,
}

fn limits(limit: u32, has_keys: bool) -> Limits {
    let lines = if has_keys { key_slots(1) } else { slots(1) };
    Limits { limit: Some(limit), run_ahead: None, ..lines }
}

impl Run {
    fn new() -> Self {
        let world = World::without_workers("email", limits(1, false)).and_line("sms", slots(1)).with_worker("w", 2);
        let mut run = Self { world, others: 0, workers: 1 };
        for number in 0..COUNT {
            run.world.submit_one("email", None, &format!("{number:04}"));
        }
        run
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Complete(count) => {
                for _ in 0..count {
                    let Some(name) = self.world.running().first().cloned() else { break };
                    self.complete(&name);
                    self.check();
                }
            }
            Step::Fail => {
                if let Some(name) = self.world.running().first().cloned() {
                    self.world.fail(&name);
                    self.hand_back_from(0);
                }
            }
            Step::HandBack => self.obey(),
            Step::Cancel(number) => self.cancel(&format!("{number:04}")),
            Step::Put { limit, paused, has_keys } => {
                self.world.put("email", limits(limit, has_keys));
                if paused { self.world.pause("email") } else { self.world.resume("email") }
            }
            Step::Other => {
                self.others += 1;
                self.world.submit_one("sms", None, &format!("other {}", self.others));
            }
            Step::NewLeader => {
                self.world.change_leader();
                self.beat();
            }
            Step::EndWorker => {
                let worker = self.world.workers.keys().next().expect("a worker").clone();
                self.world.end_worker(&worker, EndReason::Fence);
                self.world.workers.clear();
                self.workers += 1;
                self.world.start_worker(&format!("w{}", self.workers), 2);
            }
        }
        self.check();
    }

    fn beat(&mut self) {
        let worker = self.world.workers.keys().next().expect("a worker").clone();
        self.world.beat(&worker);
    }

    /// The completion arrives a tenth of a millisecond after the one before, four milliseconds after its dispatch.
    fn complete(&mut self, name: &str) {
        self.world.now = self.world.now + Duration::from_micros(100);
        let mut word = self.world.word(name, OutcomeKind::Completed);
        if let Input::Completed { outcome, .. } = &mut word {
            let sent_at = self.world.snapshot(name).lease.expect("it runs").scheduled_at;
            outcome.held = Some(self.world.now.since(sent_at).saturating_sub(Duration::from_millis(4)));
        }
        self.world.tell(word);
    }

    /// Whichever recalls there are, the worker hands back the first of them that has not begun, and all behind it.
    fn obey(&mut self) {
        let recalled = self.world.recalled();
        let first = self.world.ahead().iter().position(|name| recalled.contains(name));
        if let Some(first) = first {
            self.hand_back_from(first);
        }
    }

    fn hand_back_from(&mut self, first: usize) {
        for name in self.world.ahead().into_iter().skip(first) {
            let word = self.world.hand_back(&name, false, "recall");
            self.world.tell(word);
            self.check_slots();
        }
    }

    fn cancel(&mut self, name: &str) {
        let Some(at) = self.world.scheduler.status(self.world.id(name)) else { return };
        let ahead = self.world.ahead();
        self.world.cancel(name);
        if at != Status::Queued {
            self.world.end(name, OutcomeKind::Cancelled);
            self.hand_back_from(0);
        } else if let Some(position) = ahead.iter().position(|other| other == name) {
            self.world.end(name, OutcomeKind::Cancelled);
            self.hand_back_from(position);
        }
    }

    /// Executions that are ahead stand first, and in order.
    fn check(&self) {
        let (id, waiting) = self.check_slots();
        let ahead: Vec<_> = self.world.ahead().iter().map(|name| self.world.id(name)).collect();
        let first = &waiting[..waiting.len().min(ahead.len())];
        assert!(ahead.len() <= 256 && first == ahead, "{ahead:?} are ahead, and {first:?} are the first in line");
        let stats = self.world.scheduler.queue_stats(id, self.world.now).expect("a known action");
        assert_eq!(stats.ahead_count, ahead.len() as u64);
    }

    /// No slot is one too many, and none is held by an execution that stands behind one that waits. Returns those that do.
    fn check_slots(&self) -> (ActionId, Vec<ExecutionId>) {
        let id = self.world.action("email");
        let live: Vec<&Snapshot> = self.world.journal.values().filter(|one| one.action == id).collect();
        let held: Vec<ExecutionId> = live.iter().filter(|one| one.leased().is_some()).map(|one| one.id).collect();
        let waiting: Vec<ExecutionId> = live.iter().filter(|one| one.leased().is_none()).map(|one| one.id).collect();
        assert!(held.len() <= LIMIT_MAX as usize, "{held:?}");
        let last = held.iter().max().copied().unwrap_or(ExecutionId(0));
        assert!(waiting.iter().all(|other| *other > last), "{last} has a slot before one that waits in front of it");
        (id, waiting)
    }

    fn end(&mut self) {
        self.world.put("email", limits(1, false));
        self.world.resume("email");
        while !self.world.journal.is_empty() {
            self.obey();
            let name = self.world.running().first().cloned().expect("something runs as long as something waits");
            self.complete(&name);
            self.check();
        }
        self.world.assert_nothing_is_left();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_a_line_that_moves_its_slots_pass_in_order(steps in proptest::collection::vec(step(), 1..40)) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
        run.end();
    }
}
