//! Why a worker could not be built, or ended by itself.

use std::path::PathBuf;
use std::time::Duration;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{InvalidName, WorkerName};

/// Why a worker could not be built, or ended without [`Shutdown`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Correct the name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// Correct the configuration.
    #[error("{0}")]
    Misconfigured(String),
    /// The state directory can't be written.
    #[error("can't use the state directory {path:?}")]
    StateDir { path: PathBuf, source: std::io::Error },
    /// Give this worker another name, or end the other one.
    #[error("a worker named {name} already runs with the state directory {path:?}, or something it started does")]
    NameTaken { name: WorkerName, path: PathBuf },
    /// Give this worker another name, or end the other one.
    #[error("{reason}: end that one, or give this one another name (--name)")]
    Refused { reason: String },
    /// The broker lets this worker have no session. Nothing has run by then.
    #[error(transparent)]
    Broker(slotline_broker::Error),
    /// The system gave no thread, timer or event queue.
    #[error("can't start the worker's threads")]
    Thread(#[source] std::io::Error),
    /// These attempts go on although they were ended. Only the end of this process ends them, so end it.
    #[error("{} attempts ignore that they were ended, and end only with this process: {attempts:?}", attempts.len())]
    Unstoppable { attempts: Vec<AttemptKey> },
    /// The worker's loop has stood past its fence, so that its attempts may not run any more and nothing else can be
    /// done. Only the end of this process ends it, so end it.
    #[error(
        "the worker's loop stands for {stood:?} ({doing}), past what its fence allows: it ends only with this process"
    )]
    Stands { doing: &'static str, stood: Duration },
    /// A bug: the worker's own thread has panicked.
    #[error("the worker's thread has ended without a word")]
    Died,
}
