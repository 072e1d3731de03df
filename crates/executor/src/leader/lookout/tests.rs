//! The lookout beside a real scheduler.

use std::collections::BTreeMap;

use slotline_protocol::message::{Heartbeat, Served};
use slotline_protocol::{ActionId, Epoch, Policy, WorkerName};
use slotline_scheduler::{Config, Counters, Input, Limits, ProbedQueue};
use uuid::Uuid;

use super::*;

const HEARTBEAT: Duration = Duration::from_secs(5);
const ACTION: ActionId = ActionId(1);

struct World {
    scheduler: Scheduler,
    lookout: Lookout,
    now: Timestamp,
}

fn action_ref() -> ActionRef {
    ActionRef::new("deploy.app").expect("a name")
}

fn incarnation(number: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(number))
}

/// The news, in short.
fn words(news: &[News]) -> Vec<String> {
    let word = |news: &News| match news {
        News::Joined(of, _) => format!("{} joined", of.worker),
        News::Silent(of) => format!("{} silent with {}", of.worker, of.leases),
        News::Back(of) => format!("{} back", of.worker),
        News::Draining(of) => format!("{} drains", of.worker),
        News::Unserved { waiting, .. } => format!("{waiting} wait"),
        News::Served(_) => "served".to_owned(),
        News::Unneeded(_) => "unneeded".to_owned(),
    };
    news.iter().map(word).collect()
}

impl World {
    fn new() -> Self {
        let config = Config { lease: Duration::from_secs(60), heartbeat: HEARTBEAT };
        let counters = Counters { next_id: 1, next_fence: 1, next_action: 2 };
        let now = Timestamp::from_micros(1_000_000);
        let mut scheduler = Scheduler::new(config, Epoch(7), counters);
        let limits = Limits::from(&Policy::default());
        scheduler.handle(Input::SessionOpened, now);
        scheduler.handle(Input::ActionPut { id: ACTION, action_ref: action_ref(), limits, paused: false }, now);
        Self { scheduler, lookout: Lookout::default(), now }
    }

    fn submits(&mut self) {
        self.scheduler.handle(Input::Requested { token: 0, action: ACTION, key: None, bytes: 2 }, self.now);
    }

    /// A heartbeat of worker `w<number>`, which was greeted by this leader or by the one before.
    fn beats(&mut self, number: u128, greeted_by: i64, draining: bool) -> Vec<String> {
        let heartbeat = Heartbeat {
            worker: WorkerName::new(&format!("w{number}")).expect("a name"),
            incarnation: incarnation(number),
            capacity: 1,
            holding: Vec::new(),
            unrecorded: Vec::new(),
            seen: (Epoch(greeted_by), 1),
            actions: vec![Served { action_ref: action_ref(), capabilities: Vec::new() }],
            labels: BTreeMap::new(),
            draining,
            sent_at: self.now,
            journal: None,
            highest: Default::default(),
            account: None,
            process: None,
        };
        let sign = Sign::of(&heartbeat);
        self.scheduler.handle(Input::Heartbeat(heartbeat), self.now);
        words(&self.lookout.heard(&self.scheduler, &sign, self.now))
    }

    /// Time passes, and the probes that leave then come back.
    fn passes(&mut self, time: Duration) -> Vec<String> {
        self.now = self.now + time;
        for queue in [ProbedQueue::Completions, ProbedQueue::Heartbeats] {
            self.scheduler.handle(Input::Probed { queue, published_at: self.now }, self.now);
        }
        words(&self.lookout.look(&self.scheduler, self.now))
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_worker_joins_falls_silent_is_back_and_drains_once_each() {
    let mut world = World::new();
    assert_eq!(world.beats(1, 7, false), ["w1 joined"]);
    world.submits();
    assert_eq!(world.beats(1, 7, false), NOTHING);
    assert_eq!(world.passes(HEARTBEAT * 2), NOTHING, "the second heartbeat may be on its way");
    assert_eq!(world.passes(HEARTBEAT), ["w1 silent with 1"]);
    assert_eq!(world.passes(HEARTBEAT), NOTHING);
    assert_eq!(world.beats(1, 7, false), ["w1 back"]);
    assert_eq!(world.beats(1, 7, true), ["w1 drains"]);
    assert_eq!(world.beats(1, 7, true), NOTHING);
}

#[test]
fn a_worker_that_a_leader_before_has_greeted_is_no_news() {
    let mut world = World::new();
    assert_eq!(world.beats(1, 6, true), NOTHING, "that it drains was said as well");
    assert_eq!(world.passes(HEARTBEAT * 3), ["w1 silent with 0"]);
}

#[test]
fn where_the_broker_is_away_or_the_leader_stood_still_no_worker_is_called_silent() {
    let mut world = World::new();
    world.beats(1, 7, false);
    world.now = world.now + HEARTBEAT * 10;
    assert_eq!(words(&world.lookout.look(&world.scheduler, world.now)), NOTHING, "no probe has come back");
    world.scheduler.handle(Input::SessionOpened, world.now);
    assert_eq!(world.passes(HEARTBEAT), NOTHING, "silence counts anew");
}

#[test]
fn an_action_without_a_worker_is_said_once_and_when_it_has_one_again() {
    let mut world = World::new();
    world.submits();
    world.submits();
    assert_eq!(world.passes(Duration::from_secs(1)), NOTHING);
    assert_eq!(world.passes(UNSERVED_AFTER), ["2 wait"]);
    assert_eq!(world.passes(UNSERVED_AFTER), NOTHING);
    assert_eq!(world.beats(1, 7, false), ["w1 joined", "served"]);
    // The second execution still waits, for room.
    assert_eq!(world.beats(1, 7, true), ["w1 drains"]);
    assert_eq!(world.passes(UNSERVED_AFTER), ["1 wait"], "a worker that drains takes nothing");
}

#[test]
fn a_worker_that_is_back_in_time_or_no_longer_needed_leaves_no_false_word() {
    let mut world = World::new();
    world.submits();
    world.passes(Duration::from_secs(1));
    assert_eq!(world.beats(1, 7, false), ["w1 joined"], "that it had none was not said");
    let mut world = World::new();
    world.submits();
    world.passes(Duration::from_secs(1));
    assert_eq!(world.passes(UNSERVED_AFTER), ["1 wait"]);
    let id = slotline_protocol::ExecutionId(1);
    world.scheduler.handle(Input::CancelRequested { id, reason: None }, world.now);
    assert_eq!(world.passes(HEARTBEAT), ["unneeded"]);
}
