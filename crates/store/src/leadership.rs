//! The one writer: the holder of a [`Leadership`] recovers the journal once and commits batches to it.
//!
//! Not here: how leadership is held. On PostgreSQL that is the session of an advisory lock (`postgres::lead`), on
//! SQLite a lock of this process (`sqlite::lead`).

use std::time::Duration;

use slotline_protocol::{Epoch, ExecutionId, Incarnation, http};
use slotline_scheduler::{Counters, Snapshot};

use crate::{Batch, ClockReading, CommitError, Error, OpenStory, Rewind, Standing, postgres, sqlite};

/// The partition that is led. There is one so far.
pub(crate) const PARTITION: i32 = 0;
/// The most executions forgotten by one step, each with up to some thousand events, so that no commit waits long.
pub(crate) const PRUNE_CHUNK: i64 = 20;

/// The right to write, for one epoch. Dropping it gives leadership up.
///
/// A call that fails, or is dropped before it ends, ends the leadership: every later one fails.
#[derive(Debug)]
pub struct Leadership {
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    Postgres(postgres::Lead),
    Sqlite(sqlite::Lead),
}

/// A batch in the form that its database takes; made beforehand, while another is being written.
pub struct Encoded(Form);

enum Form {
    Postgres(postgres::Call),
    Sqlite(sqlite::Script),
}

impl Encoded {
    pub(crate) fn for_postgres(epoch: Epoch, batch: &Batch) -> Self {
        Self(Form::Postgres(postgres::call(epoch, batch)))
    }

    pub(crate) fn for_sqlite(batch: &Batch) -> Self {
        Self(Form::Sqlite(sqlite::Script::of(batch)))
    }
}

/// All that a new leader reads.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every action that is not deleted, by id.
    pub actions: Vec<ActionState>,
    /// Every execution that has not settled, by place.
    pub live: Vec<Snapshot>,
    /// Incarnations that are over for ever, as far as they are remembered.
    pub ended: Vec<Incarnation>,
    pub counters: Counters,
    /// Executions below this id were known before the journal was found older than the world.
    pub rewound_below: ExecutionId,
    pub generation: u64,
    /// Of every live execution that has one, and of every settled one whose last events are awaited; by execution.
    pub stories: Vec<OpenStory>,
}

/// An action with its totals.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionState {
    pub action: http::Action,
    pub total_enqueued: u64,
    /// Executions that reached any terminal status.
    pub total_completed: u64,
}

impl Leadership {
    pub fn epoch(&self) -> Epoch {
        match &self.backend {
            Backend::Postgres(lead) => lead.epoch(),
            Backend::Sqlite(lead) => lead.epoch(),
        }
    }

    /// The database's clock at the beginning of this leadership. All that is due is due by it, so that the next leader,
    /// whose host's own clock may be hours away from this one's, finds everything due at the same moment.
    pub fn reading(&self) -> ClockReading {
        match &self.backend {
            Backend::Postgres(lead) => lead.reading(),
            Backend::Sqlite(lead) => lead.reading(),
        }
    }

    /// How far the journal's time was ahead of the database's clock under the leaders before, in microseconds.
    pub fn clock_ahead_us(&self) -> i64 {
        match &self.backend {
            Backend::Postgres(lead) => lead.clock_ahead_us(),
            Backend::Sqlite(lead) => lead.clock_ahead_us(),
        }
    }

