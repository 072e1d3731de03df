//! The task of the announcer: batch after batch, each event once all before it are on their way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotline_broker::{PublishError, Receipt, Session};
use slotline_protocol::record::Event;
use slotline_protocol::{Epoch, ExecutionId, chain};
use slotline_store::{BatchKey, Error as StoreError, EventRange, Facts, PAGE_LIMIT_MAX, Store};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::audience::Audience;
use super::shared::{Missed, ROOM, Shared};
use super::writer::Writer;
use crate::config::Public;
use crate::leader::heard::{EventKey, KEYS, SubscribedKeys};
use crate::shell::errands::Fate;
use crate::shell::seeking::Current;

/// Messages on their way at once: a flush for the broker, and few beside what is urgent.
const IN_FLIGHT_MAX: usize = 256;
/// Executions whose events are read from the record at once.
const RANGES_AT_ONCE: usize = 200;
/// How often the journal forgets what has been published.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// Wait before another question to a journal that did not answer, or to a broker that refused.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What a batch of the leader has to publish.
pub(super) struct Batch {
    pub(super) key: BatchKey,
    pub(super) content: Content,
    /// Under one routing key alone; `None`: under all.
    pub(super) only: Option<EventKey>,
}

pub(super) enum Content {
    Events(Vec<Arc<Event>>),
    /// The events have to be read from the record.
    Ranges(Vec<EventRange>),
    /// The events have to be read from the record, and their ranges from the journal.
    Noted,
}

/// What is on its way to the broker.
enum Sent {
    /// With the key that it asks about, if it is a question.
    Message(Receipt, Option<EventKey>),
    /// All of the oldest unconfirmed batch was sent.
    End,
}

/// The session can't be used any more.
struct Gone;

pub(super) struct Task {
    store: Store,
    current: Current,
    public: Public,
    writer: Writer,
    epoch: Epoch,
    shared: Arc<Shared>,
    batches: mpsc::UnboundedReceiver<Batch>,
    fates: mpsc::UnboundedSender<Fate>,
    audiences: [Audience; KEYS.len()],
    /// In the order of their keys.
    backlog: VecDeque<Batch>,
    sent: VecDeque<Sent>,
    /// Batches that are sent and not confirmed.
    unconfirmed: VecDeque<Batch>,
    /// The last batch that is confirmed, and the last that the journal forgot.
    confirmed: Option<BatchKey>,
    forgotten: Option<BatchKey>,
    forgets_at: Instant,
}

impl Task {
    pub(super) fn new(
        store: Store,
        current: Current,
        public: Public,
        writer: Writer,
        epoch: Epoch,
        shared: Arc<Shared>,
        (batches, fates): (mpsc::UnboundedReceiver<Batch>, mpsc::UnboundedSender<Fate>),
    ) -> Self {
        Self {
            store,
            current,
            public,
            writer,
            epoch,
            shared,
            batches,
            fates,
            audiences: Default::default(),
            backlog: VecDeque::new(),
            sent: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            confirmed: None,
            forgotten: None,
            forgets_at: Instant::now(),
        }
    }

    /// Until the term is over, which drops it.
    pub(super) async fn run(mut self) {
        self.inherit().await;
        loop {
            let found = self.current.wait_for(|session| session.as_ref().is_some_and(|it| !it.is_over())).await;
            let Some(session) = found.ok().and_then(|session| session.clone()) else { return };
            let Gone = self.serve(&session).await;
            self.start_over();
            if !session.is_over() {
                tokio::time::sleep(TRY_AGAIN).await;
            } else if self.current.changed().await.is_err() {
                return;
            }
        }
    }

    /// What earlier leaders may not have published comes first.
    async fn inherit(&mut self) {
        let keys = loop {
            match self.store.announcements_before(self.epoch).await {
                Ok(keys) => break keys,
                Err(error) => complain(&error).await,
            }
        };
        self.backlog.extend(keys.into_iter().map(|key| Batch { key, content: Content::Noted, only: None }));
    }

