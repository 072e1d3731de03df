//! Forgetting executions that are older than the retention: beside the leader's loop and on a connection of its own.

use std::time::Duration;

use slotline_broker::crash;
use slotline_protocol::Epoch;
use slotline_protocol::chain;
use slotline_store::Store;
use tokio::task::AbortHandle;

use super::clock::Clock;

/// Executions forgotten at once.
const SLICE_MAX: u32 = 200;
/// How often old ones are looked for, and how soon again while there are more.
const EVERY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// Prunes until it is aborted, which may be at any moment.
pub(crate) fn start(store: Store, retention: Duration, epoch: Epoch, clock: Clock) -> AbortHandle {
    let pruning = async move {
        loop {
            crash::point("executor.prune.before");
            let pruned = store.prune(epoch, clock.now() - retention, SLICE_MAX).await;
            crash::point("executor.prune.after");
            let pause = match pruned {
                Ok(pruned) if pruned >= u64::from(SLICE_MAX) => AGAIN,
                Ok(_) => EVERY,
                // The loop is about to find out, too.
                Err(slotline_store::Error::LeadershipOver) => return,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "history can't be pruned now");
                    EVERY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::spawn(pruning).abort_handle()
}
