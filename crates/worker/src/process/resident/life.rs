//! One process from its start to its end.
//!
//! Its attempts end with it, and only once nothing of it is left. Not here: which attempts it gets (`roster`).

mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use slotline_protocol::handler::{AttemptId, DESCRIPTOR, FromHandler, HandlerHello, ToHandler, VERSION};
use slotline_protocol::message::{AttemptKey, Failure, Stream};
use tokio::sync::{mpsc, watch};

use super::config::Resident;
use super::open::{self, HandlerAttempt, Heard, OpenAttempts};
use super::roster::LifeNumber;
use crate::process::command;
use crate::process::pool::{Pool, Shim};
use crate::process::reader::{Reader, pipe};
use crate::process::result::{Exit, spawn_failure};
use crate::process::shim::wire::{Files, ShimOrder, ShimReport, Spec, Start};
use socket::{HandlerSocket, Received};

/// The code of an attempt whose process has ended.
const EXITED: &str = "handler_exited";

const CLOSED: &str = "it closed its socket";
const BROKEN_OFF: &str = "it closed its socket within a line";
/// More than a pipe holds.
const READS_MAX: usize = 8;
/// How long the rest is read after the last process has gone.
const REST_WAIT: Duration = Duration::from_secs(1);

/// A message of the group.
pub(super) enum LifeOrder {
    Run(HandlerAttempt),
    Cancel {
        key: AttemptKey,
        grace: Duration,
    },
    /// End the attempt now, and with it the process.
    Kill {
        key: AttemptKey,
    },
}

/// A message to the group.
pub(super) enum LifeEvent {
    Ready {
        concurrency: u32,
    },
    Freed {
        key: AttemptKey,
    },
    /// It takes no more attempts.
    Ending,
    Ended {
        /// Attempts that the process has not seen.
        untouched: Vec<HandlerAttempt>,
        /// Why it has ended, if it was never ready.
        unready: Option<Failure>,
    },
}

/// What a process begins with.
pub(super) struct Birth {
    pub(super) resident: Arc<Resident>,
    pub(super) pool: Pool,
    pub(super) fence: watch::Receiver<Option<Duration>>,
    pub(super) number: LifeNumber,
    pub(super) events: mpsc::UnboundedSender<(LifeNumber, LifeEvent)>,
}

struct Life {
    resident: Arc<Resident>,
    number: LifeNumber,
    events: mpsc::UnboundedSender<(LifeNumber, LifeEvent)>,
    shim: Shim,
    serial: u64,
    socket: HandlerSocket,
    stdout: Reader,
    stderr: Reader,
    open: OpenAttempts,
    hello: Option<HandlerHello>,
    exit: Exit,
    /// Why it is being ended, for people.
    ending: Option<String>,
}

/// How the end of the last process was observed.
enum Over {
    Gone,
    Refused { errno: i32 },
    ShimLost,
}

/// Starts a process and serves it to its end.
pub(super) async fn run(birth: Birth, mut orders: mpsc::UnboundedReceiver<LifeOrder>) {
    let (number, events, pool) = (birth.number, birth.events.clone(), birth.pool.clone());
    let mut fence = birth.fence.clone();
    let name = birth.resident.config.name.clone();
    let unready = match Life::start(birth).await {
        Err(error) => Some(Failure::new("spawn_failed", format!("can't start the handler process {name:?}: {error}"))),
        Ok(mut life) => {
            let over = life.serve(&mut orders, &mut fence).await;
            life.take_rest().await;
            orders.close();
            life.end(&pool, over).await
        }
    };
    if let Some(why) = &unready {
        tracing::warn!(handler = name, reason = why.message, "a handler process ended before it was ready");
    }
    orders.close();
    let mut untouched = Vec::new();
    while let Ok(order) = orders.try_recv() {
        if let LifeOrder::Run(attempt) = order {
            untouched.push(attempt);
        }
    }
    // Without a group there is no worker.
    let _ = events.send((number, LifeEvent::Ended { untouched, unready }));
}

impl Life {
    async fn start(birth: Birth) -> io::Result<Self> {
        let Birth { resident, pool, fence, number, events } = birth;
        let shim = pool.fresh(resident.command.room).await?;
        let (socket, theirs) = HandlerSocket::pair()?;
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let mut env = command::lasting(&resident.command);
        env.push((DESCRIPTOR.to_owned(), "0".to_owned()));
        let spec = Spec {
            command: resident.command.config.command.clone(),
            cwd: resident.command.config.cwd.clone(),
            env,
            confinement: resident.command.confinement.clone(),
        };
        let files = Files { spec: spec.write()?, stdin: theirs, stdout: stdout_end, stderr: stderr_end };
        let (stdout, stderr) = (Reader::new(stdout, Stream::Stdout)?, Reader::new(stderr, Stream::Stderr)?);
        let Some(deadline) = *fence.borrow() else { return Err(io::Error::other("the worker is isolated")) };
        let serial = pool.serial();
        shim.start(serial, Start { deadline: Some(deadline), grace: resident.config.grace }, &files)?;
        Ok(Self {
            open: OpenAttempts::new(resident.config.output_max),
            resident,
            number,
            events,
            shim,
            serial,
            socket,
            stdout,
            stderr,
            hello: None,
            exit: Exit { code: None, signal: None },
            ending: None,
        })
    }

