//! The events that were sent of each attempt, kept for a while in case they did not arrive.
//!
//! Bounded three ways: events and bytes of one attempt, and bytes of all. When there is no room, attempts that are over
//! go first, longest ago first. Not here: why an event is asked for again (the executor's), and when it is sent (`outbox`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use slotline_protocol::message::AttemptKey;

/// The newest events of one attempt that are kept.
const ATTEMPT_EVENTS_MAX: usize = 1_000;
/// The most bytes of one attempt's events; the newest is kept whatever its size.
const ATTEMPT_BYTES_MAX: usize = 1 << 20;
/// The most bytes of all attempts together.
const BYTES_MAX: usize = 32 << 20;
/// What an attempt and each of its events cost beside their text.
const OVERHEAD_BYTES: usize = 160;

/// What goes first when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Weight {
    Plain,
    Output,
    News,
}

/// An event as it was sent.
#[derive(Clone, Debug, Hash)]
pub(super) struct ArchivedEvent {
    pub(super) weight: Weight,
    pub(super) routing_key: &'static str,
    /// As it is sent.
    pub(super) envelope: Bytes,
}

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Archive {
    attempts: BTreeMap<AttemptKey, AttemptEvents>,
    /// The attempts that go first when there is no room: those that are over, then those that are not; each by how long they are.
    order: BTreeSet<(bool, u64, AttemptKey)>,
    bytes: usize,
    /// Counts beginnings and ends.
    moments: u64,
}

#[derive(Clone, Debug, Hash)]
struct AttemptEvents {
    /// The number of the oldest event that is there; the others follow without a gap.
    first: u64,
    events: VecDeque<ArchivedEvent>,
    bytes: usize,
    is_live: bool,
    /// The moment of its end, or of its beginning while it lives.
    since: u64,
}

/// What there is of a range of numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// The first number that can't be had any more, and how many.
    pub(super) before: Option<(u64, u64)>,
    pub(super) events: Vec<ArchivedEvent>,
    /// The same for numbers past all that are there.
    pub(super) after: Option<(u64, u64)>,
}

impl Archive {
    /// Keeps the next event of an attempt.
    pub(super) fn keep(&mut self, key: AttemptKey, sequence: u64, event: ArchivedEvent) {
        let attempt = self.attempts.entry(key).or_insert_with(|| {
            self.moments += 1;
            self.order.insert((true, self.moments, key));
            AttemptEvents { first: sequence, events: VecDeque::new(), bytes: 0, is_live: true, since: self.moments }
        });
        self.bytes -= attempt.bytes;
        attempt.put(sequence, event);
        self.bytes += attempt.bytes;
        while self.bytes > BYTES_MAX && self.order.len() > 1 {
            let Some((_, _, oldest)) = self.order.pop_first() else { break };
            self.bytes -= self.attempts.remove(&oldest).map_or(0, |attempt| attempt.bytes);
        }
    }

    /// The attempt is over: nothing is added to it any more.
    pub(super) fn close(&mut self, key: AttemptKey) {
        if let Some(attempt) = self.attempts.get_mut(&key)
            && self.order.remove(&(attempt.is_live, attempt.since, key))
        {
            self.moments += 1;
            (attempt.is_live, attempt.since) = (false, self.moments);
            self.order.insert((false, self.moments, key));
        }
    }

    /// What there is of the numbers from `first` to `last`, or of all from `first` on.
    pub(super) fn range(&self, key: AttemptKey, first: u64, last: Option<u64>) -> Range {
        let first = first.max(1);
        let numbers = |from: u64, to: u64| (from <= to).then(|| (from, to - from + 1));
        let Some(attempt) = self.attempts.get(&key) else {
            return Range { before: last.and_then(|last| numbers(first, last)), ..Range::default() };
        };
        let newest = attempt.first + attempt.events.len() as u64 - 1;
        let to = last.unwrap_or(newest);
        let index = |sequence: u64| usize::try_from(sequence.saturating_sub(attempt.first)).unwrap_or(usize::MAX);
        let (start, end) = (index(first), index(to.saturating_add(1)).min(attempt.events.len()));
        Range {
            before: numbers(first, to.min(attempt.first - 1)),
            events: if start < end { attempt.events.range(start..end).cloned().collect() } else { Vec::new() },
            // Of an attempt that goes on they are yet to come.
            after: if attempt.is_live { None } else { numbers(first.max(newest + 1), to) },
        }
    }
}

impl AttemptEvents {
    fn put(&mut self, sequence: u64, event: ArchivedEvent) {
        if sequence != self.first + self.events.len() as u64 {
            // Numbered anew: what was kept before does not belong to it any more.
            self.events.clear();
            (self.first, self.bytes) = (sequence, 0);
        }
        self.bytes += size(&event);
        self.events.push_back(event);
        while self.events.len() > ATTEMPT_EVENTS_MAX || (self.bytes > ATTEMPT_BYTES_MAX && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.first += 1;
        }
    }
}

