//! One clock for all who record: the boot clock, which commands stamp with, in microseconds.
//!
//! The journal's triggers have only the clock on the wall, which somebody may set. So both are looked at all the time,
//! and a moment of the one is turned into the other by what was seen around it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::AbortHandle;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// This moment, in microseconds since boot.
pub(crate) fn now() -> u64 {
    slotline_tests::now_ns() / 1000
}

/// Looks at both clocks until it is dropped.
pub(crate) struct Clocks {
    /// Wall clock and what it was ahead of the boot clock.
    seen: Arc<Mutex<BTreeMap<i64, i64>>>,
    task: AbortHandle,
}

impl Clocks {
    pub(crate) fn watch() -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::from([look()])));
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let (wall, ahead) = look();
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(wall, ahead);
            }
        });
        Self { seen, task: task.abort_handle() }
    }

    /// A moment of the wall clock on the boot clock.
    pub(crate) fn since_boot(&self, wall: i64) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let nearest = seen.range(..=wall).next_back().or_else(|| seen.first_key_value());
        let ahead = nearest.map_or(0, |(_, ahead)| *ahead);
        u64::try_from(wall - ahead).unwrap_or(0)
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn look() -> (i64, i64) {
    let micros = |text: u128| i64::try_from(text).expect("a time of this age of the world");
    // The tighter of a few looks: between the two clocks this process may have to wait for its turn.
    let looks = (0..5).map(|_| {
        let before = now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let after = now();
        (after - before, micros(wall.as_micros()), micros(u128::from(before.midpoint(after))))
    });
    let (_, wall, boot) = looks.min().expect("there are five");
    (wall, wall - boot)
}
