//! HTTP that is broken, unfinished or out of all proportion, over real connections.

use std::time::Duration;

use slotline_api::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::world::World;

const SOON: Duration = Duration::from_secs(60);
/// Past this a client that does not finish its request is cut off.
const GIVEN_UP: Duration = Duration::from_secs(31);

/// The answer, as a client sees it.
#[derive(Debug)]
struct Raw {
    status: u16,
    body: String,
}

/// Sends bytes as they are, and reads until the server closes. `None`: it did so without an answer.
async fn send(address: std::net::SocketAddr, bytes: &[u8], is_all: bool) -> anyhow::Result<Option<Raw>> {
    let mut stream = TcpStream::connect(address).await?;
    // A server that refuses early closes while we still write.
    let _ = stream.write_all(bytes).await;
    if !is_all {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    // It may also cut the connection, since it never read all.
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    read.map_err(|_| anyhow::anyhow!("neither answered nor closed")).map(drop)?;
    if answer.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| anyhow::anyhow!("no status line: {text:?}"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok(Some(Raw { status, body }))
}

/// Cases below in which the client stops before the end of its request.
const UNFINISHED: [&str; 4] = ["nothing", "half a head", "chunks that end early", "a body shorter than its length"];

/// What a client sends. `Some`: refused with this status. `None`: HTTP itself is broken, and the connection may just as
/// well be closed.
type Sent = (&'static str, Vec<u8>, Option<u16>);

fn get(path: &str, rest: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{rest}\r\n")
}

fn post(rest: &str, body: &[u8]) -> Vec<u8> {
    let head = "POST /api/v1/executions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    [head.as_bytes(), rest.as_bytes(), b"\r\n", body].concat()
}

fn broken_heads() -> Vec<Sent> {
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    vec![
        ("nothing", Vec::new(), None),
        ("no HTTP", b"hello\r\n\r\n".to_vec(), None),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), None),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), None),
        ("another version", b"GET /livez HTTP/9.9\r\nhost: localhost\r\n\r\n".to_vec(), None),
        ("no version", b"GET /livez\r\n\r\n".to_vec(), None),
        ("half a head", b"GET /livez HTTP/1.1\r\nhost: loc".to_vec(), None),
        ("a NUL in a header", get("/livez", "x-a: a\0b\r\n").into_bytes(), None),
        ("a header without a name", get("/livez", ": b\r\n").into_bytes(), None),
        ("a space before the colon", get("/livez", "x-a : b\r\n").into_bytes(), None),
        ("a folded header", get("/livez", "x-a: b\r\n c\r\n").into_bytes(), None),
        ("a raw space in the path", get("/a b", "").into_bytes(), None),
        ("a raw NUL in the path", get("/a\0b", "").into_bytes(), None),
        ("too many headers", get("/livez", &many).into_bytes(), None),
        ("a huge header", get("/livez", &format!("x-a: {}\r\n", "a".repeat(1 << 20))).into_bytes(), None),
        ("a huge path", get(&format!("/{}", "a".repeat(1 << 20)), "").into_bytes(), None),
    ]
}

fn broken_bodies() -> Vec<Sent> {
    let submit = br#"{"action_ref":"demo.echo"}"#;
    vec![
        ("a negative length", post("content-length: -1\r\n", submit), None),
        ("a length that is no number", post("content-length: many\r\n", submit), None),
        ("a length beyond 64 bits", post("content-length: 99999999999999999999\r\n", submit), None),
        ("two lengths", post("content-length: 26\r\ncontent-length: 27\r\n", submit), None),
        ("an unknown coding", post("transfer-encoding: gzip\r\n", submit), None),
        ("chunks that are no chunks", post("transfer-encoding: chunked\r\n", b"zz\r\nnonsense"), Some(400)),
        ("a chunk of a negative size", post("transfer-encoding: chunked\r\n", b"-5\r\nhello\r\n0\r\n\r\n"), Some(400)),
        ("a chunk of a huge size", post("transfer-encoding: chunked\r\n", b"ffffffffffffffff1\r\nhello"), Some(400)),
        ("chunks that end early", post("transfer-encoding: chunked\r\n", b"1a\r\n{\"action"), Some(400)),
        ("a body shorter than its length", post("content-length: 1000\r\n", submit), Some(400)),
        ("a body longer than its length", post("content-length: 5\r\n", submit), Some(400)),
        ("a body larger than a client may send", post("content-length: 999999999999\r\n", submit), Some(413)),
        ("chunks without end", post("transfer-encoding: chunked\r\n", &endless_chunks()), Some(413)),
    ]
}

