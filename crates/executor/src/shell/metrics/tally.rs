//! What a committed batch counts as: requests accepted, executions settled, attempts and how long they waited and ran.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use slotline_protocol::http::Action;
use slotline_protocol::{ActionId, ExecutionId, OutcomeKind, Status, Timestamp};
use slotline_scheduler::{AttemptEnded, Lease, Settled, Snapshot};
use slotline_store::{ActionChange, Batch};

use super::labels::{ActionLabel, OTHER, OutcomeLabels, StatusLabels};

/// The most actions that have series of their own: the first ones of a process, for as long as it lives, since a
/// counter that another action takes over would run backwards. All others are counted under [`OTHER`].
const ACTIONS_MAX: usize = 100;

/// How executions end.
const ENDS: [Status; 4] = [Status::Completed, Status::Failed, Status::Timeout, Status::Cancelled];

type ActionHistogram = Family<ActionLabel, Histogram, fn() -> Histogram>;

/// The series of executions, by action.
pub(crate) struct ExecutionCounts {
    series: Families,
    tally: Mutex<Tally>,
}

#[derive(Clone)]
struct Families {
    accepted: Family<ActionLabel, Counter>,
    settled: Family<StatusLabels, Counter>,
    attempts: Family<OutcomeLabels, Counter>,
    wait: ActionHistogram,
    run: ActionHistogram,
    handoff: ActionHistogram,
}

/// What the next batch is counted by.
#[derive(Default)]
struct Tally {
    /// The actions that have series of their own, by name.
    named: BTreeMap<String, Arc<ActionSeries>>,
    other: Option<Arc<ActionSeries>>,
    actions: BTreeMap<ActionId, Tallied>,
    /// Attempts that run and whose wait has been counted.
    running: BTreeMap<ExecutionId, u32>,
}

/// An action, as far as its executions are counted.
struct Tallied {
    series: Arc<ActionSeries>,
    /// One slot, and one line: the end of one execution is what the next one has waited for.
    has_one_slot: bool,
    last_ended_at: Option<Timestamp>,
}

/// The series of one action, or of [`OTHER`].
struct ActionSeries {
    accepted: Counter,
    /// In the order of [`ENDS`].
    settled: [Counter; ENDS.len()],
    /// In the order of [`OutcomeKind::ALL`].
    attempts: [Counter; OutcomeKind::ALL.len()],
    wait: Histogram,
    run: Histogram,
    handoff: Histogram,
}

/// 5 ms to 23 hours.
fn long() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 4.0, 13))
}

/// 50 microseconds to 3.3 seconds.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 4.0, 9))
}

impl ExecutionCounts {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let series = Families {
            accepted: Family::default(),
            settled: Family::default(),
            attempts: Family::default(),
            wait: Family::new_with_constructor(long),
            run: Family::new_with_constructor(long),
            handoff: Family::new_with_constructor(short),
        };
        let families = series.clone();
        registry.register("executions_accepted", "Requests that took their place in a line", families.accepted);
        registry.register("executions_settled", "Executions that ended, by their last status", families.settled);
        registry.register("attempts", "Attempts that ended, by outcome", families.attempts);
        let help = "From an execution's place in the line to the start of its attempt";
        registry.register_with_unit("execution_wait", help, Unit::Seconds, families.wait);
        registry.register_with_unit("attempt_run", "From an attempt's start to its end", Unit::Seconds, families.run);
        let help = "From the end of one execution to the start of the next that waited, of actions with one slot";
        registry.register_with_unit("handoff", help, Unit::Seconds, families.handoff);
        Self { series, tally: Mutex::default() }
    }

    /// A term begins with these actions, and with these executions alive.
    pub(super) fn begin_term<'a>(&self, actions: impl Iterator<Item = &'a Action>, live: &[Snapshot]) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.actions.clear();
        for action in actions {
            tally.put(&self.series, action);
        }
        let runs = |snapshot: &&Snapshot| started_at(snapshot).is_some();
        tally.running = live.iter().filter(runs).map(|snapshot| (snapshot.id, snapshot.attempt)).collect();
    }

    /// Counts what a batch brought, which is committed.
    pub(super) fn count(&self, batch: &Batch) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        for change in &batch.actions {
            match change {
                ActionChange::Put(action) => tally.put(&self.series, action),
                // What ends of it with this very batch is counted below, still under its name.
                ActionChange::Delete { .. } => {}
            }
        }
        for accepted in &batch.accepted {
            if let Some(action) = tally.actions.get(&accepted.snapshot.action) {
                action.series.accepted.inc();
            }
        }
        // The ends first: a start of the same batch follows on one of them.
        batch.attempts.iter().for_each(|ended| tally.end_attempt(ended));
        batch.settled.iter().for_each(|settled| tally.settle(settled));
        let accepted = batch.accepted.iter().map(|accepted| &accepted.snapshot);
        accepted.chain(&batch.live).for_each(|snapshot| tally.begin(snapshot));
        for change in &batch.actions {
            if let ActionChange::Delete { id, .. } = change {
                tally.actions.remove(id);
            }
        }
    }
}

