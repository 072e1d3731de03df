//! Which executor may lead, and how soon it tries again.
//!
//! Only an executor that can do the whole job leads. Without a broker that answers it does not seek the lock; a leader
//! whose own way to the broker is gone for longer than [`brokerless_max`] hands over, so that a standby whose broker
//! answers goes on. Where no executor has a broker none leads, and nothing is lost: requests stay on the broker, and
//! workers can send nothing either. A leader whose commits fail waits longer each time before it seeks again, so that
//! any standby that can write comes first.

use std::time::Duration;

use slotline_broker::Session;
use tokio::sync::watch;

/// The current session, if there is one.
pub(crate) type Current = watch::Receiver<Option<Session>>;

/// How long a leader may be without a broker: long enough for a broken connection to be made again, and far below the
/// lease, so that workers get the next leader's greeting long before their fences.
const BROKERLESS_MAX: Duration = Duration::from_secs(5);
/// How long a broker may take to open a session before the log reports that it does not answer.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Wait before leadership is sought again after a term that was of no use; doubled with each further one.
const SEEK_AGAIN: Duration = Duration::from_millis(300);
/// Doublings after which it grows no more: some five seconds.
const DOUBLINGS_MAX: u32 = 4;

/// The bound for an installation with this lease, which may be a short one.
pub(crate) fn brokerless_max(lease: Duration) -> Duration {
    BROKERLESS_MAX.min(lease / 3)
}

/// The pause after `failures` terms in a row that were of no use.
pub(crate) fn pause(failures: u32) -> Duration {
    // So that two executors do not keep step.
    let spread = Duration::from_millis(u64::from(std::process::id() % 200));
    SEEK_AGAIN * (1 << failures.saturating_sub(1).min(DOUBLINGS_MAX)) + spread
}

/// Returns once the broker answers: what is common to all executors is declared, and their replies are consumed.
pub(crate) async fn answers(current: &mut Current) {
    if current.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Returns once the session is over.
pub(crate) async fn is_gone(current: &mut Current) {
    if current.wait_for(Option::is_none).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_and_again_lets_others_come_first() {
        assert!(pause(0) < Duration::from_millis(500));
        assert_eq!(pause(0), pause(1));
        assert!(pause(2) > pause(1));
        assert_eq!(pause(5), pause(50));
        assert!(pause(50) < Duration::from_secs(6));
    }

    #[test]
    fn a_leader_hands_over_long_before_a_lease_ends() {
        assert_eq!(brokerless_max(Duration::from_secs(60)), BROKERLESS_MAX);
        assert!(brokerless_max(Duration::from_secs(6)) <= Duration::from_secs(2));
    }
}
