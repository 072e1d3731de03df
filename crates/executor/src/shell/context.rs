//! What the parts of one process share, and what a term needs of it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use slotline_api::Hub;
use slotline_broker::Broker;
use slotline_broker::pulse::Pulse;
use slotline_store::Store;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::gate::Gates;
use super::intake::probation::Probation;
use super::journal::JournalHealth;
use super::mark::Notice;
use super::metrics::Metrics;
use super::policies::Findings;
use super::remarks::Remarks;
use super::seeking::Current;
use crate::config::Config;
use crate::leader::Quarantine;
use crate::leader::ask::{Answered, Ask};

/// What all parts of one process share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Common {
    /// Whether this process leads and takes what others ask.
    pub(crate) leads: Arc<AtomicBool>,
    pub(crate) journal: Arc<JournalHealth>,
    /// What is known of the doubt that the leader has, and the times when the journal went back.
    pub(crate) notice: Arc<Notice>,
    /// The effects of the broker's policies that were found, while this process leads.
    pub(crate) policies: Arc<Findings>,
    pub(crate) remarks: Arc<Remarks>,
    pub(crate) gates: Arc<Gates>,
    /// The clients that watch events through this process.
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Common {
    /// `journal`: the kind of database.
    pub(crate) fn new(journal: &'static str) -> Self {
        Self {
            leads: Arc::default(),
            journal: Arc::default(),
            notice: Arc::default(),
            policies: Arc::default(),
            remarks: Arc::default(),
            gates: Arc::default(),
            hub: Arc::default(),
            metrics: Arc::new(Metrics::new(journal)),
        }
    }
}

/// What a term needs of its process.
pub(crate) struct TermContext {
    pub(crate) common: Common,
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) prefix: String,
    pub(crate) current: Current,
    pub(crate) shutdown: CancellationToken,
    /// Requests that this process has begun to read alone.
    pub(crate) probation: Probation,
    /// What the database has refused; lent to each leader in its turn.
    pub(crate) quarantine: Mutex<Quarantine>,
    /// Shows the watch that the loop turns.
    pub(crate) pulse: Arc<Pulse>,
    /// The runtime of what is not the leader's own.
    pub(crate) callers: runtime::Handle,
}

/// A question of this process to its own leader.
#[derive(Debug)]
pub(crate) struct LeaderCall {
    pub(crate) ask: Ask,
    pub(crate) reply: oneshot::Sender<Answered>,
}
