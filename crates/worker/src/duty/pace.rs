//! How much of an attempt's progress is said: the detail its publisher asked for.
//!
//! A plain report (numbers only) is sent when its interval has passed or its step is reached; the newest one that was
//! held back follows as soon as it may. What says something new (a message, a phase, a step, an error) is sent at once,
//! up to [`NEWS_PER_SECOND`]; past that the newest stands for those before it.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use slotline_protocol::Detail;
use slotline_protocol::detail::DEFAULT_INTERVAL;
use slotline_protocol::message::{Level, Report};

/// News of one level sent within a second.
pub const NEWS_PER_SECOND: u32 = 20;

const WINDOW: Duration = Duration::from_secs(1);

/// What was said of one attempt, and what is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    sent_at: Option<Duration>,
    units: u64,
    shown: Shown,
    info: Window,
    error: Window,
    held: Option<Held>,
    flush_at: Option<Duration>,
    newest_info: Option<String>,
    newest_error: Option<String>,
}

/// What the last report that was sent said beside its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Shown {
    message: Option<String>,
    phase: Option<String>,
    step: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Window {
    opened_at: Duration,
    sent: u32,
}

impl Window {
    fn has_room(&self, now: Duration) -> bool {
        self.sent < NEWS_PER_SECOND || now >= self.opened_at + WINDOW
    }

    fn count(&mut self, now: Duration) {
        if now >= self.opened_at + WINDOW {
            *self = Self { opened_at: now, sent: 0 };
        }
        self.sent += 1;
    }
}

/// A report held back. Its floating point is finite, see [`Pace::report`].
#[derive(Clone, Debug, PartialEq)]
struct Held(Report);

impl Eq for Held {}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.0.message, self.0.progress, self.0.step).hash(state);
    }
}

impl Pace {
    /// Takes a report and gives back what is to be sent now.
    pub(super) fn report(&mut self, detail: Detail, mut report: Report, now: Duration) -> Option<Report> {
        report.percent = report.percent.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0));
        if let Some(message) = &report.message {
            match report.level {
                Level::Info => self.newest_info = Some(message.clone()),
                Level::Error => self.newest_error = Some(message.clone()),
            }
        }
        let window = match report.level {
            Level::Info => &self.info,
            Level::Error => &self.error,
        };
        let due_at = if self.is_news(&report) {
            if window.has_room(now) { now } else { window.opened_at + WINDOW }
        } else {
            self.plain_due_at(detail, &report, now)?
        };
        if due_at <= now {
            return Some(self.send(report, now));
        }
        // What is held may say something that this one does not repeat.
        if let Some(Held(before)) = self.held.take() {
            report.message = report.message.or(before.message);
            report.phase = report.phase.or(before.phase);
            report.step = report.step.or(before.step);
            report.level = report.level.max(before.level);
        }
        self.held = Some(Held(report));
        self.flush_at = Some(self.flush_at.map_or(due_at, |flush_at| flush_at.min(due_at)));
        None
    }

    /// When [`Pace::flush`] has something to send.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.flush_at
    }

    /// Gives back what was held. Call it when `flush_at` has come, and at the end.
    pub(super) fn flush(&mut self, now: Duration) -> Option<Report> {
        let Held(report) = self.held.take()?;
        Some(self.send(report, now))
    }

    /// `Info - ...` and `Error - ...`: the newest of each level.
    pub(super) fn newest(&self) -> Vec<String> {
        let line = |level: &str, message: &Option<String>| Some(format!("{level} - {}", message.as_ref()?));
        line("Info", &self.newest_info).into_iter().chain(line("Error", &self.newest_error)).collect()
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
            (Some(sent_at), Some(interval)) => Some(sent_at + interval),
            (Some(_), None) => Some(Duration::MAX),
        }
    }

    fn send(&mut self, report: Report, now: Duration) -> Report {
        self.held = None;
        self.flush_at = None;
        self.sent_at = Some(now);
        if self.is_news(&report) {
            match report.level {
                Level::Info => self.info.count(now),
                Level::Error => self.error.count(now),
            }
        }
        if let Some((done, _)) = report.progress {
            self.units = done;
        }
        self.shown.message = report.message.clone().or(self.shown.message.take());
        self.shown.phase = report.phase.clone().or(self.shown.phase.take());
        self.shown.step = report.step.or(self.shown.step);
        report
    }
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
        assert_eq!(pace.flush(ms(2500)).expect("the newest was held").progress, Some((99_999, Some(1000))));
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
        assert_eq!(pace.flush(ms(10)), None);
        let phase = Report { phase: Some("copy".into()), ..units(2) };
        assert!(pace.report(Detail::Quiet, phase, ms(1)).is_some());
        let error = Report { level: Level::Error, message: Some("no".into()), ..Report::default() };
        assert!(pace.report(Detail::Quiet, error, ms(1)).is_some());
        assert_eq!(pace.newest(), ["Error - no"]);
    }

    #[test]
    fn a_flood_of_messages_is_merged_into_the_newest_of_each_second() {
        let mut pace = Pace::default();
        let say = |i: u64| Report { message: Some(format!("message {i}")), ..Report::default() };
        let sent = (0..1000).filter(|i| pace.report(Detail::Default, say(*i), ms(500)).is_some()).count();
        assert_eq!(sent, 20);
        let flush_at = pace.flush_at().expect("the newest is held");
        assert!(flush_at <= ms(1500));
        assert_eq!(pace.flush(flush_at).expect("held").message.as_deref(), Some("message 999"));
    }

    #[test]
    fn a_percent_that_is_no_number_is_left_out() {
        let mut pace = Pace::default();
        let report = Report { percent: Some(f64::NAN), ..Report::default() };
        assert_eq!(pace.report(Detail::Default, report, ms(0)).expect("the first").percent, None);
    }
}
