//! The process between a worker and a command: nothing of an attempt outlives it.
//!
//! The same executable, run again as a small single-threaded child. It is the subreaper of all its descendants, so a
//! process that leaves its group still belongs to it. It holds the deadline of the fence on `CLOCK_BOOTTIME`, so that a
//! worker that is stopped or hangs can't leave a command running past it; and when the worker is gone, so is the
//! command. One shim runs one attempt after the other, and reports `Gone` only when no descendant is left.
//!
//! Not here: output, results and outcomes (`process`). The command writes straight into the worker's pipes.

mod tree;
pub(crate) mod wire;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus};

use super::confine;
use super::mark::{ProcessMark, Stubborn};
use crate::clock;
use tree::{KILL_AGAIN, longer};
use wire::{ShimOrder, ShimReport, Spec, Start};

/// The first argument that makes an executable its own shim.
pub(crate) const ARGUMENT: &str = "__slotline_shim";

/// After the command has ended, its descendants may end by themselves for this long before they get SIGTERM.
const LINGER: Duration = Duration::from_millis(200);
/// A process that lives for so long after SIGKILL is reported.
const STUBBORN_AFTER: Duration = Duration::from_secs(2);
/// The most processes of an attempt that are reported because they can't be ended.
const STUBBORN_MAX: usize = 16;
/// A thread that does nothing but start a command.
const STARTER_STACK_BYTES: usize = 256 << 10;

/// Runs as a shim and never returns, if this process was started as one. To be called first of all in `main`, while
/// there is only one thread.
pub fn run_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        std::process::exit(match serve() {
            Ok(()) => 0,
            Err(error) => {
                // A closed stderr must not keep the shim from ending what it started.
                let _ = writeln!(std::io::stderr(), "slotline shim: {error}");
                tree::end_all();
                1
            }
        });
    }
}

fn serve() -> std::io::Result<()> {
    // What a worker's program sets for itself is not for its commands, which would inherit it.
    let _ = nix::sys::prctl::set_thp_disable(false);
    // What the shim holds, above all the worker's lock, must be out of its command's reach.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit_files();
    // A session of its own, without a terminal: a command that asks there for a password fails at once, where it would
    // block unseen for ever. And a signal to the worker's group does not reach its shims.
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    if let Some(mark) = std::env::args().nth(2).as_deref().and_then(ProcessMark::from_argument) {
        // Under a hard limit below this value the processes can't be marked; everything else holds them all the same.
        let _ = mark.bear();
    }
    if confine::is_first() {
        // With the first process of a namespace the system ends all others in it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        confine::own_proc();
    }
    // A signal to the whole process group or control group is for the worker and the command, not for the shim between
    // them.
    let signals: SigSet =
        [NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGHUP, NixSignal::SIGQUIT, NixSignal::SIGCHLD]
            .into_iter()
            .collect();
    signals.thread_block()?;
    let ends = SignalFd::with_flags(
        &[NixSignal::SIGCHLD].into_iter().collect(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    let control = rustix::stdio::stdin();
    let timer = clock::timer()?;
    loop {
        wait_readable(control)?;
        match wire::receive(control)? {
            wire::Received::Closed => return Ok(()),
            wire::Received::Nothing | wire::Received::Order { .. } => {}
            wire::Received::Start { serial, start, files } => {
                let Some(mut attempt) = Attempt::start(control, serial, start, files, &signals)? else { continue };
                attempt.run(&timer, &ends)?;
                if attempt.is_orphaned {
                    return Ok(());
                }
            }
        }
    }
}

/// A worker raises its own limit; a program that goes through all the files it may have open must not pay for that.
fn limit_files() {
    if let Some(files) = std::env::args().nth(3).and_then(|text| text.parse().ok()) {
        let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
        // At worst a command may open more files.
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum });
    }
}

/// One command and everything it started.
struct Attempt<'a> {
    control: BorrowedFd<'a>,
    serial: u64,
    /// The command itself; its number is also its group's. `None` once it is reaped.
    command: Option<(Pid, OwnedFd)>,
    deadline: Option<Duration>,
    grace: Duration,
    phase: Phase,
    /// The worker is gone: there is no receiver for reports.
    is_orphaned: bool,
    /// The processes that were reported because they can't be ended.
    stubborn: BTreeSet<i32>,
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    /// The command has ended, but not everything that it started.
    Lingering {
        until: Duration,
    },
    /// SIGTERM was sent.
    Interrupted {
        until: Duration,
    },
    Killing {
        since: Duration,
        /// When all is killed again, and how long after the last kill.
        at: Duration,
        pause: Duration,
    },
}

