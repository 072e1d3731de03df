//! Listening: connections, bounded in number and patience, until shutdown.
//!
//! Not here: TLS, which a proxy in front ends.

use slotline_protocol::chain;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::error::Exposed;
use crate::patience::Patient;
use crate::{State, Token, check_exposure, routes};

/// Connections held at once; further ones wait in the kernel's backlog. Well below the usual 1024 open files.
const CONNECTIONS_MAX: usize = 768;
/// How long a client may take over the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long answers under way may take once shutdown is asked for.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// The pause after a failed accept, which means that files or memory are short.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why the API does not listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Set a token, or listen on loopback.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// Choose another address, or stop what holds this one.
    #[error("can't listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    /// The listener handed over has no address.
    #[error("the listener is no TCP listener")]
    Listener(#[source] io::Error),
}

/// A listener on `address`, if that leaves nothing exposed.
pub async fn listen(address: SocketAddr, token: Option<&Token>) -> Result<TcpListener, Error> {
    check_exposure(address, token)?;
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

/// Serves the API on `listener` until `shutdown`; then ends streams, answers what is under way, and returns.
pub async fn serve(listener: TcpListener, state: State, shutdown: CancellationToken) -> Result<(), Error> {
    check_exposure(listener.local_addr().map_err(Error::Listener)?, state.token.as_ref())?;
    let router = routes(state, shutdown.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    while let Some(Some((place, stream))) = shutdown.run_until_cancelled(accept(&listener, &places)).await {
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        let service = TowerToHyperService::new(router.clone());
        let connection =
            graceful.watch(http.serve_connection(TokioIo::new(Patient::new(stream, shutdown.clone())), service));
        tokio::spawn(async move {
            // A client that goes away in mid-sentence is no news.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not answered before shutdown");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::sync::OwnedSemaphorePermit, TcpStream)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((place, stream)),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
