//! One line: the executions that wait in it, and those that hold a slot of it.
//!
//! Order is by place, which comes from the journal's counter and never from arrival at a consumer.
//! Not here: whether a slot is free (`action`), retries (`retry`), deadlines (`deadline`).

use std::collections::VecDeque;

use slotline_protocol::ExecutionId;

use crate::key::LineKey;
use crate::pool::Ticket;
use crate::slots::Slots;

/// An execution in its line, in order of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spot {
    pub(crate) place: i64,
    pub(crate) id: ExecutionId,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) key: LineKey,
    /// Ascending. A deque, because a position is then found by bisection.
    waiting: VecDeque<Spot>,
    /// Executions that hold a slot of this line, unless it is the only one: where keys do not matter, only its action
    /// counts slots.
    pub(crate) slots: Slots,
    /// Executions that wait here and at a worker as well, in the order in which they are to start. No other execution
    /// of the line gets a slot before each of them has begun or is back.
    pub(crate) ahead: Vec<ExecutionId>,
    /// An execution was handed back since the slot was taken last: none is sent ahead again before the next takes it,
    /// or a worker that lacks the one before would get the same dispatch again and again.
    pub(crate) is_rebuffed: bool,
    /// Where the line stands among its action's lines; it stands there exactly while it is ready.
    pub(crate) ticket: Option<Ticket>,
}

impl Line {
    /// An empty line.
    pub(crate) fn new(key: LineKey) -> Self {
        Self {
            key,
            waiting: VecDeque::new(),
            slots: Slots::default(),
            ahead: Vec::new(),
            is_rebuffed: false,
            ticket: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.is_empty()
    }

    pub(crate) fn head(&self) -> Option<Spot> {
        self.waiting.front().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Spot> {
        self.waiting.iter().copied()
    }

    /// Those from this 0-based place on.
    pub(crate) fn iter_from(&self, first: usize) -> impl Iterator<Item = Spot> {
        self.waiting.range(first.min(self.waiting.len())..).copied()
    }

    /// How many stand at this spot or before it.
    pub(crate) fn behind(&self, spot: Spot) -> usize {
        self.waiting.partition_point(|other| *other <= spot)
    }

    /// The first execution behind all that were sent ahead; `None` if those do not stand first any more.
    pub(crate) fn next_ahead(&self) -> Option<Spot> {
        let count = self.ahead.len();
        let stand_first = self.waiting.iter().zip(&self.ahead).all(|(spot, id)| spot.id == *id);
        self.waiting.get(count).copied().filter(|_| stand_first)
    }

    /// Puts an execution where it belongs and returns its 1-based position.
    pub(crate) fn insert(&mut self, spot: Spot) -> usize {
        let is_last = self.waiting.back().is_none_or(|last| *last < spot);
        let index = if is_last { self.waiting.len() } else { self.position(spot) - 1 };
        self.waiting.insert(index, spot);
        index + 1
    }

    pub(crate) fn pop(&mut self) -> Option<ExecutionId> {
        self.waiting.pop_front().map(|spot| spot.id)
    }

    /// The 1-based position of this spot, whether or not an execution stands there.
    pub(crate) fn position(&self, spot: Spot) -> usize {
        self.waiting.partition_point(|other| *other < spot) + 1
    }

    /// Takes an execution out; false if it does not wait here.
    pub(crate) fn remove(&mut self, spot: Spot) -> bool {
        let index = self.position(spot) - 1;
        let waits = self.waiting.get(index) == Some(&spot);
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
        let mut line = Line::new(LineKey::WHOLE);
        let spot = |id: i64| Spot { place: id * 10, id: ExecutionId(id) };
        let positions: Vec<_> = [5, 2, 9, 1].map(|id| line.insert(spot(id))).into();
        assert_eq!(positions, [1, 1, 3, 1]);
        assert_eq!(line.position(spot(9)), 4);
        assert_eq!(line.position(spot(6)), 4, "a place where nobody stands has a position too");
        assert!(line.remove(spot(2)) && !line.remove(spot(2)));
        let order: Vec<_> = std::iter::from_fn(|| line.pop()).map(|id| id.0).collect();
        assert_eq!(order, [1, 5, 9]);
    }
}
