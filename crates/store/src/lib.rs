//! The journal: whole operations on PostgreSQL and SQLite.
//!
//! ```text
//!   Store ──── read by any executor: executions, actions, message ids
//!     └─ lead ──> Leadership ── the one writer: recover once, then commit batch after batch
//! ```
//!
//! There is one way to change an execution: a [`Batch`] committed under the epoch of the [`Leadership`] that made it.
//! Every commit locks the epoch row and compares it first, so a deposed leader writes nothing; batches are chained
//! there, so none commits without the one before. Whatever ends badly ends the leadership, and nothing is guessed.
//!
//! Deliberately absent: any decision about an execution, any clock that is not the caller's, and SQL built at run time.
//! SQLite is for one process; two that share a file are kept from harm by the epoch, not from each other's way.

mod announcements;
mod audit;
mod batch;
mod browse;
mod clock;
mod columns;
mod culprit;
mod dead;
mod deadline;
mod durations;
mod error;
mod events;
mod leadership;
mod migrate;
mod plain;
mod postgres;
mod record;
mod row;
mod sql;
mod sqlite;
mod stamp;
mod standing;
mod text;
mod verify;

use slotline_protocol::audit::{By, Changed, Entry};
use slotline_protocol::proof::Secret;
use slotline_protocol::{ActionId, ActionRef, Epoch, ExecutionId, RequestName, Timestamp, http};
use uuid::Uuid;

pub use announcements::{BatchKey, EventRange, Facts};
pub use audit::{Audit, AuditFilter};
pub use batch::{AcceptedRequest, ActionChange, Batch, Request};
pub use browse::{ATTEMPTS_SHOWN_MAX, Filter, PAGE_BYTES_MAX, PAGE_LIMIT_MAX, PageRequest};
pub use clock::ClockReading;
pub use culprit::{CULPRITS_MAX, Culprit, CulpritPart};
pub use dead::{DeadBounds, StoredLetter, WholeLetter};
pub use deadline::CALL_DEADLINE;
pub use durations::{DURATIONS_SAMPLE_MAX, Durations};
pub use error::{CommitError, Error};
pub use leadership::{ActionState, Encoded, Leadership, Recovered};
pub use migrate::{SCHEMA, Schema};
pub use plain::plain;
pub use record::{OpenStory, RECENT_MAX, RecordPart, Story};
pub use standing::{PastRewind, Rewind, Standing, lost};
pub use verify::{CLOCK_TOLERANCE, Check, CheckResult, JournalVerdict, VERIFY_DEADLINE, VIOLATIONS_MAX};

/// The journal, with the reads that are open to all. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Postgres(postgres::Journal),
    Sqlite(sqlite::Journal),
}

/// An earlier request, found by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub name: RequestName,
    pub execution_id: ExecutionId,
    pub digest: [u8; 32],
}

/// Calls the same operation on whichever database this is.
macro_rules! on {
    ($self:ident, $journal:ident => $call:expr) => {
        match &$self.backend {
            Backend::Postgres($journal) => $call.await,
            Backend::Sqlite($journal) => $call.await,
        }
    };
}

