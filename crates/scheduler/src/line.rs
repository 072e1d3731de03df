//! One line: the executions that wait in it, and those that hold a slot of it.
//!
//! Order is by place, which comes from the journal's counter and never from arrival at a consumer.
//! Not here: whether a slot is free (`action`), retries (`retry`), deadlines (`deadline`).

use std::collections::VecDeque;

use slotline_protocol::{ExecutionId, Timestamp};

use crate::key::LineKey;
use crate::pool::Ticket;
use crate::slots::Slots;
use crate::window::LinePace;

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
    /// `None` as long as none was sent ahead.
    chain: Option<Box<LineChain>>,
    /// An execution was handed back since the slot was taken last: none is sent ahead again before the next takes it,
    /// or a worker that lacks the one before would get the same dispatch again and again.
    pub(crate) is_rebuffed: bool,
    /// Where the line stands among its action's lines; it stands there exactly while it is ready.
    pub(crate) ticket: Option<Ticket>,
}

/// What was sent ahead of a line, and how fast the line goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineChain {
    /// Executions that wait in the line and at a worker as well, in the order in which they are to start. No other
    /// execution of the line gets a slot before each of them has begun or is back.
    ahead: VecDeque<ExecutionId>,
    pub(crate) pace: LinePace,
}

impl Line {
    /// An empty line.
    pub(crate) fn new(key: LineKey) -> Self {
        Self { key, waiting: VecDeque::new(), slots: Slots::default(), chain: None, is_rebuffed: false, ticket: None }
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

    /// The executions that were sent ahead, in the order in which they are to start.
    pub(crate) fn ahead(&self) -> impl DoubleEndedIterator<Item = ExecutionId> {
        self.chain.iter().flat_map(|chain| chain.ahead.iter().copied())
    }

    pub(crate) fn ahead_len(&self) -> usize {
        self.chain.as_ref().map_or(0, |chain| chain.ahead.len())
    }

    pub(crate) fn pace(&self) -> LinePace {
        self.chain.as_ref().map_or_else(LinePace::default, |chain| chain.pace)
    }

    pub(crate) fn chain_mut(&mut self) -> &mut LineChain {
        self.chain.get_or_insert_default()
    }

    /// The execution that is to start before `id`, which was sent ahead; `None` if it is the first of its chain.
    pub(crate) fn ahead_of(&self, id: ExecutionId) -> Option<ExecutionId> {
        let ahead = &self.chain.as_ref()?.ahead;
        // The newest of a chain are asked for most.
        let index = ahead.iter().rposition(|other| *other == id)?;
        ahead.get(index.checked_sub(1)?).copied()
    }

    /// Takes `id` out of the chain, if it is there.
    pub(crate) fn unchain(&mut self, id: ExecutionId) {
        let Some(chain) = &mut self.chain else { return };
        if chain.ahead.front() == Some(&id) {
            chain.ahead.pop_front();
        } else {
            chain.ahead.retain(|other| *other != id);
        }
    }

    /// The executions behind all that were sent ahead; none if those do not stand first any more.
    pub(crate) fn behind_ahead(&self) -> impl Iterator<Item = ExecutionId> {
        let stand_first = self.waiting.iter().zip(self.ahead()).all(|(spot, id)| spot.id == id);
        let most = if stand_first { usize::MAX } else { 0 };
        self.waiting.iter().skip(self.ahead_len()).take(most).map(|spot| spot.id)
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

impl LineChain {
    /// Another one was sent, to start after all that were.
    pub(crate) fn push(&mut self, id: ExecutionId, now: Timestamp) {
        if self.ahead.is_empty() {
            self.pace.begin(now);
        }
        self.ahead.push_back(id);
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
