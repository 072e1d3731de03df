//! The subscribers of public events, as far as the broker shows them: it returns a mandatory message that no queue
//! takes.
//!
//! While nothing is bound to a key, its events are only noted, in a few bytes, and with the first event after a while
//! the broker is asked again. Once a queue is bound, all that was noted since the last question in vain is published: a
//! subscriber gets everything that happened after its binding. Pure: time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use slotline_store::{BatchKey, EventRange};
use tokio::time::Instant;

/// Between two questions while nothing is bound.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often one message is sent as a question while something is bound.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The most ranges that are noted for one key; beyond, the oldest go.
const MISSED_MAX: usize = 50_000;

/// The subscribers of one routing key.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Whether there are any; `None`: the broker has not been asked in this session.
    listens: Option<bool>,
    asked_at: Option<Instant>,
    missed: VecDeque<(BatchKey, EventRange)>,
}

impl Audience {
    /// Whether events must not be lost: there is a subscriber, or may be one.
    pub(super) fn may_listen(&self) -> bool {
        self.listens != Some(false)
    }

    pub(super) fn listens(&self) -> bool {
        self.listens == Some(true)
    }

    /// Notes an event that is not published, after those of earlier batches.
    pub(super) fn miss(&mut self, batch: BatchKey, range: EventRange) {
        if let Some((noted, last)) = self.missed.back_mut()
            && (*noted, last.id) == (batch, range.id)
        {
            last.last = range.last;
            return;
        }
        if self.missed.len() >= MISSED_MAX {
            self.missed.pop_front();
        }
        let is_late = self.missed.back().is_some_and(|(noted, _)| *noted > batch);
        self.missed.push_back((batch, range));
        if is_late {
            self.missed.make_contiguous().sort_by_key(|(batch, _)| *batch);
        }
    }

    /// When the broker is to be asked; `None` while no event is noted to ask with.
    pub(super) fn asks_at(&self, now: Instant) -> Option<Instant> {
        if self.listens() || self.missed.is_empty() {
            return None;
        }
        Some(self.asked_at.filter(|_| self.listens.is_some()).map_or(now, |asked| asked + ASK_EVERY))
    }

    /// The oldest noted event: the broker is asked with it.
    pub(super) fn oldest(&self) -> Option<EventRange> {
        self.missed.front().map(|(_, range)| *range)
    }

    /// The oldest noted event is not in the record any more.
    pub(super) fn skip_oldest(&mut self) {
        self.missed.pop_front();
    }

    /// The broker had no queue for the oldest event: all that was noted by then has no subscriber.
    pub(super) fn found_no_subscriber(&mut self, now: Instant) {
        self.missed.clear();
        (self.listens, self.asked_at) = (Some(false), Some(now));
    }

    /// The broker took an event.
    pub(super) fn found_subscriber(&mut self, now: Instant) {
        (self.listens, self.asked_at) = (Some(true), Some(now));
    }

    /// What was noted, by batch, and is to be published now: all but the event that the broker was asked with, which it
    /// has.
    pub(super) fn take_missed(&mut self, asked: EventRange, number: u64) -> BTreeMap<BatchKey, Vec<EventRange>> {
        let mut by_batch: BTreeMap<BatchKey, Vec<EventRange>> = BTreeMap::new();
        let mut is_found = false;
        for (batch, mut range) in std::mem::take(&mut self.missed) {
            if !is_found && (range.id, range.first) == (asked.id, asked.first) {
                (is_found, range.first) = (true, number + 1);
            }
            if range.first <= range.last {
                by_batch.entry(batch).or_default().push(range);
            }
        }
        by_batch
    }

    /// Whether the next message is to be a question.
    pub(super) fn checks(&mut self, now: Instant) -> bool {
        let is_due = self.listens() && self.asked_at.is_none_or(|asked| asked + CHECK_EVERY <= now);
        if is_due {
            self.asked_at = Some(now);
        }
        is_due
    }

    /// Takes the fate of a message that was a question.
    pub(super) fn checked(&mut self, is_taken: bool) {
        if self.listens() {
            self.listens = Some(is_taken);
        }
    }

    /// The session is over: bindings may have changed since. What was noted stays.
    pub(super) fn forget(&mut self) {
        self.listens = None;
    }

    /// The oldest batch of which something may still have to be published.
    pub(super) fn awaits(&self) -> Option<BatchKey> {
        self.missed.front().filter(|_| self.may_listen()).map(|(batch, _)| *batch)
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::{Epoch, ExecutionId};

    use super::*;

    fn batch(number: i64) -> BatchKey {
        BatchKey { epoch: Epoch(1), number }
    }

    fn range(id: i64, first: u64, last: u64) -> EventRange {
        EventRange { id: ExecutionId(id), first, last }
    }

    #[test]
    fn what_happened_since_the_last_vain_question_is_published_once_there_is_a_subscriber() {
        let (mut audience, now) = (Audience::default(), Instant::now());
        audience.miss(batch(1), range(1, 1, 1));
        assert_eq!(audience.asks_at(now), Some(now), "at once, while nothing is known");
        assert!(audience.may_listen());
        audience.found_no_subscriber(now);
        assert!(!audience.may_listen());
        assert_eq!(audience.asks_at(now), None, "there is nothing to ask with");
        audience.miss(batch(2), range(1, 2, 2));
        audience.miss(batch(2), range(1, 3, 3));
        audience.miss(batch(4), range(2, 2, 2));
        audience.miss(batch(3), range(2, 1, 1));
        assert_eq!(audience.asks_at(now), Some(now + ASK_EVERY));
        let oldest = audience.oldest().expect("it was noted");
        assert_eq!(oldest, range(1, 2, 3));
        audience.found_subscriber(now);
        let owed = [(2, range(1, 3, 3)), (3, range(2, 1, 1)), (4, range(2, 2, 2))];
        assert_eq!(audience.take_missed(oldest, 2), owed.map(|(number, range)| (batch(number), vec![range])).into());
        assert!(audience.listens());
    }

    #[test]
    fn a_message_a_second_asks_whether_a_subscriber_is_still_there() {
        let (mut audience, now) = (Audience::default(), Instant::now());
        audience.found_subscriber(now);
        assert!(!audience.checks(now));
        assert!(audience.checks(now + CHECK_EVERY) && !audience.checks(now + CHECK_EVERY));
        audience.checked(false);
        assert!(!audience.listens());
    }

    #[test]
    fn what_is_noted_without_a_subscriber_is_bounded() {
        let mut audience = Audience::default();
        for id in 0..60_000 {
            audience.miss(batch(1), range(id, 1, 1));
        }
        assert_eq!(audience.missed.len(), MISSED_MAX);
        assert_eq!(audience.oldest(), Some(range(10_000, 1, 1)));
    }
}
