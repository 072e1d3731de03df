//! How much of an attempt's progress is sent: the detail its publisher asked for.
//!
//! A plain report (numbers only) is sent when its interval has passed or its step is reached; the newest one that was
//! held back follows as soon as it may, and where the publisher wants no numbers, with the next news or at the end.
//! News (a message, a phase, a step, a task, an error) are sent at once, up to [`NEWS_PER_SECOND`]; past that the
//! newest stands for those before it, and is sent with their number.
//! Not here: the last reports, for the error of an attempt that is ended (`recent`).

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::mem;
use std::time::Duration;

use slotline_protocol::Detail;
use slotline_protocol::detail::DEFAULT_INTERVAL;
use slotline_protocol::message::{Level, Report, Task};
use slotline_protocol::record::merge_data;

/// News of one level sent within any second.
pub const NEWS_PER_SECOND: usize = 20;

/// The most tasks that a report takes over from earlier ones; of more the oldest are left out.
const TASKS_MERGED_MAX: usize = 50;

const WINDOW: Duration = Duration::from_secs(1);

/// What was sent of one attempt, and what is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    sent_at: Option<Duration>,
    units: u64,
    shown: Shown,
    /// Numbers held back.
    plain: Option<Held>,
    info: Lane,
    error: Lane,
    /// How many reports were missed and are not in a gap yet.
    unsaid: u64,
}

/// A report to be sent now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PacedReport {
    /// How many reports with news it stands for, which are not sent.
    pub(super) merged: u64,
    pub(super) report: Report,
}

/// What the last report that was sent had beside its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Shown {
    message: Option<String>,
    phase: Option<String>,
    step: Option<(u64, u64)>,
}

/// The news of one level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lane {
    /// When the last few were sent, oldest first; at most [`NEWS_PER_SECOND`].
    sent: VecDeque<Duration>,
    held: Option<Held>,
}

/// A report held back. Its floating point is finite, see [`Pace::report`].
#[derive(Clone, Debug, PartialEq)]
struct Held {
    report: Report,
    merged: u64,
    due_at: Duration,
}

impl Eq for Held {}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.report.message, self.report.progress, self.report.step, self.merged, self.due_at).hash(state);
    }
}

impl Lane {
    /// When the next may be sent.
    fn free_at(&self, now: Duration) -> Duration {
        match self.sent.front() {
            Some(oldest) if self.sent.len() >= NEWS_PER_SECOND => now.max(*oldest + WINDOW),
            Some(_) | None => now,
        }
    }

    fn count(&mut self, now: Duration) {
        if self.sent.len() >= NEWS_PER_SECOND {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
    }
}

impl Pace {
    /// Takes a report and returns what is to be sent now: nothing while there is no room (`is_open` is false), and then
    /// the newest stands for those before it as it does past the limit.
    pub(super) fn report(
        &mut self,
        detail: Detail,
        mut report: Report,
        now: Duration,
        is_open: bool,
    ) -> Option<PacedReport> {
        report.percent = report.percent.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0));
        if report == Report::default() {
            // A sign of life without content.
            return None;
        }
        if !self.is_news(&report) {
            let due_at = self.plain_due_at(detail, &report, now);
            if let Some(before) = self.plain.take() {
                absorb(&mut report, before.report);
            }
            if is_open && due_at <= now {
                return Some(self.send(report, 0, now));
            }
            self.plain = Some(Held { report, merged: 0, due_at });
            return None;
        }
        // Numbers that were held back are older, and go with the news.
        if let Some(before) = self.plain.take() {
            absorb(&mut report, before.report);
        }
        let lane = self.lane(report.level);
        let due_at = lane.free_at(now);
        let mut merged = 0;
        if let Some(before) = lane.held.take() {
            let is_lost = report.level == Level::Error || replaces(&report, &before.report);
            merged = before.merged + u64::from(is_lost);
            absorb(&mut report, before.report);
        }
        if is_open && due_at <= now {
            return Some(self.send(report, merged, now));
        }
        lane.held = Some(Held { report, merged, due_at });
        None
    }

    /// So many reports are not sent: they found no room on their way here, or were overtaken. Counted with the next
    /// that is sent, or by [`Pace::unsaid`].
    pub(super) fn missed(&mut self, count: u64) {
        self.unsaid = self.unsaid.saturating_add(count);
    }

    /// How many were missed and are not in a gap yet, once.
    pub(super) fn unsaid(&mut self) -> u64 {
        mem::take(&mut self.unsaid)
    }

    /// When [`Pace::flush`] has something to send.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.held().map(|held| held.due_at).min().filter(|at| *at < Duration::MAX)
    }

    /// The next of what was held and is due by `by`, earliest first. To be called until there is none: at each
    /// `flush_at`, and with [`Duration::MAX`] at the end.
    pub(super) fn flush(&mut self, by: Duration, now: Duration) -> Option<PacedReport> {
        loop {
            let earliest = self.held().map(|held| held.due_at).min().filter(|at| *at <= by)?;
            let slots = [&mut self.info.held, &mut self.error.held, &mut self.plain];
            let slot = slots.into_iter().find(|slot| slot.as_ref().is_some_and(|held| held.due_at == earliest))?;
            let Held { report, merged, .. } = slot.take()?;
            if report != (Report { level: report.level, ..Report::default() }) {
                return Some(self.send(report, merged, now));
            }
            // All that it held was overtaken meanwhile.
            self.missed(merged + 1);
        }
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        [&self.info.held, &self.error.held, &self.plain].into_iter().flatten()
    }

    fn lane(&mut self, level: Level) -> &mut Lane {
        match level {
            Level::Info => &mut self.info,
            Level::Error => &mut self.error,
        }
    }

    fn is_news(&self, report: &Report) -> bool {
        let news = |now: &Option<String>, before: &Option<String>| now.is_some() && now != before;
        report.level == Level::Error
            || news(&report.message, &self.shown.message)
            || news(&report.phase, &self.shown.phase)
            || (report.step.is_some() && report.step != self.shown.step)
            || report.task.as_ref().is_some_and(|task| task.status.is_some())
    }

    /// [`Duration::MAX`]: with the next news, or at the end.
    fn plain_due_at(&self, detail: Detail, report: &Report, now: Duration) -> Duration {
        let (interval, step) = match detail {
            Detail::Quiet => return Duration::MAX,
            Detail::Default => (Some(DEFAULT_INTERVAL), None),
            Detail::Negotiated { interval, step } => (interval, step),
        };
        let units = report.progress.map_or(self.units, |(done, _)| done);
        if step.is_some_and(|step| units >= self.units.saturating_add(step)) {
            return now;
        }
        match (self.sent_at, interval) {
            (None, _) => now,
            (Some(sent_at), Some(interval)) => sent_at.saturating_add(interval),
            (Some(_), None) => Duration::MAX,
        }
    }

    fn send(&mut self, report: Report, merged: u64, now: Duration) -> PacedReport {
        self.sent_at = Some(now);
        if self.is_news(&report) {
            self.lane(report.level).count(now);
        }
        if let Some((done, _)) = report.progress {
            self.units = done;
        }
        for (shown, new) in [(&mut self.shown.message, &report.message), (&mut self.shown.phase, &report.phase)] {
            if new.is_some() {
                shown.clone_from(new);
            }
        }
        self.shown.step = report.step.or(self.shown.step);
        for held in [&mut self.info.held, &mut self.error.held].into_iter().flatten() {
            overtake(&mut held.report, &report);
        }
        PacedReport { merged: merged.saturating_add(self.unsaid()), report }
    }
}

