//! Slots are granted along the line: nothing of a line waits in front of what is granted.

use std::sync::Arc;

use slotline_protocol::{ActionRef, ExecutionId};

use super::Checker;
use super::journal::Live;
use super::rule::{Rule, Violation, broken, ensure};
use crate::history::Rules;

impl Checker {
    /// It stands in its line. An execution that was sent ahead before may pass it.
    pub(super) fn waits(&mut self, id: ExecutionId, place: i64) -> Result<(), Violation> {
        let live = self.live(id)?;
        if live.waits.replace(place).is_none() {
            let action = live.action.clone();
            for other in self.journal.live.values_mut().filter(|other| other.action == action && other.ahead.is_some())
            {
                other.passes.insert(id);
            }
        }
        Ok(())
    }

    /// It comes back into its line, to where it stood.
    pub(super) fn rejoins(&mut self, id: ExecutionId, place: i64) -> Result<(), Violation> {
        let stood = self.live(id)?.place.replace(place);
        self.waits(id, place)?;
        ensure(stood.is_none_or(|stood| stood == place), Rule::GrantsAreInOrder, Some(id), || {
            format!("execution {id} rejoins its line at {place}, though nothing of it failed at {stood:?}")
        })
    }

    /// No execution of its line waits in front.
    pub(super) fn is_in_order(
        &self,
        id: ExecutionId,
        place: i64,
        action: &ActionRef,
        key: &Option<Arc<str>>,
        rules: Rules,
    ) -> Result<(), Violation> {
        let same_line = |live: &Live| live.action == *action && (rules.key_limit.is_none() || live.key == *key);
        let may_pass = |other: &ExecutionId| self.journal.live.get(&id).is_some_and(|live| live.passes.contains(other));
        let mut waiting = self.journal.live.iter().filter(|(_, live)| live.waits.is_some_and(|other| other < place));
        let passed = waiting.find(|(other, live)| same_line(live) && !may_pass(other));
        match passed {
            None => Ok(()),
            Some((other, _)) => {
                let detail = format!("execution {id} (place {place}) was granted before {other}, which waits in front");
                Err(broken(Rule::GrantsAreInOrder, Some(id), detail))
            }
        }
    }
}
