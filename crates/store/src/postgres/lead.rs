//! Leading on PostgreSQL: a session that holds an advisory lock, and all writes of the leader go through it.
//!
//! So leadership ends with the connection, whichever side loses it. The session is guarded from both: the server drops
//! a leader that is silent for [`IDLE_SESSION_TIMEOUT`] or whose host is gone, and every call here has a deadline.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use slotline_protocol::{Epoch, ExecutionId, Incarnation};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Row};
use tokio::time::MissedTickBehavior;

use super::commit::{self, Call};
use super::{Journal, VERSION_MIN, wrong_encoding};
use crate::clock::ClockReading;
use crate::deadline::{CALL_DEADLINE, borrow, within};
use crate::leadership::{self, PARTITION, lease_us};
use crate::row::{self, Keys};
use crate::stamp::Stamp;
use crate::standing::{self, Rewind, Standing};
use crate::{Batch, CommitError, Error, Recovered, culprit, record, sql};

/// A leader that is silent for longer loses its session, and so its lock: also a frozen one.
pub(crate) const IDLE_SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon the server notices that a leader has gone in the middle of a long statement, such as a recovery.
const CLIENT_CHECK: Duration = Duration::from_secs(1);
/// Between two tries of an executor that waits for the lock: the most that it adds to a take-over, of which all
/// together should stay below 100 ms. A hundred tries a second cost the database some 5 ms of processor time in that
/// second.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// One lock for each partition of each schema. A try and not a wait: a statement that waited would hold its snapshot as
/// long as another leads, and rows that died meanwhile could not be vacuumed in any table.
///
/// With it comes the database's clock, by which the term goes.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended('slotline leader of ' || current_schema(), $1)), \
    clock_timestamp()";

/// Guards the session: what the server does when the client is silent. And spares the planning of the one statement
/// that is run all the time and has nothing to plan.
const GUARD: &str = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false), \
    set_config('idle_session_timeout', $1, false), \
    set_config('idle_in_transaction_session_timeout', $1, false), \
    set_config('tcp_user_timeout', $1, false), \
    set_config('client_connection_check_interval', $2, false), \
    set_config('tcp_keepalives_idle', '4', false), \
    set_config('tcp_keepalives_interval', '2', false), \
    set_config('tcp_keepalives_count', '3', false)";

/// Whether this session can do all that a leader does. A missing right would show only in the middle of a term, again
/// in every term of this executor, while another executor's user may have it.
const FITNESS: &str = "SELECT current_setting('server_version_num')::integer AS version, \
    current_setting('server_encoding') AS encoding, pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only, \
    (SELECT string_agg(wanted || ' on ' || name, ', ' ORDER BY name, wanted) FROM (VALUES \
    ('leadership', ARRAY['SELECT', 'UPDATE']), ('live', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']), \
    ('actions', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']), ('messages', ARRAY['SELECT', 'INSERT', 'DELETE']), \
    ('action_timeouts', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']), ('action_totals', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']), ('history', ARRAY['SELECT', 'INSERT', 'DELETE']), \
    ('attempts', ARRAY['SELECT', 'INSERT', 'DELETE']), ('events', ARRAY['SELECT', 'INSERT', 'DELETE']), \
    ('audit', ARRAY['SELECT', 'INSERT', 'DELETE']), \
    ('stories', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']), ('rewinds', ARRAY['SELECT', 'INSERT']), \
    ('announcements', ARRAY['SELECT', 'INSERT', 'DELETE']), \
    ('dead_letters', ARRAY['SELECT', 'INSERT', 'DELETE']), ('suspects', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']), \
    ('ended_incarnations', ARRAY['SELECT', 'INSERT', 'DELETE']), ('secrets', ARRAY['SELECT'])) AS needed (name, rights) \
    CROSS JOIN LATERAL unnest(rights) AS wanted WHERE NOT has_table_privilege(to_regclass(name), wanted)) AS barred";

const SET_STATEMENT_TIMEOUT: &str = "SELECT set_config('statement_timeout', $1, false)";

const RAISE_EPOCH: &str = "UPDATE leadership SET epoch = epoch + 1, batch = 0, leader = $2, led_since = now(), \
    former_epoch = CASE WHEN doubt IS NULL THEN epoch ELSE former_epoch END, \
    former_batch = CASE WHEN doubt IS NULL THEN batch ELSE former_batch END, doubt = coalesce(doubt, '') \
    WHERE partition_id = $1 RETURNING epoch, clock_ahead_us";

/// The newest reports of executions with an attempt out, and of those whose last events are awaited.
const RECENT: &str = "SELECT e.execution_id, e.number, e.body FROM (\
    SELECT s.execution_id FROM stories s JOIN live l ON l.id = s.execution_id WHERE l.fence IS NOT NULL \
    UNION SELECT execution_id FROM stories WHERE awaits IS NOT NULL) AS o \
    CROSS JOIN LATERAL (SELECT execution_id, number, body FROM events \
    WHERE execution_id = o.execution_id AND kind = 'progress' ORDER BY number DESC LIMIT $1) AS e \
    ORDER BY e.execution_id, e.number";