    async fn serve(&mut self, session: &Session) -> Gone {
        loop {
            if let Err(gone) = self.step(session).await {
                return gone;
            }
        }
    }

    async fn step(&mut self, session: &Session) -> Result<(), Gone> {
        self.take_what_is_there();
        let now = Instant::now();
        let asks = self.asks(now);
        // A new subscriber's missed events come before the next question, so that an end follows the move to it.
        let is_owed = self.backlog.front().is_some_and(|batch| batch.only.is_some());
        if let Some((at, key)) = asks
            && at <= now
            && !is_owed
        {
            return self.ask(session, key).await;
        }
        if let Some(batch) = self.backlog.pop_front() {
            return self.publish(session, batch).await;
        }
        let forgets = self.forgettable().map(|_| self.forgets_at);
        if forgets.is_some_and(|at| at <= now) {
            self.forget().await;
            return Ok(());
        }
        let wakes_at = [asks.map(|(at, _)| at), forgets].into_iter().flatten().min();
        tokio::select! {
            biased;
            batch = self.batches.recv() => match batch {
                Some(batch) => self.backlog.push_back(batch),
                // The leader's handle is gone, and this task is aborted with it.
                None => std::future::pending().await,
            },
            confirmed = first(&mut self.sent) => self.settle(confirmed)?,
            () = self.shared.noted.notified() => {}
            () = sleep_until(wakes_at) => {}
            _ = session.ended() => return Err(Gone),
        }
        Ok(())
    }

    fn take_what_is_there(&mut self) {
        let heard = self.heard();
        if heard != self.shared.heard() || self.backlog.is_empty() {
            self.look(heard);
        }
        while let Ok(batch) = self.batches.try_recv() {
            self.backlog.push_back(batch);
        }
    }

    /// Takes what was noted; `heard` are the keys with subscribers from now on.
    fn look(&mut self, heard: SubscribedKeys) {
        for Missed { batch, range, keys } in self.shared.take(heard) {
            self.miss(batch, range, keys);
        }
    }

    /// The keys that have a subscriber, or may have one.
    fn heard(&self) -> SubscribedKeys {
        let may_listen = |key: &EventKey| key.is_in(self.public) && self.audiences[*key as usize].may_listen();
        SubscribedKeys::of(KEYS.into_iter().filter(may_listen))
    }

    // ---- subscribers ----

    /// The key about which the broker is to be asked next, and when.
    fn asks(&self, now: Instant) -> Option<(Instant, EventKey)> {
        KEYS.into_iter().filter_map(|key| Some((self.audiences[key as usize].asks_at(now)?, key))).min()
    }

    /// Sends the oldest event that was noted under a key, and observes whether a queue takes it.
    async fn ask(&mut self, session: &Session, key: EventKey) -> Result<(), Gone> {
        self.look(self.heard());
        let Some(asked) = self.audiences[key as usize].oldest() else { return Ok(()) };
        let events = self.read(asked).await;
        let event = events.into_iter().find(|event| EventKey::of(event).contains(&key));
        let facts = self.facts([asked.id].into()).await;
        let (Some(event), Some(facts)) = (event, facts.get(&asked.id)) else {
            self.audiences[key as usize].skip_oldest();
            return Ok(());
        };
        let mut question = self.writer.write(key, &event, facts);
        question.mandatory = true;
        let is_taken = self.outcome(session.publish(question).await)?;
        let now = Instant::now();
        if !is_taken {
            self.audiences[key as usize].found_no_subscriber(now);
            return Ok(());
        }
        tracing::debug!(key = key.as_str(), "public events have a subscriber");
        self.audiences[key as usize].found_subscriber(now);
        self.look(self.heard());
        let missed = self.audiences[key as usize].take_missed(asked, event.number);
        for (batch, ranges) in missed.into_iter().rev() {
            self.backlog.push_front(Batch { key: batch, content: Content::Ranges(ranges), only: Some(key) });
        }
        self.backlog.make_contiguous().sort_by_key(|batch| batch.key);
        Ok(())
    }