impl<'a> Attempt<'a> {
    fn start(
        control: BorrowedFd<'a>,
        serial: u64,
        start: Start,
        files: wire::Files,
        signals: &SigSet,
    ) -> std::io::Result<Option<Self>> {
        let at = clock::boot();
        if start.deadline.is_some_and(|deadline| at >= deadline) {
            wire::report(control, serial, &ShimReport::Refused { errno: rustix::io::Errno::TIME.raw_os_error() })?;
            return Ok(None);
        }
        match spawn(files, signals) {
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error());
                wire::report(control, serial, &ShimReport::Refused { errno })?;
                Ok(None)
            }
            Ok(pid) => {
                let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
                wire::report(control, serial, &ShimReport::Started { pid, at })?;
                Ok(Some(Self {
                    control,
                    serial,
                    command: Some((pid, pidfd)),
                    deadline: start.deadline,
                    grace: start.grace,
                    phase: Phase::Running,
                    is_orphaned: false,
                    stubborn: BTreeSet::new(),
                }))
            }
        }
    }

    /// Returns when no descendant is left.
    fn run(&mut self, timer: &OwnedFd, ends: &SignalFd) -> std::io::Result<()> {
        loop {
            if self.reap()? {
                return self.report(&ShimReport::Gone { at: clock::boot() });
            }
            self.decide(clock::boot())?;
            clock::arm(timer, self.next_look())?;
            self.wait(timer, ends)?;
            self.obey()?;
        }
    }

    /// Takes the statuses of all that ended. Returns whether nothing is left.
    fn reap(&mut self) -> std::io::Result<bool> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(None) => return Ok(false),
                Ok(Some((pid, status))) => {
                    if self.command.as_ref().is_some_and(|(command, _)| *command == pid) {
                        self.command = None;
                        self.report(&exited(status, clock::boot()))?;
                    }
                }
                Err(rustix::io::Errno::CHILD) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn decide(&mut self, now: Duration) -> std::io::Result<()> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.kill(now);
        }
        match self.phase {
            Phase::Running if self.command.is_none() => self.phase = Phase::Lingering { until: now + LINGER },
            Phase::Lingering { until } if now >= until => {
                self.phase = Phase::Interrupted { until: now + self.grace };
                let count = tree::count();
                tree::signal_descendants(Signal::TERM);
                if count > 0 {
                    self.report(&ShimReport::LeftBehind { count })?;
                }
            }
            Phase::Interrupted { until } if now >= until => self.kill(now),
            Phase::Running | Phase::Lingering { .. } | Phase::Interrupted { .. } | Phase::Killing { .. } => {}
        }
        if let Phase::Killing { since, at, pause } = self.phase
            && now >= at
        {
            self.signal_group(Signal::KILL);
            let mut stubborn = tree::signal_descendants(Signal::KILL);
            if now >= since + STUBBORN_AFTER {
                stubborn.extend(tree::left());
            }
            for process in stubborn {
                self.say_stubborn(process)?;
            }
            self.phase = Phase::Killing { since, at: now + pause, pause: longer(pause) };
        }
        Ok(())
    }

    /// Irrevocable.
    fn kill(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Killing { .. }) {
            self.phase = Phase::Killing { since: now, at: now, pause: KILL_AGAIN };
        }
    }

    /// Reports a process at once, and each process once.
    fn say_stubborn(&mut self, process: Stubborn) -> std::io::Result<()> {
        if self.stubborn.len() < STUBBORN_MAX && self.stubborn.insert(process.pid) {
            self.report(&ShimReport::Stubborn(process))?;
        }
        Ok(())
    }

    /// While the command is not reaped, the number of its group can't be used again.
    fn signal_group(&self, signal: Signal) {
        if let Some((pid, _)) = &self.command {
            // The group may have no other member, or have ended just now.
            let _ = rustix::process::kill_process_group(*pid, signal);
        }
    }

    fn next_look(&self) -> Option<Duration> {
        let phase = match self.phase {
            // The end of a process arrives as a signal.
            Phase::Running => None,
            Phase::Lingering { until } | Phase::Interrupted { until } => Some(until),
            Phase::Killing { at, .. } => return Some(at),
        };
        phase.into_iter().chain(self.deadline).min()
    }

    /// Waits for an order, for the time, or for the end of a process.
    fn wait(&self, timer: &OwnedFd, ends: &SignalFd) -> std::io::Result<()> {
        let mut fds = vec![
            PollFd::from_borrowed_fd(timer.as_fd(), PollFlags::IN),
            // The end of any child, also of an adopted one.
            PollFd::from_borrowed_fd(ends.as_fd(), PollFlags::IN),
        ];
        if !self.is_orphaned {
            fds.push(PollFd::from_borrowed_fd(self.control, PollFlags::IN));
        }
        // The signal of the command's own end may be lost: the thread that started it may have ended after the command.
        let command = self.command.iter().map(|(_, pidfd)| PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN));
        fds.extend(command);
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Ok(Some(_)) = ends.read_signal() {}
        Ok(())
    }

    /// Takes every waiting order.
    fn obey(&mut self) -> std::io::Result<()> {
        while !self.is_orphaned {
            match wire::receive(self.control) {
                Ok(wire::Received::Nothing) => return Ok(()),
                Ok(wire::Received::Closed) | Err(_) => {
                    self.is_orphaned = true;
                    self.kill(clock::boot());
                }
                // One attempt at a time; a worker that breaks this is in an unknown state.
                Ok(wire::Received::Start { .. }) => self.kill(clock::boot()),
                Ok(wire::Received::Order { serial, .. }) if serial != self.serial => {}
                Ok(wire::Received::Order { order, .. }) => match order {
                    ShimOrder::Extend { deadline } => self.deadline = self.deadline.map(|before| before.max(deadline)),
                    ShimOrder::Interrupt { grace } => {
                        let until = clock::boot() + grace;
                        match self.phase {
                            Phase::Running | Phase::Lingering { .. } => {
                                self.phase = Phase::Interrupted { until };
                                self.signal_group(Signal::TERM);
                            }
                            Phase::Interrupted { until: before } => {
                                self.phase = Phase::Interrupted { until: before.min(until) };
                            }
                            Phase::Killing { .. } => {}
                        }
                    }
                    ShimOrder::Kill => self.kill(clock::boot()),
                },
            }
        }
        Ok(())
    }

    fn report(&mut self, report: &ShimReport) -> std::io::Result<()> {
        if !self.is_orphaned && wire::report(self.control, self.serial, report).is_err() {
            self.is_orphaned = true;
            self.kill(clock::boot());
        }
        Ok(())
    }
}

