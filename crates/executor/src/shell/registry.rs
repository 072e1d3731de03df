//! The actions with their compiled schemas, for all that check requests and write dispatches.

use std::sync::Arc;

use dashmap::DashMap;
use slotline_protocol::http::Action;
use slotline_protocol::{ActionRef, perhaps_meant};

use crate::leader::actions::Registered;

/// How many names an unknown one is compared with: wrong names must not cost much.
const ALIKE_AMONG: usize = 1_000;

/// Follows the leader's [`ActionTable`].
#[derive(Debug, Default)]
pub(crate) struct Registry(DashMap<ActionRef, Arc<Registered>>);

impl Registry {
    pub(crate) fn get(&self, action_ref: &ActionRef) -> Option<Arc<Registered>> {
        self.0.get(action_ref).map(|registered| registered.value().clone())
    }

    /// The actions whose requests' parameters are looked into.
    pub(crate) fn looking_in(&self) -> Vec<Action> {
        let all = self.0.iter().filter(|registered| registered.looks_in());
        all.map(|registered| registered.action.clone()).collect()
    }

    /// `: did you mean ...`, for a name that no action has.
    pub(crate) fn perhaps_meant(&self, unknown: &ActionRef) -> String {
        let names: Vec<ActionRef> = self.0.iter().take(ALIKE_AMONG).map(|entry| entry.key().clone()).collect();
        perhaps_meant(unknown.as_str(), names.iter().map(ActionRef::as_str))
    }

    /// `None`: there is no action of that name any more.
    pub(crate) fn set(&self, action_ref: ActionRef, registered: Option<Arc<Registered>>) {
        match registered {
            Some(registered) => drop(self.0.insert(action_ref, registered)),
            None => drop(self.0.remove(&action_ref)),
        }
    }
}
