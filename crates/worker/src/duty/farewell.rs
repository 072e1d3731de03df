//! The ends of an incarnation: the fence, the drain, and the farewell after either.

use std::time::Duration;

use slotline_protocol::Incarnation;
use slotline_protocol::message::{AttemptKey, EndReason};

use super::entry::{Cause, Entry, FinalReport, Stage};
use super::former::{Former, SAY_AGAIN_AFTER};
use super::{Drain, Duty, Effect, FAREWELL_WAIT, KILL_WAIT, Life, Now, OnDrain};

/// The most former incarnations remembered for a leader that has not read their farewell.
const FORMERS_MAX: usize = 16;

impl Duty {
    /// No new work; what waits is handed back, what runs may finish in time.
    pub(super) fn drain(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if self.drain.is_some() {
            return;
        }
        let deadline = now.boot + self.config.drain_timeout;
        self.drain = Some(Drain { deadline, ended: false, farewell_at: None });
        if matches!(self.life, Life::Alive { .. }) {
            let waiting: Vec<_> = self.entries.values().filter(|e| e.is_waiting()).map(|e| e.task.key).collect();
            for key in waiting {
                self.hand_back(now, key, "drain", fx);
            }
            self.beat(now, fx);
        }
    }

    /// Ends everything at once.
    pub(super) fn stop(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.drain(now, fx);
        for key in self.running.iter().copied().collect::<Vec<_>>() {
            if let Some(run) = self.entry_mut(key).and_then(Entry::run_mut) {
                run.cause.get_or_insert(Cause::Drained);
                run.kill_at = None;
                fx.push(Effect::Kill { key });
            }
            self.rearm(key);
        }
        self.drain = Some(Drain { deadline: now.boot, ended: true, farewell_at: Some(now.boot) });
    }

    /// Moves the incarnation on, once nothing stands in its way.
    pub(super) fn settle(&mut self, now: Now, fx: &mut Vec<Effect>) {
        match self.life {
            Life::Alive { .. } => self.settle_drain(now, fx),
            Life::Over { since } => {
                let left: Vec<_> = self.killed().collect();
                if left.is_empty() {
                    self.lay_down(EndReason::Fence);
                    if self.drain.is_some() {
                        self.life = Life::Leaving { until: now.boot + FAREWELL_WAIT };
                    } else {
                        self.life = Life::Between;
                        fx.push(Effect::IncarnationOver(self.incarnation));
                    }
                } else if now.boot >= since + KILL_WAIT {
                    self.give_up(left, fx);
                }
            }
            Life::Between if self.drain.is_some() => self.life = Life::Leaving { until: now.boot + FAREWELL_WAIT },
            Life::Between | Life::Leaving { .. } | Life::Finished => {}
        }
        if self.life == Life::Finished {
            return;
        }
        self.farewells_due(now, fx);
        if let Life::Leaving { until } = self.life
            && (now.boot >= until || self.formers.iter().all(|former| former.forget_at.is_some()))
        {
            self.keep(fx);
            self.life = Life::Finished;
            fx.push(Effect::Finish);
        }
    }

    fn settle_drain(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let Some(drain) = self.drain else { return };
        if !drain.ended && now.boot >= drain.deadline {
            for key in self.running.iter().copied().collect::<Vec<_>>() {
                let action_ref = self.entry_mut(key).map(|entry| entry.task.action_ref.clone());
                let on_drain = action_ref.and_then(|action_ref| self.config.actions.get(&action_ref));
                let cause = match on_drain.map(|action| action.on_drain).unwrap_or_default() {
                    OnDrain::Return => Cause::Drained,
                    OnDrain::Cancel => Cause::Cancelled { reason: Some("the worker was drained".to_owned()) },
                };
                self.interrupt(now, key, cause, None, fx);
            }
            self.drain = Some(Drain { ended: true, ..drain });
        }
        let Some(drain) = self.drain else { return };
        if self.running.is_empty() {
            let farewell_at = drain.farewell_at.unwrap_or(now.boot + FAREWELL_WAIT);
            self.drain = Some(Drain { ended: true, farewell_at: Some(farewell_at), ..drain });
            // What is recorded needs no farewell; a leader that is there records in no time.
            if self.entries.is_empty() || now.boot >= farewell_at {
                self.lay_down(EndReason::Drain);
                self.life = Life::Leaving { until: now.boot + FAREWELL_WAIT };
            }
        } else if drain.ended && self.give_up_at(drain).is_some_and(|at| now.boot >= at) {
            let left = self.running.iter().copied().collect();
            self.give_up(left, fx);
        }
    }

