//! What waits of one attempt: which reports are merged into which, and which goes first when there is no room.

use std::collections::VecDeque;
use std::mem;

use slotline_protocol::message::{Level, Report, Stream};

use crate::duty::{AttemptOutput, Now, absorb, replaces};

/// The most that waits of one attempt.
pub(super) const WAITING_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// When its process or handler really started, until that is taken.
    pub(super) started_at: Option<Now>,
    items: VecDeque<AttemptOutput>,
    /// How many of the items are plain progress, so that a flood of messages does not cause a search for any.
    plain: usize,
    /// How many items were left out for lack of room, plain progress not counted.
    missed: u64,
    /// The loop has an announcement of this feed, and has not taken from it since.
    pub(super) is_announced: bool,
}

impl Waiting {
    /// All that waits, oldest first, after a gap with the number of items that were left out.
    pub(super) fn take(&mut self) -> VecDeque<AttemptOutput> {
        self.plain = 0;
        let count = mem::take(&mut self.missed);
        let mut items = mem::take(&mut self.items);
        if count > 0 {
            items.push_front(AttemptOutput::Gap { count });
        }
        items
    }

    pub(super) fn push(&mut self, mut told: AttemptOutput) {
        if let (AttemptOutput::Progress(report), Some(AttemptOutput::Progress(last))) =
            (&mut told, self.items.back_mut())
            && adds_only_numbers(report, last)
        {
            absorb(report, mem::take(last));
            *last = mem::take(report);
            return;
        }
        if self.items.len() >= WAITING_MAX {
            self.make_room(&mut told);
        }
        self.plain += usize::from(is_plain(&told));
        self.items.push_back(told);
    }

    fn make_room(&mut self, told: &mut AttemptOutput) {
        let level =
            |item: &AttemptOutput| if let AttemptOutput::Progress(report) = item { Some(report.level) } else { None };
        let oldest = |is: &dyn Fn(&AttemptOutput) -> bool| self.items.iter().position(is);
        let index = if self.plain > 0 { oldest(&is_plain) } else { None }
            .or_else(|| oldest(&|item| level(item).is_some() && level(item) == level(told)))
            .or_else(|| oldest(&|item| level(item) == Some(Level::Info)))
            .or_else(|| {
                oldest(&|item| matches!(item, AttemptOutput::Log { stream: Stream::Stdout | Stream::Stderr, .. }))
            })
            .unwrap_or(0);
        let Some(removed) = self.items.remove(index) else { return };
        let was_plain = is_plain(&removed);
        self.plain -= usize::from(was_plain);
        let AttemptOutput::Progress(before) = removed else {
            self.missed += 1;
            return;
        };
        let heir = |item: &AttemptOutput| level(item) == Some(before.level);
        let (next, counts) = match self.items.iter().skip(index).position(heir) {
            Some(behind) => (self.items.get_mut(index + behind), true),
            None => (Some(told), false),
        };
        match next {
            Some(item) if heir(item) => {
                let next_was_plain = is_plain(item);
                if let AttemptOutput::Progress(next) = item {
                    self.missed += u64::from(before.level == Level::Error || replaces(next, &before));
                    absorb(next, before);
                }
                self.plain -= usize::from(counts && next_was_plain && !is_plain(item));
            }
            Some(_) | None => self.missed += u64::from(!was_plain),
        }
    }
}

/// It has numbers only: the next one replaces it.
fn is_plain(told: &AttemptOutput) -> bool {
    let AttemptOutput::Progress(report) = told else { return false };
    let says_nothing_new = report.message.is_none() && report.phase.is_none() && report.step.is_none();
    report.level == Level::Info && says_nothing_new && report.task.is_none()
}

/// Whether a report may replace the one before it: it differs in nothing but numbers.
fn adds_only_numbers(report: &Report, last: &Report) -> bool {
    let repeats = |new: &Option<String>, last: &Option<String>| new.is_none() || new == last;
    report.level == Level::Info
        && last.level == Level::Info
        && report.data.is_none()
        && report.task.is_none()
        && (report.step.is_none() || report.step == last.step)
        && repeats(&report.phase, &last.phase)
        && repeats(&report.message, &last.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_the_count_of_plain_progress_is_true() {
        let mut waiting = Waiting::default();
        for i in 0..10_000_u64 {
            let report = match i * 7919 % 11 {
                0..4 => numbers(i),
                4..7 => say(Level::Info, i),
                7 => Report { phase: Some("copy".to_owned()), ..numbers(i) },
                8 => Report { step: Some((i, 10_000)), ..Report::default() },
                _ => say(Level::Error, i),
            };
            waiting.push(AttemptOutput::Progress(report));
            assert_eq!(waiting.plain, waiting.items.iter().filter(|item| is_plain(item)).count(), "after {i}");
            assert!(waiting.items.len() <= WAITING_MAX);
        }
    }

    fn numbers(done: u64) -> Report {
        Report { progress: Some((done, None)), ..Report::default() }
    }

    fn say(level: Level, i: u64) -> Report {
        Report { level, message: Some(format!("message {i}")), ..Report::default() }
    }
}
