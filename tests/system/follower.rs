//! A client that follows an execution to its end over connections that break, and checks the numbers of the events.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::sync::watch;

use crate::listener::{Ear, Heard, TRY_AGAIN, patient};
use crate::world::LATER;

/// Where executors listen at the moment; a test changes it when it kills and starts them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses(Arc<Mutex<Vec<String>>>);

impl Addresses {
    pub(crate) fn set(&self, urls: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    fn pick(&self, turn: usize) -> Option<String> {
        let urls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = turn.checked_rem(urls.len())?;
        Some(urls[index].clone())
    }
}

/// Follows one execution.
pub(crate) struct Follower {
    pub(crate) addresses: Addresses,
    pub(crate) id: i64,
    client: reqwest::Client,
    heard: Vec<Heard>,
    /// How many events were received, for a test that waits for some.
    count: watch::Sender<usize>,
    pub(crate) connections: usize,
}

impl Follower {
    pub(crate) fn new(addresses: &Addresses, id: i64) -> anyhow::Result<Self> {
        let count = watch::Sender::new(0);
        Ok(Self { addresses: addresses.clone(), id, client: patient()?, heard: Vec::new(), count, connections: 0 })
    }

    pub(crate) fn count(&self) -> Count {
        Count(self.count.subscribe())
    }

    /// All events to the end. `cut` returns after how many events a connection is cut, and which executor the next goes
    /// to.
    pub(crate) async fn until_settled(
        self,
        cut: impl FnMut() -> (usize, usize),
    ) -> anyhow::Result<(Vec<Heard>, usize)> {
        let id = self.id;
        tokio::time::timeout(LATER, self.run(cut)).await.with_context(|| format!("execution {id} has no end"))?
    }

    async fn run(mut self, mut cut: impl FnMut() -> (usize, usize)) -> anyhow::Result<(Vec<Heard>, usize)> {
        loop {
            let (events, turn) = cut();
            let Some(url) = self.addresses.pick(turn) else {
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            };
            let url = format!("{url}/api/v1/executions/{}/events", self.id);
            self.connections += 1;
            // No executor there yet, or no room until other clients go.
            let ear = match Ear::open(&self.client, &url, Some(self.heard.len() as u64)).await {
                Ok(ear) => ear,
                Err(error) => {
                    println!("execution {}, after {}: {error:#}", self.id, self.heard.len());
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
            };
            let mut ear = ear.context("a stream that was not heard to its end is over")?;
            if self.listen(&mut ear, events).await? {
                return Ok((self.heard, self.connections));
            }
        }
    }

    /// Reads at most `most` events; returns whether the last event of the execution was among them.
    async fn listen(&mut self, ear: &mut Ear, most: usize) -> anyhow::Result<bool> {
        for _ in 0..most {
            // After a connection breaks the follower resumes on another.
            let Ok(Some(heard)) = ear.next().await else { return Ok(false) };
            if heard.kind == "reset" {
                ensure!(heard.data["after"] == self.heard.len(), "{heard:?} after {}", self.heard.len());
                return Ok(false);
            }
            let next = self.heard.len() + 1;
            let is_next = heard.data["number"] == next && heard.id == next.to_string();
            ensure!(is_next, "expected number {next} of execution {}, heard {heard:?}", self.id);
            ensure!(heard.data["kind"] == heard.kind, "{heard:?}");
            let is_last = heard.kind == "settled";
            self.heard.push(heard);
            self.count.send_replace(next);
            if is_last {
                return match ear.next().await {
                    Ok(None) => Ok(true),
                    other => bail!("after the end: {other:?}"),
                };
            }
        }
        Ok(false)
    }
}

/// How many events a follower has received.
pub(crate) struct Count(watch::Receiver<usize>);

impl Count {
    /// Waits until it has received at least `least`; returns how many.
    pub(crate) async fn reaches(&mut self, least: usize) -> anyhow::Result<usize> {
        let reached = tokio::time::timeout(LATER, self.0.wait_for(|count| *count >= least)).await;
        // Copied, since a reference would keep the count locked.
        reached.with_context(|| format!("{least} events are heard"))?.map(|count| *count).context("the follower ended")
    }
}

/// The messages of the progress events among `events`, in order.
pub(crate) fn messages<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    events
        .into_iter()
        .filter(|event| event["kind"] == "progress")
        .filter_map(|event| event["message"].as_str())
        .collect()
}

/// Checks a whole record against the contract: numbers from 1 without a hole, and one end, at the end.
pub(crate) fn check_whole<'a>(events: impl IntoIterator<Item = &'a Value>) -> anyhow::Result<()> {
    let mut is_over = false;
    let mut last = 0;
    for (event, number) in events.into_iter().zip(1..) {
        ensure!(event["number"] == number, "expected number {number}: {event}");
        ensure!(!is_over, "after the end: {event}");
        is_over = event["kind"] == "settled";
        last = number;
    }
    ensure!(is_over, "no end after {last}");
    Ok(())
}

/// The gaps among the events.
pub(crate) fn gaps<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<&'a Value> {
    events.into_iter().filter(|event| event["kind"] == "gap").collect()
}