    /// Passes on what the group, the process and its shim send, until nothing of the process is left.
    async fn serve(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<LifeOrder>,
        fence: &mut watch::Receiver<Option<Duration>>,
    ) -> Over {
        let (mut is_ordered, mut is_fenced) = (true, true);
        let unready = tokio::time::sleep(self.resident.config.start_timeout);
        tokio::pin!(unready);
        loop {
            tokio::select! {
                // Orders and endings first: a flood of lines must not delay them.
                biased;
                report = self.shim.report(self.serial) => match report {
                    None => return Over::ShimLost,
                    Some(ShimReport::Gone { .. }) => return Over::Gone,
                    Some(ShimReport::Refused { errno }) => return Over::Refused { errno },
                    Some(ShimReport::Exited { code, signal, .. }) => self.exit = Exit { code, signal },
                    Some(ShimReport::Started { .. } | ShimReport::LeftBehind { .. }) => {}
                    Some(ShimReport::Stubborn(stubborn)) => self.say_stubborn(stubborn.pid),
                },
                order = orders.recv(), if is_ordered => match order {
                    Some(order) => self.obey(order),
                    None => {
                        is_ordered = false;
                        self.drain();
                    }
                },
                moved = fence.changed(), if is_fenced => {
                    is_fenced = moved.is_ok();
                    if let Some(deadline) = *fence.borrow_and_update() {
                        self.order(ShimOrder::Extend { deadline });
                    }
                }
                () = &mut unready, if self.hello.is_none() && self.ending.is_none() => {
                    self.finish(format!("it was not ready within {:?}", self.resident.config.start_timeout));
                }
                received = self.socket.turn(self.ending.is_none()) => {
                    self.catch_up();
                    self.hear(received);
                }
                read = self.stdout.read() => Self::print(&self.resident, &mut self.open, &mut self.stdout, read),
                read = self.stderr.read() => Self::print(&self.resident, &mut self.open, &mut self.stderr, read),
            }
        }
    }

    /// Takes what it wrote last, before it ended.
    async fn take_rest(&mut self) {
        let all = async {
            while self.ending.is_none() {
                match self.socket.turn(true).await {
                    Received::Closed { within_line } => {
                        self.ending = within_line.then(|| BROKEN_OFF.to_owned());
                        break;
                    }
                    received => self.hear(received),
                }
            }
            while !self.stdout.is_over {
                let read = self.stdout.read().await;
                Self::print(&self.resident, &mut self.open, &mut self.stdout, read);
            }
            while !self.stderr.is_over {
                let read = self.stderr.read().await;
                Self::print(&self.resident, &mut self.open, &mut self.stderr, read);
            }
        };
        // Past the wait, a process that does not belong to it holds the other end.
        let _ = tokio::time::timeout(REST_WAIT, all).await;
    }

    fn obey(&mut self, order: LifeOrder) {
        match order {
            LifeOrder::Run(attempt) => self.begin(attempt),
            LifeOrder::Cancel { key, .. } | LifeOrder::Kill { key } if !self.open.has(key) => {}
            LifeOrder::Cancel { key, grace } => {
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                self.socket.send(&ToHandler::Cancel { id: &AttemptId(key), grace_ms });
            }
            LifeOrder::Kill { key } => {
                self.ending.get_or_insert_with(|| {
                    format!("attempt {} did not end when it was to", String::from(AttemptId(key)))
                });
                self.tell(LifeEvent::Ending);
                self.order(ShimOrder::Kill);
            }
        }
    }

    fn begin(&mut self, HandlerAttempt { start, feed }: HandlerAttempt) {
        let name = &self.resident.config.name;
        let serves = self.hello.as_ref().is_some_and(|hello| hello.actions.contains(&start.action_ref));
        if !serves {
            let message = format!("the handler {name:?} has no function for {}", start.action_ref);
            self.tell(LifeEvent::Freed { key: start.key });
            feed.ended(open::ending(Err(Failure::new("spawn_failed", message))));
            return;
        }
        if let Some(deadline) = start.deadline {
            self.order(ShimOrder::Extend { deadline });
        }
        self.open.add(feed);
        self.socket.send(&ToHandler::Start {
            id: &AttemptId(start.key),
            execution_id: start.key.0,
            attempt: start.counts_as,
            fence: start.fence,
            action_ref: &start.action_ref,
            parameters: &start.parameters.0,
            correlation_id: start.correlation_id.as_deref(),
            trace_id: start.trace_id.as_deref(),
        });
    }

    /// Takes what was printed before the line that is heard next, so that it belongs to the same attempt.
    fn catch_up(&mut self) {
        let Self { resident, open, stdout, stderr, .. } = self;
        for reader in [stdout, stderr] {
            for _ in 0..READS_MAX {
                let Some(read) = reader.read_now() else { break };
                Self::print(resident, open, reader, read);
            }
        }
    }

