//! Nothing leaves before its commit.

use slotline_protocol::{ExecutionId, Fence};

use super::Checker;
use super::rule::{Rule, Violation, ensure};
use crate::history::RequestId;

impl Checker {
    pub(super) fn dispatched(&self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
        let given = self.fences.get(&fence).map(|given| (given.execution, given.attempt));
        ensure(given == Some((id, attempt)), Rule::NoEffectBeforeItsCommit, Some(id), || {
            format!("attempt {attempt} of execution {id} was dispatched before its grant was committed")
        })
    }

    pub(super) fn recorded(&self, id: ExecutionId, attempt: u32) -> Result<(), Violation> {
        let lease = self.journal.live.get(&id).and_then(|live| live.lease);
        // Of what a rewound journal forgot, the word of its last leader may still be on its way.
        let is_free = lease.is_none_or(|(fence, out)| out != attempt || self.is_forgotten(fence));
        ensure(is_free, Rule::NoEffectBeforeItsCommit, Some(id), || {
            format!("attempt {attempt} of execution {id} was called recorded while its lease lives")
        })
    }

    pub(super) fn answered(&self, request: &RequestId) -> Result<(), Violation> {
        ensure(self.knows(request), Rule::NoEffectBeforeItsCommit, None, || {
            format!("request {request} was answered before it was committed")
        })
    }
}
