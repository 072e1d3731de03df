//! The live executions by their ids.
//!
//! Ids ascend without gaps, and millions may wait: neighbours share a page, packed, so that one that waits costs hardly
//! more than itself. Pages stand on shelves and shelves in cases, so that finding one is as short among millions as
//! among ten; a map by id would also leave its nodes half empty, since a map that only ever grows at its end splits
//! full nodes there. What has left leaves nothing behind: a page with few executions shrinks, and a shelf or case
//! without any is dropped.

use std::collections::BTreeMap;

use slotline_protocol::ExecutionId;

use crate::execution::Execution;

/// Ids that share a page, as a power of two: as many as `present` has bits.
const PAGE_BITS: u32 = u32::BITS.ilog2();
/// Pages of a shelf, and shelves of a case, as a power of two.
const SHELF_BITS: u32 = 6;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Executions {
    cases: BTreeMap<i64, Row<Option<Box<Row<Page>>>>>,
}

/// A row of shelves or of pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row<T> {
    /// How many of them are not empty.
    taken: usize,
    all: [T; 1 << SHELF_BITS],
}

impl<T: Default> Default for Row<T> {
    fn default() -> Self {
        Self { taken: 0, all: std::array::from_fn(|_| T::default()) }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Page {
    /// One bit for each id of the page.
    present: u32,
    /// The same for those that are bulky.
    bulky: u32,
    /// Those that are live, in order of id.
    executions: Vec<Execution>,
}

impl Page {
    /// Where the execution of this bit is, or would be.
    fn index(&self, bit: u32) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }

    fn has(&self, bit: u32) -> bool {
        self.present & bit != 0
    }
}

/// Where an execution is: its case, its shelf there, its page there, and its bit on that.
struct Address {
    case: i64,
    shelf: usize,
    page: usize,
    bit: u32,
}

impl Address {
    fn of(id: ExecutionId) -> Self {
        let part = |shift: u32, bits: u32| (id.0 >> shift) as usize & ((1 << bits) - 1);
        Self {
            case: id.0 >> (PAGE_BITS + 2 * SHELF_BITS),
            shelf: part(PAGE_BITS + SHELF_BITS, SHELF_BITS),
            page: part(PAGE_BITS, SHELF_BITS),
            bit: 1 << part(0, PAGE_BITS),
        }
    }
}

impl Executions {
    pub(crate) fn get(&self, id: &ExecutionId) -> Option<&Execution> {
        let at = Address::of(*id);
        let page = &self.cases.get(&at.case)?.all[at.shelf].as_ref()?.all[at.page];
        if page.has(at.bit) { page.executions.get(page.index(at.bit)) } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: &ExecutionId) -> Option<&mut Execution> {
        let at = Address::of(*id);
        let page = &mut self.cases.get_mut(&at.case)?.all[at.shelf].as_mut()?.all[at.page];
        let index = page.index(at.bit);
        if page.has(at.bit) { page.executions.get_mut(index) } else { None }
    }

    /// An execution that a line, slot, worker, timer or chain names: what settles is taken out of all of them.
    pub(crate) fn live(&self, id: ExecutionId) -> &Execution {
        self.get(&id).expect("what is named within the scheduler is live")
    }

    /// The same, to be changed.
    pub(crate) fn live_mut(&mut self, id: ExecutionId) -> &mut Execution {
        self.get_mut(&id).expect("what is named within the scheduler is live")
    }

    pub(crate) fn contains_key(&self, id: &ExecutionId) -> bool {
        self.get(id).is_some()
    }

    /// All of them, in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExecutionId, &Execution)> {
        let shelves = self.cases.iter().flat_map(|(case, row)| {
            let taken = row.all.iter().enumerate().filter_map(|(number, shelf)| Some((number, shelf.as_deref()?)));
            taken.map(move |(number, shelf)| (case << SHELF_BITS | number as i64, shelf))
        });
        let pages = shelves.flat_map(|(base, shelf)| {
            shelf.all.iter().enumerate().map(move |(number, page)| (base << SHELF_BITS | number as i64, page))
        });
        pages.flat_map(|(base, page)| {
            let bits = (0..u32::BITS).filter(|bit| page.present & (1 << bit) != 0);
            bits.map(move |bit| ExecutionId(base << PAGE_BITS | i64::from(bit))).zip(&page.executions)
        })
    }

    /// Whether the parameters of a live execution are large.
    pub(crate) fn is_bulky(&self, id: ExecutionId) -> bool {
        let at = Address::of(id);
        let shelf = self.cases.get(&at.case).and_then(|case| case.all[at.shelf].as_ref());
        shelf.is_some_and(|shelf| shelf.all[at.page].bulky & at.bit != 0)
    }

