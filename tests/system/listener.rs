//! Listeners: to a stream of events over HTTP, and to the exchange over AMQP. They check nothing.

use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use eventsource_stream::Eventsource;
use futures::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::world::{PYTHON, SOON};

const SUBSCRIBER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/listen.py");

/// One event of a stream, as a browser gets it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heard {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// An open stream of events. The connection is cut when it is dropped.
pub(crate) struct Ear(Pin<Box<dyn Stream<Item = anyhow::Result<Heard>> + Send>>);

impl Ear {
    /// Listens at an address, to what follows `last`. `None` if nothing can follow.
    pub(crate) async fn open(client: &reqwest::Client, url: &str, last: Option<u64>) -> anyhow::Result<Option<Self>> {
        let mut request = client.get(url).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        if status == 204 {
            return Ok(None);
        }
        if status != 200 {
            bail!("{url}: {status} {}", answer.text().await?);
        }
        let kind = answer.headers().get("content-type").context("a content type")?.to_str()?;
        ensure!(kind.starts_with("text/event-stream"), "{url}: {kind}");
        let chunks = stream::try_unfold(answer, async |mut answer| {
            Ok::<_, reqwest::Error>(answer.chunk().await?.map(|chunk| (chunk, answer)))
        });
        let events = chunks.eventsource().map(|event| {
            let event = event.map_err(|error| anyhow::anyhow!("{error}"))?;
            Ok(Heard { id: event.id, kind: event.event, data: serde_json::from_str(&event.data)? })
        });
        Ok(Some(Self(Box::pin(events))))
    }

    /// The next event; `None` where the stream ends. A broken connection is an error.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Heard>> {
        tokio::time::timeout(SOON, self.0.next()).await.context("a stream says nothing")?.transpose()
    }

    /// Everything until the stream ends.
    pub(crate) async fn rest(mut self) -> anyhow::Result<Vec<Heard>> {
        let mut all = Vec::new();
        while let Some(heard) = self.next().await? {
            all.push(heard);
        }
        Ok(all)
    }
}

/// A client for streams, without a deadline.
pub(crate) fn patient() -> reqwest::Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().connect_timeout(SOON).pool_max_idle_per_host(0).build()
}

/// A subscriber to the exchange, a process of a foreign client. Ends when it is dropped.
pub(crate) struct Subscriber {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Subscriber {
    /// Receives everything that is published with a key that fits one of `patterns` after this returns.
    pub(crate) async fn start(amqp: &str, patterns: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(PYTHON);
        command.args([SUBSCRIBER, amqp]).args(patterns).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let first = tokio::time::timeout(SOON, lines.next_line()).await??;
        ensure!(first.as_deref() == Some("listening"), "{first:?}");
        Ok(Self { lines, _process: process })
    }

    /// The next envelope.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await.context("nothing is published")??;
        let envelope: Value = serde_json::from_str(&line.context("the subscriber ended")?)?;
        ensure!(envelope.is_object(), "a body is one envelope: {envelope}");
        Ok(envelope)
    }

    /// The payload of the next envelope for which `is` holds.
    pub(crate) async fn until(&mut self, is: impl Fn(&str, &Value) -> bool) -> anyhow::Result<Value> {
        loop {
            let mut envelope = self.next().await?;
            let payload = envelope["payload"].take();
            if is(envelope["message_type"].as_str().unwrap_or_default(), &payload) {
                return Ok(payload);
            }
        }
    }
}

/// Between two tries to reach an executor that is not there.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(50);
