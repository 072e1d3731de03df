//! The live executions by their ids.
//!
//! Ids ascend without gaps, and millions may wait: neighbours share a page, packed, so that one that waits costs hardly
//! more than itself, and finding it is a look-up among pages. A map by id would leave its nodes half empty, since a map
//! that only ever grows at its end splits full nodes there. What has left leaves nothing behind: a page without anyone is
//! dropped, and one with few shrinks.

use std::collections::BTreeMap;

use slotline_protocol::ExecutionId;

use crate::execution::Execution;

/// Ids that share a page; as many as `live` has bits.
const PAGE_BITS: u32 = u32::BITS.ilog2();

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Executions {
    pages: BTreeMap<i64, Page>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Page {
    /// One bit for each id of the page.
    live: u32,
    /// Those that are live, in order of id.
    executions: Vec<Execution>,
}

/// The page of an id, and its bit there.
fn address(id: ExecutionId) -> (i64, u32) {
    let within = id.0 & i64::from(u32::BITS - 1);
    (id.0 >> PAGE_BITS, 1 << within)
}

impl Page {
    /// Where the execution of this bit is, or would be.
    fn index(&self, bit: u32) -> usize {
        (self.live & (bit - 1)).count_ones() as usize
    }

    fn has(&self, bit: u32) -> bool {
        self.live & bit != 0
    }
}

impl Executions {
    pub(crate) fn get(&self, id: &ExecutionId) -> Option<&Execution> {
        let (number, bit) = address(*id);
        let page = self.pages.get(&number).filter(|page| page.has(bit))?;
        page.executions.get(page.index(bit))
    }

    pub(crate) fn get_mut(&mut self, id: &ExecutionId) -> Option<&mut Execution> {
        let (number, bit) = address(*id);
        let page = self.pages.get_mut(&number).filter(|page| page.has(bit))?;
        let index = page.index(bit);
        page.executions.get_mut(index)
    }

    pub(crate) fn contains_key(&self, id: &ExecutionId) -> bool {
        self.get(id).is_some()
    }

    /// Puts an execution where its id belongs; gives back the one that was there.
    pub(crate) fn insert(&mut self, id: ExecutionId, execution: Execution) -> Option<Execution> {
        let (number, bit) = address(id);
        let page = self.pages.entry(number).or_default();
        let index = page.index(bit);
        if page.has(bit) {
            return Some(std::mem::replace(&mut page.executions[index], execution));
        }
        page.live |= bit;
        page.executions.insert(index, execution);
        None
    }

    pub(crate) fn remove(&mut self, id: &ExecutionId) -> Option<Execution> {
        let (number, bit) = address(*id);
        let page = self.pages.get_mut(&number).filter(|page| page.has(bit))?;
        let execution = page.executions.remove(page.index(bit));
        page.live &= !bit;
        if page.live == 0 {
            self.pages.remove(&number);
        } else if page.executions.len() <= page.executions.capacity() / 4 {
            page.executions.shrink_to_fit();
        }
        Some(execution)
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::{ActionId, Timestamp};

    use super::*;

    /// One that is told from the others by its action.
    fn execution(id: i64) -> Execution {
        Execution::requested(ActionId(id), None, Timestamp::from_micros(0))
    }

    fn filled(ids: impl IntoIterator<Item = i64>) -> Executions {
        let mut executions = Executions::default();
        for id in ids {
            assert_eq!(executions.insert(ExecutionId(id), execution(id)), None);
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
        assert_eq!(executions.insert(ExecutionId(1), execution(77)), Some(execution(1)));
        assert_eq!(executions.get(&ExecutionId(1)), Some(&execution(77)));
        assert_eq!(filled([5, 1, 64]), filled([64, 5, 1]), "the same whatever the order of insertion");
    }

    #[test]
    fn neighbours_share_a_page() {
        assert_eq!(filled(0..3_200).pages.len(), 100);
    }

    #[test]
    fn what_has_left_keeps_no_memory() {
        let mut executions = filled(0..3_200);
        for gone in (0..3_200).filter(|id| id % 32 != 7) {
            executions.remove(&ExecutionId(gone));
        }
        assert!(executions.pages.values().all(|page| page.executions.capacity() <= 4), "a page with few shrinks");
        for last in (0..3_200).filter(|id| id % 32 == 7) {
            executions.remove(&ExecutionId(last));
        }
        assert_eq!(executions, Executions::default());
    }
}
