//! Why the journal did not do as asked, by what the caller can do about it.

use slotline_protocol::{Epoch, ExecutionId};
use sqlx::migrate::MigrateError;

/// Why a read, or a step towards leadership, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database this program can use. It is not repeated here, since it may hold a password.
    #[error("database URL can't be used: {0}")]
    InvalidUrl(String),
    /// The database did not answer, or not as it should; the same call may succeed later.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the deadline; the connection was thrown away.
    #[error("database did not answer within {} s", .0.as_secs())]
    TimedOut(std::time::Duration),
    /// This server takes no writes: a standby, or a primary that was stood down. Another one may.
    #[error("database is read-only")]
    ReadOnly,
    /// There is no room left for what is written; a person must make some.
    #[error("database has no room: its disk is full")]
    Full,
    /// The database lacks what Slotline needs; a person must change it.
    #[error("database is unfit: {0}")]
    Unfit(String),
    /// The schema could not be brought up to date.
    #[error("migration failed")]
    Migrate(#[source] MigrateError),
    /// The leadership ended with an earlier call; lead again.
    #[error("leadership is over")]
    LeadershipOver,
    /// No page begins with this cursor; start again without one.
    #[error("invalid cursor: expected the next_cursor of an earlier page")]
    InvalidCursor,
    /// No version of this program wrote this row; a person must look.
    #[error("execution {id} has unknown status {found:?}")]
    UnknownStatus { id: ExecutionId, found: String },
    /// No version of this program wrote this value; a person must look.
    #[error("column {column} of row {id} can't be read: {reason}")]
    Corrupt { column: &'static str, id: i64, reason: String },
}

/// How the databases say that they take no writes: PostgreSQL's SQLSTATE, and SQLite's code with its variants.
const READ_ONLY: [&str; 7] = ["25006", "8", "264", "520", "776", "1032", "1544"];
/// How they say that there is no room.
const FULL: [&str; 2] = ["53100", "13"];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if READ_ONLY.contains(&&*code) => Self::ReadOnly,
            Some(code) if FULL.contains(&&*code) => Self::Full,
            _ => Self::Unavailable(error),
        }
    }
}

impl From<MigrateError> for Error {
    /// A database that went away in the middle is waited for like any other; a migration that can't be applied is not.
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) if is_away(&cause) => cause.into(),
            error => Self::Migrate(error),
        }
    }
}

/// Whether the database was lost, and not the statement refused: SQLSTATE classes `08` and `57P0x`, or no answer at all.
fn is_away(error: &sqlx::Error) -> bool {
    match error.as_database_error() {
        None => true,
        Some(error) => error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P0")),
    }
}

/// Why a batch is not known to be committed. After either, the leadership is over: drop state and effects, lead again.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another executor leads by now. Nothing was written.
    #[error("epoch {ours} is over, {theirs} leads")]
    Deposed { ours: Epoch, theirs: Epoch },
    /// The batch may be written or not; only the journal, read under a new epoch, can tell.
    #[error("outcome of the commit is unknown")]
    Unknown(#[source] Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_goes_away_during_a_migration_is_away_and_not_wrong() {
        let reset = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(Error::from(MigrateError::Execute(reset())), Error::Unavailable(_)));
        assert!(matches!(Error::from(MigrateError::ExecuteMigration(reset(), 1)), Error::Unavailable(_)));
        assert!(matches!(Error::from(MigrateError::VersionMismatch(1)), Error::Migrate(_)));
    }
}
