//! What the design says must be simulated by name: each was found by attacking the protocol.

use std::rc::Rc;

use slotline_protocol::message::{AttemptKey, Recall};
use slotline_protocol::{Epoch, ExecutionId, Fence, Incarnation, Policy, Status, message};
use slotline_worker::duty::Order;

use crate::clock::{MS, Micros, SECOND};
use crate::faults::{Blow, Fault, Node, Rates};
use crate::history::Fact;
use crate::journal::action_ref;
use crate::mail::{chained, parameters};
use crate::plan::{Operation, Plan};
use crate::wire::{Body, Queue, Route};
use crate::world::World;

/// No scenario takes longer than that.
const LONG: Micros = 2_000 * SECOND;

struct Scene(World);

impl Scene {
    fn new(plan: Plan) -> Self {
        let calm_at = LONG / 4;
        Self(World::new(Plan { calm_at, ..plan }, true))
    }

    fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.0.stage.history.iter().flatten().map(|entry| &entry.fact)
    }

    fn count(&self, is_it: impl Fn(&Fact) -> bool) -> usize {
        self.facts().filter(|fact| is_it(fact)).count()
    }

    fn has(&self, is_it: impl Fn(&Fact) -> bool) -> bool {
        self.count(is_it) > 0
    }

    fn until(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let end = self.0.stage.now + LONG;
        while !is_there(self) {
            assert!(self.0.stage.now < end && self.0.step(), "{what} never came: {:?}", self.0.stage.violation);
        }
    }

    fn wait(&mut self, lasts: Micros) {
        let end = self.0.stage.now + lasts;
        while self.0.stage.next_at().is_some_and(|at| at <= end) && self.0.step() {}
        self.0.stage.now = end;
    }

    fn leader(&self) -> usize {
        let leaders = self.0.executors.iter().filter(|executor| executor.leads());
        leaders.max_by_key(|executor| executor.epoch()).map(|executor| executor.index).expect("someone leads")
    }

    /// Runs to the end. Every rule holds.
    fn end(mut self) -> Self {
        while self.0.step() {}
        assert_eq!(self.0.stage.violation, None);
        self
    }

    /// What was published that is like this.
    fn published(&self, is_it: impl Fn(&Body) -> bool) -> Option<(Route, Rc<Body>)> {
        self.0.stage.published.iter().find(|(_, body)| is_it(body)).cloned()
    }

    fn begins(&self, id: i64) -> usize {
        self.count(|fact| matches!(fact, Fact::Began { execution, .. } if execution.0 == id))
    }

    fn incarnation(&self, worker: usize) -> Incarnation {
        self.0.workers[worker].incarnation().expect("it is up")
    }

    /// Puts an order into a worker's queue, as a leader would.
    fn order(&mut self, worker: usize, order: Order) {
        let queue = Queue::Worker(self.incarnation(worker));
        let World { broker, stage, .. } = &mut self.0;
        broker.duplicate(queue, Rc::new(Body::Orders(vec![order])), stage);
    }
}

fn is_dispatch_of(body: &Body, id: i64) -> bool {
    matches!(body, Body::Orders(orders) if orders.iter().any(|order| {
        matches!(order, Order::Scheduled(order) if order.execution_id.0 == id)
    }))
}

fn is_settled(fact: &Fact, id: i64) -> bool {
    matches!(fact, Fact::Settled { execution, .. } if execution.0 == id)
}

/// One slot, two workers, two executors, two requests that run for some seconds.
fn two_of_all() -> Plan {
    let mut plan = Plan::calm(2, 1, 2);
    plan.requests.iter_mut().for_each(|request| request.runs_for = Some(10 * SECOND));
    plan
}

