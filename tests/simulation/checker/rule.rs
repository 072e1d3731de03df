//! What must hold, and how it is said that it does not.

use serde::{Deserialize, Serialize};
use slotline_protocol::ExecutionId;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Rule {
    LimitHolds,
    GrantsAreInOrder,
    AcceptedInOrder,
    OneTerminalStatus,
    NoAttemptTwice,
    /// Neither an id nor a fence is given twice, also by a journal that went back.
    NoNumberTwice,
    ProcessesWithinLeases,
    NoEffectBeforeItsCommit,
    EpochsRise,
    EventsAreGapFree,
    NothingIsLost,
    NothingUnacceptedRuns,
    NoOrphans,
    EverythingEnds,
    /// An attempt that waits for another starts once that one has completed, and on nothing else.
    ChainsFollowSuccess,
    /// Leadership goes to an executor that can do the whole job: none keeps it for long without a broker.
    LeadersHaveABroker,
    /// What a stranger says changes nothing.
    LiesChangeNothing,
    /// The next process of a worker tells what had ended in one that went in good order.
    EndedIsTold,
    /// What backs off is due when its policy says, whichever clock shows what.
    DueWhenItWas,
    /// The recorder of the history fell over a bug.
    NothingPanics,
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) at: u64,
    pub(crate) execution: Option<ExecutionId>,
    pub(crate) detail: String,
}

pub(super) fn ensure(
    holds: bool,
    rule: Rule,
    execution: Option<ExecutionId>,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(broken(rule, execution, detail())) }
}

pub(super) fn broken(rule: Rule, execution: Option<ExecutionId>, detail: String) -> Violation {
    Violation { rule, at: 0, execution, detail }
}
