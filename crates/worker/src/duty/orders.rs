//! The orders of the executor, and how this worker carries them out.

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{self, Event};

use super::entry::{Cause, Entry, FinalReport, Stage};
use super::shortage::SHORTAGE;
use super::verdict::{cancelled, unstarted};
use super::{Duty, Effect, HINT_EVERY, Life, Now, Order, Terms};

impl Duty {
    /// Takes an order, unless it is an old one.
    pub(super) fn ordered(&mut self, now: Now, order: Order, fx: &mut Vec<Effect>) {
        let number = order.number();
        if number <= self.seen {
            return;
        }
        let is_alive = matches!(self.life, Life::Alive { .. });
        if !is_alive && !matches!(order, Order::Recorded(_)) {
            // An incarnation that is over carries out nothing any more; its outcomes may still get recorded.
            return;
        }
        self.seen = number;
        match order {
            Order::Scheduled(order) => self.scheduled(now, order, fx),
            Order::Cancel(order) => self.cancel(now, order, fx),
            Order::Recall(order) => {
                let key = (order.execution_id, order.attempt);
                if self.entries.get(&key).is_some_and(|entry| entry.task.fence == order.fence) {
                    self.hand_back(now, key, "recall", fx);
                }
            }
            Order::Recorded(order) => {
                for key in order.attempts {
                    if self.entries.get(&key).is_some_and(|entry| entry.word().is_some()) {
                        self.forget(key);
                    } else {
                        self.legacy_recorded(now, key, fx);
                    }
                }
            }
            Order::Resend(order) => {
                let key = (order.execution_id, order.attempt);
                let (first, last) = (order.first_sequence, order.last_sequence);
                fx.push(Effect::Resend { key, action_ref: order.action_ref, first, last });
            }
            Order::Hello(order) => self.hello(now, &order, fx),
        }
    }

    fn scheduled(&mut self, now: Now, order: message::Scheduled, fx: &mut Vec<Effect>) {
        let key = (order.execution_id, order.attempt);
        self.highest.execution_id = self.highest.execution_id.max(order.execution_id);
        self.highest.fence = self.highest.fence.max(order.fence);
        if let Some(entry) = self.entries.get(&key) {
            // Handed back before it started and granted anew: the executor knows of the return, so it is recorded.
            let granted_anew = matches!(entry.word(), Some(FinalReport::Returned { started: false, .. }));
            if !granted_anew || order.fence <= entry.task.fence {
                return self.tell(now, key, fx);
            }
            self.forget(key);
        }
        if self.entries.len() >= self.sizes.entries()
            || self.formers.iter().any(|former| former.isolated.contains_key(&key))
        {
            return;
        }
        let after = order.starts_after;
        let refusal = if self.drain.is_some() {
            Some("drain")
        } else if !self.config.actions.contains_key(&order.action_ref) {
            Some("unknown_action")
        } else if after.is_none() && self.is_short() {
            Some(SHORTAGE)
        } else {
            None
        };
        self.entries.insert(key, Entry::granted(order, now));
        self.rearm(key);
        if let Some(reason) = refusal {
            return self.hand_back(now, key, reason, fx);
        }
        let Some(predecessor) = after else {
            return self.start(now, key, fx);
        };
        match self.entries.get(&predecessor).map(|entry| (&entry.stage, entry.word())) {
            Some((_, Some(FinalReport::Completed(outcome)))) if outcome.status == OutcomeKind::Completed => {
                self.release(now, key, fx);
            }
            Some((Stage::Waiting { .. } | Stage::Running(_), _)) if predecessor != key => {
                self.successors.entry(predecessor).or_default().insert(key);
            }
            Some(_) | None => self.hand_back(now, key, "predecessor", fx),
        }
    }

    fn cancel(&mut self, now: Now, order: message::Cancel, fx: &mut Vec<Effect>) {
        let key = (order.execution_id, order.attempt);
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.task.fence == order.fence) else { return };
        match &entry.stage {
            Stage::Waiting { .. } => {
                let error = cancelled(entry, order.reason.as_deref());
                let message = Some(error.message.clone());
                fx.push(entry.event(Event::Finished { return_code: None, message }, now.wall));
                self.conclude(now, key, unstarted(OutcomeKind::Cancelled, error, now.wall), fx);
            }
            Stage::Running(_) if order.if_not_started => {}
            Stage::Running(_) => {
                self.interrupt(now, key, Cause::Cancelled { reason: order.reason }, order.grace_seconds, fx);
            }
            // The executor seems not to know that the attempt has ended.
            Stage::Done { .. } => self.tell(now, key, fx),
        }
    }

    /// A new leader may want a report, and any client may send a hint: it costs a heartbeat now and then, no more.
    pub(super) fn hinted(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if now.boot < self.hint_at {
            self.beat_at = self.beat_at.min(self.hint_at);
            return;
        }
        self.hint_at = now.boot + HINT_EVERY;
        self.report(now, fx);
    }

    /// If the journal went back or is another, the order may be an old one by its number, and is not carried out. But
    /// its leader has not been able to read a heartbeat so far, and must see at once what this worker has seen.
    pub(super) fn introduced(&mut self, now: Now, order: Order, fx: &mut Vec<Effect>) {
        let before = self.seen;
        self.ordered(now, order, fx);
        if self.seen == before {
            self.report(now, fx);
        }
    }

    fn hello(&mut self, now: Now, order: &message::Hello, fx: &mut Vec<Effect>) {
        if order.lost {
            return self.end_incarnation(now, fx);
        }
        if let Some(reason) = &order.refused {
            if self.drain.is_none() {
                fx.push(Effect::Refused(reason.clone()));
            }
            return self.drain(now, fx);
        }
        (self.journal, self.wants_account) = (order.journal, order.account);
        let terms = Terms {
            lease: order.lease_seconds.unwrap_or(self.terms.lease),
            fence: order.fence_seconds.unwrap_or(self.terms.fence),
            heartbeat: order.heartbeat_seconds.unwrap_or(self.terms.heartbeat),
        };
        if terms.are_sound() && terms != self.terms {
            self.terms = terms;
            // A shorter fence may have passed by its own measure.
            self.check_fence(now, fx);
            if let Some(deadline) = self.fence_deadline() {
                fx.push(Effect::Extend { deadline });
            }
        }
        self.report(now, fx);
    }

    /// Reports how this worker stands, and all that is not known to be recorded.
    pub(super) fn report(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if matches!(self.life, Life::Alive { .. }) {
            self.beat(now, fx);
            self.tell_all(now, fx);
        }
        self.say_farewells(now, fx);
    }
}
