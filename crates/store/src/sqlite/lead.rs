//! Leading on SQLite: a lock of this process, and the same epoch and chain of batches as on PostgreSQL.

use std::sync::LazyLock;
use std::time::Duration;

use futures::TryStreamExt;
use slotline_protocol::{Epoch, ExecutionId, Incarnation};
use tokio::runtime::{self, Runtime};
use tokio::sync::OwnedMutexGuard;

use super::commit::{self, End, Script};
use super::{Journal, only};
use crate::clock::ClockReading;
use crate::deadline::{borrow, within};
use crate::leadership::{self, PARTITION, lease_us};
use crate::row::{self, Keys};
use crate::standing::{self, Rewind, Standing};
use crate::{Batch, CommitError, Error, Recovered, culprit, record, sql};

/// Passes SQLite the statements of a batch one after the other: the caller's thread may be busy between two of them.
static WRITING: LazyLock<Runtime> = LazyLock::new(|| {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("slotline-journal")
        .enable_all()
        .build()
        .expect("a process that can't start a thread can't do anything else either")
});

const RAISE_EPOCH: &str = "UPDATE leadership SET epoch = epoch + 1, batch = 0, leader = $2, \
    led_since = CAST(unixepoch('subsec') * 1000000 AS INTEGER), \
    former_epoch = CASE WHEN doubt IS NULL THEN epoch ELSE former_epoch END, \
    former_batch = CASE WHEN doubt IS NULL THEN batch ELSE former_batch END, doubt = coalesce(doubt, '') \
    WHERE partition_id = $1 RETURNING epoch, clock_ahead_us";

/// The newest reports of executions with an attempt out, and of those whose last events are awaited.
const RECENT: &str = "SELECT e.execution_id, e.number, e.body FROM (\
    SELECT s.execution_id FROM stories s JOIN live l ON l.id = s.execution_id WHERE l.fence IS NOT NULL \
    UNION SELECT execution_id FROM stories WHERE awaits IS NOT NULL) AS o \
    CROSS JOIN events e ON e.execution_id = o.execution_id AND e.number IN (SELECT number FROM events \
    WHERE execution_id = o.execution_id AND kind = 'progress' ORDER BY number DESC LIMIT $1) \
    ORDER BY e.execution_id, e.number";

const TAKE_TERMS: &str = "UPDATE leadership SET lease_us = max(lease_us, $3), doubt = $4, \
    floor_id = CASE WHEN $4 IS NULL THEN NULL ELSE coalesce(floor_id, next_id) END, \
    floor_fence = CASE WHEN $4 IS NULL THEN NULL ELSE coalesce(floor_fence, next_fence) END \
    WHERE partition_id = $1 AND epoch = $2 RETURNING lease_us";

/// Only its content identifies a file: one process leads on it.
const STANDING: &str = "SELECT identity, generation, rewound_below, former_epoch, former_batch, doubt, next_id, \
    next_fence, next_action, floor_id, floor_fence, lease_us, 'sqlite' AS site, '' AS life, 0 AS log \
    FROM leadership WHERE partition_id = $1";

const DOUBT: &str = "UPDATE leadership SET epoch = max(epoch, $4), doubt = $3, \
    floor_id = coalesce(floor_id, next_id), floor_fence = coalesce(floor_fence, next_fence) \
    WHERE partition_id = $1 AND epoch = $2";

const SETTLE: &str = "UPDATE leadership SET generation = $6, doubt = NULL, floor_id = NULL, \
    floor_fence = NULL, next_id = $3, next_fence = $4, next_action = $5, rewound_below = $3 \
    WHERE partition_id = $1 AND epoch = $2";

/// Runs before [`SETTLE`], and once more if that did not follow.
const NOTE_REWIND: &str = "INSERT OR REPLACE INTO rewinds \
    (generation, settled_at, reason, floor_id, next_id, floor_fence, next_fence, shown_id, recovered) \
    SELECT $10, CAST(unixepoch('subsec') * 1000000 AS INTEGER), $3, $4, $5, $6, $7, $8, $9 \
    FROM leadership WHERE partition_id = $1 AND epoch = $2";

/// Leadership of one epoch.
#[derive(Debug)]
pub(crate) struct Lead {
    epoch: Epoch,
    reading: ClockReading,
    clock_ahead_us: i64,
    journal: Journal,
    /// Taken out for the time of a call and put back when it ended well.
    lock: Option<OwnedMutexGuard<()>>,
}

impl Journal {
    pub(crate) async fn lead(&self, leader: &str, in_line: impl FnOnce()) -> Result<Lead, Error> {
        in_line();
        let lock = self.leading.clone().lock_owned().await;
        let mut connection = borrow(&self.writer).await?;
        let raise = sqlx::query_as(RAISE_EPOCH).bind(PARTITION).bind(leader).fetch_all(&mut *connection);
        let (epoch, clock_ahead_us) = only(within(raise).await?)?;
        let epoch = Epoch(epoch);
        connection.give_back();
        tracing::debug!(epoch = epoch.0, "raised the epoch");
        Ok(Lead {
            epoch,
            reading: ClockReading::of_this_host(),
            clock_ahead_us,
            journal: self.clone(),
            lock: Some(lock),
        })
    }
}

impl Journal {
    pub(crate) async fn note_clock(&self, epoch: Epoch, ahead_us: i64) -> Result<(), Error> {
        let mut connection = borrow(&self.writer).await?;
        let noted = sqlx::query(sql::NOTE_CLOCK).bind(PARTITION).bind(epoch.0).bind(ahead_us);
        let noted = within(noted.execute(&mut *connection)).await?;
        connection.give_back();
        (noted.rows_affected() > 0).then_some(()).ok_or(Error::LeadershipOver)
    }
}

