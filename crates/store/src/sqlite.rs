//! The journal on SQLite: one writing connection, a few reading ones, one process.
//!
//! Write-ahead log with `synchronous = FULL`: what was committed survives a loss of power. In memory all share the one
//! connection, since SQLite's shared cache would refuse readers instead of letting them wait.

mod announcements;
mod commit;
mod dead;
mod lead;
mod prune;
mod read;
mod verify;

use slotline_protocol::chain;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};

use crate::Error;
use crate::deadline::{CALL_DEADLINE, borrow, within, within_time};
use crate::migrate::{self, MIGRATION_DEADLINE};

pub(crate) use commit::Script;
pub(crate) use lead::Lead;

/// The mode of the journal's files: requests and results are for their owner alone.
const PRIVATE: u32 = 0o600;
/// Connections for reads, in each of the two pools.
const READERS: u32 = 4;
/// Pause before a file that was locked is opened again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How long to wait for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The log is cut back to this size after a checkpoint.
const LOG_BYTES: &str = "67108864";
/// Pages in the log before it is copied into the file: 32 MiB, since what changes often is then copied once.
const LOG_PAGES: &str = "8192";
/// Memory for pages of the writer, in KiB below zero: a batch must fit, or its pages are written to the log twice.
const WRITER_CACHE: &str = "-32768";
/// Statements that the writer keeps prepared: each of a dozen for eight numbers of rows.
const WRITER_STATEMENTS: usize = 256;
/// Rows that are read ahead.
const ROW_BUFFER: usize = 1000;

crate::row::columns!(SqliteRow, i64);

#[derive(Clone, Debug)]
pub(crate) struct Journal {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The pool of [`Journal::for_viewers`].
    viewers: SqlitePool,
    /// Held by the leader.
    leading: Arc<tokio::sync::Mutex<()>>,
    /// Keeps a database in memory alive when its one working connection has to be replaced.
    anchor: Option<Arc<Mutex<SqliteConnection>>>,
}