const TAKE_TERMS: &str = "UPDATE leadership SET lease_us = greatest(lease_us, $3), doubt = $4, \
    floor_id = CASE WHEN $4 IS NULL THEN NULL ELSE coalesce(floor_id, next_id) END, \
    floor_fence = CASE WHEN $4 IS NULL THEN NULL ELSE coalesce(floor_fence, next_fence) END \
    WHERE partition_id = $1 AND epoch = $2 RETURNING lease_us";

/// With what distinguishes a database from its copies: the cluster, its time line, the database and the table; which
/// life of the server this is; and how far its log goes. An ordinary user may read all of it.
const STANDING: &str = "SELECT identity, generation, rewound_below, former_epoch, former_batch, doubt, next_id, \
    next_fence, next_action, floor_id, floor_fence, lease_us, \
    format('%s/%s/%s/%s', (SELECT system_identifier FROM pg_control_system()), \
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), \
    (SELECT oid FROM pg_database WHERE datname = current_database()), 'leadership'::regclass::oid) AS site, \
    pg_postmaster_start_time()::text AS life, \
    (pg_current_wal_insert_lsn() - '0/0')::bigint AS log \
    FROM leadership WHERE partition_id = $1";

const DOUBT: &str = "UPDATE leadership SET epoch = greatest(epoch, $4), doubt = $3, \
    floor_id = coalesce(floor_id, next_id), floor_fence = coalesce(floor_fence, next_fence) \
    WHERE partition_id = $1 AND epoch = $2";

const SETTLE: &str = "WITH settled AS (UPDATE leadership SET generation = $11, doubt = NULL, \
    floor_id = NULL, floor_fence = NULL, next_id = $5, next_fence = $7, next_action = $10, rewound_below = $5 \
    WHERE partition_id = $1 AND epoch = $2 RETURNING generation) \
    INSERT INTO rewinds (generation, settled_at, reason, floor_id, next_id, floor_fence, next_fence, shown_id, recovered) \
    SELECT generation, now(), $3, $4, $5, $6, $7, $8, $9 FROM settled";

/// Leadership of one epoch.
#[derive(Debug)]
pub(crate) struct Lead {
    epoch: Epoch,
    reading: ClockReading,
    clock_ahead_us: i64,
    /// Taken out for the time of a call and put back when it ended well, so that a call that fails, or is dropped,
    /// takes the session and its lock with it.
    connection: Option<PgConnection>,
}

impl Journal {
    pub(crate) async fn lead(&self, leader: &str, in_line: impl FnOnce()) -> Result<Lead, Error> {
        let mut connection = within(self.options.connect()).await?;
        admit(&mut connection).await?;
        let millis = |duration: Duration| duration.as_millis().to_string();
        within(
            sqlx::query(GUARD).bind(millis(IDLE_SESSION_TIMEOUT)).bind(millis(CLIENT_CHECK)).execute(&mut connection),
        )
        .await?;
        in_line();
        let reading = locked(&mut connection).await?;
        let raise = sqlx::query_as(RAISE_EPOCH).bind(PARTITION).bind(leader).fetch_one(&mut connection);
        let (epoch, clock_ahead_us) = within(raise).await?;
        let epoch = Epoch(epoch);
        tracing::debug!(epoch = epoch.0, "took the journal's lock and raised the epoch");
        Ok(Lead { epoch, reading, clock_ahead_us, connection: Some(connection) })
    }
}

/// Waits until this session has the lock, with nothing open between two tries; returns the database's clock at that
/// moment.
async fn locked(connection: &mut PgConnection) -> Result<ClockReading, Error> {
    let mut every = tokio::time::interval(TRY_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let asked = Instant::now();
        let tried = sqlx::query_as(TRY_LOCK).bind(PARTITION).fetch_one(&mut *connection);
        let (locked, at): (bool, Stamp) = within(tried).await?;
        if locked {
            return Ok(ClockReading::between(asked, Instant::now(), at.0));
        }
    }
}

/// Checks that this user can lead on this server.
async fn admit(connection: &mut PgConnection) -> Result<(), Error> {
    let row = within(sqlx::query(FITNESS).fetch_one(connection)).await?;
    if row.try_get::<i32, _>("version")? < VERSION_MIN {
        return Err(Error::Unfit("leading needs PostgreSQL 14 or later".to_owned()));
    }
    wrong_encoding(row.try_get("encoding")?)?;
    if row.try_get("read_only")? {
        return Err(Error::ReadOnly);
    }
    if let Some(barred) = row.try_get::<Option<&str>, _>("barred")? {
        return Err(Error::Unfit(format!(
            "this executor's user lacks rights: {barred}; grant them, or use another user"
        )));
    }
    Ok(())
}

async fn set_statement_timeout(connection: &mut PgConnection, timeout: Duration) -> Result<(), Error> {
    let millis = timeout.as_millis().to_string();
    within(sqlx::query(SET_STATEMENT_TIMEOUT).bind(millis).execute(connection)).await?;
    Ok(())
}

