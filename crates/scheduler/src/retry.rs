//! Back-off as arithmetic: doubling, capped, and spread by a seed that the caller can repeat.

use std::time::Duration;

use slotline_protocol::ExecutionId;
use slotline_protocol::policy::Retry;

/// A wait is stretched by up to a fifth, so that what failed together does not return together.
const SPREAD_PERCENT: u128 = 20;

/// The wait before the next attempt of `id`, after `failures` (at least one) of them.
pub(crate) fn backoff(retry: &Retry, id: ExecutionId, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(32);
    let base = retry.backoff.saturating_mul(2_u32.saturating_pow(doublings)).min(retry.backoff_max);
    let seed = mix((id.0 as u64).rotate_left(32) ^ u64::from(failures));
    let extra = base.as_micros() * SPREAD_PERCENT * u128::from(seed % 1024) / (100 * 1024);
    base.saturating_add(Duration::from_micros(u64::try_from(extra).unwrap_or(u64::MAX)))
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_cap_and_is_spread_by_a_fifth() {
        let retry = Retry {
            max_attempts: 9,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(5),
            keep_place: false,
        };
        for (failures, base) in [(1, 1), (2, 2), (3, 4), (4, 5), (40, 5)] {
            for id in 0..100 {
                let wait = backoff(&retry, ExecutionId(id), failures);
                assert!(wait >= Duration::from_secs(base) && wait <= Duration::from_millis(base * 1200), "{wait:?}");
            }
        }
        let waits: std::collections::BTreeSet<_> = (0..100).map(|id| backoff(&retry, ExecutionId(id), 1)).collect();
        assert!(waits.len() > 50, "waits of different executions differ");
        let (first, last) = (waits.first().expect("some"), waits.last().expect("some"));
        assert!(*first < Duration::from_millis(1020) && *last > Duration::from_millis(1180), "{first:?} to {last:?}");
    }

    /// The generator's published outputs for the seed 0.
    #[test]
    fn the_finalizer_is_that_of_splitmix64() {
        let outputs = [0, 0x9e37_79b9_7f4a_7c15, 0x3c6e_f372_fe94_f82a].map(mix);
        assert_eq!(outputs, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
