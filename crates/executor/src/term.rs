//! One leadership, from recovery to its end: arrivals, the scheduler, commits, and what leaves after them.
//!
//! One loop owns the scheduler. While a batch commits, the next one gathers; so batches form by themselves under load,
//! and an idle leader commits at once. Nothing leaves before its commit, and after a commit that failed, or whose
//! outcome is unknown, nothing leaves at all: the term ends, and the next begins with what the journal has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use slotline_broker::{Acker, Publication, PublishError, Receipt, Session, Tag};
use slotline_protocol::message::Reply;
use slotline_protocol::{Epoch, ExecutionId, Incarnation, Reason, Timestamp};
use slotline_scheduler::{Config as SchedulerConfig, Counters, Input, Limits, RecoveredAction, Scheduler};
use slotline_store::{Batch, CommitError, Leadership, Recovered, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::answer::answer;
use crate::ask::{Answered, Asker, Question};
use crate::bodies::Bodies;
use crate::clock::Clock;
use crate::config::Config;
use crate::feed::{Arrival, Feed, Source};
use crate::inbox::{self, ProbeMark};
use crate::intake::{Checked, Intake, Member, Target};
use crate::link::Current;
use crate::mail::{Mail, Postman, Purpose};
use crate::outbox::{Asked, Awaited, Letters, Pending, Turned, pack};
use crate::registry::{Registered, Registry};

/// Inputs that may gather while a batch commits; beyond, arrivals wait on the broker.
const PENDING_INPUTS_MAX: usize = 20_000;
/// How long a fact that needs no commit of its own may wait for one.
const LAZY: Duration = Duration::from_millis(50);
/// How often an idle leader shows the database that it lives.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How often history is pruned, and how many executions at once.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_MAX: u32 = 1000;
/// How long what left last may take to be confirmed when leadership is handed over.
const FAREWELL: Duration = Duration::from_secs(3);
/// Wait before a refused dead letter is tried again.
const DEAD_RETRY: Duration = Duration::from_millis(500);

/// What a term needs of its process.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) prefix: String,
    pub(crate) clock: Clock,
    pub(crate) current: Current,
    pub(crate) shutdown: CancellationToken,
}

/// Why a term ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Asked to; leadership is handed over.
    Shutdown,
    /// Someone else leads, or the journal can't be written; the state is dropped.
    Over,
}

/// Leads until shutdown or until the journal says otherwise.
pub(crate) async fn lead(
    context: &Context,
    mut leadership: Leadership,
    questions: &mut mpsc::Receiver<Question>,
) -> Result<End, slotline_store::Error> {
    let recovered = leadership.recover().await?;
    let mut term = Term::new(context, leadership, recovered);
    let end = term.run(context, questions).await;
    term.finish(&end).await;
    Ok(end)
}

struct Term {
    epoch: Epoch,
    clock: Clock,
    scheduler: Scheduler,
    registry: Arc<Registry>,
    postman: Arc<Postman>,
    store: Store,
    retention: Duration,
    /// At home between commits.
    leadership: Option<Leadership>,
    flight: Option<JoinHandle<Flight>>,
    /// The last batch handed to a commit, and the last that is committed.
    batch: i64,
    committed: Arc<AtomicI64>,
    pending: Pending,
    bodies: Bodies,
    awaited: Awaited,
    /// `message_id`s accepted by batches that a look-up may not have seen: id -> (execution, digest, batch).
    recent: BTreeMap<String, (ExecutionId, [u8; 32], i64)>,
    next_token: u64,
    feed: Option<Feed>,
    mark: ProbeMark,
    /// Acks that may go out with the batch now gathering.
    acks: Vec<(Source, Tag)>,
    requests: Option<Tag>,
    /// Since when something waits that is worth a commit, and whether at once.
    lazy_since: Option<Timestamp>,
    is_urgent: bool,
    returned: (mpsc::UnboundedSender<Incarnation>, mpsc::UnboundedReceiver<Incarnation>),
    watch: Option<mpsc::UnboundedSender<(Receipt, Incarnation)>>,
    requests_out: Option<mpsc::UnboundedSender<(Tag, Vec<Publication>)>>,
}

/// A batch under way, with all that may leave once it is committed.
struct Flight {
    leadership: Leadership,
    result: Result<Mail, FlightError>,
    cargo: Cargo,
}

#[derive(Debug, thiserror::Error)]
enum FlightError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("requests of dispatches can't be read")]
    Requests(#[source] slotline_store::Error),
}

