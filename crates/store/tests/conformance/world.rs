//! A fresh journal for each case, a writer that numbers its batches, and executions made of one number.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::value::RawValue;
use slotline_protocol::message::{Failure, Reply, Report, Stream};
use slotline_protocol::record::{Event, Newest, What};
use slotline_protocol::{
    ActionId, ActionRef, Detail, ExecutionId, Fence, Incarnation, OutcomeKind, Policy, Status, Timestamp, WorkerName,
    http,
};
use slotline_scheduler::{AttemptEnded, Counters, Lease, Settled, Snapshot};
use slotline_store::{AcceptedRequest, ActionChange, Batch, CommitError, Leadership, Recovered, Request, Store, Story};
use slotline_tests::Postgres;
use sqlx::Connection;
use uuid::Uuid;

/// Each case of a list becomes a test for each database.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() -> anyhow::Result<()> {
                super::$name(crate::world::World::postgres().await?).await
            })*
        }
        mod on_sqlite_in_a_file {
            $(#[tokio::test] async fn $name() -> anyhow::Result<()> {
                super::$name(crate::world::World::sqlite_file().await?).await
            })*
        }
        mod on_sqlite_in_memory {
            $(#[tokio::test] async fn $name() -> anyhow::Result<()> {
                super::$name(crate::world::World::sqlite_memory().await?).await
            })*
        }
    };
}
pub(crate) use cases;

/// A migrated, empty journal.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) url: String,
    /// Holds the file of an SQLite database.
    _directory: Option<tempfile::TempDir>,
}

impl World {
    pub(crate) async fn postgres() -> anyhow::Result<Self> {
        Self::on(Postgres::shared().await?).await
    }

    pub(crate) async fn on(server: &Postgres) -> anyhow::Result<Self> {
        Self::migrated(server.fresh_database("store").await?, None).await
    }

    pub(crate) async fn sqlite_file() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let url = format!("sqlite:{}", directory.path().join("journal.db").display());
        Self::migrated(url, Some(directory)).await
    }

    pub(crate) async fn sqlite_memory() -> anyhow::Result<Self> {
        Self::migrated("sqlite::memory:".to_owned(), None).await
    }

    async fn migrated(url: String, directory: Option<tempfile::TempDir>) -> anyhow::Result<Self> {
        let store = Store::open(&url).await?;
        store.migrate().await?;
        Ok(Self { store, url, _directory: directory })
    }

    /// Leads, and has the action that executions of this module belong to.
    pub(crate) async fn writer(&self) -> anyhow::Result<Writer> {
        let mut writer = self.lead().await?;
        let known = writer.lead.recover().await?;
        if known.actions.is_empty() {
            writer
                .commit(Batch { actions: vec![ActionChange::Put(action(1, "demo.echo"))], ..Batch::default() })
                .await?;
        }
        Ok(writer)
    }

    pub(crate) async fn lead(&self) -> anyhow::Result<Writer> {
        Ok(Writer { lead: self.store.lead("test").await?, number: 0 })
    }

    /// Everything that a new leader would read. The leader before must be gone.
    pub(crate) async fn recovered(&self) -> anyhow::Result<Recovered> {
        Ok(self.store.lead("reader").await?.recover().await?)
    }

    /// Writes to the database behind the journal's back.
    pub(crate) async fn tamper(&self, statement: &'static str) -> anyhow::Result<()> {
        if self.url.starts_with("postgres") {
            sqlx::query(statement).execute(&mut sqlx::PgConnection::connect(&self.url).await?).await?;
        } else {
            sqlx::query(statement).execute(&mut sqlx::SqliteConnection::connect(&self.url).await?).await?;
        }
        Ok(())
    }

    /// The one number that `statement` gives; `None` in memory, where no other process can look.
    pub(crate) async fn count(&self, statement: &'static str) -> anyhow::Result<Option<i64>> {
        Ok(match &*self.url {
            url if url.starts_with("postgres") => {
                let query = sqlx::query_scalar(statement);
                Some(query.fetch_one(&mut sqlx::PgConnection::connect(url).await?).await?)
            }
            url if url.contains(":memory:") => None,
            url => {
                let query = sqlx::query_scalar(statement);
                Some(query.fetch_one(&mut sqlx::SqliteConnection::connect(url).await?).await?)
            }
        })
    }

    pub(crate) async fn execution(&self, id: i64) -> anyhow::Result<http::Execution> {
        self.store.execution(ExecutionId(id)).await?.with_context(|| format!("execution {id} is unknown"))
    }
}

/// A leader that numbers its batches.
pub(crate) struct Writer {
    pub(crate) lead: Leadership,
    pub(crate) number: i64,
}

impl Writer {
    pub(crate) async fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        self.number += 1;
        self.lead.commit(&Batch { number: self.number, ..batch }).await
    }

    pub(crate) async fn accept(&mut self, ids: impl IntoIterator<Item = i64>) -> Result<(), CommitError> {
        self.commit(Batch { accepted: ids.into_iter().map(accepted).collect(), ..Batch::default() }).await
    }

    pub(crate) async fn settle(&mut self, ids: impl IntoIterator<Item = i64>) -> Result<(), CommitError> {
        self.commit(Batch { settled: ids.into_iter().map(settled).map(Arc::new).collect(), ..Batch::default() }).await
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_763_713_800_000_000 + second * 1_000_000)
}

pub(crate) fn raw(json: &str) -> Arc<RawValue> {
    RawValue::from_string(json.to_owned()).expect("valid JSON").into()
}

