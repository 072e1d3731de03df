//! Its servers, and what publishers give them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use slotline_broker::{Broker, topology};
use slotline_tests::{Daemon, Launch, eventually};

use super::{LATER, PREFIX, PUBLISHER, PYTHON, SOON, World, list};
use crate::follower::Addresses;
use crate::listener::Subscriber;
use crate::message::Message;

impl World {
    /// Lets runs go on that wait for the gate of this name.
    pub(crate) fn open(&self, gate: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.gates.join(gate), "")?)
    }

    /// Where the gate of this name is, for commands that wait for it by themselves.
    pub(crate) fn gate(&self, gate: &str) -> PathBuf {
        self.gates.join(gate)
    }

    /// Where the executors of this world listen.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses.set(self.executors.iter().map(Daemon::api_url).collect());
        self.addresses.clone()
    }

    /// Receives all progress and statuses that are published from now on.
    pub(crate) async fn subscribe(&self) -> anyhow::Result<Subscriber> {
        Subscriber::start(&self.login("reader"), &["execution.progress.#", "execution.status_changed.#"]).await
    }

    /// A page of an execution's events, as `query` asks for it: the whole answer.
    pub(crate) async fn page(&self, id: i64, query: &str) -> anyhow::Result<Value> {
        let (status, page) = self.call("GET", &format!("/api/v1/executions/{id}/events?{query}"), None).await?;
        ensure!(status == 200, "{query}: {status} {page}");
        Ok(page)
    }

    /// The events of an execution so far.
    pub(crate) async fn events(&self, id: i64) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut after) = (Vec::new(), Value::from(0));
        loop {
            let mut page = self.page(id, &format!("limit=1000&after={after}")).await?;
            let events = list(&page["data"])?;
            if events.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(events);
            after = page["next_after"].take();
        }
    }

    /// The events of an execution once it has settled.
    pub(crate) async fn whole_record(&self, id: i64) -> anyhow::Result<Vec<Value>> {
        eventually(&format!("the record of execution {id} has its end"), LATER, async || {
            let events = self.events(id).await?;
            let is_over = events.last().is_some_and(|event| event["kind"] == "settled");
            if is_over { Ok(Some(events)) } else { bail!("{} events, the last {:?}", events.len(), events.last()) }
        })
        .await
    }

    /// Runs SQL in this installation's database.
    pub(crate) async fn sql(&self, sql: &str) -> anyhow::Result<String> {
        self.postgres.psql_in(&self.database, sql).await
    }

    /// What the journal holds, for [`World::restore`].
    pub(crate) async fn dump(&self) -> anyhow::Result<String> {
        self.postgres.dump(&self.database).await
    }

    /// Puts the journal back to what it was.
    pub(crate) async fn restore(&self, dump: &str) -> anyhow::Result<()> {
        self.postgres.restore(&self.database, dump).await
    }

    /// Starts an executor on a copy of the journal as it was, beside the others.
    pub(crate) async fn start_executor_on_copy(&mut self, dump: &str) -> anyhow::Result<()> {
        let copy = self.postgres.fresh_database("copy").await?;
        self.postgres.restore(&copy, dump).await?;
        let name = format!("executor-{}", self.executors.len());
        self.executors.push(Daemon::executor(
            &self.sandbox,
            &name,
            &copy,
            &self.login("executor"),
            self.lease.options(),
        )?);
        Ok(())
    }

    /// The verdict of `slotline verify`.
    pub(crate) async fn verified(&self) -> anyhow::Result<String> {
        let output = Launch::new("verify", &["verify", "--database-url", &self.database]).output(&self.sandbox).await?;
        ensure!(output.status.success(), "verify: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same for programs, whatever the verdict is.
    pub(crate) async fn verified_json(&self) -> anyhow::Result<Value> {
        let arguments = ["verify", "--database-url", &self.database, "--output", "json"];
        let output = Launch::new("verify", &arguments).output(&self.sandbox).await?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("verify: {output:?}"))
    }

    /// Waits for a mark on the broker by which the next execution of the journal is this one, or a later one.
    pub(crate) async fn marked(&self, next: i64) -> anyhow::Result<()> {
        let session = Broker::rabbit(&self.amqp, PREFIX)?.open("the test").await?;
        let marked = eventually(&format!("a mark tells of what is before execution {next}"), SOON, async || {
            let browser = session.browse(&topology::marks_queue(PREFIX), topology::MARKS_MAX as usize).await?;
            let mut newest = 0;
            for delivery in &browser.deliveries {
                let mark: Value = serde_json::from_slice(&delivery.body)?;
                newest = newest.max(mark["next"]["execution"].as_i64().unwrap_or_default());
            }
            browser.close().await?;
            if newest >= next { Ok(Some(())) } else { bail!("the next is {newest}") }
        })
        .await;
        session.close().await;
        marked
    }

    /// The answer of one executor alone.
    pub(crate) async fn health_of(&self, index: usize) -> anyhow::Result<(u16, String)> {
        let url = format!("{}/readyz?verbose", self.executors[index].api_url());
        let answer = self.http.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// How many requests the broker still holds, taken by an executor or not.
    pub(crate) async fn requests_held(&self) -> anyhow::Result<usize> {
        let vhost = self.vhost()?;
        let list = ["list_queues", "--silent", "--no-table-headers", "--vhost", vhost, "name", "messages"];
        let listed = self.rabbit.ctl(&list).await?.stdout;
        let line = listed.lines().find_map(|line| line.strip_prefix("slotline.requests")).context("no such queue")?;
        Ok(line.trim().parse()?)
    }

    /// The virtual host on RabbitMQ.
    pub(crate) fn vhost(&self) -> anyhow::Result<&str> {
        self.amqp.rsplit('/').next().context("the URL names a virtual host")
    }

    /// How many messages grow old in the leader's canary queue.
    pub(crate) async fn canaries(&self) -> anyhow::Result<u64> {
        let session = Broker::rabbit(&self.amqp, PREFIX)?.open("the test").await?;
        let aged = session.depth(&format!("{PREFIX}.canary.aging")).await;
        session.close().await;
        Ok(aged?)
    }

    /// How many requests wait for an executor to take them. Asked over AMQP: the command line takes seconds, and shows
    /// what was seconds ago.
    pub(crate) async fn requests_waiting(&self) -> anyhow::Result<u64> {
        let session = Broker::rabbit(&self.amqp, PREFIX)?.open("the test").await?;
        let waiting = session.depth(&topology::requests_queue(PREFIX)).await;
        session.close().await;
        Ok(waiting?)
    }

    /// Publishes in order through a foreign client; all are confirmed when this returns.
    pub(crate) async fn publish(&self, messages: &[Message]) -> anyhow::Result<()> {
        self.publisher(messages, 0)?.await.map(drop)
    }

    /// Publishes with a `reply_to`, and gives the `count` answers that come.
    pub(crate) async fn publish_for_replies(&self, messages: &[Message], count: usize) -> anyhow::Result<Vec<Value>> {
        let said = self.publisher(messages, count)?.await?;
        said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The running publisher, to be awaited while other things happen.
    pub(crate) fn publisher(
        &self,
        messages: &[Message],
        replies: usize,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<String>> + use<>> {
        let mut lines = tempfile::tempfile()?;
        for message in messages {
            std::io::Write::write_all(&mut lines, message.line().as_bytes())?;
        }
        std::io::Seek::rewind(&mut lines)?;
        let mut command = Command::new(PYTHON);
        command.args([PUBLISHER, &self.login("publisher")]).stdin(lines).stdout(Stdio::piped()).stderr(Stdio::piped());
        if replies > 0 {
            command.args(["--replies", &replies.to_string()]);
        }
        let task = tokio::task::spawn_blocking(move || command.output());
        Ok(async move {
            let output = task.await?.with_context(|| format!("{PYTHON}, with Debian's python3-pika"))?;
            let (said, wrong) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "the publisher: {}\n{said}{wrong}", output.status);
            Ok(said)
        })
    }
}
