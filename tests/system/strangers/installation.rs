//! What messages of strangers are sent to: an executor, and a session to publish on.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use slotline_broker::{Broker, Publication, Session};
use slotline_tests::{Daemon, Launch, Postgres, Rabbit, Sandbox, eventually};

use super::{PREFIX, WINDOW};
use crate::world::{LATER, http};

/// Servers, an executor, and a session to publish on.
pub(super) struct Installation {
    pub(super) executor: Daemon,
    pub(super) session: Session,
    pub(super) broker: Broker,
    pub(super) amqp: String,
    pub(super) sandbox: Sandbox,
    pub(super) database: String,
    pub(super) postgres: &'static Postgres,
    pub(super) http: reqwest::Client,
}

impl Installation {
    pub(super) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With these variables in the environment of the executor.
    pub(super) async fn start_with(environment: &[(&str, &str)]) -> Result<Self> {
        let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
        let (amqp, database) = (rabbit.fresh_vhost().await?, postgres.fresh_database("strangers").await?);
        let sandbox = Sandbox::new("strangers")?;
        let launch = Launch::new("executor", &["executor", "--database-url", &database, "--amqp-url", &amqp]);
        let launch = environment.iter().fold(launch, |launch, (name, value)| launch.env(name, *value));
        let executor = launch.start_listening(&sandbox)?;
        let broker = Broker::rabbit(&amqp, PREFIX)?;
        let http = http()?;
        let session = broker.open("strangers").await?;
        Ok(Self { executor, session, broker, amqp, sandbox, database, postgres, http })
    }

    pub(super) async fn put(&self, action: &str, policy: Value) -> Result<()> {
        eventually("the executor takes the action", LATER, async || {
            let url = format!("{}/api/v1/actions/{action}", self.executor.api_url());
            let answer = self.http.put(url).json(&policy).send().await?;
            ensure!(answer.status().is_success(), "{}", answer.text().await?);
            Ok(Some(()))
        })
        .await
    }

    pub(super) async fn completed(&self, action: &str) -> Result<u64> {
        let url = format!("{}/api/v1/actions/{action}/queue-stats", self.executor.api_url());
        let stats: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        stats["data"]["total_completed"].as_u64().context("queue-stats name total_completed")
    }

    pub(super) async fn publish(&self, messages: impl Iterator<Item = Publication>) -> Result<()> {
        let mut receipts = VecDeque::with_capacity(WINDOW);
        for message in messages {
            // What is large must not fill the session by itself.
            if receipts.len() == WINDOW || message.body.len() > WINDOW {
                for receipt in receipts.drain(..) {
                    Box::pin(receipt).await?;
                }
            }
            receipts.push_back(self.session.publish(message));
        }
        for receipt in receipts {
            Box::pin(receipt).await?;
        }
        Ok(())
    }

    /// The verdict of `slotline verify`, and how it ended.
    pub(super) async fn verify(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let launch =
            Launch::new("verify", &["verify", "--database-url", &self.database]).args(arguments.iter().copied());
        let output = launch.output(&self.sandbox).await?;
        let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        Ok((output.status.code(), said))
    }
}
