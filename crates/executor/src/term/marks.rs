//! What a leader makes of the journal when it enters, the marks it leaves while it leads, and how it stands down or
//! settles where the journal went back.

use std::time::Duration;

use slotline_broker::{Session, topology};
use slotline_protocol::message::Lineage;
use slotline_protocol::{ActionRef, ExecutionId, Policy, Timestamp, chain};
use slotline_scheduler::{Counters, DoubtView};
use slotline_store::{Error, Leadership, Rewind, lost};
use tokio::time::timeout;

use super::{Context, End, Term};
use crate::errands::Fate;
use crate::mark::{self, EVERY, Hand, Judgement, Marks, Superseded, Unmarked, Witness};
use crate::seeking;

/// How often a leader that waits for the broker shows the database that it lives.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long the broker may take for the marks before it is asked again.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long a mark that something depends on is waited for.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// Wait before the marks are read again that forbid to lead on this copy of the journal; doubled with each further time.
/// Only a person can change them, and while they are read no other executor finds them.
const SUPERSEDED_PAUSE: Duration = Duration::from_secs(5);
const SUPERSEDED_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Requests that one turn of the loop may accept: as many numbers must be left.
const NUMBERS_PER_TURN: i64 = 2_000;
/// The most workers and executions that a sentence names.
const NAMED_MAX: usize = 10;

/// How a leader entered.
pub(super) struct Office {
    pub(super) lineage: Lineage,
    /// Why the journal may be older than the world.
    pub(super) doubt: Option<String>,
    /// The session on which the first mark was left.
    claimed_on: Option<u64>,
    /// The numbers that come next by the journal alone.
    floor: Counters,
    /// What was taken over in the same doubt, and has ended since.
    settled: Vec<ExecutionId>,
    /// The numbers that come next at least.
    from: Counters,
    /// The longest lease that any worker may go by.
    lease: Duration,
    /// The next execution by the newest mark.
    next_execution: i64,
    /// The highest generation of the journal that any mark shows.
    generation: u64,
    hand: Hand,
}

