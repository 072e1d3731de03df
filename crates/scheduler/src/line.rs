//! One line: who waits, and who holds a slot of it.
//!
//! Order is by place, which comes from the journal's counter and never from arrival at a consumer.
//! Not here: whether a slot is free (`action`), retries (`retry`), deadlines (`deadline`).

use std::collections::{BTreeSet, VecDeque};

use slotline_protocol::ExecutionId;

use crate::pool::Ticket;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    /// Ascending by place. A deque, because a position is then found by bisection.
    waiting: VecDeque<ExecutionId>,
    /// Executions that hold a slot of this line.
    pub(crate) slots: BTreeSet<ExecutionId>,
    /// Where it stands among its action's lines; it stands there exactly while it is ready.
    pub(crate) ticket: Option<Ticket>,
}

impl Line {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.is_empty()
    }

    pub(crate) fn head(&self) -> Option<ExecutionId> {
        self.waiting.front().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ExecutionId> {
        self.waiting.iter().copied()
    }

    /// Puts `id` where its place belongs and gives its 1-based position.
    pub(crate) fn insert(&mut self, id: ExecutionId, place: i64, place_of: impl Fn(ExecutionId) -> i64) -> usize {
        let index = match self.waiting.back() {
            Some(last) if place_of(*last) > place => self.position(place, place_of) - 1,
            Some(_) | None => self.waiting.len(),
        };
        self.waiting.insert(index, id);
        index + 1
    }

    pub(crate) fn pop(&mut self) -> Option<ExecutionId> {
        self.waiting.pop_front()
    }

    /// The 1-based position of this place, whether or not anyone stands there.
    pub(crate) fn position(&self, place: i64, place_of: impl Fn(ExecutionId) -> i64) -> usize {
        self.waiting.partition_point(|other| place_of(*other) < place) + 1
    }

    /// Takes `id` out; false if it does not wait here.
    pub(crate) fn remove(&mut self, id: ExecutionId, place: i64, place_of: impl Fn(ExecutionId) -> i64) -> bool {
        let index = self.position(place, place_of) - 1;
        let waits = self.waiting.get(index) == Some(&id);
        if waits {
            self.waiting.remove(index);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_ordered_by_place_whatever_the_order_of_insertion() {
        let mut line = Line::default();
        let place_of = |id: ExecutionId| id.0 * 10;
        let positions: Vec<_> = [5, 2, 9, 1].map(|id| line.insert(ExecutionId(id), id * 10, place_of)).into();
        assert_eq!(positions, [1, 1, 3, 1]);
        assert_eq!(line.position(90, place_of), 4);
        assert_eq!(line.position(55, place_of), 4, "a place where nobody stands has a position too");
        assert!(line.remove(ExecutionId(2), 20, place_of) && !line.remove(ExecutionId(2), 20, place_of));
        let order: Vec<_> = std::iter::from_fn(|| line.pop()).map(|id| id.0).collect();
        assert_eq!(order, [1, 5, 9]);
    }
}
