//! How much of an attempt's progress is said: the detail its publisher asked for.
//!
//! A plain report (numbers only) is sent when its interval has passed or its step is reached; the newest one that was
//! held back follows as soon as it may. What says something new (a message, a phase, a step, an error) is sent at once,
//! up to [`NEWS_PER_SECOND`]; past that the newest stands for those before it, and is told with how many they were.
//! Not here: what was said last, for the error of an attempt that is ended (`recent`).

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::mem;
use std::time::Duration;

use slotline_protocol::Detail;
use slotline_protocol::detail::DEFAULT_INTERVAL;
use slotline_protocol::message::{Level, Report};

/// News of one level sent within any second.
pub const NEWS_PER_SECOND: usize = 20;

const WINDOW: Duration = Duration::from_secs(1);

/// What was said of one attempt, and what is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    sent_at: Option<Duration>,
    units: u64,
    shown: Shown,
    /// Numbers held back.
    plain: Option<Held>,
    info: Lane,
    error: Lane,
    /// What found no room on its way here, and was not told of yet.
    unsaid: u64,
}

/// A report to be sent now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// How many reports it stands for that said something new and are not sent.
    pub(super) merged: u64,
    pub(super) report: Report,
}

/// What the last report that was sent said beside its numbers.
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
    /// Takes a report and gives back what is to be sent now.
    pub(super) fn report(&mut self, detail: Detail, mut report: Report, now: Duration) -> Option<Said> {
        report.percent = report.percent.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0));
        if report == Report::default() {
            // A sign of life, and nothing to tell.
            return None;
        }
        if !self.is_news(&report) {
            let due_at = self.plain_due_at(detail, &report, now)?;
            if let Some(before) = self.plain.take() {
                absorb(&mut report, before.report);
            }
            if due_at <= now {
                return Some(self.send(report, 0, now));
            }
            self.plain = Some(Held { report, merged: 0, due_at });
            return None;
        }
        // Numbers that were held back are older, and go with it.
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
        if due_at <= now {
            return Some(self.send(report, merged, now));
        }
        lane.held = Some(Held { report, merged, due_at });
        None
    }

    /// So many reports found no room on their way here. Told with the next that is sent, or by [`Pace::unsaid`].
    pub(super) fn missed(&mut self, count: u64) {
        self.unsaid = self.unsaid.saturating_add(count);
    }

    /// How many were missed and not told of, once.
    pub(super) fn unsaid(&mut self) -> u64 {
        mem::take(&mut self.unsaid)
    }

    /// When [`Pace::flush`] has something to send.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.held().map(|held| held.due_at).min().filter(|at| *at < Duration::MAX)
    }

    /// The next of what was held and is due by `by`, earliest first. Ask until there is none: at each `flush_at`, and
    /// with [`Duration::MAX`] at the end.
    pub(super) fn flush(&mut self, by: Duration, now: Duration) -> Option<Said> {
        loop {
            let earliest = self.held().map(|held| held.due_at).min().filter(|at| *at <= by)?;
            let slots = [&mut self.info.held, &mut self.error.held, &mut self.plain];
            let slot = slots.into_iter().find(|slot| slot.as_ref().is_some_and(|held| held.due_at == earliest))?;
            let Held { report, merged, .. } = slot.take()?;
            if report != (Report { level: report.level, ..Report::default() }) {
                return Some(self.send(report, merged, now));
            }
            // All that it said was overtaken meanwhile.
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
    }

    /// `None`: never, since a quiet publisher does not want to hear of it.
    fn plain_due_at(&self, detail: Detail, report: &Report, now: Duration) -> Option<Duration> {
        let (interval, step) = match detail {
            Detail::Quiet => return None,
            Detail::Default => (Some(DEFAULT_INTERVAL), None),
            Detail::Negotiated { interval, step } => (interval, step),
        };
        let units = report.progress.map_or(self.units, |(done, _)| done);
        if step.is_some_and(|step| units >= self.units.saturating_add(step)) {
            return Some(now);
        }
        match (self.sent_at, interval) {
            (None, _) => Some(now),
            (Some(sent_at), Some(interval)) => Some(sent_at.saturating_add(interval)),
            (Some(_), None) => Some(Duration::MAX),
        }
    }

    fn send(&mut self, report: Report, merged: u64, now: Duration) -> Said {
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
        Said { merged: merged.saturating_add(self.unsaid()), report }
    }
}

