//! Where one installation lives: its folder, database, names on the broker, actions, and the way to its API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use slotline_store::Store;
use slotline_tests::{Postgres, Sandbox, Stamps, eventually};

use crate::audit;
use crate::member::slotline;

/// How long an answer of the API may take: longer than it waits for a leader itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

pub(crate) struct Installation {
    pub(crate) sandbox: Sandbox,
    pub(crate) stamps: Stamps,
    /// Without a proxy.
    pub(crate) database: String,
    pub(crate) amqp: String,
    pub(crate) prefix: String,
    actions: PathBuf,
    terms: [&'static str; 3],
}

/// What an action may use, as TOML such as `limit = 1`.
pub(crate) struct Action {
    pub(crate) name: &'static str,
    pub(crate) policy: &'static str,
}

impl Installation {
    /// Makes a database in which every change is noted, and a file of actions. `terms`: lease, fence and heartbeat.
    pub(crate) async fn build(
        postgres: &Postgres,
        amqp: String,
        prefix: &str,
        actions: &[Action],
        terms: [&'static str; 3],
    ) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new("chaos")?;
        let stamps = Stamps::at(sandbox.path().join("stamps"));
        let file = sandbox.path().join("actions.toml");
        std::fs::write(&file, text(actions, stamps.path()))?;
        let database = postgres.fresh_database("chaos").await?;
        let store = Store::open(&database).await?;
        store.migrate().await?;
        store.close().await;
        audit::install(postgres, &database).await?;
        Ok(Self { sandbox, stamps, database, amqp, prefix: prefix.to_owned(), actions: file, terms })
    }

    pub(crate) fn executor(&self, name: &str, database: &str, amqp: &str, port: u16) -> Vec<String> {
        let listen = format!("127.0.0.1:{port}");
        let [lease, fence, heartbeat] = self.terms;
        words(&[
            &["executor", "--name", name, "--database-url", database, "--amqp-url", amqp, "--prefix", &self.prefix],
            &["--listen", &listen, "--lease", lease, "--fence", fence, "--heartbeat", heartbeat],
        ])
    }

    pub(crate) fn worker(&self, name: &str, amqp: &str, capacity: u32) -> Vec<String> {
        let (actions, state) = (self.actions.display().to_string(), self.state(name).display().to_string());
        let capacity = capacity.to_string();
        let [_, fence, heartbeat] = self.terms;
        words(&[
            &["worker", "--name", name, "--amqp-url", amqp, "--prefix", &self.prefix, "--actions", &actions],
            &["--capacity", &capacity, "--state-dir", &state, "--drain-timeout", "5s"],
            &["--fence", fence, "--heartbeat", heartbeat],
        ])
    }

    fn state(&self, worker: &str) -> PathBuf {
        self.sandbox.path().join(format!("state-{worker}"))
    }

    /// Applies the actions, until the installation has taken them.
    pub(crate) async fn apply(&self, api: &Api, within: Duration) -> anyhow::Result<()> {
        eventually("the actions are applied", within, async || {
            let mut command = slotline(self.sandbox.path())?;
            command.arg("apply").arg(&self.actions).env("SLOTLINE_API_URL", &api.urls[0]);
            let done = tokio::task::spawn_blocking(move || command.output()).await??;
            ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            Ok(Some(()))
        })
        .await
    }

    /// Waits until no process is left that a worker started which is gone.
    pub(crate) async fn nothing_left_of(&self, worker: &str, within: Duration) -> anyhow::Result<()> {
        let state = format!("{}/", self.state(worker).display());
        eventually(&format!("nothing is left of {worker}"), within, async || {
            let left = processes(|folder| {
                let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
                String::from_utf8_lossy(&environment).contains(&state)
            })?;
            if left.is_empty() { Ok(Some(())) } else { bail!("{left:?}") }
        })
        .await
    }

    /// Waits until no process works in the folder of this installation any more: no member, shim or command.
    pub(crate) async fn is_deserted(&self, within: Duration) -> anyhow::Result<()> {
        let home = self.sandbox.path();
        eventually("no orphan is left", within, async || {
            let left = processes(|folder| std::fs::read_link(folder.join("cwd")).is_ok_and(|cwd| cwd == home))?;
            if left.is_empty() { Ok(Some(())) } else { bail!("{left:?}") }
        })
        .await
    }

    /// Copies logs, stamps and all other files to a folder that stays.
    pub(crate) fn keep(&self, name: &str) -> anyhow::Result<PathBuf> {
        let kept = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&kept)?;
        for entry in std::fs::read_dir(self.sandbox.path())?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
        }
        Ok(kept)
    }
}

/// The processes for which `meant` holds, without those that only wait to be reaped.
fn processes(meant: impl Fn(&Path) -> bool) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let folder = entry.path();
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if is_process && meant(&folder) {
            let words = std::fs::read(folder.join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if !words.is_empty() {
                found.push(format!("{} {words}", entry.file_name().display()));
            }
        }
    }
    Ok(found)
}

/// Every line's slots are taken by commands that stamp their start and end.
fn text(actions: &[Action], stamps: &Path) -> String {
    let command = [env!("CARGO_BIN_EXE_stamp"), &stamps.display().to_string()].map(str::to_owned);
    let action = |Action { name, policy }: &Action| {
        format!("[[action]]\nref = {name:?}\n{policy}\n[action.run]\ncommand = {command:?}\ngrace = \"500ms\"\n\n")
    };
    actions.iter().map(action).collect()
}

fn words(lines: &[&[&str]]) -> Vec<String> {
    lines.iter().flat_map(|line| line.iter()).map(|&word| word.to_owned()).collect()
}

/// The API, at the first executor that answers.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    pub(crate) urls: Vec<String>,
}

impl Api {
    pub(crate) fn at(ports: impl IntoIterator<Item = u16>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).build()?;
        Ok(Self { http, urls: ports.into_iter().map(|port| format!("http://127.0.0.1:{port}")).collect() })
    }

    pub(crate) fn post(&self, index: usize, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.urls[index % self.urls.len()]))
    }

    /// The whole answer of the first that gives one; it must be a success.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut failure = anyhow::anyhow!("there is no executor");
        for url in &self.urls {
            let answered = async {
                let answer = self.http.get(format!("{url}{path}")).send().await?;
                let (status, text) = (answer.status(), answer.text().await?);
                ensure!(status.is_success(), "{path}: {status} {text}");
                serde_json::from_str(&text).context(text)
            };
            match answered.await {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Waits until some executor leads and knows so many workers.
    pub(crate) async fn ready(&self, workers: usize, within: Duration) -> anyhow::Result<()> {
        eventually(&format!("an executor leads {workers} workers"), within, async || {
            let known = self.get("/api/v1/workers").await?;
            let live = known["data"].as_array().context("a list")?.iter().filter(|worker| worker["draining"] == false);
            if live.count() == workers { Ok(Some(())) } else { bail!("{known}") }
        })
        .await
    }
}
