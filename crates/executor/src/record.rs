//! The record: gives everything that happens to an execution its number, and decides which of it is written.
//!
//! Workers number the events of one attempt; they come over a queue of their own, may be lost with it, and are resent.
//! What the leader decides comes straight from the scheduler. One [`Tale`] for each execution with an attempt out joins
//! both into one order. An execution whose events all follow from its row has no written events
//! (`slotline_store::plain`).
//!
//! Pure: time is an argument, and nothing leaves before the commit that [`Record::take`] feeds.

mod attempt;
mod plain;
mod tale;
#[cfg(test)]
mod tests;
mod word;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::record::Event;
use slotline_protocol::{ActionRef, ExecutionId, Incarnation, Status, Timestamp};
use slotline_scheduler::{Announcement, AttemptEnded, Input, Scheduler, Settled, Snapshot};
use slotline_store::OpenStory;

use tale::Tale;
use word::EARLY_MAX;
pub(crate) use word::Out;
pub use word::{AttemptEvent, AttemptEventKind, End, MissingEvents};

#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Events of one execution that are kept.
    kept: u64,
    tales: BTreeMap<ExecutionId, Tale>,
    /// Reports of attempts that were sent ahead of their slots: they are recorded once the slot is theirs.
    early: BTreeMap<ExecutionId, Vec<AttemptEvent>>,
    due: BTreeSet<(Timestamp, ExecutionId)>,
    out: Out,
    /// How many of the scheduler's announcements, endings, and ends of attempts were taken since its effects were
    /// taken.
    taken: (usize, usize, usize),
}

impl Record {
    pub(crate) fn new(kept: u64) -> Self {
        let (tales, early, due) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { kept, tales, early, due, out: Out::default(), taken: (0, 0, 0) }
    }

    /// Resumes from the journal.
    pub(crate) fn recover(
        kept: u64,
        stories: Vec<OpenStory>,
        live: &[Snapshot],
        action_ref: impl Fn(&Snapshot) -> Option<ActionRef>,
        now: Timestamp,
    ) -> Self {
        let mut record = Self::new(kept);
        let mut stories: BTreeMap<ExecutionId, OpenStory> =
            stories.into_iter().map(|open| (open.story.id, open)).collect();
        for snapshot in live {
            let open = stories.remove(&snapshot.id);
            if open.is_none() && snapshot.leased().is_none() {
                continue;
            }
            let Some(action_ref) = action_ref(snapshot) else { continue };
            let tale = match open {
                Some(open) => Tale::reopened(action_ref, open, snapshot, &mut record.out),
                None => Tale::of_row(action_ref, snapshot),
            };
            record.tales.insert(snapshot.id, tale);
        }
        // What is left has settled, and its last events are awaited.
        for (id, open) in stories {
            if let Some(tale) = Tale::unfinished(open, now, &mut record.out) {
                record.tales.insert(id, tale);
            }
        }
        record.set_timers();
        record
    }

    /// The incarnation whose reports of this attempt are awaited.
    pub(crate) fn teller_of(&self, (id, attempt): AttemptKey) -> Option<Incarnation> {
        self.tales.get(&id)?.teller_of(attempt)
    }

    /// Takes a worker's report. Returns the scheduler's input that follows from it.
    pub(crate) fn heard(&mut self, word: AttemptEvent, now: Timestamp) -> Option<Input> {
        let id = word.key.0;
        let input = self.tales.get_mut(&id)?.heard(word, now, &mut self.out);
        self.tidy(id);
        input
    }

    /// Takes a worker's report of an attempt that has no slot yet as far as is known: the report overtook the end of
    /// the attempt before.
    pub(crate) fn heard_early(&mut self, word: AttemptEvent) {
        let words = self.early.entry(word.key.0).or_default();
        if words.len() < EARLY_MAX {
            words.push(word);
        }
    }

    /// Notes how an attempt ended. To be called before the scheduler gets the end.
    pub(crate) fn ended(&mut self, end: End) {
        if let Some(tale) = self.tales.get_mut(&end.key.0) {
            tale.ended(end);
        }
    }

