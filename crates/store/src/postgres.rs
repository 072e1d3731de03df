//! The journal on PostgreSQL: a small pool for the reads of scheduling, one for those of viewers, and a connection for
//! the leader alone.

mod announcements;
pub(crate) mod commit;
mod dead;
mod lead;
mod prune;
mod read;
mod verify;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slotline_protocol::ends_early;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, Connection, Row};

use crate::Error;
use crate::clock::ClockReading;
use crate::deadline::{CALL_DEADLINE, borrow, within, within_time};
use crate::migrate::{self, MIGRATION_DEADLINE};
use crate::stamp::Stamp;

pub(crate) use commit::{Call, call};
pub(crate) use lead::{IDLE_SESSION_TIMEOUT, Lead};

/// Connections for reads, in each of the two pools.
const READERS: u32 = 4;
/// How long to wait for one of them, or for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection unused for longer is tested first: it may no longer lead to a primary.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// PostgreSQL 14, the first with `idle_session_timeout` and `client_connection_check_interval`.
const VERSION_MIN: i32 = 140_000;
const PLANS: &str = "force_custom_plan";
const SETTINGS: &str =
    "SELECT current_setting('server_encoding') AS encoding, current_setting('plan_cache_mode') AS plans";
/// Whether the list of migrations is there, and whether this user may read it.
const MIGRATIONS: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS there, \
    coalesce(has_table_privilege(to_regclass('_sqlx_migrations')::oid, 'SELECT'), false) AS readable, \
    to_regclass('leadership') IS NOT NULL AS journal";
const NEWEST_MIGRATION: &str = "SELECT max(version) FROM _sqlx_migrations WHERE success";
/// One lock for the migrators of each schema, and the pause between two tries to get it.
const TRY_MIGRATING: &str =
    "SELECT pg_try_advisory_lock(hashtextextended('slotline migration of ' || current_schema(), 0))";
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

crate::row::columns!(PgRow, i32);

#[derive(Clone)]
pub(crate) struct Journal {
    pool: PgPool,
    /// The pool of [`Journal::for_viewers`].
    viewers: PgPool,
    options: Arc<PgConnectOptions>,
}

/// Without the options, which hold the password.
impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, database) = (self.options.get_host(), self.options.get_database());
        f.debug_struct("Journal").field("host", &host).field("database", &database).finish_non_exhaustive()
    }
}

/// PgBouncer's error about a parameter that it does not pass on.
const UNSUPPORTED_PARAMETER: &str = "unsupported startup parameter";
const POOLER: &str = "a connection pooler such as PgBouncer, pooling by transaction or statement, gives each \
    transaction another session, and an executor leads by a lock of its session; name PostgreSQL's own address in the \
    database URL";

/// Recognizes a pooler by its refusal of a session's own settings.
fn no_session(error: &Error) -> Option<Error> {
    let Error::Unavailable(sqlx::Error::Database(refusal)) = error else { return None };
    let words = refusal.message();
    words.contains(UNSUPPORTED_PARAMETER).then(|| Error::Unfit(format!("it says {words:?}: {POOLER}")))
}

/// Refuses a database that can't hold every text.
fn wrong_encoding(encoding: &str) -> Result<(), Error> {
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::Unfit(format!(
        "it is encoded in {encoding}, which can't hold every text, and Slotline needs UTF8; make another with \
         `createdb --encoding=UTF8 --template=template0 NAME` and name it in the database URL"
    )))
}

/// `postgres://user@host:port/database`.
pub(crate) fn endpoint(url: &str) -> String {
    let Ok(options) = PgConnectOptions::from_str(url) else { return "the database URL".to_owned() };
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    // As PostgreSQL does where no database is named.
    let database = options.get_database().unwrap_or(user);
    match options.get_socket() {
        Some(socket) => format!("{} (user {user}, database {database})", socket.display()),
        None => format!("postgres://{user}@{host}:{port}/{database}"),
    }
}

