//! Requests are accepted in the order in which the broker took them, each as one execution.

use std::sync::Arc;

use slotline_protocol::{ActionRef, ExecutionId};

use super::Checker;
use super::journal::Live;
use super::rule::{Rule, Violation, broken, ensure};
use crate::history::RequestId;

impl Checker {
    pub(super) fn accepted(
        &mut self,
        id: ExecutionId,
        request: &RequestId,
        action_ref: &ActionRef,
        key: &Option<Arc<str>>,
    ) -> Result<(), Violation> {
        // One that was turned away, or forgotten, and came again has lost its position.
        let came_again = self.refused.contains(request) || self.knows(request);
        if let Some(before) = self.journal.accepted.insert(request.clone(), id) {
            let detail = format!("request {request} was accepted as execution {before} and as {id}");
            return Err(broken(Rule::OneTerminalStatus, Some(id), detail));
        }
        let Some(position) = self.enqueued.get(request).copied() else {
            let detail = format!("request {request} was accepted as execution {id} but never enqueued");
            return Err(broken(Rule::NothingUnacceptedRuns, Some(id), detail));
        };
        if let Some(before) = self.given.insert(id, request.clone()).filter(|before| before != request) {
            let detail = format!("execution {id} is of request {request}, and was of {before}");
            return Err(broken(Rule::NoNumberTwice, Some(id), detail));
        }
        let action = self.journal.actions.entry(action_ref.clone()).or_default();
        let in_order = action.last_position <= position || came_again;
        action.last_position = action.last_position.max(position);
        self.journal.live.insert(id, Live::new(request, action_ref, key));
        ensure(in_order, Rule::AcceptedInOrder, Some(id), || {
            format!("request {request} (execution {id}) was accepted after one that the broker took later")
        })
    }
}
