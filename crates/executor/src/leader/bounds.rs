//! The settings of a leader, and what bounds it.

use std::time::Duration;

use super::mark::hand::{RESERVE, UNLOOKED_MAX};

/// What bounds a leader.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Inputs, by weight, that may gather while a batch commits; beyond, arrivals wait on the broker. With a batch of all
    /// there is, executor, database and worker would take turns; with several under way they work side by side.
    pub inputs_max: usize,
    /// Members of requests, by weight, that may gather beside them: neither a flood of requests nor a flood of anything
    /// else keeps the other out. Few, since what is accepted long before it can start is written once more.
    pub members_max: usize,
    /// Dead letters, by weight, that may wait for the broker; beyond, requests wait in their queue.
    pub unstored_max: usize,
    /// Inputs that are worth a batch of their own while another commits: it is packed and encoded then, so that the
    /// database need not wait for it. Fewer wait, and grow.
    pub worth_a_batch: usize,
    /// Requests that one turn may accept: as many numbers must be left.
    pub numbers_per_turn: i64,
    /// Numbers that one mark reserves, and the most marks that are left before those of others are looked for.
    pub reserve: i64,
    pub unlooked_max: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            inputs_max: 2_000,
            members_max: 500,
            unstored_max: 1_000,
            worth_a_batch: 500,
            numbers_per_turn: 2_000,
            reserve: RESERVE,
            unlooked_max: UNLOOKED_MAX,
        }
    }
}

/// The settings of a leader.
#[derive(Clone, Copy, Debug)]
pub struct LeaderSettings {
    pub lease: Duration,
    pub heartbeat: Duration,
    /// Events of one execution that are kept in full.
    pub events_kept: u64,
    pub bounds: Bounds,
}