/// When the attempt began that is out, if it has.
fn started_at(snapshot: &Snapshot) -> Option<Timestamp> {
    snapshot.lease.as_ref().and_then(|lease| lease.started_at)
}

impl Tally {
    fn put(&mut self, families: &Families, action: &Action) {
        let has_one_slot = action.policy.limit == Some(1) && action.policy.key.is_none();
        match self.actions.get_mut(&action.action_id) {
            Some(known) => known.has_one_slot = has_one_slot,
            None => {
                let series = self.series(families, action.action_ref.as_str());
                self.actions.insert(action.action_id, Tallied { series, has_one_slot, last_ended_at: None });
            }
        }
    }

    fn series(&mut self, families: &Families, name: &str) -> Arc<ActionSeries> {
        if let Some(series) = self.named.get(name) {
            return series.clone();
        }
        if self.named.len() >= ACTIONS_MAX {
            return self.other.get_or_insert_with(|| Arc::new(ActionSeries::new(families, OTHER))).clone();
        }
        let series = Arc::new(ActionSeries::new(families, name));
        self.named.insert(name.to_owned(), series.clone());
        series
    }

    /// Counts the wait of an attempt that is seen to run for the first time.
    fn begin(&mut self, snapshot: &Snapshot) {
        let Some(at) = started_at(snapshot) else { return };
        if self.running.insert(snapshot.id, snapshot.attempt) == Some(snapshot.attempt) {
            return;
        }
        if let Some(action) = self.actions.get_mut(&snapshot.action) {
            action.begin(snapshot.queued_at, at);
        }
    }

    fn end_attempt(&mut self, ended: &AttemptEnded) {
        let AttemptEnded { id, attempt, action, queued_at, lease, outcome, ended_at, .. } = ended;
        let was_seen = self.running.remove(id) == Some(*attempt);
        let Some(action) = self.actions.get_mut(action) else { return };
        // A grant that was lost before its start is no attempt.
        if *outcome != OutcomeKind::Lost || lease.started_at.is_some() {
            action.end(*outcome, (!was_seen).then_some(*queued_at), lease, *ended_at);
        }
    }

    fn settle(&mut self, settled: &Settled) {
        let was_seen = self.running.remove(&settled.id) == Some(settled.attempt);
        let Some(action) = self.actions.get_mut(&settled.action) else { return };
        if let Some(end) = ENDS.iter().position(|end| *end == settled.status) {
            action.series.settled[end].inc();
        }
        if let (Some(lease), Some(outcome)) = (&settled.lease, settled.status.outcome()) {
            action.end(outcome, (!was_seen).then_some(settled.queued_at), lease, settled.ended_at);
        }
    }
}

impl Tallied {
    fn begin(&self, queued_at: Timestamp, at: Timestamp) {
        self.series.wait.observe(seconds(queued_at, at));
        if self.has_one_slot
            && let Some(ended) = self.last_ended_at.filter(|ended| queued_at <= *ended && *ended <= at)
        {
            self.series.handoff.observe(seconds(ended, at));
        }
    }

    /// `queued_at`: if the attempt has not been seen to begin before.
    fn end(&mut self, outcome: OutcomeKind, queued_at: Option<Timestamp>, lease: &Lease, ended_at: Timestamp) {
        if let Some(known) = OutcomeKind::ALL.iter().position(|known| *known == outcome) {
            self.series.attempts[known].inc();
        }
        if let Some(at) = lease.started_at {
            if let Some(queued_at) = queued_at {
                self.begin(queued_at, at);
            }
            self.series.run.observe(seconds(at, ended_at));
        }
        self.last_ended_at = Some(ended_at);
    }
}

impl ActionSeries {
    fn new(families: &Families, name: &str) -> Self {
        let action = name.to_owned();
        let label = ActionLabel { action: action.clone() };
        let settled = |end: Status| {
            families.settled.get_or_create_owned(&StatusLabels { action: action.clone(), status: end.as_str() })
        };
        let attempts = |outcome: OutcomeKind| {
            families.attempts.get_or_create_owned(&OutcomeLabels { action: action.clone(), outcome: outcome.as_str() })
        };
        Self {
            settled: ENDS.map(settled),
            attempts: OutcomeKind::ALL.map(attempts),
            accepted: families.accepted.get_or_create_owned(&label),
            wait: families.wait.get_or_create_owned(&label),
            run: families.run.get_or_create_owned(&label),
            handoff: families.handoff.get_or_create_owned(&label),
        }
    }
}

/// From one stamp to another of perhaps another clock: never below 0.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).as_secs_f64()
}

#[cfg(test)]
mod tests;
