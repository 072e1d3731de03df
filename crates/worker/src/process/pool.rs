//! Idle shims: started from one thread that lives as long as the worker, and used again and again.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::confine::Doorway;
use super::mark::{ProcessMark, ProcessMarks, Stubborn};
use super::shim::ARGUMENT;
use super::shim::wire::{self, Files, ShimOrder, ShimReport, Start};
use crate::clock::watched;

/// Between two looks at shims that are to end.
const REAP_EVERY: Duration = Duration::from_millis(50);
/// The most shims that wait for work.
pub(crate) const IDLE_MAX: usize = 16;

/// Cheap to clone; when the last clone is dropped, the idle shims end.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    /// Those in a namespace of their own, and those that share the host's.
    idle: [Mutex<Vec<Shim>>; 2],
    idle_max: usize,
    serial: AtomicU64,
    spawner: Sender<Request>,
}

enum Request {
    Spawn(Room, oneshot::Sender<io::Result<Spawned>>),
    Reap(Child),
}

/// Where a shim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// The first process of a PID namespace.
    Own,
    /// Among all processes of the host.
    Shared,
}

struct Spawned {
    socket: OwnedFd,
    pidfd: OwnedFd,
    child: Child,
    mark: ProcessMark,
}

/// What every shim of a worker gets.
pub(crate) struct Outfit {
    /// The program of a shim: it must call [`crate::process::shim::run_if_asked`] first.
    pub(crate) program: PathBuf,
    /// The whole environment of a shim, and so of its commands.
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) marks: Arc<ProcessMarks>,
    /// The worker's lock, which every shim holds as well; its commands do not.
    pub(crate) lock: Option<OwnedFd>,
    /// How many files a command may have open; `None`: as many as this process.
    pub(crate) files: Option<u64>,
}

/// The worker's end of one shim.
pub(crate) struct Shim {
    socket: AsyncFd<OwnedFd>,
    /// Readable once the shim has ended; the first process of a namespace ends last.
    end: AsyncFd<OwnedFd>,
    room: Room,
    mark: ProcessMark,
    child: Option<Child>,
    spawner: Sender<Request>,
}

impl Pool {
    /// The thread ends once every shim has, after the last clone of the pool is dropped.
    pub(crate) fn start(outfit: Outfit, idle_max: usize) -> io::Result<(Self, JoinHandle<()>)> {
        let (spawner, requests) = channel();
        let doorway = Doorway::open()?;
        let thread = std::thread::Builder::new()
            .name("slotline-spawn".to_owned())
            .spawn(move || serve(&outfit, &doorway, &requests))?;
        let idle_max = idle_max.min(IDLE_MAX);
        Ok((Self(Arc::new(Inner { idle: Default::default(), idle_max, serial: AtomicU64::new(0), spawner })), thread))
    }

