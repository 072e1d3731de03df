//! What a worker says, on its way out: several of a kind in one message, events bounded and lossy.
//!
//! Outcomes and hand-backs leave at once as long as few messages of them are on their way, and then together; should one
//! get lost, the duty book says it again. Events are kept while there
//! is no session, and sent again if their session ended before they were confirmed. When there is no room, the oldest
//! plain progress goes first, then output; a message, an error or a status never: when they are too many, nothing is
//! started and reports are held back at their source (see [`Outbox::is_congested`]), so what is added is what each
//! attempt that runs already must say. What was left out, or got lost further on, is in the archive and said again when
//! the executor asks.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use slotline_broker::{Properties, Publication, PublishError, Receipt, Session, crash, topology};
use slotline_protocol::envelope::{self, Body, Envelope};
use slotline_protocol::message::{AttemptKey, Event, GapReason, Level, Message, Progress, StatusChanged, Stream};
use slotline_protocol::{ActionRef, Incarnation, Sizes, Timestamp, WorkerName};
use uuid::Uuid;

use crate::archive::{Archive, Asked, Kept};
use crate::duty::{ENTRIES_MAX, Traced};
use crate::trust::Trust;

/// The most events that wait and may be left out.
const LOSSY: Load = Load { events: 10_000, bytes: 32 << 20 };
/// What is left of those once the oldest had to go: many go at once, since a search for them is a walk.
const LOSSY_KEPT: Load = Load { events: 9_000, bytes: 28 << 20 };
/// From so much that may not be left out on, the worker is congested...
const NEWS_MAX: Load = Load { events: 20_000, bytes: 32 << 20 };
/// ... until no more than this waits.
const NEWS_LOW: Load = Load { events: 10_000, bytes: 16 << 20 };
/// Messages of events on their way at once, so that a flood of them takes no room from outcomes and heartbeats.
const IN_FLIGHT_MAX: usize = 8;
/// Messages of outcomes and hand-backs on their way at once. What comes meanwhile travels together, which is what many
/// short attempts cost the broker.
const WORDS_IN_FLIGHT_MAX: usize = 4;
/// The most outcomes and hand-backs that wait; those past it are said again in time.
const WORDS_MAX: usize = 2 * ENTRIES_MAX;
/// How long a message that the broker refused waits before it is sent again.
const REFUSED_WAIT: Duration = Duration::from_millis(500);

pub(crate) struct Outbox {
    exchange: String,
    source: String,
    trust: Trust,
    /// What the broker takes.
    sizes: Sizes,
    /// What message ids begin with: one of them for each envelope would cost more than all else about it.
    id: Uuid,
    said: Cell<u64>,
    /// Outcomes and hand-backs.
    words: VecDeque<(&'static str, Bytes)>,
    words_in_flight: FuturesUnordered<Receipt>,
    /// First events of attempts, which leave before all others: so both travel in long arrays, each attempt's in order.
    moves: VecDeque<Kept>,
    /// What commands print is apart, since it travels under a key of its own. Both with their place among all events:
    /// what has waited longer leaves first, so neither is far ahead of the other.
    events: VecDeque<(u64, Kept)>,
    logs: VecDeque<(u64, Kept)>,
    next_place: u64,
    loads: Loads,
    archive: Archive,
    in_flight: FuturesUnordered<BoxFuture<'static, Option<Publication>>>,
    /// Messages of events whose session ended before their confirm.
    unconfirmed: VecDeque<Publication>,
}

/// What goes first when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    Plain,
    Output,
    News,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    events: usize,
    bytes: usize,
}

/// How much waits of what may be left out, and of what may not.
#[derive(Debug, Default)]
struct Loads {
    lossy: Load,
    news: Load,
}

impl Loads {
    fn of(&mut self, weight: Weight) -> &mut Load {
        match weight {
            Weight::Plain | Weight::Output => &mut self.lossy,
            Weight::News => &mut self.news,
        }
    }
}

