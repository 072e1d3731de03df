//! What one step costs, from ten lines to a million: it should hardly grow. `cargo bench -p slotline-scheduler`
//!
//! Plain numbers on stdout; a comparison over time belongs to whoever runs it twice on one machine.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slotline_protocol::message::{Heartbeat, Served};
use slotline_protocol::{ActionId, ActionRef, Epoch, Incarnation, OutcomeKind, Policy, Timestamp, WorkerName};
use slotline_scheduler::{Config, Counters, Dispatch, Input, Limits, Order, Outcome, Scheduler};
use uuid::Uuid;

const STEPS: usize = 200_000;
const WORKERS: usize = 100;
const CAPACITY: u32 = 10;
/// More than a worker could list in one heartbeat.
const ACTIONS_MAX: usize = 10_000;
/// Executions in line when measuring begins.
const BACKLOG: usize = 1_000_000;

struct Bench {
    scheduler: Scheduler,
    now: Timestamp,
    running: VecDeque<(Incarnation, Dispatch)>,
    tokens: u64,
}

impl Bench {
    fn new() -> Self {
        let config = Config { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(5) };
        let counters = Counters { next_id: 1, next_fence: 1, next_action: 1 };
        let scheduler = Scheduler::new(config, Epoch(1), counters);
        Self { scheduler, now: Timestamp::from_micros(0), running: VecDeque::new(), tokens: 0 }
    }

    fn tell(&mut self, input: Input) {
        self.now = self.now + Duration::from_micros(1);
        self.scheduler.handle(input, self.now);
        for sent in self.scheduler.take_effects().orders {
            if let Order::Dispatch(dispatch) = sent.order {
                self.running.push_back((sent.incarnation, dispatch));
            }
        }
    }

    fn heartbeat(&self, worker: usize, refs: &[ActionRef]) -> Result<Heartbeat, Box<dyn Error>> {
        let incarnation = Incarnation(Uuid::from_u128(worker as u128));
        let served = |action_ref: &ActionRef| Served { action_ref: action_ref.clone(), capabilities: Vec::new() };
        let leases = self.scheduler.leases_of(incarnation);
        Ok(Heartbeat {
            worker: WorkerName::new(&format!("w{worker}"))?,
            incarnation,
            capacity: CAPACITY,
            holding: leases.into_iter().map(|((id, attempt), state)| (id, attempt, state)).collect(),
            unrecorded: Vec::new(),
            seen: (Epoch(1), u64::MAX / 2),
            actions: refs.iter().map(served).collect(),
            labels: BTreeMap::new(),
            draining: false,
            sent_at: self.now,
        })
    }

    fn request(&mut self, action: ActionId, key: Option<Arc<str>>) {
        self.tokens += 1;
        self.tell(Input::Requested { token: self.tokens, action, key });
    }

    /// The oldest attempt completes; whoever is next starts.
    fn hand_over(&mut self) {
        let (incarnation, dispatch) = self.running.pop_front().expect("something runs");
        let outcome = Outcome {
            kind: OutcomeKind::Completed,
            result: None,
            error: None,
            started_at: Some(self.now),
            ended_at: self.now,
        };
        let key = (dispatch.id, dispatch.attempt);
        self.tell(Input::Completed { key, fence: dispatch.fence, incarnation, outcome });
    }
}

fn per_step(steps: usize, mut step: impl FnMut()) -> u128 {
    let begin = Instant::now();
    for _ in 0..steps {
        step();
    }
    begin.elapsed().as_nanos() / steps as u128
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{BACKLOG} in line, {WORKERS} workers; ns a step");
    println!("{:>8} {:>9} {:>10} {:>10} {:>10}", "kind", "lines", "request", "hand-over", "heartbeat");
    for lines in [10, 10_000, 1_000_000] {
        for kind in ["keys", "actions"] {
            if kind == "actions" && lines > ACTIONS_MAX {
                continue;
            }
            let mut bench = Bench::new();
            let (actions, limits) = if kind == "keys" {
                (1, Limits::from(&Policy { key_limit: Some(1), ..Policy::default() }))
            } else {
                (lines, Limits::from(&Policy { limit: Some(1), ..Policy::default() }))
            };
            let mut ids = Vec::new();
            let mut refs = Vec::new();
            for number in 0..actions {
                let action_ref = ActionRef::new(&format!("bench.a{number}"))?;
                let id = bench.scheduler.new_action_id();
                let limits = limits.clone();
                bench.tell(Input::ActionPut { id, action_ref: action_ref.clone(), limits, paused: false });
                ids.push(id);
                refs.push(action_ref);
            }
            for worker in 0..WORKERS {
                let heartbeat = bench.heartbeat(worker, &refs)?;
                bench.tell(Input::Heartbeat(heartbeat));
            }
            let keys: Vec<Arc<str>> = (0..lines).map(|number| Arc::from(format!("key {number}"))).collect();
            let line = |number: usize| {
                if kind == "keys" { (ids[0], Some(keys[number % lines].clone())) } else { (ids[number % lines], None) }
            };
            let mut number = 0;
            let mut submit = |bench: &mut Bench| {
                let (action, key) = line(number);
                number += 1;
                bench.request(action, key);
            };
            for _ in 0..BACKLOG {
                submit(&mut bench);
            }
            let request = per_step(STEPS, || submit(&mut bench));
            let hand_over = per_step(STEPS, || bench.hand_over());
            let heartbeats: Vec<_> = (0..WORKERS)
                .map(|worker| bench.heartbeat(worker, &refs[..refs.len().min(10)]))
                .collect::<Result<_, _>>()?;
            // The first round changes what the workers list.
            for heartbeat in heartbeats.iter().cloned() {
                bench.tell(Input::Heartbeat(heartbeat));
            }
            let mut turn = heartbeats.iter().cycle().cloned();
            let heartbeat = per_step(10_000, || bench.tell(Input::Heartbeat(turn.next().expect("endless"))));
            println!("{kind:>8} {lines:>9} {request:>10} {hand_over:>10} {heartbeat:>10}");
        }
    }
    Ok(())
}
