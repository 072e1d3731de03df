//! What a worker reports, on its way out: several of a kind in one message, events bounded and lossy.
//!
//! Outcomes and hand-backs leave at once as long as few messages of them are on their way, and then together; should one
//! get lost, the duty book reports it again. Events are kept while there is no session, and sent again if their session
//! ended before they were confirmed. When there is no room, the oldest plain progress goes first, then output; a message,
//! an error or a status never: when they are too many, nothing is started and reports are held back at their source (see
//! [`Outbox::is_congested`]), so what is added is what each attempt that runs already must report. What was left out, or
//! got lost further on, is in the archive and sent again when the executor asks.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use slotline_broker::topology::LOGS_KEY;
use slotline_protocol::envelope::Body;
use slotline_protocol::message::{AttemptKey, Event, GapReason, Level, Message, Progress, StatusChanged, Stream};
use slotline_protocol::{ActionRef, Sizes, Timestamp};

use super::archive::{Archive, ArchivedEvent, Range, Weight};
use super::wire::{Trace, Wire, WorkerMessage};
use crate::duty::{ENTRIES_MAX, Traced};

/// The most events that wait and may be left out.
const LOSSY: Load = Load { events: 10_000, bytes: 32 << 20 };
/// What is left of those once the oldest had to go: many go at once, since a search for them is a walk.
const LOSSY_KEPT: Load = Load { events: 9_000, bytes: 28 << 20 };
/// From so much that may not be left out on, the worker is congested...
const NEWS_MAX: Load = Load { events: 20_000, bytes: 32 << 20 };
/// ... until no more than this waits.
const NEWS_LOW: Load = Load { events: 10_000, bytes: 16 << 20 };
/// Messages of events on their way at once, so that a flood of them takes no room from outcomes and heartbeats.
const EVENTS_IN_FLIGHT_MAX: usize = 8;
/// Messages of outcomes and hand-backs on their way at once. What comes meanwhile travels together, which is what many
/// short attempts cost the broker.
const OUTCOMES_IN_FLIGHT_MAX: usize = 4;
/// The most outcomes and hand-backs that wait; those past it are reported again in time.
const OUTCOMES_MAX: usize = 2 * ENTRIES_MAX;
/// How long a message that the broker refused waits before it is sent again.
const REFUSED_WAIT: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Outbox {
    /// Outcomes and hand-backs.
    outcomes: VecDeque<(&'static str, Bytes)>,
    outcomes_in_flight: usize,
    /// First events of attempts, which leave before all others: so both travel in long arrays, each attempt's in order.
    first_events: VecDeque<ArchivedEvent>,
    /// What commands print is apart, since it travels under a key of its own. Both with their place among all events:
    /// what has waited longer leaves first, so neither is far ahead of the other.
    events: VecDeque<(u64, ArchivedEvent)>,
    logs: VecDeque<(u64, ArchivedEvent)>,
    next_place: u64,
    loads: Loads,
    archive: Archive,
    /// Those that wait in `refused` included: so a broker that takes nothing is not asked more often.
    events_in_flight: usize,
    /// Messages of events that the broker refused, and when each is sent again.
    refused: VecDeque<(Duration, Batch)>,
    /// Messages of events that are sent again at once: their session ended before the confirm.
    again: VecDeque<Batch>,
}

/// The body of a message: envelopes under one routing key.
#[derive(Clone, Debug, Hash)]
pub(super) struct Batch {
    pub(super) routing_key: &'static str,
    pub(super) body: Bytes,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Load {
    events: usize,
    bytes: usize,
}

/// How much waits of what may be left out, and of what may not.
#[derive(Clone, Debug, Default, Hash)]
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
    fn add(&mut self, event: &ArchivedEvent) {
        self.events += 1;
        self.bytes += event.envelope.len();
    }

    fn remove(&mut self, event: &ArchivedEvent) {
        self.events -= 1;
        self.bytes -= event.envelope.len();
    }

    fn is_above(self, bound: Self) -> bool {
        self.events > bound.events || self.bytes > bound.bytes
    }
}

impl Batch {
    pub(super) fn message_type(&self) -> &'static str {
        if self.routing_key == LOGS_KEY { Progress::TYPE } else { self.routing_key }
    }
}