impl Load {
    fn add(&mut self, kept: &Kept) {
        self.events += 1;
        self.bytes += kept.envelope.len();
    }

    fn remove(&mut self, kept: &Kept) {
        self.events -= 1;
        self.bytes -= kept.envelope.len();
    }

    fn is_above(self, bound: Self) -> bool {
        self.events > bound.events || self.bytes > bound.bytes
    }
}

impl Outbox {
    pub(crate) fn new(prefix: &str, worker: &WorkerName, incarnation: Incarnation) -> Self {
        Self {
            exchange: topology::work_exchange(prefix),
            source: format!("worker/{worker}"),
            trust: Trust::new(incarnation),
            sizes: Sizes::FULL,
            id: Uuid::new_v4(),
            said: Cell::new(0),
            words: VecDeque::new(),
            words_in_flight: FuturesUnordered::new(),
            moves: VecDeque::new(),
            events: VecDeque::new(),
            logs: VecDeque::new(),
            next_place: 0,
            loads: Loads::default(),
            archive: Archive::default(),
            in_flight: FuturesUnordered::new(),
            unconfirmed: VecDeque::new(),
        }
    }

    /// Whom the incarnation believes that is spoken for here.
    pub(crate) fn trust(&mut self) -> &mut Trust {
        &mut self.trust
    }

    /// Keeps to what the broker of the session takes.
    pub(crate) fn keep_to(&mut self, sizes: Sizes) {
        self.sizes = sizes;
    }

    /// Speaks for this incarnation from now on, which no executor knows yet.
    pub(crate) fn rename(&mut self, incarnation: Incarnation) {
        self.trust = Trust::new(incarnation);
    }

    /// An outcome or a hand-back: leaves with the next [`Outbox::flush`], or not at all.
    pub(crate) fn say<M: Message>(&mut self, word: &Traced<M>, now: Timestamp) {
        if self.words.len() < WORDS_MAX {
            let envelope = self.envelope(word, now);
            self.words.push_back((M::TYPE, envelope));
        }
    }

    pub(crate) fn status_changed(&mut self, word: &Traced<StatusChanged>, now: Timestamp) {
        let envelope = self.envelope(word, now);
        let kept = Kept { weight: Weight::News, routing_key: StatusChanged::TYPE, envelope };
        if let Some(sequence) = word.message.sequence {
            self.archive.keep(word.message.key(), sequence, kept.clone());
        }
        self.loads.of(kept.weight).add(&kept);
        self.moves.push_back(kept);
    }

    pub(crate) fn progress(&mut self, word: &Traced<Progress>, now: Timestamp) {
        let weight = match &word.message.event {
            Event::Progress(report) if report.level == Level::Info && report.message.is_none() => Weight::Plain,
            Event::Log { stream: Stream::Stdout | Stream::Stderr, .. } => Weight::Output,
            Event::Log { stream: Stream::Notice, .. } => Weight::News,
            Event::Progress(_) | Event::Started {} | Event::Finished { .. } | Event::Gap { .. } => Weight::News,
        };
        let routing_key = match &word.message.event {
            Event::Log { .. } => topology::LOGS_KEY,
            Event::Progress(_) | Event::Started {} | Event::Finished { .. } | Event::Gap { .. } => Progress::TYPE,
        };
        let kept = Kept { weight, routing_key, envelope: self.envelope(word, now) };
        let Progress { sequence, ref event, .. } = word.message;
        let key = word.message.key();
        self.archive.keep(key, sequence, kept.clone());
        if let Event::Finished { .. } = event {
            self.archive.close(key);
        }
        self.event(kept);
    }

