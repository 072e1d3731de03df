//! News for an operator: a worker joins, falls silent, is back or drains, or an action waits for one.
//!
//! Each is news once, when it becomes so, and again only after it was otherwise. Pure: the scheduler has the attendance
//! of workers, `news` has the words, and the leader's loop logs them. The final end of a worker is a commit's effect,
//! and its news comes with that.

mod news;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::message::Process;
use slotline_protocol::{ActionRef, Incarnation, Timestamp};
use slotline_scheduler::{Attendance, Scheduler};

use super::rivals::Sign;
pub(crate) use news::{News, log_departed};

/// How long an action may wait for a worker before that is news: a restart of a worker takes a moment.
const UNSERVED_AFTER: Duration = Duration::from_secs(10);
/// The most actions without a worker that are watched at a time.
const UNSERVED_MAX: usize = 1_000;

/// The news of workers and actions in this term.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookout {
    workers: BTreeMap<Incarnation, Mood>,
    unserved: BTreeMap<ActionRef, Unserved>,
}

/// The state of a worker at the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    is_silent: bool,
    is_draining: bool,
}

/// An action with executions that no worker takes.
#[derive(Clone, Copy, Debug)]
struct Unserved {
    since: Timestamp,
    is_said: bool,
}

impl Lookout {
    /// Looks at one worker whose heartbeat just came; at the actions as well if it brings a change.
    pub(crate) fn heard(&mut self, scheduler: &Scheduler, sign: &Sign, now: Timestamp) -> Vec<News> {
        let mut news = Vec::new();
        if let Some(attendance) = scheduler.attendance_of(sign.incarnation) {
            self.look_at(attendance, sign.process.as_ref(), &mut news);
        }
        if !news.is_empty() {
            self.look_at_actions(scheduler, now, &mut news);
        }
        news
    }

    /// Looks at everything.
    pub(crate) fn look(&mut self, scheduler: &Scheduler, now: Timestamp) -> Vec<News> {
        let mut news = Vec::new();
        for attendance in scheduler.attendance() {
            self.look_at(attendance, None, &mut news);
        }
        self.workers.retain(|incarnation, _| scheduler.knows(*incarnation));
        self.look_at_actions(scheduler, now, &mut news);
        news
    }

    fn look_at(&mut self, attendance: Attendance, process: Option<&Process>, news: &mut Vec<News>) {
        let now = Mood { is_silent: attendance.is_silent, is_draining: attendance.is_draining };
        let before = match self.workers.insert(attendance.incarnation, now) {
            Some(before) => before,
            None if attendance.is_new => {
                news.push(News::Joined(attendance.clone(), process.cloned()));
                Mood::default()
            }
            // A leader before has logged its state, but not its silence: that is counted anew.
            None => Mood { is_silent: false, ..now },
        };
        match (before.is_silent, now.is_silent) {
            (false, true) => news.push(News::Silent(attendance.clone())),
            (true, false) => news.push(News::Back(attendance.clone())),
            (false, false) | (true, true) => {}
        }
        if now.is_draining && !before.is_draining {
            news.push(News::Draining(attendance));
        }
    }

    fn look_at_actions(&mut self, scheduler: &Scheduler, now: Timestamp, news: &mut Vec<News>) {
        let unserved: BTreeMap<_, _> = scheduler.unserved().take(UNSERVED_MAX).collect();
        self.unserved.retain(|action_ref, known| {
            let is_unserved = unserved.contains_key(action_ref);
            if !is_unserved && known.is_said {
                let action_ref = action_ref.clone();
                let is_served = scheduler.is_served(&action_ref);
                news.push(if is_served { News::Served(action_ref) } else { News::Unneeded(action_ref) });
            }
            is_unserved
        });
        for (action_ref, waiting) in unserved {
            // Looked up before it is inserted, since it nearly always exists.
            if !self.unserved.contains_key(action_ref) {
                self.unserved.insert(action_ref.clone(), Unserved { since: now, is_said: false });
            }
            if let Some(known) = self.unserved.get_mut(action_ref)
                && !known.is_said
                && now.since(known.since) >= UNSERVED_AFTER
            {
                known.is_said = true;
                news.push(News::Unserved { action_ref: action_ref.clone(), waiting, waited: now.since(known.since) });
            }
        }
    }
}
