//! The loop of a worker: what happens goes into the driver and the duty book, and what they ask for is carried out.
//!
//! It has a thread of its own, so that no handler can delay a heartbeat. Not here: what is decided (`driver`, `duty`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::fd::OwnedFd;
use slotline_broker::{Broker, Delivery, crash};
use slotline_protocol::message::Ended;
use slotline_protocol::{ActionRef, chain};
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::sync::mpsc;

use super::legacy::{Legacy, Written};
use super::link::{BrokerLink, LinkEvent};
use super::lock::Lock;
use super::notice;
use super::publish::{Confirming, Publisher, delivery, pass_points};
use super::running::{self, Running, Work};
use super::shared::SharedBook;
use super::watch::{Doing, Gauge};
use crate::driver::{Book, Driver, DriverAction, Envelopes, Input, WorkerExit};
use crate::duty::Config;
use crate::process::aside::aside;
use crate::process::mark::ProcessMarks;
use crate::process::pool::{Outfit, Pool};
use crate::process::scratch::Scratch;
use crate::report::feed::AttemptFeed;
use crate::report::rest::Rest;
use crate::{Error, Shutdown, clock, draw};

/// Feeds looked at in one turn of the loop.
const FEEDS_MAX: usize = 1_024;
/// How long the last session may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Everything the loop needs.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) work: BTreeMap<ActionRef, Work>,
    pub(crate) shim: PathBuf,
    /// What shims and commands get of the worker's environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// How many files a command may have open; `None`: as many as this process.
    pub(crate) files_of_commands: Option<u64>,
    pub(crate) scratch: Option<Scratch>,
    pub(crate) lock: Option<Lock>,
    /// Where the lock is, and the outcomes that a process leaves to the next.
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) broker: Broker,
    pub(crate) shutdown: Shutdown,
}

impl Setup {
    /// Starts what starts shims, with the thread that it lives on; `None` in a worker without commands.
    fn start_pool(&mut self) -> Result<Option<(Pool, JoinHandle<()>)>, Error> {
        if self.scratch.is_none() {
            return Ok(None);
        }
        let lock = self.lock.as_ref();
        let marks = lock.map_or_else(|| Arc::new(ProcessMarks::new(draw::uuid().as_u64_pair().0)), Lock::marks);
        let outfit = Outfit {
            program: std::mem::take(&mut self.shim),
            env: std::mem::take(&mut self.env),
            marks,
            lock: lock.map(Lock::share).transpose().map_err(Error::Thread)?,
            files: self.files_of_commands,
        };
        let capacity = usize::try_from(self.config.capacity).unwrap_or(usize::MAX);
        Pool::start(outfit, capacity).map(Some).map_err(Error::Thread)
    }
}

