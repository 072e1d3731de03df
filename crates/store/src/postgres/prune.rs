//! Forgetting what ended long ago, beside the leader's commits and not among them.
//!
//! Each step is one statement, so that it is one short transaction. It looks at the epoch without a lock, since the
//! leader's commits change that row all the time; a leader deposed meanwhile forgets only what its follower would
//! forget, too.

use slotline_protocol::{Epoch, Timestamp};
use sqlx::postgres::PgConnection;

use super::Journal;
use crate::Error;
use crate::deadline::{borrow, within};
use crate::leadership::{PARTITION, PRUNE_CHUNK};
use crate::stamp::Stamp;

/// An execution whose last events are awaited is kept: the leader is still going to write of it.
const PRUNE: &str = "WITH old AS MATERIALIZED (SELECT id FROM history WHERE ended_at < $1 \
    AND EXISTS (SELECT FROM leadership WHERE partition_id = $3 AND epoch = $4) \
    AND NOT EXISTS (SELECT FROM stories WHERE execution_id = history.id AND awaits IS NOT NULL) \
    ORDER BY ended_at, id LIMIT $2), \
    gone AS (DELETE FROM history USING old WHERE history.id = old.id RETURNING message_id), \
    names AS (DELETE FROM messages USING gone WHERE messages.message_id = gone.message_id), \
    tries AS (DELETE FROM attempts USING old WHERE execution_id = old.id), \
    told AS (DELETE FROM events USING old WHERE execution_id = old.id), \
    tales AS (DELETE FROM stories USING old WHERE execution_id = old.id) \
    SELECT count(*) FROM gone";

const LEADS: &str = "SELECT EXISTS (SELECT FROM leadership WHERE partition_id = $1 AND epoch = $2)";

const PRUNE_INCARNATIONS: &str = "DELETE FROM ended_incarnations WHERE ended_at < $1";

const PRUNE_ACTIONS: &str = "WITH gone AS (DELETE FROM actions WHERE deleted_at < $1 \
    AND NOT EXISTS (SELECT FROM history WHERE action_id = actions.id) \
    AND NOT EXISTS (SELECT FROM live WHERE action_id = actions.id) RETURNING id), \
    timeouts AS (DELETE FROM action_timeouts USING gone WHERE action_id = gone.id) \
    DELETE FROM action_totals USING gone WHERE action_id = gone.id";

/// Entries of executions and dead letters, as long as history is kept.
const PRUNE_AUDIT: &str = "DELETE FROM audit WHERE at < $1 AND fence IS NULL";

/// Entries of actions, for a year longer; and the newest of each action for as long as there is the action, since
/// grants after it are judged by it.
const PRUNE_COURSES: &str = "DELETE FROM audit WHERE at < $1 - interval '365 days' AND fence IS NOT NULL \
    AND (EXISTS (SELECT FROM audit AS later WHERE later.action_id = audit.action_id AND later.id > audit.id \
    AND later.fence IS NOT NULL \
    AND later.at < $1 - interval '365 days') \
    OR NOT EXISTS (SELECT FROM actions WHERE actions.id = audit.action_id))";

impl Journal {
    pub(crate) async fn prune(&self, epoch: Epoch, settled_before: Timestamp, max: u32) -> Result<u64, Error> {
        let mut connection = borrow(&self.pool).await?;
        let pruned = prune(&mut connection, epoch, settled_before, max).await;
        if pruned.is_ok() {
            connection.give_back();
        }
        pruned
    }
}

pub(super) async fn prune(
    connection: &mut PgConnection,
    epoch: Epoch,
    settled_before: Timestamp,
    max: u32,
) -> Result<u64, Error> {
    let before = Stamp(settled_before);
    let mut pruned = 0;
    while pruned < i64::from(max) {
        let chunk = (i64::from(max) - pruned).min(PRUNE_CHUNK);
        let step = sqlx::query_scalar(PRUNE).bind(before).bind(chunk).bind(PARTITION).bind(epoch.0).persistent(false);
        let gone: i64 = within(step.fetch_one(&mut *connection)).await?;
        pruned += gone;
        if gone < chunk {
            let leads = sqlx::query_scalar(LEADS).bind(PARTITION).bind(epoch.0).persistent(false);
            if !within(leads.fetch_one(&mut *connection)).await? {
                return Err(Error::LeadershipOver);
            }
            for rest in [PRUNE_INCARNATIONS, PRUNE_ACTIONS, PRUNE_AUDIT, PRUNE_COURSES] {
                within(sqlx::query(rest).bind(before).persistent(false).execute(&mut *connection)).await?;
            }
            break;
        }
    }
    Ok(u64::try_from(pruned).unwrap_or(0))
}
