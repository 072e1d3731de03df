//! One leadership, from recovery to its end: arrivals, the scheduler, commits, and what leaves after them.
//!
//! One loop owns the scheduler. While a batch commits, the next one gathers, and is packed once it is worth it; so
//! batches form by themselves under load, and an idle leader commits at once. Nothing leaves before its commit, and
//! after a commit that failed, or whose outcome is unknown, nothing leaves at all: the term ends, and the next begins
//! with what the journal has.

mod commits;
mod marks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use slotline_api::Hub;
use slotline_broker::pulse::Pulse;
use slotline_broker::{Broker, Receipt, Session, Tag, crash};
use slotline_protocol::message::{self, Message};
use slotline_protocol::{Epoch, ExecutionId, Incarnation, RequestName, Sizes, Timestamp, chain};
use slotline_scheduler::{Config as SchedulerConfig, Counters, Input, Limits, RecoveredAction, Scheduler};
use slotline_store::{Leadership, Recovered, Store};
use tokio::runtime;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::announcer::{Announcer, Outlet};
use crate::answer::Desk;
use crate::ask::{Answer, Ask, Asker, Question};
use crate::bodies::Bodies;
use crate::change::end_past_overrides;
use crate::clock::Clock;
use crate::config::Config;
use crate::errands::{Fate, Handled, ack_requests, watch_orders};
use crate::feed::{Arrival, Feed, Reader, Source, unbind_former_leaders};
use crate::flight::{Flight, landed};
use crate::followers::Followers;
use crate::gate::{Gate, Gates};
use crate::inbox::{Item, ProbeMark};
use crate::intake::Intake;
use crate::journal::Condition;
use crate::link::Current;
use crate::lookout::{Lookout, News};
use crate::mail::Postman;
use crate::mark::Notice;
use crate::outbox::{Awaited, Pending};
use crate::policies::{self, Findings};
use crate::probation::Probation;
use crate::prune;
use crate::quarantine::Quarantine;
use crate::record::{End as AttemptEnd, Record, Said, Word};
use crate::registry::{Registered, Registry};
use crate::remarks::{Remarks, Topic};
use crate::rivals::{Refused, Sign};
use crate::skew::Skews;
use crate::{seeking, timekeeping};
use commits::Rest;
use marks::Office;

/// Inputs, by weight, that may gather while a batch commits; beyond, arrivals wait on the broker. With a batch of all
/// there is, executor, database and worker would take turns; with several under way they work side by side.
const INPUTS_MAX: usize = 2_000;
/// Members of requests, by weight, that may gather beside them: neither a flood of requests nor a flood of anything else
/// keeps the other out. Few, since what is accepted long before it can start is written once more.
const MEMBERS_MAX: usize = 500;
/// Dead letters that may wait for the broker; beyond, requests wait in their queue.
const UNSTORED_MAX: usize = 1_000;
/// Inputs that are worth a batch of their own while another commits: it is packed and encoded then, so that the database
/// need not wait for it. Fewer wait, and grow.
const WORTH_A_BATCH: usize = 500;
/// Arrivals that join a batch in one turn of the loop.
const ARRIVALS_MAX: usize = 64;
/// The most incarnations that one batch gives their tokens; the others ask again with their next heartbeat.
const STRANGERS_MAX: usize = 1_000;
/// How long a fact that needs no commit of its own may wait for one.
const LAZY: Duration = Duration::from_millis(50);
/// How often an idle leader shows the database that it lives.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long what left last may take to be confirmed when leadership is handed over.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a term needs of its process.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) prefix: String,
    /// What the broker's policies were found to do.
    pub(crate) policies: Arc<Findings>,
    pub(crate) current: Current,
    pub(crate) shutdown: CancellationToken,
    /// Whether this process leads and hears what others ask.
    pub(crate) leads: Arc<AtomicBool>,
    pub(crate) journal: Arc<Condition>,
    /// Requests that this process has begun to read alone.
    pub(crate) probation: Probation,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) notice: Arc<Notice>,
    /// Who watches events through this process.
    pub(crate) hub: Arc<Hub>,
    /// Shows the watch that the loop turns.
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) remarks: Arc<Remarks>,
    pub(crate) gates: Arc<Gates>,
    /// The runtime of what is not the leader's own.
    pub(crate) callers: runtime::Handle,
}

/// What the executor's loop can be doing, for the watch; the index is what [`Pulse::turn`] is given.
pub(crate) const DOING: &[&str] =
    &["waiting, or at work beside the leader's turns", "taking what arrived", "cutting a batch"];

