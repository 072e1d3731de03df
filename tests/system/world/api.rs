//! Its HTTP API, and what can be judged by it.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::Value;
use slotline_tests::eventually;

use super::{SOON, World};

impl World {
    /// The status and body of the first executor that answers.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<(u16, Value)> {
        let mut failure = None;
        for executor in &self.executors {
            let mut request = self.http.request(method.parse()?, format!("{}{path}", executor.api_url()));
            if let Some(body) = &body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let text = answer.text().await?;
                    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
                    return Ok((status, body));
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| anyhow::anyhow!("no executor"), Into::into)).context(format!("{method} {path}"))
    }

    /// The `data` of an answer that must be a success.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, mut answer) = self.call(method, path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        Ok(answer["data"].take())
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("GET", path, None).await
    }

    /// Submits over HTTP; the id of the accepted execution.
    pub(crate) async fn submit(&self, action_ref: &str, parameters: Value) -> anyhow::Result<i64> {
        self.submit_body(serde_json::json!({"action_ref": action_ref, "parameters": parameters})).await
    }

    /// Submits a run of steps that reports each unit it has done.
    pub(crate) async fn submit_detailed(&self, action_ref: &str, parameters: Value) -> anyhow::Result<i64> {
        let detail = serde_json::json!({"update_step": 1});
        let body = serde_json::json!({"action_ref": action_ref, "parameters": parameters, "progress": detail});
        self.submit_body(body).await
    }

    async fn submit_body(&self, body: Value) -> anyhow::Result<i64> {
        let (status, answer) = self.call("POST", "/api/v1/executions", Some(body)).await?;
        ensure!(status == 201, "{status} {answer}");
        answer["data"]["execution_id"].as_i64().with_context(|| format!("an id: {answer}"))
    }

    pub(crate) async fn execution(&self, id: i64) -> anyhow::Result<Value> {
        self.get(&format!("/api/v1/executions/{id}")).await
    }

    /// Waits until an execution has the status, which it must not pass by.
    pub(crate) async fn reaches(&self, id: i64, status: &str) -> anyhow::Result<Value> {
        eventually(&format!("execution {id} is {status}"), SOON, async || {
            let execution = self.execution(id).await?;
            if execution["status"] == status { Ok(Some(execution)) } else { bail!("{execution}") }
        })
        .await
    }

    pub(crate) async fn stats(&self, action_ref: &str) -> anyhow::Result<Value> {
        self.get(&format!("/api/v1/actions/{action_ref}/queue-stats")).await
    }

    /// Waits until `count` executions of the action have ended and none waits or runs.
    pub(crate) async fn settled(&self, action_ref: &str, count: usize, deadline: Duration) -> anyhow::Result<()> {
        eventually(&format!("{count} executions of {action_ref} settle"), deadline, async || {
            let stats = self.stats(action_ref).await?;
            let idle = stats["queue_length"] == 0 && stats["active_count"] == 0;
            if idle && stats["total_completed"] == count { Ok(Some(())) } else { bail!("{stats}") }
        })
        .await
    }

    /// Every execution of the action, in order of ids.
    pub(crate) async fn executions(&self, action_ref: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/executions?action={action_ref}&limit=500{cursor}");
            let (status, page) = self.call("GET", &path, None).await?;
            ensure!(status == 200, "{path}: {status} {page}");
            all.extend_from_slice(list(&page["data"])?);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        all.sort_by_key(|execution| execution["execution_id"].as_i64());
        Ok(all)
    }

    /// The dead letters, with their bodies left out.
    pub(crate) async fn dead(&self) -> anyhow::Result<Vec<Value>> {
        Ok(list(&self.get("/api/v1/dead").await?)?.clone())
    }

    /// Checks a finished run of a line against the contract: every tag ran to its end, once, in order, never more than
    /// `limit` at once, and so it is in the journal.
    pub(crate) async fn check_line(&self, action_ref: &str, tags: &[String], limit: usize) -> anyhow::Result<()> {
        let stamps = self.stamps.read()?;
        slotline_tests::check_line(&stamps, tags, limit)?;
        let journal = self.executions(action_ref).await?;
        let recorded: Vec<&str> = journal.iter().filter_map(|e| e["parameters"]["tag"].as_str()).collect();
        ensure!(recorded == tags, "the journal has {recorded:?}");
        for execution in &journal {
            // A grant that was handed back before it began leaves nothing but its number.
            let is_told = execution["earlier_attempts"].as_array().is_none_or(Vec::is_empty);
            ensure!(execution["status"] == "completed" && is_told, "{execution}");
            ensure!(execution["result"]["tag"] == execution["parameters"]["tag"], "{execution}");
        }
        let stats = self.stats(action_ref).await?;
        let idle = stats["queue_length"] == 0 && stats["active_count"] == 0;
        ensure!(idle && stats["total_completed"] == tags.len(), "{stats}");
        Ok(())
    }
}

pub(crate) fn list(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("a list: {value}"))
}

/// A client with a deadline. It needs a TLS provider to start, though it uses no TLS here.
pub(crate) fn http() -> reqwest::Result<reqwest::Client> {
    // Only the first call of a process installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A change without a body needs the header.
    let headers = [(HeaderName::from_static("x-slotline"), HeaderValue::from_static("test"))];
    reqwest::Client::builder().timeout(SOON).default_headers(headers.into_iter().collect()).build()
}
