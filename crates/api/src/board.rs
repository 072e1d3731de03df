//! The lines as the leader last saw them, for the clients that look: what changed comes in, views go out.
//!
//! The leader looks at its lines only while some board is watched. A reader gets a whole view and never waits for the
//! leader's loop. Not here: how views are sorted and cut into pages (`view`).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotline_protocol::lines::{LineRow, Rates, Totals, ViewPart};
use slotline_protocol::{ActionRef, Epoch, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::view::LinesView;

/// A board is watched for so long after a single look.
const WATCHED_AFTER_LOOK: Duration = Duration::from_secs(10);
/// A view is as good as new for so long: the leader looks once a second.
const FRESH_FOR: Duration = Duration::from_secs(3);
/// How long a look waits for a first view, or a new one.
const VIEW_WITHIN: Duration = Duration::from_secs(3);
/// The time between two samples of a line.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// A line's newest samples are kept: ten minutes of them.
const SAMPLES_MAX: usize = 60;
/// The first lines by name have samples; later ones have none.
const SAMPLED_LINES_MAX: usize = 10_000;
/// Rates are over this time at most, and not over less than a sample's.
const RATES_OVER: Duration = Duration::from_secs(120);

/// A round of looking: every second the leader goes through all lines once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub epoch: Epoch,
    pub number: u64,
}

/// What the clients of this process can see of lines.
pub struct Board {
    received: Mutex<Received>,
    shown: watch::Sender<Arc<LinesView>>,
    /// Streams.
    viewers: AtomicUsize,
    /// Until when a single look counts, in ms since `began`; 0 for never.
    looked_until: AtomicU64,
    began: Instant,
    wanted: Notify,
}

#[derive(Default)]
struct Received {
    /// The last round that was received whole, or of which all parts until now were.
    round: Option<Round>,
    is_whole: bool,
    lines: BTreeMap<ActionRef, Line>,
    /// While a round repeats every line: those from before it.
    former: BTreeMap<ActionRef, Line>,
    samples: Samples,
    totals_rates: Option<Rates>,
}

struct Line {
    row: Arc<LineRow>,
    samples: Samples,
}

/// What a line, or all of them, had counted at some moments.
#[derive(Default)]
struct Samples(VecDeque<Sample>);

#[derive(Clone, Copy)]
struct Sample {
    at: Timestamp,
    waiting: u64,
    enqueued: u64,
    started: u64,
    completed: u64,
    failed: u64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            received: Mutex::default(),
            shown: watch::Sender::new(Arc::default()),
            viewers: AtomicUsize::new(0),
            looked_until: AtomicU64::new(0),
            began: Instant::now(),
            wanted: Notify::new(),
        }
    }
}

/// A client that looks at all times.
pub struct Viewer {
    board: Arc<Board>,
    shown: watch::Receiver<Arc<LinesView>>,
}

