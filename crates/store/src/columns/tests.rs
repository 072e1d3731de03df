//! The lists of columns, held against both schemas and against `slotline_commit`.

use std::collections::BTreeMap;

use slotline_protocol::message::Reply;
use slotline_protocol::record::{Newest, What};
use slotline_protocol::{ActionRef, Detail, ExecutionId, Fence, OutcomeKind, Status};
use slotline_tests::Postgres;
use sqlx::{Connection, PgConnection, SqliteConnection};

use super::*;
use crate::postgres::commit::{ARGUMENTS, CommitArgument};
use crate::{Request, Store};

/// A table, and the kind of each of its columns.
type Table = (&'static str, BTreeMap<String, ColumnKind>);

fn kinds<R>(columns: &[Column<R>]) -> BTreeMap<String, ColumnKind> {
    let kinds: BTreeMap<_, _> = columns.iter().map(|column| (column.name.to_owned(), column.kind)).collect();
    assert_eq!(kinds.len(), columns.len(), "no name is twice in a list");
    kinds
}

/// All columns of the tables that a commit writes row by row.
fn tables() -> Vec<Table> {
    let live = kinds(&ACCEPTED);
    let mut history = kinds(&SETTLED);
    history.extend(KEPT.map(|name| (name.to_owned(), live[name])));
    assert_eq!(history.len(), SETTLED.len() + KEPT.len());
    vec![
        ("live", live),
        ("history", history),
        ("attempts", kinds(&ATTEMPTS)),
        ("action_totals", kinds(&TOTALS)),
        ("ended_incarnations", kinds(&ENDED_INCARNATIONS)),
        ("events", kinds(&EVENTS)),
        ("stories", kinds(&STORIES)),
    ]
}

fn on_postgres(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Flag => "bool",
        ColumnKind::Count => "int4",
        ColumnKind::Number => "int8",
        ColumnKind::Time => "timestamptz",
        ColumnKind::Id => "uuid",
        ColumnKind::Text => "text",
        ColumnKind::Bytes => "bytea",
    }
}

fn on_sqlite(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Flag | ColumnKind::Count | ColumnKind::Number | ColumnKind::Time => "INTEGER",
        ColumnKind::Id | ColumnKind::Bytes => "BLOB",
        ColumnKind::Text => "TEXT",
    }
}

fn typed(kinds: &BTreeMap<String, ColumnKind>, spelt: fn(ColumnKind) -> &'static str) -> BTreeMap<String, String> {
    kinds.iter().map(|(name, kind)| (name.clone(), spelt(*kind).to_owned())).collect()
}

async fn migrated(url: &str) -> anyhow::Result<()> {
    Ok(Store::open(url).await?.migrate().await?)
}

#[tokio::test]
async fn every_column_is_one_of_the_schema_on_postgres() -> anyhow::Result<()> {
    let url = Postgres::shared().await?.fresh_database("columns").await?;
    migrated(&url).await?;
    let mut connection = PgConnection::connect(&url).await?;
    for (table, kinds) in tables() {
        let found: Vec<(String, String)> = sqlx::query_as(
            "SELECT a.attname::text, t.typname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
            WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped",
        )
        .bind(table)
        .fetch_all(&mut connection)
        .await?;
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), typed(&kinds, on_postgres), "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn the_function_takes_the_columns_in_their_order_on_postgres() -> anyhow::Result<()> {
    let url = Postgres::shared().await?.fresh_database("columns").await?;
    migrated(&url).await?;
    let found: Vec<(String, String)> = sqlx::query_as(
        "SELECT a.name::text, t.typname::text FROM pg_proc p, \
        unnest(p.proargnames, p.proargtypes::oid[]) WITH ORDINALITY AS a(name, type, position) \
        JOIN pg_type t ON t.oid = a.type WHERE p.proname = 'slotline_commit' ORDER BY a.position",
    )
    .fetch_all(&mut PgConnection::connect(&url).await?)
    .await?;
    let ours: Vec<_> =
        ARGUMENTS.iter().map(|CommitArgument { name, kind }| (name.clone(), (*kind).to_owned())).collect();
    assert_eq!(found, ours);
    Ok(())
}