#[derive(Default)]
struct Cargo {
    batch: i64,
    /// When the probes of this batch were due; `None` if none were.
    probe: Option<Timestamp>,
    answers: Vec<(Asker, Answered)>,
    acks: Vec<(Source, Tag)>,
    requests: Option<Tag>,
    generation: Option<u64>,
}

impl Term {
    fn new(context: &Context, leadership: Leadership, recovered: Recovered) -> Self {
        let epoch = leadership.epoch();
        let config = &context.config;
        let registry = Arc::new(Registry::default());
        let Recovered { actions, live, ended, counters } = recovered;
        let now = context.clock.now();
        tracing::info!(%epoch, actions = actions.len(), live = live.len(), "leading");
        let actions: Vec<_> = actions
            .into_iter()
            .map(|state| {
                let action = state.action;
                let recovered = RecoveredAction {
                    id: action.action_id,
                    action_ref: action.action_ref.clone(),
                    limits: Limits::from(&action.policy),
                    paused: action.paused,
                    total_enqueued: state.total_enqueued,
                    total_completed: state.total_completed,
                };
                match Registered::new(action) {
                    Ok(registered) => registry.put(registered),
                    Err(error) => tracing::error!(%error, "an action in the journal has a policy that can't be used"),
                }
                recovered
            })
            .collect();
        let scheduler = Scheduler::recover(
            SchedulerConfig { lease: config.lease, heartbeat: config.heartbeat },
            epoch,
            Counters { next_id: counters.next_id, next_fence: counters.next_fence, next_action: counters.next_action },
            actions,
            live,
            ended,
            now,
        );
        let source = format!("executor/{}", config.name);
        let postman = Postman { prefix: context.prefix.clone(), source, epoch, config: config.clone() };
        Self {
            epoch,
            clock: context.clock,
            scheduler,
            registry,
            postman: Arc::new(postman),
            store: context.store.clone(),
            retention: config.retention,
            leadership: Some(leadership),
            flight: None,
            batch: 0,
            committed: Arc::default(),
            pending: Pending::default(),
            bodies: Bodies::default(),
            awaited: Awaited { requests: BTreeMap::new(), inherited_below: ExecutionId(counters.next_id) },
            recent: BTreeMap::new(),
            next_token: 0,
            feed: None,
            mark: ProbeMark { generation: 0, nonce: Uuid::new_v4() },
            acks: Vec::new(),
            requests: None,
            lazy_since: None,
            is_urgent: false,
            returned: mpsc::unbounded_channel(),
            watch: None,
            requests_out: None,
        }
    }

