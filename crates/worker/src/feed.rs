//! What one attempt tells of itself, on its way to the duty book: bounded, never blocking, never failing.
//!
//! While the book has not come round, numbers are merged into the newest. When there is no room, the oldest plain
//! progress goes first; a message or error only ever gives way to a newer one of its level.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slotline_protocol::message::{AttemptKey, Level, Report};
use tokio::sync::mpsc;

use crate::duty::{Ending, Now, Told};
use crate::limit;

/// The most that waits of one attempt.
const WAITING_MAX: usize = 256;
/// The longest message, phase or unit of a report; what is longer is clipped.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The largest `data` of a report, as JSON; what is larger is left out.
const DATA_BYTES_MAX: usize = 64 << 10;

/// What reaches the loop from attempts. Bounded without being so: an attempt starts and ends once, and is `Told` of at
/// most once until that is taken up.
#[derive(Debug)]
pub(crate) enum Happening {
    Started { key: AttemptKey, at: Now },
    Told(Arc<Feed>),
    Ended { feed: Arc<Feed>, ending: Ending },
}

#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) key: AttemptKey,
    happenings: mpsc::UnboundedSender<Happening>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Told>,
    /// The loop was told, and has not come yet.
    is_announced: bool,
}

impl Feed {
    pub(crate) fn new(key: AttemptKey, happenings: mpsc::UnboundedSender<Happening>) -> Arc<Self> {
        Arc::new(Self { key, happenings, waiting: Mutex::default() })
    }

    pub(crate) fn started(&self, at: Now) {
        // Without a loop there is nobody to tell, and that is no matter of the attempt's.
        let _ = self.happenings.send(Happening::Started { key: self.key, at });
    }

    pub(crate) fn tell(self: &Arc<Self>, told: Told) {
        let told = match told {
            Told::Progress(report) => Told::Progress(clipped(report)),
            log @ Told::Log { .. } => log,
        };
        let mut waiting = self.lock();
        waiting.push(told);
        if !mem::replace(&mut waiting.is_announced, true) {
            let _ = self.happenings.send(Happening::Told(self.clone()));
        }
    }

    pub(crate) fn ended(self: Arc<Self>, ending: Ending) {
        let _ = self.happenings.clone().send(Happening::Ended { feed: self, ending });
    }

    /// All that waits, oldest first.
    pub(crate) fn take(&self) -> VecDeque<Told> {
        let mut waiting = self.lock();
        waiting.is_announced = false;
        mem::take(&mut waiting.items)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under this lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, told: Told) {
        if let (Told::Progress(report), Some(Told::Progress(last))) = (&told, self.items.back_mut())
            && is_plain(report)
            && is_plain(last)
        {
            *last = report.clone();
            return;
        }
        if self.items.len() >= WAITING_MAX {
            let level = |item: &Told| if let Told::Progress(report) = item { Some(report.level) } else { None };
            let plain = self.items.iter().position(|item| matches!(item, Told::Progress(r) if is_plain(r)));
            let same = || self.items.iter().position(|item| level(item) == level(&told));
            match plain.or_else(same) {
                Some(index) => drop(self.items.remove(index)),
                None => drop(self.items.pop_front()),
            }
        }
        self.items.push_back(told);
    }
}

/// Numbers only: the next one says it all.
fn is_plain(report: &Report) -> bool {
    report.level == Level::Info && report.message.is_none() && report.phase.is_none() && report.step.is_none()
}

fn clipped(mut report: Report) -> Report {
    for text in [&mut report.message, &mut report.phase, &mut report.unit].into_iter().flatten() {
        clip(text, MESSAGE_BYTES_MAX);
    }
    report.data = report.data.filter(|data| {
        let text = data.to_string();
        text.len() <= DATA_BYTES_MAX && limit::depth(&text) <= limit::RESULT_DEPTH_MAX
    });
    report
}

/// Cuts at a character, and marks the cut.
pub(crate) fn clip(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotline_protocol::ExecutionId;

    fn feed() -> (Arc<Feed>, mpsc::UnboundedReceiver<Happening>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Feed::new((ExecutionId(1), 1), sender), receiver)
    }

    fn units(done: u64) -> Told {
        Told::Progress(Report { progress: Some((done, None)), ..Report::default() })
    }

    fn say(level: Level, message: String) -> Told {
        Told::Progress(Report { level, message: Some(message), ..Report::default() })
    }

    #[test]
    fn a_flood_of_numbers_is_one_item_and_one_announcement() {
        let (feed, mut happenings) = feed();
        for done in 0..100_000 {
            feed.tell(units(done));
        }
        assert_eq!(feed.take(), [units(99_999)]);
        assert!(happenings.try_recv().is_ok() && happenings.try_recv().is_err());
        feed.tell(units(1));
        assert!(happenings.try_recv().is_ok(), "announced again once taken");
    }

    #[test]
    fn when_there_is_no_room_errors_outlive_any_number_of_messages() {
        let (feed, _happenings) = feed();
        feed.tell(say(Level::Error, "the error".to_owned()));
        for i in 0..10_000 {
            feed.tell(say(Level::Info, format!("message {i}")));
        }
        let items = feed.take();
        assert_eq!(items.len(), WAITING_MAX);
        assert_eq!(items.front(), Some(&say(Level::Error, "the error".to_owned())));
        assert_eq!(items.back(), Some(&say(Level::Info, "message 9999".to_owned())));
    }

    #[test]
    fn a_message_of_ten_megabytes_is_clipped_at_a_character() {
        let (feed, _happenings) = feed();
        feed.tell(say(Level::Info, "ä".repeat(5 << 20)));
        let Some(Told::Progress(report)) = feed.take().pop_front() else { panic!("a report was told") };
        let message = report.message.expect("it has a message");
        assert!(message.len() <= MESSAGE_BYTES_MAX + 3 && message.ends_with('…'));
    }
}