#[tokio::test]
async fn every_column_is_one_of_the_schema_on_sqlite() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("journal.db").display());
    migrated(&url).await?;
    let mut connection = SqliteConnection::connect(&url).await?;
    for (table, kinds) in tables() {
        let found: Vec<(String, String)> = sqlx::query_as("SELECT name, type FROM pragma_table_info($1)")
            .bind(table)
            .fetch_all(&mut connection)
            .await?;
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), typed(&kinds, on_sqlite), "{table}");
    }
    Ok(())
}

/// Each column has a value in this row, of its kind.
fn check<R>(columns: &[Column<R>], row: &R) {
    for Column { name, kind, cell } in columns {
        let found = match cell(row) {
            Cell::Null => None,
            Cell::Flag(_) => Some(ColumnKind::Flag),
            Cell::Count(_) => Some(ColumnKind::Count),
            Cell::Number(_) => Some(ColumnKind::Number),
            Cell::Time(_) => Some(ColumnKind::Time),
            Cell::Id(_) => Some(ColumnKind::Id),
            Cell::Text(_) => Some(ColumnKind::Text),
            Cell::Bytes(_) => Some(ColumnKind::Bytes),
        };
        assert_eq!(found, Some(*kind), "{name}");
    }
}

fn raw(text: &str) -> Arc<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(text.to_owned()).expect("valid JSON").into()
}

fn text() -> Option<String> {
    Some("text".to_owned())
}

fn accepted() -> AcceptedRequest {
    let at = Timestamp::from_micros(1);
    let worker = WorkerName::new("worker-1").expect("a name");
    let lease = Lease {
        worker,
        incarnation: Incarnation(Uuid::from_u128(1)),
        fence: Fence(2),
        scheduled_at: at,
        started_at: Some(at),
        after: Some(Fence(1)),
    };
    let snapshot = Snapshot {
        id: ExecutionId(1),
        action: ActionId(1),
        key: Some("key".into()),
        status: Status::Queued,
        place: 1,
        attempt: 1,
        tried: 0,
        failures: 0,
        losses: 0,
        enqueued_at: at,
        queued_at: at,
        not_before: Some(at),
        keeps_slot: false,
        cancel_requested: false,
        is_bulky: false,
        lease: Some(lease),
    };
    let request = Request {
        name: Some("message".into()),
        digest: [0; 32],
        parameters: raw("{}"),
        timeout: Some(std::time::Duration::from_secs(1)),
        detail: Detail::Quiet,
        correlation_id: text(),
        trace_id: text(),
        source: text(),
        reply_to: text(),
        reply: Reply::Accepted,
    };
    AcceptedRequest { snapshot, request: Arc::new(request) }
}

#[test]
fn every_cell_is_of_the_kind_of_its_column() {
    let accepted = accepted();
    let (snapshot, at) = (accepted.snapshot.clone(), Timestamp::from_micros(1));
    let (id, lease) = (snapshot.id, snapshot.lease.clone().expect("it has one"));
    let (action_ref, error) = (ActionRef::new("demo.echo").expect("a name"), Failure::new("signal", "ended"));
    check(&ACCEPTED, &accepted);
    check(&STATE, &snapshot);
    let (result, error) = (Some(raw("1")), Some(error));
    let outcome = OutcomeKind::Failed;
    let (result_of, error_of) = (result.clone(), error.clone());
    let ended = AttemptEnded {
        id,
        action: snapshot.action,
        attempt: 1,
        queued_at: at,
        lease: lease.clone(),
        outcome,
        result,
        error,
        ended_at: at,
    };
    check(&ATTEMPTS, &ended);
    let settled = Settled {
        id,
        action: snapshot.action,
        action_ref: action_ref.clone(),
        status: Status::Failed,
        attempt: 1,
        queued_at: at,
        counts_as: 1,
        failures: 1,
        losses: 0,
        lease: Some(lease.clone()),
        result: result_of,
        error: error_of,
        ended_at: at,
    };
    check(&SETTLED, &Arc::new(settled));
    check(&TOTALS, &(snapshot.action, 1, 1));
    check(&ENDED_INCARNATIONS, &(lease.incarnation, lease.worker, at));
    let event = Event { execution_id: id, action_ref, number: 1, attempt: 1, timestamp: at, what: What::Started };
    check(&EVENTS, &Arc::new(event));
    let story = Story {
        id,
        first: 1,
        last: 1,
        attempt: 1,
        sequence: 1,
        newest: Newest::default(),
        status: Status::Running,
        latest: None,
        awaits: Some(1),
    };
    check(&STORIES, &story);
}
