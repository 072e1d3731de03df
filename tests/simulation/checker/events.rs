//! Events are numbered without a gap, and the next process of a worker reports what had ended in one that went in good order.

use slotline_protocol::ExecutionId;

use super::Checker;
use super::rule::{Rule, Violation, ensure};

impl Checker {
    /// An event of a record.
    pub(super) fn numbered(&mut self, id: ExecutionId, number: u64) -> Result<(), Violation> {
        let before = self.numbered.insert(id, number).unwrap_or(0);
        ensure(number == before + 1, Rule::EventsAreGapFree, Some(id), || {
            format!("event {number} follows event {before} in the record of execution {id}")
        })
    }

    /// An event of an attempt, by its worker.
    pub(super) fn said(&mut self, key: (ExecutionId, u32), sequence: u64) -> Result<(), Violation> {
        let (id, attempt) = key;
        let before = self.said.insert(key, sequence).unwrap_or(0);
        ensure(sequence == before + 1, Rule::EventsAreGapFree, Some(id), || {
            format!("event {sequence} of attempt {attempt} of execution {id} follows event {before}")
        })
    }

    /// The end of an attempt, by its worker.
    pub(super) fn told(&mut self, key: (ExecutionId, u32), last_sequence: u64) -> Result<(), Violation> {
        let (id, attempt) = key;
        self.left.remove(&key);
        let said = self.said.get(&key).copied().unwrap_or(0);
        ensure(said == last_sequence, Rule::EventsAreGapFree, Some(id), || {
            format!("attempt {attempt} of execution {id} said {said} events and counts {last_sequence}")
        })
    }

    /// A later process of the worker has taken over.
    pub(super) fn followed(&self, key: (ExecutionId, u32)) -> Result<(), Violation> {
        let (id, attempt) = key;
        ensure(!self.left.contains(&key), Rule::EndedIsTold, Some(id), || {
            format!("attempt {attempt} of execution {id} had ended, and the next process does not tell how")
        })
    }
}