    // ---- publishing ----

    async fn publish(&mut self, session: &Session, batch: Batch) -> Result<(), Gone> {
        let Batch { key: batch_key, only, .. } = batch;
        let events = match &batch.content {
            Content::Events(events) => events.clone(),
            Content::Ranges(ranges) if ranges.len() <= RANGES_AT_ONCE => self.read_all(ranges).await,
            Content::Ranges(ranges) => {
                self.divide(batch_key, ranges.clone(), only);
                return Ok(());
            }
            Content::Noted => {
                let ranges = self.noted(batch_key).await;
                self.divide(batch_key, ranges, only);
                return Ok(());
            }
        };
        let mut wanted: Vec<(EventKey, &Arc<Event>)> = Vec::new();
        for event in &events {
            for key in EventKey::of(event).iter().copied().filter(|key| only.is_none_or(|only| only == *key)) {
                if self.audiences[key as usize].listens() {
                    wanted.push((key, event));
                } else {
                    let range = EventRange { id: event.execution_id, first: event.number, last: event.number };
                    self.miss(batch_key, range, &[key]);
                }
            }
        }
        let facts = self.facts(wanted.iter().map(|(_, event)| event.execution_id).collect()).await;
        self.unconfirmed.push_back(batch);
        for (key, event) in wanted {
            // An execution that was pruned has no more events.
            let Some(facts) = facts.get(&event.execution_id) else { continue };
            while self.sent.len() >= IN_FLIGHT_MAX {
                let confirmed = first(&mut self.sent).await;
                self.settle(confirmed)?;
            }
            let mut publication = self.writer.write(key, event, facts);
            publication.mandatory = self.audiences[key as usize].checks(Instant::now());
            let question = publication.mandatory.then_some(key);
            self.sent.push_back(Sent::Message(session.publish(publication), question));
        }
        self.sent.push_back(Sent::End);
        Ok(())
    }

    /// Notes an event under keys without a known subscriber.
    fn miss(&mut self, batch: BatchKey, range: EventRange, keys: &[EventKey]) {
        for key in keys.iter().copied().filter(|key| key.is_in(self.public)) {
            self.audiences[key as usize].miss(batch, range);
        }
    }

    /// Puts the parts of a batch at the front of the backlog.
    fn divide(&mut self, key: BatchKey, ranges: Vec<EventRange>, only: Option<EventKey>) {
        for part in ranges.chunks(RANGES_AT_ONCE).rev() {
            self.backlog.push_front(Batch { key, content: Content::Ranges(part.to_vec()), only });
        }
    }

    /// Takes the fate of the message that was sent first; `None`: its batch is confirmed.
    fn settle(&mut self, confirmed: Option<(Result<(), PublishError>, Option<EventKey>)>) -> Result<(), Gone> {
        let Some((result, question)) = confirmed else {
            if let Some(batch) = self.unconfirmed.pop_front() {
                self.let_go(&batch);
                self.confirmed = self.confirmed.max(Some(batch.key));
            }
            return Ok(());
        };
        let is_taken = self.outcome(result)?;
        if let Some(key) = question {
            self.audiences[key as usize].checked(is_taken);
        }
        Ok(())
    }

    /// Whether a queue took a message.
    fn outcome(&self, result: Result<(), PublishError>) -> Result<bool, Gone> {
        match result {
            Ok(()) => Ok(true),
            Err(PublishError::Returned) => Ok(false),
            Err(error @ (PublishError::Nacked | PublishError::TooLarge)) => {
                tracing::warn!(error = %chain(&error), "a public event was refused; a subscriber's queue may be full");
                Ok(true)
            }
            Err(PublishError::Full | PublishError::Overdue | PublishError::SessionEnded) => Err(Gone),
        }
    }

    fn let_go(&self, batch: &Batch) {
        if let Content::Events(events) = &batch.content {
            let before = self.shared.waiting.fetch_sub(events.len(), Ordering::AcqRel);
            if before >= ROOM && before - events.len() < ROOM {
                // The loop ends with this task.
                drop(self.fates.send(Fate::Announced));
            }
        }
    }

