//! A publisher that writes AMQP byte by byte, for what no client library would send.
//!
//! One message at a time, and its confirm is waited for. Deliberately absent: everything else of AMQP.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long any answer of the broker may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// The most bytes of a frame, those around its payload included.
pub const FRAME_BYTES_MAX: usize = 128 << 10;
const FRAME_OVERHEAD: usize = 8;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// A connection with one channel, in confirm mode.
#[derive(Debug)]
pub struct Stranger {
    stream: TcpStream,
}

/// The property of a message, by its bit in the flags; in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Property {
    ContentType = 15,
    ContentEncoding = 14,
    Headers = 13,
    CorrelationId = 10,
    ReplyTo = 9,
    MessageId = 7,
    Type = 5,
    UserId = 4,
    AppId = 3,
    ClusterId = 2,
}

impl Property {
    /// Those that are short strings, and that RabbitMQ takes whatever is in them.
    pub const TEXTS: [Self; 8] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::MessageId,
        Self::Type,
        Self::AppId,
        Self::ClusterId,
    ];
}

/// Properties as they go over the wire.
#[derive(Clone, Debug, Default)]
pub struct RawProperties(std::collections::BTreeMap<std::cmp::Reverse<u16>, Vec<u8>>);

impl RawProperties {
    /// Adds a property that is a short string.
    #[must_use]
    pub fn text(mut self, property: Property, bytes: impl AsRef<[u8]>) -> Self {
        self.0.insert(std::cmp::Reverse(property as u16), short(bytes.as_ref()));
        self
    }

    /// Adds the headers: entries of a table, one after the other, as [`entry`] makes them.
    #[must_use]
    pub fn headers(self, entries: impl AsRef<[u8]>) -> Self {
        let length = entries.as_ref().len();
        self.headers_said_to_have(length, entries)
    }

    /// The same with another length than they have.
    #[must_use]
    pub fn headers_said_to_have(mut self, length: usize, entries: impl AsRef<[u8]>) -> Self {
        self.0.insert(std::cmp::Reverse(Property::Headers as u16), with_length(length, entries.as_ref()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let flags = self.0.keys().fold(0, |flags: u16, bit| flags | 1 << bit.0);
        self.0.values().fold(flags.to_be_bytes().to_vec(), |bytes, property| [bytes, property.clone()].concat())
    }
}

/// An entry of a table: its name, and its value with the type before it.
pub fn entry(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&short(name.as_ref()), value.as_ref()].concat()
}

/// A text as a value.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    value(b'S', bytes.as_ref().len(), bytes.as_ref())
}

/// An array as a value, of values one after the other.
pub fn array(values: impl AsRef<[u8]>) -> Vec<u8> {
    value(b'A', values.as_ref().len(), values.as_ref())
}

/// A value of the type that begins with its length, which may be a lie.
pub fn value(kind: u8, length: usize, content: &[u8]) -> Vec<u8> {
    [vec![kind], with_length(length, content)].concat()
}

/// Tables (`F`) or arrays (`A`) within each other, so many, as a value; the innermost is empty.
pub fn nested(kind: u8, depth: usize) -> Vec<u8> {
    // Before each inner one stands its type, and in a table the name before that.
    let before: &[u8] = if kind == b'F' { &[1, b'n', b'F'] } else { b"A" };
    let inner = (0..depth).rev().map(|inner| (inner * (before.len() + 4)) as u32);
    let nested: Vec<Vec<u8>> = inner.map(|length| [before, &length.to_be_bytes()].concat()).collect();
    nested.concat()[before.len() - 1..].to_vec()
}

impl Stranger {
    /// Connects to `amqp://user:password@host:port/vhost`.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let parts = || {
            let (account, place) = url.strip_prefix("amqp://")?.split_once('@')?;
            let (address, vhost) = place.split_once('/')?;
            Some((account.split_once(':')?, address, vhost.replace("%2f", "/")))
        };
        let ((user, password), address, vhost) = parts().with_context(|| format!("the parts of {url}"))?;
        let mut stranger = Self { stream: TcpStream::connect(address).await? };
        stranger.stream.set_nodelay(true)?;
        stranger.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stranger.expect(10, 10).await?;
        let response = format!("\0{user}\0{password}");
        let start =
            [&[0; 4][..], &short(b"PLAIN"), &with_length(response.len(), response.as_bytes()), &short(b"en_US")];
        stranger.call(0, 10, 11, &start.concat()).await?;
        let tune = stranger.expect(10, 30).await?;
        // Its own limits suit it, but for heartbeats, which it neither sends nor expects.
        stranger.call(0, 10, 31, &[&tune[..6], &[0, 0]].concat()).await?;
        stranger.call(0, 10, 40, &[short(vhost.as_bytes()), vec![0, 0]].concat()).await?;
        stranger.expect(10, 41).await?;
        stranger.call(1, 20, 10, &[0]).await?;
        stranger.expect(20, 11).await?;
        stranger.call(1, 85, 10, &[0]).await?;
        stranger.expect(85, 11).await?;
        Ok(stranger)
    }

    /// Publishes and waits for the confirm. Refused, the connection is of no further use.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        properties: &RawProperties,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let properties = properties.bytes();
        ensure!(properties.len() + 12 + FRAME_OVERHEAD <= FRAME_BYTES_MAX, "the properties don't fit into a frame");
        let publish = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        self.call(1, 60, 40, &publish).await?;
        let header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), &properties].concat();
        self.send(1, HEADER, &header).await?;
        for chunk in body.chunks(FRAME_BYTES_MAX - FRAME_OVERHEAD) {
            self.send(1, BODY, chunk).await?;
        }
        self.expect(60, 80).await.map(drop)
    }

    async fn call(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> anyhow::Result<()> {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.send(channel, METHOD, &payload).await
    }

    async fn send(&mut self, channel: u16, kind: u8, payload: &[u8]) -> anyhow::Result<()> {
        let size = (payload.len() as u32).to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat();
        Ok(self.stream.write_all(&frame).await?)
    }

    /// The arguments of the method that must come next.
    async fn expect(&mut self, class: u16, method: u16) -> anyhow::Result<Vec<u8>> {
        let payload = tokio::time::timeout(ANSWER_WITHIN, self.receive()).await.context("no answer")??;
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        match payload.strip_prefix(&expected[..]) {
            Some(arguments) => Ok(arguments.to_vec()),
            None => bail!("the broker said {}", payload.escape_ascii()),
        }
    }

    async fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut header = [0; 7];
        self.stream.read_exact(&mut header).await?;
        let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).await?;
        payload.pop();
        Ok(payload)
    }
}

fn short(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short string has at most 255 bytes");
    [&[length][..], bytes].concat()
}

fn with_length(length: usize, content: &[u8]) -> Vec<u8> {
    [&(length as u32).to_be_bytes()[..], content].concat()
}
