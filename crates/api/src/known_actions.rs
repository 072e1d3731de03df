//! Actions that are known to exist, so that a submission needs no read of the journal.
//!
//! An action may be deleted since; the leader checks every request, and refuses it then.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slotline_protocol::ActionRef;

/// The most names that are kept. Beyond, all are forgotten and learnt again.
const KNOWN_MAX: usize = 10_000;

#[derive(Default)]
pub(crate) struct KnownActions(Mutex<HashSet<ActionRef>>);

impl KnownActions {
    pub(crate) fn contains(&self, action_ref: &ActionRef) -> bool {
        self.names().contains(action_ref)
    }

    pub(crate) fn remember(&self, action_ref: &ActionRef) {
        let mut names = self.names();
        if names.len() >= KNOWN_MAX {
            names.clear();
        }
        names.insert(action_ref.clone());
    }

    pub(crate) fn forget(&self, action_ref: &ActionRef) {
        self.names().remove(action_ref);
    }

    fn names(&self) -> MutexGuard<'_, HashSet<ActionRef>> {
        // A set of names is whole after every single call on it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
