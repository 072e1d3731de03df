//! Whether the promises were kept, judged by the journal alone.
//!
//! Starts and ends are the workers' stamps, each by its own clock, so two attempts of different workers must overlap by
//! more than [`CLOCK_TOLERANCE`] to violate a limit. Limits and order are judged by the policy at each grant, which
//! follows from the audit; a grant whose policy does not follow from it is named, and not judged. An attempt that was
//! handed back leaves no trace but a later fence. Not here: the queries of a database (`facts`), the rules of each time
//! (`course`), and each judgement (`lines`, `ledger`).

pub(crate) mod course;
pub(crate) mod facts;
mod ledger;
mod lines;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use facts::Facts;

use crate::PastRewind;

/// The most violations that are spelt out.
pub const VIOLATIONS_MAX: usize = 100;
/// The most rewinds that are listed.
pub(crate) const REWINDS_MAX: i64 = 100;
/// How far apart the clocks of two hosts may be.
pub const CLOCK_TOLERANCE: Duration = Duration::from_millis(100);
/// How long the database may take over one query: each goes through all that is examined.
pub const VERIFY_DEADLINE: Duration = Duration::from_secs(600);

/// What was examined, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalVerdict {
    pub executions: u64,
    /// Attempts that were granted a slot.
    pub attempts: u64,
    /// Each of [`Check::ALL`], in that order.
    pub checks: Vec<CheckResult>,
    /// One sentence each, at most [`VIOLATIONS_MAX`].
    pub violations: Vec<String>,
    /// What could not be judged, and why: one sentence each, at most [`VIOLATIONS_MAX`].
    pub unjudged: Vec<String>,
    /// The times the journal was found older than the world, the newest first: the journal has nothing of what was lost
    /// then.
    pub rewinds: Vec<PastRewind>,
}

/// One promise, as far as the journal shows whether it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Limits,
    Order,
    Fences,
    Attempts,
    Ends,
    Slots,
    Records,
    Totals,
    Counters,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckResult {
    pub check: Check,
    /// Grants, executions, records, actions or counters that were examined for it.
    pub examined: u64,
    pub violations: u64,
}

impl Check {
    pub const ALL: [Self; 9] = [
        Self::Limits,
        Self::Order,
        Self::Fences,
        Self::Attempts,
        Self::Ends,
        Self::Slots,
        Self::Records,
        Self::Totals,
        Self::Counters,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Order => "order",
            Self::Fences => "fences",
            Self::Attempts => "attempts",
            Self::Ends => "ends",
            Self::Slots => "slots",
            Self::Records => "records",
            Self::Totals => "totals",
            Self::Counters => "counters",
        }
    }

    /// The promise in words.
    pub fn claim(self) -> &'static str {
        match self {
            Self::Limits => "no more attempts ran at once than the limit",
            Self::Order => "first attempts got their slots in the order of their line",
            Self::Fences => "fences are unique and rise in the order of the grants",
            Self::Attempts => "no attempt number was granted twice",
            Self::Ends => "what has settled has one terminal status and does not live",
            Self::Slots => "what is out holds a slot, and what waits does not",
            Self::Records => "events are numbered without a gap, as far as they are kept",
            Self::Totals => "what was taken either lives or was counted when it settled",
            Self::Counters => "no number is left to be given away a second time",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JournalVerdict {
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|checked| checked.violations == 0)
    }

    fn examine(&mut self, check: Check, count: usize) {
        self.of(check).examined += u64::try_from(count).expect("64 bits hold a length");
    }

    fn accuse(&mut self, check: Check, violation: impl FnOnce() -> String) {
        self.of(check).violations += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation());
        }
    }

    fn pass_over(&mut self, unjudged: impl FnOnce() -> String) {
        if self.unjudged.len() < VIOLATIONS_MAX {
            self.unjudged.push(unjudged());
        }
    }

    fn of(&mut self, check: Check) -> &mut CheckResult {
        self.checks.iter_mut().find(|checked| checked.check == check).expect("every check is there from the start")
    }
}

pub(crate) fn judge(facts: Facts) -> JournalVerdict {
    let checks = Check::ALL.map(|check| CheckResult { check, examined: 0, violations: 0 });
    let mut verdict = JournalVerdict { checks: checks.into(), ..JournalVerdict::default() };
    // The weightiest comes first: a reader may stop at the first.
    ledger::ends(&mut verdict, &facts);
    lines::judge(&mut verdict, &facts);
    ledger::records(&mut verdict, &facts);
    ledger::sums(&mut verdict, &facts);
    verdict.rewinds = facts.rewinds;
    verdict
}
