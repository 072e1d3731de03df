//! The loop of a worker: what happens goes into the duty book, what it owes is carried out.
//!
//! One thread of its own, so that nothing a handler does can keep a heartbeat from going out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustix::fd::OwnedFd;
use slotline_broker::{Broker, Delivery, PublishError, crash};
use slotline_protocol::message::{Cancel, Ended, Hello, Message, Recall, Recorded, Resend, Scheduled};
use slotline_protocol::proof::Worth;
use slotline_protocol::{ActionRef, Envelope, Incarnation, Timestamp, Unreadable, chain, envelope};
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::aside::aside;
use crate::book::{Book, Errand};
use crate::duty::{Config, Duty, Input, Order};
use crate::feed::Feed;
use crate::hands::{Hands, Work};
use crate::legacy::{Legacy, Written};
use crate::link::{Link, News};
use crate::lock::Lock;
use crate::mark::Marks;
use crate::process::pool::{Outfit, Pool};
use crate::report::Outbox;
use crate::rest::Rest;
use crate::scratch::Scratch;
use crate::unheard::Unheard;
use crate::watch::{Doing, Gauge};
use crate::{Error, Shutdown, clock};

/// Feeds looked at in one turn of the loop.
const FEEDS_MAX: usize = 1_024;
/// How long the last session may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Everything the loop needs.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) work: BTreeMap<ActionRef, Work>,
    pub(crate) shim: PathBuf,
    /// What shims and commands are given of the worker's environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// How many files a command may have open; `None`: as many as this process.
    pub(crate) files_of_commands: Option<u64>,
    pub(crate) scratch: Option<Scratch>,
    pub(crate) lock: Option<Lock>,
    /// Where the lock is, and what a process leaves to the next.
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) broker: Broker,
    pub(crate) shutdown: Shutdown,
}

/// Runs the worker to its end, on this thread, under the watch of `gauge`. `handlers` is where handlers run, `channels`
/// where commands' reports and files are read.
pub(crate) async fn run(
    setup: Setup,
    gauge: Arc<Gauge>,
    handlers: runtime::Handle,
    channels: runtime::Handle,
) -> Result<(), Error> {
    let Setup { config, work, shim, env, files_of_commands, scratch, lock, state_dir, broker, shutdown } = setup;
    let capacity = usize::try_from(config.capacity).unwrap_or(usize::MAX);
    let (pool, shims) = match &scratch {
        None => (None, None),
        Some(_) => {
            let marks = lock.as_ref().map_or_else(|| Arc::new(Marks::new(Uuid::new_v4().as_u64_pair().0)), Lock::marks);
            let share = lock.as_ref().map(Lock::share).transpose().map_err(Error::Thread)?;
            let outfit = Outfit { program: shim, env, marks, lock: share, files: files_of_commands };
            let (pool, thread) = Pool::start(outfit, capacity).map_err(Error::Thread)?;
            (Some(pool), Some(thread))
        }
    };
    let incarnation = Incarnation(Uuid::new_v4());
    let (announcements, announced) = mpsc::unbounded_channel();
    let mut duty = Duty::new(config.clone(), incarnation, clock::now());
    let legacy = state_dir.map(|state_dir| Legacy::of(&state_dir, &config.worker));
    if let Some(legacy) = legacy.clone() {
        inherit(&mut duty, legacy, &channels).await;
    }
    if let Some(lock) = &lock {
        for former in lock.formers() {
            duty.replaces(*former);
        }
        lock.note(incarnation);
    }
    let timer = clock::timer().map_err(|error| Error::Thread(error.into()))?;
    let timer = clock::watched(timer).map_err(Error::Thread)?;
    let lock = lock.map(Arc::new);
    let hands = Hands::new(work, pool.clone(), scratch, handlers, channels.clone(), announcements, gauge.clone());
    let mut looped = Loop {
        book: Book::new(duty, hands),
        link: Link::new(broker.clone(), config.worker.clone(), incarnation),
        outbox: Outbox::new(broker.prefix(), &config.worker, incarnation),
        prefix: broker.prefix().to_owned(),
        unheard: Unheard::default(),
        confirms: FuturesUnordered::new(),
        lock,
        files: channels.clone(),
        gauge,
        legacy: None,
        keeper: legacy.clone(),
        over: None,
        refused: None,
    };
    let result = looped.turn(announced, &timer, &shutdown).await;
    let Loop { book, link, lock, legacy: left, refused, .. } = looped;
    if let Some(left) = left {
        keep(legacy, left, &channels).await;
    }
    // Whatever still lives ends with its channel.
    let scratch = book.close();
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
    // The lock is held until the last of this is done. A disk that does not answer keeps nobody either.
    let is_done = result.is_ok();
    let _ = aside(&channels, move || {
        if let (Some(lock), true) = (&lock, is_done) {
            lock.clear();
        }
        drop(scratch);
    })
    .await;
    match refused {
        Some(reason) => result.and(Err(Error::Refused { reason })),
        None => result,
    }
}

