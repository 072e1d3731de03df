//! One executor process: its session with the broker, its HTTP server, and leadership whenever it is free.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use futures::FutureExt;
use slotline_broker::pulse::Pulse;
use slotline_broker::{Broker, crash};
use slotline_protocol::chain;
use slotline_store::{Error as StoreError, Store};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::following;
use super::handle::Handle;
use super::link::Link;
use super::replies::Replies;
use crate::config::{Api, Config};
use crate::error::Error;
use crate::shell::context::{Common, LeaderCall, TermContext};
use crate::shell::intake::probation::Probation;
use crate::shell::journal::JournalHealth;
use crate::shell::remarks::Topic;
use crate::shell::term::{self, End};
use crate::shell::{metrics, seeking, timekeeping};

/// Calls that may wait for the leader's loop.
const CALLS_MAX: usize = 1000;

/// Runs until `shutdown`, and then hands leadership over. The schema must be up to date. Dropping the future ends it.
///
/// Waits for a broker or database that is away; an error needs a person. A broker that denies the first session is an
/// error; one that does so later is waited for.
///
/// Everything between an arrival and its effects is on one thread: a hand-off passes a dozen tasks, and each wake-up of
/// another thread would cost it more than the work of most of them. Only HTTP is served on the caller's runtime.
pub async fn run(
    config: Config,
    store: Store,
    broker: Broker,
    api: Option<Api>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.check()?;
    let _stop_if_dropped = shutdown.clone().drop_guard();
    let (finished, result) = oneshot::channel();
    let callers = runtime::Handle::current();
    thread::Builder::new()
        .name("slotline-executor".to_owned())
        .spawn(move || {
            let pulse = Pulse::new(term::DOING);
            // The other executors handle a loop that stands: its lock is lost, and another one leads.
            let watch = pulse.watch("executor", |_, _| ());
            let own = watch.and_then(|watch| Ok((pulse.runtime()?, watch))).map_err(Error::Thread);
            let ended = own.and_then(|(own, watch)| {
                let ended = own.block_on(execute(config, store, broker, api, shutdown, &callers, pulse));
                drop(watch);
                ended
            });
            // The receiver is gone if the future was dropped.
            let _ = finished.send(ended);
        })
        .map_err(Error::Thread)?;
    result.await.unwrap_or(Err(Error::Died))
}

async fn execute(
    config: Config,
    store: Store,
    broker: Broker,
    api: Option<Api>,
    shutdown: CancellationToken,
    callers: &runtime::Handle,
    pulse: Arc<Pulse>,
) -> Result<(), Error> {
    let (id, common, replies) = (Uuid::new_v4(), Common::new(store.kind()), Arc::new(Replies::default()));
    let (current_sender, current) = watch::channel(None);
    let (calls_sender, mut calls) = mpsc::channel(CALLS_MAX);
    let handle = Arc::new(Handle {
        id,
        source: format!("executor/{}", config.name),
        prefix: broker.prefix().to_owned(),
        store: store.clone(),
        current: current.clone(),
        replies: replies.clone(),
        calls: calls_sender,
        warnings: check(&store).await,
        common: common.clone(),
    });
    // The link outlives the term, so that the last publications find a session.
    let link_over = CancellationToken::new();
    let link = Link { broker: broker.clone(), name: config.name.clone(), id, replies, common: common.clone() };
    let (denied_sender, denied) = oneshot::channel();
    let link = tokio::spawn(link.keep(current_sender, denied_sender, link_over.clone()));
    let mut tasks = JoinSet::new();
    if let Some(api) = api {
        tasks.spawn_on(serve(api, handle.clone(), shutdown.clone()), callers);
    }
    tasks.spawn(following::follow(handle, common.hub.clone(), shutdown.clone()).map(Ok));
    let host = timekeeping::watch_host(store.clone(), common.remarks.clone());
    let watches = [tokio::spawn(host), tokio::spawn(metrics::watch_lag(common.metrics.clone()))];
    let context = TermContext {
        probation: Probation::new(store.clone(), id),
        quarantine: Mutex::default(),
        callers: callers.clone(),
        shutdown: shutdown.clone(),
        common,
        config,
        store,
        prefix: broker.prefix().to_owned(),
        broker,
        current,
        pulse,
    };
    let result = tokio::select! {
        result = seek(&context, &mut calls) => result,
        Some(Ok(Err(error))) = tasks.join_next() => Err(error),
        Ok(error) = denied => Err(Error::Broker(error)),
    };
    watches.iter().for_each(JoinHandle::abort);
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    link_over.cancel();
    drop(link.await);
    result
}

