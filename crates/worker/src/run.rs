//! The loop of a worker: what happens goes into the duty book, what it owes is carried out.
//!
//! One thread of its own, so that nothing a handler does can keep a heartbeat from going out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustix::fd::OwnedFd;
use slotline_broker::{Broker, Delivery};
use slotline_protocol::message::{AttemptKey, Cancel, Failure, Hello, Message, Recall, Recorded, Scheduled};
use slotline_protocol::{ActionRef, Envelope, Incarnation, Unreadable, envelope};
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::command::RunConfig;
use crate::duty::{Config, Duty, Effect, Ending, Input, Order, Start};
use crate::feed::{Feed, Happening};
use crate::handler::{self, Handler};
use crate::link::{Link, News};
use crate::lock::Lock;
use crate::process::pool::Pool;
use crate::process::{self, Ask, Plan};
use crate::report::Outbox;
use crate::scratch::Scratch;
use crate::{Error, Shutdown, clock, limit};

/// Happenings taken in one turn of the loop.
const HAPPENINGS_MAX: usize = 1_024;
/// How long the last session may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What a name runs.
#[derive(Clone)]
pub(crate) enum Work {
    Handler(Handler),
    Command(Arc<RunConfig>),
}

/// Everything the loop needs.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) work: BTreeMap<ActionRef, Work>,
    pub(crate) shim: PathBuf,
    pub(crate) scratch: Option<Scratch>,
    pub(crate) lock: Option<Lock>,
    pub(crate) broker: Broker,
    pub(crate) shutdown: Shutdown,
}