struct Loop {
    book: Arc<Book>,
    link: Link,
    outbox: Outbox,
    prefix: String,
    unheard: Unheard,
    /// What to tell the book once the broker has something.
    confirms: FuturesUnordered<BoxFuture<'static, Option<Input>>>,
    /// Held until nothing of this process is left.
    lock: Option<Arc<Lock>>,
    /// Where files are read and written, which may take long.
    files: runtime::Handle,
    gauge: Arc<Gauge>,
    /// What the next process is to find, and is not written yet.
    legacy: Option<Vec<Ended>>,
    /// Where it is written; `None`: nowhere.
    keeper: Option<Legacy>,
    over: Option<Result<(), Error>>,
    /// Why the executor does not take this worker.
    refused: Option<String>,
}

impl Loop {
    async fn turn(
        &mut self,
        mut announced: mpsc::UnboundedReceiver<Arc<Feed>>,
        timer: &AsyncFd<OwnedFd>,
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut feeds: Vec<Arc<Feed>> = Vec::new();
        let mut rest = Rest::default();
        let (mut is_draining, mut is_stopping, mut is_congested) = (false, false, false);
        let mut armed = None;
        loop {
            self.gauge.turn(Doing::Waiting);
            let (incarnation, deadline) = self.book.outlook(&self.gauge);
            let deadline = deadline.into_iter().chain(rest.due_at()).min();
            if armed != deadline {
                clock::arm(timer, deadline).map_err(|error| Error::Thread(error.into()))?;
                armed = deadline;
            }
            tokio::select! {
                _ = announced.recv_many(&mut feeds, FEEDS_MAX) => {
                    self.gauge.turn(Doing::Reports);
                    let now = clock::boot();
                    for feed in feeds.drain(..).filter_map(|feed| rest.admit(feed, now)) {
                        feed.note_look(now);
                        self.book.look(&feed);
                    }
                }
                () = self.book.has_errands() => {}
                said = self.link.next(incarnation, &mut deliveries) => match said {
                    News::Opened(incarnation) => {
                        self.gauge.turn(Doing::Session);
                        tracing::info!(worker.incarnation = %incarnation, "connected");
                        if let Some(session) = self.link.session() {
                            self.outbox.keep_to(session.sizes());
                            self.book.keep_to(session.sizes());
                        }
                        self.book.handle(Input::SessionOpened { incarnation });
                    }
                    News::Delivered(incarnation) => self.delivered(incarnation, &mut deliveries),
                    News::Lost => tracing::warn!("the session with the broker is over; work goes on"),
                    News::Denied(error) => return Err(Error::Broker(error)),
                },
                ready = timer.readable() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    armed = None;
                    self.gauge.turn(Doing::Time);
                    self.book.handle(Input::Tick);
                    let now = clock::boot();
                    while let Some(feed) = rest.next(now) {
                        feed.note_look(now);
                        self.book.look(&feed);
                    }
                }
                Some(confirmed) = self.confirms.next(), if !self.confirms.is_empty() => {
                    self.gauge.turn(Doing::Confirms);
                    if let Some(input) = confirmed {
                        self.book.handle(input);
                    }
                }
                () = self.outbox.confirmed() => {}
                () = shutdown.drain_asked(), if !is_draining => {
                    is_draining = true;
                    tracing::info!("draining: no new work");
                    self.book.handle(Input::DrainRequested);
                }
                () = shutdown.stop_asked(), if !is_stopping => {
                    is_stopping = true;
                    tracing::info!("ending everything at once");
                    self.book.handle(Input::StopRequested);
                }
            }
            if is_congested != self.outbox.is_congested(is_congested) {
                is_congested = !is_congested;
                tracing::debug!(is_congested, "events wait to be sent");
                self.book.handle(if is_congested { Input::OutboxFilled } else { Input::OutboxEmptied });
            }
            self.gauge.turn(Doing::Errands);
            self.run_errands();
            self.gauge.turn(Doing::Publishing);
            self.outbox.flush(self.link.session());
            if let Some(result) = self.over.take() {
                return result;
            }
            if let Some(words) = self.legacy.take()
                && let Some(legacy) = self.keeper.clone()
            {
                // Should the process end before, more is told again than must be.
                self.files.spawn_blocking(move || {
                    if let Err(error) = legacy.write(words) {
                        tracing::warn!(path = %legacy.path().display(), error = %chain(&error), "what is kept can't be brought up to date");
                    }
                });
            }
        }
    }

    fn delivered(&mut self, incarnation: Incarnation, deliveries: &mut Vec<Delivery>) {
        self.gauge.turn(Doing::Orders);
        for delivery in &*deliveries {
            let worth = self.outbox.trust().judge(delivery);
            match worth {
                Worth::Order | Worth::Introduction => {}
                Worth::Hint => {
                    self.book.handle(Input::Hinted { incarnation });
                    continue;
                }
                Worth::Nothing => continue,
            }
            let defaults = delivery.properties.defaults();
            match envelope::read_own(&delivery.body, defaults) {
                Err(error) => tracing::warn!(error = %chain(&error), "a message to this worker can't be read"),
                Ok(members) => {
                    for member in members.iter() {
                        match member.and_then(|envelope| order(&envelope)) {
                            Ok(order) if worth == Worth::Introduction => {
                                self.book.handle(Input::Introduced { incarnation, order });
                            }
                            Ok(order) => self.book.handle(Input::Ordered { incarnation, order }),
                            Err(error) => {
                                tracing::warn!(error = %chain(&error), "a message to this worker can't be read")
                            }
                        }
                    }
                }
            }
        }
        crash::point("worker.ack.before");
        self.link.ack(deliveries);
        crash::point("worker.ack.after");
        deliveries.clear();
    }

    /// Does what can wait for this thread, in order.
    fn run_errands(&mut self) {
        loop {
            let errands = self.book.take_errands();
            if errands.is_empty() {
                return;
            }
            let now = clock::now().wall;
            for errand in errands {
                self.run_errand(errand, now);
            }
        }
    }

    fn run_errand(&mut self, errand: Errand, now: Timestamp) {
        match errand {
            Errand::Complete(word) => {
                crash::point("worker.completion.before");
                self.outbox.say(&word, now);
            }
            Errand::Return(word) => self.outbox.say(&word, now),
            Errand::ChangeStatus(word) => {
                self.outbox.status_changed(&word, now);
                crash::point("worker.started.after");
            }
            Errand::Progress(word) => self.outbox.progress(&word, now),
            Errand::Resend { key, range, action_ref } => self.outbox.resend(key, range, &action_ref, now),
            Errand::Beat { heartbeat, sent } => {
                let incarnation = heartbeat.incarnation;
                // Without a broker that is what is said.
                let is_known = self.outbox.trust().is_known() || self.link.session().is_none();
                if let Some(unheard_for) = self.unheard.beats(is_known, clock::boot()) {
                    tracing::warn!(
                        prefix = self.prefix,
                        "no executor has answered for {unheard_for:.0?}: does one run, on this broker and virtual host, with this prefix?"
                    );
                }
                crash::point("worker.heartbeat.before");
                let refused = Input::HeartbeatRefused { incarnation };
                self.publish(&heartbeat, Input::HeartbeatConfirmed { incarnation, sent }, Some(refused));
            }
            // No executor would believe it; it is said again with the first greeting.
            Errand::Farewell(_) if !self.outbox.trust().is_known() => {}
            Errand::Farewell(ended) => {
                let incarnation = ended.incarnation;
                crash::point("worker.farewell.before");
                self.publish(&ended, Input::FarewellConfirmed { incarnation }, None);
                crash::point("worker.farewell.after");
            }
            Errand::Takes(Some((most, shortage))) => {
                tracing::warn!(
                    takes = most,
                    "short of {shortage}: what can't be started is handed back, and no more than {most} run at once for now"
                );
            }
            Errand::Takes(None) => tracing::info!("what was short has passed: as many run at once as ever"),
            Errand::Refused(reason) => {
                tracing::error!(reason, "refused by the executor: takes nothing more, ends what it runs, and ends");
                self.refused = Some(reason);
            }
            Errand::Rename(former) => {
                let incarnation = Incarnation(Uuid::new_v4());
                tracing::warn!(worker.incarnation = %former, next = %incarnation, "isolated: going on under a new name");
                if let Some(lock) = self.lock.clone() {
                    // Late, it only costs time: what is lost is then known after the lease.
                    self.files.spawn_blocking(move || lock.note(incarnation));
                }
                self.book.rename(incarnation);
                self.outbox.rename(incarnation);
                self.link.rename(incarnation);
            }
            Errand::Keep(words) => self.legacy = Some(words),
            Errand::GiveUp(attempts) => self.over = Some(Err(Error::Unstoppable { attempts })),
            Errand::Finish => self.over = Some(Ok(())),
        }
    }

    /// Publishes, if there is a session; tells the book whether the broker has it, or that a queue refused it.
    fn publish<M: Message>(&self, message: &M, confirmed: Input, refused: Option<Input>) {
        if let Some(session) = self.link.session() {
            let receipt = self.outbox.publish(session, message, clock::now().wall);
            self.confirms.push(Box::pin(async move {
                match receipt.await {
                    Ok(()) => Some(confirmed),
                    Err(PublishError::Nacked | PublishError::Full) => refused,
                    Err(_) => None,
                }
            }));
        }
    }
}

