//! Opening a session, watching its connections, and burying them.

use std::sync::Arc;
use std::time::Duration;

use async_rs::TokioRuntime;
use futures::{Stream, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::constants::REPLY_SUCCESS;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};

use super::publisher::Publisher;
use super::{CLOSE_DEADLINE, RUNTIME, Session, version, wire};
use crate::Error;
use crate::over::Over;

/// Seconds between AMQP heartbeats; a peer that is silent for two of them is dead.
const HEARTBEAT_SECONDS: u16 = 10;
const CONNECT_MILLIS: u64 = 5_000;
/// How long all of opening a session may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(15);

/// A RabbitMQ to open sessions on.
pub(crate) struct Server {
    uri: AMQPUri,
    endpoint: String,
    version: OnceCell<Option<String>>,
}

impl Server {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        // The parser's own words may quote the URL, and with it the password.
        let shape = "expected amqp://user:password@host:port/vhost or amqps://...";
        let mut uri: AMQPUri = url.parse().map_err(|detail: String| {
            Error::InvalidUrl(if detail.contains(url) { shape.to_owned() } else { format!("{detail}: {shape}") })
        })?;
        // The parser takes an IPv6 address for no host at all, and would go to localhost.
        if let Some(start) = url.find('[')
            && let Some(length) = url[start..].find(']')
        {
            uri.authority.host = url[start + 1..start + length].to_owned();
        }
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        // The broker's own limit holds for all its connections; with a lower one, what others publish comes in frames
        // that are too large, which ends the session.
        uri.query.frame_max = None;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        uri.query.connection_timeout.get_or_insert(CONNECT_MILLIS);
        let vhost = if uri.vhost == "/" { "" } else { &uri.vhost };
        let endpoint = format!("{}://{}:{}/{vhost}", uri.scheme, uri.authority.host, uri.authority.port);
        Ok(Self { uri, endpoint, version: OnceCell::new() })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Opens a session. Should the caller give up, what was opened meanwhile is closed again.
    pub(crate) async fn open(self: &Arc<Self>, name: &str, over: Arc<Over>) -> Result<Session, Error> {
        let server = Arc::clone(self);
        let name = name.to_owned();
        let callers = Handle::current();
        let opening = RUNTIME.spawn(async move {
            match tokio::time::timeout(OPEN_DEADLINE, server.connect(&name, over, &callers)).await {
                Ok(opened) => opened,
                Err(_) => Err(server.unreachable(format!("no session within {OPEN_DEADLINE:?}"))),
            }
        });
        match opening.await {
            Ok(opened) => opened,
            Err(error) => Err(self.unreachable(error.to_string())),
        }
    }

    async fn connect(&self, name: &str, over: Arc<Over>, callers: &Handle) -> Result<Session, Error> {
        let runtime = TokioRuntime::tokio_with_handle(RUNTIME.handle().clone());
        let connect = async |purpose: &str| {
            let properties = ConnectionProperties::default().with_connection_name(format!("{name} {purpose}").into());
            Connection::connect_uri_with_runtime(self.uri.clone(), properties, runtime.clone())
                .await
                .map(Arc::new)
                .map_err(|error| match wire::error(&error) {
                    Error::Lost(detail) => self.unreachable(detail),
                    other => other,
                })
        };
        let (publishing, consuming) = tokio::try_join!(connect("publishes"), connect("consumes"))?;
        let server_version = self.version.get_or_init(|| version::ask(&self.uri, &runtime)).await.clone();
        for connection in [&publishing, &consuming] {
            tokio::spawn(watch_events(connection.events_listener(), Arc::clone(&over)));
        }
        let (buried, is_buried) = watch::channel(false);
        tokio::spawn(bury([Arc::clone(&publishing), Arc::clone(&consuming)], Arc::clone(&over), buried));
        let session = |publisher| Session {
            over: Arc::clone(&over),
            publisher,
            publishing: Arc::clone(&publishing),
            consuming,
            buried: is_buried,
            server_version,
        };
        let opened = async {
            let channel = super::ask(&over, "channel.open", publishing.create_channel()).await?;
            super::ask(&over, "confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok(Publisher::start(channel, Arc::clone(&publishing), Arc::clone(&over), callers))
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

    fn unreachable(&self, detail: String) -> Error {
        Error::Unreachable { endpoint: self.endpoint.clone(), detail }
    }
}

/// Ends the session when its connection breaks. A channel that is refused something is the business of its user.
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
async fn bury(connections: [Arc<Connection>; 2], over: Arc<Over>, buried: watch::Sender<bool>) {
    over.wait().await;
    let close = async |connection: &Connection| {
        // A broker that is gone does not answer; dropping the connection is all that can be done then.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, connection.close(REPLY_SUCCESS, "OK".into())).await;
    };
    let [publishing, consuming] = &connections;
    tokio::join!(close(publishing), close(consuming));
    buried.send_replace(true);
}