    async fn run(&mut self, context: &Context, questions: &mut mpsc::Receiver<Question>) -> End {
        let mut current = context.current.clone();
        current.mark_changed();
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        prune.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_room = self.pending.inputs < PENDING_INPUTS_MAX;
            let deadline = self.clock.instant(self.next_deadline());
            let (mut no_urgent, mut no_events, mut no_requests) = (None, None, None);
            let (urgent, events, requests) = match &mut self.feed {
                Some(feed) => (Some(&mut feed.urgent), Some(&mut feed.events), Some(&mut feed.requests)),
                None => (no_urgent.as_mut(), no_events.as_mut(), no_requests.as_mut()),
            };
            tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return End::Shutdown,
                flight = landed(&mut self.flight) => match self.land(flight) {
                    Ok(()) => {}
                    Err(end) => return end,
                },
                arrival = arrived(urgent), if has_room => self.arrive(arrival),
                Some(question) = questions.recv(), if has_room => self.answer(question),
                Some(incarnation) = self.returned.1.recv() => self.apply(Input::OrderReturned { incarnation }),
                checked = arrived(requests), if has_room => self.admit(checked),
                arrival = arrived(events), if has_room => self.arrive(arrival),
                changed = current.changed() => {
                    if changed.is_err() {
                        return End::Shutdown;
                    }
                    let session = current.borrow_and_update().clone();
                    self.change_session(session).await;
                }
                () = tokio::time::sleep_until(deadline) => self.apply(Input::Ticked),
                _ = ping.tick(), if self.flight.is_none() => {
                    if let Some(leadership) = &mut self.leadership
                        && let Err(error) = leadership.ping().await
                    {
                        tracing::warn!(%error, epoch = %self.epoch, "the journal does not answer; leadership is over");
                        return End::Over;
                    }
                }
                _ = prune.tick(), if self.flight.is_none() => {
                    let before = self.clock.now() - self.retention;
                    if let Some(leadership) = &mut self.leadership
                        && let Err(error) = leadership.prune(before, PRUNE_MAX).await
                    {
                        tracing::warn!(%error, epoch = %self.epoch, "history can't be pruned; leadership is over");
                        return End::Over;
                    }
                }
            }
            self.take_what_is_there();
            self.cut();
        }
    }

    /// Adds to the batch what has arrived already, so that one commit serves all of it.
    fn take_what_is_there(&mut self) {
        while self.pending.inputs < PENDING_INPUTS_MAX {
            let Some(feed) = &mut self.feed else { return };
            if let Ok(arrival) = feed.urgent.try_recv() {
                self.arrive(arrival);
            } else if let Ok(checked) = feed.requests.try_recv() {
                self.admit(checked);
            } else if let Ok(arrival) = feed.events.try_recv() {
                self.arrive(arrival);
            } else {
                return;
            }
        }
    }

    fn next_deadline(&self) -> Timestamp {
        let lazy = self.lazy_since.filter(|_| self.flight.is_none()).map(|since| since + LAZY);
        let deadlines = [self.scheduler.next_deadline(), lazy];
        deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Timestamp::MAX)
            .min(self.clock.now() + Duration::from_secs(3600))
    }

    // ---- what comes in ----

    fn apply(&mut self, input: Input) {
        if matches!(input, Input::Started { .. }) {
            // A start needs no commit of its own; what follows it takes it along.
            self.lazy_since.get_or_insert(self.clock.now());
        } else {
            self.is_urgent = true;
        }
        self.pending.inputs += 1;
        // Read only now, after the arrival was received: a silence must never be counted too long.
        self.scheduler.handle(input, self.clock.now());
    }

    fn arrive(&mut self, arrival: Arrival) {
        let Some(last) = arrival.deliveries.last() else { return };
        self.acks.push((arrival.from, last.tag));
        for delivery in arrival.deliveries {
            match arrival.from {
                Source::Calls => match serde_json::from_slice(&delivery.body) {
                    Ok(ask) => self.answer(Question { ask, asker: Asker::Elsewhere(delivery.properties) }),
                    Err(error) => tracing::warn!(%error, "dropped a question that can't be read"),
                },
                // Its own announcements come back to it.
                Source::Events if delivery.properties.app_id.as_deref() == Some(&self.postman.source) => {}
                Source::Events | Source::Completions | Source::Heartbeats => {
                    for input in inbox::read(&delivery, arrival.from.probed(), self.mark) {
                        self.apply(input);
                    }
                }
            }
        }
        // The acks go out with a commit, soon.
        self.lazy_since.get_or_insert(self.clock.now());
    }

    fn admit(&mut self, checked: Checked) {
        if Some(checked.generation) != self.feed.as_ref().map(|feed| feed.session.generation()) {
            // Of a session that is over: unacked, it comes again, in its place.
            return;
        }
        self.recent.retain(|_, (_, _, batch)| *batch > checked.seen_batch);
        self.requests = Some(checked.tag);
        self.is_urgent = true;
        for member in checked.members {
            self.pending.inputs += 1;
            match member {
                Member::Request { action, asked, known } => {
                    let known = known.map(|known| (known.execution_id, known.digest));
                    match known.or_else(|| self.recently(asked.request.message_id.as_ref())) {
                        Some((id, digest)) => self.repeat(asked, id, digest),
                        None => self.request(action, asked),
                    }
                }
                Member::Cancel { target: Target::Execution(id), reason } => {
                    self.apply(Input::CancelRequested { id, reason });
                }
                Member::Cancel { target: Target::Message { message_id, known }, reason } => {
                    let known = known.map(|known| known.execution_id);
                    match known.or_else(|| self.recently(Some(&message_id)).map(|(id, _)| id)) {
                        Some(id) => self.apply(Input::CancelRequested { id, reason }),
                        None => tracing::warn!(message.id = message_id, "no request to cancel has this message_id"),
                    }
                }
                Member::Refused(refusal) => self.pending.refusals.push(*refusal),
            }
        }
    }

    fn recently(&self, message_id: Option<&String>) -> Option<(ExecutionId, [u8; 32])> {
        self.recent.get(message_id?).map(|(id, digest, _)| (*id, *digest))
    }

    fn request(&mut self, action: slotline_protocol::ActionId, asked: Asked) {
        let token = self.next_token;
        self.next_token += 1;
        let key = asked.key.clone();
        let request = asked.request.clone();
        self.pending.requests.insert(token, asked);
        let id = ExecutionId(self.scheduler.counters().next_id);
        self.apply(Input::Requested { token, action, key });
        if let Some(message_id) = &request.message_id
            && self.scheduler.counters().next_id > id.0
        {
            self.recent.insert(message_id.clone(), (id, request.digest, self.batch + 1));
        }
    }

    fn repeat(&mut self, asked: Asked, id: ExecutionId, digest: [u8; 32]) {
        if digest == asked.request.digest {
            let position = self.scheduler.explain(id).map_or(1, |waiting| waiting.position);
            self.pending.repeated.push((asked.request, id, position));
            return;
        }
        let detail = format!("message_id: it was used for another request, execution {id}");
        self.pending.refused.push(Turned { asked, reason: Reason::IdempotencyConflict, detail });
    }

    fn answer(&mut self, question: Question) {
        self.is_urgent = true;
        self.pending.inputs += 1;
        let now = self.clock.now();
        let answered = answer(question.ask, &mut self.scheduler, &self.registry, &mut self.pending, now);
        self.pending.answers.push((question.asker, answered));
    }

    async fn change_session(&mut self, session: Option<Session>) {
        self.feed = None;
        self.acks.clear();
        self.requests = None;
        let Some(session) = session else { return };
        let generation = session.generation();
        let intake = Intake {
            store: self.store.clone(),
            registry: self.registry.clone(),
            committed: self.committed.clone(),
            generation,
        };
        match Feed::open(session.clone(), &self.postman.prefix, self.epoch, intake).await {
            Ok(feed) => {
                self.mark.generation = generation;
                let (watch, receipts) = mpsc::unbounded_channel();
                tokio::spawn(watch_orders(receipts, self.returned.0.clone()));
                let (requests_out, handled) = mpsc::unbounded_channel();
                tokio::spawn(ack_requests(handled, session, feed.requests_acker()));
                self.watch = Some(watch);
                self.requests_out = Some(requests_out);
                self.feed = Some(feed);
                self.apply(Input::SessionOpened);
            }
            Err(error) => {
                // An error ends the session; the link builds the next one.
                tracing::warn!(%error, "the leader's queues can't be consumed");
                session.close().await;
            }
        }
    }

    // ---- commits ----

    /// Hands what has gathered to a commit, if none is under way and something is due.
    fn cut(&mut self) {
        let now = self.clock.now();
        let lazily_due = self.lazy_since.is_some_and(|since| since + LAZY <= now);
        if self.flight.is_some() || !(self.is_urgent || lazily_due) {
            return;
        }
        self.is_urgent = false;
        self.lazy_since = None;
        let (batch, letters) = pack(&mut self.scheduler, &mut self.pending, &mut self.bodies, &mut self.awaited, now);
        self.pending.inputs = 0;
        let cargo = Cargo {
            batch: self.batch + 1,
            probe: letters.probe.then_some(now),
            answers: std::mem::take(&mut self.pending.answers),
            acks: std::mem::take(&mut self.acks),
            requests: self.requests.take(),
            generation: self.feed.as_ref().map(|feed| feed.session.generation()),
        };
        let speaks_for_itself = batch.is_empty() && letters.orders.is_empty() && letters.hello.is_none();
        if speaks_for_itself {
            let mail = self.postman.write(letters, |_| None, now);
            self.release(mail, cargo);
            return;
        }
        self.batch += 1;
        self.fly(Batch { number: self.batch, ..batch }, letters, cargo, now);
    }

    /// Commits, and meanwhile writes the letters.
    fn fly(&mut self, batch: Batch, mut letters: Letters, cargo: Cargo, now: Timestamp) {
        let Some(mut leadership) = self.leadership.take() else { return };
        let (store, postman, registry) = (self.store.clone(), self.postman.clone(), self.registry.clone());
        self.flight = Some(tokio::spawn(async move {
            if let Err(error) = find_heirs(&store, &mut letters).await {
                return Flight { leadership, result: Err(FlightError::Requests(error)), cargo };
            }
            let commit = leadership.commit(&batch);
            let write = async {
                let missing = letters.missing();
                if !missing.is_empty() {
                    let found = store.requests(&missing).await.map_err(FlightError::Requests)?;
                    letters.requests.extend(found.into_iter().map(|(id, request)| (id, Arc::new(request))));
                }
                Ok(postman.write(letters, |dispatch| registry.get(&dispatch.action_ref), now))
            };
            let (committed, written) = tokio::join!(commit, write);
            let result = committed.map_err(FlightError::Commit).and(written);
            Flight { leadership, result, cargo }
        }));
    }

    fn land(&mut self, flight: Flight) -> Result<(), End> {
        self.leadership = Some(flight.leadership);
        match flight.result {
            Ok(mail) => {
                self.committed.store(flight.cargo.batch, Ordering::Release);
                self.release(mail, flight.cargo);
                Ok(())
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, cause, epoch = %self.epoch, "a batch is not known to be committed; leadership is over");
                Err(End::Over)
            }
        }
    }

    /// Lets out what a commit has made true.
    fn release(&mut self, mail: Mail, cargo: Cargo) {
        for (asker, answer) in cargo.answers {
            match asker {
                // Whoever asked may have gone away.
                Asker::Here(sender) => drop(sender.send(answer)),
                Asker::Elsewhere(properties) => {
                    if let (Some(feed), Some(publication)) = (&self.feed, self.postman.answer(&properties, &answer)) {
                        drop(feed.session.publish(publication));
                    }
                }
            }
        }
        let Some(feed) = &self.feed else { return };
        for (publication, purpose) in mail.publications {
            let receipt = feed.session.publish(publication);
            if let (Purpose::Order(incarnation), Some(watch)) = (purpose, &self.watch) {
                drop(watch.send((receipt, incarnation)));
            }
        }
        if let Some(published_at) = cargo.probe {
            for publication in self.postman.probes(self.mark, published_at) {
                drop(feed.session.publish(publication));
            }
        }
        if cargo.generation != Some(feed.session.generation()) {
            // Those deliveries belong to a session that is over; they come again.
            return;
        }
        for (from, tag) in cargo.acks {
            feed.ack(from, tag);
        }
        if let (Some(tag), Some(requests_out)) = (cargo.requests, &self.requests_out) {
            drop(requests_out.send((tag, mail.dead)));
        }
    }

    /// Ends the term: what is under way lands, and leadership goes to the next in line.
    async fn finish(&mut self, end: &End) {
        if let Some(flight) = self.flight.take()
            && let Ok(flight) = flight.await
        {
            drop(self.land(flight));
        }
        let session = self.feed.as_ref().map(|feed| feed.session.clone());
        if let Some(session) = session {
            // What left last gets confirmed; what was not acked goes back to its place, for the next leader.
            self.feed = None;
            if tokio::time::timeout(FAREWELL, session.close()).await.is_err() {
                tracing::debug!("the session did not close in time");
            }
        }
        if let (End::Shutdown, Some(leadership)) = (end, self.leadership.take()) {
            leadership.release().await;
            tracing::info!(epoch = %self.epoch, "handed leadership over");
        }
    }
}