    /// Puts an execution where its id belongs; returns the one that was there.
    pub(crate) fn insert(&mut self, id: ExecutionId, execution: Execution, is_bulky: bool) -> Option<Execution> {
        let at = Address::of(id);
        let case = self.cases.entry(at.case).or_default();
        let shelf = case.all[at.shelf].get_or_insert_with(|| {
            case.taken += 1;
            Box::default()
        });
        let page = &mut shelf.all[at.page];
        let index = page.index(at.bit);
        if is_bulky {
            page.bulky |= at.bit;
        }
        if page.has(at.bit) {
            return Some(std::mem::replace(&mut page.executions[index], execution));
        }
        shelf.taken += usize::from(page.present == 0);
        page.present |= at.bit;
        page.executions.insert(index, execution);
        None
    }

    pub(crate) fn remove(&mut self, id: &ExecutionId) -> Option<Execution> {
        let at = Address::of(*id);
        let case = self.cases.get_mut(&at.case)?;
        let shelf = case.all[at.shelf].as_mut()?;
        let page = &mut shelf.all[at.page];
        if !page.has(at.bit) {
            return None;
        }
        let execution = page.executions.remove(page.index(at.bit));
        page.present &= !at.bit;
        page.bulky &= !at.bit;
        if page.executions.len() <= page.executions.capacity() / 4 {
            page.executions.shrink_to_fit();
        }
        if page.present == 0 {
            shelf.taken -= 1;
            if shelf.taken == 0 {
                case.all[at.shelf] = None;
                case.taken -= 1;
                if case.taken == 0 {
                    self.cases.remove(&at.case);
                }
            }
        }
        Some(execution)
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::{ActionId, Timestamp};

    use super::*;

    /// An execution that differs from the others in its action.
    fn execution(id: i64) -> Execution {
        Execution::requested(ActionId(id), None, Timestamp::from_micros(0))
    }

    fn filled(ids: impl IntoIterator<Item = i64>) -> Executions {
        let mut executions = Executions::default();
        for id in ids {
            assert_eq!(executions.insert(ExecutionId(id), execution(id), false), None);
        }
        executions
    }

    #[test]
    fn each_is_found_by_its_id_whichever_neighbours_came_and_went() {
        let mut executions = filled((1..200).rev());
        for gone in (1..200).filter(|id| id % 3 == 0) {
            assert_eq!(executions.remove(&ExecutionId(gone)), Some(execution(gone)));
            assert_eq!(executions.remove(&ExecutionId(gone)), None);
        }
        for id in 0..201 {
            let expected = ((1..200).contains(&id) && id % 3 != 0).then(|| execution(id));
            assert_eq!(executions.get(&ExecutionId(id)), expected.as_ref(), "{id}");
            assert_eq!(executions.get_mut(&ExecutionId(id)).cloned(), expected, "{id}");
            assert_eq!(executions.contains_key(&ExecutionId(id)), expected.is_some(), "{id}");
        }
        assert_eq!(executions.insert(ExecutionId(1), execution(77), false), Some(execution(1)));
        assert_eq!(executions.get(&ExecutionId(1)), Some(&execution(77)));
        assert_eq!(filled([5, 1, 64]), filled([64, 5, 1]), "the same whatever the order of insertion");
    }

    #[test]
    fn they_are_gone_through_in_order_of_id() {
        let ids = [1, 5, 31, 32, 63, 64, 2_047, 2_048, 131_071, 131_072, 1 << 40];
        let executions = filled(ids.into_iter().rev());
        let found: Vec<_> = executions.iter().map(|(id, found)| (id.0, found.action.0)).collect();
        assert_eq!(found, ids.map(|id| (id, id)));
    }

    /// The pages that are not empty, in order.
    fn pages(executions: &Executions) -> Vec<&Page> {
        let shelves = executions.cases.values().flat_map(|case| &case.all).flatten();
        shelves.flat_map(|shelf| &shelf.all).filter(|page| page.present != 0).collect()
    }

    #[test]
    fn neighbours_share_pages_shelves_and_cases() {
        let executions = filled(0..150_000);
        assert_eq!(executions.cases.len(), 2);
        assert_eq!(executions.cases[&0].taken, 64);
        assert_eq!(pages(&executions).len(), 150_000_usize.div_ceil(32));
        assert_eq!(executions.get(&ExecutionId(131_072)), Some(&execution(131_072)));
        assert_eq!(executions.get(&ExecutionId(150_000)), None);
    }

    #[test]
    fn what_has_left_keeps_no_memory() {
        let mut executions = filled(0..150_000);
        for gone in (0..150_000).filter(|id| id % 32 != 7) {
            executions.remove(&ExecutionId(gone));
        }
        assert!(pages(&executions).iter().all(|page| page.executions.capacity() <= 4), "a page with few shrinks");
        for last in (0..150_000).filter(|id| id % 32 == 7) {
            executions.remove(&ExecutionId(last));
        }
        assert_eq!(executions, Executions::default());
    }
}
