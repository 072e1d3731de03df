//! What a run is made of: machines, actions, requests, and what will go wrong. Plain data, so that it can be made
//! smaller and run again.

use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::policy::{OnIsolation, Policy, Retry};

use crate::chance::Chance;
use crate::clock::{Clock, MS, Micros, SECOND};
use crate::faults::{Blow, Fault, Rates};
use crate::history::RequestId;
use crate::long_lines;

/// Requests are sent within this.
const SENDING: Micros = 60 * SECOND;
/// Faults begin within this.
const HURTING: Micros = 90 * SECOND;
/// The longest run of an attempt that nothing ends.
pub(crate) const RUN_MAX: Micros = 150 * SECOND;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) terms: Terms,
    pub(crate) executors: Vec<Clock>,
    pub(crate) workers: Vec<WorkerPlan>,
    pub(crate) actions: Vec<ActionPlan>,
    pub(crate) requests: Vec<RequestPlan>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) rates: Rates,
    /// From then on nothing hurts.
    pub(crate) calm_at: Micros,
    /// A deliberate mistake in the daemons of the simulation, to see that the checker finds it.
    pub(crate) mistake: Option<Mistake>,
}

/// `L`, `F` and `H`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) lease: Duration,
    pub(crate) fence: Duration,
    pub(crate) heartbeat: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) clock: Clock,
    pub(crate) capacity: u32,
    /// Indices of actions.
    pub(crate) serves: Vec<usize>,
    /// Whether it has a state directory, and so proof of what became of a process before it.
    pub(crate) has_lock: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ActionPlan {
    pub(crate) policy: Policy,
}

#[derive(Clone, Debug)]
pub(crate) struct RequestPlan {
    pub(crate) id: RequestId,
    /// Names the request in what an attempt is handed.
    pub(crate) number: usize,
    pub(crate) at: Micros,
    pub(crate) action: usize,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) cancel_at: Option<Micros>,
    /// How long its attempts run, and then succeed; `None`: chance decides how they fare.
    pub(crate) runs_for: Option<Micros>,
}

/// What an operator does.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) at: Micros,
    pub(crate) action: usize,
    pub(crate) policy: Policy,
    pub(crate) paused: bool,
}

/// Things that the daemons must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Effects leave when the batch is handed to the journal.
    SpeaksBeforeItCommits,
    /// Requests are acked when they are read.
    AcksBeforeItCommits,
    /// A leader goes on after a commit whose outcome it does not know, as if it had failed.
    GuessesAtCommits,
    /// The journal takes a batch whatever its epoch.
    IgnoresTheEpoch,
    /// A leader calls a worker lost before that one's fence has fallen.
    LosesTooEarly,
    /// An order that came back ends the leases of its incarnation.
    TakesAReturnForALoss,
    /// Workers take every order, whatever its number.
    IgnoresOrderNumbers,
    /// The shim does not hold the deadline.
    ShimIgnoresTheFence,
    /// A leader without a broker keeps the lock.
    LeadsWithoutABroker,
    /// What is due is due by the leader's own wall clock.
    GoesByItsOwnClock,
    /// A copy of the journal is led on whatever others show.
    BelievesEveryCopy,
    /// A leader takes what comes without proof.
    BelievesStrangers,
    /// A worker takes orders that no executor has proved to have written.
    ObeysStrangers,
    /// What a consumer did not ack goes to the end of the queue.
    ReturnsToTheEnd,
}

impl Plan {
    /// The plan of a seed: a few machines, some work, and a random choice of what hurts.
    pub(crate) fn of(seed: u64) -> Self {
        Self::among(seed, None)
    }

    /// The same, with blows of these kinds alone.
    pub(crate) fn among(seed: u64, kinds: Option<&[u64]>) -> Self {
        let mut chance = Chance::of(seed, 1);
        let (lease, fence, heartbeat) = chance.pick(&[(60, 45, 5), (60, 45, 5), (45, 33, 4), (90, 60, 10)]);
        let seconds = Duration::from_secs;
        let terms = Terms { lease: seconds(lease), fence: seconds(fence), heartbeat: seconds(heartbeat) };
        let executors: Vec<_> = (0..chance.between(1, 3)).map(|_| clock(&mut chance)).collect();
        let actions: Vec<_> = (0..chance.between(1, 3)).map(|_| ActionPlan { policy: policy(&mut chance) }).collect();
        let workers: Vec<_> = (0..chance.between(1, 4))
            .map(|index| WorkerPlan {
                clock: clock(&mut chance),
                capacity: u32::try_from(chance.between(1, 4)).unwrap_or(1),
                serves: (0..actions.len()).filter(|_| index == 0 || chance.percent(80)).collect(),
                has_lock: chance.percent(60),
            })
            .collect();
        let mut at = 0;
        let count = usize::try_from(chance.between(5, 20)).unwrap_or(5);
        let requests = (0..count)
            .map(|number| {
                at += if chance.percent(50) { chance.below(5 * MS) } else { chance.below(2 * SENDING / count as u64) };
                RequestPlan {
                    id: format!("r{number}").into(),
                    number,
                    at,
                    action: chance.index(actions.len()),
                    key: chance.percent(50).then(|| chance.pick(&["a", "b"]).into()),
                    cancel_at: chance.percent(15).then(|| at + chance.spread(MS, 40 * SECOND)),
                    runs_for: None,
                }
            })
            .collect();
        let operations = operations(&mut chance, &actions);
        let mut plan = Self {
            seed,
            terms,
            executors,
            workers,
            actions,
            requests,
            operations,
            faults: Vec::new(),
            rates: Rates::default(),
            calm_at: 0,
            mistake: None,
        };
        let (faults, rates) = Fault::choose(&mut chance, &plan, HURTING, kinds);
        plan.calm_at = faults.iter().map(Fault::ends_at).max().unwrap_or(0).max(SENDING);
        plan.faults = faults;
        plan.rates = rates;
        long_lines::add(&mut plan, seed, SENDING);
        plan
    }