    /// Says the events of an attempt again that are numbered from `first` to `last`; of those that can't be had, how many
    /// they are.
    pub(crate) fn resend(
        &mut self,
        key: AttemptKey,
        (first, last): (u64, Option<u64>),
        action_ref: &ActionRef,
        now: Timestamp,
    ) {
        let Asked { before, events, after } = self.archive.ask(key, first, last);
        let gap = |outbox: &mut Self, (sequence, count): (u64, u64)| {
            let message = Progress {
                execution_id: key.0,
                action_ref: action_ref.clone(),
                // What people count it as is not known any more; nothing but its number finds its place.
                counts_as: key.1,
                grant: None,
                sequence,
                timestamp: now,
                event: Event::Gap { count, reason: GapReason::Lost },
            };
            let word = Traced { message, correlation_id: None, trace_id: None };
            let envelope = outbox.envelope(&word, now);
            outbox.event(Kept { weight: Weight::News, routing_key: Progress::TYPE, envelope });
        };
        if let Some(lost) = before {
            gap(self, lost);
        }
        // Whoever asked asks again, so these may be left out.
        for kept in events {
            let weight = kept.weight.min(Weight::Output);
            self.event(Kept { weight, ..kept });
        }
        if let Some(lost) = after {
            gap(self, lost);
        }
    }

    /// One message, now.
    pub(crate) fn publish<M: Message>(&self, session: &Session, message: &M, now: Timestamp) -> Receipt {
        let word = Traced { message, correlation_id: None, trace_id: None };
        session.publish(self.publication(M::TYPE, self.write(&word, now)))
    }

    /// Sends what waits, as far as it may. Without a session, or before executors know this incarnation, events stay, and everything else is said again in time.
    pub(crate) fn flush(&mut self, session: Option<&Session>) {
        // Without proof nothing would be believed, and with the token it can be proved.
        let Some(session) = session.filter(|_| self.trust.is_known()) else {
            self.words.clear();
            return;
        };
        while self.words_in_flight.len() < WORDS_IN_FLIGHT_MAX
            && let Some((message_type, body)) = next_array(
                &mut self.words,
                self.sizes,
                |(message_type, _)| message_type,
                |(_, envelope)| envelope.len(),
                |(_, envelope)| envelope,
            )
        {
            self.words_in_flight.push(session.publish(self.publication(message_type, body)));
            crash::point("worker.completion.after");
        }
        self.flush_events(session);
    }

    /// Whether so much waits that nothing is to be added but what must be. It lasts until half of it is sent, which is
    /// why it matters whether it was so before.
    pub(crate) fn is_congested(&self, was_congested: bool) -> bool {
        self.loads.news.is_above(if was_congested { NEWS_LOW } else { NEWS_MAX })
    }

    /// Waits until room is made for more; call [`Outbox::flush`] then. Cancel-safe; never comes back while nothing is on
    /// its way.
    pub(crate) async fn confirmed(&mut self) {
        tokio::select! {
            // Whether it arrived is told by `recorded`.
            Some(_) = self.words_in_flight.next() => {}
            Some(lost) = self.in_flight.next() => self.unconfirmed.extend(lost),
            else => std::future::pending().await,
        }
    }

