//! Executions that hold a slot, in order of id.
//!
//! Most lines let one run at a time, and there may be a million of them: one alone costs no memory of its own.

use std::collections::BTreeSet;
use std::ops::Bound;

use slotline_protocol::ExecutionId;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Slots {
    #[default]
    Free,
    One(ExecutionId),
    /// Two or more.
    Many(BTreeSet<ExecutionId>),
}

impl Slots {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Free => 0,
            Self::One(_) => 1,
            Self::Many(holders) => holders.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Free)
    }

    pub(crate) fn insert(&mut self, id: ExecutionId) {
        match self {
            Self::Free => *self = Self::One(id),
            Self::One(holder) if *holder == id => {}
            Self::One(holder) => *self = Self::Many(BTreeSet::from([*holder, id])),
            Self::Many(holders) => {
                holders.insert(id);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: ExecutionId) {
        match self {
            Self::One(holder) if *holder == id => *self = Self::Free,
            Self::Free | Self::One(_) => {}
            Self::Many(holders) => {
                holders.remove(&id);
                if let (1, Some(last)) = (holders.len(), holders.first()) {
                    *self = Self::One(*last);
                }
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ExecutionId> + use<'_> {
        self.iter_after(None)
    }

    /// Those with an id above this one.
    pub(crate) fn iter_after(&self, id: Option<ExecutionId>) -> impl Iterator<Item = ExecutionId> + use<'_> {
        let above = id.map_or(Bound::Unbounded, Bound::Excluded);
        let (one, many) = match self {
            Self::Free => (None, None),
            Self::One(holder) => (Some(*holder).filter(|holder| id.is_none_or(|id| *holder > id)), None),
            Self::Many(holders) => (None, Some(holders.range((above, Bound::Unbounded)))),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_come_and_go_in_any_number() {
        let mut slots = Slots::default();
        let holders = |slots: &Slots| slots.iter().map(|id| id.0).collect::<Vec<_>>();
        for (id, expected) in [(5, vec![5]), (5, vec![5]), (2, vec![2, 5]), (9, vec![2, 5, 9]), (9, vec![2, 5, 9])] {
            slots.insert(ExecutionId(id));
            assert_eq!((holders(&slots), slots.len(), slots.is_empty()), (expected.clone(), expected.len(), false));
        }
        for (id, expected) in [(7, vec![2, 5, 9]), (5, vec![2, 9]), (2, vec![9]), (2, vec![9]), (9, vec![])] {
            slots.remove(ExecutionId(id));
            assert_eq!((holders(&slots), slots.len()), (expected.clone(), expected.len()));
        }
        for holders in [vec![4], vec![2, 4, 9]] {
            holders.iter().for_each(|id| slots.insert(ExecutionId(*id)));
            let after = |id| slots.iter_after(id).map(|id| id.0).collect::<Vec<_>>();
            assert_eq!(after(None), holders);
            assert_eq!(after(Some(ExecutionId(3))), holders.iter().copied().filter(|id| *id > 3).collect::<Vec<_>>());
            assert!(after(Some(ExecutionId(9))).is_empty());
            holders.iter().for_each(|id| slots.remove(ExecutionId(*id)));
        }
        assert_eq!(slots, Slots::Free, "the same as if nobody had ever held one");
    }
}
