//! One leadership, from recovery to its end: what arrives is handed to the leader, and what it decides is carried out.
//!
//! One loop drives the [`Leader`], which decides when a batch is cut and what leaves after it. While a batch commits, the
//! next one gathers, and is packed once it is worth it; so batches form by themselves under load, and an idle leader
//! commits at once. After a commit that failed, or whose outcome is unknown, the term ends, and the next begins with what
//! the journal has.

mod actions;
mod entry;
mod farewell;
mod marks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use slotline_api::Hub;
use slotline_broker::{Publication, Receipt, Session, crash};
use slotline_protocol::{Epoch, Incarnation, Sizes, Timestamp, chain};
use slotline_store::{Leadership, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::announcer::{Announcer, Outlet};
use super::clock::Clock;
use super::context::{LeaderCall, TermContext};
use super::errands::{Fate, ack_requests, watch_orders};
use super::feed::{Feed, Reader, unbind_former_leaders};
use super::flight::{Flight, landed};
use super::gate::Gate;
use super::inbox::ProbeMark;
use super::intake::Intake;
use super::intake::probation::Probation;
use super::journal::JournalHealth;
use super::mail::Postman;
use super::mark::Notice;
use super::metrics::Metrics;
use super::registry::Registry;
use super::remarks::Topic;
use super::viewing::Viewing;
use super::{policies, prune, seeking, timekeeping};
use crate::leader::ask::{Answered, Asker, Question};
use crate::leader::{Bounds, Handled, Input, Leader, LeaderSettings, Quarantine, StandDown};

/// Arrivals that join a batch in one turn of the loop.
const ARRIVALS_MAX: usize = 64;
/// How often an idle leader shows the database that it lives.
const PING_EVERY: Duration = Duration::from_secs(2);

/// What the executor's loop can be doing, for the watch; the index is what [`turn`](slotline_broker::pulse::Pulse::turn) is given.
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
    context: &TermContext,
    mut leadership: Leadership,
    calls: &mut mpsc::Receiver<LeaderCall>,
) -> Result<End, slotline_store::Error> {
    let Some(mut office) = entry::enter(context, &mut leadership).await? else { return Ok(End::Over) };
    // Before these terms reach any worker, so that the next leader knows of them.
    let longest = leadership.take_terms(context.config.lease, office.doubt()).await?;
    crash::point("executor.recovery.terms");
    if !entry::claim(context, &mut leadership, &mut office).await? {
        return Ok(End::Over);
    }
    crash::point("executor.recovery.claimed");
    let recovered = leadership.recover().await?;
    crash::point("executor.recovery.read");
    context.common.metrics.begin_term(&recovered);
    // Where nothing waits or runs, nothing can be moved by going back to the database's time.
    let noted = leadership.clock_ahead_us();
    let ahead = if recovered.live.is_empty() { 0 } else { noted };
    let (epoch, clock) = (leadership.epoch(), Clock::of(&leadership.reading(), ahead));
    let pruning = prune::start(context.store.clone(), context.config.retention, epoch, clock.clone());
    let keeping =
        timekeeping::keep(context.store.clone(), epoch, clock.clone(), context.common.remarks.clone(), noted, ahead);
    let (broker, name) = (context.broker.clone(), context.config.name.clone());
    let looking = tokio::spawn(policies::watch(broker, name, context.common.policies.clone())).abort_handle();
    let gate = context.common.gates.read(&context.store).await?;
    let quarantine = std::mem::take(&mut *context.quarantine());
    let settings = LeaderSettings {
        lease: context.config.lease,
        heartbeat: context.config.heartbeat,
        events_kept: context.config.events_kept,
        bounds: Bounds::default(),
    };
    let leader = Leader::new(epoch, settings, recovered, office, quarantine, longest, clock.now());
    let mut term = Term::new(context, leadership, leader, clock, gate);
    let end = term.run(context, calls).await;
    context.common.leads.store(false, Ordering::Release);
    for task in [pruning, keeping, looking] {
        task.abort();
    }
    context.common.remarks.set(Topic::JournalClock, None);
    term.finish(&end).await;
    *context.quarantine() = term.leader.into_quarantine();
    context.probation.absolve().await;
    context.common.notice.set_doubt(None);
    // From here on another reports what happens, and something may have been missed in between.
    context.common.hub.resync();
    Ok(end)
}

