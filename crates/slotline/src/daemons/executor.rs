//! `slotline executor`: one executor, from its settings to its end.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use slotline_broker::Broker;
use slotline_executor::{Api, Config, Public};
use tokio_util::sync::CancellationToken;

use crate::daemons::host;
use crate::exit::Exit;
use crate::journal::{self, Migrate, Opening};
use crate::settings::{self, SecretSetting, Settings};
use crate::signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// postgres://user:password@host/database
    #[arg(long, env = "SLOTLINE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<SecretSetting>,
    /// amqp://user:password@host:5672/vhost [default: RabbitMQ on this machine]
    #[arg(long, env = "SLOTLINE_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<SecretSetting>,
    /// First part of the names of all exchanges and queues [default: slotline]
    #[arg(long, env = "SLOTLINE_PREFIX")]
    prefix: Option<String>,
    /// Where to serve HTTP; beyond this machine only with a token [default: 127.0.0.1:7070]
    #[arg(long, env = "SLOTLINE_LISTEN", value_name = "ADDRESS:PORT", value_parser = settings::address)]
    listen: Option<SocketAddr>,
    /// The name of this executor [default: the host's name]
    #[arg(long, env = "SLOTLINE_NAME")]
    name: Option<String>,
    /// Silence after which a worker is given up [default: 60s]
    #[arg(long, env = "SLOTLINE_LEASE", value_name = "DURATION", value_parser = settings::duration)]
    lease: Option<Duration>,
    /// Silence after which a worker ends its own attempts; less than the lease [default: 45s]
    #[arg(long, env = "SLOTLINE_FENCE", value_name = "DURATION", value_parser = settings::duration)]
    fence: Option<Duration>,
    /// Time between two heartbeats of a worker [default: 5s]
    #[arg(long, env = "SLOTLINE_HEARTBEAT", value_name = "DURATION", value_parser = settings::duration)]
    heartbeat: Option<Duration>,
    /// How long what has ended is kept [default: 7days]
    #[arg(long, env = "SLOTLINE_RETENTION", value_name = "DURATION", value_parser = settings::duration)]
    retention: Option<Duration>,
    /// Events of one execution that are kept in full [default: 1000]
    #[arg(long, env = "SLOTLINE_EVENTS_KEPT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events_kept: Option<u64>,
    /// Keep moves between statuses from the exchange that subscribers read
    #[arg(long, env = "SLOTLINE_NO_PUBLIC_STATUSES")]
    no_public_statuses: bool,
    /// Keep starts, progress and the ends of attempts from the exchange that subscribers read
    #[arg(long, env = "SLOTLINE_NO_PUBLIC_PROGRESS")]
    no_public_progress: bool,
    /// Keep what commands print from the exchange that subscribers read
    #[arg(long, env = "SLOTLINE_NO_PUBLIC_LOGS")]
    no_public_logs: bool,
    /// Keep ends, with their results and errors, from the exchange that subscribers read
    #[arg(long, env = "SLOTLINE_NO_PUBLIC_RESULTS")]
    no_public_results: bool,
    /// Leave the schema to `slotline migrate`
    #[arg(long, env = "SLOTLINE_NO_MIGRATE")]
    no_migrate: bool,
    /// Start on a schema that a newer version made; to go back by one version
    #[arg(long, env = "SLOTLINE_ALLOW_NEWER_SCHEMA")]
    allow_newer_schema: bool,
}

pub(crate) async fn executor(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    settings.log("info")?;
    let file = &settings.file;
    let url = journal::url(args.database_url, file)?;
    let tokens = settings.tokens()?;
    let broker = broker(args.amqp_url.as_ref(), args.prefix.as_deref(), file)?;
    let default = Config::default();
    let config = Config {
        name: args.name.or(file.name.clone()).unwrap_or_else(host::name),
        lease: args.lease.or(file.lease).unwrap_or(default.lease),
        fence: args.fence.or(file.fence).unwrap_or(default.fence),
        heartbeat: args.heartbeat.or(file.heartbeat).unwrap_or(default.heartbeat),
        retention: args.retention.or(file.retention).unwrap_or(default.retention),
        events_kept: args.events_kept.or(file.events_kept).unwrap_or(default.events_kept),
        public: Public {
            statuses: !(args.no_public_statuses || file.no_public_statuses),
            progress: !(args.no_public_progress || file.no_public_progress),
            logs: !(args.no_public_logs || file.no_public_logs),
            results: !(args.no_public_results || file.no_public_results),
        },
    };
    let listen = args.listen.or(file.listen).unwrap_or(settings::DEFAULT_LISTEN);
    let listener = slotline_api::listen(listen, &tokens).await?;
    for warning in host::user_warnings(false, &settings.file) {
        tracing::warn!("{warning}");
    }
    let shutdown = stop_on_signals()?;
    let opening = Opening {
        migrate: if args.no_migrate || file.no_migrate { Migrate::No } else { Migrate::Yes },
        allow_newer: args.allow_newer_schema || file.allow_newer_schema,
    };
    let opening = Box::pin(journal::wait_for(url.expose(), opening));
    let Some(store) = shutdown.run_until_cancelled(opening).await else { return Ok(ExitCode::SUCCESS) };
    let store = store?;
    let (address, page) = (listener.local_addr()?, slotline_api::ui::PATH);
    tracing::info!(name = config.name, %address, page = %format!("http://{address}{page}"), "executor starts");
    slotline_executor::run(config, store.clone(), broker, Some(Api { listener, tokens, page: None }), shutdown).await?;
    store.close().await;
    tracing::info!("executor ended");
    Ok(ExitCode::SUCCESS)
}

/// The broker that the settings name.
pub(crate) fn broker(
    url: Option<&SecretSetting>,
    prefix: Option<&str>,
    file: &settings::File,
) -> Result<Broker, settings::Error> {
    use slotline_broker::Error;
    let url = url.or(file.amqp_url.as_ref()).map_or(settings::DEFAULT_AMQP_URL, SecretSetting::expose);
    let opened = Broker::rabbit(url, prefix.or(file.prefix.as_deref()).unwrap_or(settings::DEFAULT_PREFIX));
    opened.map_err(|error| {
        settings::Error::Invalid(match error {
            Error::InvalidUrl(detail) => {
                format!("the broker URL can't be used: {} (--amqp-url, SLOTLINE_AMQP_URL or `amqp_url`)", detail)
            }
            other => format!("{other} (--prefix, SLOTLINE_PREFIX or `prefix`)"),
        })
    })
}

/// Cancelled by the first signal; the second ends the process.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    signals::on_stop("hands over", move || stop.cancel(), || std::process::exit(Exit::Interrupted.number().into()))?;
    Ok(shutdown)
}