    /// Publishes again what was on its way in a session that is over, to the subscribers of the next session.
    fn start_over(&mut self) {
        self.sent.clear();
        self.audiences.iter_mut().for_each(Audience::forget);
        while let Some(batch) = self.unconfirmed.pop_back() {
            self.backlog.push_front(batch);
        }
    }

    // ---- the journal ----

    /// The last batch whose events, and those of all before it, the journal may forget.
    fn forgettable(&self) -> Option<BatchKey> {
        let confirmed = self.confirmed.filter(|confirmed| self.forgotten < Some(*confirmed))?;
        let pending = self.backlog.iter().chain(&self.unconfirmed).map(|batch| batch.key);
        let oldest = pending.chain(self.audiences.iter().filter_map(Audience::awaits)).min();
        oldest.is_none_or(|oldest| oldest > confirmed).then_some(confirmed)
    }

    async fn forget(&mut self) {
        self.forgets_at = Instant::now() + FORGET_EVERY;
        let Some(through) = self.forgettable() else { return };
        match self.store.forget_announcements(through).await {
            Ok(()) => self.forgotten = Some(through),
            Err(error) => tracing::debug!(error = %chain(&error), "what was published can't be forgotten now"),
        }
    }

    async fn noted(&self, key: BatchKey) -> Vec<EventRange> {
        loop {
            match self.store.announcement(key).await {
                Ok(ranges) => return ranges,
                Err(error) if is_unreadable(&error) => return Vec::new(),
                Err(error) => complain(&error).await,
            }
        }
    }

    async fn read_all(&self, ranges: &[EventRange]) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        for range in ranges {
            events.extend(self.read(*range).await);
        }
        events
    }

    /// The events of a range from the record; a gap stands for those that it no longer has.
    async fn read(&self, range: EventRange) -> Vec<Arc<Event>> {
        let (mut events, mut after) = (Vec::new(), range.first.saturating_sub(1));
        while after < range.last {
            match self.store.events(range.id, after, PAGE_LIMIT_MAX).await {
                Ok(Some(page)) => {
                    let Some(last) = page.events.last() else { break };
                    after = last.number;
                    events.extend(page.events.into_iter().filter(|event| event.number <= range.last).map(Arc::new));
                }
                Ok(None) => break,
                Err(error) if is_unreadable(&error) => break,
                Err(error) => complain(&error).await,
            }
        }
        events
    }

    async fn facts(&self, ids: BTreeSet<ExecutionId>) -> BTreeMap<ExecutionId, Facts> {
        let ids: Vec<_> = ids.into_iter().collect();
        while !ids.is_empty() {
            match self.store.facts(&ids).await {
                Ok(facts) => return facts.into_iter().map(|facts| (facts.id, facts)).collect(),
                Err(error) if is_unreadable(&error) => break,
                Err(error) => complain(&error).await,
            }
        }
        BTreeMap::new()
    }
}

/// The fate of the message that was sent first; `None` once its whole batch is confirmed. Cancel-safe.
async fn first(sent: &mut VecDeque<Sent>) -> Option<(Result<(), PublishError>, Option<EventKey>)> {
    let confirmed = match sent.front_mut() {
        Some(Sent::Message(receipt, question)) => Some((receipt.await, *question)),
        Some(Sent::End) => None,
        None => std::future::pending().await,
    };
    sent.pop_front();
    confirmed
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether a row is damaged: another try would not help.
fn is_unreadable(error: &StoreError) -> bool {
    let is_damaged = matches!(error, StoreError::Corrupt { .. } | StoreError::UnknownStatus { .. });
    if is_damaged {
        tracing::error!(error = %chain(error), "an event in the journal can't be read; it is not published");
    }
    is_damaged
}

async fn complain(error: &StoreError) {
    tracing::warn!(error = %chain(error), "the journal does not tell what is to be published; trying again");
    tokio::time::sleep(TRY_AGAIN).await;
}
