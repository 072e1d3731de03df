//! Orders that wait for the end of their batch, where they get their numbers.
//!
//! One batch tells an incarnation first what is recorded, then what to start, then what to end: messages of one type
//! travel together, and `n` still rises along the queue.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ExecutionId, Incarnation};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Orders {
    pub(crate) lost: BTreeSet<Incarnation>,
    pub(crate) recorded: BTreeMap<Incarnation, BTreeSet<AttemptKey>>,
    /// Executions whose current lease is to be sent, in order of grant.
    pub(crate) dispatch: Vec<ExecutionId>,
    /// Executions whose current lease is to be ended.
    pub(crate) cancel: Vec<ExecutionId>,
}

impl Orders {
    pub(crate) fn recorded(&mut self, incarnation: Incarnation, attempt: AttemptKey) {
        self.recorded.entry(incarnation).or_default().insert(attempt);
    }
}
