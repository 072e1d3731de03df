//! A headless Chromium, by the WebDriver protocol of its driver: a dozen requests of JSON.
//!
//! Scripts are run by the driver, so the page's policy does not stand in their way; what the page itself does is under it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotline_tests::{Guarded, Port, Sandbox, eventually};

use crate::world::{SOON, http};

/// Where pictures go, unless `SLOTLINE_SCREENS` names a folder.
const SCREENS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/screens");
/// The key of an element in an answer, by the standard.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window. Ends on drop.
pub(crate) struct Chromium {
    http: reqwest::Client,
    session: String,
    _driver: Guarded,
    _port: Port,
    _sandbox: Sandbox,
}

impl Chromium {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (sandbox, port, http) = (Sandbox::new("browser")?, Port::claim()?, http()?);
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", port.number())).current_dir(sandbox.path()).env("HOME", sandbox.path());
        let driver = sandbox.spawn(&mut command, "chromedriver.log").context(
            "the tests of the page need Debian's chromium and chromium-driver; `tests/run.sh` installs them",
        )?;
        let address = format!("http://127.0.0.1:{}", port.number());
        eventually("the driver answers", SOON, async || {
            let status: Value = http.get(format!("{address}/status")).send().await?.json().await?;
            Ok((status["value"]["ready"] == true).then_some(()))
        })
        .await?;
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,900"];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer: Value = http.post(format!("{address}/session")).json(&wanted).send().await?.json().await?;
        let id = answer["value"]["sessionId"].as_str().with_context(|| format!("a session: {answer}"))?;
        let session = format!("{address}/session/{id}");
        Ok(Self { http, session, _driver: driver, _port: port, _sandbox: sandbox })
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let answer = self.http.post(format!("{}/{path}", self.session)).json(&body).send().await?;
        Self::value(path, answer).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Self::value(path, self.http.get(format!("{}/{path}", self.session)).send().await?).await
    }

    async fn value(path: &str, answer: reqwest::Response) -> anyhow::Result<Value> {
        let is_done = answer.status().is_success();
        let mut body: Value = answer.json().await?;
        ensure!(is_done, "{path}: {}", body["value"]["message"]);
        Ok(body["value"].take())
    }

    pub(crate) async fn go(&self, url: &str) -> anyhow::Result<()> {
        self.post("url", json!({"url": url})).await.map(drop)
    }

    /// The value of an expression in the page.
    pub(crate) async fn js(&self, expression: &str) -> anyhow::Result<Value> {
        self.post("execute/sync", json!({"script": format!("return {expression}"), "args": []})).await
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&self, expression: &str) -> anyhow::Result<()> {
        let seen = eventually(expression, SOON, async || Ok((self.js(expression).await? == true).then_some(()))).await;
        match seen {
            Ok(()) => Ok(()),
            Err(error) => {
                self.shot("failed").await?;
                Err(error).context(self.js("document.body.innerText").await.unwrap_or_default().to_string())
            }
        }
    }

    /// Waits until the text of the first element of this kind has these words.
    pub(crate) async fn reads(&self, css: &str, words: &str) -> anyhow::Result<()> {
        self.until(&format!("!!document.querySelector({css:?})?.innerText.includes({words:?})")).await
    }

    async fn element(&self, xpath: &str) -> anyhow::Result<String> {
        let found = self.post("element", json!({"using": "xpath", "value": xpath})).await?;
        found[ELEMENT].as_str().map(str::to_owned).with_context(|| format!("{xpath}: {found}"))
    }

    /// Clicks the first button or link with these words, once it is there.
    pub(crate) async fn click(&self, words: &str) -> anyhow::Result<()> {
        let xpath = format!("//*[self::a or self::button][contains(normalize-space(.), {words:?})]");
        eventually(&format!("{words} can be clicked"), SOON, async || {
            let id = self.element(&xpath).await?;
            self.post(&format!("element/{id}/click"), json!({})).await.map(Some)
        })
        .await
        .map(drop)
    }

    /// Writes into the field of this name, in place of what is there.
    pub(crate) async fn fill(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let id = self.element(&format!("//*[@name={name:?}]")).await?;
        self.post(&format!("element/{id}/clear"), json!({})).await?;
        self.post(&format!("element/{id}/value"), json!({"text": text})).await.map(drop)
    }

    /// Presses keys, wherever the focus is.
    pub(crate) async fn press(&self, keys: &[&str]) -> anyhow::Result<()> {
        let presses = keys
            .iter()
            .flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]);
        let presses: Vec<Value> = presses.collect();
        self.post("actions", json!({"actions": [{"type": "key", "id": "keys", "actions": presses}]})).await.map(drop)
    }

    pub(crate) async fn tabs(&self) -> anyhow::Result<Vec<String>> {
        let handles = self.get("window/handles").await?;
        Ok(serde_json::from_value(handles)?)
    }

    /// Opens another tab, which the next requests are about.
    pub(crate) async fn new_tab(&self) -> anyhow::Result<()> {
        let opened = self.post("window/new", json!({"type": "tab"})).await?;
        self.switch(opened["handle"].as_str().context("a handle")?).await
    }

    pub(crate) async fn switch(&self, tab: &str) -> anyhow::Result<()> {
        self.post("window", json!({"handle": tab})).await.map(drop)
    }

    /// Closes the tab that requests are about.
    pub(crate) async fn close_tab(&self) -> anyhow::Result<()> {
        self.http.delete(format!("{}/window", self.session)).send().await?.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn resize(&self, width: u32, height: u32) -> anyhow::Result<()> {
        // The narrowest window of a desktop is wider than a telephone.
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.post("goog/cdp/execute", command).await.map(drop)
    }

    /// Lets the page see a system that is dark, or light.
    pub(crate) async fn colours(&self, scheme: &str) -> anyhow::Result<()> {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.post("goog/cdp/execute", json!({"cmd": "Emulation.setEmulatedMedia", "params": features})).await.map(drop)
    }

    /// Takes a picture.
    pub(crate) async fn shot(&self, name: &str) -> anyhow::Result<PathBuf> {
        let command = json!({"cmd": "Page.captureScreenshot", "params": {"format": "png"}});
        let picture = self.post("goog/cdp/execute", command).await?;
        let folder = std::env::var_os("SLOTLINE_SCREENS").map_or_else(|| Path::new(SCREENS).to_owned(), PathBuf::from);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, decoded(picture["data"].as_str().context("a picture")?)?)?;
        Ok(file)
    }

    /// What the page wrote to the console, violations of its policy among it, but for requests that failed.
    pub(crate) async fn complaints(&self) -> anyhow::Result<Vec<String>> {
        let entries = self.post("se/log", json!({"type": "browser"})).await?;
        let entries = entries.as_array().context("a log")?.iter();
        let messages = entries.filter_map(|entry| entry["message"].as_str().map(str::to_owned));
        Ok(messages.filter(|message| !message.contains("Failed to load resource")).collect())
    }

    pub(crate) async fn is_content(&self) -> anyhow::Result<()> {
        let complaints = self.complaints().await?;
        ensure!(complaints.is_empty(), "{complaints:#?}");
        Ok(())
    }
}

/// Base 64 (RFC 4648, 4).
fn decoded(text: &str) -> anyhow::Result<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).context("a digit of base 64")?;
        bits = bits << 6 | u32::try_from(value)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}
