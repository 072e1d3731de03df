//! Every execution ends once, nothing is lost, and nothing is left over.

use slotline_protocol::{ExecutionId, Status};

use super::Checker;
use super::rule::{Rule, Violation, broken, ensure};
use crate::history::RequestId;

impl Checker {
    pub(super) fn settle(&mut self, id: ExecutionId, status: Status) -> Result<(), Violation> {
        let lease = self.live(id)?.lease;
        self.journal.live.remove(&id);
        self.journal.settled.insert(id, status);
        ensure(status.is_terminal() && lease.is_none(), Rule::OneTerminalStatus, Some(id), || {
            format!("execution {id} was settled as {status} and holds {lease:?}")
        })
    }

    pub(super) fn close(&self, at: u64) -> Result<(), Violation> {
        if let Some((_, (id, attempt))) = self.running.first_key_value() {
            let detail = format!("attempt {attempt} of execution {id} still runs");
            return Err(broken(Rule::NoOrphans, Some(*id), detail));
        }
        if let Some((id, live)) = self.main().live.first_key_value() {
            let detail = format!(
                "execution {id} ({}, request {}) has not ended: {:?} {:?}",
                live.action, live.request, live.waits, live.lease
            );
            return Err(broken(Rule::EverythingEnds, Some(*id), detail));
        }
        let missing = |request: &&RequestId| !self.knows(request) && !self.refused.contains(*request);
        if let Some(request) = self.confirmed.iter().find(missing) {
            let detail = format!("request {request} was confirmed, and neither accepted nor refused");
            return Err(broken(Rule::NothingIsLost, None, detail));
        }
        ensure(self.deadline.is_none_or(|deadline| at <= deadline), Rule::EverythingEnds, None, || {
            "it took longer than the bound until all was quiet".to_owned()
        })
    }

    /// Whether everything the history tells of is over.
    pub(crate) fn is_quiet(&self) -> bool {
        self.running.is_empty()
            && self.main().live.is_empty()
            && self.confirmed.iter().all(|request| self.knows(request) || self.refused.contains(request))
    }
}
