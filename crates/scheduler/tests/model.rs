//! The scheduler against the reference, step by step, over random lives of a small installation: whatever happens,
//! every grant is one that the reference allows, none that it allows is missing, and both agree on everything they
//! show.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use slotline_protocol::message::{AttemptKey, EndReason};
use slotline_protocol::policy::Retry;
use slotline_protocol::{ExecutionId, OutcomeKind};
use slotline_scheduler::{Input, Limits, Order, ProbedQueue};

use crate::reference::{Reference, State};
use crate::world::{HEARTBEAT, LEASE, World, action_ref, outcome, unlimited};

const ACTIONS: [&str; 3] = ["one", "two", "three"];
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
const KEYS: [Option<&str>; 4] = [None, Some("x"), Some("y"), Some("z")];
const KINDS: [OutcomeKind; 4] =
    [OutcomeKind::Completed, OutcomeKind::Failed, OutcomeKind::Timeout, OutcomeKind::Cancelled];

/// One thing that happens; numbers pick among whatever there is to pick from.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        action: usize,
        key: usize,
    },
    Start {
        attempt: usize,
    },
    End {
        attempt: usize,
        kind: usize,
    },
    HandBack {
        attempt: usize,
        started: bool,
        reason: &'static str,
    },
    Repeat {
        word: usize,
    },
    Cancel {
        execution: usize,
    },
    Put {
        action: usize,
        limits: Limits,
        paused: bool,
    },
    Beat {
        worker: usize,
    },
    Deafen {
        worker: usize,
    },
    Undeafen {
        worker: usize,
    },
    Reshape {
        worker: usize,
        capacity: u32,
        serves: usize,
        draining: bool,
    },
    ReturnOrder {
        worker: usize,
    },
    EndWorker {
        worker: usize,
        reason: EndReason,
    },
    /// Silent for a whole lease, as the probes prove.
    Silence {
        worker: usize,
    },
    NewSession,
    NewLeader,
    Pass {
        millis: u64,
    },
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = || prop_oneof![Just(None), Just(Some(1)), Just(Some(2)), Just(Some(3))];
    let queue_timeout = prop_oneof![3 => Just(None), 1 => (1_u64..20).prop_map(|s| Some(Duration::from_secs(s)))];
    let length = prop_oneof![4 => Just(None), 1 => (1_u64..6).prop_map(Some)];
    (few(), few(), queue_timeout, length, 0_u32..3, 1_u32..4, any::<bool>()).prop_map(
        |(limit, key_limit, queue_timeout, max_queue_length, max_lost_attempts, max_attempts, keep_place)| Limits {
            limit,
            key_limit,
            queue_timeout,
            max_queue_length,
            max_lost_attempts,
            // Chains are tested by `ahead`, and by the simulation.
            run_ahead: Some(0),
            retry: Retry {
                max_attempts,
                backoff: Duration::from_secs(1),
                backoff_max: Duration::from_secs(3),
                keep_place,
            },
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let pick = || 0_usize..60;
    let reason = prop_oneof![Just("recall"), Just("drain"), Just("unknown_action")];
    let end = prop_oneof![Just(EndReason::Drain), Just(EndReason::Fence), Just(EndReason::Replaced)];
    prop_oneof![
        30 => (pick(), pick()).prop_map(|(action, key)| Step::Submit { action, key }),
        6 => pick().prop_map(|attempt| Step::Start { attempt }),
        24 => (pick(), pick()).prop_map(|(attempt, kind)| Step::End { attempt, kind }),
        3 => (pick(), any::<bool>(), reason)
            .prop_map(|(attempt, started, reason)| Step::HandBack { attempt, started, reason }),
        4 => pick().prop_map(|word| Step::Repeat { word }),
        6 => pick().prop_map(|execution| Step::Cancel { execution }),
        6 => (pick(), limits(), proptest::bool::weighted(0.2))
            .prop_map(|(action, limits, paused)| Step::Put { action, limits, paused }),
        10 => pick().prop_map(|worker| Step::Beat { worker }),
        2 => pick().prop_map(|worker| Step::Deafen { worker }),
        3 => pick().prop_map(|worker| Step::Undeafen { worker }),
        3 => (pick(), 0_u32..5, 1_usize..8, proptest::bool::weighted(0.2)).prop_map(
            |(worker, capacity, serves, draining)| Step::Reshape { worker, capacity, serves, draining }
        ),
        1 => pick().prop_map(|worker| Step::ReturnOrder { worker }),
        2 => (pick(), end).prop_map(|(worker, reason)| Step::EndWorker { worker, reason }),
        1 => pick().prop_map(|worker| Step::Silence { worker }),
        1 => Just(Step::NewSession),
        1 => Just(Step::NewLeader),
        8 => (0_u64..8_000).prop_map(|millis| Step::Pass { millis }),
    ]
}

struct Run {
    world: World,
    reference: Reference,
    /// Every report of an attempt's end that a worker ever sent.
    words: Vec<Input>,
    steps: usize,
}

impl Run {
    fn new() -> Self {
        let world = World::new();
        let mut run = Self { reference: Reference::new(world.now), world, words: Vec::new(), steps: 0 };
        for name in ACTIONS {
            let id = run.world.scheduler.new_action_id();
            run.world.actions.insert(name.to_owned(), (id, unlimited(), false));
            run.put(name, Limits { limit: Some(2), ..unlimited() }, false);
        }
        for name in WORKERS {
            run.start_worker(name, 3);
        }
        run
    }

    fn take(&mut self, step: Step) {
        let worker = |pick: usize| WORKERS[pick % WORKERS.len()];
        match step {
            Step::Submit { action, key } => {
                let action = self.world.action(ACTIONS[action % ACTIONS.len()]);
                let key = KEYS[key % KEYS.len()].map(Arc::from);
                self.tell(Input::Requested { token: self.steps as u64, action, key, bytes: 2 });
            }
            Step::Start { attempt } => {
                if let Some((name, key)) = self.held(attempt) {
                    let (fence, _) = self.world.worker(&name).holding[&key];
                    self.tell(Input::Started { key, fence, started_at: self.world.now });
                }
            }
            Step::End { attempt, kind } => {
                if let Some((name, key)) = self.held(attempt) {
                    self.end(&name, key, KINDS[kind % KINDS.len()]);
                }
            }
            Step::HandBack { attempt, started, reason } => {
                if let Some((name, key)) = self.held(attempt) {
                    let worker = self.world.worker_mut(&name);
                    let (fence, incarnation) = (worker.let_go(key), worker.incarnation);
                    self.say(Input::Returned { key, fence, incarnation, started, reason: reason.to_owned() });
                }
            }
            Step::Repeat { word } => {
                if !self.words.is_empty() {
                    self.tell(self.words[word % self.words.len()].clone());
                }
            }
            Step::Cancel { execution } => {
                let id = ExecutionId((execution as i64).rem_euclid(self.reference.next_id + 1));
                self.tell(Input::CancelRequested { id, reason: None });
            }
            Step::Put { action, limits, paused } => self.put(ACTIONS[action % ACTIONS.len()], limits, paused),
            Step::Beat { worker: pick } => self.beat(worker(pick)),
            Step::Deafen { worker: pick } => self.world.deafen(worker(pick)),
            Step::Undeafen { worker: pick } => {
                self.world.undeafen(worker(pick));
                self.beat(worker(pick));
            }
            Step::Reshape { worker: pick, capacity, serves, draining } => {
                let worker = self.world.worker_mut(WORKERS[pick % WORKERS.len()]);
                (worker.capacity, worker.draining) = (capacity, draining);
                let chosen = |index: &usize| serves & (1 << index) != 0;
                worker.serves = (0..ACTIONS.len()).filter(chosen).map(|index| action_ref(ACTIONS[index])).collect();
                self.beat(WORKERS[pick % WORKERS.len()]);
            }
            Step::ReturnOrder { worker: pick } => {
                let incarnation = self.world.incarnation(worker(pick));
                self.tell(Input::OrderReturned { incarnation });
            }
            Step::EndWorker { worker: pick, reason } => {
                let name = worker(pick);
                let incarnation = self.world.incarnation(name);
                self.tell(Input::IncarnationEnded { incarnation, reason });
                self.start_worker(name, 3);
            }
            Step::Silence { worker: pick } => self.silence(worker(pick)),
            Step::NewSession => self.tell(Input::SessionOpened),
            Step::NewLeader => {
                self.world.change_leader();
                self.reference.change_leader(&self.world.ended);
                self.reference.hear(&Input::SessionOpened);
                self.compare(0, 0);
            }
            Step::Pass { millis } => self.pass(Duration::from_millis(millis)),
        }
    }

    // ---- what happens ----

    /// Both get the same input; then each grant is put to the reference, and both must agree.
    fn tell(&mut self, input: Input) {
        self.reference.now = self.world.now;
        self.reference.hear(&input);
        let (orders, settled) = (self.world.orders.len(), self.world.settled.len());
        self.world.tell(input);
        self.compare(orders, settled);
    }

    fn compare(&mut self, orders: usize, settled: usize) {
        self.steps += 1;
        let Self { world, reference, .. } = self;
        for (id, snapshot) in &world.journal {
            if let Some(until) = snapshot.not_before {
                reference.backs_off(*id, until);
            }
        }
        reference.fire();
        for sent in &world.orders[orders..] {
            let Order::Dispatch(dispatch) = &sent.order else { continue };
            let known = |state: &State| matches!(state, State::Out { fence, .. } if *fence == dispatch.fence);
            if !reference.live.get(&dispatch.id).is_some_and(|one| known(&one.state)) {
                reference.grant((dispatch.id, dispatch.attempt), dispatch.fence, sent.incarnation);
            }
        }
        for settled in &world.settled[settled..] {
            assert_eq!(reference.settled.get(&settled.id), Some(&settled.status), "{settled:?}");
        }
        assert_eq!(reference.settled.len(), world.settled.len(), "nothing is lost, nothing ends twice");
        assert_eq!(reference.live.keys().collect::<Vec<_>>(), world.journal.keys().collect::<Vec<_>>());
        for (id, snapshot) in &world.journal {
            reference.assert_is(*id, snapshot);
            assert_eq!(world.scheduler.snapshot(*id).as_ref(), Some(snapshot), "the journal is what is");
        }
        reference.assert_work_is_conserved();
        assert_eq!(world.scheduler.next_deadline(), Some(reference.next_deadline()), "every timer, and no other");
        self.compare_views();
    }

    fn compare_views(&self) {
        let Self { world, reference, steps, .. } = self;
        for (id, action) in &reference.actions {
            let stats = world.scheduler.queue_stats(*id, world.now).expect("a known action");
            assert_eq!(
                (stats.queue_length, stats.active_count, stats.total_enqueued, stats.total_completed, stats.paused),
                (
                    reference.queue_length(*id) as u64,
                    reference.slots_of(*id).len() as u64,
                    action.enqueued,
                    action.completed,
                    action.paused
                )
            );
            let waits = |one: &&crate::reference::Execution| one.action == *id && !one.holds_slot();
            assert_eq!(
                stats.oldest_enqueued_at,
                reference.live.values().filter(waits).map(|one| one.enqueued_at).min()
            );
            let active: u64 = stats.keys.iter().map(|key| key.active_count).sum();
            // Every line counts towards the limit for each key, that of executions without one as well.
            let counted = if action.limits.key_limit.is_some() { reference.slots_of(*id).len() } else { 0 };
            assert_eq!(active, counted as u64);
        }
        for incarnation in reference.workers.keys() {
            let leases: Vec<_> = world.scheduler.leases_of(*incarnation).into_iter().map(|((id, _), _)| id).collect();
            assert_eq!(leases, reference.leases_of(*incarnation), "leases are slots at work");
        }
        for id in reference.live.keys().skip(steps % 5).step_by(5) {
            let why = world.scheduler.explain(*id).map(|why| (why.reason, why.held_by, why.position));
            let mut expected = reference.explain(*id);
            if let Some((_, held_by, _)) = &mut expected {
                held_by.truncate(100);
            }
            assert_eq!(why, expected, "{id}: {:?}", reference.live[id]);
        }
    }

    fn say(&mut self, word: Input) {
        self.words.push(word.clone());
        self.tell(word);
    }

    fn end(&mut self, name: &str, key: AttemptKey, kind: OutcomeKind) {
        let now = self.world.now;
        let worker = self.world.worker_mut(name);
        let (fence, incarnation) = (worker.let_go(key), worker.incarnation);
        self.say(Input::Completed { key, fence, incarnation, outcome: outcome(kind, now) });
    }

    fn put(&mut self, name: &str, limits: Limits, paused: bool) {
        let id = self.world.action(name);
        self.world.actions.insert(name.to_owned(), (id, limits.clone(), paused));
        self.tell(Input::ActionPut { id, action_ref: action_ref(name), limits, paused });
    }

    fn start_worker(&mut self, name: &str, capacity: u32) {
        self.world.add_worker(name, capacity, ACTIONS.map(action_ref).into());
        self.beat(name);
    }

    fn beat(&mut self, name: &str) {
        let heartbeat = self.world.worker(name).heartbeat(self.world.now);
        self.tell(Input::Heartbeat(heartbeat));
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.world.now + duration;
        while let Some(due) = self.world.scheduler.next_deadline().filter(|due| *due <= end) {
            self.world.now = self.world.now.max(due);
            self.tell(Input::Ticked);
        }
        self.world.now = end;
        self.reference.now = end;
    }

    /// All but one go on beating; the probes prove its silence. It may still live, and gets the notice of its loss when
    /// it beats again.
    fn silence(&mut self, silent: &str) {
        self.tell(Input::SessionOpened);
        self.pass(LEASE);
        for name in WORKERS.iter().filter(|name| **name != silent) {
            self.beat(name);
        }
        let published_at = self.world.now;
        self.tell(Input::Probed { queue: ProbedQueue::Completions, published_at });
        let beating: Vec<_> =
            WORKERS.iter().filter(|name| **name != silent).map(|name| self.world.incarnation(name)).collect();
        let lost: Vec<_> =
            self.reference.workers.keys().filter(|incarnation| !beating.contains(incarnation)).copied().collect();
        for incarnation in lost {
            self.reference.lose(incarnation, true);
        }
        self.tell(Input::Probed { queue: ProbedQueue::Heartbeats, published_at });
    }

    /// An attempt that some worker holds, also one that is lost and does not know it.
    fn held(&self, pick: usize) -> Option<(String, AttemptKey)> {
        let held = |name: &&str| {
            let keys = self.world.worker(name).holding.keys();
            keys.map(|key| ((*name).to_owned(), *key)).collect::<Vec<_>>()
        };
        let all: Vec<_> = WORKERS.iter().flat_map(held).collect();
        all.get(pick.checked_rem(all.len())?).cloned()
    }

    /// From now on every worker behaves: whatever was accepted comes to its end.
    fn drain(&mut self) {
        for name in ACTIONS {
            let (_, limits, _) = self.world.actions[name].clone();
            self.put(name, limits, false);
        }
        for name in WORKERS {
            let incarnation = self.world.incarnation(name);
            self.tell(Input::IncarnationEnded { incarnation, reason: EndReason::Drain });
            self.start_worker(name, 3);
        }
        let mut rounds = 0;
        while !self.reference.live.is_empty() {
            while let Some((name, key)) = self.held(0) {
                self.end(&name, key, OutcomeKind::Completed);
            }
            self.pass(HEARTBEAT);
            rounds += 1;
            assert!(rounds < 10, "these never end: {:?}", self.reference.live);
        }
        self.world.assert_nothing_is_left();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_scheduler_does_what_the_reference_allows_and_all_of_it(
        steps in proptest::collection::vec(step(), 1..200)
    ) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
        run.drain();
    }
}