#[test]
fn thawed_worker_never_starts_or_resumes_under_a_lost_incarnation() {
    // It runs something when it freezes with its machine, and something else is sent to it meanwhile.
    let mut plan = Plan::calm(1, 2, 2);
    plan.requests.iter_mut().for_each(|request| request.runs_for = Some(30 * SECOND));
    plan.requests[1].at = 8 * SECOND;
    let mut scene = Scene::new(plan);
    scene.until("the first start", |scene| scene.begins(1) == 1);
    scene.0.freeze(Node::Worker(0), true, 100 * SECOND);
    scene.until("the loss", |scene| {
        scene.has(|fact| matches!(fact, Fact::Released { execution, .. } if execution.0 == 2))
    });
    assert_eq!(scene.begins(2), 0);
    let scene = scene.end();
    assert!(!scene.has(|fact| matches!(fact, Fact::Resumed { .. })), "what ran is killed before it goes on");
    assert!(!scene.has(|fact| matches!(fact, Fact::Began { execution, attempt: 1, .. } if execution.0 == 2)));
}

#[test]
fn a_worker_that_freezes_with_its_first_heartbeat_starts_nothing_when_it_thaws() {
    let mut plan = Plan::calm(1, 1, 1);
    plan.requests[0].at = 2 * SECOND;
    let mut scene = Scene::new(plan);
    scene.until("the first heartbeat", |scene| scene.published(|body| matches!(body, Body::Heartbeat(_))).is_some());
    scene.0.freeze(Node::Worker(0), false, 100 * SECOND);
    scene.until("the loss", |scene| scene.has(|fact| matches!(fact, Fact::Released { .. })));
    // Who has declared it lost is slow to say so.
    scene.until("the thaw", |scene| scene.0.stage.now > 99 * SECOND);
    let leader = scene.leader();
    scene.0.freeze(Node::Executor(leader), false, 5 * SECOND);
    let scene = scene.end();
    assert!(!scene.has(|fact| matches!(fact, Fact::Began { attempt: 1, .. })));
}

#[test]
fn a_line_that_waits_for_a_day_goes_on_in_its_order_whoever_dies_meanwhile() {
    const HOUR: Micros = 3_600 * SECOND;
    let mut plan = Plan::calm(2, 1, 3);
    plan.requests.iter_mut().for_each(|request| request.runs_for = Some(8 * HOUR));
    let mut scene = Scene(World::new(Plan { calm_at: 24 * HOUR, ..plan }, true));
    for hour in [1, 9, 17] {
        scene.wait(hour * HOUR - scene.0.stage.now);
        let leader = scene.leader();
        scene.0.crash_executor(leader);
    }
    scene.wait(24 * HOUR - scene.0.stage.now);
    assert!(!scene.has(|fact| is_settled(fact, 3)), "eight hours each, one after the other");
    let scene = scene.end();
    assert_eq!([1, 2, 3].map(|id| scene.begins(id)), [1; 3], "and nobody was lost");
}

#[test]
fn a_queue_that_refuses_heartbeats_isolates_the_worker_before_it_is_lost() {
    // Others get in, the leader's probes among them: so it counts the silence of this worker and declares its loss.
    let mut plan = Plan::calm(1, 1, 1);
    plan.requests[0].runs_for = Some(100 * SECOND);
    let mut scene = Scene::new(plan);
    scene.until("the start", |scene| scene.begins(1) == 1);
    scene.0.broker.refused = Some(0);
    scene.until("the loss", |scene| scene.has(|fact| matches!(fact, Fact::Released { .. })));
    scene.0.broker.refused = None;
    assert_eq!(scene.end().begins(1), 2);
}

#[test]
fn a_queue_that_refuses_heartbeats_for_less_than_a_fence_ends_nothing() {
    let mut plan = Plan::calm(1, 1, 1);
    plan.requests[0].runs_for = Some(100 * SECOND);
    let mut scene = Scene::new(plan);
    scene.until("the start", |scene| scene.begins(1) == 1);
    scene.0.broker.refused = Some(0);
    scene.wait(35 * SECOND);
    scene.0.broker.refused = None;
    assert_eq!(scene.end().begins(1), 1);
}