impl Journal {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        let expected = || Error::InvalidUrl("expected postgres://user:password@host:port/database".to_owned());
        if let Some(instead) = ends_early(url) {
            return Err(Error::InvalidUrl(format!("{instead}: expected postgres://user:password@host:port/database")));
        }
        let mut options = PgConnectOptions::from_str(url).map_err(|_| expected())?.disable_statement_logging();
        if options.get_application_name().is_none() {
            options = options.application_name("slotline");
        }
        // The server ends a statement that its caller no longer waits for. And it plans each read for the tables as
        // they are: a plan kept from when they were empty would scan them long after.
        let options = options.options([
            ("plan_cache_mode", PLANS.to_owned()),
            ("statement_timeout", CALL_DEADLINE.as_millis().to_string()),
            ("default_transaction_isolation", "read committed".to_owned()),
            // No snapshot of a process that is frozen, or whose host is gone, outlives its call.
            ("idle_in_transaction_session_timeout", CALL_DEADLINE.as_millis().to_string()),
            ("tcp_user_timeout", CALL_DEADLINE.as_millis().to_string()),
        ]);
        // Directly, since a pool hides the reason of a failed connection behind its own time-out.
        let mut first = within(options.connect()).await.map_err(|error| no_session(&error).unwrap_or(error))?;
        // Not as a prepared statement: a pooler may run it in another session than the one that prepared it.
        let settings = within(sqlx::raw_sql(SETTINGS).fetch_one(&mut first)).await?;
        within(first.close()).await?;
        wrong_encoding(settings.try_get("encoding")?)?;
        if settings.try_get::<&str, _>("plans")? != PLANS {
            return Err(Error::Unfit(format!("it did not take the settings of this session: {POOLER}")));
        }
        let pools = PgPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for < TRUSTED_FOR {
                        return Ok(true);
                    }
                    // After a fail-over a connection may lead to the old primary, which would answer from the past.
                    let read_only: String =
                        sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection).await?;
                    Ok(read_only == "off")
                })
            });
        let pool = pools.clone().connect_lazy_with(options.clone());
        let viewers = pools.connect_lazy_with(options.clone());
        Ok(Self { pool, viewers, options: Arc::new(options) })
    }

    pub(crate) fn for_viewers(&self) -> Self {
        Self { pool: self.viewers.clone(), ..self.clone() }
    }

    pub(crate) async fn migrate(&self) -> Result<(), Error> {
        let mut connection =
            within(PgConnectOptions::clone(&self.options).options([("statement_timeout", "0")]).connect()).await?;
        within_time(MIGRATION_DEADLINE, async {
            // Not the migrator's own lock, whose wait would hold a snapshot for as long as another process migrates.
            while !within(sqlx::query_scalar(TRY_MIGRATING).fetch_one(&mut connection)).await? {
                tokio::time::sleep(MIGRATION_PAUSE).await;
            }
            migrate::postgres().run_direct(None, &mut connection, false).await.map_err(Error::from)
        })
        .await?;
        // The lock goes with its session.
        within(connection.close()).await
    }

    /// The newest migration that was applied to this database.
    pub(crate) async fn schema(&self) -> Result<Option<i64>, Error> {
        let mut connection = borrow(&self.pool).await?;
        let row = within(sqlx::query(MIGRATIONS).fetch_one(&mut *connection)).await?;
        let (there, readable, journal): (bool, bool, bool) =
            (row.try_get("there")?, row.try_get("readable")?, row.try_get("journal")?);
        let newest = match (there, readable, journal) {
            (true, true, _) => within(sqlx::query_scalar(NEWEST_MIGRATION).fetch_one(&mut *connection)).await?,
            (_, _, true) => Some(migrate::SCHEMA),
            (_, _, false) => None,
        };
        connection.give_back();
        Ok(newest)
    }

    pub(crate) async fn reading(&self) -> Result<ClockReading, Error> {
        let mut connection = borrow(&self.pool).await?;
        let asked = Instant::now();
        let at: Stamp = within(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection)).await?;
        let reading = ClockReading::between(asked, Instant::now(), at.0);
        connection.give_back();
        Ok(reading)
    }

    pub(crate) async fn check(&self) -> Result<Vec<String>, Error> {
        let mut connection = borrow(&self.pool).await?;
        let row = within(
            sqlx::query(
                "SELECT current_setting('server_version_num')::integer AS version, \
                 current_setting('server_version') AS version_text, \
                 current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes, \
                 current_setting('synchronous_commit') AS synchronous_commit, \
                 current_setting('transaction_read_only') AS read_only",
            )
            .fetch_one(&mut *connection),
        )
        .await?;
        connection.give_back();
        let mut findings = Vec::new();
        if row.try_get::<i32, _>("version")? < VERSION_MIN {
            let version: &str = row.try_get("version_text")?;
            findings.push(format!("PostgreSQL is {version}: leading needs 14 or later"));
        }
        for (setting, consequence) in [
            ("fsync", "a crash of the database's host loses or spoils what was confirmed"),
            ("full_page_writes", "a crash of the database's host can spoil what was confirmed"),
            ("synchronous_commit", "a crash of the database loses what was confirmed last"),
        ] {
            if row.try_get::<&str, _>(setting)? == "off" {
                findings.push(format!("PostgreSQL has {setting} off: {consequence}"));
            }
        }
        if row.try_get::<&str, _>("read_only")? == "on" {
            findings.push("PostgreSQL is read-only here: nothing can be scheduled".to_owned());
        }
        Ok(findings)
    }

    /// Whether this database holds a journal at all.
    pub(crate) async fn is_there(&self) -> Result<bool, Error> {
        let mut connection = borrow(&self.pool).await?;
        let there = sqlx::query_scalar("SELECT to_regclass('leadership') IS NOT NULL").fetch_one(&mut *connection);
        let there = within(there).await?;
        connection.give_back();
        Ok(there)
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let mut connection = borrow(&self.pool).await?;
        within(connection.ping()).await?;
        connection.give_back();
        Ok(())
    }

    pub(crate) async fn close(&self) {
        // A connection that does not close in time is dropped with the process.
        let closing = async { tokio::join!(self.pool.close(), self.viewers.close()) };
        let _ = tokio::time::timeout(CALL_DEADLINE, closing).await;
    }
}
