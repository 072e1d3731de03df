//! Attempts that were taken from and may wait: an attempt that reports in a flood costs one look a millisecond.
//!
//! A look at reports holds the lock of the book, and so delays an ending and the start of the next of its line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::feed::AttemptFeed;

/// Between two looks at what one attempt reports.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Each attempt is here once at most: it announces itself once until it is looked at.
#[derive(Default)]
pub(crate) struct Rest(VecDeque<(Duration, Arc<AttemptFeed>)>);

impl Rest {
    /// Returns the feed of an attempt if it may be looked at now, and keeps it until then if not.
    pub(crate) fn admit(&mut self, feed: Arc<AttemptFeed>, now: Duration) -> Option<Arc<AttemptFeed>> {
        match feed.looked_at() {
            Some(before) if now < before + LOOK_EVERY => {
                self.0.push_back((before + LOOK_EVERY, feed));
                None
            }
            Some(_) | None => Some(feed),
        }
    }

    /// When a feed in here is due. A feed that is added later may be due a little sooner; it then waits until this
    /// moment.
    pub(crate) fn due_at(&self) -> Option<Duration> {
        self.0.front().map(|(at, _)| *at)
    }

    /// The next feed that is due.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Arc<AttemptFeed>> {
        self.0.pop_front_if(|(at, _)| *at <= now).map(|(_, feed)| feed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duty::{Ending, Shortage};
    use crate::report::feed::Listener;
    use slotline_protocol::ExecutionId;

    struct Nobody;

    impl Listener for Nobody {
        fn ended(&self, _: &AttemptFeed, _: Ending) {}
        fn unstarted(&self, _: &AttemptFeed, _: Shortage) {}
    }

    fn feed(id: i64) -> Arc<AttemptFeed> {
        let (announcements, _) = tokio::sync::mpsc::unbounded_channel();
        AttemptFeed::new((ExecutionId(id), 1), Arc::default(), Arc::new(Nobody), announcements)
    }

    #[test]
    fn who_was_just_looked_at_waits_a_millisecond_and_is_not_forgotten() {
        let (mut rest, feed, now) = (Rest::default(), feed(1), Duration::from_secs(1));
        assert!(rest.admit(feed.clone(), now).is_some(), "the first time at once");
        feed.note_look(now);
        let soon = now + LOOK_EVERY / 2;
        assert!(rest.admit(feed.clone(), soon).is_none());
        assert_eq!(rest.due_at(), Some(now + LOOK_EVERY));
        assert!(rest.next(soon).is_none());
        assert!(rest.next(now + LOOK_EVERY).is_some() && rest.due_at().is_none());
        assert!(rest.admit(feed, now + LOOK_EVERY).is_some());
    }
}