    /// When a drain that does not come to its end is given up.
    pub(super) fn give_up_at(&self, drain: Drain) -> Option<Duration> {
        if self.running.is_empty() {
            return None;
        }
        let grace = self.config.actions.values().map(|action| action.grace).max().unwrap_or_default();
        Some(drain.deadline + grace + KILL_WAIT)
    }

    fn give_up(&mut self, left: Vec<AttemptKey>, fx: &mut Vec<Effect>) {
        // Nothing of this incarnation outlives the process, and the next process may report that.
        self.lay_down(EndReason::Replaced);
        self.keep(fx);
        self.life = Life::Finished;
        fx.push(Effect::GiveUp(left));
    }

    /// Leaves what is not known to be recorded to the next process, or removes what was left for it before.
    fn keep(&mut self, fx: &mut Vec<Effect>) {
        let legacy: Vec<_> = self.formers.iter().filter_map(|former| former.legacy(&self.config.worker)).collect();
        if !legacy.is_empty() || self.has_kept {
            self.has_kept = !legacy.is_empty();
            fx.push(Effect::Keep(legacy));
        }
    }

    /// An outcome that a former incarnation has left is recorded.
    pub(super) fn legacy_recorded(&mut self, now: Now, key: AttemptKey, fx: &mut Vec<Effect>) {
        let forget_at = now.boot + self.terms.lease * 2;
        let mut is_known = false;
        for former in &mut self.formers {
            is_known |= former.recorded(key, forget_at);
        }
        if is_known && self.has_kept {
            self.keep(fx);
        }
    }

    /// What runs and has to be gone before the incarnation's farewell.
    fn killed(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.entries.values().filter(|e| e.run().is_some() && !e.task.is_isolated_ok).map(|e| e.task.key)
    }

    /// The incarnation becomes a former one; its table is empty afterwards.
    fn lay_down(&mut self, reason: EndReason) {
        let (isolated, ended) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition::<std::collections::BTreeMap<_, _>, _>(|(_, entry)| entry.run().is_some());
        for entry in ended.values() {
            if let Some(at) = entry.alarm {
                self.alarms.remove(&(at, entry.task.key));
            }
        }
        self.successors.clear();
        let mut ended: Vec<_> = ended.into_values().map(|entry| Entry { alarm: None, ..entry }).collect();
        ended.sort_unstable_by_key(|entry| entry.task.fence);
        self.formers.push(Former::new(self.incarnation, reason, isolated, ended));
        if self.formers.len() > FORMERS_MAX {
            let owes_nothing = |former: &Former| former.isolated.is_empty() && !former.owes();
            let index = self.formers.iter().position(owes_nothing);
            let index = index.or_else(|| self.formers.iter().position(|former| former.isolated.is_empty()));
            index.map(|index| self.formers.remove(index));
        }
    }

    /// An isolated attempt has ended.
    pub(super) fn conclude_isolated(&mut self, key: AttemptKey, word: FinalReport) {
        for former in &mut self.formers {
            if let Some(mut entry) = former.isolated.remove(&key) {
                if let Some(at) = entry.alarm.take() {
                    self.alarms.remove(&(at, key));
                }
                entry.stage = Stage::Done { word, told: 0, repeat_at: Duration::ZERO };
                former.ended.push(entry);
                return;
            }
        }
    }

    /// Sends the farewells that are due: a new one at once, an unconfirmed one again. Forgets those that were read.
    fn farewells_due(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.formers.retain(|former| former.forget_at.is_none_or(|at| now.boot < at) || !former.isolated.is_empty());
        for former in self.formers.iter_mut().filter(|former| former.isolated.is_empty()) {
            if former.forget_at.is_none() && former.say_at.is_none_or(|at| at <= now.boot) {
                former.say_at = Some(now.boot + SAY_AGAIN_AFTER);
                fx.push(Effect::Farewell(former.last_word(&self.config.worker, self.incarnation, self.sizes)));
            }
        }
    }

    /// Repeats every farewell that may not have been read: in a new session, and to a new leader.
    pub(super) fn say_farewells(&mut self, now: Now, fx: &mut Vec<Effect>) {
        for former in self.formers.iter_mut().filter(|former| former.isolated.is_empty()) {
            if former.forget_at.is_none() {
                former.say_at = Some(now.boot + SAY_AGAIN_AFTER);
            }
            fx.push(Effect::Farewell(former.last_word(&self.config.worker, self.incarnation, self.sizes)));
        }
    }

    pub(super) fn farewell_confirmed(&mut self, now: Now, incarnation: Incarnation) {
        // The executor that leads by then has either read it or declared the incarnation lost.
        let forget_at = now.boot + self.terms.lease * 2;
        for former in self.formers.iter_mut().filter(|former| former.incarnation == incarnation) {
            former.confirmed(now.boot, forget_at);
        }
    }
}
