//! Runs one attempt as a command: starts it under a shim, reads what it writes, and reports how it ended.
//!
//! It always ends with an [`Ending`], and then nothing of the attempt is left. Not here: why it is interrupted, and
//! what its ending means (`duty`).

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use slotline_broker::crash;
use slotline_protocol::chain;
use slotline_protocol::message::{self, Failure, Level, Stream};
use tokio::runtime;
use tokio::sync::{mpsc, watch};

use super::aside::{self, aside};
use super::command::{Command, Variables, environment};
use super::mark::Stubborn;
use super::output::Allowance;
use super::places::Places;
use super::pool::{Pool, Shim};
use super::reader::{Reader, pipe};
use super::resources;
use super::result::{self, Exit};
use super::shim::wire::{self, Files, ShimOrder, ShimReport, Spec};
use crate::clock;
use crate::duty::{Ending, Shortage, Start};
use crate::report::feed::AttemptFeed;
use crate::report::socket::ReportSocket;

/// Shims tried before an attempt counts as not startable.
const SHIMS_TRIED: u32 = 3;
/// How long output is read after the last descendant has gone: a process that the command did not start may hold the
/// pipe.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// A message of the loop to a running attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StopRequest {
    Interrupt { grace: Duration },
    Kill,
}

/// Everything a command needs.
pub(crate) struct Plan {
    pub(crate) start: Start,
    pub(crate) command: Arc<Command>,
    pub(crate) places: Places,
    /// Where its reports and its files are read.
    pub(crate) channels: runtime::Handle,
    pub(crate) feed: Arc<AttemptFeed>,
    pub(crate) asks: mpsc::UnboundedReceiver<StopRequest>,
    /// The fence, as it moves on.
    pub(crate) fence: watch::Receiver<Option<Duration>>,
}

/// Runs the command to its end, and reports to its feed.
pub(crate) async fn run(pool: Pool, plan: Plan) {
    let feed = plan.feed.clone();
    let (channels, places) = (plan.channels.clone(), plan.places.clone());
    let ended = attempt(&pool, plan).await;
    if !matches!(ended, Ok(Ending { result: Ok(_), .. })) {
        // Nothing waits for the removal: no other attempt has files of these names.
        channels.spawn_blocking(move || places.clear());
    }
    match ended {
        Ok(ending) => feed.ended(ending),
        Err(shortage) => feed.unstarted(shortage),
    }
}

/// `Err`: it could not be started, as the worker is short of something.
async fn attempt(pool: &Pool, mut plan: Plan) -> Result<Ending, Shortage> {
    if let Ok(StopRequest::Interrupt { .. } | StopRequest::Kill) = plan.asks.try_recv() {
        return Ok(unstarted(Failure::new("cancelled", "it was ended before it started")));
    }
    let variables = match Variables::read(plan.start.parameters.0.get()) {
        Ok(variables) => variables,
        Err(message) => return Ok(unstarted(Failure::new("invalid_parameters", message))),
    };
    let started = async {
        let listener = prepare(&plan).await?;
        Running::start(pool, &plan, listener, &variables).await
    };
    let mut running = match started.await {
        Ok(running) => running,
        Err(error) => {
            if let Some(shortage) = resources::shortage(&error) {
                return Err(shortage);
            }
            let program = plan.command.config.command.first().map_or("", String::as_str);
            return Ok(unstarted(Failure::new("spawn_failed", format!("can't start {program:?}: {error}"))));
        }
    };
    let ended = running.watch(&mut plan).await;
    if let Ended::ShimLost = ended {
        running.end_strays(&plan).await;
    }
    crash::point("worker.reap.after");
    running.drain(&plan).await;
    if let Some(channel) = running.channel.take() {
        channel.close().await;
    }
    if let Ended::Refused { errno } = ended
        && let Some(shortage) = resources::shortage(&io::Error::from_raw_os_error(errno))
    {
        pool.put(running.shim);
        return Err(shortage);
    }
    let (ending, shim) = running.judge(&plan, ended).await;
    if let Ended::Gone | Ended::Refused { .. } = ended {
        pool.put(shim);
    }
    Ok(ending)
}

/// Makes the attempt's files ready. An attempt without a socket for its reports runs all the same.
async fn prepare(plan: &Plan) -> io::Result<Option<UnixListener>> {
    let (places, id) = (plan.places.clone(), plan.start.key.0);
    let folder = places.folder.clone();
    let unusable = |error: io::Error| {
        if resources::shortage(&error).is_some() {
            return error;
        }
        let text = format!("the worker's scratch folder {folder:?} can't be used: {error}");
        io::Error::new(error.kind(), text)
    };
    let prepared = aside(&plan.channels, move || {
        places.prepare()?;
        let listening = places.listen();
        if let Err(error) = &listening
            && resources::shortage(error).is_some()
        {
            return listening;
        }
        let warn = |error: &io::Error| tracing::warn!(execution.id = %id, error = %chain(&error), "can't listen to a command's progress");
        Ok(listening.inspect_err(warn).unwrap_or_default())
    });
    prepared.await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(unusable)
}

