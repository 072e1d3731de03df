//! How a leader enters: the marks are read, the journal is held against them, and claimed.

use std::time::Duration;

use slotline_broker::topology;
use slotline_protocol::chain;
use slotline_store::{Error, Leadership};
use tokio::time::timeout;

use crate::leader::mark::{Judgement, Marks, Superseded, Unmarked};
use crate::leader::{Bounds, Office};
use crate::shell::context::TermContext;
use crate::shell::{mark, seeking};

/// How often a leader that waits for the broker shows the database that it lives.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long the broker may take for the marks before it is asked again.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long a mark that something depends on is waited for.
pub(super) const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// Wait before the marks are read again that forbid to lead on this copy of the journal; doubled with each further time.
/// Only a person can change them, and while they are read no other executor finds them.
const SUPERSEDED_PAUSE: Duration = Duration::from_secs(5);
const SUPERSEDED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Finds out where the journal stands among what the broker remembers. `None`: it must not be led on now.
pub(super) async fn enter(context: &TermContext, leadership: &mut Leadership) -> Result<Option<Office>, Error> {
    let standing = leadership.standing().await?;
    let epoch = leadership.epoch();
    let mut pause = SUPERSEDED_PAUSE;
    let (marks, judgement) = loop {
        let Some((marks, is_private)) = read_marks(context, leadership).await? else { return Ok(None) };
        match marks.judge(&standing, context.common.notice.witness(), is_private) {
            Ok(judgement) => break (marks, judgement),
            Err(superseded) => {
                forbid(context, &superseded);
                if !keep_waiting(context, leadership, pause).await? {
                    return Ok(None);
                }
                pause = (2 * pause).min(SUPERSEDED_PAUSE_MAX);
            }
        }
    };
    match &judgement {
        Judgement::Sound { skips } => {
            context.common.notice.set_doubt(None);
            if *skips {
                tracing::warn!(%epoch, "the numbers that the last leader may have given since its last mark are skipped: the \
                    database was restarted and that leader took no leave, or this is another copy of the journal");
            }
        }
        Judgement::Doubted(reason) if marks.epoch() >= epoch => {
            leadership.doubt(reason, marks.epoch()).await?;
            return Ok(None);
        }
        Judgement::Doubted(reason) => {
            tracing::error!(%epoch, reason, "this journal may be older than its workers: nothing is granted before all that \
                may live have shown what they hold");
            context.common.notice.set_doubt(Some(format!("nothing is granted: {reason}")));
        }
    }
    Ok(Some(Office::new(standing, &judgement, epoch, context.config.lease, &marks, &Bounds::default())))
}

/// Claims this copy of the journal, once the journal knows how it was judged: a leader that ended in between would leave a
/// mark of an epoch that the next one does not take for its journal's. `false`: it must not be led on now.
pub(super) async fn claim(
    context: &TermContext,
    leadership: &mut Leadership,
    office: &mut Office,
) -> Result<bool, Error> {
    let epoch = leadership.epoch();
    match leave_claim(context, office).await {
        Ok(()) => Ok(true),
        Err(Unmarked::Foreign(reason)) => {
            tracing::error!(%epoch, reason, "another leader begins at the same time; leadership is over");
            leadership.doubt(&reason, epoch).await?;
            Ok(false)
        }
        Err(error) => {
            tracing::warn!(%epoch, error = %chain(&error), "the broker did not take the claim to this journal; trying again");
            Ok(false)
        }
    }
}

/// Says what a person has to do before this copy of the journal is led on.
fn forbid(context: &TermContext, superseded: &Superseded) {
    let reason = format!(
        "no executor leads on this journal: {superseded}. To go on with this one all the same, stop every executor of the \
         other, and purge the queue {}",
        topology::marks_queue(&context.prefix)
    );
    if context.common.notice.doubt().as_ref() != Some(&reason) {
        tracing::error!("{reason}");
    }
    context.common.notice.set_doubt(Some(reason));
}

/// Keeps the leadership for `pause`, so that the epoch of a journal that must not be led on is raised once and not with
/// every look at the marks; `false` at shutdown.
async fn keep_waiting(context: &TermContext, leadership: &mut Leadership, pause: Duration) -> Result<bool, Error> {
    let over = tokio::time::Instant::now() + pause;
    while tokio::time::Instant::now() < over {
        leadership.ping().await?;
        let nap = tokio::time::sleep_until(over.min(tokio::time::Instant::now() + PING_EVERY));
        if context.shutdown.run_until_cancelled(nap).await.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the marks as soon as there is a broker, if there is one before long; keeps the leadership alive meanwhile.
async fn read_marks(context: &TermContext, leadership: &mut Leadership) -> Result<Option<(Marks, bool)>, Error> {
    let mut current = context.current.clone();
    let mut failed = None;
    // Then a standby whose broker answers may find out.
    let hands_over_at = tokio::time::Instant::now() + seeking::brokerless_max(context.config.lease);
    loop {
        let found = async {
            let session = current
                .wait_for(|session| session.as_ref().is_some_and(|session| Some(session.generation()) != failed));
            let session = session.await.ok()?.clone()?;
            let read = timeout(READ_DEADLINE, mark::read(&session, &context.prefix)).await;
            Some((session, read))
        };
        let found = tokio::select! {
            found = found => found,
            () = tokio::time::sleep(PING_EVERY) => {
                leadership.ping().await?;
                continue;
            }
            () = context.shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep_until(hands_over_at) => {
                tracing::warn!("no broker to read the marks from; leadership is given up");
                return Ok(None);
            }
        };
        match found {
            Some((session, Ok(Ok(marks)))) => return Ok(Some((marks, session.is_private()))),
            Some((session, read)) => {
                let cause = read.map_or_else(
                    |_| "no answer in time".to_owned(),
                    |read| read.err().map(|error| error.to_string()).unwrap_or_default(),
                );
                tracing::warn!(cause, "the marks of the journal can't be read; trying again");
                failed = Some(session.generation());
                session.close().await;
            }
            None => return Ok(None),
        }
    }
}

/// Says on the broker which copy of the journal is led on. Queues are named by the epoch, which two such copies might share.
async fn leave_claim(context: &TermContext, office: &mut Office) -> Result<(), Unmarked> {
    let Some(session) = context.current.borrow().clone() else { return Err(Unmarked::NoSession) };
    let claimed = timeout(LEAVE_DEADLINE, mark::claim(&session, &context.prefix, office.claim())).await;
    let reserved = claimed.map_err(|_| Unmarked::Late(LEAVE_DEADLINE))??;
    office.claimed(session.generation(), reserved);
    Ok(())
}
