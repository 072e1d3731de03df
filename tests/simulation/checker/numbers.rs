//! No id and no fence is given twice, also by a journal that went back.

use std::sync::Arc;

use slotline_protocol::{ActionRef, ExecutionId, Fence};

use super::Checker;
use super::journal::{Given, Live};
use super::rule::{Rule, Violation, ensure};
use crate::history::RequestId;

impl Checker {
    /// A fence is given, for the first time.
    pub(super) fn give(&mut self, id: ExecutionId, attempt: u32, fence: Fence, runs_on: bool) -> Result<(), Violation> {
        let action = self.live(id)?.action.clone();
        let branch = self.journal.branch;
        let newest = self.journal.newest.replace(fence);
        let before = self.fences.insert(fence, Given { execution: id, attempt, runs_on, action, branch });
        ensure(before.is_none() && newest < Some(fence), Rule::NoNumberTwice, Some(id), || {
            let before = before.map(|given| (given.execution, given.attempt));
            format!("execution {id} got fence {fence}, which is of {before:?}; {newest:?} was the newest")
        })
    }

    /// It is the execution that it was.
    pub(super) fn recovered(
        &mut self,
        id: ExecutionId,
        request: &RequestId,
        action_ref: &ActionRef,
        key: &Option<Arc<str>>,
    ) -> Result<(), Violation> {
        let is_its_own =
            self.given.get(&id) == Some(request) && self.journal.accepted.insert(request.clone(), id).is_none();
        self.journal.live.insert(id, Live::new(request, action_ref, key));
        self.gone.remove(request);
        ensure(is_its_own, Rule::NoNumberTwice, Some(id), || {
            format!("execution {id} was taken over as request {request}; it was of {:?}", self.given.get(&id))
        })
    }

    /// The lease is of an attempt that was really given to this execution.
    pub(super) fn adopted(&mut self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
        let live = self.live(id)?;
        (live.waits, live.ahead) = (None, None);
        live.lease = Some((fence, attempt));
        live.is_adopted = true;
        let (action_ref, key) = (live.action.clone(), live.key.clone());
        if let Some(action) = self.journal.actions.get_mut(&action_ref) {
            action.leases.insert(id, key);
        }
        let given = self.fences.get(&fence).map(|given| (given.execution, given.attempt));
        ensure(given == Some((id, attempt)), Rule::NoNumberTwice, Some(id), || {
            format!("attempt {attempt} of execution {id} was taken over with fence {fence}, which is of {given:?}")
        })
    }
}