impl Outbox {
    /// An outcome or a hand-back: leaves with the next messages, or not at all.
    pub(super) fn outcome(
        &mut self,
        message: WorkerMessage<'_>,
        trace: Trace<'_>,
        wire: &mut impl Wire,
        now: Timestamp,
    ) {
        if self.outcomes.len() < OUTCOMES_MAX {
            self.outcomes.push_back((message.message_type(), wire.write(message, trace, now)));
        }
    }

    pub(super) fn status_changed(&mut self, report: &Traced<StatusChanged>, wire: &mut impl Wire, now: Timestamp) {
        let envelope = wire.write(WorkerMessage::StatusChanged(&report.message), Trace::of(report), now);
        let event = ArchivedEvent { weight: Weight::News, routing_key: StatusChanged::TYPE, envelope };
        if let Some(sequence) = report.message.sequence {
            self.archive.keep(report.message.key(), sequence, event.clone());
        }
        self.loads.of(event.weight).add(&event);
        self.first_events.push_back(event);
    }

    pub(super) fn progress(&mut self, report: &Traced<Progress>, wire: &mut impl Wire, now: Timestamp) {
        let weight = match &report.message.event {
            Event::Progress(report) if report.level == Level::Info && report.message.is_none() => Weight::Plain,
            Event::Log { stream: Stream::Stdout | Stream::Stderr, .. } => Weight::Output,
            Event::Log { stream: Stream::Notice, .. } => Weight::News,
            Event::Progress(_) | Event::Started {} | Event::Finished { .. } | Event::Gap { .. } => Weight::News,
        };
        let routing_key = match &report.message.event {
            Event::Log { .. } => LOGS_KEY,
            Event::Progress(_) | Event::Started {} | Event::Finished { .. } | Event::Gap { .. } => Progress::TYPE,
        };
        let envelope = wire.write(WorkerMessage::Progress(&report.message), Trace::of(report), now);
        let event = ArchivedEvent { weight, routing_key, envelope };
        let key = report.message.key();
        self.archive.keep(key, report.message.sequence, event.clone());
        if let Event::Finished { .. } = report.message.event {
            self.archive.close(key);
        }
        self.event(event);
    }

    /// Sends the events of an attempt again that are numbered from `first` to `last`; of those that can't be had, how many
    /// they are.
    pub(super) fn resend(
        &mut self,
        key: AttemptKey,
        (first, last): (u64, Option<u64>),
        action_ref: &ActionRef,
        wire: &mut impl Wire,
        now: Timestamp,
    ) {
        let Range { before, events, after } = self.archive.range(key, first, last);
        let mut gap = |outbox: &mut Self, (sequence, count): (u64, u64)| {
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
            let envelope = wire.write(WorkerMessage::Progress(&message), Trace::default(), now);
            outbox.event(ArchivedEvent { weight: Weight::News, routing_key: Progress::TYPE, envelope });
        };
        if let Some(lost) = before {
            gap(self, lost);
        }
        // The executor asks again for what it misses, so these may be left out.
        for event in events {
            let weight = event.weight.min(Weight::Output);
            self.event(ArchivedEvent { weight, ..event });
        }
        if let Some(lost) = after {
            gap(self, lost);
        }
    }

    /// Outcomes can't leave now: they are reported again in time.
    pub(super) fn drop_outcomes(&mut self) {
        self.outcomes.clear();
    }

    /// The next message of outcomes or hand-backs, if one more may be on its way.
    pub(super) fn next_outcomes(&mut self, sizes: Sizes) -> Option<Batch> {
        if self.outcomes_in_flight >= OUTCOMES_IN_FLIGHT_MAX {
            return None;
        }
        let next = next_array(
            &mut self.outcomes,
            sizes,
            |(message_type, _)| message_type,
            |(_, envelope)| envelope.len(),
            |(_, envelope)| envelope,
        )?;
        self.outcomes_in_flight += 1;
        Some(next)
    }

