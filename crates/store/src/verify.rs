//! Whether the promises were kept, judged by the journal alone: order of grants, limits, one end each.
//!
//! Starts and ends are the workers' stamps, so on several hosts the judgement is as good as their clocks. Limits are
//! those of today's policy. An attempt that was handed back leaves no trace but a later fence; after one, the order of
//! fences may differ from the order of the line.

use slotline_protocol::{ActionRef, ExecutionId, Fence, Timestamp};

/// The most violations that are spelt out.
pub const VIOLATIONS_MAX: usize = 100;

/// What was looked at, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub executions: u64,
    /// Attempts that were granted.
    pub attempts: u64,
    /// One sentence each, at most [`VIOLATIONS_MAX`].
    pub violations: Vec<String>,
}