/// Why a term ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Asked to; leadership is handed over.
    Shutdown,
    /// Someone else leads, or the journal can't be written; the state is dropped.
    Over,
    /// The journal is older than something shows: the next leader finds out, above this epoch.
    Doubted { reason: String, above: Epoch },
    /// Everything that the journal may have forgotten is known: the next leader goes on.
    Settled,
    /// The broker could not be used for too long; leadership is handed over to an executor that can.
    Brokerless,
}

/// Leads until shutdown or until the journal says otherwise.
pub(crate) async fn lead(
    context: &Context,
    mut leadership: Leadership,
    questions: &mut mpsc::Receiver<Question>,
) -> Result<End, slotline_store::Error> {
    let Some(mut office) = marks::enter(context, &mut leadership).await? else { return Ok(End::Over) };
    // Before any worker hears of these terms, so that whoever leads next knows of them.
    let longest = leadership.take_terms(context.config.lease, office.doubt.as_deref()).await?;
    crash::point("executor.recovery.terms");
    if !marks::claim(context, &mut leadership, &mut office).await? {
        return Ok(End::Over);
    }
    crash::point("executor.recovery.claimed");
    let recovered = leadership.recover().await?;
    crash::point("executor.recovery.read");
    // Where nothing waits or runs, nothing can be moved by going back to the database's time.
    let noted = leadership.clock_ahead_us();
    let ahead = if recovered.live.is_empty() { 0 } else { noted };
    let (epoch, clock) = (leadership.epoch(), Clock::of(&leadership.reading(), ahead));
    let pruning = prune::start(context, epoch, clock.clone());
    let keeping = timekeeping::keep(context.store.clone(), epoch, clock.clone(), context.remarks.clone(), noted, ahead);
    let (broker, name) = (context.broker.clone(), context.config.name.clone());
    let looking = tokio::spawn(policies::watch(broker, name, context.policies.clone())).abort_handle();
    let gate = context.gates.read(&context.store).await?;
    let mut term = Term::new(context, leadership, recovered, office, clock, gate);
    term.scheduler.inherit_lease(longest);
    term.begin();
    let end = term.run(context, questions).await;
    context.leads.store(false, Ordering::Release);
    for task in [pruning, keeping, looking] {
        task.abort();
    }
    context.remarks.set(Topic::JournalClock, None);
    term.finish(&end).await;
    context.probation.absolve().await;
    context.notice.set_doubt(None);
    // From here on another tells what happens, and something may have been missed in between.
    context.hub.resync();
    Ok(end)
}

pub(crate) struct Term {
    epoch: Epoch,
    pub(crate) clock: Clock,
    pub(crate) scheduler: Scheduler,
    registry: Arc<Registry>,
    postman: Arc<Postman>,
    gate: Arc<Gate>,
    store: Store,
    journal: Arc<Condition>,
    probation: Probation,
    pub(crate) quarantine: Arc<Quarantine>,
    hub: Arc<Hub>,
    announcer: Announcer,
    /// Other executors whose clients watch.
    followers: Followers,
    skews: Skews,
    pub(crate) record: Record,
    /// Lent to each flight in its turn.
    leadership: Option<Arc<Mutex<Leadership>>>,
    /// The commit under way, and the one packed behind it.
    flights: VecDeque<JoinHandle<Flight>>,
    /// The last batch handed to a commit, and the last that is committed.
    pub(crate) batch: i64,
    committed: Arc<AtomicI64>,
    pub(crate) pending: Pending,
    bodies: Bodies,
    pub(crate) awaited: Awaited,
    /// Names accepted by batches that a look-up may not have seen: name -> (execution, digest, batch).
    pub(crate) recent: BTreeMap<RequestName, (ExecutionId, [u8; 32], i64)>,
    pub(crate) next_token: u64,
    pub(crate) feed: Option<Feed>,
    /// Since when, if there is none.
    feedless_since: Instant,
    mark: ProbeMark,
    /// Acks that may go out with the batch now gathering.
    acks: Vec<(Source, Tag)>,
    pub(crate) requests: Option<Tag>,
    /// Since when something waits that is worth a commit, and whether at once.
    lazy_since: Option<Timestamp>,
    pub(crate) is_urgent: bool,
    fates: (mpsc::UnboundedSender<Fate>, mpsc::UnboundedReceiver<Fate>),
    watch: Option<mpsc::UnboundedSender<(Receipt, Incarnation)>>,
    /// What is left of the last release; nothing leaves before it.
    rest: Option<Rest>,
    requests_out: Option<mpsc::UnboundedSender<Handled>>,
    /// Dead letters of this session that the broker does not have yet.
    unstored: usize,
    requests_acked: Option<JoinHandle<()>>,
    /// What this leader made of the journal, and the marks that it leaves.
    office: Office,
    /// When the newest mark was left, if something was committed since.
    marked_at: Option<Timestamp>,
    /// Why this leader must stand down.
    evidence: Option<(String, Epoch)>,
    notice: Arc<Notice>,
    /// What was logged of workers.
    lookout: Lookout,
}

