//! What this process counts and measures, for a scrape: `GET /metrics`, in the text format of OpenMetrics.
//!
//! Seconds and bytes; a counter begins at 0 with its process. What is counted about executions is counted from
//! committed batches, by the executor that committed them: over all executors the counters add up to the journal's.
//! Not here: what each batch counts as (`tally`), the figures of the process (`host`).

mod host;
mod labels;
mod tally;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use slotline_api::control::ControlError;
use slotline_broker::Session;
use slotline_protocol::Reason;
use slotline_protocol::http::{Worker, WorkerState};
use slotline_scheduler::{Departed, Departure};
use slotline_store::{Batch, Recovered};
use tokio::time::Instant;

use labels::{OTHER, ReasonLabel, RouteLabels, StateLabel, WorkerLabel};
use tally::ExecutionCounts;

/// The most workers that have series of their own; of more, the sums are under [`OTHER`].
const WORKERS_MAX: usize = 200;
/// How often the lag of the leader's thread is measured.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// The metrics of an executor's process, for as long as it lives.
pub(crate) struct Metrics {
    registry: Registry,
    executions: ExecutionCounts,
    /// Requests that took no place in a line.
    rejected: Family<ReasonLabel, Counter>,
    dead_letters: Family<ReasonLabel, Counter>,
    terms: Counter,
    workers_lost: Counter,
    commit: Histogram,
    loop_lag: Histogram,
    answers: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// Set by each scrape; one at a time, so that none reads what another sets.
    gauges: Mutex<Gauges>,
}

/// How things stand at the moment of a scrape.
pub(crate) struct Moment {
    pub(crate) leads: bool,
    pub(crate) session: Option<Session>,
    /// The journal takes nothing.
    pub(crate) has_trouble: bool,
    pub(crate) open_streams: usize,
    /// Those that the leader knows; none on a standby.
    pub(crate) workers: Vec<Worker>,
}

/// The series that each scrape sets.
#[derive(Default)]
struct Gauges {
    leader: Gauge,
    broker_connected: Gauge,
    broker_blocked: Gauge,
    journal_trouble: Gauge,
    streams: Gauge,
    workers: Family<StateLabel, Gauge>,
    running: Family<WorkerLabel, Gauge>,
    capacity: Family<WorkerLabel, Gauge>,
}

impl Metrics {
    /// `journal`: the kind of database, for `slotline_build_info`.
    pub(crate) fn new(journal: &'static str) -> Self {
        let mut whole = Registry::default();
        host::register(&mut whole);
        let registry = whole.sub_registry_with_prefix("slotline");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("journal", journal)]);
        registry.register("build", "The program and the kind of its journal", build);
        let executions = ExecutionCounts::register(registry);
        let rejected = by_reason();
        registry.register("requests_rejected", "Requests that took no place in a line, by reason", rejected.clone());
        let dead_letters = by_reason();
        registry.register("dead_letters", "Messages that were put aside, by reason", dead_letters.clone());
        let terms = Counter::default();
        registry.register("leader_terms", "Times that this process became the leader", terms.clone());
        let workers_lost = Counter::default();
        registry.register("workers_lost", "Incarnations of workers that were found lost", workers_lost.clone());
        let commit = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        registry.register_with_unit("commit", "Time of one commit in the journal", Unit::Seconds, commit.clone());
        let loop_lag = Histogram::new(exponential_buckets(0.000_25, 4.0, 9));
        let help = "How late the leader's thread wakes up for a timer";
        registry.register_with_unit("loop_lag", help, Unit::Seconds, loop_lag.clone());
        let answers =
            Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.001, 4.0, 8))) as fn() -> _);
        registry.register_with_unit("http_request", "Time to the answer of a request", Unit::Seconds, answers.clone());
        let gauges = Mutex::new(Gauges::register(registry));
        Self {
            registry: whole,
            executions,
            rejected,
            dead_letters,
            terms,
            workers_lost,
            commit,
            loop_lag,
            answers,
            gauges,
        }
    }

    /// This process leads, with what the journal has.
    pub(crate) fn begin_term(&self, recovered: &Recovered) {
        self.terms.inc();
        self.executions.begin_term(recovered.actions.iter().map(|state| &state.action), &recovered.live);
    }

    /// Counts a batch that is committed.
    pub(crate) fn count(&self, batch: &Batch) {
        self.executions.count(batch);
    }

    pub(crate) fn rejected(&self, reason: &str) {
        self.rejected.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    pub(crate) fn put_aside(&self, reason: &str) {
        self.dead_letters.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    pub(crate) fn departed(&self, departed: &[Departed]) {
        let lost = departed.iter().filter(|departed| departed.how == Departure::Silent).count();
        self.workers_lost.inc_by(lost as u64);
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }

    pub(crate) fn answered(&self, route: &str, status: u16, took: Duration) {
        let code = format!("{}xx", status / 100);
        self.answers.get_or_create(&RouteLabels { route: route.to_owned(), code }).observe(took.as_secs_f64());
    }

    /// The figures of this process. Those of lines and workers are the leader's alone: a standby leaves them out.
    pub(crate) fn scrape(&self, moment: &Moment) -> Result<String, ControlError> {
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set(moment);
        gauges.set_workers(&moment.workers, moment.leads);
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|error| ControlError::unavailable(format!("the metrics can't be written: {error}")))?;
        drop(gauges);
        Ok(text)
    }
}

