//! Streams over real connections: clients that read nothing, clients that go away, and shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::world::World;
use crate::world::event_writer::event;
use crate::world::listener::{Listener, SOON};
use axum::body::Body;
use slotline_api::hub::LiveEvent;
use slotline_api::{ServeError, serve};
use slotline_protocol::message::Stream;
use slotline_protocol::record::What;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A server on a port of its own.
struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(world: &World) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, shutdown) = (listener.local_addr()?, CancellationToken::new());
        let serving = tokio::spawn(serve(listener, world.state(), shutdown.clone()));
        Ok(Self { address, shutdown, serving })
    }

    /// Sends a request, and reads nothing of the answer.
    async fn ask(&self, path: &str, accept: &str) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await?;
        // So old that the answer is not cut into chunks, and ends with the connection.
        let head = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\naccept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }

    async fn listen(&self, path: &str) -> anyhow::Result<Listener> {
        let mut stream = BufReader::new(self.ask(path, "text/event-stream").await?);
        let mut line = String::new();
        tokio::time::timeout(SOON, stream.read_line(&mut line)).await??;
        anyhow::ensure!(line.contains(" 200 "), "{line}");
        while !line.trim().is_empty() {
            line.clear();
            tokio::time::timeout(SOON, stream.read_line(&mut line)).await??;
        }
        let chunks = futures::stream::unfold(stream, async |mut stream| {
            let read = match stream.fill_buf().await {
                Ok([]) => return None,
                Ok(bytes) => Ok(bytes.to_vec()),
                Err(error) => Err(error),
            };
            stream.consume(read.as_ref().map_or(0, Vec::len));
            Some((read, stream))
        });
        Ok(Listener::new(Body::from_stream(chunks)))
    }
}

async fn until(holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds() {
        anyhow::ensure!(begun.elapsed() < SOON, "what is waited for does not come");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn shutdown_ends_streams_and_waiting_pages_at_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world).await?;
    let mut page = server.ask(&world.events("?after=1&wait=60s"), "application/json").await?;
    until(|| !world.hub.is_idle()).await?;
    let mut one = server.listen(&world.events("")).await?;
    assert_eq!(one.frame().await?.event.as_deref(), Some("status"));
    let all = server.listen("/api/v1/events").await?;
    let begun = Instant::now();
    server.shutdown.cancel();
    for listener in [one, all] {
        let last = listener.rest().await?;
        assert_eq!(last.len(), 1, "{last:?}");
        assert!(last[0].comment.as_deref().is_some_and(|comment| comment.contains("stops")), "{last:?}");
    }
    let mut answer = String::new();
    tokio::time::timeout(SOON, page.read_to_string(&mut answer)).await??;
    assert!(answer.ends_with(r#"{"data":[],"next_after":1,"is_over":false}"#), "{answer}");
    tokio::time::timeout(SOON, server.serving).await???;
    assert!(begun.elapsed() < SOON / 4, "{:?}", begun.elapsed());
    assert!(world.hub.is_idle());
    Ok(())
}

#[tokio::test]
async fn a_client_that_never_reads_delays_no_other_and_holds_no_more_than_its_buffer() -> anyhow::Result<()> {
    const EVENTS: u64 = 500;
    let world = World::new().await?;
    let server = Server::start(&world).await?;
    let deaf = server.ask("/api/v1/events", "text/event-stream").await?;
    until(|| world.hub.interest().all).await?;
    let mut quick = server.listen(&world.events("?after=1")).await?;
    // More in all than a connection's buffers hold.
    let lines = vec!["x".repeat(1000); 64];
    let begun = Instant::now();
    for number in 2..=EVENTS {
        let log = What::Log { stream: Stream::Stdout, lines: lines.clone() };
        world.hub.publish(&[Arc::new(LiveEvent::new(event(world.waiting, number, log).into()))]);
        assert_eq!(quick.frame().await?.number(), number);
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(!world.hub.interest().all, "a client that does not read is cut off");
    drop(quick);
    until(|| world.hub.is_idle()).await?;
    // Nor does shutdown wait for it.
    let begun = Instant::now();
    server.shutdown.cancel();
    tokio::time::timeout(SOON, server.serving).await???;
    assert!(begun.elapsed() < SOON / 4, "{:?}", begun.elapsed());
    drop(deaf);
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_is_forgotten_without_an_event() -> anyhow::Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world).await?;
    let (one, all) = (server.listen(&world.events("")).await?, server.listen("/api/v1/events").await?);
    assert!(world.hub.wants(world.waiting));
    drop((one, all));
    until(|| world.hub.is_idle()).await
}
