//! Whose turn it is: actions that are served by the same set of workers take turns for their capacity.
//!
//! Grouping by the set of workers keeps a turn cheap: an action that nobody serves, or whose workers are all busy, is
//! never looked at again until one of them has room.

use std::collections::{BTreeMap, VecDeque};

use slotline_protocol::{ActionId, Incarnation};

use crate::action::Action;
use crate::worker::{Workers, least_loaded};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    ticket: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pool {
    servers: Vec<Incarnation>,
    /// Actions with someone to start, each with the ticket it drew when it came.
    ring: VecDeque<(u64, ActionId)>,
}

impl Pools {
    /// Sorts every action into the pool of its servers; turns already drawn are kept.
    pub(crate) fn rebuild(&mut self, actions: &mut BTreeMap<ActionId, Action>, workers: &Workers) {
        let mut drawn: Vec<(u64, ActionId)> = self.pools.drain(..).flat_map(|pool| pool.ring).collect();
        drawn.sort_unstable();
        let mut by_servers: BTreeMap<Vec<Incarnation>, usize> = BTreeMap::new();
        for action in actions.values_mut() {
            let servers: Vec<_> =
                workers.iter().filter(|(_, worker)| worker.serves(&action.action_ref)).map(|(id, _)| *id).collect();
            action.pool = *by_servers.entry(servers).or_insert_with_key(|servers| {
                self.pools.push(Pool { servers: servers.clone(), ring: VecDeque::new() });
                self.pools.len() - 1
            });
        }
        for (ticket, id) in drawn {
            if let Some(action) = actions.get(&id) {
                self.pools[action.pool].ring.push_back((ticket, id));
            }
        }
    }

    /// Sorts one new action into its pool.
    pub(crate) fn admit(&mut self, action: &mut Action, workers: &Workers) {
        let servers: Vec<_> =
            workers.iter().filter(|(_, worker)| worker.serves(&action.action_ref)).map(|(id, _)| *id).collect();
        action.pool = self.pools.iter().position(|pool| pool.servers == servers).unwrap_or_else(|| {
            self.pools.push(Pool { servers, ring: VecDeque::new() });
            self.pools.len() - 1
        });
    }

    /// Puts the action at the end of its ring, if someone of it may start and it does not stand there already.
    pub(crate) fn offer(&mut self, action: &mut Action) {
        if !action.in_turn && action.has_next() {
            action.in_turn = true;
            self.ticket += 1;
            self.pools[action.pool].ring.push_back((self.ticket, action.id));
        }
    }

    /// The action whose turn it is among those with a worker that has room, and that worker. It leaves its ring.
    pub(crate) fn next(&mut self, workers: &Workers) -> Option<(ActionId, Incarnation)> {
        let mut best: Option<(u64, usize, Incarnation)> = None;
        for (index, pool) in self.pools.iter().enumerate() {
            let Some((ticket, _)) = pool.ring.front() else { continue };
            if best.is_some_and(|(earliest, _, _)| earliest < *ticket) {
                continue;
            }
            if let Some(worker) = least_loaded(workers, &pool.servers) {
                best = Some((*ticket, index, worker));
            }
        }
        let (_, index, worker) = best?;
        let (_, action) = self.pools[index].ring.pop_front()?;
        Some((action, worker))
    }

    pub(crate) fn servers(&self, action: &Action) -> &[Incarnation] {
        &self.pools[action.pool].servers
    }
}
