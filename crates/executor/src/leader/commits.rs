//! From what has gathered to a batch, and from its commit to what leaves.

use std::sync::Arc;

use slotline_protocol::Timestamp;
use slotline_protocol::record::Event;
use slotline_store::{Batch, Culprit, CulpritPart};

use super::after_commit::{AfterCommit, Deferred, Events};
use super::ask::{Answered, Asker, LeaderAnswer};
use super::change::refused_policy;
use super::heard::{SubscribedKeys, ranges_heard};
use super::letters::{Mail, Purpose};
use super::outbox::pack;
use super::{Commit, Handled, LAZY, Leader, LeaderAction};

impl<P> Leader<P> {
    /// Ends a turn: hands what has gathered to a commit, if something is due: at once if none is under way, behind that
    /// one if it is much. `heard`: which events the public may subscribe to.
    pub fn cut(&mut self, heard: SubscribedKeys, now: Timestamp) {
        let lazily_due = self.lazy_since.is_some_and(|since| since + LAZY <= now);
        let has_room = match self.under_way.len() {
            0 => true,
            1 => self.pending.inputs + self.pending.members >= self.settings.bounds.worth_a_batch,
            _ => false,
        };
        if self.is_over || !has_room || !(self.is_urgent || lazily_due) {
            return;
        }
        self.is_urgent = false;
        self.lazy_since = None;
        let (mut batch, mut letters, told) =
            pack(&mut self.scheduler, &mut self.record, &mut self.pending, &mut self.bodies, &mut self.awaited, now);
        (self.pending.inputs, self.pending.members) = (0, 0);
        if letters.wild > 0 {
            self.refuse("numbers that no journal can have come to", letters.wild);
        }
        batch.announced = ranges_heard(&told, heard);
        let mut after = AfterCommit {
            batch: self.batch + 1,
            next: self.scheduler.counters(),
            probe: letters.probe.then_some(now),
            answers: std::mem::take(&mut self.pending.answers),
            acks: std::mem::take(&mut self.acks),
            requests: self.requests.take(),
            session: self.session,
            audit: batch.audit.clone(),
            departed: std::mem::take(&mut letters.departed),
            grants: std::mem::take(&mut letters.grants),
            events: Events { batch: self.batch + 1, events: Arc::new(told), is_noted: !batch.announced.is_empty() },
        };
        let needs_no_commit = batch.is_empty() && !letters.has_orders() && letters.ended.is_empty();
        // What it says may rest on a batch that is under way.
        if needs_no_commit && self.under_way.is_empty() {
            (after.batch, after.events.batch) = (self.batch, self.batch);
            self.uncommitted = Some(after);
            self.out.push_back(LeaderAction::Encode(Box::new(letters)));
            return;
        }
        self.batch += 1;
        let batch = Batch { number: self.batch, ..batch };
        let takes_requests = after.requests.is_some();
        self.under_way.push_back(after);
        self.out.push_back(LeaderAction::Commit(Box::new(Commit { batch, letters, cut_at: now, takes_requests })));
    }

    /// What needed no commit is written.
    pub(super) fn encoded(&mut self, mail: Mail<P>, now: Timestamp) {
        if let Some(after) = self.uncommitted.take() {
            self.release(mail, after, now);
        }
    }

    pub(super) fn committed(&mut self, mail: Mail<P>, now: Timestamp) {
        let stands_down = self.is_over || self.evidence.is_some();
        let Some(after) = self.under_way.pop_front().filter(|_| !stands_down) else { return };
        self.note_committed(after.batch, after.next, now);
        self.release(mail, after, now);
    }

    /// Nothing of this batch leaves, nor of any behind it.
    pub(super) fn commit_failed(&mut self, refused: Option<(Box<Batch>, Vec<Culprit>)>, now: Timestamp) {
        let failed = self.under_way.pop_front();
        let was_over = std::mem::replace(&mut self.is_over, true);
        if let (Some(failed), Some((batch, culprits)), false) = (failed, refused, was_over) {
            self.quarantine.put(&batch, &failed.grants, &culprits, now);
            self.turn_down(failed.answers, &culprits);
        }
    }

