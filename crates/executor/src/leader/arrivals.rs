//! What comes in, but for requests: reports of workers, probes, questions and the passing of time.

use slotline_protocol::message::{self, Message};
use slotline_protocol::{Incarnation, Sizes, Timestamp};
use slotline_scheduler::Input;

use super::ask::{Ask, Asker, LeaderAnswer, Question};
use super::item::{Arrival, Item};
use super::lookout::News;
use super::rivals::{RefusedWorker, Sign};
use super::{Leader, LeaderAction, STRANGERS_MAX};
use crate::record::{AttemptEvent, AttemptEventKind, End};

impl<P> Leader<P> {
    pub(super) fn apply(&mut self, input: Input, now: Timestamp) {
        if matches!(input, Input::Started { .. }) {
            // A start needs no commit of its own; what follows it takes it along.
            self.lazy_since.get_or_insert(now);
        } else {
            self.is_urgent = true;
        }
        let heard = match &input {
            Input::Heartbeat(heartbeat) => Some(Sign::of(heartbeat)),
            _ => None,
        };
        let is_probe = matches!(input, Input::Probed { .. });
        self.scheduler.handle(input, now);
        self.record.follow(&self.scheduler, now);
        self.weigh_evidence(now);
        // Every few seconds, and with every heartbeat: never with what an execution brings.
        if let Some(sign) = heard {
            self.lookout.heard(&self.scheduler, &sign, now).iter().for_each(News::log);
            self.look_for_rivals(sign, now);
        } else if is_probe {
            self.lookout.look(&self.scheduler, now).iter().for_each(News::log);
        }
    }

    /// Looks for a live worker of the same name. A worker that is over is greeted as lost anyway.
    fn look_for_rivals(&mut self, sign: Sign, now: Timestamp) {
        let Some(name) = self.scheduler.name_of(sign.incarnation) else { return };
        let patience = self.settings.heartbeat;
        for RefusedWorker { incarnation, reason } in self.pending.rivals.heard(name, sign, self.epoch, now, patience) {
            tracing::warn!(worker.name = %name, worker.incarnation = %incarnation, reason, "a second worker of one name is refused");
        }
    }

    pub(super) fn tick(&mut self, now: Timestamp) {
        self.leave_mark_if_due(now);
        self.quarantine.forget(now);
        if let Err(refused) = self.desk(now).end_overrides() {
            tracing::error!(%refused, "the override of a limit can't be ended");
        }
        self.record.tick(now);
        self.apply(Input::Ticked, now);
    }

    pub(super) fn session_opened(&mut self, session: u64, sizes: Sizes, now: Timestamp) {
        self.session = Some(session);
        self.scheduler.bound_held(sizes.entries());
        self.unstored = 0;
        self.apply(Input::SessionOpened, now);
        // Whatever was on its way went with the session before, or with the leader before.
        self.record.ask_all();
    }

    /// What was delivered in it comes again, and what has not left of it never will.
    pub(super) fn session_closed(&mut self) {
        self.session = None;
        if let Some(deferred) = self.deferred.take() {
            self.announce(deferred.events);
        }
        self.acks.clear();
        self.requests = None;
    }

    pub(super) fn arrive(&mut self, arrival: Arrival, now: Timestamp) {
        self.pending.inputs += arrival.weight();
        self.acks.push((arrival.from, arrival.tag));
        for question in arrival.questions {
            self.answer(question, now);
        }
        for item in arrival.items {
            let dated = self.skews.dated(item, &self.scheduler, now);
            let cleansed = self.quarantine.cleanse(dated, now);
            self.take(cleansed, now);
        }
        let is_followed = !self.followers.are_none()
            && self.record.told().iter().any(|event| self.followers.want(event.execution_id));
        self.is_urgent = self.is_urgent || self.record.has_news() || is_followed;
        // The acks go out with a commit, soon.
        self.lazy_since.get_or_insert(now);
    }

    fn take(&mut self, item: Item, now: Timestamp) {
        match item {
            Item::Input(input) => self.apply(input, now),
            Item::Event(word) => self.hear(word, now),
            Item::Ended(end, input) => {
                let of = match &input {
                    Input::Completed { incarnation, .. } | Input::Returned { incarnation, .. } => Some(*incarnation),
                    _ => None,
                };
                if of.is_some_and(|of| self.is_anothers(&end, of)) {
                    return self.refuse("the end of another worker's attempt", 1);
                }
                self.record.ended(end);
                self.apply(input, now);
            }
            Item::Parting { teller, worker, incarnation, items } => {
                // An incarnation ends by its own word or by that of a later one of its worker.
                let name_of = |incarnation| self.scheduler.name_of(incarnation);
                let is_its_own = teller == incarnation || name_of(teller) == Some(&worker);
                if !is_its_own || name_of(incarnation).is_some_and(|known| *known != worker) {
                    return self.refuse(message::Ended::TYPE, 1);
                }
                for item in items {
                    match item {
                        Item::Ended(end, _) if self.is_anothers(&end, incarnation) => {
                            self.refuse(message::Ended::TYPE, 1);
                        }
                        Item::Ended(end, input) => {
                            self.record.ended(end);
                            self.apply(input, now);
                        }
                        item => self.take(item, now),
                    }
                }
            }
            Item::Stranger { incarnation, nonce } => {
                if self.pending.strangers.len() < STRANGERS_MAX {
                    // By nonce as well: what a liar says in a worker's name must not take the place of its own word.
                    self.pending.strangers.insert((incarnation, nonce));
                    self.is_urgent = true;
                }
            }
        }
    }

    /// Takes what a worker reports of an attempt.
    fn hear(&mut self, word: AttemptEvent, now: Timestamp) {
        let ahead = self.scheduler.fence_ahead(word.key);
        let teller = match ahead {
            Some(fence) => self.scheduler.holder_of(word.key, fence),
            None => self.record.teller_of(word.key),
        };
        if teller.is_some_and(|teller| teller != word.by) {
            return self.refuse("a word on another worker's attempt", 1);
        }
        if let Some(fence) = ahead {
            let (key, started_at, has_started) = (word.key, word.at, matches!(word.said, AttemptEventKind::Started));
            self.record.heard_early(word);
            if has_started {
                self.apply(Input::Started { key, fence, started_at }, now);
            }
            return;
        }
        if let Some(input) = self.record.heard(word, now) {
            self.apply(input, now);
        }
    }

    /// Whether the attempt is held by another incarnation than this one.
    fn is_anothers(&self, end: &End, of: Incarnation) -> bool {
        self.scheduler.holder_of(end.key, end.fence).is_some_and(|holder| holder != of)
    }

    /// Has messages counted that can't be from the one they name.
    pub(super) fn refuse(&mut self, what: &'static str, count: u32) {
        self.out.push_back(LeaderAction::Refuse { what, count });
    }

    /// The answer leaves with the commit of what it says.
    pub(super) fn answer(&mut self, question: Question, now: Timestamp) {
        self.is_urgent = true;
        self.pending.inputs += 1;
        let answered = match (question.ask, &question.asker) {
            (Ask::Follow { all, ids, view }, Asker::Elsewhere(asker)) => {
                Ok(LeaderAnswer::Following { is_new: self.followers.follow(asker, all, ids, view, now) })
            }
            (ask, _) => self.desk(now).answer(ask),
        };
        self.record.follow(&self.scheduler, now);
        self.pending.answers.push((question.asker, answered));
    }
}
