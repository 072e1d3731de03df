//! One clock for all records: the boot clock, which commands stamp with, in microseconds.
//!
//! The journal's triggers have only the wall clock, which may be set. So both clocks are read all the time, and a time
//! of the one is converted into the other by the readings around it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::AbortHandle;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// This moment, in microseconds since boot.
pub(crate) fn now() -> u64 {
    slotline_tests::now_ns() / 1000
}

/// Reads both clocks until it is dropped.
pub(crate) struct Clocks {
    /// Times of the wall clock, and how far it was ahead of the boot clock.
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

    /// A time of the wall clock as a time of the boot clock.
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
    // The tightest of a few readings: this process may be suspended between the two clocks.
    let looks = (0..5).map(|_| {
        let before = now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let after = now();
        (after - before, micros(wall.as_micros()), micros(u128::from(before.midpoint(after))))
    });
    let (_, wall, boot) = looks.min().expect("there are five");
    (wall, wall - boot)
}
