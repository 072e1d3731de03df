//! What one attempt reports, on its way to the duty book: bounded, never blocking, never failing.
//!
//! Until the loop takes the waiting reports, those without anything new are merged into the newest. When there is no
//! room, the oldest plain progress goes first; then the oldest message is merged into the next one of its level, and
//! the duty book gets the number of dropped entries. Not here: what makes no sense (`check`), and how much is sent in
//! the end (`duty`).

mod waiting;

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Report, Stream};
use tokio::sync::mpsc;

use super::check;
use super::phases::{DeclaredPhases, Warned};
use crate::duty::{AttemptOutput, Ending, Now, Shortage};
use waiting::Waiting;

/// The most warnings about what one attempt reports; the last states that further ones are left out.
pub(crate) const NOTICES_MAX: u32 = 20;

/// Takes the end of an attempt at once: the next one of its line may be waiting for it.
pub(crate) trait Listener: Send + Sync {
    /// Nothing of the attempt is left.
    fn ended(&self, feed: &AttemptFeed, ending: Ending);
    /// The attempt never started: the worker is short of something.
    fn unstarted(&self, feed: &AttemptFeed, shortage: Shortage);
}

/// The attempt's end of the way to the duty book.
pub(crate) struct AttemptFeed {
    pub(crate) key: AttemptKey,
    waiting: Mutex<Waiting>,
    /// When the loop took from it last, in microseconds since boot; 0 before.
    looked_at: AtomicU64,
    phases: Arc<DeclaredPhases>,
    /// The phases that are not declared, as far as this attempt has named them.
    warned: Warned,
    /// Warnings given so far, those left out included.
    notices: AtomicU32,
    listener: Arc<dyn Listener>,
    /// To the loop: this feed has something to take. The channel needs no bound: a feed is in it once until it is taken
    /// from.
    announcements: mpsc::UnboundedSender<Arc<AttemptFeed>>,
}