    /// Reads everything that lives. Since the epoch was raised before, no older leader can change it any more.
    ///
    /// May take longer than a call's deadline, but never waits longer than that for the next row.
    pub async fn recover(&mut self) -> Result<Recovered, Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.recover().await,
            Backend::Sqlite(lead) => lead.recover().await,
        }
    }

    /// Writes a batch, whole or not at all; once this returns `Ok` it is durable.
    pub async fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.commit(batch, postgres::call(lead.epoch(), batch)).await,
            Backend::Sqlite(lead) => lead.commit(batch, sqlite::Script::of(batch)).await,
        }
    }

    /// Writes a batch that [`Store::encode`] has made ready for this journal and this epoch. If it is refused for its
    /// content, the culprits are looked for in `batch`.
    ///
    /// [`Store::encode`]: crate::Store::encode
    pub async fn commit_encoded(&mut self, batch: &Batch, encoded: Encoded) -> Result<(), CommitError> {
        match (&mut self.backend, encoded.0) {
            (Backend::Postgres(lead), Form::Postgres(call)) => lead.commit(batch, call).await,
            (Backend::Sqlite(lead), Form::Sqlite(script)) => lead.commit(batch, script).await,
            (Backend::Postgres(_), Form::Sqlite(_)) | (Backend::Sqlite(_), Form::Postgres(_)) => {
                unreachable!("a batch is encoded by the store it is written to")
            }
        }
    }

    /// Shows the database that this leader is alive. Due every few seconds without a commit: a session silent for
    /// longer than [`Leadership::SILENCE_MAX`] loses its lock.
    pub async fn ping(&mut self) -> Result<(), Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.ping().await,
            Backend::Sqlite(lead) => lead.ping().await,
        }
    }

    /// How long the database bears a leader's silence.
    pub const SILENCE_MAX: Duration = postgres::IDLE_SESSION_TIMEOUT;

    /// Notes the lease that this leader is going to send to workers, before it sends it to any. Returns the longest
    /// lease that some worker may still go by, this one included.
    ///
    /// `doubt` is why this leader thinks that the journal may be older than the world, if it does: kept until a leader
    /// has [settled](Self::settle) it, or has no doubt.
    pub async fn take_terms(&mut self, lease: Duration, doubt: Option<&str>) -> Result<Duration, Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.take_terms(lease, doubt).await,
            Backend::Sqlite(lead) => lead.take_terms(lease, doubt).await,
        }
    }

    /// The state of the journal before this leader, and which copy of it this is.
    pub async fn standing(&mut self) -> Result<Standing, Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.standing().await,
            Backend::Sqlite(lead) => lead.standing().await,
        }
    }

    /// To be called when something shows that the journal is older than the world, so that the next leader examines it.
    /// That leader's epoch is higher than `above`; this leader commits nothing more.
    pub async fn doubt(&mut self, reason: &str, above: Epoch) -> Result<(), Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.doubt(reason, above).await,
            Backend::Sqlite(lead) => lead.doubt(reason, above).await,
        }
    }

    /// Everything that may have happened since is accounted for: the journal goes on as a new generation, with higher
    /// numbers. This leader commits nothing more.
    pub async fn settle(&mut self, rewind: &Rewind) -> Result<(), Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.settle(rewind).await,
            Backend::Sqlite(lead) => lead.settle(rewind).await,
        }
    }

    /// To be called when no worker goes by a longer lease than this any more.
    pub async fn forget_terms(&mut self, lease: Duration) -> Result<(), Error> {
        match &mut self.backend {
            Backend::Postgres(lead) => lead.forget_terms(lease).await,
            Backend::Sqlite(lead) => lead.forget_terms(lease).await,
        }
    }

    /// Hands leadership over at once. Returns when the next in line can have it.
    pub async fn release(self) {
        match self.backend {
            Backend::Postgres(lead) => lead.release().await,
            Backend::Sqlite(lead) => drop(lead),
        }
    }
}

impl From<postgres::Lead> for Leadership {
    fn from(lead: postgres::Lead) -> Self {
        Self { backend: Backend::Postgres(lead) }
    }
}

impl From<sqlite::Lead> for Leadership {
    fn from(lead: sqlite::Lead) -> Self {
        Self { backend: Backend::Sqlite(lead) }
    }
}

/// As the journal keeps a lease: in microseconds.
pub(crate) fn lease_us(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn lease(lease_us: i64) -> Duration {
    Duration::from_micros(u64::try_from(lease_us).unwrap_or_default())
}
