//! How fast batches commit, and how fast a new leader reads a million live executions. `cargo bench -p slotline-store`.
//!
//! Prints plain lines. On a private PostgreSQL with `fsync` on, and on SQLite in a file of the temporary directory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slotline_protocol::message::{Reply, Report};
use slotline_protocol::record::{Event, Latest, Newest, What};
use slotline_protocol::{ActionId, ActionRef, Detail, ExecutionId, Fence, Incarnation, Status, Timestamp, WorkerName};
use slotline_scheduler::{Lease, Settled, Snapshot};
use slotline_store::{AcceptedRequest, Batch, Leadership, Request, Store, Story};
use uuid::Uuid;

const MILLION: i64 = 1_000_000;

fn request(id: i64) -> Request {
    let parameters = serde_json::value::RawValue::from_string(format!(r#"{{"tenant": "a", "n": {id}}}"#));
    Request {
        name: Some(scattered(id).to_string().into()),
        digest: [7; 32],
        parameters: parameters.expect("valid JSON").into(),
        timeout: None,
        detail: Detail::Default,
        correlation_id: None,
        trace_id: None,
        source: Some("bench".to_owned()),
        reply_to: None,
        reply: Reply::Accepted,
    }
}

/// Ids that sort in an arbitrary order, as random ones do: multiples of 2^128 over the golden ratio.
fn scattered(id: i64) -> Uuid {
    Uuid::from_u128(u128::from(id.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn queued(id: i64) -> Snapshot {
    Snapshot {
        id: ExecutionId(id),
        action: ActionId(1),
        key: Some(Arc::from("key")),
        status: Status::Queued,
        place: id,
        attempt: 0,
        tried: 0,
        failures: 0,
        losses: 0,
        enqueued_at: Timestamp::from_micros(id),
        queued_at: Timestamp::from_micros(id),
        not_before: None,
        keeps_slot: false,
        cancel_requested: false,
        is_bulky: false,
        lease: None,
    }
}

fn lease(id: i64) -> Lease {
    Lease {
        worker: WorkerName::new("worker-1").expect("valid"),
        incarnation: Incarnation(Uuid::from_u128(1)),
        fence: Fence(id),
        scheduled_at: Timestamp::from_micros(id),
        started_at: None,
        after: None,
    }
}

fn accept(ids: std::ops::Range<i64>) -> Vec<AcceptedRequest> {
    ids.map(|id| AcceptedRequest { snapshot: queued(id), request: request(id).into() }).collect()
}

fn schedule(ids: std::ops::Range<i64>) -> Vec<Snapshot> {
    ids.map(|id| Snapshot { status: Status::Scheduled, attempt: 1, lease: Some(lease(id)), ..queued(id) }).collect()
}

fn settle(ids: std::ops::Range<i64>) -> Vec<Arc<Settled>> {
    ids.map(|id| Settled {
        id: ExecutionId(id),
        action: ActionId(1),
        action_ref: ActionRef::new("demo.echo").expect("valid"),
        status: Status::Completed,
        attempt: 1,
        queued_at: Timestamp::from_micros(id),
        counts_as: 1,
        failures: 0,
        losses: 0,
        lease: Some(lease(id)),
        result: None,
        error: None,
        ended_at: Timestamp::from_micros(id),
    })
    .map(Arc::new)
    .collect()
}

struct Bench {
    name: &'static str,
    lead: Leadership,
    number: i64,
    next: i64,
}

impl Bench {
    async fn commit(&mut self, batch: Batch) -> anyhow::Result<Duration> {
        self.number += 1;
        let batch = Batch { number: self.number, ..batch };
        let begun = Instant::now();
        self.lead.commit(&batch).await?;
        Ok(begun.elapsed())
    }

    /// What a commit costs before it writes anything: a round trip, the epoch row and a flush.
    async fn empty(&mut self, batches: i64) -> anyhow::Result<()> {
        let mut took = Vec::new();
        for _ in 0..batches {
            took.push(self.commit(Batch::default()).await?);
        }
        took.sort();
        println!("{}: empty: p50 {:.2?}, p99 {:.2?}", self.name, took[took.len() / 2], took[took.len() * 99 / 100]);
        Ok(())
    }

    /// Batches as under load: each accepts, schedules and settles `size` executions.
    async fn pipeline(&mut self, size: i64, batches: i64) -> anyhow::Result<()> {
        let (first, mut took) = (self.next, Vec::new());
        self.next += size * (batches + 2);
        for batch in 0..batches {
            let ids = |ago: i64| first + (batch - ago) * size..first + (batch - ago + 1) * size;
            let mut full = Batch { accepted: accept(ids(0)), ..Batch::default() };
            if batch >= 1 {
                full.live = schedule(ids(1));
            }
            if batch >= 2 {
                full.settled = settle(ids(2));
            }
            took.push(self.commit(full).await?);
        }
        let total: Duration = took.iter().skip(2).sum();
        took.sort();
        let at = |percent: usize| took[(took.len() - 1) * percent / 100];
        println!(
            "{}: accept, schedule and settle {size} each: p50 {:.2?}, p99 {:.2?}, {:.0} executions/s",
            self.name,
            at(50),
            at(99),
            (batches - 2) as f64 * size as f64 / total.as_secs_f64()
        );
        Ok(())
    }

    /// Batches of five events of each of a hundred executions, of which the newest thousand are kept.
    async fn record(&mut self, batches: u64) -> anyhow::Result<()> {
        let ids = self.next..self.next + 100;
        self.next += 100;
        self.commit(Batch { accepted: accept(ids.clone()), ..Batch::default() }).await?;
        let mut took = Vec::new();
        for batch in 0..batches {
            let last = batch * 5 + 5;
            let first = last.saturating_sub(999).max(1);
            let full = Batch {
                events: ids.clone().flat_map(|id| (last - 4..=last).map(move |number| report(id, number))).collect(),
                stories: ids.clone().map(|id| story(id, first, last)).collect(),
                ..Batch::default()
            };
            took.push(self.commit(full).await?);
        }
        let total: Duration = took.iter().sum();
        took.sort();
        println!(
            "{}: 500 events of 100 executions: p50 {:.2?}, p99 {:.2?}, {:.0} events/s",
            self.name,
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            batches as f64 * 500.0 / total.as_secs_f64()
        );
        Ok(())
    }
}

fn report(id: i64, number: u64) -> Arc<Event> {
    let message = Some(format!("copied block {number} of the image"));
    let report = Report { step: Some((number, 1_000)), message, percent: Some(12.5), ..Report::default() };
    Arc::new(Event {
        execution_id: ExecutionId(id),
        action_ref: ActionRef::new("demo.echo").expect("valid"),
        number,
        attempt: 1,
        timestamp: Timestamp::from_micros(id),
        what: What::Progress(report),
    })
}

fn story(id: i64, first: u64, last: u64) -> Story {
    let newest = Newest { info: Some(format!("copied block {last} of the image")), error: None };
    let id = ExecutionId(id);
    Story {
        id,
        first,
        last,
        attempt: 1,
        sequence: last,
        status: Status::Running,
        newest,
        latest: Some(Latest::default()),
        awaits: None,
    }
}

async fn measure(name: &'static str, url: &str) -> anyhow::Result<()> {
    let store = Store::open(url).await?;
    store.migrate().await?;
    let mut bench = Bench { name, lead: store.lead("bench").await?, number: 0, next: 1 };
    bench.empty(2_000).await?;
    for (size, batches) in [(1, 2_000), (20, 500), (167, 300), (500, 200), (5_000, 20)] {
        bench.pipeline(size, batches).await?;
    }
    bench.record(400).await?;
    for first in (0..MILLION).step_by(20_000) {
        let begin = bench.next + first;
        bench.commit(Batch { accepted: accept(begin..begin + 20_000), ..Batch::default() }).await?;
    }
    bench.next += MILLION;
    let begun = Instant::now();
    let recovered = bench.lead.recover().await?;
    println!("{name}: {} live executions read in {:.2?}", recovered.live.len(), begun.elapsed());
    drop(recovered);
    println!("{name}: and with them in the journal");
    for (size, batches) in [(1, 2_000), (500, 100)] {
        bench.pipeline(size, batches).await?;
    }
    bench.lead.release().await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let server = slotline_tests::Postgres::start().await?;
    measure("postgres", &server.fresh_database("bench").await?).await?;
    let directory = tempfile::tempdir()?;
    measure("sqlite", &format!("sqlite:{}", directory.path().join("bench.db").display())).await
}
