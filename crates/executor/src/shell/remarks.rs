//! Faults of the moment, for people: logged when they come and when they go, and shown by `/readyz?verbose` in between.
//! What only the start-up checks look at is not here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The subject of a remark: at most one of each at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// Why this executor does not seek leadership.
    Leadership,
    HostClock,
    JournalClock,
}

#[derive(Debug, Default)]
pub(crate) struct Remarks(Mutex<BTreeMap<Topic, String>>);

impl Remarks {
    /// Sets the remark on a topic; `None` if all is well.
    pub(crate) fn set(&self, topic: Topic, remark: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match remark {
            Some(remark) => {
                if !all.contains_key(&topic) {
                    tracing::warn!(%remark, "not as it should be");
                }
                all.insert(topic, remark);
            }
            None => {
                if let Some(remark) = all.remove(&topic) {
                    tracing::info!(%remark, "no longer so");
                }
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
