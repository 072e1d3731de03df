//! That everything ends: from every state that was found, a world in which nothing more goes wrong settles everything.
//!
//! A path on which a daemon never gets its turn settles nothing, and time that is cut off at a horizon leaves such paths
//! everywhere; so "on every path" would be false, and is not what is promised. What is checked is one fair path from
//! each state: everybody does what there is to do, a fixed order breaks ties, and time passes when nobody has anything
//! left. Each of its steps is a step of the world, taken past the horizon if need be, and every rule is held against it.
//! That this is so for every state, whatever went wrong before, is more than that each fair path ends well somewhere,
//! and less than that all do. Worlds where everybody acts in turn have no need of it: their own paths end.
//!
//! Since the next step follows from the state alone, paths run together; where one has ended well, all that join it do.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::action::Action;
use crate::rules;
use crate::shared::fingerprint;
use crate::time::Tick;
use crate::world::{Scale, World};

/// How long a world may take to settle everything, on top of what has passed.
pub(crate) const TICKS_MAX: Tick = 60;
/// How many steps it may take between two ticks: more than that is a loop.
const STEPS_MAX: usize = 2_000;
const SHARDS: u64 = 64;

/// The states from which everything is known to end well.
pub(crate) struct Completion {
    good: Vec<Mutex<HashSet<u64>>>,
}

impl Default for Completion {
    fn default() -> Self {
        Self { good: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Completion {
    /// Shows each step that has to be looked at, and the world it is taken in; the last one, if it does not end well.
    pub(crate) fn path(
        &self,
        scale: &Scale,
        world: &World,
        mut show: impl FnMut(Action, &World),
    ) -> Result<(), Box<World>> {
        let mut world = world.clone();
        world.go_straight();
        let deadline = world.now + TICKS_MAX;
        let mut passed = Vec::new();
        let mut steps = 0;
        while !rules::everything_is_settled(&world) {
            let fingerprint = fingerprint(&world);
            if self.shard(fingerprint, |good| good.contains(&fingerprint)) {
                break;
            }
            passed.push(fingerprint);
            let action = world.fair_turn();
            steps = if action == Action::Tick { 0 } else { steps + 1 };
            show(action, &world);
            world.take(scale, action);
            if rules::broken(scale, &world).is_some() || world.now >= deadline || steps > STEPS_MAX {
                return Err(Box::new(world));
            }
        }
        for fingerprint in passed {
            self.shard(fingerprint, |good| good.insert(fingerprint));
        }
        Ok(())
    }

    fn shard<R>(&self, fingerprint: u64, with: impl FnOnce(&mut HashSet<u64>) -> R) -> R {
        let index = usize::try_from(fingerprint % SHARDS).expect("a small number");
        with(&mut self.good[index].lock().unwrap_or_else(PoisonError::into_inner))
    }
}