impl Term {
    fn new(
        context: &Context,
        leadership: Leadership,
        recovered: Recovered,
        office: Office,
        clock: Clock,
        gate: Arc<Gate>,
    ) -> Self {
        let epoch = leadership.epoch();
        let config = &context.config;
        let registry = Arc::new(Registry::default());
        let Recovered { mut actions, live, ended, counters, stories, rewound_below, .. } = recovered;
        let now = clock.now();
        let mut pending = Pending::default();
        end_past_overrides(&mut actions, counters.next_fence, now, &mut pending);
        tracing::info!(%epoch, actions = actions.len(), live = live.len(), "leading");
        let actions: Vec<_> = actions
            .into_iter()
            .map(|state| {
                let action = state.action;
                let recovered = RecoveredAction {
                    id: action.action_id,
                    action_ref: action.action_ref.clone(),
                    limits: Limits { limit: action.limit(), ..Limits::from(&action.policy) },
                    paused: action.paused,
                    total_enqueued: state.total_enqueued,
                    total_completed: state.total_completed,
                };
                match Registered::new(action) {
                    Ok(registered) => registry.put(registered),
                    Err(error) => tracing::error!(error = %chain(&error), "an action in the journal has a policy that can't be used"),
                }
                recovered
            })
            .collect();
        let names: BTreeMap<_, _> =
            actions.iter().map(|action: &RecoveredAction| (action.id, action.action_ref.clone())).collect();
        let record =
            Record::recover(config.events_kept, stories, &live, |snapshot| names.get(&snapshot.action).cloned(), now);
        let mut scheduler = Scheduler::recover(
            SchedulerConfig { lease: config.lease, heartbeat: config.heartbeat },
            epoch,
            Counters { next_id: counters.next_id, next_fence: counters.next_fence, next_action: counters.next_action },
            actions,
            live,
            ended,
            now,
        );
        scheduler.know_as(office.lineage, rewound_below);
        let source = format!("executor/{}", config.name);
        let fates = mpsc::unbounded_channel();
        let outlet = Outlet {
            store: context.store.for_viewers(),
            current: context.current.clone(),
            public: config.public,
            prefix: context.prefix.clone(),
            source: source.clone(),
            journal: office.lineage,
            epoch,
            fates: fates.0.clone(),
        };
        let postman = Postman {
            prefix: context.prefix.clone(),
            source,
            epoch,
            journal: office.lineage,
            wants_accounts: office.doubt.is_some(),
            config: config.clone(),
            gate: gate.clone(),
            // Nothing is written before there is a session.
            sizes: Sizes::FULL,
        };
        Self {
            epoch,
            clock,
            scheduler,
            registry,
            postman: Arc::new(postman),
            gate,
            store: context.store.clone(),
            journal: context.journal.clone(),
            probation: context.probation.clone(),
            quarantine: context.quarantine.clone(),
            hub: context.hub.clone(),
            announcer: Announcer::start(outlet, &context.callers),
            followers: Followers::default(),
            skews: Skews::default(),
            record,
            leadership: Some(Arc::new(Mutex::new(leadership))),
            flights: VecDeque::new(),
            batch: 0,
            committed: Arc::default(),
            is_urgent: !pending.audit.is_empty(),
            pending,
            bodies: Bodies::default(),
            awaited: Awaited { requests: BTreeMap::new(), inherited_below: ExecutionId(counters.next_id) },
            recent: BTreeMap::new(),
            next_token: 0,
            feed: None,
            feedless_since: Instant::now(),
            mark: ProbeMark { generation: 0, nonce: Uuid::new_v4() },
            acks: Vec::new(),
            requests: None,
            lazy_since: None,
            fates,
            watch: None,
            rest: None,
            requests_out: None,
            unstored: 0,
            requests_acked: None,
            office,
            marked_at: None,
            evidence: None,
            notice: context.notice.clone(),
            lookout: Lookout::default(),
        }
    }