/// Whether news of the former report are not sent once the newer one stands for both.
pub(crate) fn replaces(newer: &Report, before: &Report) -> bool {
    let differ =
        |newer: &Option<String>, before: &Option<String>| newer.is_some() && before.is_some() && newer != before;
    differ(&newer.message, &before.message)
        || differ(&newer.phase, &before.phase)
        || (newer.step.is_some() && before.step.is_some() && newer.step != before.step)
}

/// Adds to the newer report what a former one had and it does not repeat.
pub(crate) fn absorb(newer: &mut Report, before: Report) {
    newer.message = newer.message.take().or(before.message);
    newer.phase = newer.phase.take().or(before.phase);
    newer.unit = newer.unit.take().or(before.unit);
    let mut data = before.data;
    if let Some(newer) = newer.data.take() {
        merge_data(&mut data, newer);
    }
    newer.data = data;
    absorb_tasks(newer, before.task, before.tasks);
    newer.step = newer.step.or(before.step);
    newer.progress = newer.progress.or(before.progress);
    newer.percent = newer.percent.or(before.percent);
}

/// Adds the newest of each task that either report has; the newer report's own task stays its own.
fn absorb_tasks(newer: &mut Report, before: Option<Box<Task>>, others: Vec<Task>) {
    if before.is_none() && others.is_empty() {
        return;
    }
    let mut tasks = others;
    let mut put = |task: Task| match tasks.iter_mut().find(|known| known.name == task.name) {
        Some(known) => known.take(task),
        None => tasks.push(task),
    };
    before.into_iter().for_each(|task| put(*task));
    mem::take(&mut newer.tasks).into_iter().for_each(&mut put);
    if let Some(own) = newer.task.take() {
        let name = own.name.clone();
        put(*own);
        let index = tasks.iter().position(|known| known.name == name);
        newer.task = index.map(|index| Box::new(tasks.remove(index)));
    } else {
        newer.task = tasks.pop().map(Box::new);
    }
    for task in &mut tasks {
        // So that many of them fit one envelope; their own reports would have had more.
        if let Some(error) = &mut task.error {
            (error.stack_trace, error.details) = (None, None);
        }
    }
    tasks.drain(..tasks.len().saturating_sub(TASKS_MERGED_MAX));
    newer.tasks = tasks;
}

/// Drops from a held report what a newer one that was sent has replaced.
fn overtake(held: &mut Report, sent: &Report) {
    held.step = held.step.filter(|_| sent.step.is_none());
    held.progress = held.progress.filter(|_| sent.progress.is_none());
    held.percent = held.percent.filter(|_| sent.percent.is_none());
    held.phase = held.phase.take().filter(|_| sent.phase.is_none());
    let is_told = |task: &Task| sent.tasks.iter().chain(sent.task.as_deref()).any(|told| told.name == task.name);
    held.task = held.task.take().filter(|task| !is_told(task));
    held.tasks.retain(|task| !is_told(task));
}

#[cfg(test)]
mod tests;