impl Board {
    /// Whether a client looks. Costs next to nothing while none does.
    pub fn is_watched(&self) -> bool {
        if self.viewers.load(Ordering::Relaxed) > 0 {
            return true;
        }
        let until = self.looked_until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        let is_watched = self.now() < until;
        if !is_watched {
            // Another look may have come in between.
            let _ = self.looked_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        is_watched
    }

    /// Returns once a client began to look. For one caller.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The last round that was received whole.
    pub fn round(&self) -> Option<Round> {
        let received = self.received();
        received.round.filter(|_| received.is_whole)
    }

    /// A view that is not old; the newest one there is if no leader sends any, and `None` if none ever did.
    pub async fn look(&self) -> Option<Arc<LinesView>> {
        let mut shown = self.shown.subscribe();
        self.touch();
        let until = Instant::now() + VIEW_WITHIN;
        loop {
            let view = shown.borrow_and_update().clone();
            if view.age().is_some_and(|age| age < FRESH_FOR) {
                return Some(view);
            }
            if !matches!(tokio::time::timeout_at(until, shown.changed()).await, Ok(Ok(()))) {
                return view.age().map(|_| view);
            }
        }
    }

    /// Looks until the viewer is dropped.
    pub fn watch(self: &Arc<Self>) -> Viewer {
        self.viewers.fetch_add(1, Ordering::Relaxed);
        self.wanted.notify_one();
        let mut shown = self.shown.subscribe();
        shown.mark_changed();
        Viewer { board: self.clone(), shown }
    }

    fn touch(&self) {
        let until = self.now() + WATCHED_AFTER_LOOK.as_millis() as u64;
        if self.looked_until.swap(until, Ordering::Relaxed) == 0 {
            self.wanted.notify_one();
        }
    }

    /// In ms, and never 0.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }

    /// Takes what the leader sends. Parts that do not follow on those before are dropped, until a round repeats every
    /// line.
    pub fn apply(&self, part: ViewPart) {
        let received = &mut *self.received();
        let round = Round { epoch: part.epoch, number: part.round };
        if part.is_fresh {
            received.former = std::mem::take(&mut received.lines);
            received.round = Some(round);
        } else {
            let follows = received.round.is_some_and(|last| {
                let number = last.number + u64::from(received.is_whole);
                last.epoch == round.epoch && number == round.number
            });
            if !follows {
                received.round = None;
                received.is_whole = false;
                return;
            }
            received.round = Some(round);
        }
        received.is_whole = part.is_last;
        let (at, is_last, workers) = (part.at, part.is_last, part.workers);
        received.take(part);
        if is_last {
            received.former.clear();
            received.sample(at);
            let rows: Vec<_> = received.lines.values().map(|line| line.row.clone()).collect();
            let totals = Totals {
                at: Some(at),
                epoch: Some(round.epoch),
                workers,
                rates: received.totals_rates,
                ..LinesView::total(&rows)
            };
            self.shown.send_replace(Arc::new(LinesView::new(totals, rows)));
        }
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        // What was received is dropped by the next round that repeats every line.
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    fn take(&mut self, part: ViewPart) {
        for gone in &part.gone {
            self.lines.remove(gone);
        }
        for mut row in part.rows {
            let name = row.action_ref.clone();
            let former = self.lines.remove(&name).or_else(|| self.former.remove(&name));
            let samples = former.as_ref().map(|line| (line.row.rates, line.row.history.clone()));
            (row.rates, row.history) = samples.unwrap_or_default();
            let samples = former.map(|line| line.samples).unwrap_or_default();
            self.lines.insert(name, Line { row: Arc::new(row), samples });
        }
    }

    /// Takes a sample of each line if it is time, and brings rates up to date.
    fn sample(&mut self, at: Timestamp) {
        let mut sum = Sample { at, waiting: 0, enqueued: 0, started: 0, completed: 0, failed: 0 };
        for (index, line) in self.lines.values_mut().enumerate() {
            let sample = Sample::of(&line.row, at);
            sum.add(&sample);
            if index >= SAMPLED_LINES_MAX {
                continue;
            }
            let is_new = line.samples.take(sample);
            let rates = line.samples.rates(&sample);
            if is_new || rates != line.row.rates {
                let history = if is_new { line.samples.history() } else { line.row.history.clone() };
                line.row = Arc::new(LineRow { rates, history, ..LineRow::clone(&line.row) });
            }
        }
        self.samples.take(sum);
        self.totals_rates = self.samples.rates(&sum);
    }
}

impl Sample {
    fn of(row: &LineRow, at: Timestamp) -> Self {
        Self {
            at,
            waiting: row.waiting,
            enqueued: row.total_enqueued,
            started: row.started,
            completed: row.total_completed,
            failed: row.failed,
        }
    }

    fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.enqueued += other.enqueued;
        self.started += other.started;
        self.completed += other.completed;
        self.failed += other.failed;
    }
}

impl Samples {
    /// Takes a sample if the last one is old enough. Nothing is left of before a pause, or of another leader.
    fn take(&mut self, sample: Sample) -> bool {
        let last = self.0.back();
        let is_cut = last.is_some_and(|last| {
            sample.at.since(last.at) > 4 * SAMPLE_EVERY || sample.started < last.started || sample.failed < last.failed
        });
        if is_cut {
            self.0.clear();
        }
        let is_due = self.0.back().is_none_or(|last| sample.at.since(last.at) >= SAMPLE_EVERY);
        if is_due {
            if self.0.len() == SAMPLES_MAX {
                self.0.pop_front();
            }
            self.0.push_back(sample);
        }
        is_due
    }

    fn history(&self) -> Vec<u64> {
        self.0.iter().map(|sample| sample.waiting).collect()
    }

    /// What changed from the first sample that is not too old until now.
    fn rates(&self, now: &Sample) -> Option<Rates> {
        let from = self.0.iter().find(|sample| now.at.since(sample.at) <= RATES_OVER)?;
        let over = now.at.since(from.at);
        if over < SAMPLE_EVERY {
            return None;
        }
        let over_seconds = over.as_secs_f64();
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 * 60.0 / over_seconds;
        let (enqueued, started) = (each(now.enqueued, from.enqueued), each(now.started, from.started));
        let falls_by = (started - enqueued) / 60.0;
        Some(Rates {
            over_seconds,
            enqueued_per_minute: enqueued,
            started_per_minute: started,
            completed_per_minute: each(now.completed, from.completed),
            failed_per_minute: each(now.failed, from.failed),
            drain_seconds: (now.waiting > 0 && falls_by > 0.0).then(|| now.waiting as f64 / falls_by),
            is_growing: now.waiting > 0 && enqueued > started,
        })
    }
}

impl Viewer {
    /// The next view. Views in between are left out. Safe to drop while it waits.
    pub async fn next(&mut self) -> Arc<LinesView> {
        loop {
            // The board lives as long as this does, so the sender does.
            let _ = self.shown.changed().await;
            let view = self.shown.borrow_and_update().clone();
            if view.age().is_some_and(|age| age < FRESH_FOR) {
                return view;
            }
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.board.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("viewers", &self.viewers).finish_non_exhaustive()
    }
}
