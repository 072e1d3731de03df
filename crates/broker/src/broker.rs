//! Where to connect: RabbitMQ by its URL, or the broker inside this process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::over::Over;
use crate::session::SessionBackend;
use crate::{Error, Faults, Session, memory, rabbit};

/// The longest prefix: the longest name with it must stay below AMQP's 255 bytes.
const PREFIX_BYTES_MAX: usize = 64;

/// Generations are unique across all brokers of the process.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// A broker to open sessions on. Clones of an in-process broker share one.
#[derive(Clone)]
pub struct Broker {
    prefix: Arc<str>,
    server: Server,
}

#[derive(Clone)]
enum Server {
    Rabbit(Arc<rabbit::Server>),
    Memory(memory::Server),
}

impl Broker {
    /// RabbitMQ at `url` (`amqp://` or `amqps://`), or at several, separated by commas: the nodes of one cluster, which
    /// are tried in turn. Nothing is connected yet. AMQP heartbeats every 10 s, and 5 s to connect, unless the URL sets
    /// others (`?heartbeat=10&connection_timeout=5000`).
    pub fn rabbit(url: &str, prefix: &str) -> Result<Self, Error> {
        let server = rabbit::Server::new(url)?;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(valid) {
            return Err(Error::InvalidPrefix(prefix.to_owned()));
        }
        Ok(Self { prefix: prefix.into(), server: Server::Rabbit(Arc::new(server)) })
    }

    /// A new broker inside this process. It lives as long as its clones and sessions.
    pub fn memory(prefix: &str) -> Self {
        Self { prefix: prefix.into(), server: Server::Memory(memory::Server::default()) }
    }

    /// The prefix of all names on the broker.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Opens one session; `name` shows in RabbitMQ's list of connections. A [`Supervisor`](crate::Supervisor) opens the
    /// next one when it ends.
    pub async fn open(&self, name: &str) -> Result<Session, Error> {
        let generation = NEXT_GENERATION.fetch_add(1, Ordering::Relaxed);
        let (over, backend) = match &self.server {
            Server::Rabbit(server) => {
                let session = server.open(name).await?;
                (session.over(), SessionBackend::Rabbit(Arc::new(session)))
            }
            Server::Memory(server) => {
                let over = Arc::new(Over::new());
                (Arc::clone(&over), SessionBackend::Memory(Arc::new(server.open(generation, over)?)))
            }
        };
        Ok(Session::new(generation, over, backend))
    }

    /// Whether an operator may set policies on it.
    pub fn has_policies(&self) -> bool {
        match &self.server {
            Server::Rabbit(_) => true,
            Server::Memory(_) => false,
        }
    }

    /// The faults of an in-process broker, for tests; `None` for a real one.
    pub fn memory_faults(&self) -> Option<Faults> {
        match &self.server {
            Server::Rabbit(_) => None,
            Server::Memory(server) => Some(Faults::new(server.clone())),
        }
    }

    /// Its address, without credentials.
    pub fn endpoint(&self) -> &str {
        match &self.server {
            Server::Rabbit(server) => server.endpoint(),
            Server::Memory(_) => "memory",
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("endpoint", &self.endpoint()).field("prefix", &self.prefix).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_an_error_shows_the_password() {
        let broker = Broker::rabbit("amqp://user:s3cret@example.org:5673/staging", "p").expect("a good address");
        assert_eq!(broker.endpoint(), "amqp://example.org:5673/staging");
        assert!(!format!("{broker:?}").contains("s3cret"));
        for url in ["http://user:s3cret@example.org", "user:s3cret@example.org", "amqp://user:s3cret@example.org:x/"] {
            let error = Broker::rabbit(url, "p").expect_err(url).to_string();
            assert!(error.contains("amqp://") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn several_nodes_are_split_at_commas_outside_of_a_password() {
        let broker =
            Broker::rabbit("amqp://u:a,b@h1:5673/v, amqps://u:p@h2/v,amqp://u:p@h3", "p").expect("three nodes");
        assert_eq!(broker.endpoint(), "amqp://h1:5673/v, amqps://h2:5671/v, amqp://h3:5672/");
        let error = Broker::rabbit("amqp://u:geheim@h1,amqp://u:geheim@h2:x/", "p").expect_err("no port").to_string();
        assert!(error.contains("amqp://") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn a_prefix_that_can_not_be_part_of_names_is_refused() {
        for prefix in ["", "a b", "ä", "x".repeat(65).as_str()] {
            assert_eq!(
                Broker::rabbit("amqp://localhost", prefix).expect_err(prefix),
                Error::InvalidPrefix(prefix.to_owned())
            );
        }
    }
}