    /// A number for an attempt, so that a report is never taken for another attempt's.
    pub(crate) fn serial(&self) -> u64 {
        self.0.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An idle shim, or a new one.
    pub(crate) async fn take(&self, room: Room) -> io::Result<Shim> {
        let idle = self.idle(room).pop();
        match idle {
            Some(shim) => Ok(shim),
            None => self.fresh(room).await,
        }
    }

    pub(crate) async fn fresh(&self, room: Room) -> io::Result<Shim> {
        let (sender, receiver) = oneshot::channel();
        let gone = |_| io::Error::other("the thread that starts commands has ended");
        self.0.spawner.send(Request::Spawn(room, sender)).map_err(|_| io::Error::other("no thread starts commands"))?;
        let Spawned { socket, pidfd, child, mark } = receiver.await.map_err(gone)??;
        let spawner = self.0.spawner.clone();
        Ok(Shim { socket: watched(socket)?, end: watched(pidfd)?, room, mark, child: Some(child), spawner })
    }

    /// Takes back a shim that reported `Gone`.
    pub(crate) fn put(&self, shim: Shim) {
        let mut idle = self.idle(shim.room);
        if idle.len() < self.0.idle_max {
            idle.push(shim);
        }
    }

    /// Ends every idle shim.
    pub(crate) fn clear(&self) {
        for room in [Room::Own, Room::Shared] {
            self.idle(room).clear();
        }
    }

    fn idle(&self, room: Room) -> MutexGuard<'_, Vec<Shim>> {
        self.0.idle[room as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shim {
    pub(crate) fn start(&self, serial: u64, start: Start, files: &Files) -> rustix::io::Result<()> {
        wire::start(self.socket.get_ref().as_fd(), serial, start, files)
    }

    pub(crate) fn order(&self, serial: u64, order: ShimOrder) -> rustix::io::Result<()> {
        wire::order(self.socket.get_ref().as_fd(), serial, order)
    }

    /// The next report on that attempt. `None`: the shim is gone, and processes of its attempt may be left.
    /// Cancel-safe.
    pub(crate) async fn report(&self, serial: u64) -> Option<ShimReport> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            let received = ready.try_io(|socket| Ok(wire::receive_report(socket.get_ref().as_fd())?));
            match received {
                Err(_would_block) => {}
                Ok(Ok(Some((about, report)))) if about == serial => return Some(report),
                Ok(Ok(Some(_stale))) => {}
                Ok(Ok(None) | Err(_)) => return None,
            }
        }
    }

    /// Kills a shim that is of no use any more, and returns when nothing of its attempt is left; `say` gets each
    /// process that can't be ended.
    pub(crate) async fn end_all(&self, say: impl FnMut(Stubborn) + Send + 'static) {
        // It may have ended just now.
        let _ = rustix::process::pidfd_send_signal(self.end.get_ref(), Signal::KILL);
        if self.end.readable().await.is_err() {
            tracing::warn!("can't wait for the end of a shim");
        }
        let mark = self.mark;
        // It reads `/proc`; and a panic in it is a bug that must not free a slot.
        if tokio::task::spawn_blocking(move || mark.end_all(say)).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // The shim ends when its socket closes, right after this; at the very end of the worker the thread may be
            // gone.
            let _ = self.spawner.send(Request::Reap(child));
        }
    }
}

fn serve(outfit: &Outfit, doorway: &Doorway, requests: &Receiver<Request>) {
    let mut ending: Vec<Child> = Vec::new();
    loop {
        let request = if ending.is_empty() {
            requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(REAP_EVERY)
        };
        match request {
            Ok(Request::Spawn(room, reply)) => {
                let spawned = match room {
                    Room::Own => doorway.first(|| spawn(outfit)),
                    Room::Shared => spawn(outfit),
                };
                if let Err(Ok(unwanted)) = reply.send(spawned) {
                    drop(unwanted.socket);
                    ending.push(unwanted.child);
                }
            }
            Ok(Request::Reap(child)) => ending.push(child),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                for mut child in ending {
                    // Only this thread reaps it; an error means that it is gone.
                    let _ = child.wait();
                }
                return;
            }
        }
        ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

fn spawn(outfit: &Outfit) -> io::Result<Spawned> {
    let (ours, theirs) = wire::pair()?;
    let mark = outfit.marks.next();
    // The lock takes the place of the shim's standard output: so the shim, which prints nothing, inherits it, and a
    // command does not, as it has an output of its own there.
    let lock = match &outfit.lock {
        Some(lock) => Stdio::from(lock.try_clone()?),
        None => Stdio::null(),
    };
    let mut command = Command::new(&outfit.program);
    command
        .arg0("slotline-shim")
        .args([ARGUMENT, &mark.to_argument()])
        .args(outfit.files.map(|files| files.to_string()))
        .env_clear()
        .envs(outfit.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(theirs))
        .stdout(lock);
    let child = command.spawn()?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok(Spawned { socket: ours, pidfd, child, mark })
}
