//! One view of all lines: totals, and pages of rows in several orders.
//!
//! A view does not change. An order is made when it is first asked for, and shared by all that ask for it.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use slotline_protocol::ActionRef;
use slotline_protocol::lines::{LineRow, LineState, Totals};
use tokio::time::Instant;

/// How a list of lines is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LineSort {
    /// The longest first.
    #[default]
    Waiting,
    /// The one whose first has waited longest, first.
    Oldest,
    /// The one with the most slots in use first.
    Running,
    /// The one that takes longest to drain first; before all others those that grow.
    Drain,
    Name,
}

impl LineSort {
    pub(crate) const ALL: [(&str, Self); 5] = [
        ("waiting", Self::Waiting),
        ("oldest", Self::Oldest),
        ("running", Self::Running),
        ("drain", Self::Drain),
        ("name", Self::Name),
    ];

    /// What stands first; rows of one rank stand by name.
    fn rank(self, row: &LineRow) -> Reverse<u64> {
        Reverse(match self {
            Self::Waiting => row.waiting,
            Self::Oldest => row.oldest_enqueued_at.map_or(0, |at| i64::MAX.abs_diff(at.as_micros())),
            Self::Running => row.running,
            Self::Drain => match row.rates {
                Some(rates) if rates.is_growing => u64::MAX,
                Some(rates) => rates.drain_seconds.map_or(0, |seconds| (seconds * 1e3) as u64),
                None => 0,
            },
            Self::Name => 0,
        })
    }
}

/// A page of lines to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineList {
    pub(crate) sort: LineSort,
    pub(crate) state: Option<LineState>,
    /// What the names begin with.
    pub(crate) prefix: String,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) limit: usize,
}

/// The last row of a page: the next begins behind it, whatever has moved since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    rank: u64,
    name: ActionRef,
}

impl Cursor {
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (rank, name) = text.split_once('~')?;
        Some(Self { rank: rank.parse().ok()?, name: ActionRef::new(name).ok()? })
    }

    fn of(sort: LineSort, row: &LineRow) -> String {
        format!("{}~{}", sort.rank(row).0, row.action_ref)
    }
}

/// All lines at one moment.
#[derive(Debug, Default)]
pub struct LinesView {
    pub totals: Totals,
    /// By name.
    rows: Vec<Arc<LineRow>>,
    orders: [OnceLock<Vec<u32>>; LineSort::ALL.len()],
    /// When it was received; `None` if it never was.
    received_at: Option<Instant>,
}

impl LinesView {
    pub(crate) fn new(totals: Totals, rows: Vec<Arc<LineRow>>) -> Self {
        Self { totals, rows, orders: Default::default(), received_at: Some(Instant::now()) }
    }

    /// What the rows sum up to.
    pub(crate) fn total(rows: &[Arc<LineRow>]) -> Totals {
        let count = |state| rows.iter().filter(|row| row.state == state).count() as u64;
        Totals {
            lines: rows.len() as u64,
            waiting: rows.iter().map(|row| row.waiting).sum(),
            running: rows.iter().map(|row| row.running).sum(),
            slots: rows.iter().map(|row| row.limit.map(u64::from)).sum(),
            oldest_enqueued_at: rows.iter().filter_map(|row| row.oldest_enqueued_at).min(),
            paused: count(LineState::Paused),
            stuck: count(LineState::Stuck),
            ..Totals::default()
        }
    }

    /// How long ago it was received; `None` if it never was.
    pub fn age(&self) -> Option<Duration> {
        self.received_at.map(|at| at.elapsed())
    }

    pub(crate) fn row(&self, action_ref: &ActionRef) -> Option<&Arc<LineRow>> {
        let index = self.rows.binary_search_by(|row| row.action_ref.cmp(action_ref)).ok()?;
        self.rows.get(index)
    }

    /// A page, and the cursor of the next.
    pub(crate) fn page(&self, list: &LineList) -> (Vec<Arc<LineRow>>, Option<String>) {
        let order = self.order(list.sort);
        let row = |index: &u32| &self.rows[*index as usize];
        let first = list.cursor.as_ref().map_or(0, |cursor| {
            let place = (Reverse(cursor.rank), &cursor.name);
            order.partition_point(|index| (list.sort.rank(row(index)), &row(index).action_ref) <= place)
        });
        let passes = |row: &&Arc<LineRow>| {
            list.state.is_none_or(|state| row.state == state) && row.action_ref.as_str().starts_with(&list.prefix)
        };
        let mut page: Vec<_> =
            order[first..].iter().map(row).filter(passes).take(list.limit.saturating_add(1)).cloned().collect();
        let has_more = page.len() > list.limit;
        page.truncate(list.limit);
        let next = page.last().filter(|_| has_more).map(|row| Cursor::of(list.sort, row));
        (page, next)
    }

    fn order(&self, sort: LineSort) -> &[u32] {
        self.orders[sort as usize].get_or_init(|| {
            let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
            // Stable, and the rows stand by name.
            order.sort_by_cached_key(|index| sort.rank(&self.rows[*index as usize]));
            order
        })
    }
}