    /// The next message of events, if one more may be on its way.
    pub(super) fn next_events(&mut self, sizes: Sizes) -> Option<Batch> {
        if self.events_in_flight >= EVENTS_IN_FLIGHT_MAX {
            return None;
        }
        let next = self.again.pop_front().or_else(|| self.new_events(sizes))?;
        self.events_in_flight += 1;
        Some(next)
    }

    /// A message of outcomes is not on its way any more. Whether it arrived is known by `recorded`.
    pub(super) fn outcomes_confirmed(&mut self) {
        self.outcomes_in_flight -= 1;
    }

    /// A message of events has arrived, or is of no use: a gap is missed, asked for and given up by the executor.
    pub(super) fn events_confirmed(&mut self) {
        self.events_in_flight -= 1;
    }

    /// The session of a message of events ended before its confirm.
    pub(super) fn events_lost(&mut self, events: Batch) {
        self.events_in_flight -= 1;
        self.again.push_back(events);
    }

    /// The broker refused a message of events.
    pub(super) fn events_refused(&mut self, events: Batch, now: Duration) {
        self.refused.push_back((now + REFUSED_WAIT, events));
    }

    /// When one that was refused is sent again.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.refused.front().map(|(at, _)| *at)
    }

    pub(super) fn tick(&mut self, now: Duration) {
        while let Some((_, events)) = self.refused.pop_front_if(|(at, _)| *at <= now) {
            self.events_lost(events);
        }
    }

    /// Whether so much waits that nothing is to be added but what must be. It lasts until half of it is sent, which is
    /// why it matters whether it was so before.
    pub(super) fn is_congested(&self, was_congested: bool) -> bool {
        self.loads.news.is_above(if was_congested { NEWS_LOW } else { NEWS_MAX })
    }

    fn new_events(&mut self, sizes: Sizes) -> Option<Batch> {
        let Self { first_events, events, logs, loads, .. } = self;
        let mut leave = |event: ArchivedEvent| {
            loads.of(event.weight).remove(&event);
            event.envelope
        };
        if !first_events.is_empty() {
            return next_array(first_events, sizes, |event| event.routing_key, |event| event.envelope.len(), leave);
        }
        let queue = match (events.front(), logs.front()) {
            (Some((event, _)), Some((log, _))) if log < event => logs,
            (None, Some(_)) => logs,
            (Some(_), _) | (None, None) => events,
        };
        next_array(
            queue,
            sizes,
            |(_, event)| event.routing_key,
            |(_, event)| event.envelope.len(),
            |(_, event)| leave(event),
        )
    }

    fn event(&mut self, event: ArchivedEvent) {
        self.loads.of(event.weight).add(&event);
        self.next_place += 1;
        let queue = if event.routing_key == LOGS_KEY { &mut self.logs } else { &mut self.events };
        queue.push_back((self.next_place, event));
        let Self { events, logs, loads: Loads { lossy, .. }, .. } = self;
        if lossy.is_above(LOSSY) {
            let mut leave_out = |queue: &mut VecDeque<(u64, ArchivedEvent)>, weight| {
                queue.retain(|(_, event)| {
                    let goes = event.weight == weight && lossy.is_above(LOSSY_KEPT);
                    if goes {
                        lossy.remove(event);
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
}

/// The body of one message from the front of a queue: envelopes under one routing key, within the bounds.
fn next_array<T>(
    queue: &mut VecDeque<T>,
    sizes: Sizes,
    routing_key: impl Fn(&T) -> &'static str,
    bytes: impl Fn(&T) -> usize,
    mut envelope: impl FnMut(T) -> Bytes,
) -> Option<Batch> {
    let first = routing_key(queue.front()?);
    let mut body = Body::with_room(queue.len().min(Body::MEMBERS_MAX));
    while let Some(next) = queue.pop_front_if(|next| routing_key(next) == first && sizes.fits(&body, bytes(next))) {
        body.push(&envelope(next));
    }
    Some(Batch { routing_key: first, body: body.finish() })
}

#[cfg(test)]
mod tests;