    fn flush_events(&mut self, session: &Session) {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let publication = match self.unconfirmed.pop_front() {
                Some(publication) => publication,
                None => match self.next_events() {
                    Some(publication) => publication,
                    None => return,
                },
            };
            let receipt = session.publish(publication.clone());
            self.in_flight.push(Box::pin(async move {
                match receipt.await {
                    // Nobody listens: so be it. What no broker takes is missed, and given up, by who asks for it.
                    Ok(()) | Err(PublishError::Returned | PublishError::TooLarge) => None,
                    Err(PublishError::Overdue | PublishError::SessionEnded) => Some(publication),
                    Err(PublishError::Nacked | PublishError::Full) => {
                        tokio::time::sleep(REFUSED_WAIT).await;
                        Some(publication)
                    }
                }
            }));
        }
    }

    /// The next message of events.
    fn next_events(&mut self) -> Option<Publication> {
        let Self { moves, events, logs, loads, sizes, .. } = self;
        let mut leave = |kept: Kept| {
            loads.of(kept.weight).remove(&kept);
            kept.envelope
        };
        let (routing_key, body) = if moves.is_empty() {
            let queue = match (events.front(), logs.front()) {
                (Some((event, _)), Some((log, _))) if log < event => logs,
                (None, Some(_)) => logs,
                (Some(_), _) | (None, None) => events,
            };
            next_array(
                queue,
                *sizes,
                |(_, kept)| kept.routing_key,
                |(_, kept)| kept.envelope.len(),
                |(_, kept)| leave(kept),
            )?
        } else {
            next_array(moves, *sizes, |kept| kept.routing_key, |kept| kept.envelope.len(), leave)?
        };
        Some(self.publication(routing_key, body))
    }

    fn event(&mut self, kept: Kept) {
        self.loads.of(kept.weight).add(&kept);
        self.next_place += 1;
        let queue = if kept.routing_key == topology::LOGS_KEY { &mut self.logs } else { &mut self.events };
        queue.push_back((self.next_place, kept));
        let Self { events, logs, loads: Loads { lossy, .. }, .. } = self;
        if lossy.is_above(LOSSY) {
            let mut leave_out = |queue: &mut VecDeque<(u64, Kept)>, weight| {
                queue.retain(|(_, kept)| {
                    let goes = kept.weight == weight && lossy.is_above(LOSSY_KEPT);
                    if goes {
                        lossy.remove(kept);
                    }
                    !goes
                });
            };
            leave_out(events, Weight::Plain);
            leave_out(logs, Weight::Output);
            // Of those that are sent again.
            leave_out(events, Weight::Output);
        }
    }

    /// An envelope as it is sent, written once.
    fn envelope<M: Message>(&self, word: &Traced<M>, now: Timestamp) -> Bytes {
        let Traced { message, correlation_id, trace_id } = word;
        self.write(&Traced { message, correlation_id: correlation_id.clone(), trace_id: trace_id.clone() }, now)
    }

    fn write<M: Message>(&self, word: &Traced<&M>, now: Timestamp) -> Bytes {
        self.said.update(|said| said + 1);
        let envelope = Envelope {
            message_id: Some(format!("{}-{}", self.id.simple(), self.said.get())),
            correlation_id: word.correlation_id.as_deref().map(str::to_owned),
            trace_id: word.trace_id.as_deref().map(str::to_owned),
            ..Envelope::new(word.message, &self.source, now)
        };
        envelope::write(&envelope)
    }

    fn publication(&self, routing_key: &str, body: Bytes) -> Publication {
        let message_type = if routing_key == topology::LOGS_KEY { Progress::TYPE } else { routing_key };
        let mut publication = Publication {
            exchange: self.exchange.clone(),
            routing_key: routing_key.to_owned(),
            body,
            properties: Properties { message_type: Some(message_type.to_owned()), ..Properties::default() },
            mandatory: false,
            // The journal is the truth: whatever a broker forgets is said again.
            persistent: false,
        };
        self.trust.prove(&mut publication);
        publication
    }
}

/// The body of one message from the front of a queue: envelopes under one routing key, within the bounds.
fn next_array<T>(
    queue: &mut VecDeque<T>,
    sizes: Sizes,
    routing_key: impl Fn(&T) -> &'static str,
    bytes: impl Fn(&T) -> usize,
    mut envelope: impl FnMut(T) -> Bytes,
) -> Option<(&'static str, Bytes)> {
    let first = routing_key(queue.front()?);
    let mut body = Body::with_room(queue.len().min(Body::MEMBERS_MAX));
    while let Some(next) = queue.pop_front_if(|next| routing_key(next) == first && sizes.fits(&body, bytes(next))) {
        body.push(&envelope(next));
    }
    Some((first, body.finish()))
}

#[cfg(test)]
mod tests;
