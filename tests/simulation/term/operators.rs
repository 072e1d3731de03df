//! What operators ask of the leader, and what they are answered.

use slotline_api::Condition;
use slotline_executor::leader::{Answered, Ask, Asker, Input, Question};
use slotline_protocol::By;

use super::Term;
use crate::clock::MS;
use crate::plan::Operation;
use crate::stage::{Event, Stage};

/// A question of an operator that awaits its answer.
pub(super) struct Call {
    operation: usize,
    is_last: bool,
}

impl Term {
    /// An operator changes an action: its policy first, then whether it is paused.
    pub(crate) fn put(&mut self, index: usize, operation: &Operation, stage: &mut Stage) {
        if self.end.is_some() {
            return;
        }
        let action_ref = crate::journal::action_ref(operation.action);
        let known = self.registry.get(&action_ref).map(|registered| &registered.action.policy);
        let is_last = known == Some(&operation.policy);
        let by = By::publisher(None, None);
        let ask = match is_last {
            true => Ask::Pause { action_ref, paused: operation.paused, by },
            false => {
                let policy = Box::new(operation.policy.clone());
                Ask::PutAction { action_ref, policy, condition: Condition::Any, by }
            }
        };
        self.next_call += 1;
        self.calls.insert(self.next_call, Call { operation: index, is_last });
        let asker = Asker::Here(self.next_call);
        self.handle(Input::Asked(Box::new(Question { ask, asker })), stage);
    }

    pub(super) fn answer(&mut self, asker: &Asker, answer: &Answered, stage: &mut Stage) {
        let Asker::Here(number) = asker else { return };
        let Some(Call { operation, is_last }) = self.calls.remove(number) else { return };
        match answer {
            Ok(_) if is_last => stage.operated.push((self.site, operation)),
            Ok(_) => stage.after(MS, Event::Put { executor: self.executor, index: operation }),
            // It is asked again.
            Err(refused) => stage.trace(|| format!("executor {}: an operator is refused: {refused}", self.executor)),
        }
    }
}