/// Counters that are there before their first case, which would be no increase otherwise.
fn by_reason() -> Family<ReasonLabel, Counter> {
    let family = Family::<ReasonLabel, Counter>::default();
    for reason in Reason::ALL {
        drop(family.get_or_create(&ReasonLabel { reason: reason.as_str().to_owned() }));
    }
    family
}

impl Gauges {
    fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        registry.register("leader", "Whether this executor leads", gauges.leader.clone());
        registry.register(
            "broker_connected",
            "Whether there is a session with the broker",
            gauges.broker_connected.clone(),
        );
        registry.register("broker_blocked", "Whether the broker blocks publishers", gauges.broker_blocked.clone());
        registry.register("journal_trouble", "Whether the journal takes nothing", gauges.journal_trouble.clone());
        registry.register("streams", "Open streams of events", gauges.streams.clone());
        registry.register("workers", "Workers, by state", gauges.workers.clone());
        registry.register("worker_running", "Attempts that a worker holds", gauges.running.clone());
        registry.register("worker_capacity", "Attempts that a worker may hold at once", gauges.capacity.clone());
        gauges
    }

    fn set(&self, Moment { leads, session, has_trouble, open_streams, .. }: &Moment) {
        self.leader.set(i64::from(*leads));
        self.broker_connected.set(i64::from(session.is_some()));
        self.broker_blocked.set(i64::from(session.as_ref().is_some_and(Session::is_blocked)));
        self.journal_trouble.set(i64::from(*has_trouble));
        self.streams.set(i64::try_from(*open_streams).unwrap_or(i64::MAX));
    }

    /// A worker that is gone has no series: each scrape begins with none.
    fn set_workers(&self, workers: &[Worker], leads: bool) {
        self.workers.clear();
        self.running.clear();
        self.capacity.clear();
        if !leads {
            return;
        }
        let in_state = |state: WorkerState| self.workers.get_or_create_owned(&StateLabel { state: state.as_str() });
        for state in WorkerState::ALL {
            in_state(state).set(0);
        }
        for (number, worker) in workers.iter().enumerate() {
            in_state(worker.state()).inc();
            let name = if number < WORKERS_MAX { worker.worker.as_str() } else { OTHER };
            let label = WorkerLabel { worker: name.to_owned() };
            self.running.get_or_create(&label).inc_by(i64::from(worker.active_count));
            self.capacity.get_or_create(&label).inc_by(i64::from(worker.capacity));
        }
    }
}

/// Measures how late the thread wakes up that calls it, until it is aborted.
pub(crate) async fn watch_lag(metrics: Arc<Metrics>) {
    loop {
        let due = Instant::now() + LAG_EVERY;
        tokio::time::sleep_until(due).await;
        metrics.loop_lag.observe(due.elapsed().as_secs_f64());
    }
}