/// Whether news of the former report are not told once the newer one stands for both.
pub(crate) fn replaces(newer: &Report, before: &Report) -> bool {
    let differ =
        |newer: &Option<String>, before: &Option<String>| newer.is_some() && before.is_some() && newer != before;
    differ(&newer.message, &before.message)
        || differ(&newer.phase, &before.phase)
        || (newer.step.is_some() && before.step.is_some() && newer.step != before.step)
}

/// What a former report said and the newer one does not repeat.
pub(crate) fn absorb(newer: &mut Report, before: Report) {
    newer.message = newer.message.take().or(before.message);
    newer.phase = newer.phase.take().or(before.phase);
    newer.unit = newer.unit.take().or(before.unit);
    newer.data = newer.data.take().or(before.data);
    newer.step = newer.step.or(before.step);
    newer.progress = newer.progress.or(before.progress);
    newer.percent = newer.percent.or(before.percent);
}

/// Where a held report stands is no news any more once a newer one was sent.
fn overtake(held: &mut Report, sent: &Report) {
    held.step = held.step.filter(|_| sent.step.is_none());
    held.progress = held.progress.filter(|_| sent.progress.is_none());
    held.percent = held.percent.filter(|_| sent.percent.is_none());
    held.phase = held.phase.take().filter(|_| sent.phase.is_none());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(done: u64) -> Report {
        Report { progress: Some((done, Some(1000))), ..Report::default() }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_million_numbers_cost_one_event_an_interval_and_the_newest_is_not_lost() {
        let mut pace = Pace::default();
        let sent = (0..100_000_u64).filter(|i| pace.report(Detail::Default, units(*i), ms(i / 40)).is_some()).count();
        assert_eq!(sent, 3, "at 0 s, 1 s and 2 s");
        assert_eq!(
            pace.flush(Duration::MAX, ms(2500)).expect("the newest was held").report.progress,
            Some((99_999, Some(1000)))
        );
    }

    #[test]
    fn a_step_is_sent_when_reached_though_the_interval_has_not_passed() {
        let detail = Detail::Negotiated { interval: Some(ms(10_000)), step: Some(10) };
        let mut pace = Pace::default();
        let sent: Vec<u64> = (0..35).filter(|i| pace.report(detail, units(*i), ms(1)).is_some()).collect();
        assert_eq!(sent, [0, 10, 20, 30]);
    }

    #[test]
    fn quiet_drops_numbers_and_keeps_messages_phases_and_errors() {
        let mut pace = Pace::default();
        assert_eq!(pace.report(Detail::Quiet, units(1), ms(0)), None);
        assert_eq!(pace.flush(Duration::MAX, ms(10)), None);
        let phase = Report { phase: Some("copy".into()), ..units(2) };
        assert!(pace.report(Detail::Quiet, phase, ms(1)).is_some());
        let error = Report { level: Level::Error, message: Some("no".into()), ..Report::default() };
        assert!(pace.report(Detail::Quiet, error, ms(1)).is_some());
    }

    fn say(level: Level, message: &str) -> Report {
        Report { level, message: Some(message.to_owned()), ..Report::default() }
    }

    #[test]
    fn a_flood_of_messages_is_merged_into_the_newest_of_each_second_and_counted() {
        let mut pace = Pace::default();
        let mut report = |i: u64| pace.report(Detail::Default, say(Level::Info, &format!("message {i}")), ms(500));
        let sent = (0..1000).filter_map(&mut report).inspect(|said| assert_eq!(said.merged, 0)).count();
        assert_eq!(sent, NEWS_PER_SECOND);
        assert_eq!(pace.flush_at(), Some(ms(1500)));
        assert_eq!(pace.flush(ms(1499), ms(1499)), None);
        let said = pace.flush(ms(1500), ms(1500)).expect("held");
        assert_eq!((said.report.message.as_deref(), said.merged), (Some("message 999"), 979));
        assert_eq!(pace.flush(Duration::MAX, ms(1500)), None);
    }

    #[test]
    fn one_message_past_the_limit_is_held_and_merges_nothing() {
        let mut pace = Pace::default();
        let mut report = |i: usize| pace.report(Detail::Default, say(Level::Info, &format!("message {i}")), ms(0));
        let last = (0..=NEWS_PER_SECOND).map(&mut report).fold(None, |_, said| Some(said));
        assert_eq!(last, Some(None));
        assert_eq!(pace.flush(Duration::MAX, ms(1000)).map(|said| said.merged), Some(0));
    }

    #[test]
    fn in_no_second_are_more_than_twenty_of_one_level_sent() {
        let mut pace = Pace::default();
        let mut sent = Vec::new();
        for at in (0..5_000).map(ms) {
            if pace.flush_at().is_some_and(|due| due <= at) && pace.flush(at, at).is_some() {
                sent.push(at);
            }
            if pace.report(Detail::Default, say(Level::Info, &format!("{at:?}")), at).is_some() {
                sent.push(at);
            }
        }
        let within = |from: usize| sent.get(from + NEWS_PER_SECOND).is_none_or(|later| *later >= sent[from] + WINDOW);
        assert!((0..sent.len()).all(within), "{sent:?}");
        assert!(sent.len() >= 5 * NEWS_PER_SECOND - 1, "{}", sent.len());
    }

    #[test]
    fn an_error_does_not_swallow_the_message_that_is_held() {
        let mut pace = Pace::default();
        for i in 0..=NEWS_PER_SECOND {
            pace.report(Detail::Default, say(Level::Info, &format!("message {i}")), ms(0));
        }
        let error = pace.report(Detail::Default, say(Level::Error, "no"), ms(1)).expect("there is room for errors");
        assert_eq!(error.report.message.as_deref(), Some("no"));
        let held = pace.flush(Duration::MAX, ms(1000)).expect("still held");
        assert_eq!(held.report.message.as_deref(), Some("message 20"));
    }

    #[test]
    fn numbers_held_back_go_with_the_next_news() {
        let mut pace = Pace::default();
        pace.report(Detail::Default, units(1), ms(0));
        pace.report(Detail::Default, units(1000), ms(1));
        let said = pace.report(Detail::Default, say(Level::Info, "done"), ms(2)).expect("news");
        assert_eq!(said.report.progress, Some((1000, Some(1000))));
        assert_eq!(pace.flush(Duration::MAX, ms(2)), None, "and are not said twice");
    }

    #[test]
    fn what_is_held_does_not_set_back_what_was_sent_meanwhile() {
        let mut pace = Pace::default();
        for i in 0..=NEWS_PER_SECOND as u64 {
            pace.report(Detail::Default, Report { message: Some(i.to_string()), ..units(i) }, ms(0));
        }
        let later = Detail::Negotiated { interval: Some(ms(1)), step: None };
        assert!(pace.report(later, units(500), ms(5)).is_some());
        let held = pace.flush(Duration::MAX, ms(6)).expect("the last message").report;
        assert_eq!((held.message.as_deref(), held.progress), (Some("20"), None));
    }

    #[test]
    fn what_found_no_room_is_told_with_the_next_that_is_sent() {
        let mut pace = Pace::default();
        pace.missed(3);
        assert_eq!(pace.report(Detail::Default, units(1), ms(0)).map(|said| said.merged), Some(3));
        assert_eq!(pace.unsaid(), 0);
    }

    #[test]
    fn a_report_that_says_nothing_is_not_sent() {
        assert_eq!(Pace::default().report(Detail::Default, Report::default(), ms(0)), None);
    }

    #[test]
    fn a_percent_that_is_no_number_is_left_out() {
        let mut pace = Pace::default();
        let report = Report { percent: Some(f64::NAN), ..units(1) };
        assert_eq!(pace.report(Detail::Default, report, ms(0)).expect("the first").report.percent, None);
    }
}