impl TermContext {
    fn quarantine(&self) -> std::sync::MutexGuard<'_, Quarantine> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Term {
    clock: Clock,
    leader: Leader,
    registry: Arc<Registry>,
    postman: Arc<Postman>,
    gate: Arc<Gate>,
    store: Store,
    journal: Arc<JournalHealth>,
    probation: Probation,
    hub: Arc<Hub>,
    announcer: Announcer,
    /// Lent to each flight in its turn.
    leadership: Option<Arc<tokio::sync::Mutex<Leadership>>>,
    /// The commit under way, and the one packed behind it.
    flights: VecDeque<JoinHandle<Flight>>,
    /// The last batch that is committed.
    committed: Arc<AtomicI64>,
    /// The clients that wait for answers here, by number.
    calls: BTreeMap<u64, oneshot::Sender<Answered>>,
    next_call: u64,
    feed: Option<Feed>,
    /// Since when, if there is none.
    feedless_since: Instant,
    mark: ProbeMark,
    fates: (mpsc::UnboundedSender<Fate>, mpsc::UnboundedReceiver<Fate>),
    viewing: Viewing,
    watch: Option<mpsc::UnboundedSender<(Receipt, Incarnation)>>,
    requests_out: Option<mpsc::UnboundedSender<Handled<Publication>>>,
    requests_acked: Option<JoinHandle<()>>,
    notice: Arc<Notice>,
    metrics: Arc<Metrics>,
}

impl Term {
    fn new(context: &TermContext, leadership: Leadership, leader: Leader, clock: Clock, gate: Arc<Gate>) -> Self {
        let (epoch, journal) = (leader.epoch(), leader.lineage());
        let config = &context.config;
        let source = format!("executor/{}", config.name);
        let fates = mpsc::unbounded_channel();
        let outlet = Outlet {
            store: context.store.for_viewers(),
            current: context.current.clone(),
            public: config.public,
            prefix: context.prefix.clone(),
            source: source.clone(),
            journal,
            epoch,
            fates: fates.0.clone(),
        };
        let postman = Postman {
            prefix: context.prefix.clone(),
            source,
            epoch,
            journal,
            wants_accounts: leader.is_in_doubt(),
            config: config.clone(),
            gate: gate.clone(),
            // Nothing is written before there is a session.
            sizes: Sizes::FULL,
        };
        let mut term = Self {
            clock,
            leader,
            registry: Arc::default(),
            postman: Arc::new(postman),
            gate,
            store: context.store.clone(),
            journal: context.common.journal.clone(),
            probation: context.probation.clone(),
            hub: context.common.hub.clone(),
            announcer: Announcer::start(outlet, &context.callers),
            leadership: Some(Arc::new(tokio::sync::Mutex::new(leadership))),
            flights: VecDeque::new(),
            committed: Arc::default(),
            calls: BTreeMap::new(),
            next_call: 0,
            feed: None,
            feedless_since: Instant::now(),
            mark: ProbeMark { generation: 0, nonce: Uuid::new_v4() },
            fates,
            viewing: Viewing::new(epoch, context.common.hub.clone(), &context.callers),
            watch: None,
            requests_out: None,
            requests_acked: None,
            notice: context.common.notice.clone(),
            metrics: context.common.metrics.clone(),
        };
        term.carry_out();
        term
    }