/// Starts the command in a process group of its own, from a thread with the command's confinement: the shim itself
/// stays unconfined, for it has to end the command in any case.
fn spawn(files: wire::Files, signals: &SigSet) -> std::io::Result<Pid> {
    let Spec { command, cwd, env, confinement } = Spec::read(files.spec)?;
    let (program, arguments) = command.split_first().ok_or(rustix::io::Errno::INVAL)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(env)
        .process_group(0)
        .stdin(Stdio::from(files.stdin))
        .stdout(Stdio::from(files.stdout))
        .stderr(Stdio::from(files.stderr));
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    let signals = *signals;
    let starter = std::thread::Builder::new().stack_size(STARTER_STACK_BYTES).spawn(move || {
        confinement.apply()?;
        // The mask is inherited, and a command that has SIGTERM blocked can't end in good order.
        signals.thread_unblock()?;
        command.spawn()
    })?;
    let spawned = starter.join().map_err(|_| std::io::Error::other("the thread that starts commands has panicked"))?;
    // Dropping the handle leaves the process alone; ended processes are reaped in one place.
    Ok(Pid::from_child(&spawned?))
}

fn exited(status: WaitStatus, at: Duration) -> ShimReport {
    ShimReport::Exited { code: status.exit_status(), signal: status.terminating_signal(), at }
}

fn wait_readable(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    match rustix::event::poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
