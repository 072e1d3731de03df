//! Why a call of the journal failed, by what the caller can do about it.

use slotline_protocol::{Epoch, ExecutionId};
use sqlx::migrate::MigrateError;

use crate::Culprit;

/// Why a read, or a step towards leadership, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database this program can use. The error does not repeat it, since it may hold a password.
    #[error("database URL can't be used: {0}")]
    InvalidUrl(String),
    /// The database did not answer, or not as it should; the same call may succeed later.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The database answers, and refuses this user, or lacks what the URL names; a person must correct either. Its own
    /// words.
    #[error("the database refuses: {0}")]
    Denied(String),
    /// No answer within the deadline; the connection was thrown away.
    #[error("database did not answer within {} s", .0.as_secs())]
    TimedOut(std::time::Duration),
    /// This server takes no writes: a standby, or a primary that was stood down. Another one may.
    #[error("database is read-only")]
    ReadOnly,
    /// There is no room for the write; a person must make some.
    #[error("database has no room: its disk is full")]
    Full,
    /// The database refuses a value for its content: the same call fails again, whichever executor makes it. Its own
    /// words.
    #[error("database refuses the content: {0}")]
    Refused(String),
    /// The database lacks a feature that Slotline needs; a person must change it.
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

/// Codes of a database that takes no writes: PostgreSQL's SQLSTATE, and SQLite's code with its variants.
const READ_ONLY: [&str; 7] = ["25006", "8", "264", "520", "776", "1032", "1544"];
/// Codes of faults that a person must correct first: PostgreSQL's SQLSTATEs for no such database and no such right, and
/// SQLite's codes for a file that can't be opened or is no database.
const DENIED: [&str; 4] = ["3D000", "42501", "14", "26"];
/// The class of PostgreSQL's SQLSTATE for a wrong login.
const LOGIN_CLASS: &str = "28";
/// Codes of a database without room.
const FULL: [&str; 2] = ["53100", "13"];
/// The classes of PostgreSQL's SQLSTATE for a value that can't be stored: data exceptions, broken constraints, limits
/// of the program. The error of a trigger is `P0001`.
const CONTENT_CLASSES: [&str; 3] = ["22", "23", "54"];
const RAISED: &str = "P0001";
/// SQLite's result codes for the same (their lowest byte): too big, a constraint, a mismatch of types, out of range.
const CONTENT_CODES: [u32; 4] = [18, 19, 20, 25];
/// Codes for a key that is taken. The cause is in what the journal holds already, which the next leader reads.
const TAKEN: [&str; 4] = ["23505", "1555", "2067", "2579"];
/// The most characters of the database's error that are kept.
const WORDS_CHARS_MAX: usize = 300;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if READ_ONLY.contains(&&*code) => Self::ReadOnly,
            Some(code) if FULL.contains(&&*code) => Self::Full,
            Some(code) if is_denial(&code) => Self::Denied(words(&error, &code)),
            Some(code) if is_content(&code) => Self::Refused(words(&error, &code)),
            _ => Self::Unavailable(error),
        }
    }
}

/// Whether a database refuses its user, or lacks what the URL names. SQLite's codes are shorter than SQLSTATEs.
fn is_denial(code: &str) -> bool {
    DENIED.contains(&code) || (code.len() == 5 && code.starts_with(LOGIN_CLASS))
}

/// Whether a database refuses a statement for its values, and not for the weather or the database's own state.
fn is_content(code: &str) -> bool {
    let of_sqlite = || code.parse::<u32>().is_ok_and(|code| code <= 0xffff && CONTENT_CODES.contains(&(code & 0xff)));
    // SQLSTATEs have five characters, SQLite's codes four at most.
    let is_content = match code.len() {
        5 => code == RAISED || CONTENT_CLASSES.iter().any(|class| code.starts_with(class)),
        _ => of_sqlite(),
    };
    is_content && !TAKEN.contains(&code)
}

/// The database's error, in characters that it can store: the error may repeat what was refused.
fn words(error: &sqlx::Error, code: &str) -> String {
    let message = error.as_database_error().map(|error| error.message()).unwrap_or_default();
    let plain = message.chars().take(WORDS_CHARS_MAX).flat_map(char::escape_default);
    let plain: String = plain.take(2 * WORDS_CHARS_MAX).collect();
    // Quotes are harmless, and easier to read unescaped.
    format!("{} ({code})", plain.replace("\\\"", "\"").replace("\\'", "'"))
}

impl From<MigrateError> for Error {
    /// A database that went away in the middle is waited for like any other; a migration that can't be applied is not.
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
                if is_away(&cause) || is_denied(&cause) =>
            {
                cause.into()
            }
            error => Self::Migrate(error),
        }
    }
}

/// Whether the database was lost, and not the statement refused: SQLSTATE classes `08` and `57P0x`, or no answer at
/// all.
fn is_away(error: &sqlx::Error) -> bool {
    match error.as_database_error() {
        None => true,
        Some(error) => error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P0")),
    }
}

fn is_denied(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| is_denial(&code))
}

/// Why a batch is not known to be committed. After any of these, the leadership is over: drop state and effects, lead
/// again.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another executor leads by now. Nothing was written.
    #[error("epoch {ours} is over, {theirs} leads")]
    Deposed { ours: Epoch, theirs: Epoch },
    /// Nothing was written, because of the batch's content: without its culprits removed it would be refused again.
    #[error("the database refuses the content of the batch: {words}")]
    Refused { words: String, culprits: Vec<Culprit> },
    /// The batch may be written or not; only the journal, read under a new epoch, shows which.
    #[error("outcome of the commit is unknown")]
    Unknown(#[source] Error),
}

impl CommitError {
    /// A batch was refused for its content. Without a culprit that can be put aside, a leader can only start over.
    pub(crate) fn of_content(words: String, culprits: Vec<Culprit>) -> Self {
        match culprits.is_empty() {
            true => Self::Unknown(Error::Refused(words)),
            false => Self::Refused { words, culprits },
        }
    }
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

    #[test]
    fn what_a_person_must_mend_is_told_from_weather() {
        for denied in ["28P01", "28000", "3D000", "42501", "14", "26"] {
            assert!(is_denial(denied), "{denied}");
        }
        for other in ["53300", "57P03", "08006", "2800", "28", "5", "778"] {
            assert!(!is_denial(other), "{other}");
        }
    }

    #[test]
    fn what_a_value_is_refused_for_is_told_from_weather_and_from_what_the_journal_holds() {
        for refused in ["22P05", "22021", "23514", "54000", "P0001", "19", "18", "275", "1811"] {
            assert!(is_content(refused), "{refused}");
        }
        for other in ["23505", "1555", "2067", "08006", "57P01", "40001", "42501", "53100", "SL001", "13", "5", "517"] {
            assert!(!is_content(other), "{other}");
        }
    }
}