pub(crate) fn action(id: i64, name: &str) -> http::Action {
    http::Action {
        action_id: ActionId(id),
        action_ref: ActionRef::new(name).expect("valid"),
        paused: false,
        policy: Policy::default(),
        limit_override: None,
        created_at: at(0),
        updated_at: at(0),
    }
}

/// Waits in the line of action 1.
pub(crate) fn queued(id: i64) -> Snapshot {
    Snapshot {
        id: ExecutionId(id),
        action: ActionId(1),
        key: None,
        status: Status::Queued,
        place: id,
        attempt: 0,
        tried: 0,
        failures: 0,
        losses: 0,
        enqueued_at: at(id),
        queued_at: at(id),
        not_before: None,
        keeps_slot: false,
        cancel_requested: false,
        is_bulky: false,
        lease: None,
    }
}

pub(crate) fn lease(fence: i64) -> Lease {
    Lease {
        worker: WorkerName::new("worker-1").expect("valid"),
        incarnation: Incarnation(Uuid::from_u128(0xfeed)),
        fence: Fence(fence),
        scheduled_at: at(1_000 + fence),
        started_at: Some(at(2_000 + fence)),
        after: None,
    }
}

/// Runs its first attempt.
pub(crate) fn running(id: i64) -> Snapshot {
    Snapshot { status: Status::Running, attempt: 1, lease: Some(lease(id)), ..queued(id) }
}

/// With nothing but what must be there.
pub(crate) fn request() -> Request {
    Request {
        name: None,
        digest: [7; 32],
        parameters: raw("{}"),
        timeout: None,
        detail: Detail::Default,
        correlation_id: None,
        trace_id: None,
        source: None,
        reply_to: None,
        reply: Reply::Accepted,
    }
}

/// With everything that can be there.
pub(crate) fn full_request(id: i64) -> Request {
    Request {
        name: Some(format!("message-{id}").into()),
        digest: std::array::from_fn(|index| u8::try_from(index).expect("32 fit")),
        parameters: raw(r#"{"app": "shop", "n": [1, 2.50, null]}"#),
        timeout: Some(Duration::new(90, 123_456_789)),
        detail: Detail::Negotiated { interval: Some(Duration::from_millis(300)), step: Some(5) },
        correlation_id: Some("correlation".to_owned()),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        source: Some("publisher".to_owned()),
        reply_to: Some("replies".to_owned()),
        reply: Reply::Settled,
    }
}

pub(crate) fn accepted(id: i64) -> AcceptedRequest {
    AcceptedRequest { snapshot: queued(id), request: request().into() }
}

pub(crate) fn settled(id: i64) -> Settled {
    Settled {
        id: ExecutionId(id),
        action: ActionId(1),
        action_ref: ActionRef::new("demo.echo").expect("valid"),
        status: Status::Completed,
        attempt: 1,
        queued_at: at(0),
        counts_as: 1,
        failures: 0,
        losses: 0,
        lease: Some(lease(id)),
        result: Some(raw(r#"{"ok": true}"#)),
        error: None,
        ended_at: at(3_000 + id),
    }
}

/// Ends as a batch has them.
pub(crate) fn ends<const N: usize>(ends: [Settled; N]) -> Vec<Arc<Settled>> {
    ends.map(Arc::new).into()
}

/// An attempt by this lease that did not settle its execution.
pub(crate) fn ended(id: i64, attempt: u32, lease: Lease, ended_at: Timestamp) -> AttemptEnded {
    let outcome = OutcomeKind::Lost;
    AttemptEnded {
        id: ExecutionId(id),
        action: ActionId(1),
        attempt,
        queued_at: at(0),
        lease,
        outcome,
        result: None,
        error: None,
        ended_at,
    }
}

pub(crate) fn failure() -> Failure {
    Failure {
        code: "exit_status".to_owned(),
        message: "ended with 3\0 and 'quotes'".to_owned(),
        stack_trace: Some("at main.rs:1".to_owned()),
        details: Some(serde_json::json!({"code": 3, "text": "\u{0}"})),
        phase: Some("pull".into()),
    }
}

/// An event of the first attempt, at second `number`.
pub(crate) fn event(id: i64, number: u64, what: What) -> Arc<Event> {
    Arc::new(Event {
        execution_id: ExecutionId(id),
        action_ref: ActionRef::new("demo.echo").expect("valid"),
        number,
        attempt: 1,
        timestamp: at(i64::try_from(number).expect("small")),
        what,
    })
}

pub(crate) fn log(id: i64, number: u64) -> Arc<Event> {
    event(id, number, What::Log { stream: Stream::Stdout, lines: vec![format!("line {number}")] })
}

pub(crate) fn report(id: i64, number: u64) -> Arc<Event> {
    event(id, number, What::Progress(Report { message: Some(format!("report {number}")), ..Report::default() }))
}

/// The record goes from `first` to `last`, without reports.
pub(crate) fn story(id: i64, first: u64, last: u64) -> Story {
    Story {
        id: ExecutionId(id),
        first,
        last,
        attempt: 1,
        sequence: last,
        newest: Newest::default(),
        status: Status::Running,
        latest: None,
        awaits: None,
    }
}

pub(crate) fn counters(next: i64) -> Counters {
    Counters { next_id: next, next_fence: next + 1, next_action: next + 2 }
}

/// Requests are equal if their content is.
#[track_caller]
pub(crate) fn assert_same_request(found: &Request, expected: &Request) {
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}
