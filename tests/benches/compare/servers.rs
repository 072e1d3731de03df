//! Private servers, set as the rivals' are: durable, and with the memory that a small machine would give them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use slotline_broker::topology;
use slotline_tests::{Postgres, Rabbit};
use tokio_postgres::{Client, NoTls};

use crate::PREFIX;
use crate::cpu::{self, Meter};

/// Beyond PostgreSQL's own defaults, for us and for rivals alike.
const SETTINGS: [(&str, &str); 2] = [("shared_buffers", "1GB"), ("max_wal_size", "4GB")];
/// What is printed with the figures.
const SHOWN: [&str; 5] = ["server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size"];

/// Ends on drop.
pub(crate) struct Servers {
    pub(crate) rabbit: Rabbit,
    pub(crate) postgres: Postgres,
    /// Of both servers.
    pub(crate) meter: Meter,
    /// Whether a queue gets the public events of each installation.
    pub(crate) has_subscriber: bool,
    /// Versions and settings, by name.
    pub(crate) told: BTreeMap<String, String>,
}

impl Servers {
    pub(crate) async fn start(has_subscriber: bool) -> Result<Self> {
        let (rabbit, postgres) = tokio::try_join!(Rabbit::start(), Postgres::start())?;
        for (name, value) in SETTINGS {
            postgres.psql(&format!("ALTER SYSTEM SET {name} = '{value}'")).await?;
        }
        postgres.restart().await?;

        let mut told = BTreeMap::new();
        let client = connect(&postgres.url()).await?;
        for name in SHOWN {
            let value = client.query_one(&format!("SHOW {name}"), &[]).await?.get(0);
            told.insert(format!("postgres {name}"), value);
        }
        told.insert("rabbitmq".to_owned(), evaluate(&rabbit, "rabbit_misc:version()").await?);
        told.insert("erlang".to_owned(), evaluate(&rabbit, "erlang:system_info(otp_release)").await?);
        let beam = evaluate(&rabbit, "os:getpid()").await?.parse().context("the id of a process")?;
        let session: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let postmaster = cpu::parent(session).context("a session has a parent")?;
        let meter = Meter::default().family("postgres", postmaster).alone("rabbitmq", beam);
        if has_subscriber {
            told.insert("subscriber".to_owned(), "a queue gets every public event".to_owned());
        }
        Ok(Self { rabbit, postgres, meter, has_subscriber, told })
    }
}

/// Binds a queue to all public events, as a subscriber would that is slower than they come.
pub(crate) async fn subscribe(amqp: &str) -> Result<()> {
    const QUEUE: &str = "subscriber";
    let runtime = async_rs::Runtime::tokio_current();
    let connection = Connection::connect_with_runtime(amqp, ConnectionProperties::default(), runtime).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1000));
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::default(), arguments).await?;
    let (exchange, every) = (topology::events_exchange(PREFIX), "#".into());
    channel
        .queue_bind(QUEUE.into(), exchange.into(), every, QueueBindOptions::default(), FieldTable::default())
        .await?;
    connection.close(0, "bound".into()).await?;
    Ok(())
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client; errors come back from the client's own calls.
    tokio::spawn(connection);
    Ok(client)
}

async fn evaluate(rabbit: &Rabbit, expression: &str) -> Result<String> {
    let said = rabbit.ctl(&["eval", &format!("{expression}.")]).await?.stdout;
    Ok(said.trim().trim_matches('"').to_owned())
}