    /// Answers the clients that put an action that the database refuses it. All other questions are asked again.
    fn turn_down(&mut self, answers: Vec<(Asker, Answered)>, culprits: &[Culprit]) {
        for (asker, answer) in answers {
            let ids: Vec<_> = match &answer {
                Ok(LeaderAnswer::Action { action, .. }) => vec![action.action_id],
                Ok(LeaderAnswer::Applied(applied)) => applied.iter().filter_map(|applied| applied.action_id).collect(),
                Ok(_) | Err(_) => continue,
            };
            let is_of = |culprit: &&Culprit| matches!(culprit.part, CulpritPart::Action(id) if ids.contains(&id));
            let Some(culprit) = culprits.iter().find(is_of) else { continue };
            self.out.push_back(LeaderAction::Answer(asker, Box::new(Err(refused_policy(&culprit.words)))));
        }
    }

    /// Lets out what a commit has made true.
    fn release(&mut self, mail: Mail<P>, after: AfterCommit, now: Timestamp) {
        let AfterCommit { probe, answers, acks, requests, session, audit, departed, events, .. } = after;
        if !events.events.is_empty() {
            self.out.push_back(LeaderAction::Show(events.events.clone()));
            self.send_news(&events.events, now);
        }
        if !(audit.is_empty() && departed.is_empty()) {
            self.out.push_back(LeaderAction::Note { audit, departed });
        }
        self.out.extend(answers.into_iter().map(|(asker, answer)| LeaderAction::Answer(asker, Box::new(answer))));
        // Numbers of orders rise along the queue of each worker.
        self.release_deferred();
        let has_orders = mail.publications.iter().any(|(_, purpose)| matches!(purpose, Purpose::Order(_)));
        self.publish(mail.publications, false);
        let (publications, dead) = (mail.later, mail.dead);
        self.deferred = Some(Deferred { publications, probe, acks, requests, dead, session, events });
        if !has_orders {
            self.release_deferred();
        }
    }

    /// Lets out what nothing waits for. While an order is on its way to the broker this stays behind, so that the broker
    /// has nothing else to do.
    pub(super) fn release_deferred(&mut self) {
        let Some(Deferred { publications, probe, acks, requests, dead, session, events }) = self.deferred.take() else {
            return;
        };
        self.publish(publications, true);
        self.announce(events);
        if self.session.is_none() {
            return;
        }
        if let Some(published_at) = probe {
            self.out.push_back(LeaderAction::Probe { published_at });
        }
        if session != self.session {
            // Those deliveries belong to a session that is over; they come again.
            return;
        }
        if !acks.is_empty() {
            self.out.push_back(LeaderAction::Ack(acks));
        }
        if requests.is_some() || !dead.is_empty() {
            self.unstored += dead.iter().map(|letter| letter.weight).sum::<usize>();
            self.out.push_back(LeaderAction::AckRequests(Handled { tag: requests, dead }));
        }
    }

    fn publish(&mut self, publications: Vec<(P, Purpose)>, is_deferred: bool) {
        if self.session.is_some() {
            self.out.push_back(LeaderAction::Publish { publications, is_deferred });
        }
    }

    /// Has the events published for subscribers, which waits for all else.
    pub(super) fn announce(&mut self, Events { batch, events, is_noted }: Events) {
        if !events.is_empty() {
            self.out.push_back(LeaderAction::Announce { batch, events, is_noted });
        }
    }

    /// Sends committed events to the executors whose clients watch.
    fn send_news(&mut self, events: &[Arc<Event>], now: Timestamp) {
        if self.session.is_some() {
            let news = self.followers.news(events, now).into_iter();
            self.out.extend(news.map(|(queue, events)| LeaderAction::SendNews { queue, events }));
        }
    }
}