fn unstarted(error: Failure) -> Ending {
    Ending::failed(error, clock::now().wall)
}

struct Running {
    shim: Shim,
    /// Written into its log once it has started.
    notice: Option<String>,
    /// Where its reports are read.
    channel: Option<ReportSocket>,
    serial: u64,
    is_started: bool,
    exit: Exit,
    /// Processes that outlived the command, and then got SIGTERM.
    left_behind: u32,
    stdout: Reader,
    stderr: Reader,
    allowance: Allowance,
}

/// How the end of the last process was observed.
#[derive(Clone, Copy)]
enum Ended {
    Gone,
    Refused {
        errno: i32,
    },
    /// The shim itself was killed; its processes may live.
    ShimLost,
}

impl Running {
    /// Hands the command to a shim. Nothing is opened for it before there is one.
    async fn start(
        pool: &Pool,
        plan: &Plan,
        listener: Option<UnixListener>,
        variables: &Variables,
    ) -> io::Result<Self> {
        let socket = listener.as_ref().and(plan.places.socket.as_deref());
        let spec = Spec {
            command: plan.command.config.command.clone(),
            cwd: plan.command.config.cwd.clone(),
            env: environment(&plan.command, &plan.start, &plan.places.result_file(), socket, variables),
            confinement: plan.command.confinement.clone(),
        };
        let channel = listener.map(|listener| ReportSocket::open(listener, plan.feed.clone(), &plan.channels));
        let mut tried = 0;
        loop {
            crash::point("worker.spawn.before");
            // An idle shim may have been killed meanwhile.
            let room = plan.command.room;
            let shim = if tried == 0 { pool.take(room).await? } else { pool.fresh(room).await? };
            let (stdout, stdout_end) = pipe()?;
            let (stderr, stderr_end) = pipe()?;
            let files = Files {
                spec: spec.write()?,
                stdin: wire::memory_file("slotline-parameters", plan.start.parameters.0.get().as_bytes())?,
                stdout: stdout_end,
                stderr: stderr_end,
            };
            // What may fail comes first: once the command is started, only its shim reports its end.
            let readers = (Reader::new(stdout, Stream::Stdout)?, Reader::new(stderr, Stream::Stderr)?);
            let serial = pool.serial();
            // The fence may have moved on while this attempt waited for its turn.
            let deadline = plan.start.deadline.map(|deadline| plan.fence.borrow().unwrap_or(deadline).max(deadline));
            let start = wire::Start { deadline, grace: plan.command.config.grace };
            match shim.start(serial, start, &files) {
                Ok(()) => {
                    crash::point("worker.spawn.after");
                    let (stdout, stderr) = readers;
                    return Ok(Self {
                        shim,
                        notice: variables.notice(),
                        channel,
                        serial,
                        is_started: false,
                        exit: Exit { code: None, signal: None },
                        left_behind: 0,
                        stdout,
                        stderr,
                        allowance: Allowance::new(plan.command.config.output_max),
                    });
                }
                Err(error) => {
                    tried += 1;
                    if tried >= SHIMS_TRIED {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// Passes on what the loop, the shim and the command send, until nothing of the attempt is left.
    async fn watch(&mut self, plan: &mut Plan) -> Ended {
        let obeys_the_fence = plan.start.deadline.is_some();
        let (mut is_asked, mut is_fenced) = (true, obeys_the_fence);
        loop {
            tokio::select! {
                // Orders and endings first: a flood of output must not delay them.
                biased;
                report = self.shim.report(self.serial) => match report {
                    None => return Ended::ShimLost,
                    Some(ShimReport::Started { pid: _, at }) => {
                        self.is_started = true;
                        crash::point("worker.started.before");
                        plan.feed.started(clock::moment(at));
                        if let Some(notice) = self.notice.take() {
                            plan.feed.notice(notice);
                        }
                    }
                    Some(ShimReport::Refused { errno }) => return Ended::Refused { errno },
                    Some(ShimReport::Exited { code, signal, at: _ }) => {
                        crash::point("worker.reap.before");
                        self.exit = Exit { code, signal };
                    }
                    Some(ShimReport::LeftBehind { count }) => self.left_behind = count,
                    Some(ShimReport::Gone { at: _ }) => {
                        self.say_left_behind(plan);
                        return Ended::Gone;
                    }
                    Some(ShimReport::Stubborn(stubborn)) => say_stubborn(&plan.feed, stubborn),
                },
                ask = plan.asks.recv(), if is_asked => match ask {
                    Some(StopRequest::Interrupt { grace }) => self.order(ShimOrder::Interrupt { grace }),
                    Some(StopRequest::Kill) => self.order(ShimOrder::Kill),
                    // The loop has ended and sends nothing more; so the attempt must end.
                    None => {
                        is_asked = false;
                        self.order(ShimOrder::Kill);
                    }
                },
                moved = plan.fence.changed(), if is_fenced => {
                    is_fenced = moved.is_ok();
                    if let Some(deadline) = *plan.fence.borrow_and_update() {
                        self.order(ShimOrder::Extend { deadline });
                    }
                }
                // Its output is reported after its start.
                read = self.stdout.read(), if self.is_started => self.stdout.take(read, &mut self.allowance, &plan.feed),
                read = self.stderr.read(), if self.is_started => self.stderr.take(read, &mut self.allowance, &plan.feed),
            }
        }
    }

    /// The shim itself was killed: ends its processes, and returns when none is left.
    async fn end_strays(&self, plan: &Plan) {
        tracing::warn!(execution.id = %plan.start.key.0, "the shim of an attempt was killed");
        let feed = plan.feed.clone();
        self.shim.end_all(move |stubborn| say_stubborn(&feed, stubborn)).await;
    }

    /// Logs what is easily overlooked: that a process which was to go on in the background was ended.
    fn say_left_behind(&self, plan: &Plan) {
        let Start { key: (id, _), counts_as, action_ref, .. } = &plan.start;
        if self.left_behind > 0 {
            tracing::warn!(
                execution.id = %id,
                attempt = counts_as,
                "action.ref" = %action_ref,
                processes = self.left_behind,
                "ended what a command had left running in the background when it ended itself"
            );
        }
    }

    fn order(&self, order: ShimOrder) {
        // A shim that takes no order has ended, which its socket shows, too.
        let _ = self.shim.order(self.serial, order);
    }

    /// Reads what was printed last.
    async fn drain(&mut self, plan: &Plan) {
        let (allowance, feed) = (&mut self.allowance, &plan.feed);
        let all = async {
            for reader in [&mut self.stdout, &mut self.stderr] {
                while !reader.is_over {
                    let read = reader.read().await;
                    reader.take(read, allowance, feed);
                }
            }
        };
        // Past the wait, the pipe is held by a process that does not belong to the attempt.
        let _ = tokio::time::timeout(DRAIN_WAIT, all).await;
        self.stdout.output.finish(&mut self.allowance, feed);
        self.stderr.output.finish(&mut self.allowance, feed);
    }

    /// The ending that the attempt's end amounts to, and the shim, which may be used again.
    async fn judge(self, plan: &Plan, ended: Ended) -> (Ending, Shim) {
        let Self { shim, exit, stdout, stderr, .. } = self;
        let (places, tail) = (plan.places.clone(), stdout.output.into_tail());
        let (result, left) = match ended {
            Ended::Refused { errno } => {
                let command = plan.command.clone();
                let failure = aside(&plan.channels, move || {
                    let program = command.config.command.first().map_or("", String::as_str);
                    result::spawn_failure(program, command.config.cwd.as_deref(), errno)
                });
                let failure = failure.await.unwrap_or_else(|| {
                    Failure::new("spawn_failed", format!("the folder {:?} did not answer", plan.command.config.cwd))
                });
                (Err(failure), None)
            }
            Ended::Gone if exit.code == Some(0) => {
                let result = aside(&plan.channels, move || {
                    let result = result::result(&places, &tail);
                    places.clear();
                    result
                });
                let folder = &plan.places.folder;
                let result = result.await.unwrap_or_else(|| {
                    Err(result::unreadable(format_args!(
                        "its folder {folder:?} did not answer within {:?}",
                        aside::WAIT
                    )))
                });
                (result, None)
            }
            Ended::Gone | Ended::ShimLost => {
                let left = aside(&plan.channels, move || result::left(&places, &tail)).await.flatten();
                let (failure, left) = result::failure(exit, stderr.output.tail(), left);
                (Err(failure), left)
            }
        };
        (Ending { result, left, return_code: exit.code, ended_at: clock::now().wall }, shim)
    }
}

/// Reports that a process can't be ended, in the worker's log and among the attempt's events.
fn say_stubborn(feed: &Arc<AttemptFeed>, Stubborn { pid, uid, errno }: Stubborn) {
    let reason = match errno {
        Some(errno) => format!("SIGKILL was refused: {}", io::Error::from(errno)),
        None => "SIGKILL did not end it".to_owned(),
    };
    let id = feed.key.0;
    tracing::warn!(execution.id = %id, pid, uid, reason, "a process of an attempt can't be ended; its slot stays taken");
    let message = format!("process {pid} of user {uid} can't be ended, and keeps the slot: {reason}");
    feed.report(message::Report { level: Level::Error, message: Some(message), ..message::Report::default() });
}
