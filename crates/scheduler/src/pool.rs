//! Whose turn it is, and on which worker: actions that are served by the same set of workers form a pool and take turns
//! for its capacity.
//!
//! Every step is logarithmic in lines, actions and workers: an action that no worker serves, or whose workers are all
//! busy, is never looked at until a worker has room. Not here: what a worker is (`worker`).

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::{ActionId, ActionRef, Incarnation};

use crate::action::{ActionLines, Actions};
use crate::worker::{Seat, Worker};

/// A place in a ring of turns: a ticket that is drawn later stands further back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

impl Ticket {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolId(u64);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Pools {
    pools: BTreeMap<PoolId, Pool>,
    by_servers: BTreeMap<BTreeSet<Incarnation>, PoolId>,
    servers: BTreeMap<Incarnation, Server>,
    actions: BTreeMap<ActionRef, ActionId>,
    /// Pools with an execution to start and a worker with room, by the ticket of the first action in their ring.
    open: BTreeMap<Ticket, PoolId>,
    last_ticket: Ticket,
    last_pool: PoolId,
    /// Pools in whose ring an action has come to stand; see [`Self::take_wanted`].
    joined: Vec<PoolId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pool {
    servers: BTreeSet<Incarnation>,
    /// How many actions belong to it; a pool without any is dropped.
    members: usize,
    /// Actions with an execution to start, in turn.
    ring: BTreeMap<Ticket, ActionId>,
    /// Workers with room, the least loaded first.
    room: BTreeSet<Seat>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Server {
    serves: BTreeSet<ActionRef>,
    pools: BTreeSet<PoolId>,
    /// As it stands in the `room` of its pools.
    seat: Option<Seat>,
}

impl Pool {
    fn turn(&self) -> Option<Ticket> {
        if self.room.is_empty() { None } else { self.ring.keys().next().copied() }
    }
}

impl Pools {
    /// The action whose turn it is among those with a worker that has room, and the least loaded such worker.
    pub(crate) fn next(&self) -> Option<(ActionId, Incarnation)> {
        let pool = self.pools.get(self.open.values().next()?)?;
        Some((*pool.ring.values().next()?, pool.room.first()?.incarnation))
    }

    /// Brings an action's turn up to date after any change of it.
    pub(crate) fn update_turn(&mut self, action: &mut ActionLines) {
        let has_next = action.has_next();
        if has_next != action.ticket.is_some() {
            self.turn(action, has_next);
        }
    }

    /// Sends an action that had its turn to the end of its ring, or out of it.
    pub(crate) fn end_turn(&mut self, action: &mut ActionLines) {
        let has_next = action.has_next();
        let is_last = action.ticket == Some(self.last_ticket);
        if !(has_next && is_last) {
            self.turn(action, has_next);
        }
    }

    /// Puts an action at the end of its ring, or nowhere, from wherever it stood there.
    fn turn(&mut self, action: &mut ActionLines, stands: bool) {
        let before = action.ticket.take();
        if stands && before.is_none() {
            self.joined.push(action.pool);
        }
        if stands {
            self.last_ticket = self.last_ticket.next();
            action.ticket = Some(self.last_ticket);
        }
        let (after, id) = (action.ticket, action.id);
        self.change(action.pool, |pool| {
            before.map(|ticket| pool.ring.remove(&ticket));
            after.map(|ticket| pool.ring.insert(ticket, id));
        });
    }

    /// Takes a new action, and finds the pool of the workers that serve it.
    pub(crate) fn admit(&mut self, action: &mut ActionLines) {
        self.actions.insert(action.action_ref.clone(), action.id);
        let serves = |server: &Server| server.serves.contains(&action.action_ref);
        let servers = self.servers.iter().filter(|(_, server)| serves(server)).map(|(id, _)| *id).collect();
        action.pool = self.pool_of(servers);
        self.change(action.pool, |pool| pool.members += 1);
    }

    pub(crate) fn dismiss_action(&mut self, action: &mut ActionLines) {
        self.turn(action, false);
        self.actions.remove(&action.action_ref);
        self.leave(action.pool);
    }

    /// Takes what a worker serves from now on; the actions concerned change pools and keep their turns.
    pub(crate) fn serve(&mut self, incarnation: Incarnation, serves: BTreeSet<ActionRef>, actions: &mut Actions) {
        let server = self.servers.entry(incarnation).or_default();
        let changed: Vec<_> = server.serves.symmetric_difference(&serves).cloned().collect();
        server.serves = serves;
        let mut moves: BTreeMap<PoolId, PoolId> = BTreeMap::new();
        for action_ref in changed {
            // A worker may serve an action that is not declared yet.
            let Some(action) = self.actions.get(&action_ref).and_then(|id| actions.get_mut(id)) else { continue };
            let from = action.pool;
            let to = match moves.get(&from) {
                Some(to) => *to,
                None => {
                    let mut servers = self.servers_of(action).clone();
                    if !servers.remove(&incarnation) {
                        servers.insert(incarnation);
                    }
                    *moves.entry(from).or_insert(self.pool_of(servers))
                }
            };
            self.change(from, |pool| {
                action.ticket.map(|ticket| pool.ring.remove(&ticket));
            });
            self.change(to, |pool| {
                pool.members += 1;
                pool.ring.extend(action.ticket.map(|ticket| (ticket, action.id)));
            });
            action.pool = to;
            if action.ticket.is_some() {
                self.joined.push(to);
            }
            self.leave(from);
        }
    }

    /// A worker no longer serves this one action.
    pub(crate) fn unserve(&mut self, incarnation: Incarnation, action_ref: &ActionRef, actions: &mut Actions) {
        // A worker that has introduced itself to an earlier leader alone serves nothing yet.
        let Some(server) = self.servers.get(&incarnation) else { return };
        let mut serves = server.serves.clone();
        if serves.remove(action_ref) {
            self.serve(incarnation, serves, actions);
        }
    }

    /// An incarnation is no more.
    pub(crate) fn dismiss_worker(&mut self, incarnation: Incarnation, actions: &mut Actions) {
        self.serve(incarnation, BTreeSet::new(), actions);
        self.servers.remove(&incarnation);
    }

    /// Brings a worker's room up to date after any change of what it holds or can hold.
    pub(crate) fn update_room(&mut self, incarnation: Incarnation, worker: &Worker) {
        let seat = worker.seat(incarnation);
        // A worker that has introduced itself to an earlier leader alone has no room here yet.
        let Some(server) = self.servers.get_mut(&incarnation) else { return };
        if server.seat == seat {
            return;
        }
        let before = std::mem::replace(&mut server.seat, seat);
        for pool in &server.pools {
            change(&mut self.pools, &mut self.open, *pool, |pool| {
                before.map(|seat| pool.room.remove(&seat));
                seat.map(|seat| pool.room.insert(seat));
            });
        }
    }

    /// The workers that serve the action.
    pub(crate) fn servers_of(&self, action: &ActionLines) -> &BTreeSet<Incarnation> {
        static NOBODY: BTreeSet<Incarnation> = BTreeSet::new();
        self.pools.get(&action.pool).map_or(&NOBODY, |pool| &pool.servers)
    }

    /// Actions with an execution to start and no open worker that serves them.
    pub(crate) fn unserved(&self, is_open: impl Fn(Incarnation) -> bool) -> impl Iterator<Item = ActionId> {
        let waits = |pool: &&Pool| !pool.ring.is_empty();
        let is_unserved = move |pool: &&Pool| !pool.servers.iter().any(|server| is_open(*server));
        self.pools.values().filter(waits).filter(is_unserved).flat_map(|pool| pool.ring.values().copied())
    }

    /// The action of this name.
    pub(crate) fn action_named(&self, action_ref: &ActionRef) -> Option<ActionId> {
        self.actions.get(action_ref).copied()
    }

    /// The workers whose room an action has come to wait for since the last call. To be called when every execution that
    /// can have a slot has one.
    pub(crate) fn take_wanted(&mut self) -> BTreeSet<Incarnation> {
        if self.joined.is_empty() {
            return BTreeSet::new();
        }
        let waits = |id: &PoolId| self.pools.get(id).filter(|pool| !pool.ring.is_empty());
        let wanted = self.joined.iter().filter_map(waits).flat_map(|pool| pool.servers.iter().copied()).collect();
        self.joined.clear();
        wanted
    }

    /// The same where it is of no interest.
    #[inline]
    pub(crate) fn forget_wanted(&mut self) {
        self.joined.clear();
    }

    /// Whether no execution that may start waits for room on this worker.
    pub(crate) fn is_unwanted(&self, incarnation: Incarnation) -> bool {
        // A worker that serves nothing yet is offered nothing.
        let Some(server) = self.servers.get(&incarnation) else { return false };
        server.pools.iter().filter_map(|id| self.pools.get(id)).all(|pool| pool.ring.is_empty())
    }

    fn pool_of(&mut self, servers: BTreeSet<Incarnation>) -> PoolId {
        if let Some(id) = self.by_servers.get(&servers) {
            return *id;
        }
        self.last_pool = PoolId(self.last_pool.0 + 1);
        let id = self.last_pool;
        let mut room = BTreeSet::new();
        for incarnation in &servers {
            if let Some(server) = self.servers.get_mut(incarnation) {
                server.pools.insert(id);
                room.extend(server.seat);
            }
        }
        self.by_servers.insert(servers.clone(), id);
        self.pools.insert(id, Pool { servers, members: 0, ring: BTreeMap::new(), room });
        id
    }

    fn leave(&mut self, id: PoolId) {
        self.change(id, |pool| pool.members -= 1);
        if self.pools.get(&id).is_some_and(|pool| pool.members == 0)
            && let Some(pool) = self.pools.remove(&id)
        {
            self.by_servers.remove(&pool.servers);
            for incarnation in pool.servers {
                if let Some(server) = self.servers.get_mut(&incarnation) {
                    server.pools.remove(&id);
                }
            }
        }
    }

    fn change(&mut self, id: PoolId, change_it: impl FnOnce(&mut Pool)) {
        change(&mut self.pools, &mut self.open, id, change_it);
    }
}

/// Changes a pool, and keeps `open` true.
fn change(
    pools: &mut BTreeMap<PoolId, Pool>,
    open: &mut BTreeMap<Ticket, PoolId>,
    id: PoolId,
    change: impl FnOnce(&mut Pool),
) {
    let pool = pools.get_mut(&id).expect("a pool stays as long as any action belongs to it");
    let before = pool.turn();
    change(pool);
    let after = pool.turn();
    if before != after {
        before.map(|ticket| open.remove(&ticket));
        after.map(|ticket| open.insert(ticket, id));
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::{Policy, WorkerName};
    use uuid::Uuid;

    use super::*;
    use crate::Limits;

    #[test]
    fn a_pool_that_no_action_belongs_to_is_dropped() {
        let mut pools = Pools::default();
        let mut actions = Actions::default();
        for id in 0..4 {
            let action_ref = ActionRef::new(&format!("test.a{id}")).expect("a name");
            let mut action = ActionLines::new(ActionId(id), action_ref, Limits::from(&Policy::default()), false);
            pools.admit(&mut action);
            actions.insert(action.id, action);
        }
        for life in 0..50 {
            let incarnation = Incarnation(Uuid::from_u128(life));
            let name = WorkerName::new("w").expect("a name");
            let chosen = |action: &&ActionLines| action.id.0 as u128 <= life % 4;
            let serves = actions.values().filter(chosen).map(|action| action.action_ref.clone()).collect();
            pools.serve(incarnation, serves, &mut actions);
            pools.update_room(incarnation, &Worker::remembered(name, slotline_protocol::Timestamp::default()));
            assert!(pools.pools.len() <= 5, "{pools:?}");
            if life >= 2 {
                pools.dismiss_worker(Incarnation(Uuid::from_u128(life - 2)), &mut actions);
            }
            assert!(pools.servers.len() <= 2);
        }
        let known = |server: &Server| server.pools.iter().all(|id| pools.pools.contains_key(id));
        assert!(pools.servers.values().all(known));
        assert_eq!(pools.by_servers.len(), pools.pools.len());
        for action in actions.values_mut() {
            pools.dismiss_action(action);
        }
        assert!(pools.pools.is_empty() && pools.by_servers.is_empty() && pools.actions.is_empty(), "{pools:?}");
    }
}
