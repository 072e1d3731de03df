//! Shims at hand: started from one thread that lives as long as the worker, used again and again.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::clock::watched;
use crate::shim::ARGUMENT;
use crate::shim::wire::{self, Files, Order, Report, Start};

/// Between two looks at shims that were told to end.
const REAP_EVERY: Duration = Duration::from_millis(50);
/// The most shims that wait for work.
pub(crate) const IDLE_MAX: usize = 16;

/// Cheap to clone; the last clone gone, the idle shims end.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    idle: Mutex<Vec<Shim>>,
    idle_max: usize,
    serial: AtomicU64,
    spawner: Sender<Request>,
}

enum Request {
    Spawn(oneshot::Sender<io::Result<Spawned>>),
    Reap(Child),
}

struct Spawned {
    socket: OwnedFd,
    child: Child,
}

/// The worker's end of one shim.
pub(crate) struct Shim {
    socket: AsyncFd<OwnedFd>,
    child: Option<Child>,
    spawner: Sender<Request>,
}

impl Pool {
    /// `program` is run as the shim: it must call [`crate::shim::run_if_asked`] first. The handle ends once every shim
    /// has, after the last clone of the pool is gone.
    pub(crate) fn start(program: PathBuf, idle_max: usize) -> io::Result<(Self, JoinHandle<()>)> {
        let (spawner, requests) = channel();
        let thread =
            std::thread::Builder::new().name("slotline-spawn".to_owned()).spawn(move || serve(&program, &requests))?;
        let idle_max = idle_max.min(IDLE_MAX);
        Ok((Self(Arc::new(Inner { idle: Mutex::default(), idle_max, serial: AtomicU64::new(0), spawner })), thread))
    }

    /// A number for an attempt, so that no word is taken for another's.
    pub(crate) fn serial(&self) -> u64 {
        self.0.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A shim that is idle, or a new one.
    pub(crate) async fn take(&self) -> io::Result<Shim> {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(shim) => Ok(shim),
            None => self.fresh().await,
        }
    }

    pub(crate) async fn fresh(&self) -> io::Result<Shim> {
        let (sender, receiver) = oneshot::channel();
        let gone = |_| io::Error::other("the thread that starts commands has ended");
        self.0.spawner.send(Request::Spawn(sender)).map_err(|_| io::Error::other("no thread starts commands"))?;
        let Spawned { socket, child } = receiver.await.map_err(gone)??;
        let spawner = self.0.spawner.clone();
        Ok(Shim { socket: watched(socket)?, child: Some(child), spawner })
    }

    /// Takes back a shim that said `Gone`.
    pub(crate) fn put(&self, shim: Shim) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.0.idle_max {
            idle.push(shim);
        }
    }

    /// Lets every idle shim go.
    pub(crate) fn clear(&self) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Shim {
    pub(crate) fn start(&self, serial: u64, start: Start, files: &Files) -> rustix::io::Result<()> {
        wire::start(self.socket.get_ref().as_fd(), serial, start, files)
    }

    pub(crate) fn order(&self, serial: u64, order: Order) -> rustix::io::Result<()> {
        wire::order(self.socket.get_ref().as_fd(), serial, order)
    }

    /// The next report on that attempt. `None`: the shim is gone, whatever it left behind. Cancel-safe.
    pub(crate) async fn report(&self, serial: u64) -> Option<Report> {
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
}

impl Drop for Shim {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // It ends when its socket closes, which happens right after this; the thread may be gone at the very end.
            let _ = self.spawner.send(Request::Reap(child));
        }
    }
}

fn serve(program: &PathBuf, requests: &Receiver<Request>) {
    let mut ending: Vec<Child> = Vec::new();
    loop {
        let request = if ending.is_empty() {
            requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(REAP_EVERY)
        };
        match request {
            Ok(Request::Spawn(reply)) => {
                if let Err(Ok(unwanted)) = reply.send(spawn(program)) {
                    drop(unwanted.socket);
                    ending.push(unwanted.child);
                }
            }
            Ok(Request::Reap(child)) => ending.push(child),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                for mut child in ending {
                    // Nobody else waits for it; an error means that it is gone.
                    let _ = child.wait();
                }
                return;
            }
        }
        ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

fn spawn(program: &PathBuf) -> io::Result<Spawned> {
    let (ours, theirs) = wire::pair()?;
    let mut command = Command::new(program);
    command
        .arg0("slotline-shim")
        .arg(ARGUMENT)
        // A signal to the worker's group is not for its shims.
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null());
    // Addresses and tokens of the worker are nothing for a command.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"SLOTLINE_") {
            command.env_remove(name);
        }
    }
    Ok(Spawned { socket: ours, child: command.spawn()? })
}
