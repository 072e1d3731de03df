//! A client of an event stream.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use serde_json::Value;

/// Longer than anything takes that is not broken.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Listener {
    body: BodyDataStream,
    text: String,
    frames: VecDeque<Frame>,
}

/// The lines between two empty lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: Option<Value>,
    pub(crate) comment: Option<String>,
}

impl Frame {
    pub(crate) fn number(&self) -> u64 {
        self.data.as_ref().and_then(|data| data["number"].as_u64()).unwrap_or_default()
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let mut frame = Self::default();
        for line in text.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "id" => frame.id = Some(value),
                "event" => frame.event = Some(value),
                "data" => frame.data = Some(serde_json::from_str(&value)?),
                "" => frame.comment = Some(value),
                _ => anyhow::bail!("unexpected line {line:?}"),
            }
        }
        Ok(frame)
    }
}

impl Listener {
    pub(crate) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), text: String::new(), frames: VecDeque::new() }
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            let Some(bytes) = tokio::time::timeout(SOON, self.body.next()).await? else {
                anyhow::ensure!(self.text.is_empty(), "the stream ended within {:?}", self.text);
                return Ok(None);
            };
            self.text.push_str(std::str::from_utf8(&bytes?)?);
            while let Some((text, rest)) = self.text.split_once("\n\n") {
                self.frames.push_back(Frame::read(text)?);
                self.text = rest.to_owned();
            }
        }
    }

    /// The next frame, which must be there.
    pub(crate) async fn frame(&mut self) -> anyhow::Result<Frame> {
        self.next().await?.ok_or_else(|| anyhow::anyhow!("the stream is over"))
    }

    /// The kind and data of the next event.
    pub(crate) async fn event(&mut self) -> anyhow::Result<(String, Value)> {
        loop {
            let Frame { event, data, .. } = self.frame().await?;
            if let (Some(event), Some(data)) = (event, data) {
                return Ok((event, data));
            }
        }
    }

    /// All frames to the end.
    pub(crate) async fn rest(mut self) -> anyhow::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }
}