impl Journal {
    pub(crate) async fn note_clock(&self, epoch: Epoch, ahead_us: i64) -> Result<(), Error> {
        let mut connection = borrow(&self.pool).await?;
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

    fn take(&mut self) -> Result<PgConnection, Error> {
        self.connection.take().ok_or(Error::LeadershipOver)
    }

    pub(crate) async fn recover(&mut self) -> Result<Recovered, Error> {
        let mut connection = self.take()?;
        // Reading everything may take long; instead, each row has a deadline.
        set_statement_timeout(&mut connection, Duration::ZERO).await?;
        let actions = within(sqlx::query(sql::ACTION_STATES).fetch_all(&mut connection)).await?;
        let actions = actions.iter().map(row::action_state).collect::<Result<_, _>>()?;
        let counters = within(sqlx::query(sql::COUNTERS).bind(PARTITION).fetch_one(&mut connection)).await?;
        let ended = within(sqlx::query_scalar(sql::ENDED_INCARNATIONS).fetch_all(&mut connection)).await?;
        let mut live = Vec::new();
        let mut keys = Keys::default();
        let mut rows = sqlx::query(sql::LIVE).fetch(&mut connection);
        while let Some(row) = within(rows.try_next()).await? {
            live.push(row::snapshot(&row, &mut keys)?);
        }
        drop(rows);
        // Here and not in the database, which would write a million rows to disk to sort them.
        live.sort_unstable_by_key(|snapshot| (snapshot.place, snapshot.id));
        let stories = record::stories!(&mut connection, RECENT);
        set_statement_timeout(&mut connection, CALL_DEADLINE).await?;
        self.connection = Some(connection);
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

    pub(crate) async fn commit(&mut self, batch: &Batch, call: Call) -> Result<(), CommitError> {
        let mut connection = self.take().map_err(CommitError::Unknown)?;
        match within(call.execute(&mut connection)).await {
            Ok(_) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(Error::Refused(words)) => {
                let rehearsal = commit::Rehearsal { epoch: self.epoch, connection };
                Err(CommitError::of_content(words, culprit::find(batch, rehearsal).await))
            }
            Err(error) => Err(commit::outcome(self.epoch, error)),
        }
    }

    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        let mut connection = self.take()?;
        within(connection.ping()).await?;
        self.connection = Some(connection);
        Ok(())
    }

    pub(crate) async fn take_terms(&mut self, lease: Duration, doubt: Option<&str>) -> Result<Duration, Error> {
        let mut connection = self.take()?;
        let taken = sqlx::query_scalar(TAKE_TERMS).bind(PARTITION).bind(self.epoch.0).bind(lease_us(lease)).bind(doubt);
        let longest = within(taken.fetch_one(&mut connection)).await?;
        self.connection = Some(connection);
        Ok(leadership::lease(longest))
    }

    pub(crate) async fn forget_terms(&mut self, lease: Duration) -> Result<(), Error> {
        let mut connection = self.take()?;
        let forgotten = sqlx::query(sql::FORGET_TERMS).bind(PARTITION).bind(self.epoch.0).bind(lease_us(lease));
        within(forgotten.execute(&mut connection)).await?;
        self.connection = Some(connection);
        Ok(())
    }

    pub(crate) async fn standing(&mut self) -> Result<Standing, Error> {
        let mut connection = self.take()?;
        let row = within(sqlx::query(STANDING).bind(PARTITION).fetch_one(&mut connection)).await?;
        let mut standing = row::standing(&row)?;
        if standing.doubt.is_some() {
            let settled = sqlx::query_scalar(sql::SETTLED_IN_DOUBT).bind(PARTITION).fetch_all(&mut connection);
            standing.settled = within(settled).await?.into_iter().map(ExecutionId).collect();
        }
        self.connection = Some(connection);
        Ok(standing)
    }

    pub(crate) async fn doubt(&mut self, reason: &str, above: Epoch) -> Result<(), Error> {
        let mut connection = self.take()?;
        let doubted = sqlx::query(DOUBT).bind(PARTITION).bind(self.epoch.0).bind(reason).bind(above.0);
        within(doubted.execute(&mut connection)).await?;
        self.connection = Some(connection);
        Ok(())
    }

    pub(crate) async fn settle(&mut self, rewind: &Rewind) -> Result<(), Error> {
        let mut connection = self.take()?;
        let settled = sqlx::query(SETTLE)
            .bind(PARTITION)
            .bind(self.epoch.0)
            .bind(&rewind.reason)
            .bind(rewind.floor.next_id)
            .bind(rewind.next.next_id)
            .bind(rewind.floor.next_fence)
            .bind(rewind.next.next_fence)
            .bind(rewind.shown_id.0)
            .bind(standing::listed(&rewind.recovered))
            .bind(rewind.next.next_action)
            .bind(row::signed(rewind.generation));
        if within(settled.execute(&mut connection)).await?.rows_affected() != 1 {
            return Err(Error::LeadershipOver);
        }
        self.connection = Some(connection);
        Ok(())
    }

    pub(crate) async fn release(mut self) {
        if let Some(mut connection) = self.connection.take() {
            // Best effort: where it fails, dropping the connection does the same a moment later.
            let _ = within(sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut connection)).await;
            let _ = within(connection.close()).await;
        }
    }
}
