//! How much is measured, and how long at least.

use std::time::Duration;

/// The shortest measure that is quoted: shorter runs were wrong by a factor of two and more.
const FLOOR: Duration = Duration::from_secs(3);
/// What a trial of the benchmark itself divides by.
const TRIAL: usize = 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Rounds are repeated until they have taken this long together.
    pub(crate) floor: Duration,
    divisor: usize,
    /// The longest chain where the line may run ahead; `None`: as long as fits.
    pub(crate) run_ahead: Option<u32>,
}

impl Scale {
    pub(crate) fn full(run_ahead: Option<u32>) -> Self {
        Self { floor: FLOOR, divisor: 1, run_ahead }
    }

    /// Everything works, and no figure means anything.
    pub(crate) fn trial(run_ahead: Option<u32>) -> Self {
        Self { floor: FLOOR / 20, divisor: TRIAL, run_ahead }
    }

    pub(crate) fn of(&self, count: usize) -> usize {
        (count / self.divisor).max(1)
    }

    pub(crate) fn is_trial(&self) -> bool {
        self.divisor > 1
    }
}
