//! Forgetting what ended long ago, in steps small enough for a commit to wait behind one.
//!
//! SQLite has one writer. It is given back after each step, and the first caller that waits for it has it next.

use slotline_protocol::{Epoch, Timestamp};
use sqlx::{Connection, SqliteConnection};

use super::Journal;
use crate::Error;
use crate::deadline::{borrow, within};
use crate::leadership::{PARTITION, PRUNE_CHUNK};
use crate::stamp::Stamp;

/// The rows that a step forgets. An execution whose last events are awaited is kept: the leader is still going to write
/// of it.
macro_rules! old {
    ($delete:literal $(, $end:literal)?) => {
        concat!(
            $delete,
            " IN (SELECT id FROM history WHERE ended_at < $1 AND NOT EXISTS (SELECT 1 FROM stories ",
            "WHERE execution_id = history.id AND awaits IS NOT NULL) ORDER BY ended_at, id LIMIT $2)",
            $($end,)?
        )
    };
}

const PRUNE_ATTEMPTS: &str = old!("DELETE FROM attempts WHERE execution_id");
const PRUNE_EVENTS: &str = old!("DELETE FROM events WHERE execution_id");
const PRUNE_STORIES: &str = old!("DELETE FROM stories WHERE execution_id");
const PRUNE_MESSAGES: &str =
    old!("DELETE FROM messages WHERE message_id IN (SELECT message_id FROM history WHERE id", ")");
/// Runs last, since it decides which executions the other statements find.
const PRUNE: &str = old!("DELETE FROM history WHERE id");

const LEADS: &str = "SELECT EXISTS (SELECT 1 FROM leadership WHERE partition_id = $1 AND epoch = $2)";

const PRUNE_INCARNATIONS: &str = "DELETE FROM ended_incarnations WHERE ended_at < $1";

const PRUNE_TOTALS: &str = "DELETE FROM action_totals WHERE action_id IN (SELECT id FROM actions \
    WHERE deleted_at < $1 AND id NOT IN (SELECT action_id FROM history) AND id NOT IN (SELECT action_id FROM live))";

const PRUNE_TIMEOUTS: &str = "DELETE FROM action_timeouts WHERE action_id IN (SELECT id FROM actions \
    WHERE deleted_at < $1 AND id NOT IN (SELECT action_id FROM history) AND id NOT IN (SELECT action_id FROM live))";

const PRUNE_ACTIONS: &str = "DELETE FROM actions WHERE deleted_at < $1 \
    AND id NOT IN (SELECT action_id FROM history) AND id NOT IN (SELECT action_id FROM live)";

/// Entries of executions and dead letters, as long as history is kept.
const PRUNE_AUDIT: &str = "DELETE FROM audit WHERE at < $1 AND fence IS NULL";

/// Entries of actions, for a year longer; and the newest of each action for as long as there is the action, since
/// grants after it are judged by it.
const PRUNE_COURSES: &str = "DELETE FROM audit WHERE at < $1 - 31536000000000 AND fence IS NOT NULL \
    AND (EXISTS (SELECT 1 FROM audit AS later WHERE later.action_id = audit.action_id AND later.id > audit.id \
    AND later.fence IS NOT NULL \
    AND later.at < $1 - 31536000000000) \
    OR NOT EXISTS (SELECT 1 FROM actions WHERE actions.id = audit.action_id))";

impl Journal {
    pub(crate) async fn prune(&self, epoch: Epoch, settled_before: Timestamp, max: u32) -> Result<u64, Error> {
        let mut pruned = 0;
        while pruned < u64::from(max) {
            let chunk = (u64::from(max) - pruned).min(PRUNE_CHUNK.unsigned_abs());
            let mut connection = borrow(&self.writer).await?;
            let step = within(step(&mut connection, epoch, settled_before, chunk)).await?;
            let gone = step.ok_or(Error::LeadershipOver)?;
            connection.give_back();
            pruned += gone;
            if gone < chunk {
                break;
            }
        }
        Ok(pruned)
    }
}

/// Forgets up to `chunk` executions, and returns how many; `None` if another leads.
async fn step(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    before: Timestamp,
    chunk: u64,
) -> Result<Option<u64>, sqlx::Error> {
    let before = Stamp(before);
    let limit = i64::try_from(chunk).unwrap_or(i64::MAX);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let db = &mut *transaction;
    if !sqlx::query_scalar(LEADS).bind(PARTITION).bind(epoch.0).fetch_one(&mut *db).await? {
        transaction.rollback().await?;
        return Ok(None);
    }
    for part in [PRUNE_ATTEMPTS, PRUNE_EVENTS, PRUNE_STORIES, PRUNE_MESSAGES] {
        sqlx::query(part).bind(before).bind(limit).execute(&mut *db).await?;
    }
    let gone = sqlx::query(PRUNE).bind(before).bind(limit).execute(&mut *db).await?.rows_affected();
    if gone < chunk {
        for rest in [PRUNE_INCARNATIONS, PRUNE_TOTALS, PRUNE_TIMEOUTS, PRUNE_ACTIONS, PRUNE_AUDIT, PRUNE_COURSES] {
            sqlx::query(rest).bind(before).execute(&mut *db).await?;
        }
    }
    transaction.commit().await?;
    Ok(Some(gone))
}
