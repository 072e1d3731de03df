//! Two styles of tables and times: fitted to the terminal and relative to now, or complete and exact (`--output wide`).

use std::time::{Duration, SystemTime};

use slotline_protocol::Timestamp;

use crate::show::terminal::Stdio;
use crate::show::{output, table};

/// How tables and moments are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    now: Timestamp,
    is_wide: bool,
}

impl Style {
    /// Times are relative to now, by this machine's clock.
    pub(crate) fn now(is_wide: bool) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { now: Timestamp::from_micros(0) + now, is_wide }
    }

    pub(crate) fn is_wide(self) -> bool {
        self.is_wide
    }

    /// Prints a table.
    pub(crate) fn table<const N: usize>(self, header: [&str; N], cells: impl IntoIterator<Item = [String; N]>) {
        let cells: Vec<[String; N]> = cells.into_iter().collect();
        let columns = Stdio::Out.columns().filter(|_| !self.is_wide);
        table::rows(header, &cells, columns).iter().for_each(|row| output::spans(row));
    }

    /// `3 s ago`, `in 2 min`, or to the second.
    pub(crate) fn moment(self, moment: Timestamp) -> String {
        if self.is_wide {
            return output::moment(moment);
        }
        if moment > self.now {
            return format!("in {}", span(moment.since(self.now)));
        }
        format!("{} ago", span(self.now.since(moment)))
    }

    pub(crate) fn optional(self, moment: Option<Timestamp>) -> String {
        moment.map(|moment| self.moment(moment)).unwrap_or_default()
    }
}

/// In the largest unit of which there are at least two.
fn span(time: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(24 * 60 * 60, "days"), (60 * 60, "h"), (60, "min")];
    let seconds = time.as_secs();
    match UNITS.iter().find(|(length, _)| seconds >= 2 * length) {
        Some((length, unit)) => format!("{} {unit}", seconds / length),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_relative_to_now_or_exactly() {
        let style = |is_wide| Style { now: Timestamp::from_micros(1_763_713_800_000_123), is_wide };
        let at = |seconds: i64| Timestamp::from_micros(1_763_713_800_000_123 - seconds * 1_000_000);
        for (seconds, expected) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7_300, "2 h ago"),
            (200_000, "2 days ago"),
            (-90, "in 90 s"),
        ] {
            assert_eq!(style(false).moment(at(seconds)), expected);
        }
        assert_eq!(style(true).moment(at(0)), "2025-11-21T08:30:00Z");
    }
}
