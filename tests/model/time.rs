//! Time in ticks, as coarse as the protocol allows: a tick is one heartbeat, the fence falls after two, the lease ends
//! after three.
//!
//! Everybody's clocks run at one rate, which is what the protocol asks for; that any daemon may be slow, or stand still,
//! is not a matter of clocks here: time may pass at any moment, whoever still has something to do.

use std::time::Duration;

use slotline_protocol::Timestamp;
use slotline_worker::duty::{Now, Terms};

use crate::mistake::Mistake;

/// Ticks since the world began.
pub(crate) type Tick = u8;

/// As long as the worker's shortest wait before it says an ending again.
const TICK: Duration = Duration::from_secs(2);

pub(crate) const TERMS: Terms = Terms { lease: Duration::from_secs(6), fence: Duration::from_secs(4), heartbeat: TICK };

/// What a worker goes by: nearly always what it should.
pub(crate) fn terms(mistake: Option<Mistake>) -> Terms {
    match mistake {
        Some(Mistake::KeepsNoFence) => Terms { lease: TICK * 101, fence: TICK * 100, heartbeat: TICK },
        _ => TERMS,
    }
}

/// What a worker's clocks say. The one for people stands still: nothing is decided by it.
pub(crate) fn of_worker(now: Tick) -> Now {
    Now { boot: TICK * u32::from(now), wall: Timestamp::from_micros(0) }
}

pub(crate) fn of_leader(now: Tick) -> Timestamp {
    Timestamp::from_micros(0) + TICK * u32::from(now)
}

/// The first tick that is not before this moment.
pub(crate) fn tick(moment: Duration) -> Tick {
    let ticks = moment.as_micros().div_ceil(TICK.as_micros());
    Tick::try_from(ticks).expect("a world ends before its clock does")
}
