//! How much the worker takes on while it is short of something.
//!
//! An attempt that could not be started for it is no failure of the execution: it is handed back unstarted, and the
//! worker offers no more than what runs. After a while it tries more, twice as much each time, until a further shortage
//! or all of its capacity.

use slotline_protocol::message::{AttemptKey, Failure};

use super::entry::FinalReport;
use super::shortage::{Ceiling, RAISE_AFTER, RAISE_AFTER_MAX, SHORTAGE, Shortage};
use super::{Duty, Effect, Ending, Life, Now};

impl Duty {
    /// An attempt could not be started, because the worker is short of something.
    pub(super) fn unstarted(&mut self, now: Now, key: AttemptKey, shortage: Shortage, fx: &mut Vec<Effect>) {
        let Some(run) = self.entry_mut(key).and_then(|entry| entry.run_mut()) else { return };
        if run.cause.is_some() || run.started.is_some() {
            // Asked to end meanwhile, it is judged by what was asked.
            let error = Failure::new("spawn_failed", format!("the worker is short of {shortage}"));
            return self.ended(now, key, Ending::failed(error, now.wall), fx);
        }
        self.running.remove(&key);
        self.lower(now, shortage, fx);
        self.conclude(now, key, FinalReport::Returned { reason: SHORTAGE, started: false }, fx);
    }

    /// How many attempts the worker takes at once, as things are.
    pub(super) fn room(&self) -> u32 {
        self.ceiling.map_or(self.config.capacity, |ceiling| ceiling.most.min(self.config.capacity))
    }

    /// Whether one more attempt would exceed the ceiling.
    pub(super) fn is_short(&self) -> bool {
        self.ceiling.is_some_and(|ceiling| self.in_use() >= ceiling.most)
    }

    fn in_use(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    fn lower(&mut self, now: Now, shortage: Shortage, fx: &mut Vec<Effect>) {
        let most = self.in_use();
        let (is_news, most, wait) = match self.ceiling {
            None => (true, most, RAISE_AFTER),
            Some(before) if before.is_raised => (true, most, (before.wait * 2).min(RAISE_AFTER_MAX)),
            // Attempts that were started together fail together; that is one shortage.
            Some(before) => (false, most.min(before.most), before.wait),
        };
        self.ceiling = Some(Ceiling { most, raise_at: now.boot + wait, wait, is_raised: false });
        if is_news {
            fx.push(Effect::TakeLess { shortage, most });
            if matches!(self.life, Life::Alive { .. }) {
                self.beat(now, fx);
            }
        }
    }

    /// Tries more, when it is time.
    pub(super) fn raise(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let Some(ceiling) = self.ceiling.filter(|ceiling| ceiling.raise_at <= now.boot) else { return };
        let most = ceiling.most.saturating_mul(2).max(1);
        if most >= self.config.capacity {
            self.ceiling = None;
            fx.push(Effect::TakeAll);
        } else {
            self.ceiling = Some(Ceiling { most, raise_at: now.boot + ceiling.wait, is_raised: true, ..ceiling });
        }
        self.beat(now, fx);
    }
}
