//! An incarnation that is over: its last word, until it is known to have been heard.

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::envelope::ENVELOPE_BYTES_MAX;
use slotline_protocol::message::{self, AttemptKey, EndReason};
use slotline_protocol::{Incarnation, WorkerName};

use super::entry::Entry;

/// The most bytes of outcomes that a last word carries: it is one envelope.
const OUTCOMES_BYTES_MAX: usize = ENVELOPE_BYTES_MAX / 2;
/// What an attempt takes in a last word, at most, beside its result or error.
const ATTEMPT_BYTES: usize = 512;
/// The most attempts that a last word hands back; they take the other half of it.
const RETURNED_MAX: usize = ENVELOPE_BYTES_MAX / 2 / ATTEMPT_BYTES;
/// Until the broker confirms a last word, it is said this often.
pub(super) const SAY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is left of an incarnation that is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Former {
    pub(super) incarnation: Incarnation,
    pub(super) reason: EndReason,
    /// Attempts that go on although they are isolated, because their action said so. While one does, "nothing of it
    /// runs" would be a lie, so the last word waits.
    pub(super) isolated: BTreeMap<AttemptKey, Entry>,
    /// What ended before and is not known to be recorded, in the order of the grants: of a chain nobody takes the end of
    /// one whose predecessor has not ended.
    pub(super) ended: Vec<Entry>,
    pub(super) say_at: Option<Duration>,
    /// Confirmed by the broker; kept a while for a leader that was not there to hear it.
    pub(super) forget_at: Option<Duration>,
}

impl Former {
    /// One of a process that is no more: all that it held is lost.
    pub(super) fn replaced(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            reason: EndReason::Replaced,
            isolated: BTreeMap::new(),
            ended: Vec::new(),
            say_at: None,
            forget_at: None,
        }
    }

    /// Its last word. What is past the size of an envelope is left out, and so counts as lost: the largest outcomes, and
    /// of what was not started the last.
    pub(super) fn last_word(&self, worker: &WorkerName) -> message::Ended {
        let mut outcomes: Vec<_> =
            self.ended.iter().filter_map(|entry| entry.completed(worker, self.incarnation)).collect();
        let mut bytes: usize = outcomes.iter().map(size).sum();
        while bytes > OUTCOMES_BYTES_MAX {
            let Some((index, largest)) = outcomes.iter().map(size).enumerate().max_by_key(|(_, size)| *size) else {
                break;
            };
            bytes -= largest;
            outcomes.remove(index);
        }
        message::Ended {
            worker: worker.clone(),
            incarnation: self.incarnation,
            reason: self.reason,
            outcomes,
            returned: self
                .ended
                .iter()
                .filter_map(|entry| entry.returned(worker, self.incarnation))
                .take(RETURNED_MAX)
                .collect(),
        }
    }

    pub(super) fn next_alarm(&self) -> Option<Duration> {
        [self.say_at, self.forget_at].into_iter().flatten().min()
    }
}

fn size(completed: &message::Completed) -> usize {
    let error = completed.error.as_ref().map_or(0, |error| {
        error.message.len()
            + error.stack_trace.as_ref().map_or(0, String::len)
            + error.details.as_ref().map_or(0, |details| details.to_string().len())
    });
    ATTEMPT_BYTES + error + completed.result.as_ref().map_or(0, |result| result.get().len())
}