/// Runs the worker to its end, on this thread. `handlers` is where handlers run.
pub(crate) async fn run(setup: Setup, handlers: runtime::Handle) -> Result<(), Error> {
    let Setup { config, work, shim, scratch, lock, broker, shutdown } = setup;
    let capacity = usize::try_from(config.capacity).unwrap_or(usize::MAX);
    let (pool, shims) = match &scratch {
        None => (None, None),
        Some(_) => {
            let (pool, thread) = Pool::start(shim, capacity).map_err(Error::Thread)?;
            (Some(pool), Some(thread))
        }
    };
    let incarnation = Incarnation(Uuid::new_v4());
    let (happenings, happened) = mpsc::unbounded_channel();
    let mut duty = Duty::new(config.clone(), incarnation, clock::now());
    if let Some(lock) = &lock {
        for former in lock.formers() {
            duty.replaces(*former);
        }
        lock.note(incarnation);
    }
    let timer = clock::timer().map_err(|error| Error::Thread(error.into()))?;
    let mut looped = Loop {
        link: Link::new(broker.clone(), config.worker.clone(), incarnation),
        outbox: Outbox::new(broker.prefix(), &config.worker),
        duty,
        work,
        live: BTreeMap::new(),
        effects: Vec::new(),
        happenings,
        fence: watch::Sender::new(None),
        confirms: FuturesUnordered::new(),
        pool,
        scratch,
        lock,
        handlers,
        over: None,
    };
    let timer = clock::watched(timer).map_err(Error::Thread)?;
    let result = looped.turn(happened, &timer, &shutdown).await;
    let Loop { link, pool, live, scratch, lock, .. } = looped;
    // Whatever still lives ends with its channel.
    drop(live);
    // A broker that is not there keeps nobody.
    let _ = tokio::time::timeout(CLOSE_WAIT, link.close()).await;
    if let Some(pool) = &pool {
        pool.clear();
    }
    drop(pool);
    if let (Some(thread), Ok(())) = (shims, &result) {
        // Ends once every shim has; they are idle, so at once.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
    if let (Some(lock), Ok(())) = (&lock, &result) {
        lock.clear();
    }
    drop(scratch);
    result
}

struct Loop {
    duty: Duty,
    work: BTreeMap<ActionRef, Work>,
    /// How to reach each attempt that has not ended.
    live: BTreeMap<AttemptKey, Live>,
    effects: Vec<Effect>,
    happenings: mpsc::UnboundedSender<Happening>,
    fence: watch::Sender<Option<Duration>>,
    link: Link,
    outbox: Outbox,
    /// What to tell the book once the broker has something.
    confirms: FuturesUnordered<BoxFuture<'static, Option<Input>>>,
    /// Where there are commands.
    pool: Option<Pool>,
    scratch: Option<Scratch>,
    /// Held until nothing of this process is left.
    lock: Option<Lock>,
    handlers: runtime::Handle,
    over: Option<Result<(), Error>>,
}

enum Live {
    Handler(handler::Handle),
    Command(mpsc::UnboundedSender<Ask>),
}

impl Loop {
    async fn turn(
        &mut self,
        mut happened: mpsc::UnboundedReceiver<Happening>,
        timer: &AsyncFd<OwnedFd>,
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut news: Vec<Happening> = Vec::new();
        let (mut is_draining, mut is_stopping) = (false, false);
        let mut armed = None;
        loop {
            let deadline = self.duty.next_deadline();
            if armed != deadline {
                clock::arm(timer, deadline).map_err(|error| Error::Thread(error.into()))?;
                armed = deadline;
            }
            tokio::select! {
                _ = happened.recv_many(&mut news, HAPPENINGS_MAX) => {
                    for happening in news.drain(..) {
                        self.happened(happening);
                    }
                }
                said = self.link.next(self.duty.incarnation(), &mut deliveries) => match said {
                    News::Opened(incarnation) => {
                        tracing::info!(worker.incarnation = %incarnation, "connected");
                        self.handle(Input::SessionOpened { incarnation });
                    }
                    News::Delivered(incarnation) => self.delivered(incarnation, &mut deliveries),
                    News::Lost => tracing::warn!("the session with the broker is over; work goes on"),
                },
                ready = timer.readable() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    armed = None;
                    self.handle(Input::Tick);
                }
                Some(confirmed) = self.confirms.next(), if !self.confirms.is_empty() => {
                    if let Some(input) = confirmed {
                        self.handle(input);
                    }
                }
                () = self.outbox.confirmed() => {}
                () = shutdown.drain_asked(), if !is_draining => {
                    is_draining = true;
                    tracing::info!("draining: no new work");
                    self.handle(Input::DrainRequested);
                }
                () = shutdown.stop_asked(), if !is_stopping => {
                    is_stopping = true;
                    tracing::info!("ending everything at once");
                    self.handle(Input::StopRequested);
                }
            }
            self.outbox.flush(self.link.session());
            if let Some(result) = self.over.take() {
                return result;
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.duty.handle(clock::now(), input, &mut self.effects);
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.perform(effect);
            }
        }
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Started { key, at } => self.handle(Input::Started { key, at }),
            Happening::Told(feed) => self.told(&feed),
            Happening::Ended { feed, ending } => {
                self.told(&feed);
                self.live.remove(&feed.key);
                self.handle(Input::Ended { key: feed.key, ending });
            }
        }
    }

    fn told(&mut self, feed: &Feed) {
        for event in feed.take() {
            self.handle(Input::Reported { key: feed.key, event });
        }
    }

    fn delivered(&mut self, incarnation: Incarnation, deliveries: &mut Vec<Delivery>) {
        for delivery in &*deliveries {
            match envelope::read(&delivery.body, &delivery.properties.defaults()) {
                Err(error) => tracing::warn!(%error, "a message to this worker can't be read"),
                Ok(members) => {
                    for member in members {
                        match member.and_then(|envelope| order(&envelope)) {
                            Ok(order) => self.handle(Input::Ordered { incarnation, order }),
                            Err(error) => tracing::warn!(%error, "a message to this worker can't be read"),
                        }
                    }
                }
            }
        }
        self.link.ack(deliveries);
        deliveries.clear();
    }

    fn perform(&mut self, effect: Effect) {
        let now = clock::now().wall;
        match effect {
            Effect::Start(start) => self.start(start),
            Effect::Interrupt { key, grace } => match self.live.get(&key) {
                Some(Live::Handler(handle)) => handle.interrupt(),
                // One that has just ended no longer listens.
                Some(Live::Command(asks)) => drop(asks.send(Ask::Interrupt { grace })),
                None => {}
            },
            Effect::Kill { key } => match self.live.get(&key) {
                Some(Live::Handler(handle)) => handle.kill(),
                Some(Live::Command(asks)) => drop(asks.send(Ask::Kill)),
                None => {}
            },
            Effect::Extend { deadline } => drop(self.fence.send_replace(Some(deadline))),
            Effect::Complete(word) => self.outbox.say(&word, now),
            Effect::Return(word) => self.outbox.say(&word, now),
            Effect::ChangeStatus(word) => self.outbox.status_changed(&word, now),
            Effect::Progress(word) => self.outbox.progress(&word, now),
            Effect::Beat { heartbeat, sent } => {
                let incarnation = heartbeat.incarnation;
                self.publish(&heartbeat, Input::HeartbeatConfirmed { incarnation, sent });
            }
            Effect::Farewell(ended) => {
                let incarnation = ended.incarnation;
                self.publish(&ended, Input::FarewellConfirmed { incarnation });
            }
            Effect::IncarnationOver(former) => {
                let incarnation = Incarnation(Uuid::new_v4());
                tracing::warn!(worker.incarnation = %former, next = %incarnation, "isolated: going on under a new name");
                self.fence.send_replace(None);
                if let Some(lock) = &self.lock {
                    lock.note(incarnation);
                }
                self.duty.handle(clock::now(), Input::NewIncarnation(incarnation), &mut self.effects);
                self.link.rename(incarnation);
            }
            Effect::GiveUp(attempts) => self.over = Some(Err(Error::Unstoppable { attempts })),
            Effect::Finish => self.over = Some(Ok(())),
        }
    }

    /// Publishes, if there is a session; tells the book once the broker has it.
    fn publish<M: Message>(&self, message: &M, confirmed: Input) {
        if let Some(session) = self.link.session() {
            let receipt = self.outbox.publish(session, message, clock::now().wall);
            self.confirms.push(Box::pin(async move { receipt.await.ok().map(|()| confirmed) }));
        }
    }

    fn start(&mut self, start: Start) {
        let feed = Feed::new(start.key, self.happenings.clone());
        let key = start.key;
        let live = match (self.work.get(&start.action_ref), &self.pool, &self.scratch) {
            (Some(Work::Handler(handler)), _, _) => Live::Handler(handler::start(&self.handlers, handler, start, feed)),
            (Some(Work::Command(config)), Some(pool), Some(scratch)) => {
                let (asks, asked) = mpsc::unbounded_channel();
                let plan = Plan {
                    config: config.clone(),
                    result_file: scratch.result_file(key, start.fence),
                    start,
                    feed,
                    asks: asked,
                    fence: self.fence.subscribe(),
                };
                tokio::spawn(process::run(pool.clone(), plan));
                Live::Command(asks)
            }
            (Some(Work::Command(_)) | None, _, _) => {
                let error = Failure::new("spawn_failed", format!("this worker does not run {}", start.action_ref));
                let result = Err(limit::failure(error));
                return feed.ended(Ending { result, return_code: None, ended_at: clock::now().wall });
            }
        };
        self.live.insert(key, live);
    }
}

/// Reads what an executor said.
fn order(envelope: &Envelope) -> Result<Order, Unreadable> {
    Ok(match envelope.message_type.as_str() {
        Scheduled::TYPE => {
            let mut order: Scheduled = envelope.open()?;
            order.correlation_id = order.correlation_id.or_else(|| envelope.correlation_id.clone());
            order.trace_id = order.trace_id.or_else(|| envelope.trace_id.clone());
            Order::Scheduled(order)
        }
        Cancel::TYPE => Order::Cancel(envelope.open()?),
        Recall::TYPE => Order::Recall(envelope.open()?),
        Recorded::TYPE => Order::Recorded(envelope.open()?),
        Hello::TYPE => Order::Hello(envelope.open()?),
        other => {
            return Err(Unreadable {
                reason: envelope::Reason::UnknownType,
                detail: format!("{other:?} is nothing that a worker is told"),
                message_id: envelope.message_id.clone(),
                member: None,
            });
        }
    })
}
