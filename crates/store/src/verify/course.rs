//! The rules of one action from fence to fence: by its policy of today, and by the audit of its changes.
//!
//! Each change has the first fence that could be granted after it, so that no clock matters. Walked back from today,
//! every change must fit the one after it; where one does not, or where the audit begins, the knowledge ends.

use std::ops::Range;

use serde_json::Value;
use slotline_protocol::audit::Changed;
use slotline_protocol::change::Difference;
use slotline_protocol::policy::OnIsolation;
use slotline_protocol::{ActionId, Policy, Timestamp, http};

use super::facts::Grant;

/// A change of an action, as the audit has it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) action: ActionId,
    pub(crate) name: String,
    pub(crate) changed: Changed,
    /// The first fence that could be granted after it.
    pub(crate) fence: i64,
    pub(crate) changes: Vec<Difference>,
}

/// The rule for limits and order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) limit: Option<u32>,
    pub(super) key_limit: Option<u32>,
    /// The limit holds for it: its policy does not let it run on when its worker is isolated.
    pub(super) is_bound: bool,
}

/// Why the rule at the grant of an attempt is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unknown {
    /// Its grant, and what led to it, was lost with a part of the journal.
    Lost,
    /// The audit begins later, or its entries do not fit.
    Unaudited,
}

impl Unknown {
    pub(super) fn because(self) -> &'static str {
        match self {
            Self::Lost => "they were granted in the part of the journal that was lost when it went back",
            Self::Unaudited => "the audit does not tell which policy held as they were granted",
        }
    }
}

/// The rules of one action.
pub(super) struct Course {
    pub(super) name: String,
    /// The rules and the first fences that were granted under them; ascending.
    rules: Vec<(i64, Rule)>,
    /// Below this fence nothing is known.
    known_from: i64,
    /// Nor is anything known of grants before this moment.
    known_since: Timestamp,
}

impl Course {
    /// From the action, unless it is deleted, and all entries of the audit about it, in their order.
    pub(super) fn new(id: ActionId, action: Option<&http::Action>, changes: &[&Change]) -> Self {
        let named = changes.last().map(|change| change.name.clone());
        let name = match (action, named) {
            (Some(action), _) => action.action_ref.to_string(),
            (None, Some(name)) => format!("{name} (deleted)"),
            (None, None) => format!("deleted action {id}"),
        };
        let nothing = Self { name, rules: Vec::new(), known_from: i64::MAX, known_since: Timestamp::MIN };
        match (action, changes.split_last()) {
            (Some(action), None) => {
                let rules = vec![(i64::MIN, Terms::of(action).rule())];
                Self { rules, known_from: i64::MIN, known_since: action.updated_at, ..nothing }
            }
            (Some(action), Some(_)) => nothing.walk_back(Terms::of(action), changes),
            (None, Some((deleted, before))) if deleted.changed == Changed::ActionDeleted => {
                let mut terms = Terms::new(&Policy::default());
                terms.undo(&deleted.changes);
                nothing.walk_back(terms, before)
            }
            (None, _) => nothing,
        }
    }

    fn walk_back(mut self, mut terms: Terms, changes: &[&Change]) -> Self {
        for change in changes.iter().rev() {
            if !terms.fit(&change.changes) {
                break;
            }
            self.rules.push((change.fence, terms.rule()));
            self.known_from = change.fence;
            if change.changed == Changed::ActionCreated {
                break;
            }
            terms.undo(&change.changes);
        }
        self.rules.reverse();
        self
    }

    /// The rule at the grant of this attempt. `lost` are fences that the journal gave and forgot.
    pub(super) fn rule_of(&self, grant: &Grant, lost: &[Range<i64>]) -> Result<Rule, Unknown> {
        let fence = grant.fence.map_or(0, |fence| fence.0);
        if lost.iter().any(|lost| lost.contains(&fence)) {
            return Err(Unknown::Lost);
        }
        let is_known = fence >= self.known_from && grant.scheduled_at.is_some_and(|at| at >= self.known_since);
        let begun = self.rules.partition_point(|(first, _)| *first <= fence);
        begun.checked_sub(1).filter(|_| is_known).map(|index| self.rules[index].1).ok_or(Unknown::Unaudited)
    }
}

/// The part of an action from which the rules follow.
#[derive(Clone, Debug, PartialEq)]
struct Terms {
    limit: Value,
    key_limit: Value,
    on_isolation: Value,
    /// The override of the limit; null if there is none.
    temporary: Value,
}

impl Terms {
    fn new(policy: &Policy) -> Self {
        Self {
            limit: policy.limit.into(),
            key_limit: policy.key_limit.into(),
            on_isolation: serde_json::to_value(policy.on_isolation).unwrap_or_default(),
            temporary: Value::Null,
        }
    }

    fn of(action: &http::Action) -> Self {
        let temporary = serde_json::to_value(&action.limit_override).unwrap_or_default();
        Self { temporary, ..Self::new(&action.policy) }
    }

    fn member(&mut self, name: &str) -> Option<&mut Value> {
        match name {
            "limit" => Some(&mut self.limit),
            "key_limit" => Some(&mut self.key_limit),
            "on_isolation" => Some(&mut self.on_isolation),
            "limit_override" => Some(&mut self.temporary),
            _ => None,
        }
    }

    /// Whether these changes led to the present terms.
    fn fit(&mut self, changes: &[Difference]) -> bool {
        changes.iter().all(|change| self.member(&change.member).is_none_or(|value| *value == change.new))
    }

    fn undo(&mut self, changes: &[Difference]) {
        for change in changes {
            if let Some(value) = self.member(&change.member) {
                *value = change.old.clone();
            }
        }
    }

    fn rule(&self) -> Rule {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let limit = if self.temporary.is_null() { &self.limit } else { &self.temporary["limit"] };
        let is_bound = serde_json::from_value(self.on_isolation.clone()).ok() == Some(OnIsolation::Stop);
        Rule { limit: number(limit), key_limit: number(&self.key_limit), is_bound }
    }
}