/// Finds out where the journal stands among what the broker remembers. `None`: it must not be led on now.
pub(super) async fn enter(context: &Context, leadership: &mut Leadership) -> Result<Option<Office>, Error> {
    let standing = leadership.standing().await?;
    let epoch = leadership.epoch();
    let mut pause = SUPERSEDED_PAUSE;
    let (marks, judgement) = loop {
        let Some((marks, is_private)) = read_marks(context, leadership).await? else { return Ok(None) };
        match marks.judge(&standing, context.notice.witness(), is_private) {
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
    let hand = Hand::new(&context.prefix, &standing, epoch, context.config.lease.max(standing.lease), &marks);
    let floor = counters(standing.floor);
    let mut office = Office {
        lineage: standing.lineage,
        doubt: None,
        claimed_on: None,
        floor,
        settled: standing.settled,
        from: counters(standing.counters),
        lease: standing.lease.max(marks.lease()),
        next_execution: marks.next_execution(),
        generation: marks.generation(),
        hand,
    };
    match judgement {
        Judgement::Sound { skips } => {
            context.notice.set_doubt(None);
            if skips {
                tracing::warn!(%epoch, "the database was restarted and the last leader took no leave: the numbers it may \
                    have given since its last mark are skipped");
            }
            if skips {
                office.from = marks.reserved();
            }
        }
        Judgement::Doubted(reason) if marks.epoch() >= epoch => {
            leadership.doubt(&reason, marks.epoch()).await?;
            return Ok(None);
        }
        Judgement::Doubted(reason) => {
            tracing::error!(%epoch, reason, "this journal may be older than its workers: nothing is granted before all that \
                may live have shown what they hold");
            context.notice.set_doubt(Some(format!("nothing is granted: {reason}")));
            (office.doubt, office.from) = (Some(reason), marks.reserved());
        }
    }
    Ok(Some(office))
}

/// Claims this copy of the journal, once the journal knows how it was judged: a leader that ended in between would leave a
/// mark of an epoch that the next one does not take for its journal's. `false`: it must not be led on now.
pub(super) async fn claim(context: &Context, leadership: &mut Leadership, office: &mut Office) -> Result<bool, Error> {
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
fn forbid(context: &Context, superseded: &Superseded) {
    let reason = format!(
        "no executor leads on this journal: {superseded}. To go on with this one all the same, stop every executor of the \
         other, and purge the queue {}",
        topology::marks_queue(&context.prefix)
    );
    if context.notice.doubt().as_ref() != Some(&reason) {
        tracing::error!("{reason}");
    }
    context.notice.set_doubt(Some(reason));
}

/// Keeps the leadership for `pause`, so that the epoch of a journal that must not be led on is raised once and not with
/// every look at the marks; `false` at shutdown.
async fn keep_waiting(context: &Context, leadership: &mut Leadership, pause: Duration) -> Result<bool, Error> {
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
async fn read_marks(context: &Context, leadership: &mut Leadership) -> Result<Option<(Marks, bool)>, Error> {
    let mut current = context.current.clone();
    let mut failed = None;
    // Then a standby whose broker answers may find out.
    let hands_over_at = tokio::time::Instant::now() + seeking::brokerless_max(context.config.lease);
    loop {
        let found = async {
            let session = current
                .wait_for(|session| session.as_ref().is_some_and(|session| Some(session.generation()) != failed));
            let session = session.await.ok()?.clone()?;
            let read = timeout(READ_DEADLINE, Marks::read(&session, &context.prefix)).await;
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

/// Says on the broker which copy of the journal is led on, before anybody is greeted: the leader of another stands down, and of
/// two that begin at once at least one sees the other. Queues are named by the epoch, which those two might share.
async fn leave_claim(context: &Context, office: &mut Office) -> Result<(), Unmarked> {
    let Some(session) = context.current.borrow().clone() else { return Err(Unmarked::NoSession) };
    let is_doubted = office.doubt.is_some();
    let mark = if is_doubted { Some(office.hand.claim()) } else { office.hand.renewal(office.from, true) };
    let Some(mark) = mark else { return Ok(()) };
    let claimed = timeout(LEAVE_DEADLINE, mark::claim(&session, &context.prefix, mark)).await;
    let reserved = claimed.map_err(|_| Unmarked::Late(LEAVE_DEADLINE))??;
    if !is_doubted {
        office.hand.renewed(Some(reserved));
    }
    office.claimed_on = Some(session.generation());
    Ok(())
}

fn counters(counters: slotline_store::Counters) -> Counters {
    Counters { next_id: counters.next_id, next_fence: counters.next_fence, next_action: counters.next_action }
}

impl Term {
    /// To be called before the first input.
    pub(super) fn begin(&mut self) {
        self.scheduler.raise(self.office.from);
        self.scheduler.reserve(self.office.hand.confirmed());
        if self.office.doubt.is_some() {
            let settled = std::mem::take(&mut self.office.settled);
            self.scheduler.doubt(self.office.floor, self.office.lease, settled);
        }
    }

    /// Requests wait on the broker while numbers are short, and while there is doubt.
    pub(super) fn may_accept(&self) -> bool {
        let next = self.scheduler.counters().next_id;
        next + NUMBERS_PER_TURN <= self.office.hand.confirmed().next_id && self.office.doubt.is_none()
    }

    /// Leaves the first mark of a session that came after the one on which the leader began, while its queues are declared.
    pub(super) fn begin_marks(&mut self, session: &Session) {
        if self.office.doubt.is_none()
            && self.office.claimed_on != Some(session.generation())
            && let Some(mark) = self.office.hand.renewal(self.scheduler.counters(), true)
        {
            let fates = self.fates.0.clone();
            let left = mark::claim(session, &self.postman.prefix, mark);
            // The other end of the channel goes with the term.
            tokio::spawn(async move { drop(fates.send(Fate::Marked(left.await))) });
        }
    }

    /// Leaves a mark that covers more numbers, if those that are left are few.
    pub(super) fn renew_mark(&mut self) {
        let Some(session) = self.feed.as_ref().map(|feed| feed.session.clone()) else { return };
        if self.office.doubt.is_some() {
            return;
        }
        if let Some(mark) = self.office.hand.renewal(self.scheduler.counters(), false) {
            let (prefix, fates) = (self.postman.prefix.clone(), self.fates.0.clone());
            tokio::spawn(async move {
                // The other end of the channel goes with the term.
                drop(fates.send(Fate::Marked(mark::renew(session, prefix, mark).await)));
            });
        }
    }

    pub(super) fn marked(&mut self, marked: Result<Counters, Unmarked>) {
        match marked {
            Ok(reserved) => {
                self.office.hand.renewed(Some(reserved));
                self.scheduler.reserve(reserved);
                self.apply(slotline_scheduler::Input::Ticked);
            }
            Err(Unmarked::Foreign(reason)) => {
                self.evidence.get_or_insert((reason, self.epoch));
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "no mark of the journal was left; trying again");
                self.office.hand.renewed(None);
                if matches!(error, Unmarked::Gone) {
                    self.office.hand.found_nothing();
                }
                self.marked_at.get_or_insert(self.clock.now());
            }
        }
    }

    pub(super) fn note_committed(&mut self, batch: i64, next: Counters) {
        if batch > self.office.hand.batch() {
            self.office.hand.committed(batch, next);
            self.marked_at.get_or_insert(self.clock.now());
        }
        self.renew_mark();
    }

    /// When a mark of what was committed is due.
    pub(super) fn mark_due(&self) -> Option<Timestamp> {
        self.marked_at.map(|since| since + EVERY)
    }

    pub(super) fn leave_mark_if_due(&mut self) {
        if self.mark_due().is_some_and(|due| due <= self.clock.now()) {
            self.marked_at = None;
            if self.office.doubt.is_none()
                && self.office.hand.may_leave()
                && let Some(feed) = &self.feed
            {
                drop(feed.session.publish(self.office.hand.progress(false)));
            }
            self.renew_mark();
        }
    }

    /// Takes what the scheduler found out about the journal with the last input.
    pub(super) fn weigh_evidence(&mut self) {
        let Some(missing) = &self.scheduler.effects().missing else { return };
        if let Some(evidence) = &missing.evidence
            && self.evidence.is_none()
        {
            let (highest, above) = (evidence.highest, evidence.epoch.max(self.epoch));
            let reason = format!(
                "a worker shows execution {}, fence {} and epoch {}, which this journal has not given",
                highest.execution_id, highest.fence, evidence.epoch
            );
            self.evidence = Some((reason, above));
        }
        for action_ref in missing.unknown_actions.clone() {
            self.make_up(action_ref);
        }
    }

    /// A worker runs something of an action that the journal does not know: it is there again, paused, until an operator
    /// says what it is.
    fn make_up(&mut self, action_ref: ActionRef) {
        if self.registry.get(&action_ref).is_some() {
            return;
        }
        tracing::error!(%action_ref, "a worker runs an action that this journal does not know; it is made up, paused, with one \
            slot: put its policy and resume it");
        let policy = Policy { limit: Some(1), ..Policy::default() };
        let reason = "a worker runs it, and this journal does not know it";
        if let Err(refused) = self.desk().make_up(action_ref, policy, reason) {
            tracing::error!(%refused, "the action can't be made up");
        }
    }

    /// Whether the term is over because of what is known of the journal by now.
    pub(super) fn verdict(&mut self) -> Option<End> {
        if let Some((reason, above)) = self.evidence.take() {
            tracing::error!(epoch = %self.epoch, reason, "this journal is older than the world; leadership is over");
            return Some(End::Doubted { reason, above });
        }
        let doubt = self.office.doubt.as_ref()?;
        let view = self.scheduler.in_doubt()?;
        self.notice.set_doubt(Some(waiting(doubt, &view)));
        let is_quiet = self.flights.is_empty() && !self.is_urgent;
        (view.is_over && is_quiet).then_some(End::Settled)
    }

    /// Tells the journal and the broker how this term ended. Gives back the leadership if it is to be handed over.
    pub(super) async fn take_leave(&mut self, end: &End, leadership: Option<Leadership>) -> Option<Leadership> {
        let mut leadership = leadership?;
        let session = self.feed.as_ref().map(|feed| feed.session.clone());
        let batch = self.office.hand.batch();
        if self.office.doubt.is_none() {
            self.notice.bear_witness(Witness { journal: self.office.lineage, epoch: self.epoch, batch });
            if let (Some(session), End::Shutdown | End::Over) = (&session, end) {
                // Goes out with the farewell.
                drop(session.publish(self.office.hand.progress(true)));
            }
        }
        match end {
            End::Shutdown | End::Brokerless => Some(leadership),
            End::Over => None,
            End::Doubted { reason, above } => {
                if let Err(error) = leadership.doubt(reason, *above).await {
                    tracing::warn!(error = %chain(&error), "the journal's doubt can't be noted; it will be found again");
                }
                Some(leadership)
            }
            End::Settled => {
                if let Err(error) = self.settle(&mut leadership, session).await {
                    tracing::warn!(error = %chain(&*error), "what the journal lacks can't be noted; the next leader finds it out again");
                }
                Some(leadership)
            }
        }
    }

    /// Goes on with the journal as it is: with higher numbers, as a new generation, and a word on what is missing.
    async fn settle(&mut self, leadership: &mut Leadership, session: Option<Session>) -> Step {
        let Some(view) = self.scheduler.in_doubt() else { return Ok(()) };
        let session = session.ok_or("there is no session with the broker")?;
        // A leader of another copy may have left one more before it saw the claim.
        let read = timeout(READ_DEADLINE, Marks::read(&session, &self.postman.prefix)).await;
        let marks = read.map_err(|_| "the broker did not give the marks in time")??;
        self.scheduler.raise(marks.reserved());
        let next = self.scheduler.counters();
        let recovered = &view.recovered;
        let shown = [
            self.office.next_execution.max(marks.next_execution()),
            view.shown.execution_id.0 + 1,
            recovered.last().map_or(0, |id| id.0 + 1),
            view.floor.next_id,
        ];
        let shown_id = ExecutionId(shown.into_iter().max().unwrap_or_default());
        let led = [self.office.lineage.generation, self.office.generation, marks.generation(), view.generation];
        let rewind = Rewind {
            generation: led.into_iter().max().unwrap_or_default() + 1,
            reason: self.office.doubt.clone().unwrap_or_default(),
            floor: stored(view.floor),
            next: stored(next),
            shown_id,
            recovered: recovered.clone(),
        };
        leadership.settle(&rewind).await?;
        let ids = (ExecutionId(view.floor.next_id), shown_id, ExecutionId(next.next_id));
        tracing::error!(epoch = %self.epoch, "{}", lost(&rewind.reason, ids, recovered));
        let left =
            timeout(LEAVE_DEADLINE, mark::is_left(session.publish(self.office.hand.settled(rewind.generation, next))))
                .await;
        left.map_err(|_| "the broker did not take the mark in time")??;
        Ok(())
    }
}

/// Something whose failure is only told.
type Step = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn stored(counters: Counters) -> slotline_store::Counters {
    slotline_store::Counters {
        next_id: counters.next_id,
        next_fence: counters.next_fence,
        next_action: counters.next_action,
    }
}

/// For people: why nothing is granted, until when at the soonest, and what is waited for.
fn waiting(reason: &str, view: &DoubtView) -> String {
    let until = view.until.map_or_else(|| "the broker is back".to_owned(), |until| until.to_string());
    let awaited = match &view.awaited[..] {
        [] => String::new(),
        workers => {
            let names: Vec<&str> = workers.iter().take(NAMED_MAX).map(slotline_protocol::WorkerName::as_str).collect();
            format!("; workers that have not told what they hold: {} ({})", workers.len(), names.join(", "))
        }
    };
    let recovered = match &view.recovered[..] {
        [] => String::new(),
        ids => {
            let names: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            format!("; executions that only workers knew: {} ({})", ids.len(), names.join(", "))
        }
    };
    format!(
        "nothing is granted, since the journal may be older than its workers: {reason}. Waits until {until}{awaited}{recovered}"
    )
}
