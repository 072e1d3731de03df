//! An incarnation that is over: its last word, until it is known to have been heard.

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::message::{self, AttemptKey, EndReason};
use slotline_protocol::{Incarnation, Sizes, WorkerName};

use super::entry::{Entry, REPEAT_AFTER_MAX, Word};

/// What an attempt takes in a last word, at most, beside its result or error.
const ATTEMPT_BYTES: usize = 512;
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
    /// Heard, as far as can be known; kept a while for a leader that was not there to hear it.
    pub(super) forget_at: Option<Duration>,
    /// What was last said of it was all that there was.
    is_said: bool,
    /// Outcomes that were said last and are not known to be recorded.
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

    /// One of a process that is no more: all that it held is lost.
    pub(super) fn replaced(incarnation: Incarnation) -> Self {
        Self::new(incarnation, EndReason::Replaced, BTreeMap::new(), Vec::new())
    }

    /// One of a process that is no more, and that has left what had ended by then.
    pub(super) fn kept(ended: message::Ended) -> Self {
        let entries = ended.outcomes.into_iter().map(Entry::kept).collect();
        Self::new(ended.incarnation, ended.reason, BTreeMap::new(), entries)
    }

    /// Whether something ended that is not known to be recorded. What was handed back is recorded with the end itself.
    pub(super) fn owes(&self) -> bool {
        self.ended.iter().any(|entry| matches!(entry.word(), Some(Word::Completed(_))))
    }

    /// What is to be said of it now: all, or as much as an envelope holds and that more follows. The outcomes are said in the
    /// order of their grants, and what was not started last of all.
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
        // A single large one takes the room of those, too.
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

    /// These are recorded. Whether any of them was of this incarnation.
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
                // The next part of it, now.
                self.say_at = None;
            }
        }
        is_ours
    }

    /// The broker has what was said. That is not yet to be heard: with outcomes it is said until they are recorded.
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
