//! Leading on SQLite: a lock of this process, and the same epoch and chain of batches as on PostgreSQL.

use futures::TryStreamExt;
use slotline_protocol::{Epoch, Incarnation, Timestamp};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::OwnedMutexGuard;

use super::{Journal, commit};
use crate::deadline::within;
use crate::leadership::{PARTITION, PRUNE_CHUNK};
use crate::row::{self, Keys};
use crate::stamp::Stamp;
use crate::{Batch, CommitError, Error, Recovered, sql};

const RAISE_EPOCH: &str = "UPDATE leadership SET epoch = epoch + 1, batch = 0, leader = $2, \
    led_since = CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE partition_id = $1 RETURNING epoch";

const PRUNE_ATTEMPTS: &str = "DELETE FROM attempts WHERE execution_id IN \
    (SELECT id FROM history WHERE ended_at < $1 ORDER BY ended_at, id LIMIT $2)";

const PRUNE: &str = "DELETE FROM history WHERE id IN \
    (SELECT id FROM history WHERE ended_at < $1 ORDER BY ended_at, id LIMIT $2)";

const PRUNE_INCARNATIONS: &str = "DELETE FROM ended_incarnations WHERE ended_at < $1";

const PRUNE_TOTALS: &str = "DELETE FROM action_totals WHERE action_id IN (SELECT id FROM actions \
    WHERE deleted_at < $1 AND id NOT IN (SELECT action_id FROM history) AND id NOT IN (SELECT action_id FROM live))";

const PRUNE_ACTIONS: &str = "DELETE FROM actions WHERE deleted_at < $1 \
    AND id NOT IN (SELECT action_id FROM history) AND id NOT IN (SELECT action_id FROM live)";

/// Leadership of one epoch.
#[derive(Debug)]
pub(crate) struct Lead {
    epoch: Epoch,
    journal: Journal,
    /// Taken out for the time of a call and put back when it ended well.
    lock: Option<OwnedMutexGuard<()>>,
}

impl Journal {
    pub(crate) async fn lead(&self, leader: &str) -> Result<Lead, Error> {
        let lock = self.leading.clone().lock_owned().await;
        let mut connection = within(self.writer.acquire()).await?;
        let raise = sqlx::query_scalar(RAISE_EPOCH).bind(PARTITION).bind(leader).fetch_one(&mut *connection);
        let epoch = Epoch(within(raise).await?);
        tracing::debug!(epoch = epoch.0, "raised the epoch");
        Ok(Lead { epoch, journal: self.clone(), lock: Some(lock) })
    }
}

impl Lead {
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn take(&mut self) -> Result<OwnedMutexGuard<()>, Error> {
        self.lock.take().ok_or(Error::LeadershipOver)
    }

    pub(crate) async fn recover(&mut self) -> Result<Recovered, Error> {
        let lock = self.take()?;
        let mut connection = within(self.journal.writer.acquire()).await?;
        let actions = within(sqlx::query(sql::ACTION_STATES).fetch_all(&mut *connection)).await?;
        let actions = actions.iter().map(row::action_state).collect::<Result<_, _>>()?;
        let counters = within(sqlx::query(sql::COUNTERS).bind(PARTITION).fetch_one(&mut *connection)).await?;
        let ended = within(sqlx::query_scalar(sql::ENDED_INCARNATIONS).fetch_all(&mut *connection)).await?;
        let mut live = Vec::new();
        let mut keys = Keys::default();
        let mut rows = sqlx::query(sql::LIVE).fetch(&mut *connection);
        while let Some(row) = within(rows.try_next()).await? {
            live.push(row::snapshot(&row, &mut keys)?);
        }
        drop(rows);
        live.sort_unstable_by_key(|snapshot| (snapshot.place, snapshot.id));
        self.lock = Some(lock);
        Ok(Recovered {
            actions,
            live,
            ended: ended.into_iter().map(Incarnation).collect(),
            counters: row::counters(&counters)?,
        })
    }

    pub(crate) async fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let lock = self.take().map_err(CommitError::Unknown)?;
        let mut connection = within(self.journal.writer.acquire()).await.map_err(CommitError::Unknown)?;
        commit::write(&mut connection, self.epoch, batch).await?;
        self.lock = Some(lock);
        Ok(())
    }

    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        let lock = self.take()?;
        let mut connection = within(self.journal.writer.acquire()).await?;
        within(sqlx::query("SELECT 1").execute(&mut *connection)).await?;
        self.lock = Some(lock);
        Ok(())
    }

    pub(crate) async fn prune(&mut self, settled_before: Timestamp, max: u32) -> Result<u64, Error> {
        let lock = self.take()?;
        let mut connection = within(self.journal.writer.acquire()).await?;
        let mut pruned = 0;
        while pruned < u64::from(max) {
            let chunk = (u64::from(max) - pruned).min(PRUNE_CHUNK.unsigned_abs());
            let gone = within(prune_chunk(&mut connection, settled_before, chunk)).await?;
            pruned += gone;
            if gone < chunk {
                break;
            }
        }
        self.lock = Some(lock);
        Ok(pruned)
    }
}

async fn prune_chunk(connection: &mut SqliteConnection, before: Timestamp, chunk: u64) -> Result<u64, sqlx::Error> {
    let before = Stamp(before);
    let limit = i64::try_from(chunk).unwrap_or(i64::MAX);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(PRUNE_ATTEMPTS).bind(before).bind(limit).execute(&mut *transaction).await?;
    let gone = sqlx::query(PRUNE).bind(before).bind(limit).execute(&mut *transaction).await?.rows_affected();
    if gone < chunk {
        sqlx::query(PRUNE_INCARNATIONS).bind(before).execute(&mut *transaction).await?;
        sqlx::query(PRUNE_TOTALS).bind(before).execute(&mut *transaction).await?;
        sqlx::query(PRUNE_ACTIONS).bind(before).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(gone)
}