/// Takes over what the process before has left.
async fn inherit(duty: &mut Duty, legacy: Legacy, files: &runtime::Handle) {
    let path = legacy.path().to_owned();
    match aside(files, move || legacy.read()).await {
        Some(Ok(words)) => {
            let outcomes: usize = words.iter().map(|word| word.outcomes.len()).sum();
            if outcomes > 0 {
                tracing::info!(outcomes, path = %path.display(), "reporting what an earlier process could not");
            }
            words.into_iter().for_each(|word| duty.inherits(word));
        }
        Some(Err(error)) => {
            tracing::error!(path = %path.display(), error = %chain(&error), "what an earlier process has kept can't be read");
        }
        None => tracing::error!(path = %path.display(), "what an earlier process has kept can't be read: no answer"),
    }
}

/// Leaves to the next process what is not recorded; says where, or that it is lost.
async fn keep(legacy: Option<Legacy>, words: Vec<Ended>, files: &runtime::Handle) {
    let outcomes: usize = words.iter().map(|word| word.outcomes.len()).sum();
    let Some(legacy) = legacy else {
        tracing::error!(
            outcomes,
            "{outcomes} attempts have ended and are not recorded, and this worker has no state folder to keep that in: \
             their executions run again; give it one with --state-dir"
        );
        return;
    };
    let path = legacy.path().display().to_string();
    let lost = |error: String| {
        tracing::error!(outcomes, path, error, "what has ended and is not recorded can't be kept: it runs again");
    };
    match aside(files, move || legacy.write(words)).await {
        Some(Ok(Written { kept, left_out: 0 })) if kept > 0 => tracing::warn!(
            outcomes = kept,
            path,
            "{kept} attempts have ended and are not recorded: kept for the next worker of this name, which reports them"
        ),
        Some(Ok(Written { left_out: 0, .. })) => {}
        Some(Ok(Written { kept, left_out })) => tracing::error!(
            outcomes = kept,
            left_out,
            path,
            "{kept} attempts that are not recorded were kept; for {left_out} there was no room, and they run again"
        ),
        Some(Err(error)) => lost(chain(&error).to_string()),
        None => lost("the disk does not answer".to_owned()),
    }
}

/// Reads what an executor said.
fn order(envelope: &Envelope<'_>) -> Result<Order, Unreadable> {
    Ok(match &*envelope.message_type {
        Scheduled::TYPE => {
            let mut order: Scheduled = envelope.open()?;
            order.correlation_id = order.correlation_id.or_else(|| envelope.correlation_id.clone());
            order.trace_id = order.trace_id.or_else(|| envelope.trace_id.clone());
            Order::Scheduled(order)
        }
        Cancel::TYPE => Order::Cancel(envelope.open()?),
        Recall::TYPE => Order::Recall(envelope.open()?),
        Recorded::TYPE => Order::Recorded(envelope.open()?),
        Resend::TYPE => Order::Resend(envelope.open()?),
        Hello::TYPE => Order::Hello(envelope.open()?),
        other => {
            return Err(Unreadable {
                reason: envelope::Reason::UnknownType,
                detail: format!("{other:?} is nothing that a worker is told"),
                message_id: envelope.message_id.clone(),
            });
        }
    })
}
