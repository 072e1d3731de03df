//! The events of one attempt, brought into the order in which its worker numbered them.

use std::collections::BTreeMap;

use slotline_protocol::message::GapReason;
use slotline_protocol::{ActionRef, ExecutionId, Fence, Incarnation, Timestamp, WorkerName};
use slotline_scheduler::Lease;

use super::word::{ASKS_MAX, AttemptEventKind, EARLY_MAX, End, MissingEvents};

/// An attempt that is out, or whose last events are awaited.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The number of its grant.
    pub(super) number: u32,
    /// As people count attempts.
    pub(super) counts_as: u32,
    pub(super) fence: Fence,
    pub(super) incarnation: Incarnation,
    pub(super) worker: WorkerName,
    /// The number of the last event taken.
    pub(super) sequence: u64,
    /// Events that came before one that must be taken first.
    early: BTreeMap<u64, (Timestamp, AttemptEventKind)>,
    /// How it ended, by its worker's report.
    pub(super) end: Option<End>,
    /// Whether it is known to have begun.
    pub(super) has_started: bool,
    /// How often missing events were to be resent, and up to which number.
    asked: (u32, u64),
}

impl Attempt {
    pub(super) fn new(number: u32, counts_as: u32, lease: &Lease) -> Self {
        Self {
            number,
            counts_as,
            fence: lease.fence,
            incarnation: lease.incarnation,
            worker: lease.worker.clone(),
            sequence: 0,
            early: BTreeMap::new(),
            end: None,
            has_started: false,
            asked: (0, 0),
        }
    }

    /// Keeps an event until its turn. An event that was taken before, or has no room, is dropped.
    pub(super) fn keep(&mut self, sequence: u64, at: Timestamp, said: AttemptEventKind) {
        if sequence > self.sequence && (sequence - self.sequence == 1 || self.early.len() < EARLY_MAX) {
            self.early.entry(sequence).or_insert((at, said));
        }
    }

    /// The next event whose turn has come.
    pub(super) fn next(&mut self) -> Option<(Timestamp, AttemptEventKind)> {
        let entry = self.early.first_entry()?;
        if *entry.key() - self.sequence > 1 {
            return None;
        }
        let (at, said) = entry.remove();
        let told = match &said {
            // The gap stands for all of them.
            AttemptEventKind::Gap { count, reason: GapReason::Lost } => (*count).max(1),
            _ => 1,
        };
        // A number from a stranger must not wrap around.
        self.sequence = self.sequence.saturating_add(told);
        // Events that the gap stands for may have come after all, too late for their place.
        while let Some(entry) = self.early.first_entry().filter(|entry| *entry.key() <= self.sequence) {
            entry.remove();
        }
        Some((at, said))
    }

    /// The last number that is known to exist.
    fn last_known(&self) -> u64 {
        let end = self.end.as_ref().map_or(0, |end| end.last_sequence);
        self.early.last_key_value().map_or(0, |(last, _)| *last).max(end)
    }

    /// The first hole: `(first, last)` of the numbers that are known to exist and did not arrive.
    pub(super) fn hole(&self) -> Option<(u64, u64)> {
        if self.last_known() <= self.sequence {
            return None;
        }
        let first = self.sequence + 1;
        let last = self.early.first_key_value().map_or_else(|| self.last_known(), |(next, _)| next - 1);
        (first <= last).then_some((first, last))
    }

    /// What its worker is to be asked for now; `None` if it was asked often enough.
    pub(super) fn ask(&mut self, id: ExecutionId, action_ref: &ActionRef) -> Option<MissingEvents> {
        let (first, _) = self.hole()?;
        let last = self.last_known();
        let (times, up_to) = self.asked;
        if times >= ASKS_MAX && first <= up_to {
            return None;
        }
        self.asked = if times >= ASKS_MAX { (1, last) } else { (times + 1, last) };
        Some(MissingEvents { last: Some(last), ..self.rest(id, action_ref) })
    }

    /// The next hole whose resends came to nothing.
    pub(super) fn vain(&self) -> Option<(u64, u64)> {
        let (_, up_to) = self.asked;
        self.hole().filter(|(first, _)| *first <= up_to).map(|(first, last)| (first, last.min(up_to)))
    }

    /// All that follows the last event taken.
    pub(super) fn rest(&self, id: ExecutionId, action_ref: &ActionRef) -> MissingEvents {
        let (incarnation, key, first) = (self.incarnation, (id, self.number), self.sequence.saturating_add(1));
        MissingEvents { incarnation, key, action_ref: action_ref.clone(), first, last: None }
    }

    /// Infers events that need not arrive: an attempt without reports has only events that its completion has as well.
    pub(super) fn infer(&mut self) {
        let Some(end) = &self.end else { return };
        let (at, started_at) = (end.at, end.started_at.unwrap_or(end.at));
        let skeleton: &[(Timestamp, AttemptEventKind)] = match (end.last_sequence, end.started_at) {
            (3, Some(_)) => &[
                (started_at, AttemptEventKind::Running),
                (started_at, AttemptEventKind::Started),
                (at, AttemptEventKind::Finished),
            ],
            (1, None) => &[(at, AttemptEventKind::Finished)],
            _ => return,
        };
        for (sequence, (at, said)) in (1..).zip(skeleton) {
            self.keep(sequence, *at, said.clone());
        }
    }
}
