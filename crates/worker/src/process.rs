//! Runs one attempt as a command: starts it under a shim, listens to it, and says how it ended.
//!
//! It always ends with an [`Ending`], and then nothing of the attempt is left. Not here: why it is asked to end, and
//! what its ending means (`duty`).

pub(crate) mod output;
pub(crate) mod pool;
pub(crate) mod result;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use slotline_broker::crash;
use slotline_protocol::message::{Failure, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::runtime;
use tokio::sync::{mpsc, watch};

use crate::channel::Channel;
use crate::clock;
use crate::command::{RunConfig, environment};
use crate::duty::{Ending, Start};
use crate::feed::Feed;
use crate::shim::wire::{self, Files, Order, Report, Spec};
use output::{Allowance, Output};
use pool::{Pool, Shim};
use result::Exit;

/// Shims tried before an attempt counts as not startable.
const SHIMS_TRIED: u32 = 3;
/// How long output is read after the last descendant has gone: a pipe may be in the hands of a process that the command
/// did not start.
const DRAIN_WAIT: Duration = Duration::from_secs(1);
/// Looks in a row that must find no stray: one that is just starting another program shows no environment.
const QUIET_LOOKS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 16 << 10;

/// What the loop asks of a running attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Interrupt { grace: Duration },
    Kill,
}

/// Everything a command needs.
pub(crate) struct Plan {
    pub(crate) start: Start,
    pub(crate) config: Arc<RunConfig>,
    pub(crate) result_file: PathBuf,
    /// Where it is listened to for its reports, if there is a place; and by whom.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) channels: runtime::Handle,
    pub(crate) feed: Arc<Feed>,
    pub(crate) asks: mpsc::UnboundedReceiver<Ask>,
    /// The fence, as it moves on.
    pub(crate) fence: watch::Receiver<Option<Duration>>,
}

/// Runs the command to its end, and tells its feed.
pub(crate) async fn run(pool: Pool, plan: Plan) {
    let feed = plan.feed.clone();
    let result_file = plan.result_file.clone();
    let ending = attempt(&pool, plan).await;
    // Most commands leave none.
    let _ = std::fs::remove_file(result_file);
    feed.ended(ending);
}

async fn attempt(pool: &Pool, mut plan: Plan) -> Ending {
    if let Ok(Ask::Interrupt { .. } | Ask::Kill) = plan.asks.try_recv() {
        return unstarted(Failure::new("cancelled", "it was ended before it started"));
    }
    let channel = listen(&mut plan);
    let mut running = match Running::start(pool, &plan, channel.as_ref().map(Channel::path)).await {
        Ok(running) => running,
        Err(error) => {
            let program = plan.config.command.first().map_or("", String::as_str);
            return unstarted(Failure::new("spawn_failed", format!("can't start {program:?}: {error}")));
        }
    };
    let ended = running.watch(&mut plan).await;
    crash::point("worker.reap.after");
    running.drain(&plan).await;
    if let Some(channel) = channel {
        channel.close().await;
    }
    let ending = running.judge(&plan, ended).await;
    if let Ended::Gone | Ended::Refused { .. } = ended {
        pool.put(running.shim);
    }
    ending
}

/// An attempt that can't be listened to runs all the same.
fn listen(plan: &mut Plan) -> Option<Channel> {
    let id = plan.start.key.0;
    Channel::open(plan.socket.take()?, plan.feed.clone(), &plan.channels)
        .inspect_err(|error| tracing::warn!(execution.id = %id, %error, "can't listen to a command's progress"))
        .ok()
}

fn unstarted(error: Failure) -> Ending {
    Ending { result: Err(error), return_code: None, ended_at: clock::now().wall }
}

struct Running {
    shim: Shim,
    serial: u64,
    pid: Option<Pid>,
    exit: Exit,
    stdout: Reader,
    stderr: Reader,
    allowance: Allowance,
}

/// How it was learnt that nothing is left.
#[derive(Clone, Copy)]
enum Ended {
    Gone,
    Refused {
        errno: i32,
    },
    /// The shim itself was killed; what it held may live.
    ShimLost,
}