    async fn run(&mut self, context: &Context, questions: &mut mpsc::Receiver<Question>) -> End {
        let mut current = context.current.clone();
        current.mark_changed();
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let brokerless_max = seeking::brokerless_max(context.config.lease);
        loop {
            context.pulse.turn(0);
            let has_room = self.pending.inputs < INPUTS_MAX;
            let takes_requests = self.takes_requests();
            let deadline = self.clock.instant(self.next_deadline());
            let (is_feedless, hands_over_at) = (self.feed.is_none(), self.feedless_since + brokerless_max);
            let (mut no_urgent, mut no_events, mut no_requests) = (None, None, None);
            let (urgent, events, requests) = match &mut self.feed {
                Some(feed) => (Some(&mut feed.urgent), Some(&mut feed.events), Some(&mut feed.requests)),
                None => (no_urgent.as_mut(), no_events.as_mut(), no_requests.as_mut()),
            };
            tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return End::Shutdown,
                flight = landed(&mut self.flights) => match self.land(flight) {
                    Ok(()) => {}
                    Err(end) => return end,
                },
                () = tokio::time::sleep_until(hands_over_at), if is_feedless => return End::Brokerless,
                arrival = arrived(urgent), if has_room => self.arrive(arrival),
                Some(question) = questions.recv(), if has_room => self.answer(question),
                Some(fate) = self.fates.1.recv() => match fate {
                    Fate::Returned(incarnation) => self.apply(Input::OrderReturned { incarnation }),
                    Fate::Settled => self.release_rest(),
                    // One of an earlier session may still come.
                    Fate::Stored => self.unstored = self.unstored.saturating_sub(1),
                    Fate::Announced => {}
                    Fate::Marked(marked) => self.marked(marked),
                },
                checked = arrived(requests), if takes_requests => self.admit(checked),
                arrival = arrived(events), if has_room => self.arrive(arrival),
                changed = current.changed() => {
                    if changed.is_err() {
                        return End::Shutdown;
                    }
                    let session = current.borrow_and_update().clone();
                    self.change_session(session).await;
                    if self.feed.is_some() {
                        context.leads.store(true, Ordering::Release);
                    }
                }
                () = tokio::time::sleep_until(deadline) => self.tick(),
                _ = ping.tick(), if self.flights.is_empty() => {
                    if let Some(leadership) = &self.leadership
                        && let Err(error) = leadership.lock().await.ping().await
                    {
                        tracing::warn!(error = %chain(&error), epoch = %self.epoch, "the journal does not answer; leadership is over");
                        self.journal.missed(chain(&error).to_string());
                        return End::Over;
                    }
                }
            }
            context.pulse.turn(1);
            self.take_what_is_there();
            context.pulse.turn(2);
            if let Some(end) = self.verdict() {
                return end;
            }
            self.cut();
        }
    }

    /// Adds to the batch what has arrived already, so that one commit serves all of it. Events can wait for the next
    /// turn where something urgent does not.
    fn take_what_is_there(&mut self) {
        for _ in 0..ARRIVALS_MAX {
            let takes_requests = self.takes_requests();
            let Some(feed) = &mut self.feed else { return };
            let has_room = self.pending.inputs < INPUTS_MAX;
            let has_time = !self.is_urgent || !self.flights.is_empty();
            if has_room && let Ok(arrival) = feed.urgent.try_recv() {
                self.arrive(arrival);
            } else if takes_requests && let Ok(checked) = feed.requests.try_recv() {
                self.admit(checked);
            } else if has_room
                && has_time
                && let Ok(arrival) = feed.events.try_recv()
            {
                self.arrive(arrival);
            } else {
                return;
            }
        }
    }

    /// Whether more requests may join the batch, and whether what was refused before them has been stored for the most
    /// part and what happened before them published, since both take memory until then.
    fn takes_requests(&self) -> bool {
        self.pending.members < MEMBERS_MAX
            && self.unstored < UNSTORED_MAX
            && self.announcer.has_room()
            && self.may_accept()
    }

    fn next_deadline(&self) -> Timestamp {
        let lazy = self.lazy_since.filter(|_| self.flights.is_empty()).map(|since| since + LAZY);
        let ends = self.registry.next_end();
        let deadlines = [self.scheduler.next_deadline(), self.record.next_deadline(), lazy, self.mark_due(), ends];
        deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Timestamp::MAX)
            .min(self.clock.now() + Duration::from_secs(3600))
    }

    // ---- what comes in ----

    pub(crate) fn apply(&mut self, input: Input) {
        if matches!(input, Input::Started { .. }) {
            // A start needs no commit of its own; what follows it takes it along.
            self.lazy_since.get_or_insert(self.clock.now());
        } else {
            self.is_urgent = true;
        }
        // Read only now, after the arrival was received: a silence must never be counted too long.
        let now = self.clock.now();
        let heard = match &input {
            Input::Heartbeat(heartbeat) => Some(Sign::of(heartbeat)),
            _ => None,
        };
        let is_probe = matches!(input, Input::Probed { .. });
        self.scheduler.handle(input, now);
        self.record.follow(&self.scheduler, now);
        self.weigh_evidence();
        // Every few seconds, and with every heartbeat: never with what an execution brings.
        if let Some(sign) = heard {
            self.lookout.heard(&self.scheduler, &sign, now).iter().for_each(News::log);
            self.look_for_rivals(sign, now);
        } else if is_probe {
            self.lookout.look(&self.scheduler, now).iter().for_each(News::log);
        }
    }

    /// Looks for a live worker of the same name. A worker that is over is greeted as lost anyway.
    fn look_for_rivals(&mut self, sign: Sign, now: Timestamp) {
        let Some(name) = self.scheduler.name_of(sign.incarnation) else { return };
        let patience = self.postman.config.heartbeat;
        for Refused { incarnation, reason } in self.pending.rivals.heard(name, sign, self.epoch, now, patience) {
            tracing::warn!(worker.name = %name, worker.incarnation = %incarnation, reason, "a second worker of one name is refused");
        }
    }

    fn tick(&mut self) {
        self.leave_mark_if_due();
        if let Err(refused) = self.desk().end_overrides() {
            tracing::error!(%refused, "the override of a limit can't be ended");
        }
        self.record.tick(self.clock.now());
        self.apply(Input::Ticked);
    }

    fn hear(&mut self, word: Word) {
        let ahead = self.scheduler.fence_ahead(word.key);
        let teller = match ahead {
            Some(fence) => self.scheduler.holder_of(word.key, fence),
            None => self.record.teller_of(word.key),
        };
        if teller.is_some_and(|teller| teller != word.by) {
            return self.gate.refuse("a word on another worker's attempt");
        }
        if let Some(fence) = ahead {
            let (key, started_at, has_started) = (word.key, word.at, matches!(word.said, Said::Started));
            self.record.heard_early(word);
            if has_started {
                self.apply(Input::Started { key, fence, started_at });
            }
            return;
        }
        if let Some(input) = self.record.heard(word, self.clock.now()) {
            self.apply(input);
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        self.pending.inputs += arrival.weight();
        self.acks.push((arrival.from, arrival.tag));
        for question in arrival.questions {
            self.answer(question);
        }
        let now = self.clock.now();
        for item in arrival.items {
            let dated = self.skews.dated(item, &self.scheduler, now);
            self.take(self.quarantine.cleanse(dated));
        }
        self.is_urgent = self.is_urgent || self.record.has_news() || self.is_watched();
        // The acks go out with a commit, soon.
        self.lazy_since.get_or_insert(self.clock.now());
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Input(input) => self.apply(input),
            Item::Said(word) => self.hear(word),
            Item::Ended(end, input) => {
                let of = match &input {
                    Input::Completed { incarnation, .. } | Input::Returned { incarnation, .. } => Some(*incarnation),
                    _ => None,
                };
                if of.is_some_and(|of| self.is_anothers(&end, of)) {
                    return self.gate.refuse("the end of another worker's attempt");
                }
                self.record.ended(end);
                self.apply(input);
            }
            Item::Parting { teller, worker, incarnation, items } => {
                // An incarnation ends by its own word or by that of a later one of its worker.
                let name_of = |incarnation| self.scheduler.name_of(incarnation);
                let is_its_own = teller == incarnation || name_of(teller) == Some(&worker);
                if !is_its_own || name_of(incarnation).is_some_and(|known| *known != worker) {
                    self.gate.refuse(message::Ended::TYPE);
                    return;
                }
                for item in items {
                    match item {
                        Item::Ended(end, _) if self.is_anothers(&end, incarnation) => {
                            self.gate.refuse(message::Ended::TYPE);
                        }
                        Item::Ended(end, input) => {
                            self.record.ended(end);
                            self.apply(input);
                        }
                        item => self.take(item),
                    }
                }
            }
            Item::Stranger { incarnation, nonce } => {
                if self.pending.strangers.len() < STRANGERS_MAX {
                    // By nonce as well: what a liar says in a worker's name must not take the place of its own word.
                    self.pending.strangers.insert((incarnation, nonce));
                    self.is_urgent = true;
                }
            }
        }
    }

    /// Whether the attempt is held by another incarnation than this one.
    fn is_anothers(&self, end: &AttemptEnd, of: Incarnation) -> bool {
        self.scheduler.holder_of(end.key, end.fence).is_some_and(|holder| holder != of)
    }

    /// Whether somebody waits to see what has just happened.
    fn is_watched(&self) -> bool {
        let wants = |id| self.hub.wants(id) || self.followers.want(id);
        let is_idle = self.hub.is_idle() && self.followers.are_none();
        !is_idle && self.record.told().iter().any(|event| wants(event.execution_id))
    }

    fn answer(&mut self, question: Question) {
        // Whoever was told that nobody answered must not find it done later.
        if matches!(&question.asker, Asker::Here(asker) if asker.is_closed()) {
            return;
        }
        self.is_urgent = true;
        self.pending.inputs += 1;
        let now = self.clock.now();
        let answered = match (question.ask, &question.asker) {
            (Ask::Follow { all, ids }, Asker::Elsewhere(asker)) => {
                Ok(Answer::Following { is_new: self.followers.follow(asker, all, ids, now) })
            }
            (ask, _) => self.desk().answer(ask),
        };
        self.record.follow(&self.scheduler, now);
        self.pending.answers.push((question.asker, answered));
    }

    pub(crate) fn desk(&mut self) -> Desk<'_> {
        Desk {
            now: self.clock.now(),
            scheduler: &mut self.scheduler,
            registry: &self.registry,
            quarantine: &self.quarantine,
            skews: &self.skews,
            pending: &mut self.pending,
        }
    }

    async fn change_session(&mut self, session: Option<Session>) {
        if self.feed.take().is_some() {
            self.feedless_since = Instant::now();
        }
        if let Some(rest) = self.rest.take() {
            self.announce(rest.told);
        }
        self.acks.clear();
        self.requests = None;
        let Some(session) = session else { return };
        let generation = session.generation();
        let (acked_out, acked) = watch::channel(None);
        let intake = Intake {
            store: self.store.clone(),
            registry: self.registry.clone(),
            committed: self.committed.clone(),
            generation,
            sizes: session.sizes(),
            probation: self.probation.clone(),
            acked,
            gate: self.gate.clone(),
        };
        let former = std::mem::replace(&mut self.mark.generation, generation);
        let former = (former != 0).then_some(former);
        let reader = Reader { mark: self.mark, clock: self.clock.clone(), gate: self.gate.clone() };
        Arc::make_mut(&mut self.postman).sizes = session.sizes();
        self.begin_marks(&session);
        // A silent broker must not keep the loop from handing over.
        let patience = seeking::brokerless_max(self.postman.config.lease);
        let opening = Feed::open(session.clone(), &self.postman.prefix, self.epoch, former, reader, intake);
        match Box::pin(tokio::time::timeout(patience, opening)).await {
            Ok(Ok(feed)) => {
                let (watch, receipts) = mpsc::unbounded_channel();
                tokio::spawn(watch_orders(receipts, self.fates.0.clone()));
                let (requests_out, handled) = mpsc::unbounded_channel();
                if former.is_none() {
                    let prefix = self.postman.prefix.clone();
                    tokio::spawn(unbind_former_leaders(session.clone(), prefix, self.epoch));
                }
                let (acker, fates) = (feed.requests_acker(), self.fates.0.clone());
                self.requests_acked = Some(tokio::spawn(ack_requests(handled, session, acker, fates, acked_out)));
                self.unstored = 0;
                self.watch = Some(watch);
                self.requests_out = Some(requests_out);
                self.feed = Some(feed);
                crash::point("executor.recovery.queues");
                self.apply(Input::SessionOpened);
                // Whatever was on its way went with the session before, or with the leader before.
                self.record.ask_all();
                self.hub.resync();
            }
            Ok(Err(error)) => {
                // An error ends the session; the link builds the next one.
                tracing::warn!(error = %chain(&error), "the leader's queues can't be consumed");
                session.close().await;
            }
            Err(_) => {
                tracing::warn!("the leader's queues can't be consumed: the broker did not answer for {patience:?}");
                // Not waited for: that broker answers nothing.
                tokio::spawn(async move { session.close().await });
            }
        }
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
