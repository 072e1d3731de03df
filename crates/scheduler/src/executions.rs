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