    fn hear(&mut self, received: Received) {
        match received {
            Received::Nothing => {}
            Received::Closed { within_line } => {
                self.finish(if within_line { BROKEN_OFF } else { CLOSED }.to_owned());
            }
            Received::Unreadable(why) => self.finish(format!("it broke the protocol: {why}")),
            Received::Line(FromHandler::Hello(hello)) => self.greet(hello),
            Received::Line(FromHandler::Ping { n }) => self.socket.send(&ToHandler::Pong { n }),
            Received::Line(line) => match self.open.hear(line) {
                Heard::Nothing => {}
                Heard::Ended(feed, ending) => {
                    self.tell(LifeEvent::Freed { key: feed.key });
                    feed.ended(ending);
                }
                Heard::Unknown(AttemptId((id, grant))) => {
                    let handler = &self.resident.config.name;
                    tracing::warn!(handler, execution.id = %id, grant, "a handler reports on an attempt that it does not have");
                }
            },
        }
    }

    fn greet(&mut self, hello: HandlerHello) {
        if hello.protocol != VERSION || self.hello.is_some() {
            return self
                .finish(format!("it said hello with protocol {}, expected {VERSION}, and once", hello.protocol));
        }
        let most = self.resident.config.concurrency;
        let concurrency = hello.concurrency.map_or(most, |own| own.clamp(1, most));
        self.hello = Some(hello);
        self.socket.send(&ToHandler::Welcome { protocol: VERSION, handler: &self.resident.config.name, concurrency });
        self.tell(LifeEvent::Ready { concurrency });
    }

    /// What is printed while one attempt is open belongs to it; anything else is for the worker's log.
    fn print(resident: &Resident, open: &mut OpenAttempts, reader: &mut Reader, read: usize) {
        match open.sole() {
            Some(open) => reader.take(read, &mut open.allowance, &open.feed),
            None => {
                for line in String::from_utf8_lossy(reader.pass(read)).lines() {
                    tracing::info!(handler = resident.config.name, "{line}");
                }
            }
        }
    }

    /// The worker ends: a process that has nothing open may end by itself.
    fn drain(&mut self) {
        self.ending.get_or_insert_with(|| "the worker ended".to_owned());
        if self.open.is_empty() {
            self.socket.send(&ToHandler::Drain);
            self.socket.close_when_sent();
        } else {
            self.order(ShimOrder::Kill);
        }
    }

    /// Ends a process that can't go on: SIGTERM, and SIGKILL after its grace.
    fn finish(&mut self, why: String) {
        if self.ending.is_none() {
            self.ending = Some(why);
            self.tell(LifeEvent::Ending);
            self.order(ShimOrder::Interrupt { grace: self.resident.config.grace });
        }
    }

    /// Ends what was open, once nothing of the process is left. Returns why it was never ready.
    async fn end(mut self, pool: &Pool, over: Over) -> Option<Failure> {
        let config = &self.resident.config;
        let failure = match over {
            Over::Refused { errno } => {
                spawn_failure(config.command.first().map_or("", String::as_str), config.cwd.as_deref(), errno)
            }
            Over::Gone | Over::ShimLost => self.failure(),
        };
        match over {
            Over::ShimLost => self.shim.end_all(|_| ()).await,
            Over::Gone | Over::Refused { .. } => {}
        }
        for feed in self.open.take_all() {
            self.tell(LifeEvent::Freed { key: feed.key });
            feed.ended(open::ending(Err(failure.clone())));
        }
        match over {
            Over::Gone | Over::Refused { .. } => pool.put(self.shim),
            Over::ShimLost => {}
        }
        self.hello.is_none().then_some(failure)
    }

    fn failure(&self) -> Failure {
        let Self { exit, resident, ending, .. } = self;
        let how = match (exit.code, exit.signal) {
            (Some(status), _) => format!("exited with status {status}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "was ended together with its shim".to_owned(),
        };
        // A process that exits closes its socket first.
        let why = ending.as_ref().filter(|why| exit.code.is_none() || *why != CLOSED);
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let stderr = self.stderr.output.tail().text();
        let message = format!("the handler process {:?} {how}{why}", resident.config.name);
        let details = json!({ "return_code": exit.code, "signal": exit.signal, "stderr": stderr });
        Failure { details: Some(details), ..Failure::new(EXITED, message) }
    }

    fn say_stubborn(&self, pid: i32) {
        let handler = &self.resident.config.name;
        tracing::warn!(handler, pid, "a process of a handler can't be ended; the slots of its attempts stay taken");
    }

    fn tell(&self, event: LifeEvent) {
        // Without a group there is no worker.
        let _ = self.events.send((self.number, event));
    }

    fn order(&self, order: ShimOrder) {
        // A shim that takes no order has ended, which its socket shows, too.
        let _ = self.shim.order(self.serial, order);
    }
}