impl Store {
    /// Opens `postgres://...`, `sqlite:/path/file.db` (created if missing) or `sqlite::memory:`.
    ///
    /// Every later call has a deadline of [`CALL_DEADLINE`] unless its comment gives another; a connection that misses
    /// it, or fails, is closed. The password of the URL appears in no error.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let backend = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Backend::Postgres(postgres::Journal::open(url).await?),
            Some("sqlite") => Backend::Sqlite(sqlite::Journal::open(url).await?),
            _ => {
                let expected = "expected postgres://user@host/database, sqlite:/path/file.db or sqlite::memory:";
                return Err(Error::InvalidUrl(expected.to_owned()));
            }
        };
        Ok(Self { backend })
    }

    /// Opens an existing journal for reading alone: no file is made or changed, whatever the URL names.
    pub async fn open_to_read(url: &str) -> Result<Self, Error> {
        let store = match url.split_once(':') {
            Some(("sqlite", _)) => Self { backend: Backend::Sqlite(sqlite::Journal::open_to_read(url).await?) },
            _ => Self::open(url).await?,
        };
        if on!(store, journal => journal.is_there())? {
            return Ok(store);
        }
        store.close().await;
        let reason = "it holds no journal of Slotline: name the database of an executor, or the file slotline.db of `slotline dev`";
        Err(Error::Unfit(reason.to_owned()))
    }

    /// The kind of its database: `postgresql` or `sqlite`.
    pub fn kind(&self) -> &'static str {
        match &self.backend {
            Backend::Postgres(_) => "postgresql",
            Backend::Sqlite(_) => "sqlite",
        }
    }

    /// The same journal for viewers: however slow their reads are, they hold no connection that scheduling waits for.
    /// Closed with this one.
    #[must_use]
    pub fn for_viewers(&self) -> Self {
        let backend = match &self.backend {
            Backend::Postgres(journal) => Backend::Postgres(journal.for_viewers()),
            Backend::Sqlite(journal) => Backend::Sqlite(journal.for_viewers()),
        };
        Self { backend }
    }

    /// Brings the schema up to date. Does nothing if it is; several processes may call it at once.
    pub async fn migrate(&self) -> Result<(), Error> {
        on!(self, journal => journal.migrate())
    }

    /// Compares the schema with this program. For a user that may not read the list of migrations, the schema counts as
    /// current: that user can't have migrated it either.
    pub async fn schema(&self) -> Result<Schema, Error> {
        on!(self, journal => journal.schema()).map(Schema::of)
    }

    /// The database that a URL names, without its password and options, for people.
    pub fn endpoint(url: &str) -> String {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => postgres::endpoint(url),
            Some("sqlite") => url.split('?').next().unwrap_or_default().to_owned(),
            _ => "the database URL".to_owned(),
        }
    }

    /// Waits until this process leads, and raises the epoch. `leader` names it for people.
    ///
    /// Safe to drop while it waits: the place among the waiting is given up with it.
    pub async fn lead(&self, leader: &str) -> Result<Leadership, Error> {
        self.stand(leader, || {}).await
    }

    /// As [`Store::lead`]; `in_line` is called once the database has answered and is fit, when only another leader may
    /// still be waited for.
    pub async fn stand(&self, leader: &str, in_line: impl FnOnce()) -> Result<Leadership, Error> {
        match &self.backend {
            Backend::Postgres(journal) => journal.lead(leader, in_line).await.map(Leadership::from),
            Backend::Sqlite(journal) => journal.lead(leader, in_line).await.map(Leadership::from),
        }
    }

    /// Makes a batch ready for [`Leadership::commit_encoded`] under this epoch.
    pub fn encode(&self, epoch: Epoch, batch: &Batch) -> Encoded {
        match &self.backend {
            Backend::Postgres(_) => Encoded::for_postgres(epoch, batch),
            Backend::Sqlite(_) => Encoded::for_sqlite(batch),
        }
    }

    /// The requests known under these names, live or settled.
    pub async fn find_messages(&self, names: &[RequestName]) -> Result<Vec<Known>, Error> {
        on!(self, journal => journal.find_messages(names))
    }

    /// The execution that the request of this name became.
    pub async fn find_request(&self, name: &RequestName) -> Result<Option<ExecutionId>, Error> {
        let known = self.find_messages(std::slice::from_ref(name)).await?;
        Ok(known.first().map(|known| known.execution_id))
    }

    /// The requests of those of `ids` that live, in no particular order.
    pub async fn requests(&self, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Request)>, Error> {
        on!(self, journal => journal.requests(ids))
    }

    /// One execution, live or settled, with its earlier attempts (the newest [`ATTEMPTS_SHOWN_MAX`]) and its progress.
    /// Only the leader knows its position in its line.
    pub async fn execution(&self, id: ExecutionId) -> Result<Option<http::Execution>, Error> {
        on!(self, journal => journal.execution(id))
    }

    /// The events of an execution with numbers above `after`, at most `limit` and [`PAGE_BYTES_MAX`] bytes of them;
    /// `None` if there is no such execution. `limit` is brought into 1 to [`PAGE_LIMIT_MAX`].
    pub async fn events(&self, id: ExecutionId, after: u64, limit: u32) -> Result<Option<RecordPart>, Error> {
        on!(self, journal => journal.events(id, after, limit))
    }

    /// Batches of leaders before `epoch` whose events may not have been published, in their order.
    pub async fn announcements_before(&self, epoch: Epoch) -> Result<Vec<BatchKey>, Error> {
        on!(self, journal => journal.announcements_before(epoch))
    }

    /// The events of a batch that are to be published; none once they are forgotten.
    pub async fn announcement(&self, batch: BatchKey) -> Result<Vec<EventRange>, Error> {
        on!(self, journal => journal.announcement(batch))
    }

    /// To be called when the events of this batch, and of all before it, have been published.
    pub async fn forget_announcements(&self, through: BatchKey) -> Result<(), Error> {
        on!(self, journal => journal.forget_announcements(through))
    }

    /// The facts that events of these executions are published with, in no particular order; none for those that are
    /// pruned.
    pub async fn facts(&self, ids: &[ExecutionId]) -> Result<Vec<Facts>, Error> {
        on!(self, journal => journal.facts(ids))
    }

    /// A page of executions, live and settled, newest first.
    pub async fn executions(&self, filter: &Filter, page: PageRequest) -> Result<http::Page<http::Execution>, Error> {
        on!(self, journal => journal.executions(filter, page))
    }

    /// All actions that are not deleted, by name.
    pub async fn actions(&self) -> Result<Vec<http::Action>, Error> {
        on!(self, journal => journal.actions())
    }

    /// Up to `most` of them behind this name, by name.
    pub async fn actions_after(&self, after: Option<&ActionRef>, most: u32) -> Result<Vec<http::Action>, Error> {
        on!(self, journal => journal.actions_after(after, most))
    }

    /// The action of this name, unless it is deleted.
    pub async fn action(&self, action: &ActionRef) -> Result<Option<http::Action>, Error> {
        on!(self, journal => journal.action(action))
    }

    /// The secret that only executors know, made with the journal.
    pub async fn secret(&self) -> Result<Secret, Error> {
        on!(self, journal => journal.secret())
    }

    /// How long the `newest` settled executions of an action (at most [`DURATIONS_SAMPLE_MAX`]) waited and ran.
    pub async fn durations(&self, action: ActionId, newest: u32) -> Result<Durations, Error> {
        on!(self, journal => journal.durations(action, newest))
    }

    /// Judges the executions enqueued at `since` or later by the promises, from the journal alone and as of one moment.
    /// Each query may take [`VERIFY_DEADLINE`]; the rows stay in memory until they are judged.
    pub async fn verify(&self, since: Option<Timestamp>) -> Result<JournalVerdict, Error> {
        on!(self, journal => journal.verify(since))
    }

    /// The times this journal was found older than the world, the newest first.
    pub async fn rewinds(&self) -> Result<Vec<PastRewind>, Error> {
        on!(self, journal => journal.rewinds())
    }

    /// Forgets up to `max` executions that ended before `settled_before`, with their attempts and records, and
    /// incarnations of that age. Returns how many executions; as many as `max` means that there may be more.
    ///
    /// For the leader of `epoch`, but on a connection of its own and in small steps: no commit waits long behind it.
    /// Fails with [`Error::LeadershipOver`] once another leads.
    pub async fn prune(&self, epoch: Epoch, settled_before: Timestamp, max: u32) -> Result<u64, Error> {
        on!(self, journal => journal.prune(epoch, settled_before, max))
    }

    /// Adds these dead letters behind all that are kept, and returns how many of the oldest were dropped because of
    /// `bounds`. A letter that is there already stays as it is.
    pub async fn put_dead(&self, letters: &[StoredLetter], bounds: DeadBounds) -> Result<u64, Error> {
        on!(self, journal => journal.put_dead(letters, bounds))
    }

    /// A page of dead letters without their bodies, oldest first.
    pub async fn dead_letters(&self, page: &PageRequest) -> Result<http::Page<http::DeadLetter>, Error> {
        on!(self, journal => journal.dead_letters(page))
    }

    /// One dead letter with all that belongs to it.
    pub async fn dead_letter(&self, id: &str) -> Result<Option<WholeLetter>, Error> {
        on!(self, journal => journal.dead_letter(id))
    }

    /// Forgets one dead letter, and notes in the same transaction the actor of its replay or drop; `false` if there is
    /// none of this id.
    pub async fn drop_dead(&self, id: &str, changed: Changed, by: &By) -> Result<bool, Error> {
        on!(self, journal => journal.drop_dead(id, changed, by))
    }

    /// A page of the audit, newest first.
    pub async fn audit(&self, filter: &AuditFilter, page: &PageRequest) -> Result<http::Page<Entry>, Error> {
        on!(self, journal => journal.audit(filter, page))
    }

    /// Notes that `process` begins to read the message of this digest alone. Returns how many processes, one after the
    /// other, have begun to and have not ended.
    pub async fn suspect(&self, digest: [u8; 32], process: Uuid) -> Result<u32, Error> {
        on!(self, journal => journal.suspect(digest, process))
    }

    /// To be called when the message was read to its end, whatever became of it.
    pub async fn clear_suspect(&self, digest: [u8; 32]) -> Result<(), Error> {
        on!(self, journal => journal.clear_suspect(digest))
    }

    /// To be called by a process that lives and reads nothing any more: what it had begun to read did it no harm.
    pub async fn clear_suspects_of(&self, process: Uuid) -> Result<(), Error> {
        on!(self, journal => journal.clear_suspects_of(process))
    }

    /// The faults of this database as the one truth, in sentences for people; empty if all is well.
    pub async fn check(&self) -> Result<Vec<String>, Error> {
        on!(self, journal => journal.check())
    }

    /// Reads the database's clock.
    pub async fn reading(&self) -> Result<ClockReading, Error> {
        match &self.backend {
            Backend::Postgres(journal) => journal.reading().await,
            Backend::Sqlite(_) => Ok(ClockReading::of_this_host()),
        }
    }

    /// Notes for the next leader how far the journal's time is ahead of the database's clock, in microseconds. Fails
    /// with [`Error::LeadershipOver`] once another than the leader of `epoch` leads.
    pub async fn note_clock(&self, epoch: Epoch, ahead_us: i64) -> Result<(), Error> {
        on!(self, journal => journal.note_clock(epoch, ahead_us))
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Error> {
        on!(self, journal => journal.ping())
    }

    /// Closes the connections. A leadership keeps its own until it is dropped.
    pub async fn close(&self) {
        on!(self, journal => journal.close());
    }
}