    /// Takes what the scheduler decided since the last call. To be called after every input, before its effects are
    /// taken.
    pub(crate) fn follow(&mut self, scheduler: &Scheduler, now: Timestamp) {
        let effects = scheduler.effects();
        let (announced, mut settled, mut ended) = self.taken;
        for announcement in &effects.announcements[announced..] {
            let end = if announcement.to.is_terminal() {
                settled += 1;
                effects.settled.get(settled - 1)
            } else {
                None
            };
            let attempt = effects.attempts.get(ended).filter(|_| announcement.to == Status::Queued);
            if let Some(attempt) = attempt
                && (attempt.id, attempt.attempt) == (announcement.id, announcement.attempt)
            {
                ended += 1;
                self.attempt_ended(attempt, announcement.counts_as);
            }
            self.moved(announcement, end, scheduler, now);
        }
        self.taken = (effects.announcements.len(), settled, ended);
    }

    /// Adds the attempt's newest reports to its error.
    fn attempt_ended(&mut self, attempt: &AttemptEnded, counts_as: u32) {
        let (Some(error), Some(tale)) = (&attempt.error, self.tales.get(&attempt.id)) else { return };
        let told = tale.tell_of_attempt(error.clone(), attempt.attempt, counts_as);
        if told != *error {
            self.out.attempt_errors.insert((attempt.id, attempt.attempt), told);
        }
    }

    fn moved(&mut self, announcement: &Announcement, end: Option<&Settled>, scheduler: &Scheduler, now: Timestamp) {
        let id = announcement.id;
        if announcement.from == Status::Requested {
            // It waits, and its row shows that: nothing to keep for it.
            return Tale::new(announcement.action_ref.clone(), id).queued(announcement.at, &mut self.out);
        }
        // A settled execution has no snapshot any more.
        let snapshot = if end.is_none() { scheduler.snapshot(id) } else { None };
        let tale = self.tales.entry(id).or_insert_with(|| {
            let enqueued_at = snapshot.as_ref().map_or(announcement.at, |snapshot| snapshot.enqueued_at);
            let mut tale = Tale::new(announcement.action_ref.clone(), id);
            // That event was recorded when the execution came.
            tale.queued(enqueued_at, &mut Out::default());
            tale
        });
        tale.moved(announcement, end, snapshot.and_then(|snapshot| snapshot.lease), now, &mut self.out);
        for word in self.early.remove(&id).unwrap_or_default() {
            tale.heard(word, now, &mut self.out);
        }
        self.tidy(id);
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Has missing events resent, or gives them up.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some((_, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            if let Some(tale) = self.tales.get_mut(&id) {
                tale.look(now, &mut self.out);
            }
            self.tidy(id);
        }
    }

    /// Events may have been lost on their way: has every worker resend what follows its last event.
    pub(crate) fn ask_all(&mut self) {
        self.out.missing.extend(self.tales.values().filter_map(Tale::rest));
    }

    /// Whether something waits to be written, or to be resent.
    pub(crate) fn has_news(&self) -> bool {
        !self.out.events.is_empty() || !self.out.touched.is_empty() || !self.out.missing.is_empty()
    }

    /// The events that wait for subscribers.
    pub(crate) fn told(&self) -> &[Arc<Event>] {
        &self.out.told
    }

    /// All that is to be written and sent. To be called when the scheduler's effects are taken.
    pub(crate) fn take(&mut self) -> Out {
        self.taken = (0, 0, 0);
        let mut out = std::mem::take(&mut self.out);
        for id in std::mem::take(&mut out.touched) {
            if let Some(tale) = self.tales.get_mut(&id) {
                out.stories.insert(id, tale.story(self.kept));
            }
        }
        out
    }

    /// Brings timers in line with a tale that changed, and drops a tale that is over.
    fn tidy(&mut self, id: ExecutionId) {
        self.set_timers();
        if let Some(tale) = self.tales.get_mut(&id)
            && tale.is_over()
        {
            if tale.is_written() {
                self.out.stories.insert(id, tale.story(self.kept));
            }
            self.out.touched.remove(&id);
            self.tales.remove(&id);
        }
    }

    fn set_timers(&mut self) {
        for (before, after, id) in self.out.timers.drain(..) {
            if let Some(before) = before {
                self.due.remove(&(before, id));
            }
            if let Some(after) = after {
                self.due.insert((after, id));
            }
        }
    }
}