    /// A plan without chance or harm, to be filled by hand.
    pub(crate) fn calm(workers: usize, limit: u32, requests: usize) -> Self {
        let seconds = Duration::from_secs;
        let worker = WorkerPlan { clock: Clock::default(), capacity: 4, serves: vec![0], has_lock: true };
        let request = |number| RequestPlan {
            id: format!("r{number}").into(),
            number,
            at: SECOND + number as u64 * MS,
            action: 0,
            key: None,
            cancel_at: None,
            runs_for: Some(SECOND),
        };
        Self {
            seed: 0,
            terms: Terms { lease: seconds(60), fence: seconds(45), heartbeat: seconds(5) },
            executors: vec![Clock::default(); 2],
            workers: vec![worker; workers],
            actions: vec![ActionPlan { policy: Policy { limit: Some(limit), ..Policy::default() } }],
            requests: (0..requests).map(request).collect(),
            operations: Vec::new(),
            faults: Vec::new(),
            rates: Rates::default(),
            calm_at: 0,
            mistake: None,
        }
    }

    /// How long all that is asked for may take once nothing hurts: every attempt of everyone, one after the other, and
    /// the time to learn of losses. Generous; what hangs takes for ever.
    pub(crate) fn bound(&self) -> Micros {
        let work: Micros = self
            .requests
            .iter()
            .map(|request| {
                let policy = &self.actions[request.action].policy;
                let attempts = u64::from(policy.retry.max_attempts) + 1;
                attempts * (RUN_MAX + 2 * policy.retry.backoff_max.as_micros() as u64 + 20 * SECOND)
            })
            .sum();
        // A rewound journal is doubted for a lease at a time, and what it forgot runs again.
        let doubts = if self.rewinds() { work + 8 * self.terms.lease.as_micros() as u64 } else { 0 };
        doubts + work + 8 * self.terms.lease.as_micros() as u64 + 120 * SECOND
    }
}

impl Plan {
    /// Whether somebody lies.
    pub(crate) fn has_liar(&self) -> bool {
        self.faults.iter().any(|fault| fault.blow == Blow::Liar)
    }

    /// Whether a journal is led on that is older than the world.
    pub(crate) fn rewinds(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.blow, Blow::JournalRewinds | Blow::TwoPrimaries))
    }
}

fn clock(chance: &mut Chance) -> Clock {
    let drift = if chance.percent(50) { chance.below(40_001) as i64 - 20_000 } else { 0 };
    Clock { drift, offset: chance.below(1_000 * SECOND) }
}

fn policy(chance: &mut Chance) -> Policy {
    let mut seconds = |percent: u64, first: u64, last: u64| {
        chance.percent(percent).then(|| Duration::from_millis(chance.between(first * 1000, last * 1000)))
    };
    let timeout = seconds(40, 1, 20);
    let queue_timeout = seconds(12, 1, 60);
    let start_timeout = seconds(12, 1, 10);
    let stall_timeout = seconds(15, 2, 10);
    let backoff = Duration::from_millis(chance.spread(50, 3000));
    let small = |chance: &mut Chance, last| u32::try_from(chance.between(1, last)).unwrap_or(1);
    Policy {
        limit: (!chance.percent(10)).then(|| small(chance, 3)),
        key_limit: chance.percent(35).then(|| small(chance, 2)),
        timeout,
        queue_timeout,
        start_timeout,
        stall_timeout,
        max_queue_length: chance.percent(8).then(|| chance.between(2, 6)),
        max_lost_attempts: small(chance, 4) - 1,
        run_ahead: chance.pick(&[Some(0), Some(1), None, None]),
        retry: Retry {
            max_attempts: small(chance, 3),
            backoff,
            backoff_max: backoff * 3,
            keep_place: chance.percent(40),
        },
        on_isolation: if chance.percent(5) { OnIsolation::Continue } else { OnIsolation::Stop },
        ..Policy::default()
    }
}

/// Limits and pauses that change under a backlog; in the end nothing is paused.
fn operations(chance: &mut Chance, actions: &[ActionPlan]) -> Vec<Operation> {
    let mut operations = Vec::new();
    let mut at = 0;
    let mut policies: Vec<Policy> = actions.iter().map(|action| action.policy.clone()).collect();
    let mut paused = vec![false; actions.len()];
    if chance.percent(50) {
        for _ in 0..chance.between(1, 5) {
            at += chance.spread(MS, 20 * SECOND);
            let action = chance.index(actions.len());
            let policy = &mut policies[action];
            match chance.below(4) {
                0 => paused[action] = !paused[action],
                1 => policy.run_ahead = chance.pick(&[Some(0), Some(2), None]),
                2 => policy.limit = chance.pick(&[None, Some(1), Some(2), Some(3)]),
                _ => policy.key_limit = chance.pick(&[None, Some(1), Some(2)]),
            }
            operations.push(Operation { at, action, policy: policies[action].clone(), paused: paused[action] });
        }
    }
    for (action, policy) in policies.into_iter().enumerate().filter(|(action, _)| paused[*action]) {
        at += SECOND;
        operations.push(Operation { at, action, policy, paused: false });
    }
    operations
}
