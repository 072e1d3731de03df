//! What backs off is due when its policy says, whichever clock shows what.

use slotline_protocol::ExecutionId;

use super::Checker;
use super::rule::{Rule, Violation, ensure};

/// By how much a due time may be off: clocks go wrong by a fiftieth, for as long as a term lasts.
const DUE_WITHIN: i64 = 60_000_000;

impl Checker {
    pub(super) fn backs_off(
        &mut self,
        id: ExecutionId,
        since: u64,
        due_in: i64,
        at_most: i64,
    ) -> Result<(), Violation> {
        self.journal.due.insert(id, signed(since) + due_in);
        let is_right = -DUE_WITHIN <= due_in && due_in <= at_most + DUE_WITHIN;
        ensure(is_right, Rule::DueWhenItWas, Some(id), || {
            format!("execution {id} is due in {due_in} microseconds, of at most {at_most}")
        })
    }

    /// It is granted now.
    pub(super) fn is_due(&mut self, id: ExecutionId, at: u64) -> Result<(), Violation> {
        let early = self.journal.due.remove(&id).map_or(0, |due| due - signed(at));
        ensure(early <= DUE_WITHIN, Rule::DueWhenItWas, Some(id), || {
            format!("execution {id} was granted {early} microseconds before it was due")
        })
    }
}

pub(super) fn signed(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
