//! The lines of an action, and whose turn it is among them.
//!
//! There may be a million of them, and every decision is about one: a line is found by one look into a table, and stays
//! where it is until it is closed. Neither the table's order nor a line's number is ever seen: a view of many lines
//! sorts them.
//! Not here: what lets a line be ready (`action`).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Index, IndexMut};

use hashbrown::HashTable;
use slab::Slab;

use crate::key::LineKey;
use crate::line::Line;
use crate::pool::Ticket;

/// A line as long as it is open; another may have its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineNumber(u32);

#[derive(Clone, Default)]
pub(crate) struct Lines {
    by_key: HashTable<Found>,
    open: Slab<Line>,
    /// The ready lines, in turn.
    ready: BTreeMap<Ticket, LineNumber>,
    last_ticket: Ticket,
}

/// What the table knows of a line: enough to pass over most others without going where they are.
#[derive(Clone, Copy)]
struct Found {
    digest: u32,
    number: LineNumber,
}

impl Found {
    /// Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): the table uses the first bits and the last.
    fn spread(digest: u32) -> u64 {
        u64::from(digest).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn hash(&self) -> u64 {
        Self::spread(self.digest)
    }
}

impl Lines {
    pub(crate) fn find(&self, key: &LineKey) -> Option<LineNumber> {
        let is_it = |found: &Found| found.digest == key.digest() && self[found.number].key == *key;
        self.by_key.find(Found::spread(key.digest()), is_it).map(|found| found.number)
    }

    pub(crate) fn get(&self, key: &LineKey) -> Option<&Line> {
        self.find(key).map(|number| &self[number])
    }

    /// The line of this key, opened if it is not.
    pub(crate) fn open(&mut self, key: LineKey) -> LineNumber {
        if let Some(number) = self.find(&key) {
            return number;
        }
        let digest = key.digest();
        let number = self.open.insert(Line::new(key));
        let number = LineNumber(u32::try_from(number).expect("memory ends before four billion lines"));
        self.by_key.insert_unique(Found::spread(digest), Found { digest, number }, Found::hash);
        number
    }

    /// Forgets a line that is not ready.
    pub(crate) fn close(&mut self, number: LineNumber) {
        let line = self.open.remove(number.0 as usize);
        debug_assert_eq!(line.ticket, None, "a line that stands in turn is not closed");
        let is_it = |found: &Found| found.number == number;
        if let Ok(found) = self.by_key.find_entry(Found::spread(line.key.digest()), is_it) {
            found.remove();
        }
    }

    /// Closes all lines and returns them. New turns are still drawn behind the old ones.
    pub(crate) fn close_all(&mut self) -> Self {
        let last_ticket = self.last_ticket;
        std::mem::replace(self, Self { last_ticket, ..Self::default() })
    }

    /// Lets a line stand in turn, at the end if it did not before, or nowhere.
    pub(crate) fn set_ready(&mut self, number: LineNumber, is_ready: bool) {
        let line = &mut self.open[number.0 as usize];
        match line.ticket {
            None if is_ready => {
                self.last_ticket = self.last_ticket.next();
                line.ticket = Some(self.last_ticket);
                self.ready.insert(self.last_ticket, number);
            }
            Some(ticket) if !is_ready => {
                line.ticket = None;
                self.ready.remove(&ticket);
            }
            Some(_) | None => {}
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether any but this line is ready.
    pub(crate) fn has_other_ready(&self, number: LineNumber) -> bool {
        self.ready.values().any(|other| *other != number)
    }

    /// Takes the line whose turn it is out of the turns.
    pub(crate) fn pop_ready(&mut self) -> Option<LineNumber> {
        let (_, number) = self.ready.pop_first()?;
        self[number].ticket = None;
        Some(number)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// All of them, in an order that means nothing.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Line> {
        self.open.iter().map(|(_, line)| line)
    }

    /// The numbers of all of them, as above.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = LineNumber> {
        self.open.iter().map(|(number, _)| LineNumber(number as u32))
    }
}

impl Index<LineNumber> for Lines {
    type Output = Line;

    fn index(&self, number: LineNumber) -> &Line {
        &self.open[number.0 as usize]
    }
}

impl IndexMut<LineNumber> for Lines {
    fn index_mut(&mut self, number: LineNumber) -> &mut Line {
        &mut self.open[number.0 as usize]
    }
}

/// The same for the same lines, in whatever order they were opened.
impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: BTreeMap<_, _> = self.iter().map(|line| (&line.key, line)).collect();
        f.debug_struct("Lines").field("open", &lines).field("last_ticket", &self.last_ticket).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn key(number: u32) -> LineKey {
        LineKey::new(Arc::from(format!("key {number}")))
    }

    #[test]
    fn each_is_found_by_its_key_whichever_others_came_and_went() {
        let mut lines = Lines::default();
        for number in 0..1_000 {
            let opened = lines.open(key(number));
            assert_eq!(lines.open(key(number)), opened, "it is open");
        }
        for number in (0..1_000).filter(|number| number % 3 == 0) {
            let found = lines.find(&key(number)).expect("it is open");
            lines.close(found);
        }
        for number in 0..1_001 {
            let found = lines.get(&key(number)).map(|line| &line.key);
            assert_eq!(found, (number % 3 != 0 && number < 1_000).then(|| key(number)).as_ref(), "{number}");
        }
        assert_eq!(lines.iter().count(), 666);
        assert_eq!(lines.numbers().count(), 666);
    }

    #[test]
    fn keys_of_one_digest_are_told_apart() {
        let mut digests = BTreeMap::new();
        let alike = |number| digests.insert(key(number).digest(), number).map(|other| (other, number));
        let (one, other) = (0..1_000_000).find_map(alike).expect("among a million there are two of one digest");
        let mut lines = Lines::default();
        let (first, second) = (lines.open(key(one)), lines.open(key(other)));
        assert_ne!(first, second);
        lines.close(first);
        assert_eq!((lines.find(&key(one)), lines.find(&key(other))), (None, Some(second)));
    }

    #[test]
    fn ready_lines_take_turns_and_show_the_same_however_they_were_opened() {
        let (mut one, mut other) = (Lines::default(), Lines::default());
        let [a, b, c] = [1, 2, 3].map(|number| one.open(key(number)));
        let [z, y, x] = [3, 2, 1].map(|number| other.open(key(number)));
        for (lines, numbers) in [(&mut one, [c, a, b]), (&mut other, [z, x, y])] {
            numbers.into_iter().for_each(|number| lines.set_ready(number, true));
            lines.set_ready(numbers[0], true);
            lines.set_ready(numbers[1], false);
            assert!(lines.has_other_ready(numbers[0]));
        }
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        assert_eq!([one.pop_ready(), one.pop_ready(), one.pop_ready()], [Some(c), Some(b), None]);
        assert!(!one.has_ready());
    }
}
