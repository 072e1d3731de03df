//! Listening: connections, bounded in number and time, until shutdown.
//!
//! Not here: TLS, which a proxy in front terminates.

use slotline_protocol::chain;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::auth::check_exposure;
use crate::connections::{Connection, Connections};
use crate::error::Exposed;
use crate::routes::routes;
use crate::sending::holding;
use crate::state::ApiServices;
use crate::token::Tokens;
use crate::write_timeout::WriteTimeout;

/// How long a client may take to send the head of a request, and how long it may be idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long answers under way may take during shutdown.
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
    #[error("can't listen on {address}{}", remedy(source))]
    Bind { address: SocketAddr, source: io::Error },
    /// The listener handed over has no address.
    #[error("the listener is no TCP listener")]
    Listener(#[source] io::Error),
}

/// What to do about it; printed before the system's own message.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ", which another program uses: stop that program, or choose another address with --listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            ", which is no address of this machine: choose another address with --listen"
        }
        io::ErrorKind::PermissionDenied => ", which needs a right of its own: choose a port above 1023 with --listen",
        _ => "",
    }
}

/// A listener on `address`, if that leaves nothing exposed.
pub async fn listen(address: SocketAddr, tokens: &Tokens) -> Result<TcpListener, Error> {
    check_exposure(address, tokens)?;
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

/// Serves the API on `listener` until `shutdown`; then ends streams, answers what is under way, and returns.
pub async fn serve(listener: TcpListener, state: ApiServices, shutdown: CancellationToken) -> Result<(), Error> {
    check_exposure(listener.local_addr().map_err(Error::Listener)?, &state.tokens)?;
    let router = routes(state, shutdown.clone());
    let connections = Connections::default();
    let graceful = GracefulShutdown::new();
    while let Some((permit, stream)) = shutdown.run_until_cancelled(accept(&listener, &connections)).await {
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        let (router, activity) = (TowerToHyperService::new(router.clone()), permit.activity.clone());
        let service = service_fn(move |request| {
            let (busy, answer) = (activity.begin(), router.call(request));
            async move { answer.await.map(|response| holding(response, busy)) }
        });
        let connection =
            graceful.watch(http.serve_connection(TokioIo::new(WriteTimeout::new(stream, shutdown.clone())), service));
        tokio::spawn(async move {
            tokio::select! {
                // A client that goes away in the middle is no error.
                _ = connection => {}
                () = permit.activity.evicted() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not answered before shutdown");
    }
    Ok(())
}

/// The next connection, with its permit. It is accepted first, so that an idle one is closed only for one that has
/// come.
async fn accept(listener: &TcpListener, connections: &Connections) -> (Connection, TcpStream) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (connections.admit().await, stream),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