impl Lead {
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn reading(&self) -> ClockReading {
        self.reading
    }

    pub(crate) fn clock_ahead_us(&self) -> i64 {
        self.clock_ahead_us
    }

    fn take(&mut self) -> Result<OwnedMutexGuard<()>, Error> {
        self.lock.take().ok_or(Error::LeadershipOver)
    }

    pub(crate) async fn recover(&mut self) -> Result<Recovered, Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
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
        let stories = record::stories!(&mut *connection, RECENT);
        connection.give_back();
        self.lock = Some(lock);
        Ok(Recovered {
            actions,
            live,
            ended: ended.into_iter().map(Incarnation).collect(),
            counters: row::counters(&counters)?,
            rewound_below: row::rewound_below(&counters)?,
            generation: row::generation(&counters)?,
            stories,
        })
    }

    pub(crate) async fn commit(&mut self, batch: &Batch, script: Script) -> Result<(), CommitError> {
        let lock = self.take().map_err(CommitError::Unknown)?;
        match self.write(script, End::Commit).await {
            Ok(()) => {
                self.lock = Some(lock);
                Ok(())
            }
            Err(CommitError::Unknown(Error::Refused(words))) => {
                Err(CommitError::of_content(words, culprit::find(batch, &*self).await))
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, script: Script, end: End) -> Result<(), CommitError> {
        let (writer, epoch) = (self.journal.writer.clone(), self.epoch);
        // If the caller is dropped, this ends by itself: before the next leader has the one connection, or as deposed.
        let written = WRITING.spawn(async move {
            let mut connection = borrow(&writer).await.map_err(CommitError::Unknown)?;
            commit::write(&mut connection, epoch, script, end).await?;
            connection.give_back();
            Ok(())
        });
        written.await.expect("a commit neither panics nor is aborted")
    }

    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
        within(sqlx::query("SELECT 1").execute(&mut *connection)).await?;
        connection.give_back();
        self.lock = Some(lock);
        Ok(())
    }

    pub(crate) async fn take_terms(&mut self, lease: Duration, doubt: Option<&str>) -> Result<Duration, Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
        let taken = sqlx::query_scalar(TAKE_TERMS).bind(PARTITION).bind(self.epoch.0).bind(lease_us(lease)).bind(doubt);
        let longest = only(within(taken.fetch_all(&mut *connection)).await?)?;
        connection.give_back();
        self.lock = Some(lock);
        Ok(leadership::lease(longest))
    }

    pub(crate) async fn forget_terms(&mut self, lease: Duration) -> Result<(), Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
        let forgotten = sqlx::query(sql::FORGET_TERMS).bind(PARTITION).bind(self.epoch.0).bind(lease_us(lease));
        within(forgotten.execute(&mut *connection)).await?;
        connection.give_back();
        self.lock = Some(lock);
        Ok(())
    }

    pub(crate) async fn standing(&mut self) -> Result<Standing, Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
        let row = within(sqlx::query(STANDING).bind(PARTITION).fetch_one(&mut *connection)).await?;
        let mut standing = row::standing(&row)?;
        if standing.doubt.is_some() {
            let settled = sqlx::query_scalar(sql::SETTLED_IN_DOUBT).bind(PARTITION).fetch_all(&mut *connection);
            standing.settled = within(settled).await?.into_iter().map(ExecutionId).collect();
        }
        connection.give_back();
        self.lock = Some(lock);
        Ok(standing)
    }

    pub(crate) async fn doubt(&mut self, reason: &str, above: Epoch) -> Result<(), Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
        let doubted = sqlx::query(DOUBT).bind(PARTITION).bind(self.epoch.0).bind(reason).bind(above.0);
        within(doubted.execute(&mut *connection)).await?;
        connection.give_back();
        self.lock = Some(lock);
        Ok(())
    }

    pub(crate) async fn settle(&mut self, rewind: &Rewind) -> Result<(), Error> {
        let lock = self.take()?;
        let mut connection = borrow(&self.journal.writer).await?;
        let noted = sqlx::query(NOTE_REWIND)
            .bind(PARTITION)
            .bind(self.epoch.0)
            .bind(&rewind.reason)
            .bind(rewind.floor.next_id)
            .bind(rewind.next.next_id)
            .bind(rewind.floor.next_fence)
            .bind(rewind.next.next_fence)
            .bind(rewind.shown_id.0)
            .bind(standing::listed(&rewind.recovered))
            .bind(row::signed(rewind.generation));
        within(noted.execute(&mut *connection)).await?;
        let settled = sqlx::query(SETTLE)
            .bind(PARTITION)
            .bind(self.epoch.0)
            .bind(rewind.next.next_id)
            .bind(rewind.next.next_fence)
            .bind(rewind.next.next_action)
            .bind(row::signed(rewind.generation));
        if within(settled.execute(&mut *connection)).await?.rows_affected() != 1 {
            return Err(Error::LeadershipOver);
        }
        connection.give_back();
        self.lock = Some(lock);
        Ok(())
    }
}

/// Writes batches under the epoch of a leader, and rolls them back.
impl culprit::Rehearsal for &Lead {
    async fn refusal(&mut self, batch: &Batch) -> Result<Option<String>, Error> {
        match self.write(Script::of(batch), End::Rollback).await {
            Ok(()) => Ok(None),
            Err(CommitError::Unknown(Error::Refused(words))) => Ok(Some(words)),
            Err(CommitError::Unknown(error)) => Err(error),
            Err(CommitError::Deposed { .. } | CommitError::Refused { .. }) => Err(Error::LeadershipOver),
        }
    }
}
