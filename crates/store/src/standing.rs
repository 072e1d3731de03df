//! The state of a journal among its own copies: which one it is, how far it had come, and when it went back in time.
//!
//! Not here: whether it is older than the world. That takes what the broker and the workers know.

use slotline_protocol::message::Lineage;
use slotline_protocol::{Epoch, ExecutionId, Timestamp};
use std::ops::Range;
use std::time::Duration;

use slotline_scheduler::Counters;

/// The values that a new leader compares with those of the broker and the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub lineage: Lineage,
    /// The last batch, and its epoch, of the last leader that had no doubt.
    pub former: (Epoch, i64),
    /// Why the leader before this one thought that the journal is older than the world; empty if it did not get to
    /// judge.
    pub doubt: Option<String>,
    pub counters: Counters,
    /// The numbers that come next by this journal alone: lower than the counters once those were raised in doubt.
    pub floor: Counters,
    /// Executions from the floor on that have settled: leaders in doubt took them over from workers. None without
    /// doubt.
    pub settled: Vec<ExecutionId>,
    /// The longest lease that some worker may go by, as far as this journal knows.
    pub lease: Duration,
    /// Which copy of the journal this is: it changes with a restored dump and with a promoted replica.
    pub site: String,
    /// Which life of the database server this is: nothing is rolled back under one that runs.
    pub life: String,
    /// How far the log of the database goes.
    pub log: i64,
}

/// A journal that was found older than the world, and is led on all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// The generation of the journal from now on: above every one that a worker or the broker has seen, so that no
    /// attempt number is given twice.
    pub generation: u64,
    pub reason: String,
    /// The numbers that came next by the journal alone, and those that come next since.
    pub floor: Counters,
    pub next: Counters,
    /// One above the highest execution that something shows was accepted; at most the floor if nothing does.
    pub shown_id: ExecutionId,
    /// Executions that the journal did not know, and a worker still held.
    pub recovered: Vec<ExecutionId>,
}

/// As [`Rewind`], read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRewind {
    pub generation: u64,
    pub settled_at: Timestamp,
    pub reason: String,
    /// The first execution that may be missing, and the one after the last that was certainly accepted.
    pub from: ExecutionId,
    pub shown: ExecutionId,
    /// The first execution accepted afterwards.
    pub resumed: ExecutionId,
    /// Fences that may have been granted in the lost part.
    pub lost_fences: Range<i64>,
    pub recovered: Vec<ExecutionId>,
}

impl PastRewind {
    /// For people: what happened, and which executions are not in the journal.
    pub fn sentence(&self) -> String {
        lost(&self.reason, (self.from, self.shown, self.resumed), &self.recovered)
    }
}

/// The sentence about the executions that a journal is known to lack.
pub fn lost(
    reason: &str,
    (from, shown, resumed): (ExecutionId, ExecutionId, ExecutionId),
    recovered: &[ExecutionId],
) -> String {
    let count = shown.0 - from.0;
    let found = u64::try_from(recovered.len()).unwrap_or(u64::MAX);
    let missing = if count > 0 {
        let shown_last = shown.0 - 1;
        let ids = if count == 1 { format!("execution {from}") } else { format!("executions {from} to {shown_last}") };
        let found = match recovered {
            [] => "no worker held any of them".to_owned(),
            ids => format!("{found} of them were taken over from workers: {}", listed(ids)),
        };
        format!("at most {count} executions accepted since are not in it ({ids}; {found})")
    } else {
        "no execution is known to be missing".to_owned()
    };
    format!(
        "the journal was led on although it may be older than the world ({reason}): {missing}; what was accepted later \
         than any witness tells, and message_ids accepted since, are unknown to it; ids go on at {resumed}"
    )
}

/// Ids as a JSON array.
pub(crate) fn listed(ids: &[ExecutionId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(","))
}

/// The ids of a list that [`listed`] wrote.
pub(crate) fn parse_list(list: &str) -> Vec<ExecutionId> {
    let inner = list.trim_start_matches('[').trim_end_matches(']');
    inner.split(',').filter_map(|id| id.parse().ok()).collect()
}
