//! Time: which entry must be looked at when, and what is due then.

use std::time::Duration;

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{AttemptKey, Event};

use super::entry::{Cause, REPEAT_AFTER_MAX, Stage};
use super::verdict::{start_timed_out, unstarted};
use super::{Duty, Effect, Life, Now};

impl Duty {
    /// Looks at every entry whose alarm has come, at what was short, and at the heartbeat.
    pub(super) fn ring(&mut self, now: Now, fx: &mut Vec<Effect>) {
        while let Some((at, key)) = self.alarms.first().copied().filter(|(at, _)| *at <= now.boot) {
            self.alarms.remove(&(at, key));
            if let Some(entry) = self.entry_mut(key) {
                entry.alarm = None;
                self.look(now, key, fx);
            }
        }
        if matches!(self.life, Life::Alive { .. }) {
            self.raise(now, fx);
            if now.boot >= self.beat_at {
                self.beat(now, fx);
            }
        }
    }

    /// Does what is due for an entry.
    pub(super) fn look(&mut self, now: Now, key: AttemptKey, fx: &mut Vec<Effect>) {
        let is_congested = self.is_congested;
        let Some(entry) = self.entry_mut(key) else { return };
        match &entry.stage {
            Stage::Waiting { give_up_at, .. } => {
                if give_up_at.is_some_and(|at| at <= now.boot) {
                    let error = start_timed_out(entry, entry.task.start_timeout.unwrap_or_default());
                    let message = Some(error.message.clone());
                    fx.push(entry.event(Event::Finished { return_code: None, message }, now.wall));
                    self.conclude(now, key, unstarted(OutcomeKind::Timeout, error, now.wall), fx);
                }
            }
            Stage::Done { .. } => {
                if let Stage::Done { repeat_at, .. } = &mut entry.stage {
                    *repeat_at = now.boot + REPEAT_AFTER_MAX;
                }
                self.tell_alive(now, key, fx);
            }
            Stage::Running(run) => {
                let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now.boot);
                let (timed_out, stalled) = (is_due(entry.timeout_at(run)), is_due(entry.stall_at(run)));
                let (ending, kill) = (run.cause.is_some(), is_due(run.kill_at));
                while !is_congested && let Some(said) = entry.pace.flush(now.boot, now.boot) {
                    entry.say(said, now.wall, fx);
                }
                let (timeout, stall_timeout) = (entry.task.timeout, entry.task.stall_timeout);
                if ending && kill {
                    if let Some(run) = entry.run_mut() {
                        run.kill_at = None;
                    }
                    fx.push(Effect::Kill { key });
                } else if !ending && timed_out {
                    let cause = Cause::TimedOut { after: timeout.unwrap_or_default() };
                    self.interrupt(now, key, cause, None, fx);
                } else if !ending && stalled {
                    let cause = Cause::Stalled { after: stall_timeout.unwrap_or_default() };
                    self.interrupt(now, key, cause, None, fx);
                }
            }
        }
        self.rearm(key);
    }

    /// Whether reports may be sent has changed.
    pub(super) fn rearm_running(&mut self) {
        for key in self.running.iter().copied().collect::<Vec<_>>() {
            self.rearm(key);
        }
    }

    /// Brings the table of alarms in line with an entry. To be called after every change of one.
    pub(super) fn rearm(&mut self, key: AttemptKey) {
        let is_congested = self.is_congested;
        let Some(entry) = self.entry_mut(key) else { return };
        let (before, after) = (entry.alarm, entry.next_alarm(is_congested));
        if before != after {
            entry.alarm = after;
            if let Some(at) = before {
                self.alarms.remove(&(at, key));
            }
            if let Some(at) = after {
                self.alarms.insert((at, key));
            }
        }
    }
}
