//! Opening a session, watching its connections, and closing them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_rs::TokioRuntime;
use futures::{Stream, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::constants::REPLY_SUCCESS;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, Event};
use slotline_protocol::ends_early;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};

use super::publisher::Publisher;
use super::size_limit::SizeLimit;
use super::{CLOSE_DEADLINE, RUNTIME, Session, version, wire};
use crate::Error;
use crate::over::Over;

/// Seconds between AMQP heartbeats; a peer that is silent for two of them is dead.
const HEARTBEAT_SECONDS: u16 = 10;
const CONNECT_MILLIS: u64 = 5_000;
/// How long all of opening a session may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(15);

/// How long opening a session on one of several endpoints may take before the next is tried.
const TURN_DEADLINE: Duration = Duration::from_secs(3);
/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// A RabbitMQ to open sessions on: one node, or the nodes of a cluster.
pub(crate) struct Server {
    endpoints: Vec<Endpoint>,
    endpoint: String,
    /// The endpoint that is next in turn. Processes begin at different ones, and go on to the next when a session is
    /// over.
    turn: AtomicUsize,
    version: OnceCell<Option<String>>,
    limit: Arc<SizeLimit>,
}

/// A word of RabbitMQ's refusal when it has as many connections as an operator allows, which is temporary.
const AT_ITS_LIMIT: &str = "limit";

#[derive(Clone)]
struct Endpoint {
    uri: AMQPUri,
    /// Without credentials.
    label: String,
}

impl Endpoint {
    fn new(url: &str) -> Result<Self, Error> {
        // The parser's message may quote the URL, and with it the password.
        let shape = "expected amqp://user:password@host:port/vhost or amqps://..., several of them separated by commas";
        if let Some(instead) = ends_early(url) {
            return Err(Error::InvalidUrl(format!("{instead}: {shape}")));
        }
        let mut uri: AMQPUri = url.parse().map_err(|detail: String| {
            Error::InvalidUrl(if detail.contains(url) { shape.to_owned() } else { format!("{detail}: {shape}") })
        })?;
        // The parser finds no host in an IPv6 address, and would connect to localhost.
        if let Some((address, _)) = host_on(url).strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            uri.authority.host = address.to_owned();
        }
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        // The broker's own limit holds for all its connections. With a lower one here, messages of other publishers
        // arrive in frames that are too large, which ends the session.
        uri.query.frame_max = None;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        uri.query.connection_timeout.get_or_insert(CONNECT_MILLIS);
        let vhost = if uri.vhost == "/" { "" } else { &uri.vhost };
        let label = format!("{}://{}:{}/{vhost}", uri.scheme, uri.authority.host, uri.authority.port);
        Ok(Self { uri, label })
    }

    /// One for each address of its name. Over TLS the name itself stays, since the certificate is checked against it.
    async fn addresses(&self) -> Vec<Self> {
        let authority = &self.uri.authority;
        if self.uri.scheme == AMQPScheme::AMQPS {
            return vec![self.clone()];
        }
        let Ok(found) = tokio::net::lookup_host((authority.host.as_str(), authority.port)).await else {
            return vec![self.clone()];
        };
        let at = |address: std::net::SocketAddr| {
            let mut endpoint = self.clone();
            endpoint.uri.authority.host = address.ip().to_string();
            endpoint
        };
        let addresses: Vec<Self> = found.take(ADDRESSES_MAX).map(at).collect();
        // With one address the name stays, so that an error shows what was configured.
        if addresses.len() > 1 { addresses } else { vec![self.clone()] }
    }

    /// The error for a refused login: a person must look, unless RabbitMQ has too many connections.
    fn denied(&self, detail: String) -> Error {
        if detail.contains(AT_ITS_LIMIT) {
            return unreachable(&self.label, detail);
        }
        let user = self.uri.authority.userinfo.username.clone();
        Error::Denied { endpoint: self.label.clone(), user, detail }
    }
}

