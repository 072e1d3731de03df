//! The clock of one machine: it runs at its own rate and started at its own moment.

use std::time::Duration;

use slotline_protocol::Timestamp;

/// The true moment zero of every simulation, for people.
const DAWN: i64 = 1_700_000_000_000_000;

/// How far the journal's clock is ahead of the others at their boot: nobody's own clock shows what it does.
const JOURNAL_AHEAD: u64 = 10 * 3600 * SECOND;

/// Simulated microseconds of true time.
pub(crate) type Micros = u64;

pub(crate) const MS: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000_000;

/// Past the end of every simulation.
const FAR: Duration = Duration::from_secs(10_000_000);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// How much faster than true time, in millionths.
    pub(crate) drift: i64,
    /// What it showed at true time zero.
    pub(crate) offset: u64,
}

impl Clock {
    /// Since boot.
    pub(crate) fn boot(self, now: Micros) -> Duration {
        let skew = now as i64 * self.drift / 1_000_000;
        Duration::from_micros(self.offset.saturating_add(now).saturating_add_signed(skew))
    }

    pub(crate) fn wall(self, now: Micros) -> Timestamp {
        Timestamp::from_micros(DAWN) + self.boot(now)
    }

    /// A clock of the same rate that shows `at` now.
    pub(crate) fn set_to(self, at: Timestamp, now: Micros) -> Self {
        let passed = Self { offset: 0, ..self }.boot(now);
        let offset = at.since(Timestamp::from_micros(DAWN)).saturating_sub(passed);
        Self { offset: offset.as_micros() as u64, ..self }
    }

    /// The first true moment at which the clock shows `at` or later.
    pub(crate) fn when(self, at: Duration) -> Micros {
        let at = at.min(FAR);
        let shown = u64::try_from(at.as_micros()).unwrap_or(u64::MAX).saturating_sub(self.offset);
        let mut now = (i128::from(shown) * 1_000_000 / i128::from(1_000_000 + self.drift)) as u64;
        now = now.saturating_sub(2);
        while self.boot(now) < at {
            now += 1;
        }
        now
    }

    pub(crate) fn when_wall(self, at: Timestamp) -> Micros {
        self.when(at.since(Timestamp::from_micros(DAWN)))
    }
}

/// What the database's clock shows: it goes right, and nobody sets it.
pub(crate) fn of_the_journal(now: Micros) -> Timestamp {
    Timestamp::from_micros(DAWN) + Duration::from_micros(JOURNAL_AHEAD + now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_a_clock_shows_is_found_again() {
        for drift in [-20_000, -1, 0, 7, 20_000] {
            let clock = Clock { drift, offset: 123_456_789 };
            for now in [0, 1, 999, SECOND, 77 * SECOND + 13] {
                let at = clock.boot(now);
                let found = clock.when(at);
                assert!(clock.boot(found) >= at && found <= now, "{drift} {now} {found}");
                assert!(found == 0 || clock.boot(found - 1) < at);
            }
        }
    }
}
