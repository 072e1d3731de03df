//! One commit under way: the batch, and meanwhile what leaves once it has landed is written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, future, stream};
use slotline_broker::crash;
use slotline_protocol::http::Execution;
use slotline_protocol::message::Reply;
use slotline_protocol::{ExecutionId, Reason, Timestamp};
use slotline_store::{Batch, CommitError, Leadership, Request, Store};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::mail::Postman;
use super::metrics::Metrics;
use super::registry::Registry;
use crate::leader::Commit;
use crate::leader::letters::{Letters, Mail};
use crate::leader::request::UNKNOWN_DIGEST;

/// Ends looked up at once: fewer than the connections for reads, since other reads are waited for, too.
const READS_AT_ONCE: usize = 2;

/// How a commit ended.
pub(crate) struct Flight {
    pub(crate) batch: Box<Batch>,
    pub(crate) takes_requests: bool,
    pub(crate) result: Result<Mail, Error>,
    /// Why requests take no place, or not yet.
    pub(crate) rejected: Vec<Reason>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the journal can't be read or noted in")]
    Journal(#[source] slotline_store::Error),
}

impl Error {
    /// The journal's error; `None` if the commit failed only because another executor leads or the batch was refused.
    pub(crate) fn journal(&self) -> Option<&slotline_store::Error> {
        match self {
            Self::Commit(CommitError::Deposed { .. } | CommitError::Refused { .. }) => None,
            Self::Commit(CommitError::Unknown(error)) | Self::Journal(error) => Some(error),
        }
    }
}

/// What a flight needs beside its batch.
pub(crate) struct Crew {
    pub(crate) store: Store,
    /// The flight that locks it first commits first.
    pub(crate) leadership: Arc<Mutex<Leadership>>,
    pub(crate) postman: Arc<Postman>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Commits once the flight before it has landed, and meanwhile reads what dispatches lack and writes the letters.
pub(crate) async fn fly(crew: Crew, commit: Commit) -> Flight {
    let Commit { batch, letters, cut_at, takes_requests } = commit;
    let mut batch = Box::new(batch);
    let rejected = letters.rejected();
    let result = Box::pin(crew.commit(&mut batch, letters, cut_at)).await;
    Flight { batch, takes_requests, result, rejected }
}

impl Crew {
    async fn commit(self, batch: &mut Batch, mut letters: Letters, cut_at: Timestamp) -> Result<Mail, Error> {
        let Self { store, leadership, postman, registry, metrics } = self;
        if letters.brings_message_ids {
            spare_known(&store, batch).await.map_err(Error::Journal)?;
        }
        let encoded = store.encode(postman.epoch, batch);
        let mut leadership = leadership.lock().await;
        find_heirs(&store, &mut letters).await.map_err(Error::Journal)?;
        if letters.terms_are_known {
            leadership.forget_terms(postman.config.lease).await.map_err(Error::Journal)?;
        }
        let ended = std::mem::take(&mut letters.ended);
        let commit = async {
            let began = Instant::now();
            let committed = leadership.commit_encoded(batch, encoded).await;
            metrics.committed(began.elapsed());
            committed
        };
        let write = async {
            let missing = letters.missing();
            if !missing.is_empty() {
                let found = store.requests(&missing).await.map_err(Error::Journal)?;
                letters.requests.extend(found.into_iter().map(|(id, request)| (id, Arc::new(request))));
            }
            Ok(postman.write(letters, |dispatch| registry.get(&dispatch.action_ref), cut_at))
        };
        crash::point("executor.commit.before");
        let (committed, written) = tokio::join!(commit, write);
        crash::point("executor.commit.after");
        // The next flight may commit: what is left to read here does not change any more.
        drop(leadership);
        let mut mail = committed.map_err(Error::Commit).and(written)?;
        if !ended.is_empty() {
            // Read only now: one of the executions may have settled with this very batch.
            let ends = find_ends(&store, ended).await.map_err(Error::Journal)?;
            postman.ends(&mut mail, ends, cut_at);
        }
        Ok(mail)
    }
}

/// A name belongs to one execution: one that was taken over from a worker loses it if the journal has another.
async fn spare_known(store: &Store, batch: &mut Batch) -> Result<(), slotline_store::Error> {
    let recovered = batch.accepted.iter_mut().filter(|accepted| accepted.request.digest == UNKNOWN_DIGEST);
    // Nothing else has these requests, so that none is copied.
    let mut requests: Vec<&mut Request> = recovered.map(|accepted| Arc::make_mut(&mut accepted.request)).collect();
    let names: Vec<_> = requests.iter().filter_map(|request| request.name.clone()).collect();
    let known = store.find_messages(&names).await?;
    for request in &mut requests {
        if known.iter().any(|known| Some(&known.name) == request.name.as_ref()) {
            request.name = None;
        }
    }
    Ok(())
}

/// Finds the requests that wait for the ends of executions of an earlier term; after the commit they are history.
async fn find_heirs(store: &Store, letters: &mut Letters) -> Result<(), slotline_store::Error> {
    let inherited = std::mem::take(&mut letters.inherited);
    if inherited.is_empty() {
        return Ok(());
    }
    let ids: Vec<ExecutionId> = inherited.iter().map(|settled| settled.id).collect();
    let mut requests: BTreeMap<_, _> = store.requests(&ids).await?.into_iter().collect();
    letters.settled.extend(inherited.into_iter().filter_map(|settled| {
        let request = requests.remove(&settled.id).filter(|request| request.reply == Reply::Settled)?;
        Some((Arc::new(request), settled))
    }));
    Ok(())
}

/// How executions ended whose publishers sent the request again after the end.
async fn find_ends(
    store: &Store,
    ended: Vec<(Arc<Request>, ExecutionId)>,
) -> Result<Vec<(Arc<Request>, Execution)>, slotline_store::Error> {
    let find = async |(request, id)| {
        // The end of an execution that was pruned since is not known any more, so none is sent.
        let execution = store.execution(id).await?.filter(|execution| execution.status.is_terminal());
        Ok(execution.map(|execution| (request, execution)))
    };
    stream::iter(ended.into_iter().map(find)).buffered(READS_AT_ONCE).try_filter_map(future::ok).try_collect().await
}

/// The first of the flights, once it has landed; never if there is none.
pub(crate) async fn landed(flights: &mut VecDeque<JoinHandle<Flight>>) -> Flight {
    match flights.front_mut() {
        Some(handle) => {
            let landed = handle.await.expect("a commit task neither panics nor is aborted");
            flights.pop_front();
            landed
        }
        None => std::future::pending().await,
    }
}
