//! The version of RabbitMQ.
//!
//! lapin does not expose the greeting, in which the broker names its version. So this opens a connection of its own,
//! reads the greeting and closes it. RabbitMQ logs that, so it is done once per process and broker.

use std::time::Duration;

use async_rs::TokioRuntime;
use futures::{AsyncReadExt, AsyncWriteExt};
use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::uri::AMQPUri;

const DEADLINE: Duration = Duration::from_secs(3);
/// The greeting of RabbitMQ has some 500 bytes.
const GREETING_BYTES_MAX: usize = 16 << 10;

/// Reads the version; `None` if the broker does not answer as RabbitMQ does.
pub(super) async fn ask(uri: &AMQPUri, runtime: &TokioRuntime) -> Option<String> {
    let greeting = tokio::time::timeout(DEADLINE, read_greeting(uri, runtime)).await.ok()?.ok()?;
    find(&greeting)
}

async fn read_greeting(uri: &AMQPUri, runtime: &TokioRuntime) -> std::io::Result<Vec<u8>> {
    let config = OwnedTLSConfig::default();
    let mut stream = uri.connect_with_config_async(config.as_ref(), runtime).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    // A frame: type, channel, size of the payload.
    let mut header = [0; 7];
    stream.read_exact(&mut header).await?;
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    let mut greeting = vec![0; size.min(GREETING_BYTES_MAX)];
    stream.read_exact(&mut greeting).await?;
    Ok(greeting)
}

/// Finds the member `version` of the server's properties: a short string, the type `S`, a long string.
fn find(greeting: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\x07versionS";
    let start = greeting.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let length = u32::from_be_bytes(greeting.get(start..start + 4)?.try_into().ok()?) as usize;
    let text = greeting.get(start + 4..(start + 4).checked_add(length)?)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_a_greeting_and_nowhere_else() {
        let greeting = b"...\x07productS\x00\x00\x00\x08RabbitMQ\x07versionS\x00\x00\x00\x063.10.8...";
        assert_eq!(find(greeting).as_deref(), Some("3.10.8"));
        assert_eq!(find(b"\x07versionS\x00\x00\x00\xff3.10"), None);
        assert_eq!(find(b""), None);
    }
}
