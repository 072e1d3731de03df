//! One executor process: its session with the broker, its HTTP server, and leadership whenever it is free.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use slotline_api::Hub;
use slotline_broker::pulse::Pulse;
use slotline_broker::{Broker, crash};
use slotline_protocol::chain;
use slotline_store::{Error as StoreError, Store};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ask::LeaderCall;
use crate::config::{Api, Config};
use crate::error::Error;
use crate::following;
use crate::gate::Gates;
use crate::handle::Handle;
use crate::journal::JournalHealth;
use crate::link::Link;
use crate::mark::Notice;
use crate::metrics::{self, Metrics};
use crate::policies::Findings;
use crate::probation::Probation;
use crate::remarks::{Remarks, Topic};
use crate::replies::Replies;
use crate::seeking;
use crate::term::{self, End, TermContext};
use crate::timekeeping;

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
    let id = Uuid::new_v4();
    let remarks = Arc::new(Remarks::default());
    let replies = Arc::new(Replies::default());
    let leads = Arc::new(AtomicBool::new(false));
    let journal = Arc::new(JournalHealth::default());
    let notice = Arc::new(Notice::default());
    let (current_sender, current) = watch::channel(None);
    let (calls_sender, mut calls) = mpsc::channel(CALLS_MAX);
    let warnings = store.check().await.unwrap_or_else(|error| vec![format!("the database can't be checked: {error}")]);
    for warning in &warnings {
        tracing::warn!(%warning, "the database is not as it should be");
    }
    let prefix = broker.prefix().to_owned();
    let policies = Arc::new(Findings::default());
    let hub: Arc<Hub> = Arc::default();
    let gates: Arc<Gates> = Arc::default();
    let metrics = Arc::new(Metrics::new(store.kind()));
    let handle = Arc::new(Handle {
        id,
        source: format!("executor/{}", config.name),
        prefix: prefix.clone(),
        store: store.clone(),
        current: current.clone(),
        replies: replies.clone(),
        leads: leads.clone(),
        journal: journal.clone(),
        notice: notice.clone(),
        calls: calls_sender,
        warnings,
        policies: policies.clone(),
        remarks: remarks.clone(),
        gates: gates.clone(),
        metrics: metrics.clone(),
    });
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    // The link outlives the term, so that the last publications find a session.
    let link_over = CancellationToken::new();
    let link =
        Link { broker: broker.clone(), name: config.name.clone(), id, replies, hub: hub.clone(), gates: gates.clone() };
    let (denied_sender, denied) = oneshot::channel();
    let link = tokio::spawn(link.keep(current_sender, denied_sender, link_over.clone()));
    if let Some(Api { listener, tokens }) = api {
        let viewed = store.for_viewers();
        let state = slotline_api::ApiServices { control: handle.clone(), store: viewed, tokens, hub: hub.clone() };
        let shutdown = shutdown.clone();
        let serving = async move { slotline_api::serve(listener, state, shutdown).await.map_err(Error::Api) };
        tasks.spawn_on(serving, callers);
    }
    let following = following::follow(handle, hub.clone(), shutdown.clone());
    tasks.spawn(async move {
        following.await;
        Ok(())
    });
    let lagging = tokio::spawn(metrics::watch_lag(metrics.clone()));
    let watching = tokio::spawn(timekeeping::watch_host(store.clone(), remarks.clone()));
    let context = TermContext {
        config,
        store: store.clone(),
        broker,
        prefix,
        policies,
        current,
        shutdown: shutdown.clone(),
        leads,
        journal,
        probation: Probation::new(store.clone(), id),
        quarantine: std::sync::Mutex::default(),
        notice,
        hub,
        pulse,
        remarks: remarks.clone(),
        gates,
        callers: callers.clone(),
        metrics,
    };
    let result = tokio::select! {
        result = seek(&context, &mut calls) => result,
        Some(Ok(Err(error))) = tasks.join_next() => Err(error),
        Ok(error) = denied => Err(Error::Broker(error)),
    };
    watching.abort();
    lagging.abort();
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    link_over.cancel();
    drop(link.await);
    result
}

/// Leads whenever this process can, until shutdown.
async fn seek(context: &TermContext, calls: &mut mpsc::Receiver<LeaderCall>) -> Result<(), Error> {
    let name = context.config.name.clone();
    let (journal, remarks) = (&context.journal, &context.remarks);
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
                context.leads.store(false, Ordering::Release);
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
                let cause = chain(&error).to_string();
                if journal.missed(cause.clone()) {
                    tracing::warn!(error = cause, "leadership can't be sought; trying again until it can");
                } else {
                    tracing::debug!(error = cause, "leadership can't be sought yet");
                }
            }
        }
        let pause = seeking::pause(brokerless.max(unfit).max(journal.failures()));
        if context.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Ok(())
}