/// Finds who waits for the ends of executions that an earlier term accepted; after the commit their requests are history.
async fn find_heirs(store: &Store, letters: &mut Letters) -> Result<(), slotline_store::Error> {
    let inherited = std::mem::take(&mut letters.inherited);
    if inherited.is_empty() {
        return Ok(());
    }
    let ids: Vec<ExecutionId> = inherited.iter().map(|settled| settled.id).collect();
    let requests: BTreeMap<_, _> = store.requests(&ids).await?.into_iter().collect();
    letters.settled.extend(inherited.into_iter().filter_map(|settled| {
        let request = requests.get(&settled.id).filter(|request| request.reply == Reply::Settled)?;
        Some((Arc::new(request.clone()), settled))
    }));
    Ok(())
}

async fn landed(flight: &mut Option<JoinHandle<Flight>>) -> Flight {
    match flight {
        Some(handle) => {
            let landed = handle.await.expect("a commit task neither panics nor is aborted");
            *flight = None;
            landed
        }
        None => std::future::pending().await,
    }
}

async fn arrived<T>(receiver: Option<&mut mpsc::Receiver<T>>) -> T {
    match receiver {
        // A closed channel means that the session is over; the link will say so.
        Some(receiver) => match receiver.recv().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Tells the loop which incarnations' queues are gone.
async fn watch_orders(
    mut receipts: mpsc::UnboundedReceiver<(Receipt, Incarnation)>,
    returned: mpsc::UnboundedSender<Incarnation>,
) {
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            order = receipts.recv() => match order {
                Some((receipt, incarnation)) => waiting.push(async move { (receipt.await, incarnation) }),
                None => return,
            },
            Some((result, incarnation)) = waiting.next() => {
                if result == Err(PublishError::Returned) && returned.send(incarnation).is_err() {
                    return;
                }
            }
        }
    }
}

/// Acks requests in order, each once its dead copies are confirmed.
async fn ack_requests(mut handled: mpsc::UnboundedReceiver<(Tag, Vec<Publication>)>, session: Session, acker: Acker) {
    while let Some((tag, dead)) = handled.recv().await {
        for publication in dead {
            while let Err(error) = session.publish(publication.clone()).await {
                if matches!(error, PublishError::SessionEnded | PublishError::Overdue) {
                    return;
                }
                tracing::warn!(%error, "a dead letter can't be stored; its request stays unacked meanwhile");
                tokio::time::sleep(DEAD_RETRY).await;
            }
        }
        acker.ack_up_to(tag);
    }
}