#[test]
fn redelivered_dispatch_after_recorded_is_dropped() {
    let mut scene = Scene::new(Plan::calm(1, 1, 1));
    scene.until("the end", |scene| scene.has(|fact| matches!(fact, Fact::Recorded { .. })));
    scene.wait(SECOND);
    let (route, body) = scene.published(|body| is_dispatch_of(body, 1)).expect("it was dispatched");
    let Route::To(queue) = route else { panic!("{route:?}") };
    let World { broker, stage, .. } = &mut scene.0;
    broker.duplicate(queue, body, stage);
    scene.wait(5 * SECOND);
    assert_eq!(scene.end().begins(1), 1);
}

#[test]
fn deposed_leaders_publish_arrives_after_the_new_leader_settled() {
    let mut plan = Plan::calm(1, 1, 1);
    plan.requests[0].runs_for = Some(SECOND);
    let mut scene = Scene::new(plan);
    scene.until("the grant", |scene| scene.has(|fact| matches!(fact, Fact::Granted { .. })));
    let deposed = scene.leader();
    // It freezes with the dispatch in its hands.
    scene.0.freeze(Node::Executor(deposed), false, 100 * SECOND);
    scene.until("the end", |scene| scene.has(|fact| is_settled(fact, 1)));
    assert_ne!(scene.leader(), deposed);
    scene.wait(MS);
    scene.0.thaw(Node::Executor(deposed));
    scene.wait(5 * SECOND);
    let epochs = scene.0.stage.published.iter().filter_map(|(_, body)| match &**body {
        Body::Orders(orders) => orders.iter().find_map(|order| match order {
            Order::Scheduled(order) => Some(order.epoch),
            _ => None,
        }),
        _ => None,
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [Epoch(2), Epoch(1)], "the old leader's dispatch leaves after all");
    assert_eq!(scene.end().begins(1), 1);
}

#[test]
fn frozen_old_leader_still_consuming_declares_nobody_lost() {
    let mut plan = two_of_all();
    plan.requests.iter_mut().for_each(|request| request.runs_for = Some(40 * SECOND));
    let mut scene = Scene::new(plan);
    scene.until("the first start", |scene| scene.begins(1) == 1);
    let deposed = scene.leader();
    // Long enough to be deposed, too short for the broker to give its session up.
    scene.0.freeze(Node::Executor(deposed), false, 15 * SECOND);
    let scene = scene.end();
    assert_eq!(scene.count(|fact| matches!(fact, Fact::Led { .. })), 2);
    assert_eq!((scene.begins(1), scene.begins(2)), (1, 1));
}

#[test]
fn returned_dispatch_while_the_attempt_runs_keeps_the_lease() {
    let mut plan = Plan::calm(1, 1, 1);
    plan.requests[0].runs_for = Some(20 * SECOND);
    plan.requests[0].cancel_at = Some(5 * SECOND);
    let mut scene = Scene::new(plan);
    scene.until("the start", |scene| scene.begins(1) == 1);
    // The queue is gone, and its worker can't know.
    scene.0.stage.cut(Node::Worker(0), true, true);
    let World { broker, stage, .. } = &mut scene.0;
    broker.empty_workers(stage);
    scene.until("the cancel", |scene| {
        scene
            .published(|body| matches!(body, Body::Orders(orders) if matches!(orders[..], [Order::Cancel(_)])))
            .is_some()
    });
    scene.wait(2 * SECOND);
    assert!(!scene.has(|fact| matches!(fact, Fact::Released { .. })), "the order came back, and the lease stands");
    scene.0.stage.mend(Node::Worker(0));
    let scene = scene.end();
    assert_eq!(scene.begins(1), 1);
}

#[test]
fn unknown_commit_with_the_next_batch_pipelined() {
    for is_applied in [false, true] {
        let mut scene = Scene::new(Plan::calm(1, 1, 5));
        scene.until("the leader", |scene| scene.has(|fact| matches!(fact, Fact::Accepted { .. })));
        // Half of the unknown are applied: chance is asked until it says what is wanted.
        scene.0.stage.rates = Rates { commit_unknown: 10_000, ..Rates::default() };
        while {
            let mut ahead = scene.0.stage.chance.clone();
            ahead.next();
            ahead.percent(50)
        } == is_applied
        {
            scene.0.stage.chance.next();
        }
        scene.until("the next leader", |scene| scene.0.journal().epoch() > Epoch(1));
        scene.0.stage.rates = Rates::default();
        let scene = scene.end();
        assert_eq!(scene.count(|fact| matches!(fact, Fact::Settled { status: Status::Completed, .. })), 5);
        assert_eq!(scene.count(|fact| matches!(fact, Fact::Began { .. })), 5);
    }
}

#[test]
fn drain_or_loss_overtakes_a_confirmed_completion() {
    let mut plan = Plan::calm(1, 1, 1);
    plan.requests[0].runs_for = Some(3 * SECOND);
    let mut scene = Scene::new(plan);
    scene.until("the start", |scene| scene.begins(1) == 1);
    scene.0.stage.rates.dropped = 10_000;
    scene.until("the completion", |scene| scene.published(|body| matches!(body, Body::Completed(_))).is_some());
    scene.wait(100 * MS);
    let World { workers, processes, stage, .. } = &mut scene.0;
    workers[0].drain(processes, stage);
    scene.until("the last word", |scene| scene.published(|body| matches!(body, Body::Ended(_))).is_some());
    scene.0.stage.rates.dropped = 0;
    scene.until("the end", |scene| scene.has(|fact| is_settled(fact, 1)));
    let (_, completed) = scene.published(|body| matches!(body, Body::Completed(_))).expect("it was told");
    let queue = Queue::Completions(scene.0.journal().epoch());
    let World { broker, stage, .. } = &mut scene.0;
    broker.duplicate(queue, completed, stage);
    let scene = scene.end();
    assert!(scene.has(|fact| matches!(fact, Fact::Settled { status: Status::Completed, .. })));
    assert_eq!(scene.begins(1), 1);
}

#[test]
fn cancel_overtakes_dispatch_then_the_worker_is_lost() {
    let mut plan = Plan::calm(1, 1, 1);
    plan.workers[0].has_lock = false;
    plan.requests[0].at = 2 * SECOND;
    plan.requests[0].cancel_at = Some(2 * SECOND + 100 * MS);
    let mut scene = Scene::new(plan);
    scene.until("the request", |scene| scene.has(|fact| matches!(fact, Fact::Accepted { .. })));
    scene.0.stage.rates.dropped = 10_000;
    scene.until("the dispatch", |scene| scene.published(|body| is_dispatch_of(body, 1)).is_some());
    scene.wait(50 * MS);
    scene.0.stage.rates.dropped = 0;
    scene.until("the cancel", |scene| {
        scene
            .published(|body| matches!(body, Body::Orders(orders) if matches!(orders[..], [Order::Cancel(_)])))
            .is_some()
    });
    scene.wait(100 * MS);
    scene.0.crash_worker(0);
    let scene = scene.end();
    assert!(scene.has(|fact| matches!(fact, Fact::Settled { status: Status::Cancelled, .. })));
    assert_eq!(scene.begins(1), 0);
    assert_eq!(scene.count(|fact| matches!(fact, Fact::Granted { .. })), 1, "it is never tried again");
}

// ---- chains: the duty book knows them, the scheduler does not grant any yet; so their leader is this hand ----

struct Chain {
    scene: Scene,
    n: u64,
}

const PREDECESSOR: AttemptKey = (ExecutionId(1), 1);
const SUCCESSOR: AttemptKey = (ExecutionId(2), 1);

impl Chain {
    /// A worker that is alive, and a leader made by hand.
    fn new() -> Self {
        let mut plan = Plan::calm(1, 2, 2);
        plan.executors.clear();
        plan.requests.iter_mut().for_each(|request| {
            request.runs_for = Some(5 * SECOND);
            request.at = 4 * LONG;
        });
        let mut scene = Scene::new(plan);
        scene.wait(SECOND);
        let stage = &mut scene.0.stage;
        stage.record(Fact::Led { epoch: Epoch(1) });
        stage.record(Fact::Committed { epoch: Epoch(1), batch: 1 });
        for index in 0..2 {
            let (execution, request) = (ExecutionId(index + 1), stage.requests[index as usize].clone());
            stage.record(Fact::Enqueued { request: request.clone() });
            stage.record(Fact::Accepted { execution, request, action: action_ref(0), key: None });
        }
        for (id, fence) in [(PREDECESSOR.0, 1), (SUCCESSOR.0, 2)] {
            stage.record(Fact::Granted { execution: id, attempt: 1, fence: Fence(fence), place: id.0 });
        }
        Self { scene, n: 0 }
    }

    fn n(&mut self) -> u64 {
        self.n += 1;
        self.n
    }

    fn dispatch(&mut self, key: AttemptKey, starts_after: Option<AttemptKey>) {
        let order = chained(self.n(), key, starts_after, parameters(if key == PREDECESSOR { 0 } else { 1 }));
        self.scene.order(0, Order::Scheduled(order));
        self.scene.wait(SECOND);
    }

    fn cancel(&mut self, key: AttemptKey) {
        let order = message::Cancel {
            epoch: Epoch(1),
            n: self.n(),
            execution_id: key.0,
            attempt: key.1,
            fence: Fence(key.0.0),
            if_not_started: false,
            grace_seconds: None,
            reason: None,
        };
        self.scene.order(0, Order::Cancel(order));
        self.scene.wait(5 * SECOND);
    }

    fn recall(&mut self, key: AttemptKey) {
        let order = Recall {
            epoch: Epoch(1),
            n: self.n(),
            execution_id: key.0,
            attempt: key.1,
            fence: Fence(key.0.0),
            reason: "limit".to_owned(),
        };
        self.scene.order(0, Order::Recall(order));
        self.scene.wait(SECOND);
    }

    /// The successor was handed back, and never began.
    fn is_handed_back(&self) -> bool {
        let is_it =
            |body: &Body| matches!(body, Body::Returned(word) if word.execution_id == SUCCESSOR.0 && !word.started);
        self.scene.published(is_it).is_some() && self.scene.begins(SUCCESSOR.0.0) == 0
    }

    fn rules_hold(&self) {
        assert_eq!(self.scene.0.stage.violation, None);
    }
}

#[test]
fn chain_predecessor_fails_is_lost_cancelled_or_unknown() {
    let mut completed = Chain::new();
    completed.dispatch(PREDECESSOR, None);
    completed.dispatch(SUCCESSOR, Some(PREDECESSOR));
    assert_eq!(completed.scene.begins(2), 0, "it waits");
    completed.scene.wait(5 * SECOND);
    assert_eq!(completed.scene.begins(2), 1, "it starts when the one before has completed");
    completed.rules_hold();

    let mut unknown = Chain::new();
    unknown.dispatch(SUCCESSOR, Some(PREDECESSOR));
    assert!(unknown.is_handed_back());
    unknown.rules_hold();

    let mut cancelled = Chain::new();
    cancelled.dispatch(PREDECESSOR, None);
    cancelled.dispatch(SUCCESSOR, Some(PREDECESSOR));
    cancelled.cancel(PREDECESSOR);
    assert!(cancelled.is_handed_back());
    cancelled.rules_hold();

    let mut failed = Chain::new();
    failed.dispatch(PREDECESSOR, None);
    failed.dispatch(SUCCESSOR, Some(PREDECESSOR));
    let World { processes, stage, .. } = &mut failed.scene.0;
    processes[0].kill(0, stage);
    failed.scene.wait(2 * SECOND);
    assert!(failed.is_handed_back());
    failed.rules_hold();

    let mut lost = Chain::new();
    lost.dispatch(PREDECESSOR, None);
    lost.dispatch(SUCCESSOR, Some(PREDECESSOR));
    lost.scene.0.freeze(Node::Worker(0), true, 100 * SECOND);
    lost.scene.wait(200 * SECOND);
    assert_eq!(lost.scene.begins(2), 0, "its incarnation is over before the predecessor has ended");
    lost.rules_hold();
}

#[test]
fn limit_and_pause_change_with_a_chain_outstanding() {
    // One that is recalled before its turn never begins, whatever becomes of its predecessor.
    let mut recalled = Chain::new();
    recalled.dispatch(PREDECESSOR, None);
    recalled.dispatch(SUCCESSOR, Some(PREDECESSOR));
    recalled.recall(SUCCESSOR);
    assert!(recalled.is_handed_back());
    recalled.scene.wait(10 * SECOND);
    assert_eq!(recalled.scene.begins(2), 0);
    recalled.rules_hold();

    // And one that has begun by then stays: the recall comes too late.
    let mut late = Chain::new();
    late.dispatch(PREDECESSOR, None);
    late.dispatch(SUCCESSOR, Some(PREDECESSOR));
    late.scene.wait(5 * SECOND);
    late.recall(SUCCESSOR);
    assert!(late.scene.begins(2) == 1 && !late.is_handed_back());
    late.rules_hold();

    // With the scheduler: grants are outstanding at a worker that does not answer, and limit and pause change meanwhile.
    let mut plan = Plan::calm(1, 3, 6);
    let policy = |limit| Policy { limit: Some(limit), ..Policy::default() };
    let change = |at, limit, paused| Operation { at, action: 0, policy: policy(limit), paused };
    plan.operations = vec![
        change(3 * SECOND, 1, false),
        change(6 * SECOND, 1, true),
        change(12 * SECOND, 2, true),
        change(20 * SECOND, 2, false),
    ];
    let mut scene = Scene::new(plan);
    scene.until("a grant", |scene| scene.has(|fact| matches!(fact, Fact::Granted { .. })));
    scene.0.freeze(Node::Worker(0), false, 10 * SECOND);
    let scene = scene.end();
    assert_eq!(scene.count(|fact| matches!(fact, Fact::Settled { status: Status::Completed, .. })), 6);
}

/// As the journal stood at the strike, some seconds later; the mark of what came since has been left by then.
fn rewound(plan: Plan, from: Micros, to: Micros) -> Plan {
    let faults = vec![Fault { at: from, lasts: to - from, blow: Blow::JournalRewinds }];
    Plan { faults, ..plan }
}

#[test]
fn rewound_journal_starts_nothing_beside_what_it_forgot() {
    // The second is accepted and starts after the dump, runs on through the rewind, and the third waits for its slot.
    let mut plan = Plan::calm(2, 1, 3);
    let long = [SECOND, 300 * SECOND, SECOND];
    plan.requests.iter_mut().zip(long).for_each(|(request, runs_for)| request.runs_for = Some(runs_for));
    plan.requests[1].at = 20 * SECOND;
    plan.requests[2].at = 60 * SECOND;
    let scene = Scene::new(rewound(plan, 10 * SECOND, 40 * SECOND)).end();
    assert!(scene.has(|fact| matches!(fact, Fact::Rewound)));
    assert!(scene.has(|fact| matches!(fact, Fact::Recovered { execution: ExecutionId(2), .. })));
    assert_eq!(scene.begins(2), 1, "it runs once, and ends as itself");
    assert!(scene.has(|fact| is_settled(fact, 2)));
}

#[test]
fn of_two_primaries_the_newer_goes_on_with_what_the_older_gave() {
    // The second is accepted and starts after the replica was cut off, and runs on while both primaries live.
    let mut plan = Plan::calm(2, 1, 3);
    let long = [SECOND, 300 * SECOND, SECOND];
    plan.requests.iter_mut().zip(long).for_each(|(request, runs_for)| request.runs_for = Some(runs_for));
    plan.requests[1].at = 20 * SECOND;
    plan.requests[2].at = 60 * SECOND;
    let faults = vec![Fault { at: 10 * SECOND, lasts: 30 * SECOND, blow: Blow::TwoPrimaries }];
    let scene = Scene::new(Plan { faults, ..plan }).end();
    assert!(scene.has(|fact| matches!(fact, Fact::Promoted { .. })));
    assert!(scene.has(|fact| matches!(fact, Fact::Recovered { execution: ExecutionId(2), .. })));
    assert_eq!(scene.begins(2), 1, "it runs once, and ends as itself");
    assert!(scene.has(|fact| is_settled(fact, 2)));
}

#[test]
fn of_two_primaries_the_newer_gives_no_number_that_the_older_commits_as_it_goes_on() {
    // The first ends while the primary stands still: that the second has its slot is on its way there, and the replica knows
    // nothing of it.
    let mut plan = Plan::calm(1, 1, 3);
    plan.actions[0].policy.run_ahead = Some(0);
    let long = [9 * SECOND, 5 * SECOND, SECOND];
    plan.requests.iter_mut().zip(long).for_each(|(request, runs_for)| request.runs_for = Some(runs_for));
    let fault = |at, lasts, blow| Fault { at: at * SECOND, lasts: lasts * SECOND, blow };
    let faults = vec![fault(8, 60, Blow::JournalFreezes), fault(15, 10, Blow::TwoPrimaries)];
    let scene = Scene::new(Plan { faults, ..plan }).end();
    let fences = scene.facts().filter_map(|fact| match fact {
        Fact::Granted { execution: ExecutionId(2), fence, .. } => Some(*fence),
        _ => None,
    });
    let fences: Vec<_> = fences.collect();
    assert!(matches!(fences[..], [newer, older] if newer != older), "{fences:?}");
}

#[test]
fn rewound_journal_runs_again_what_it_does_not_know_to_be_over_and_under_another_number() {
    let mut plan = Plan::calm(1, 1, 2);
    plan.requests.iter_mut().for_each(|request| request.runs_for = Some(5 * SECOND));
    let scene = Scene::new(rewound(plan, 3 * SECOND, 40 * SECOND)).end();
    assert!(scene.has(|fact| matches!(fact, Fact::Rewound)));
    let numbers = scene.facts().filter_map(|fact| match fact {
        Fact::Began { execution: ExecutionId(1), attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 1_001]);
}

#[test]
fn a_leader_alone_without_its_broker_hands_over_to_one_that_has_one() {
    let mut scene = Scene::new(Plan::calm(1, 1, 5));
    scene.until("a leader", |scene| scene.0.executors.iter().any(crate::executor::Executor::leads));
    let old = scene.leader();
    scene.0.stage.cut(Node::Executor(old), true, true);
    scene.until("another leader", |scene| {
        scene.0.executors.iter().any(|executor| executor.index != old && executor.leads())
    });
    scene.0.stage.mend(Node::Executor(old));
    let scene = scene.end();
    assert_eq!(scene.count(|fact| matches!(fact, Fact::Led { .. })), 2, "the second goes on");
}

#[test]
fn clocks_that_step_move_nothing_that_is_due() {
    let mut backed_off = 0;
    for seed in 0..60 {
        let plan = Plan::among(seed, Some(&[crate::faults::CLOCK_STEPS, 0, 1]));
        let outcome = World::new(plan, true).run();
        assert_eq!(outcome.violation, None, "seed {seed}");
        backed_off += outcome.history.iter().filter(|entry| matches!(entry.fact, Fact::BacksOff { .. })).count();
    }
    assert!(backed_off > 0);
}
