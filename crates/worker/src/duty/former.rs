//! An incarnation that is over: its farewell, until it is known to have been read.

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::message::{self, AttemptKey, EndReason};
use slotline_protocol::{Incarnation, Sizes, WorkerName};

use super::entry::{Entry, FinalReport, REPEAT_AFTER_MAX};

/// What an attempt takes in a farewell, at most, beside its result or error.
const ATTEMPT_BYTES: usize = 512;
/// A farewell that the broker does not confirm is sent this often.
pub(super) const SAY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is left of an incarnation that is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Former {
    pub(super) incarnation: Incarnation,
    pub(super) reason: EndReason,
    /// Attempts that go on although they are isolated, as their action allows. While one does, "nothing of it runs"
    /// would be a lie, so the farewell waits.
    pub(super) isolated: BTreeMap<AttemptKey, Entry>,
    /// What ended before and is not known to be recorded, in the order of the grants: in a chain the executor takes no
    /// end of an attempt before that of its predecessor.
    pub(super) ended: Vec<Entry>,
    pub(super) say_at: Option<Duration>,
    /// Set once the farewell was read, as far as can be known: until then it is kept for a leader that was not there.
    pub(super) forget_at: Option<Duration>,
    /// The last farewell that was sent held all that there was.
    is_said: bool,
    /// Outcomes of the last farewell that are not known to be recorded.
    waits_for: usize,
}

impl Former {
    pub(super) fn new(
        incarnation: Incarnation,
        reason: EndReason,
        isolated: BTreeMap<AttemptKey, Entry>,
        ended: Vec<Entry>,
    ) -> Self {
        Self { incarnation, reason, isolated, ended, say_at: None, forget_at: None, is_said: false, waits_for: 0 }
    }

    /// An incarnation of an earlier process: all that it held is lost.
    pub(super) fn replaced(incarnation: Incarnation) -> Self {
        Self::new(incarnation, EndReason::Replaced, BTreeMap::new(), Vec::new())
    }

    /// An incarnation of an earlier process that has left what had ended by then.
    pub(super) fn kept(ended: message::Ended) -> Self {
        let entries = ended.outcomes.into_iter().map(Entry::kept).collect();
        Self::new(ended.incarnation, ended.reason, BTreeMap::new(), entries)
    }

    /// Whether an outcome is not known to be recorded. What was handed back is recorded with the farewell itself.
    pub(super) fn owes(&self) -> bool {
        self.ended.iter().any(|entry| matches!(entry.word(), Some(FinalReport::Completed(_))))
    }

    /// The farewell to be sent now: all, or as much as an envelope holds and `has_more`. Outcomes come in the order of
    /// their grants, and what was not started last of all.
    pub(super) fn last_word(&mut self, worker: &WorkerName, told_by: Incarnation, sizes: Sizes) -> message::Ended {
        let most = sizes.last_word();
        let mut outcomes = Vec::new();
        let (mut bytes, mut has_more) = (0, false);
        for completed in self.outcomes(worker) {
            bytes += size(&completed);
            if bytes > most && !outcomes.is_empty() {
                has_more = true;
                break;
            }
            outcomes.push(completed);
        }
        // A single large outcome takes the room of what was handed back, too.
        has_more |= bytes > most && self.returned(worker).next().is_some();
        let returned = if has_more { Vec::new() } else { self.returned(worker).take(most / ATTEMPT_BYTES).collect() };
        self.is_said = !has_more;
        self.waits_for = outcomes.len();
        message::Ended {
            worker: worker.clone(),
            incarnation: self.incarnation,
            reason: self.reason,
            outcomes,
            returned,
            told_by: (told_by != self.incarnation).then_some(told_by),
            has_more,
        }
    }

    /// What must outlive this process: every outcome that is not known to be recorded.
    pub(super) fn legacy(&self, worker: &WorkerName) -> Option<message::Ended> {
        self.owes().then(|| message::Ended {
            worker: worker.clone(),
            incarnation: self.incarnation,
            reason: self.reason,
            outcomes: self.outcomes(worker).collect(),
            returned: Vec::new(),
            told_by: None,
            has_more: false,
        })
    }

    /// The outcome of this attempt is recorded. Returns whether it was one of this incarnation.
    pub(super) fn recorded(&mut self, key: AttemptKey, forget_at: Duration) -> bool {
        let before = self.ended.len();
        self.ended.retain(|entry| entry.task.key != key);
        let is_ours = self.ended.len() < before;
        if is_ours {
            self.waits_for = self.waits_for.saturating_sub(1);
            if self.is_said && !self.owes() {
                self.say_at = None;
                self.forget_at.get_or_insert(forget_at);
            } else if !self.is_said && self.waits_for == 0 {
                // The next part is due now.
                self.say_at = None;
            }
        }
        is_ours
    }

    /// The broker has the farewell. That does not mean that it was read: with outcomes it is sent until they are
    /// recorded.
    pub(super) fn confirmed(&mut self, now: Duration, forget_at: Duration) {
        if self.owes() {
            self.say_at = Some(now + REPEAT_AFTER_MAX);
        } else if self.is_said {
            self.say_at = None;
            self.forget_at.get_or_insert(forget_at);
        }
    }

    fn outcomes<'a>(&'a self, worker: &'a WorkerName) -> impl Iterator<Item = message::Completed> + 'a {
        self.ended.iter().filter_map(|entry| entry.completed(worker, self.incarnation))
    }

    fn returned<'a>(&'a self, worker: &'a WorkerName) -> impl Iterator<Item = message::Returned> + 'a {
        self.ended.iter().filter_map(|entry| entry.returned(worker, self.incarnation))
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