    async fn run(&mut self, context: &TermContext, calls: &mut mpsc::Receiver<LeaderCall>) -> End {
        let mut current = context.current.clone();
        current.mark_changed();
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let brokerless_max = seeking::brokerless_max(context.config.lease);
        loop {
            context.pulse.turn(0);
            let has_room = self.leader.has_room();
            let takes_requests = self.takes_requests();
            let deadline = self.viewing.deadline(self.clock.instant(self.next_deadline()));
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
                Some(call) = calls.recv(), if has_room => self.ask(call),
                Some(fate) = self.fates.1.recv() => self.note(fate),
                checked = arrived(requests), if takes_requests => self.handle(Input::Checked(checked)),
                arrival = arrived(events), if has_room => self.arrive(arrival),
                changed = current.changed() => {
                    if changed.is_err() {
                        return End::Shutdown;
                    }
                    let session = current.borrow_and_update().clone();
                    self.change_session(session).await;
                    if self.feed.is_some() {
                        context.common.leads.store(true, Ordering::Release);
                    }
                }
                () = tokio::time::sleep_until(deadline) => self.handle(Input::Ticked),
                _ = ping.tick(), if self.flights.is_empty() => {
                    if !self.is_still_led().await {
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
            self.leader.cut(self.announcer.heard(), self.clock.now());
            self.carry_out();
            self.look();
        }
    }

    /// Looks at some lines, if somebody wants to see them and it is time.
    fn look(&mut self) {
        let is_seen_elsewhere =
            || self.leader.has_followers() && self.leader.viewers(self.clock.now()).next().is_some();
        if self.hub.board().is_watched() || is_seen_elsewhere() {
            let session = self.feed.as_ref().map(|feed| &feed.session);
            self.viewing.turn(&self.leader, &self.hub, &self.clock, &self.postman, session);
        } else {
            self.viewing.rest();
        }
    }

    /// What became of something that was published.
    fn note(&mut self, fate: Fate) {
        match fate {
            Fate::Returned(incarnation) => self.handle(Input::OrderReturned(incarnation)),
            Fate::Settled => self.handle(Input::OrderConfirmed),
            Fate::Stored { weight } => self.handle(Input::LetterStored { weight }),
            Fate::Announced => {}
            Fate::Marked(marked) => self.handle(Input::Marked(marked)),
        }
    }

    /// Shows the database that this leader lives; `false` if that can't be shown.
    async fn is_still_led(&self) -> bool {
        let Some(leadership) = &self.leadership else { return true };
        let Err(error) = leadership.lock().await.ping().await else { return true };
        let epoch = self.leader.epoch();
        tracing::warn!(error = %chain(&error), %epoch, "the journal does not answer; leadership is over");
        self.journal.missed(chain(&error).to_string());
        false
    }

    /// Adds to the batch what has arrived already, so that one commit serves all of it. Events can wait for the next
    /// turn where something urgent does not.
    fn take_what_is_there(&mut self) {
        for _ in 0..ARRIVALS_MAX {
            let takes_requests = self.takes_requests();
            let Some(feed) = &mut self.feed else { return };
            let has_room = self.leader.has_room();
            let has_time = !self.leader.is_urgent() || !self.flights.is_empty();
            if has_room && let Ok(arrival) = feed.urgent.try_recv() {
                self.arrive(arrival);
            } else if takes_requests && let Ok(checked) = feed.requests.try_recv() {
                self.handle(Input::Checked(checked));
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

    /// Whether more requests may join the batch, and whether what happened before them has been published for the most
    /// part, since it takes memory until then.
    fn takes_requests(&self) -> bool {
        self.leader.takes_requests() && self.announcer.has_room()
    }

    fn next_deadline(&self) -> Timestamp {
        let latest = self.clock.now() + Duration::from_secs(3600);
        self.leader.next_deadline().map_or(latest, |deadline| deadline.min(latest))
    }

    // ---- what comes in ----

    /// Hands an input to the leader, and carries out what follows from it.
    fn handle(&mut self, input: Input<Publication>) {
        // Read only now, after the arrival was received: a silence must never be counted too long.
        self.leader.handle(input, self.clock.now());
        self.carry_out();
    }

    fn arrive(&mut self, arrival: crate::leader::item::Arrival) {
        self.handle(Input::Arrived(arrival));
        if !self.hub.is_idle() && self.leader.told().iter().any(|event| self.hub.wants(event.execution_id)) {
            self.handle(Input::Watched);
        }
    }

    fn ask(&mut self, LeaderCall { ask, reply }: LeaderCall) {
        // A client that was refused for want of an answer must not find it done later.
        if reply.is_closed() {
            return;
        }
        let number = self.next_call;
        self.next_call += 1;
        self.calls.insert(number, reply);
        self.handle(Input::Asked(Box::new(Question { ask, asker: Asker::Here(number) })));
    }

    /// Whether the term is over because of what is known of the journal by now.
    fn verdict(&self) -> Option<End> {
        match self.leader.verdict() {
            Some(StandDown::Doubted { reason, above }) => {
                let epoch = self.leader.epoch();
                tracing::error!(%epoch, reason, "this journal is older than the world; leadership is over");
                return Some(End::Doubted { reason, above });
            }
            Some(StandDown::Settled) => return Some(End::Settled),
            None => {}
        }
        if let Some(waiting) = self.leader.waits_in_doubt() {
            self.notice.set_doubt(Some(waiting));
        }
        None
    }

    async fn change_session(&mut self, session: Option<Session>) {
        if self.feed.take().is_some() {
            self.feedless_since = Instant::now();
        }
        self.handle(Input::SessionClosed);
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
        self.leader.handle(Input::SessionOpening { session: generation }, self.clock.now());
        self.carry_out_in(Some(&session));
        // A silent broker must not keep the loop from handing over.
        let patience = seeking::brokerless_max(self.postman.config.lease);
        let epoch = self.leader.epoch();
        let opening = Feed::open(session.clone(), &self.postman.prefix, epoch, former, reader, intake);
        match Box::pin(tokio::time::timeout(patience, opening)).await {
            Ok(Ok(feed)) => {
                let (watch, receipts) = mpsc::unbounded_channel();
                tokio::spawn(watch_orders(receipts, self.fates.0.clone()));
                let (requests_out, handled) = mpsc::unbounded_channel();
                if former.is_none() {
                    let prefix = self.postman.prefix.clone();
                    tokio::spawn(unbind_former_leaders(session.clone(), prefix, epoch));
                }
                let (acker, fates) = (feed.requests_acker(), self.fates.0.clone());
                self.requests_acked = Some(tokio::spawn(ack_requests(handled, session, acker, fates, acked_out)));
                self.watch = Some(watch);
                self.requests_out = Some(requests_out);
                self.feed = Some(feed);
                crash::point("executor.recovery.queues");
                self.handle(Input::SessionOpened { session: generation, sizes: self.postman.sizes });
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
