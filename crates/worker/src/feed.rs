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

/// Who is told at once that an attempt has ended: the next in line may be waiting for it.
pub(crate) trait Listener: Send + Sync {
    /// Nothing of the attempt is left.
    fn ended(&self, feed: &Feed, ending: Ending);
}

/// The attempt's end of the line.
pub(crate) struct Feed {
    pub(crate) key: AttemptKey,
    waiting: Mutex<Waiting>,
    listener: Arc<dyn Listener>,
    /// Where it says that there is something to take. Bounded without being so: it says it once until it is taken.
    announcements: mpsc::UnboundedSender<Arc<Feed>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// When its process or handler really started, until that is taken.
    started_at: Option<Now>,
    items: VecDeque<Told>,
    /// The loop was told, and has not come yet.
    is_announced: bool,
}

impl Feed {
    pub(crate) fn new(
        key: AttemptKey,
        listener: Arc<dyn Listener>,
        announcements: mpsc::UnboundedSender<Arc<Self>>,
    ) -> Arc<Self> {
        Arc::new(Self { key, waiting: Mutex::default(), listener, announcements })
    }

    pub(crate) fn started(self: &Arc<Self>, at: Now) {
        let mut waiting = self.lock();
        waiting.started_at = Some(at);
        self.announce(&mut waiting);
    }

    pub(crate) fn tell(self: &Arc<Self>, told: Told) {
        let told = match told {
            Told::Progress(report) => Told::Progress(clipped(report)),
            log @ Told::Log { .. } => log,
        };
        let mut waiting = self.lock();
        waiting.push(told);
        self.announce(&mut waiting);
    }

    /// The last word: whatever was told before is taken up first.
    pub(crate) fn ended(&self, ending: Ending) {
        self.listener.ended(self, ending);
    }

    fn announce(self: &Arc<Self>, waiting: &mut Waiting) {
        if !mem::replace(&mut waiting.is_announced, true) {
            // Without a loop there is nobody to tell, and that is no matter of the attempt's.
            let _ = self.announcements.send(self.clone());
        }
    }

    /// All that waits: that it started, and then what it told, oldest first.
    pub(crate) fn take(&self) -> (Option<Now>, VecDeque<Told>) {
        let mut waiting = self.lock();
        waiting.is_announced = false;
        (waiting.started_at.take(), mem::take(&mut waiting.items))
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

    struct Nobody;

    impl Listener for Nobody {
        fn ended(&self, _: &Feed, _: Ending) {}
    }

    fn feed() -> (Arc<Feed>, mpsc::UnboundedReceiver<Arc<Feed>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Feed::new((ExecutionId(1), 1), Arc::new(Nobody), sender), receiver)
    }

    fn units(done: u64) -> Told {
        Told::Progress(Report { progress: Some((done, None)), ..Report::default() })
    }

    fn say(level: Level, message: String) -> Told {
        Told::Progress(Report { level, message: Some(message), ..Report::default() })
    }

    #[test]
    fn a_flood_of_numbers_is_one_item_and_one_announcement() {
        let (feed, mut announced) = feed();
        for done in 0..100_000 {
            feed.tell(units(done));
        }
        assert_eq!(feed.take().1, [units(99_999)]);
        assert!(announced.try_recv().is_ok() && announced.try_recv().is_err());
        feed.tell(units(1));
        assert!(announced.try_recv().is_ok(), "announced again once taken");
    }

    #[test]
    fn when_there_is_no_room_errors_outlive_any_number_of_messages() {
        let (feed, _announced) = feed();
        feed.tell(say(Level::Error, "the error".to_owned()));
        for i in 0..10_000 {
            feed.tell(say(Level::Info, format!("message {i}")));
        }
        let (_, items) = feed.take();
        assert_eq!(items.len(), WAITING_MAX);
        assert_eq!(items.front(), Some(&say(Level::Error, "the error".to_owned())));
        assert_eq!(items.back(), Some(&say(Level::Info, "message 9999".to_owned())));
    }

    #[test]
    fn a_message_of_ten_megabytes_is_clipped_at_a_character() {
        let (feed, _announced) = feed();
        feed.tell(say(Level::Info, "ä".repeat(5 << 20)));
        let Some(Told::Progress(report)) = feed.take().1.pop_front() else { panic!("a report was told") };
        let message = report.message.expect("it has a message");
        assert!(message.len() <= MESSAGE_BYTES_MAX + 3 && message.ends_with('…'));
    }
}