fn misdirected() -> Vec<Sent> {
    vec![
        (
            "another host",
            b"GET /api/v1/actions HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".to_vec(),
            Some(403),
        ),
        ("no host", b"GET /api/v1/actions/x HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), Some(404)),
        ("a page of another site", get("/api/v1/actions", "origin: https://evil.example\r\n").into_bytes(), Some(403)),
        ("an unknown method", get("/api/v1/actions", "").replacen("GET", "BREW", 1).into_bytes(), Some(405)),
        ("TRACE", get("/livez", "").replacen("GET", "TRACE", 1).into_bytes(), Some(405)),
        (
            "CONNECT",
            b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(),
            Some(404),
        ),
        (
            "a proxy's request",
            b"GET http://evil.example/api/v1/actions HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(),
            Some(403),
        ),
        ("an upgrade", get("/api/v1/actions/none.such", "upgrade: websocket\r\n").into_bytes(), Some(404)),
        ("steps upwards", get("/api/v1/../../etc/passwd", "").into_bytes(), Some(404)),
        ("hidden steps upwards", get("/api/v1/%2e%2e/%2e%2e/etc/passwd", "").into_bytes(), Some(404)),
        ("an encoded NUL", get("/api/v1/executions/1%00", "").into_bytes(), Some(400)),
        ("a broken escape", get("/api/v1/executions/%zz", "").into_bytes(), Some(400)),
        ("a NUL in a query", get("/api/v1/executions?key=%00", "").into_bytes(), Some(400)),
        ("doubled slashes", get("//api//v1//actions", "").into_bytes(), Some(404)),
        ("a cursor of another list", get("/api/v1/executions?cursor=demo.echo", "").into_bytes(), Some(400)),
        (
            "an event that is no number",
            get("/api/v1/executions/3/events", "accept: text/event-stream\r\nlast-event-id: x\r\n").into_bytes(),
            Some(400),
        ),
        (
            "an event beyond 64 bits",
            get("/api/v1/executions/3/events?after=18446744073709551616", "").into_bytes(),
            Some(400),
        ),
        ("a wait without end", get("/api/v1/executions/3/events?wait=1000years", "").into_bytes(), Some(400)),
        ("a stream as something else", get("/api/v1/events", "accept: application/json\r\n").into_bytes(), Some(406)),
    ]
}

/// More than the server reads of any body.
fn endless_chunks() -> Vec<u8> {
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    chunk.repeat(17 << 4)
}

#[tokio::test]
async fn over_real_connections_each_is_refused_or_cut_off_and_the_next_is_served() -> anyhow::Result<()> {
    let world = World::new().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, shutdown) = (listener.local_addr()?, CancellationToken::new());
    let serving = tokio::spawn(serve(listener, world.state(), shutdown.clone()));
    for (name, bytes, expected) in [broken_heads(), broken_bodies(), misdirected()].into_iter().flatten() {
        let answer = send(address, &bytes, !UNFINISHED.contains(&name)).await.map_err(|error| error.context(name))?;
        match (&answer, expected) {
            (Some(raw), Some(status)) => {
                assert_eq!(raw.status, status, "{name}: {raw:?}");
                let body: serde_json::Value = serde_json::from_str(raw.body.trim())
                    .map_err(|error| anyhow::anyhow!("{name}: {error}: {raw:?}"))?;
                assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string(), "{name}: {raw:?}");
            }
            (Some(raw), None) => assert!((400..500).contains(&raw.status), "{name}: {raw:?}"),
            (None, None) => {}
            (None, Some(status)) => panic!("{name}: closed without {status}"),
        }
        let alive = send(address, b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", true).await?;
        assert_eq!(alive.map(|raw| raw.status), Some(200), "after {name}");
    }
    assert_eq!(world.control.calls(), [""; 0]);
    shutdown.cancel();
    Ok(serving.await??)
}

#[tokio::test]
async fn heads_and_bodies_that_trickle_in_are_given_up_and_others_are_served_meanwhile() -> anyhow::Result<()> {
    let world = World::new().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, shutdown) = (listener.local_addr()?, CancellationToken::new());
    tokio::spawn(serve(listener, world.state(), shutdown.clone()));
    // Not before the journal is open, which needs real time.
    tokio::time::pause();
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-a: ").await?;
        slow.push(stream);
    }
    let head = "POST /api/v1/executions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{";
    let mut body = TcpStream::connect(address).await?;
    body.write_all(head.as_bytes()).await?;
    let alive = send(address, b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", true).await?;
    assert_eq!(alive.map(|raw| raw.status), Some(200));
    let begun = tokio::time::Instant::now();
    for mut stream in slow {
        let mut answer = Vec::new();
        tokio::time::timeout(GIVEN_UP, stream.read_to_end(&mut answer)).await.expect("given up")?;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut answer = vec![0; 12];
    tokio::time::timeout(GIVEN_UP, body.read_exact(&mut answer)).await.expect("given up")?;
    assert_eq!(answer, b"HTTP/1.1 408");
    assert!(begun.elapsed() <= GIVEN_UP, "{:?}", begun.elapsed());
    assert_eq!(world.control.calls(), [""; 0]);
    shutdown.cancel();
    Ok(())
}
