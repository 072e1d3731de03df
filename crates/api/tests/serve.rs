//! Listening for real: shutdown, exposure, and bodies that are too large while they are still being sent.

use std::sync::Arc;
use std::time::Duration;

use crate::world::Recorder;
use slotline_api::{ApiServices, ServeError, Tokens, serve};
use slotline_store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(10);
const TOKEN: &str = "a-token-of-a-test-that-is-long-enough";

async fn state(tokens: Tokens) -> anyhow::Result<ApiServices> {
    let store = Store::open("sqlite::memory:").await?;
    store.migrate().await?;
    Ok(ApiServices { control: Arc::new(Recorder::default()), store, tokens, hub: Arc::default(), page: None })
}

#[tokio::test]
async fn requests_are_answered_until_shutdown_which_waits_for_no_idle_connection() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, state(Tokens::default()).await?, shutdown.clone()));
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await??;
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer[..read]));
    shutdown.cancel();
    tokio::time::timeout(SOON, serving).await???;
    let rest = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await??;
    assert_eq!(rest, 0);
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_still_sending_too_much_gets_the_refusal() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, state(Tokens::default()).await?, shutdown.clone()));
    let mut stream = TcpStream::connect(address).await?;
    let length = 4 << 20;
    let head = format!(
        "POST /api/v1/executions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&vec![b' '; length]).await?;
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await??;
    assert!(answer[..read].starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer[..read]));
    shutdown.cancel();
    tokio::time::timeout(SOON, serving).await???;
    Ok(())
}

#[tokio::test]
async fn eight_hundred_silent_strangers_keep_no_probe_and_no_request_out() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, state(Tokens::parse(TOKEN)?).await?, shutdown.clone()));
    let mut strangers = Vec::new();
    for number in 0..800 {
        let mut stranger = TcpStream::connect(address).await?;
        if number % 2 == 0 {
            stranger.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await?;
        }
        strangers.push(stranger);
    }
    for path in ["/livez", "/readyz", "/api/v1/actions"].into_iter().cycle().take(30) {
        let answered = async {
            let mut stream = TcpStream::connect(address).await?;
            let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await?;
            anyhow::Ok(answer)
        };
        // An idle connection is kept for longer than this.
        let answer = tokio::time::timeout(Duration::from_secs(5), answered).await??;
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200");
    }
    shutdown.cancel();
    tokio::time::timeout(SOON, serving).await???;
    Ok(())
}

#[tokio::test]
async fn without_a_token_the_api_listens_on_this_machine_only() -> anyhow::Result<()> {
    let exposed = || TcpListener::bind("0.0.0.0:0");
    let refused = serve(exposed().await?, state(Tokens::default()).await?, CancellationToken::new()).await;
    assert!(matches!(refused, Err(ServeError::Exposed(_))), "{refused:?}");
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    serve(exposed().await?, state(Tokens::parse(TOKEN)?).await?, shutdown).await?;
    Ok(())
}