impl Journal {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        let in_memory = url.contains(":memory:") || url.contains("mode=memory");
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|_| expected())?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("journal_size_limit", LOG_BYTES)
            .pragma("wal_autocheckpoint", LOG_PAGES)
            .row_buffer_size(ROW_BUFFER)
            .disable_statement_logging();
        if !in_memory {
            keep_private(options.get_filename())?;
        }
        let anchor = match in_memory {
            true => Some(Arc::new(Mutex::new(within(options.connect()).await?))),
            false => None,
        };
        let pool = || SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None).acquire_timeout(CALL_DEADLINE);
        // Every statement of many rows keeps what it would undo: beyond 64 KiB in a file of its own, unless this
        // setting is made.
        let writer = options.clone().pragma("cache_size", WRITER_CACHE).pragma("temp_store", "memory");
        let writer = writer.statement_cache_capacity(WRITER_STATEMENTS);
        let writer = within(first(pool().max_connections(1), &writer)).await?;
        let options = options.pragma("query_only", "on");
        let readers = || match in_memory {
            true => writer.clone(),
            false => pool().max_connections(READERS).connect_lazy_with(options.clone()),
        };
        let (readers, viewers) = (readers(), readers());
        Ok(Self { writer, readers, viewers, leading: Arc::default(), anchor })
    }

    /// Opens an existing file for reading alone: without the settings of a writer, which would change another program's
    /// file.
    pub(crate) async fn open_to_read(url: &str) -> Result<Self, Error> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|_| expected())?
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROW_BUFFER)
            .disable_statement_logging();
        let path = options.get_filename();
        match std::fs::metadata(path) {
            Ok(file) if file.is_file() => {}
            Ok(_) => return Err(Error::Unfit(format!("{} is no file", path.display()))),
            Err(error) => return Err(Error::Unfit(format!("{} can't be read: {error}", path.display()))),
        }
        // Without a log no process has it open: a reader would make a log, and leave it.
        let has_log = beside(path, "-wal").exists();
        let pool = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(CALL_DEADLINE);
        let pool = pool.connect_lazy_with(options.immutable(!has_log));
        let (readers, viewers) = (pool.clone(), pool.clone());
        Ok(Self { writer: pool, readers, viewers, leading: Arc::default(), anchor: None })
    }

    /// Whether this file holds a journal at all.
    pub(crate) async fn is_there(&self) -> Result<bool, Error> {
        let mut connection = within(self.readers.acquire()).await?;
        let there = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'leadership')";
        within(sqlx::query_scalar(there).fetch_one(&mut *connection)).await
    }

    pub(crate) fn for_viewers(&self) -> Self {
        Self { readers: self.viewers.clone(), ..self.clone() }
    }

    pub(crate) async fn migrate(&self) -> Result<(), Error> {
        let mut connection = borrow(&self.writer).await?;
        within_time(MIGRATION_DEADLINE, async {
            // SQLite has no lock for migrators, so all of them run in one transaction, which lets one writer in.
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            migrate::sqlite().run_direct(None, &mut *transaction, false).await.map_err(Error::from)?;
            transaction.commit().await?;
            Ok::<_, Error>(())
        })
        .await?;
        connection.give_back();
        Ok(())
    }

    /// The newest migration that was applied to this file.
    pub(crate) async fn schema(&self) -> Result<Option<i64>, Error> {
        let mut connection = within(self.readers.acquire()).await?;
        let there = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations')";
        if !within(sqlx::query_scalar(there).fetch_one(&mut *connection)).await? {
            return Ok(None);
        }
        let newest = "SELECT max(version) FROM _sqlx_migrations WHERE success";
        within(sqlx::query_scalar(newest).fetch_one(&mut *connection)).await
    }

    pub(crate) async fn check(&self) -> Result<Vec<String>, Error> {
        self.ping().await?;
        let mut findings = Vec::new();
        if self.anchor.is_some() {
            findings.push("the journal is kept in memory: it ends with this process".to_owned());
        }
        Ok(findings)
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let mut connection = within(self.readers.acquire()).await?;
        within(sqlx::query("SELECT 1").execute(&mut *connection)).await?;
        Ok(())
    }

    pub(crate) async fn close(&self) {
        let closing = async {
            self.readers.close().await;
            self.viewers.close().await;
            self.writer.close().await;
        };
        // What does not close in time is closed by the end of the process; the log is replayed at the next opening.
        let _ = tokio::time::timeout(CALL_DEADLINE, closing).await;
    }
}

fn expected() -> Error {
    Error::InvalidUrl("expected sqlite:/path/file.db or sqlite::memory:".to_owned())
}

/// The one row that a writing statement returns, out of all its rows. A statement that is left at its first row commits
/// as it is closed, and a failure of that, for want of room for example, is not reported: the write would be believed.
fn only<T>(mut rows: Vec<T>) -> Result<T, Error> {
    rows.pop().ok_or_else(|| sqlx::Error::RowNotFound.into())
}

/// Only their owner may read the files of the journal. SQLite gives its log and its index of it the mode of the file.
fn keep_private(path: &Path) -> Result<(), Error> {
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(path);
    made.map_err(|error| match error.kind() {
        // Waiting will not make the folder, or give rights in it.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => {
            Error::Denied(format!("{} can't be opened: {error}", path.display()))
        }
        _ => sqlx::Error::Io(error).into(),
    })?;
    for suffix in ["", "-wal", "-shm"] {
        let path = beside(path, suffix);
        let is_open = std::fs::metadata(&path).is_ok_and(|file| file.permissions().mode() & 0o777 != PRIVATE);
        if is_open && let Err(error) = std::fs::set_permissions(&path, Permissions::from_mode(PRIVATE)) {
            tracing::warn!(path = %path.display(), error = %chain(&error), "others may read the journal: its mode can't be changed");
        }
    }
    Ok(())
}

/// A file that SQLite keeps beside `path`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens the writer. Of two processes that switch a new file to its log at once SQLite refuses one without waiting.
async fn first(pool: SqlitePoolOptions, options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    loop {
        match pool.clone().connect_with(options.clone()).await {
            Err(error) if is_busy(&error) => tokio::time::sleep(BUSY_PAUSE).await,
            opened => return opened,
        }
    }
}

/// Whether another connection holds a lock: the low byte of the result code is `SQLITE_BUSY`.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}