/// The part of a URL behind its user and password.
fn host_on(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.find(['/', '?']).map_or(rest, |end| &rest[..end]);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// The endpoints of a list. A comma that no scheme follows is part of a password.
fn split(urls: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in urls.match_indices(',') {
        let next = urls[at + 1..].trim_start();
        if next.starts_with("amqp://") || next.starts_with("amqps://") {
            parts.push(urls[start..at].trim());
            start = at + 1;
        }
    }
    parts.push(urls[start..].trim());
    parts
}

impl Server {
    pub(crate) fn new(urls: &str) -> Result<Self, Error> {
        let endpoints = split(urls).into_iter().map(Endpoint::new).collect::<Result<Vec<_>, _>>()?;
        let endpoint = endpoints.iter().map(|endpoint| endpoint.label.as_str()).collect::<Vec<_>>().join(", ");
        let turn = AtomicUsize::new(rand::random_range(0..endpoints.len()));
        Ok(Self { endpoints, endpoint, turn, version: OnceCell::new(), limit: Arc::default() })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Opens a session. If the caller gives up, what was opened meanwhile is closed again.
    pub(crate) async fn open(self: &Arc<Self>, name: &str) -> Result<Session, Error> {
        let server = Arc::clone(self);
        let name = name.to_owned();
        let callers = Handle::current();
        let opening = RUNTIME.spawn(async move { server.open_in_turn(&name, &callers).await });
        match opening.await {
            Ok(opened) => opened,
            Err(error) => Err(unreachable(&self.endpoint, error.to_string())),
        }
    }

    /// Tries every address of every endpoint once, beginning with the endpoint that is next in turn.
    async fn open_in_turn(&self, name: &str, callers: &Handle) -> Result<Session, Error> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut addresses = Vec::new();
        for at in 0..self.endpoints.len() {
            let mut of_one = self.endpoints[(turn + at) % self.endpoints.len()].addresses().await;
            let count = of_one.len();
            of_one.rotate_left(turn % count);
            addresses.extend(of_one);
        }
        let deadline = if addresses.len() > 1 { TURN_DEADLINE } else { OPEN_DEADLINE };
        let mut failed = unreachable(&self.endpoint, "it has no address".to_owned());
        for (at, endpoint) in addresses.iter().enumerate() {
            let connect = self.connect(endpoint, name, callers);
            match tokio::time::timeout(deadline, connect).await {
                Ok(Ok(session)) => {
                    tracing::debug!(broker.endpoint = endpoint.label, "opened a session");
                    return Ok(session);
                }
                Ok(Err(error)) => failed = error,
                Err(_) => failed = unreachable(&endpoint.label, format!("no session within {deadline:?}")),
            }
            if at + 1 < addresses.len() {
                tracing::debug!(error = %failed, "trying the next endpoint");
            }
        }
        Err(failed)
    }

    /// Opens both connections to one node, so that the queues that it creates there are local.
    async fn connect(&self, endpoint: &Endpoint, name: &str, callers: &Handle) -> Result<Session, Error> {
        let over = Arc::new(Over::new());
        let runtime = TokioRuntime::tokio_with_handle(RUNTIME.handle().clone());
        let connect = async |purpose: &str| {
            let properties = ConnectionProperties::default().with_connection_name(format!("{name} {purpose}").into());
            Connection::connect_uri_with_runtime(endpoint.uri.clone(), properties, runtime.clone())
                .await
                .map(Arc::new)
                .map_err(|error| match wire::error(&error) {
                    Error::Lost(detail) => unreachable(&endpoint.label, detail),
                    Error::NoRight(detail) | Error::Refused(detail) => endpoint.denied(detail),
                    other => other,
                })
        };
        let (publishing, consuming) = tokio::try_join!(connect("publishes"), connect("consumes"))?;
        let server_version = self.version.get_or_init(|| version::ask(&endpoint.uri, &runtime)).await.clone();
        for connection in [&publishing, &consuming] {
            tokio::spawn(watch_events(connection.events_listener(), Arc::clone(&over)));
        }
        let (closed, is_closed) = watch::channel(false);
        tokio::spawn(close_connections([Arc::clone(&publishing), Arc::clone(&consuming)], Arc::clone(&over), closed));
        let session = |publisher| Session {
            over: Arc::clone(&over),
            publisher,
            publishing: Arc::clone(&publishing),
            consuming,
            closed: is_closed,
            server_version,
        };
        let opened = async {
            let limit = self.limit.find(&publishing, &over).await?;
            let channel = super::ask(&over, "channel.open", publishing.create_channel()).await?;
            super::ask(&over, "confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
            let bound = (limit, Arc::clone(&self.limit));
            Ok(Publisher::start(channel, Arc::clone(&publishing), Arc::clone(&over), bound, callers))
        }
        .await;
        match opened {
            Ok(publisher) => Ok(session(publisher)),
            Err(error) => {
                over.end(Error::clone(&error));
                Err(error)
            }
        }
    }
}

fn unreachable(endpoint: &str, detail: String) -> Error {
    Error::Unreachable { endpoint: endpoint.to_owned(), detail }
}

/// Ends the session when its connection breaks. An error of a channel alone is handled where the channel is used.
async fn watch_events(events: impl Stream<Item = Event>, over: Arc<Over>) {
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            _ = over.wait() => return,
            event = events.next() => event,
        };
        match event {
            Some(Event::Error(error)) if !error.is_amqp_soft_error() => {
                over.end(wire::error(&error));
            }
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(reason, "the broker blocks publishers");
            }
            Some(Event::ConnectionUnblocked) => tracing::info!("the broker lets publishers through again"),
            Some(_) => {}
            None => {
                over.end(Error::Lost("the connection is gone".to_owned()));
            }
        }
    }
}

/// Closes the connections of a session that is over, so that RabbitMQ gives back in place what was not acked.
async fn close_connections(connections: [Arc<Connection>; 2], over: Arc<Over>, closed: watch::Sender<bool>) {
    over.wait().await;
    let close = async |connection: &Connection| {
        // A broker that is gone does not answer; dropping the connection is all that can be done then.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, connection.close(REPLY_SUCCESS, "OK".into())).await;
    };
    let [publishing, consuming] = &connections;
    tokio::join!(close(publishing), close(consuming));
    closed.send_replace(true);
}
