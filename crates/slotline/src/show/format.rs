//! Formats progress, speed and durations: `42 %, step 2/7, 60.00 MiB/1.00 GiB`, `3.10 MiB/s`, `about 3 min`.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::HumanBytes;
use slotline_protocol::Timestamp;
use slotline_protocol::record::Latest;

/// Reports that the speed is taken from.
const SAMPLES_MAX: usize = 16;
/// Reports that span less time than this give no speed.
const SPAN_MIN: Duration = Duration::from_millis(200);

/// Percent, step and amount, as far as they are known.
pub(crate) fn amounts(latest: &Latest) -> Vec<String> {
    let percent = latest.percent.map(|percent| format!("{percent:.0} %"));
    let step = latest.step.map(|(done, total)| format!("step {done}/{total}"));
    let unit = latest.unit.as_deref().unwrap_or_default();
    let amount = latest.progress.map(|(done, total)| match (total, is_bytes(unit)) {
        (Some(total), true) => format!("{}/{}", HumanBytes(done), HumanBytes(total)),
        (None, true) => HumanBytes(done).to_string(),
        (Some(total), false) => format!("{done}/{total} {unit}").trim_end().to_owned(),
        (None, false) => format!("{done} {unit}").trim_end().to_owned(),
    });
    [percent, step, amount].into_iter().flatten().collect()
}

/// The share that is done, from 0 to 1, if it is known.
pub(crate) fn share(latest: &Latest) -> Option<f64> {
    let of = |done: u64, total: u64| (total > 0).then(|| done as f64 / total as f64);
    let percent = latest.percent.map(|percent| percent / 100.0);
    let amount = || latest.progress.and_then(|(done, total)| of(done, total?));
    let step = || latest.step.and_then(|(done, total)| of(done, total));
    percent.or_else(amount).or_else(step).map(|share| share.clamp(0.0, 1.0))
}

fn is_bytes(unit: &str) -> bool {
    ["bytes", "byte", "b"].iter().any(|name| unit.eq_ignore_ascii_case(name))
}

/// How fast the newest amounts grew, by the timestamps of their reports.
#[derive(Default)]
pub(crate) struct Speed(VecDeque<(Timestamp, u64)>);

impl Speed {
    pub(crate) fn take(&mut self, at: Timestamp, done: u64) {
        // A smaller amount is that of another phase or unit: start again.
        if self.0.back().is_some_and(|(_, before)| *before > done) {
            self.0.clear();
        }
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((at, done));
    }

    fn per_second(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.0.front()?, self.0.back()?);
        let span = last.since(*first);
        let speed = (after - before) as f64 / span.as_secs_f64();
        (span >= SPAN_MIN && speed > 0.0).then_some(speed)
    }

    /// `3.10 MiB/s`.
    pub(crate) fn per_second_text(&self, latest: &Latest) -> Option<String> {
        let speed = self.per_second()?;
        let unit = latest.unit.as_deref()?;
        Some(if is_bytes(unit) { format!("{}/s", HumanBytes(speed as u64)) } else { format!("{speed:.1} {unit}/s") })
    }

    /// The time until all is done, at this speed.
    pub(crate) fn left(&self, latest: &Latest) -> Option<Duration> {
        let (done, total) = latest.progress?;
        let left = total?.checked_sub(done).filter(|left| *left > 0)?;
        Duration::try_from_secs_f64(left as f64 / self.per_second()?).ok()
    }
}

/// `about 3 min`, no more exact than an estimate is.
pub(crate) fn about(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = time.as_secs() + u64::from(time.subsec_millis() >= 500);
    let rounded = |unit: u64| (seconds + unit / 2) / unit;
    if seconds < 2 * MINUTE {
        format!("about {} s", seconds.max(1))
    } else if seconds < 2 * HOUR {
        format!("about {} min", rounded(MINUTE))
    } else if seconds < 2 * DAY {
        format!("about {} h", rounded(HOUR))
    } else {
        format!("about {} days", rounded(DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn all_that_is_known_is_shown_and_bytes_as_people_write_them() {
        let latest = Latest { percent: Some(41.7), step: Some((2, 7)), ..Latest::default() };
        assert_eq!(amounts(&latest), ["42 %", "step 2/7"]);
        for (progress, unit, expected) in [
            ((60 << 20, Some(1 << 30)), Some("Bytes"), "60.00 MiB/1.00 GiB"),
            ((60 << 20, None), Some("b"), "60.00 MiB"),
            ((60, Some(1024)), Some("rows"), "60/1024 rows"),
            ((60, None), None, "60"),
        ] {
            let unit = unit.map(str::to_owned);
            assert_eq!(amounts(&Latest { progress: Some(progress), unit, ..Latest::default() }), [expected]);
        }
        assert!(amounts(&Latest::default()).is_empty());
    }

    #[test]
    fn the_share_is_the_percentage_or_else_follows_from_the_numbers() {
        let latest = |percent, progress, step| Latest { percent, progress, step, ..Latest::default() };
        assert_eq!(share(&latest(Some(40.0), Some((1, Some(2))), None)), Some(0.4));
        assert_eq!(share(&latest(None, Some((1, Some(2))), Some((1, 4)))), Some(0.5));
        assert_eq!(share(&latest(None, Some((1, None)), Some((1, 4)))), Some(0.25));
        assert_eq!(share(&latest(None, Some((0, Some(0))), None)), None);
        assert_eq!(share(&latest(Some(400.0), None, None)), Some(1.0));
        assert_eq!(share(&Latest::default()), None);
    }

    #[test]
    fn the_speed_is_that_of_the_newest_reports_and_begins_anew_with_the_amount() {
        let latest = |done| Latest {
            progress: Some((done, Some(100 << 20))),
            unit: Some("Bytes".to_owned()),
            ..Latest::default()
        };
        let mut speed = Speed::default();
        speed.take(at(0), 0);
        assert_eq!(speed.per_second_text(&latest(0)), None);
        for second in 1..=40 {
            let done = (second as u64) << 20;
            speed.take(at(second), done);
            assert_eq!(speed.per_second_text(&latest(done)).as_deref(), Some("1.00 MiB/s"));
        }
        assert_eq!(speed.left(&latest(40 << 20)), Some(Duration::from_secs(60)));
        assert!(speed.0.len() <= SAMPLES_MAX);
        speed.take(at(41), 0);
        assert_eq!(speed.per_second_text(&latest(0)), None);
    }

    #[test]
    fn an_estimate_is_shown_no_more_exactly_than_it_is() {
        for (seconds, expected) in [
            (0.0, "about 1 s"),
            (1.6, "about 2 s"),
            (119.0, "about 119 s"),
            (170.0, "about 3 min"),
            (7_100.0, "about 118 min"),
            (10_000.0, "about 3 h"),
            (500_000.0, "about 6 days"),
        ] {
            assert_eq!(about(Duration::from_secs_f64(seconds)), expected, "{seconds}");
        }
    }
}
