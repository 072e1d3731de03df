//! The routing keys of public events, and which of them have subscribers.

use std::sync::Arc;

use slotline_broker::topology::LOGS_KEY;
use slotline_protocol::message::Message;
use slotline_protocol::public;
use slotline_protocol::record::{Event, What};
use slotline_store::EventRange;

use crate::config::Public;

/// A routing key of the public exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventKey {
    StatusChanged,
    Completed,
    Progress,
    Log,
}

pub(crate) const KEYS: [EventKey; 4] =
    [EventKey::StatusChanged, EventKey::Completed, EventKey::Progress, EventKey::Log];

impl EventKey {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::StatusChanged => public::StatusChanged::TYPE,
            Self::Completed => public::Completed::TYPE,
            Self::Progress => Event::TYPE,
            Self::Log => LOGS_KEY,
        }
    }

    /// The keys under which an event is published.
    pub(crate) fn of(event: &Event) -> &'static [Self] {
        match &event.what {
            What::Status { .. } => &[Self::StatusChanged],
            What::Settled { .. } => &[Self::StatusChanged, Self::Completed],
            What::Log { .. } => &[Self::Log],
            What::Started | What::Progress(_) | What::Gap { .. } | What::Finished { .. } => &[Self::Progress],
        }
    }

    /// Whether the operator lets it be published.
    pub(crate) fn is_in(self, public: Public) -> bool {
        match self {
            Self::StatusChanged => public.statuses,
            Self::Completed => public.results,
            Self::Progress => public.progress,
            Self::Log => public.logs,
        }
    }
}

/// Routing keys that have a subscriber, or may have one: each is a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribedKeys(u8);

impl SubscribedKeys {
    pub(crate) fn of(keys: impl Iterator<Item = EventKey>) -> Self {
        Self(keys.fold(0, |bits, key| bits | 1 << key as u8))
    }

    /// Whether an event is published under one of them.
    pub(crate) fn takes(self, event: &Event) -> bool {
        EventKey::of(event).iter().any(|key| self.0 & 1 << *key as u8 != 0)
    }
}

/// Which of `told` the journal has to note with the batch that is being cut.
pub(crate) fn ranges_heard(told: &[Arc<Event>], heard: SubscribedKeys) -> Vec<EventRange> {
    ranges(told.iter().filter(|event| heard.takes(event)))
}

/// The events of each execution as one range.
pub(crate) fn ranges<'e>(told: impl Iterator<Item = &'e Arc<Event>>) -> Vec<EventRange> {
    let mut numbers: Vec<_> = told.map(|event| (event.execution_id, event.number)).collect();
    numbers.sort_unstable();
    let mut ranges: Vec<EventRange> = Vec::new();
    for (id, number) in numbers {
        match ranges.last_mut() {
            Some(range) if range.id == id => range.last = number,
            _ => ranges.push(EventRange { id, first: number, last: number }),
        }
    }
    ranges
}