impl Running {
    /// Hands the command to a shim.
    async fn start(pool: &Pool, plan: &Plan, socket: Option<&Path>) -> io::Result<Self> {
        let spec = Spec {
            command: plan.config.command.clone(),
            cwd: plan.config.cwd.clone(),
            env: environment(&plan.config, &plan.start, &plan.result_file, socket),
        };
        let mut tried = 0;
        loop {
            let (stdout, stdout_end) = pipe()?;
            let (stderr, stderr_end) = pipe()?;
            let files = Files {
                spec: spec.write()?,
                stdin: wire::memory_file("slotline-parameters", plan.start.parameters.0.get().as_bytes())?,
                stdout: stdout_end,
                stderr: stderr_end,
            };
            // One that was idle may have been killed meanwhile.
            crash::point("worker.spawn.before");
            let shim = if tried == 0 { pool.take().await? } else { pool.fresh().await? };
            let serial = pool.serial();
            // The fence may have moved on while this one waited for its turn.
            let deadline = plan.start.deadline.map(|deadline| plan.fence.borrow().unwrap_or(deadline).max(deadline));
            let start = wire::Start { deadline, grace: plan.config.grace };
            match shim.start(serial, start, &files) {
                Ok(()) => {
                    crash::point("worker.spawn.after");
                    return Ok(Self {
                        shim,
                        serial,
                        pid: None,
                        exit: Exit { code: None, signal: None },
                        stdout: Reader::new(stdout, Stream::Stdout)?,
                        stderr: Reader::new(stderr, Stream::Stderr)?,
                        allowance: Allowance::new(plan.config.output_max),
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

    /// Passes on what is said and asked, until nothing of the attempt is left.
    async fn watch(&mut self, plan: &mut Plan) -> Ended {
        let obeys_the_fence = plan.start.deadline.is_some();
        let (mut is_asked, mut is_fenced) = (true, obeys_the_fence);
        loop {
            tokio::select! {
                // Orders and endings first: a flood of output must not delay them.
                biased;
                report = self.shim.report(self.serial) => match report {
                    None => return Ended::ShimLost,
                    Some(Report::Started { pid, at }) => {
                        self.pid = Some(pid);
                        crash::point("worker.started.before");
                        plan.feed.started(at);
                    }
                    Some(Report::Refused { errno }) => return Ended::Refused { errno },
                    Some(Report::Exited { code, signal, at: _ }) => {
                        crash::point("worker.reap.before");
                        self.exit = Exit { code, signal };
                    }
                    Some(Report::Gone { at: _ }) => return Ended::Gone,
                },
                ask = plan.asks.recv(), if is_asked => match ask {
                    Some(Ask::Interrupt { grace }) => self.order(Order::Interrupt { grace }),
                    Some(Ask::Kill) => self.order(Order::Kill),
                    // Nobody is left to ask: the loop has ended, and so must this.
                    None => {
                        is_asked = false;
                        self.order(Order::Kill);
                    }
                },
                moved = plan.fence.changed(), if is_fenced => {
                    is_fenced = moved.is_ok();
                    if let Some(deadline) = *plan.fence.borrow_and_update() {
                        self.order(Order::Extend { deadline });
                    }
                }
                // What it prints comes after word of its start.
                read = self.stdout.read(), if self.pid.is_some() => self.stdout.take(read, &mut self.allowance, &plan.feed),
                read = self.stderr.read(), if self.pid.is_some() => self.stderr.take(read, &mut self.allowance, &plan.feed),
            }
        }
    }

    fn order(&self, order: Order) {
        // A shim that can't be told is one that is gone, which its socket says, too.
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
        // Past the wait, whoever still holds the pipe prints for nobody.
        let _ = tokio::time::timeout(DRAIN_WAIT, all).await;
        self.stdout.output.finish(&mut self.allowance, feed);
        self.stderr.output.finish(&mut self.allowance, feed);
    }

    async fn judge(&self, plan: &Plan, ended: Ended) -> Ending {
        let result = match ended {
            Ended::Refused { errno } => {
                let program = plan.config.command.first().map_or("", String::as_str);
                Err(result::spawn_failure(program, plan.config.cwd.as_deref(), errno))
            }
            Ended::ShimLost => {
                end_strays(self.pid, plan).await;
                Err(result::failure(Exit { code: None, signal: None }, self.stderr.output.tail()))
            }
            Ended::Gone if self.exit.code == Some(0) => result::result(&plan.result_file, self.stdout.output.tail()),
            Ended::Gone => Err(result::failure(self.exit, self.stderr.output.tail())),
        };
        Ending { result, return_code: self.exit.code, ended_at: clock::now().wall }
    }
}

/// Without their shim the processes of an attempt are nobody's children; they are known by the result file that each has
/// in its environment, and that is nobody else's. Comes back when none is left.
async fn end_strays(pid: Option<Pid>, plan: &Plan) {
    let mark = format!("SLOTLINE_RESULT_FILE={}", plan.result_file.display());
    let is_marked = |environ: &[u8]| environ.split(|byte| *byte == 0).any(|found| found == mark.as_bytes());
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        let mut left = 0;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(stray) = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else {
                continue;
            };
            let Ok(environ) = std::fs::read(Path::new("/proc").join(entry.file_name()).join("environ")) else {
                continue;
            };
            if is_marked(&environ) {
                left += 1;
                // It may have ended just now.
                let _ = rustix::process::kill_process(stray, Signal::KILL);
            }
        }
        quiet = if left == 0 { quiet + 1 } else { 0 };
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    tracing::warn!(execution.id = %plan.start.key.0, ?pid, "the shim of an attempt was killed");
}

/// One stream being read.
struct Reader {
    pipe: pipe::Receiver,
    output: Output,
    buffer: Box<[u8]>,
    is_over: bool,
}

impl Reader {
    fn new(pipe: OwnedFd, stream: Stream) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        Ok(Self { pipe, output: Output::new(stream), buffer: vec![0; READ_BYTES].into_boxed_slice(), is_over: false })
    }

    /// Reads once; never comes back when the stream is over. Cancel-safe.
    async fn read(&mut self) -> usize {
        if self.is_over {
            return std::future::pending().await;
        }
        self.pipe.read(&mut self.buffer).await.unwrap_or(0)
    }

    /// Takes as many bytes as were read; none means that the stream is over.
    fn take(&mut self, read: usize, allowance: &mut Allowance, feed: &Arc<Feed>) {
        self.is_over = read == 0;
        self.output.take(&self.buffer[..read], allowance, feed);
    }
}

fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}
