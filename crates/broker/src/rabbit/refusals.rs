//! Addresses where publications are refused again and again.
//!
//! A quorum queue that was full notifies each channel when it has room again. RabbitMQ does not if the bound was lifted
//! meanwhile, by a policy that was set and cleared: publications on that channel are then refused for ever, and those
//! on another are taken. So a session that has been refused for a while ends, and the next one is accepted.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long an address may be refused. If its queue is really full, this is how often a session ends in vain.
pub(super) const REFUSED_MAX: Duration = Duration::from_secs(60);
/// Refusals further apart are counted anew.
const APART: Duration = Duration::from_secs(30);
/// The most addresses that are remembered; beyond, all are forgotten.
const ADDRESSES_MAX: usize = 1000;

#[derive(Clone, Copy, Debug)]
struct RefusalPeriod {
    since: Instant,
    last: Instant,
}

/// By a digest of the address.
#[derive(Debug, Default)]
pub(super) struct RefusedAddresses(HashMap<u64, RefusalPeriod>);

impl RefusedAddresses {
    pub(super) fn taken(&mut self, address: u64) {
        if !self.0.is_empty() {
            self.0.remove(&address);
        }
    }

    /// Records a refusal; true if refusals have lasted too long.
    pub(super) fn refused(&mut self, address: u64, now: Instant) -> bool {
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&address) {
            self.0.clear();
        }
        let refused = self.0.entry(address).or_insert(RefusalPeriod { since: now, last: now });
        if now - refused.last > APART {
            refused.since = now;
        }
        refused.last = now;
        now - refused.since >= REFUSED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the last of refusals at these seconds is one too many; `taken` is when something was taken in between.
    fn lasts(seconds: impl IntoIterator<Item = u64>, taken: Option<u64>) -> bool {
        let (begun, mut refusals) = (Instant::now(), RefusedAddresses::default());
        let mut lasts = false;
        for second in seconds {
            if taken == Some(second) {
                refusals.taken(7);
            }
            refusals.refused(8, begun + Duration::from_secs(second));
            lasts = refusals.refused(7, begun + Duration::from_secs(second));
        }
        lasts
    }

    #[test]
    fn only_what_is_refused_again_and_again_for_a_minute_is_refused_for_good() {
        assert!(lasts(0..=60, None));
        assert!(!lasts(0..60, None));
        assert!(!lasts(0..=60, Some(5)), "it was taken once");
        assert!(!lasts([0, 20, 55, 80], None), "nothing was tried for a while");
        assert!(!lasts([0, 3600], None));
    }
}