/// Runs the worker to its end, on this thread, under the watch of `gauge`. `handlers` is where handlers run, `channels`
/// where commands' reports and files are read.
pub(crate) async fn run(
    mut setup: Setup,
    gauge: Arc<Gauge>,
    handlers: runtime::Handle,
    channels: runtime::Handle,
) -> Result<(), Error> {
    let (pool, shims) = setup.start_pool()?.unzip();
    let Setup { config, work, scratch, lock, state_dir, broker, shutdown, .. } = setup;
    let incarnation = draw::incarnation();
    let (announcements, announced) = mpsc::unbounded_channel();
    let legacy = state_dir.map(|state_dir| Legacy::of(&state_dir, &config.worker));
    let begun_at = clock::now();
    let kept = match legacy.clone() {
        Some(legacy) => inherit(legacy, &channels).await,
        None => Vec::new(),
    };
    let formers = lock.as_ref().map_or(&[][..], Lock::formers);
    let book = Book::begin(config.clone(), incarnation, begun_at, kept, formers);
    if let Some(lock) = &lock {
        lock.note(incarnation);
    }
    let timer = clock::timer().map_err(|error| Error::Thread(error.into()))?;
    let timer = clock::watched(timer).map_err(Error::Thread)?;
    let lock = lock.map(Arc::new);
    let offers = running::offers(work, &config.actions);
    let running = Running::new(offers, pool.clone(), scratch, handlers, channels.clone(), announcements, gauge.clone());
    let mut looped = Loop {
        book: SharedBook::new(book, running),
        driver: Driver::new(incarnation, Envelopes::new(&config.worker, draw::uuid(), incarnation, draw::nonce())),
        link: BrokerLink::new(broker.clone(), config.worker.clone(), incarnation),
        publisher: Publisher::new(broker.prefix()),
        prefix: broker.prefix().to_owned(),
        confirms: FuturesUnordered::new(),
        deliveries: Vec::new(),
        lock,
        files: channels.clone(),
        gauge,
        keeper: legacy.clone(),
        exit: None,
    };
    let result = looped.turn(announced, &timer, &shutdown).await;
    let Loop { book, link, lock, .. } = looped;
    let is_done = result.as_ref().is_ok_and(|exit| exit.unstoppable.is_empty());
    let result = match result {
        Ok(WorkerExit { unstoppable, kept, refused }) => {
            if let Some(kept) = kept {
                keep(legacy, kept, &channels).await;
            }
            match refused {
                _ if !unstoppable.is_empty() => Err(Error::Unstoppable { attempts: unstoppable }),
                Some(reason) => Err(Error::Refused { reason }),
                None => Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    End { book, link, lock, pool, shims, channels, is_done }.wait().await;
    result
}

/// What has to end once the loop has.
struct End {
    book: Arc<SharedBook>,
    link: BrokerLink,
    lock: Option<Arc<Lock>>,
    pool: Option<Pool>,
    shims: Option<JoinHandle<()>>,
    channels: runtime::Handle,
    /// Nothing of the worker's attempts is left.
    is_done: bool,
}

impl End {
    async fn wait(self) {
        let Self { book, link, lock, pool, shims, channels, is_done } = self;
        // What still lives ends with its channel.
        let scratch = book.close();
        // A broker that is away keeps no process from ending.
        let _ = tokio::time::timeout(CLOSE_WAIT, link.close()).await;
        if let Some(pool) = &pool {
            pool.clear();
        }
        drop(pool);
        if let (Some(thread), true) = (shims, is_done) {
            // Ends once every shim has; they are idle, so this is at once.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        // The lock is held until the last of this is done. A disk that does not answer keeps the process from ending no
        // longer than its wait.
        let _ = aside(&channels, move || {
            if let (Some(lock), true) = (&lock, is_done) {
                lock.clear();
            }
            drop(scratch);
        })
        .await;
    }
}

struct Loop {
    book: Arc<SharedBook>,
    driver: Driver<Envelopes>,
    link: BrokerLink,
    publisher: Publisher,
    prefix: String,
    confirms: FuturesUnordered<Confirming>,
    /// Deliveries that are not acked yet.
    deliveries: Vec<Delivery>,
    /// Held until nothing of this process is left.
    lock: Option<Arc<Lock>>,
    /// Where files are read and written, which may take long.
    files: runtime::Handle,
    gauge: Arc<Gauge>,
    /// Where the outcomes for the next process are written; `None`: nowhere.
    keeper: Option<Legacy>,
    exit: Option<WorkerExit>,
}

impl Loop {
    async fn turn(
        &mut self,
        mut announced: mpsc::UnboundedReceiver<Arc<AttemptFeed>>,
        timer: &AsyncFd<OwnedFd>,
        shutdown: &Shutdown,
    ) -> Result<WorkerExit, Error> {
        let mut feeds: Vec<Arc<AttemptFeed>> = Vec::new();
        let mut rest = Rest::default();
        let (mut is_draining, mut is_stopping) = (false, false);
        let mut armed = None;
        loop {
            self.gauge.turn(Doing::Waiting);
            let deadlines = [self.book.next_deadline(&self.gauge), self.driver.next_deadline(), rest.due_at()];
            let deadline = deadlines.into_iter().flatten().min();
            if armed != deadline {
                clock::arm(timer, deadline).map_err(|error| Error::Thread(error.into()))?;
                armed = deadline;
            }
            let incarnation = self.driver.incarnation();
            tokio::select! {
                _ = announced.recv_many(&mut feeds, FEEDS_MAX) => {
                    self.gauge.turn(Doing::Reports);
                    let now = clock::boot();
                    feeds.drain(..).filter_map(|feed| rest.admit(feed, now)).for_each(|feed| self.look(&feed, now));
                }
                () = self.book.has_changed() => {}
                event = self.link.next(incarnation, &mut self.deliveries) => self.link_event(event)?,
                ready = timer.readable() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    armed = None;
                    self.gauge.turn(Doing::Time);
                    self.handle(Input::Tick);
                    let now = clock::boot();
                    while let Some(feed) = rest.next(now) {
                        self.look(&feed, now);
                    }
                }
                Some((id, confirm)) = self.confirms.next(), if !self.confirms.is_empty() => {
                    self.gauge.turn(Doing::Confirms);
                    self.handle(Input::Confirmed { id, confirm });
                }
                () = shutdown.drain_asked(), if !is_draining => {
                    is_draining = true;
                    self.handle(Input::DrainRequested);
                }
                () = shutdown.stop_asked(), if !is_stopping => {
                    is_stopping = true;
                    self.handle(Input::StopRequested);
                }
            }
            self.gauge.turn(Doing::Errands);
            self.end_turn();
            if let Some(exit) = self.exit.take() {
                return Ok(exit);
            }
        }
    }

    /// Takes up what an attempt has reported.
    fn look(&self, feed: &AttemptFeed, now: Duration) {
        feed.note_look(now);
        self.book.look(feed);
    }

    fn link_event(&mut self, event: LinkEvent) -> Result<(), Error> {
        match event {
            LinkEvent::Subscribed(incarnation) => {
                self.gauge.turn(Doing::Session);
                if let Some(sizes) = self.link.session().map(|session| session.sizes()) {
                    self.handle(Input::Subscribed { incarnation, sizes });
                }
            }
            LinkEvent::Delivered(incarnation) => {
                self.gauge.turn(Doing::Orders);
                // One after the other, so that no more than one message is in memory twice.
                for index in 0..self.deliveries.len() {
                    let is_last = index + 1 == self.deliveries.len();
                    let delivery = delivery(&self.deliveries[index]);
                    self.handle(Input::Delivered { incarnation, delivery, is_last });
                }
            }
            LinkEvent::Lost => self.handle(Input::SessionLost),
            LinkEvent::Denied(error) => return Err(Error::Broker(error)),
        }
        Ok(())
    }

    /// Passes on what happened, and carries out what follows from it.
    fn handle(&mut self, input: Input) {
        self.driver.handle(clock::now(), input);
        while let Some(action) = self.driver.next_action() {
            self.carry_out(action);
        }
    }

    /// Carries out what the book asks for until nothing is left, and sends what waits to be sent.
    fn end_turn(&mut self) {
        let mut is_ended = false;
        while self.exit.is_none() {
            let effects = self.book.take_deferred();
            if !effects.is_empty() {
                pass_points(&effects);
                self.handle(Input::Asked(effects));
                is_ended = false;
            } else if !is_ended {
                self.gauge.turn(Doing::Publishing);
                self.handle(Input::TurnEnded);
                is_ended = true;
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, action: DriverAction) {
        match action {
            DriverAction::Duty(input) => self.book.handle(input),
            DriverAction::KeepTo(sizes) => self.book.keep_to(sizes),
            DriverAction::Attempt(action) => self.book.act(action),
            DriverAction::Publish(publication) => {
                let confirming = self.publisher.publish(self.link.session(), publication);
                self.confirms.push(confirming);
            }
            DriverAction::Ack => {
                crash::point("worker.ack.before");
                self.link.ack(&self.deliveries);
                crash::point("worker.ack.after");
                self.deliveries.clear();
            }
            DriverAction::ChooseName => {
                self.handle(Input::Named { incarnation: draw::incarnation(), nonce: draw::nonce() });
            }
            DriverAction::Note(incarnation) => {
                if let Some(lock) = self.lock.clone() {
                    // If this is late, it only costs time: what is lost is then known after the lease.
                    self.files.spawn_blocking(move || lock.note(incarnation));
                }
            }
            DriverAction::Subscribe(incarnation) => self.link.subscribe(incarnation),
            DriverAction::Keep(kept) => {
                if let Some(keeper) = self.keeper.clone() {
                    // If the process ends before this, more is reported again than needed.
                    self.files.spawn_blocking(move || {
                        if let Err(error) = keeper.write(kept) {
                            tracing::warn!(path = %keeper.path().display(), error = %chain(&error), "what is kept can't be brought up to date");
                        }
                    });
                }
            }
            DriverAction::Log(notice) => notice::log(notice, &self.prefix),
            DriverAction::Exit(exit) => self.exit = Some(exit),
        }
    }
}

/// The outcomes that the process before has left.
async fn inherit(legacy: Legacy, files: &runtime::Handle) -> Vec<Ended> {
    let path = legacy.path().to_owned();
    match aside(files, move || legacy.read()).await {
        Some(Ok(kept)) => {
            let outcomes: usize = kept.iter().map(|ended| ended.outcomes.len()).sum();
            if outcomes > 0 {
                tracing::info!(outcomes, path = %path.display(), "reporting what an earlier process could not");
            }
            return kept;
        }
        Some(Err(error)) => {
            tracing::error!(path = %path.display(), error = %chain(&error), "what an earlier process has kept can't be read");
        }
        None => tracing::error!(path = %path.display(), "what an earlier process has kept can't be read: no answer"),
    }
    Vec::new()
}

/// Leaves the unrecorded outcomes to the next process; logs where, or that they are lost.
async fn keep(legacy: Option<Legacy>, left: Vec<Ended>, files: &runtime::Handle) {
    let outcomes: usize = left.iter().map(|ended| ended.outcomes.len()).sum();
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
    match aside(files, move || legacy.write(left)).await {
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
