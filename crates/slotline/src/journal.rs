//! Opens the database for a command, and brings its schema up to date or checks it. Every error names the database and the next
//! step.
//!
//! A daemon waits for a database that does not answer, and logs that at once. What only a person can correct (the password, a
//! right, the name of the database, the schema) ends the daemon: nothing runs by then. Not here: a daemon that runs already; it
//! waits for its database whatever the error.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use slotline_store::{SCHEMA, Schema, Store};

use crate::settings::{self, SecretSetting, require};

/// Pauses between two tries to reach the database at start.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// What to correct where the URL is wrong.
const SETTING: &str = "--database-url, SLOTLINE_DATABASE_URL or `database_url`";

/// Why the database at `endpoint` can't be used.
#[derive(Debug)]
pub(crate) struct Error {
    endpoint: String,
    pub(crate) inner: slotline_store::Error,
}

/// Whether to change the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Migrate {
    /// Bring it up to date.
    Yes,
    /// Leave it to `slotline migrate`.
    No,
}

/// How an executor opens its journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) migrate: Migrate,
    /// Start on a schema that a newer program made, to go back by one version.
    pub(crate) allow_newer: bool,
}

impl Opening {
    pub(crate) const MIGRATING: Self = Self { migrate: Migrate::Yes, allow_newer: false };
}

/// The database that the settings name.
pub(crate) fn url(flag: Option<SecretSetting>, file: &settings::File) -> Result<SecretSetting, settings::Error> {
    let url = flag.or(file.database_url.clone());
    require(url, "the database", "database-url", "DATABASE_URL", "database_url")
}

/// Opens the database, and waits for as long as it does not answer: it may be started after this program.
pub(crate) async fn wait_for(url: &str, opening: Opening) -> Result<Store, Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        match open(url, opening).await {
            Ok(store) => return Ok(store),
            Err(error) if error.is_passing() => {
                tracing::warn!("{error}; trying again in {} ms", pause.as_millis());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens the database, without waiting.
pub(crate) async fn open(url: &str, opening: Opening) -> Result<Store, Error> {
    try_open(url, opening).await.map_err(|inner| Error::at(url, inner))
}

/// Opens the database only for reading.
pub(crate) async fn open_to_read(url: &str) -> Result<Store, Error> {
    Store::open_to_read(url).await.map_err(|inner| Error::at(url, inner))
}

async fn try_open(url: &str, opening: Opening) -> Result<Store, slotline_store::Error> {
    let store = Store::open(url).await?;
    let found = store.schema().await?;
    if let Some(unfit) = unfit(found, opening) {
        store.close().await;
        return Err(slotline_store::Error::Unfit(unfit));
    }
    if opening.migrate == Migrate::Yes {
        store.migrate().await?;
    }
    store.ping().await?;
    Ok(store)
}

/// Why this program can't start on the schema, if it can't.
fn unfit(found: Schema, Opening { migrate, allow_newer }: Opening) -> Option<String> {
    let migrates = migrate == Migrate::Yes;
    match found {
        Schema::Missing if !migrates => {
            Some("it holds no schema of Slotline: run `slotline migrate`, or start without --no-migrate".to_owned())
        }
        Schema::Older(version) if !migrates => Some(format!(
            "its schema is {version}, and this program ({}) needs {SCHEMA}: run `slotline migrate`, or start without \
             --no-migrate",
            version_of_program()
        )),
        Schema::Newer(version) if !allow_newer => Some(format!(
            "its schema is {version}, made by a newer program; this one ({}) knows those up to {SCHEMA}: start the newer \
             one, or, to go back by one version, this one with --allow-newer-schema",
            version_of_program()
        )),
        Schema::Missing | Schema::Older(_) | Schema::Current | Schema::Newer(_) => None,
    }
}

fn version_of_program() -> &'static str {
    concat!("slotline ", env!("CARGO_PKG_VERSION"))
}

impl Error {
    fn at(url: &str, inner: slotline_store::Error) -> Self {
        Self { endpoint: Store::endpoint(url), inner }
    }

    /// Whether another try may succeed without a change by a person.
    fn is_passing(&self) -> bool {
        use slotline_store::Error;
        matches!(self.inner, Error::Unavailable(_) | Error::TimedOut(_) | Error::ReadOnly)
    }
}

/// The database, the error and the next step.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use slotline_store::Error;
        let Self { endpoint, inner } = self;
        match inner {
            Error::Unavailable(cause) => write!(f, "can't reach the database at {endpoint}: {}", innermost(cause)),
            Error::TimedOut(after) => {
                write!(f, "the database at {endpoint} did not answer within {} s", after.as_secs())
            }
            Error::ReadOnly => write!(f, "the database at {endpoint} takes no writes now"),
            Error::InvalidUrl(expected) => write!(f, "the database URL can't be used: {expected} ({SETTING})"),
            Error::Denied(reason) => {
                let step = match is_of_rights(reason) {
                    true => "give its user the right, or name another user",
                    false => "correct the URL",
                };
                write!(f, "the database at {endpoint} refuses: {reason}: {step} ({SETTING})")
            }
            Error::Unfit(reason) => write!(f, "the database at {endpoint} can't be used: {reason}"),
            Error::Migrate(_) => write!(f, "the schema of the database at {endpoint} can't be brought up to date"),
            other => write!(f, "the database at {endpoint}: {other}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.inner {
            slotline_store::Error::Migrate(cause) => Some(cause),
            // The message of all others includes the cause.
            _ => None,
        }
    }
}

/// What went wrong, without the layers that it came through.
fn innermost<'e>(error: &'e (dyn StdError + 'static)) -> &'e dyn StdError {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// Whether the database knows the user, and the user lacks a right.
fn is_of_rights(reason: &str) -> bool {
    reason.contains("42501")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_refused_by_both_versions_and_what_to_do() {
        let leaving = Opening { migrate: Migrate::No, allow_newer: false };
        let words = |found, opening| unfit(found, opening).unwrap_or_default();
        assert_eq!(words(Schema::Missing, Opening::MIGRATING), "");
        assert_eq!(words(Schema::Older(0), Opening::MIGRATING), "");
        assert_eq!(words(Schema::Current, leaving), "");
        assert!(words(Schema::Missing, leaving).contains("run `slotline migrate`"));
        assert!(words(Schema::Older(0), leaving).starts_with("its schema is 0, and this program (slotline "));
        for opening in [Opening::MIGRATING, leaving] {
            let refusal = words(Schema::Newer(SCHEMA + 1), opening);
            assert!(refusal.contains(&format!("its schema is {}", SCHEMA + 1)), "{refusal}");
            assert!(refusal.contains(&format!("knows those up to {SCHEMA}")), "{refusal}");
            assert_eq!(words(Schema::Newer(SCHEMA + 1), Opening { allow_newer: true, ..opening }), "");
        }
    }
}
