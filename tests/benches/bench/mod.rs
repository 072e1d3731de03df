//! What the benchmarks share: publishing executions and waiting for their ends, and the hand-offs of a line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use slotline_broker::{Properties, Publication, Session, topology};
use slotline_tests::{Daemon, Sandbox, eventually};
use slotline_worker::{Context, HandlerError};

/// Publications that may be unconfirmed at once.
const WINDOW: usize = 2000;
/// How long any one measure may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
pub(crate) const PREFIX: &str = "slotline";

/// A number that follows `name` on the command line.
pub(crate) fn argument(name: &str) -> Result<Option<usize>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|value| value.parse().with_context(|| format!("{name}: expected a number"))).transpose()
}

pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    format!("{cores} cores, {}", model.trim_start_matches([' ', '\t', ':']))
}

/// Two executors of one installation: one leads, and the other waits for leadership.
pub(crate) fn pair(sandbox: &Sandbox, database: &str, amqp: &str) -> Result<Vec<Daemon>> {
    ["one", "other"].into_iter().map(|name| Daemon::executor(sandbox, name, database, amqp, &[])).collect()
}

/// One installation under measurement.
pub(crate) struct Bench<'s> {
    pub(crate) session: &'s Session,
    pub(crate) api: &'s str,
}

impl Bench<'_> {
    /// Publishes `count` executions and waits until the journal holds all their ends.
    pub(crate) async fn run(&self, action: &str, count: usize) -> Result<Duration> {
        let before = self.settled(action).await?;
        let begun = Instant::now();
        let mut receipts = VecDeque::with_capacity(WINDOW);
        for _ in 0..count {
            if receipts.len() == WINDOW {
                receipts.pop_front().context("the window is full")?.await?;
            }
            receipts.push_back(self.session.publish(request(action)));
        }
        for receipt in receipts {
            receipt.await?;
        }
        let all = before + count as u64;
        eventually("every execution has ended", PATIENCE, async || {
            Ok((self.settled(action).await? >= all).then(|| begun.elapsed()))
        })
        .await
    }

    /// How many executions of the action have ended. The leader answers with what is committed.
    async fn settled(&self, action: &str) -> Result<u64> {
        let url = format!("{}/api/v1/actions/{action}/queue-stats", self.api);
        let stats = reqwest::get(url).await?.error_for_status()?.text().await?;
        let stats: serde_json::Value = serde_json::from_str(&stats)?;
        stats["data"]["total_completed"].as_u64().context("queue-stats name total_completed")
    }

    /// The pauses between the handlers of `count` executions of a limit-1 action, shortest first.
    pub(crate) async fn handovers(&self, action: &str, spans: &Spans, count: usize) -> Result<Vec<Duration>> {
        // The first executions pay for what is set up once.
        self.run(action, 50).await?;
        spans.take();
        self.run(action, count).await?;
        let spans = spans.take();
        ensure!(spans.len() == count, "{} handlers ran", spans.len());
        ensure!(spans.is_sorted_by(|one, other| one.1 <= other.0), "two handlers of one slot overlapped");
        let mut pauses: Vec<_> = spans.windows(2).map(|pair| pair[1].0.duration_since(pair[0].1)).collect();
        pauses.sort_unstable();
        Ok(pauses)
    }

    pub(crate) async fn put(&self, action: &str, policy: &str) -> Result<()> {
        let client = reqwest::Client::new();
        eventually("the executor takes the action", PATIENCE, async || {
            let request = client.put(format!("{}/api/v1/actions/{action}", self.api));
            let sent = request.header("content-type", "application/json").body(policy.to_owned()).send().await;
            Ok(sent.is_ok_and(|response| response.status().is_success()).then_some(()))
        })
        .await
    }
}

/// The start and end of every handler, in order of their ends.
#[derive(Clone, Default)]
pub(crate) struct Spans(Arc<Mutex<Vec<(Instant, Instant)>>>);

impl Spans {
    /// A handler that takes a millisecond.
    pub(crate) async fn handle(self, _: Context) -> Result<(), HandlerError> {
        let start = Instant::now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((start, Instant::now()));
        Ok(())
    }

    fn take(&self) -> Vec<(Instant, Instant)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The one at this share of what is sorted, in milliseconds.
pub(crate) fn milliseconds(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

pub(crate) fn request(action: &str) -> Publication {
    Publication {
        exchange: topology::executions_exchange(PREFIX),
        routing_key: "execution.requested".to_owned(),
        body: format!(
            r#"{{"message_type":"execution.requested","payload":{{"action_ref":"{action}","parameters":{{}}}}}}"#
        )
        .into(),
        properties: Properties { message_id: Some(uuid::Uuid::new_v4().to_string()), ..Properties::default() },
        mandatory: true,
        persistent: true,
    }
}