/// What is wrong with the database, as far as it can be led on all the same.
async fn check(store: &Store) -> Vec<String> {
    let warnings = store.check().await.unwrap_or_else(|error| vec![format!("the database can't be checked: {error}")]);
    for warning in &warnings {
        tracing::warn!(%warning, "the database is not as it should be");
    }
    warnings
}

async fn serve(api: Api, handle: Arc<Handle>, shutdown: CancellationToken) -> Result<(), Error> {
    let (store, hub) = (handle.store.for_viewers(), handle.common.hub.clone());
    let services = slotline_api::ApiServices { control: handle, store, tokens: api.tokens, hub, page: api.page };
    slotline_api::serve(api.listener, services, shutdown).await.map_err(Error::Api)
}

/// Leads whenever this process can, until shutdown.
async fn seek(context: &TermContext, calls: &mut mpsc::Receiver<LeaderCall>) -> Result<(), Error> {
    let name = context.config.name.clone();
    let (journal, remarks) = (&context.common.journal, &context.common.remarks);
    let mut current = context.current.clone();
    // Terms in a row that ended without a broker, and refusals in a row of a database that this executor can't lead on.
    let (mut brokerless, mut unfit) = (0, 0);
    loop {
        let answers = async {
            if timeout(seeking::ANSWERS_WITHIN, seeking::answers(&mut current)).await.is_err() {
                remarks.set(Topic::Leadership, Some("does not seek leadership: its broker does not answer".to_owned()));
                seeking::answers(&mut current).await;
            }
        };
        if context.shutdown.run_until_cancelled(answers).await.is_none() {
            break;
        }
        remarks.set(Topic::Leadership, None);
        let sought = async {
            tokio::select! {
                lead = context.store.stand(&name, || journal.reached(Instant::now())) => Some(lead),
                () = seeking::is_gone(&mut current) => None,
            }
        };
        let Some(sought) = context.shutdown.run_until_cancelled(Box::pin(sought)).await else { break };
        // Its place among the waiting executors went with its broker.
        let Some(lead) = sought else { continue };
        match lead {
            Ok(leadership) => {
                unfit = 0;
                crash::point("executor.recovery.epoch");
                let end = Box::pin(term::lead(context, leadership, calls)).await;
                context.common.leads.store(false, Ordering::Release);
                match end {
                    Ok(End::Shutdown) => return Ok(()),
                    Ok(End::Over | End::Doubted { .. } | End::Settled) => brokerless = 0,
                    Ok(End::Brokerless) => brokerless += 1,
                    Err(error @ (StoreError::UnknownStatus { .. } | StoreError::Corrupt { .. })) => {
                        return Err(Error::Journal(error));
                    }
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "the journal can't be read; leadership is over");
                        journal.missed(chain(&error).to_string());
                    }
                }
            }
            Err(error) => {
                unfit = if matches!(error, StoreError::Unfit(_)) { unfit + 1 } else { 0 };
                note_missed(journal, &error);
            }
        }
        let pause = seeking::pause(brokerless.max(unfit).max(journal.failures()));
        if context.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Ok(())
}

/// Notes that the journal gave no leadership.
fn note_missed(journal: &JournalHealth, error: &StoreError) {
    let cause = chain(error).to_string();
    if journal.missed(cause.clone()) {
        tracing::warn!(error = cause, "leadership can't be sought; trying again until it can");
    } else {
        tracing::debug!(error = cause, "leadership can't be sought yet");
    }
}