impl AttemptFeed {
    pub(crate) fn new(
        key: AttemptKey,
        phases: Arc<DeclaredPhases>,
        listener: Arc<dyn Listener>,
        announcements: mpsc::UnboundedSender<Arc<Self>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            waiting: Mutex::default(),
            looked_at: AtomicU64::new(0),
            phases,
            warned: Warned::default(),
            notices: AtomicU32::new(0),
            listener,
            announcements,
        })
    }

    pub(crate) fn started(self: &Arc<Self>, at: Now) {
        let mut waiting = self.lock();
        waiting.started_at = Some(at);
        self.announce(&mut waiting);
    }

    /// Takes a report from a handler.
    pub(crate) fn report(self: &Arc<Self>, report: Report) {
        let report = check::checked(report, &mut |warning| self.notice(warning));
        self.take_report(report);
    }

    /// Takes a line from a command.
    pub(crate) fn line(self: &Arc<Self>, line: &[u8]) {
        if let Some(report) = check::read(line, &mut |warning| self.notice(warning)) {
            self.take_report(report);
        }
    }

    fn take_report(self: &Arc<Self>, report: Report) {
        if let Some(phase) = &report.phase
            && self.phases.lack(phase)
            && self.warned.is_first(phase)
        {
            let warning = self.phases.warning(phase);
            if self.phases.is_first(phase) {
                tracing::warn!(execution.id = %self.key.0, "{warning}");
            }
            self.notice(warning);
        }
        self.push(AttemptOutput::Progress(report));
    }

    /// Takes what a command printed.
    pub(crate) fn log(self: &Arc<Self>, stream: Stream, lines: Vec<String>) {
        self.push(AttemptOutput::Log { stream, lines });
    }

    /// Writes a warning about the attempt's own reports into its log.
    pub(crate) fn notice(self: &Arc<Self>, warning: String) {
        // Never wraps to 0: no attempt causes that many warnings.
        let before = self.notices.fetch_add(1, Ordering::Relaxed);
        let line = match before + 1 {
            NOTICES_MAX => "further warnings about what this attempt reports are left out".to_owned(),
            count if count < NOTICES_MAX => warning,
            _ => {
                self.notices.store(NOTICES_MAX, Ordering::Relaxed);
                return;
            }
        };
        self.push(AttemptOutput::Log { stream: Stream::Notice, lines: vec![line] });
    }

    /// The end of the attempt; what waits in the feed is taken before it.
    pub(crate) fn ended(&self, ending: Ending) {
        self.listener.ended(self, ending);
    }

    /// The end of an attempt that could not be started.
    pub(crate) fn unstarted(&self, shortage: Shortage) {
        self.listener.unstarted(self, shortage);
    }

    fn push(self: &Arc<Self>, told: AttemptOutput) {
        let mut waiting = self.lock();
        waiting.push(told);
        self.announce(&mut waiting);
    }

    fn announce(self: &Arc<Self>, waiting: &mut Waiting) {
        if !mem::replace(&mut waiting.is_announced, true) {
            // Without a loop there is no receiver, which is no concern of the attempt.
            let _ = self.announcements.send(self.clone());
        }
    }

    /// All that waits: the start of the attempt, and then its reports, oldest first.
    pub(crate) fn take(&self) -> (Option<Now>, VecDeque<AttemptOutput>) {
        let mut waiting = self.lock();
        waiting.is_announced = false;
        (waiting.started_at.take(), waiting.take())
    }

    /// When the loop took from it last, as far as [`Self::note_look`] was called.
    pub(crate) fn looked_at(&self) -> Option<Duration> {
        Some(self.looked_at.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Duration::from_micros)
    }

    pub(crate) fn note_look(&self, now: Duration) {
        self.looked_at.store(u64::try_from(now.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under this lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::waiting::WAITING_MAX;
    use super::*;
    use crate::duty::Phase;
    use slotline_protocol::ExecutionId;
    use slotline_protocol::message::Level;

    struct Nobody;

    impl Listener for Nobody {
        fn ended(&self, _: &AttemptFeed, _: Ending) {}
        fn unstarted(&self, _: &AttemptFeed, _: Shortage) {}
    }

    fn feed() -> (Arc<AttemptFeed>, mpsc::UnboundedReceiver<Arc<AttemptFeed>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let phases = Arc::new(DeclaredPhases::new(&[Phase::new("copy", 1)]));
        (AttemptFeed::new((ExecutionId(1), 1), phases, Arc::new(Nobody), sender), receiver)
    }

    fn units(done: u64) -> Report {
        Report { progress: Some((done, None)), ..Report::default() }
    }

    fn say(level: Level, message: String) -> Report {
        Report { level, message: Some(message), ..Report::default() }
    }

    fn told(report: Report) -> AttemptOutput {
        AttemptOutput::Progress(report)
    }

    #[test]
    fn a_flood_of_numbers_is_one_item_and_one_announcement() {
        let (feed, mut announced) = feed();
        for done in 0..100_000 {
            feed.report(units(done));
        }
        assert_eq!(feed.take().1, [told(units(99_999))]);
        assert!(announced.try_recv().is_ok() && announced.try_recv().is_err());
        feed.report(units(1));
        assert!(announced.try_recv().is_ok(), "announced again once taken");
    }

    #[test]
    fn when_there_is_no_room_errors_outlive_any_number_of_messages() {
        let (feed, _announced) = feed();
        feed.report(say(Level::Error, "the error".to_owned()));
        for i in 0..10_000 {
            feed.report(say(Level::Info, format!("message {i}")));
        }
        let (_, items) = feed.take();
        assert_eq!(items.len(), WAITING_MAX + 1);
        assert_eq!(items[0], AttemptOutput::Gap { count: 10_001 - WAITING_MAX as u64 });
        assert_eq!(items[1], told(say(Level::Error, "the error".to_owned())));
        assert_eq!(items.back(), Some(&told(say(Level::Info, "message 9999".to_owned()))));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_last_phase_is_known_all_the_same() {
        let (feed, _announced) = feed();
        feed.report(Report { phase: Some("copy".to_owned()), ..Report::default() });
        for i in 0..WAITING_MAX {
            feed.report(say(Level::Info, format!("message {i}")));
        }
        let (_, mut items) = feed.take();
        assert_eq!(items.len(), WAITING_MAX, "a phase and a message are told as one, so nothing is missed");
        let Some(AttemptOutput::Progress(first)) = items.pop_front() else { panic!("a report was told") };
        assert_eq!((first.phase.as_deref(), first.message.as_deref()), (Some("copy"), Some("message 0")));
        for i in 0..=WAITING_MAX {
            feed.report(say(Level::Info, format!("message {i}")));
        }
        let (_, items) = feed.take();
        assert_eq!(items.front(), Some(&AttemptOutput::Gap { count: 1 }));
        assert_eq!(items.back(), Some(&told(say(Level::Info, format!("message {WAITING_MAX}")))));
    }

    #[test]
    fn plain_progress_goes_first_and_is_not_counted() {
        let (feed, _announced) = feed();
        feed.report(say(Level::Error, "the error".to_owned()));
        feed.report(units(1));
        for i in 0..WAITING_MAX - 2 {
            feed.report(say(Level::Error, format!("error {i}")));
        }
        feed.report(say(Level::Error, "the last".to_owned()));
        let (_, items) = feed.take();
        assert_eq!((items.len(), items.front()), (WAITING_MAX, Some(&told(say(Level::Error, "the error".to_owned())))));
        assert!(!items.contains(&told(units(1))));
    }

    #[test]
    fn output_is_not_pushed_out_by_any_number_of_messages() {
        let (feed, _announced) = feed();
        let line = |text: &str| AttemptOutput::Log { stream: Stream::Stdout, lines: vec![text.to_owned()] };
        feed.log(Stream::Stdout, vec!["first".to_owned()]);
        for i in 0..10_000 {
            feed.report(say(Level::Info, format!("message {i}")));
        }
        feed.log(Stream::Stdout, vec!["last".to_owned()]);
        let (_, items) = feed.take();
        assert_eq!((items.get(1), items.back()), (Some(&line("first")), Some(&line("last"))));
    }

    #[test]
    fn the_twentieth_warning_is_the_last_and_says_so() {
        let (feed, _announced) = feed();
        for _ in 0..100 {
            feed.line(b"nonsense");
        }
        let (_, items) = feed.take();
        assert_eq!(u32::try_from(items.len()), Ok(NOTICES_MAX));
        assert!(items.iter().all(|item| matches!(item, AttemptOutput::Log { stream: Stream::Notice, .. })));
        let Some(AttemptOutput::Log { lines, .. }) = items.back() else { panic!("a warning") };
        assert!(lines[0].contains("further warnings"), "{lines:?}");
    }

    #[test]
    fn a_report_that_is_clipped_is_told_with_a_warning() {
        let (feed, _announced) = feed();
        feed.report(Report { step: Some((9, 7)), ..Report::default() });
        let (_, items) = feed.take();
        assert!(matches!(&items[0], AttemptOutput::Log { stream: Stream::Notice, .. }), "{items:?}");
        assert_eq!(items[1], told(Report { step: Some((7, 7)), ..Report::default() }));
    }

    #[test]
    fn a_phase_that_is_not_declared_is_taken_with_one_warning_however_often_it_is_named() {
        let (feed, _announced) = feed();
        for phase in ["copi", "copy", "copi", "check"] {
            feed.line(format!("{{\"phase\": \"{phase}\"}}").as_bytes());
            feed.report(Report { phase: Some(phase.to_owned()), ..Report::default() });
        }
        let (mut warnings, mut phases) = (Vec::new(), Vec::new());
        for item in feed.take().1 {
            match item {
                AttemptOutput::Log { stream: Stream::Notice, lines } => warnings.extend(lines),
                AttemptOutput::Progress(report) => phases.extend(report.phase),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("declared are copy: did you mean `copy`?"), "{warnings:?}");
        assert!(warnings[1].starts_with("phase check is not declared"), "{warnings:?}");
        assert_eq!(phases, ["copi", "copy", "copi", "check"], "taken all the same");
    }
}