fn size(event: &ArchivedEvent) -> usize {
    event.envelope.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotline_protocol::ExecutionId;

    fn key(id: i64) -> AttemptKey {
        (ExecutionId(id), 1)
    }

    fn kept(text: &str) -> ArchivedEvent {
        let envelope = Bytes::copy_from_slice(text.as_bytes());
        ArchivedEvent { weight: Weight::News, routing_key: "execution.progress", envelope }
    }

    fn keep(archive: &mut Archive, id: i64, sequence: u64, text: &str) {
        archive.keep(key(id), sequence, kept(text));
    }

    /// An attempt that has said so much.
    fn with_events(last: u64) -> Archive {
        let mut archive = Archive::default();
        for sequence in 1..=last {
            keep(&mut archive, 1, sequence, &sequence.to_string());
        }
        archive
    }

    fn texts(found: &Range) -> Vec<&str> {
        found.events.iter().map(|kept| std::str::from_utf8(&kept.envelope).expect("text")).collect()
    }

    #[test]
    fn a_range_is_there_as_it_was_said() {
        let archive = with_events(5);
        let found = archive.range(key(1), 2, Some(4));
        assert_eq!((texts(&found), found.before, found.after), (vec!["2", "3", "4"], None, None));
        assert_eq!(texts(&archive.range(key(1), 4, None)), ["4", "5"]);
        assert!(texts(&archive.range(key(1), 4, Some(3))).is_empty());
    }

    #[test]
    fn what_is_older_than_the_newest_thousand_is_one_gap() {
        let most = ATTEMPT_EVENTS_MAX as u64;
        let archive = with_events(most);
        assert_eq!(archive.range(key(1), 1, None).before, None, "at the bound all are there");
        let archive = with_events(most + 3);
        let found = archive.range(key(1), 1, Some(5));
        assert_eq!((found.before, texts(&found)), (Some((1, 3)), vec!["4", "5"]));
        assert_eq!(archive.range(key(1), 2, Some(3)).before, Some((2, 2)), "nothing of it is there");
        assert_eq!(archive.range(key(1), 2, None).before, Some((2, 2)));
    }

    #[test]
    fn numbers_past_the_last_are_lost_once_the_attempt_is_over_and_yet_to_come_before() {
        let mut archive = with_events(5);
        assert_eq!(archive.range(key(1), 4, Some(9)).after, None);
        archive.close(key(1));
        assert_eq!(archive.range(key(1), 4, Some(9)).after, Some((6, 4)));
        assert_eq!(archive.range(key(1), 8, Some(9)).after, Some((8, 2)));
    }

    #[test]
    fn of_an_attempt_nobody_knows_a_range_is_one_gap_and_an_open_one_is_nothing() {
        let archive = Archive::default();
        assert_eq!(archive.range(key(7), 3, Some(9)).before, Some((3, 7)));
        assert_eq!(archive.range(key(7), 3, None).before, None);
    }

    #[test]
    fn one_attempt_keeps_its_newest_megabyte() {
        let mut archive = Archive::default();
        let text = "x".repeat(ATTEMPT_BYTES_MAX / 4 - OVERHEAD_BYTES);
        for sequence in 1..=4 {
            keep(&mut archive, 1, sequence, &text);
        }
        assert_eq!(archive.range(key(1), 1, None).events.len(), 4, "at the bound all are there");
        keep(&mut archive, 1, 5, "");
        let found = archive.range(key(1), 1, None);
        assert_eq!((found.before, found.events.len()), (Some((1, 1)), 4));
    }

    #[test]
    fn when_there_is_no_room_attempts_that_are_over_go_first_longest_ago_first() {
        let mut archive = Archive::default();
        let text = "x".repeat(ATTEMPT_BYTES_MAX - OVERHEAD_BYTES);
        let fit = i64::try_from(BYTES_MAX / ATTEMPT_BYTES_MAX).expect("small");
        for id in 1..=fit {
            keep(&mut archive, id, 1, &text);
        }
        archive.close(key(3));
        archive.close(key(2));
        let is_there = |archive: &Archive, id: i64| archive.attempts.contains_key(&key(id));
        assert!((1..=fit).all(|id| is_there(&archive, id)), "at the bound all are there");
        keep(&mut archive, fit + 1, 1, &text);
        assert!(!is_there(&archive, 3) && is_there(&archive, 2));
        keep(&mut archive, fit + 2, 1, &text);
        assert!(!is_there(&archive, 2) && is_there(&archive, 1));
        keep(&mut archive, fit + 3, 1, &text);
        assert!(!is_there(&archive, 1), "then those that run");
        assert!(archive.bytes <= BYTES_MAX);
    }
}
