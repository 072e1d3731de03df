//! The stamps that attempts write at their start and end, so that limits are checked without Slotline's own records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::eventually;

/// Nanoseconds on the boot clock, which all processes of this machine share and which can't be set.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).expect("the boot clock is positive") * 1_000_000_000
        + u64::try_from(now.tv_nsec).expect("a fraction of a second is positive")
}

/// One attempt, by its own stamps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub execution: i64,
    pub attempt: u32,
    pub fence: u64,
    pub tag: String,
    pub pid: i32,
    pub started: u64,
    /// `None` where it was killed, or still runs.
    pub ended: Option<u64>,
    /// When it still ran for certain: its end, or its last sign of life.
    pub last_seen: u64,
}

/// The file that `stamp` processes write.
#[derive(Clone, Debug)]
pub struct Stamps(PathBuf);

impl Stamps {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All attempts in order of their start. An attempt number that started twice is an error.
    pub fn read(&self) -> anyhow::Result<Vec<Stamp>> {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut attempts = BTreeMap::new();
        // What is being written may be seen in part.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            note(line, &mut attempts).with_context(|| format!("stamp line {line:?}"))?;
        }
        let mut stamps: Vec<Stamp> = attempts.into_values().collect();
        stamps.sort_by_key(|stamp| stamp.started);
        Ok(stamps)
    }

    /// Waits until `count` attempts have ended.
    pub async fn ended(&self, count: usize, deadline: Duration) -> anyhow::Result<Vec<Stamp>> {
        eventually(&format!("{count} attempts end"), deadline, async || {
            let stamps = self.read()?;
            let ended = stamps.iter().filter(|stamp| stamp.ended.is_some()).count();
            if ended < count { bail!("{ended} ended, {} started", stamps.len()) } else { Ok(Some(stamps)) }
        })
        .await
    }

    /// Waits until `count` attempts have started.
    pub async fn started(&self, count: usize, deadline: Duration) -> anyhow::Result<Vec<Stamp>> {
        eventually(&format!("{count} attempts start"), deadline, async || {
            let stamps = self.read()?;
            if stamps.len() < count { bail!("{} started", stamps.len()) } else { Ok(Some(stamps)) }
        })
        .await
    }
}

/// The most attempts that ran at one moment. One that starts at the very nanosecond of another's end is beside it.
pub fn most_at_once<'a>(stamps: impl IntoIterator<Item = &'a Stamp>) -> usize {
    let mut moments: Vec<(u64, i32)> =
        stamps.into_iter().flat_map(|stamp| [(stamp.started, -1), (stamp.last_seen, 1)]).collect();
    // -1 first: starts are counted before ends.
    moments.sort_unstable();
    let (mut running, mut most) = (0_i32, 0);
    for (_, change) in moments {
        running -= change;
        most = most.max(running);
    }
    usize::try_from(most).expect("never fewer than none")
}

/// Checks a finished run of one line against the contract: every tag ran to its end, once, was granted in order,
/// and never more than `limit` ran at once.
///
/// With one slot the starts are in order too. With more, an attempt may be overtaken on its way up, by any number of
/// others; but whatever was granted and has not started holds a slot, so fewer than `limit` are overtaken at once.
pub fn check_line(stamps: &[Stamp], tags: &[String], limit: usize) -> anyhow::Result<()> {
    let unfinished: Vec<&Stamp> = stamps.iter().filter(|stamp| stamp.ended.is_none()).collect();
    ensure!(unfinished.is_empty(), "cut off: {unfinished:?}");
    let most = most_at_once(stamps);
    ensure!(most <= limit, "{most} ran at once, the limit is {limit}");
    let mut granted: Vec<&Stamp> = stamps.iter().collect();
    granted.sort_by_key(|stamp| stamp.fence);
    ensure!(is_in_order(&granted, tags), "granted out of order: {:?}", names(granted));
    for (place, stamp) in granted.iter().enumerate() {
        let overtaken: Vec<_> = granted[..place].iter().filter(|before| before.started > stamp.started).collect();
        let fits = overtaken.len() < limit;
        ensure!(fits, "started out of order: {} before {:?}", stamp.tag, names(overtaken.into_iter().copied()));
    }
    Ok(())
}

/// Whether every tag is there once, and was granted before those behind it. A fence is that of an attempt which ran: if
/// earlier attempts of the execution were handed back unstarted, its first grant was before that fence, and no grant in
/// between was out of order.
fn is_in_order(granted: &[&Stamp], tags: &[String]) -> bool {
    let line: BTreeMap<&str, usize> = tags.iter().map(String::as_str).zip(0..).collect();
    let places: Vec<_> = granted.iter().filter_map(|stamp| line.get(stamp.tag.as_str()).copied()).collect();
    let is_each_once = places.len() == granted.len() && places.iter().collect::<BTreeSet<_>>().len() == tags.len();
    let mut furthest = None;
    let in_turn = places.iter().zip(granted).all(|(place, stamp)| {
        let is_overtaken = furthest > Some(*place);
        furthest = furthest.max(Some(*place));
        !is_overtaken || stamp.attempt > 1
    });
    is_each_once && granted.len() == tags.len() && in_turn
}

fn names<'a>(stamps: impl IntoIterator<Item = &'a Stamp>) -> Vec<&'a str> {
    stamps.into_iter().map(|stamp| stamp.tag.as_str()).collect()
}

fn note(line: &str, attempts: &mut BTreeMap<(i64, u32), Stamp>) -> anyhow::Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[what, execution, attempt, fence, at, tag, extra] = words.as_slice() else { bail!("expected 7 words") };
    let (execution, attempt, at) = (execution.parse()?, attempt.parse()?, at.parse()?);
    let known = attempts.get_mut(&(execution, attempt));
    match (what, known) {
        ("start", None) => {
            let stamp = Stamp {
                execution,
                attempt,
                fence: fence.parse()?,
                tag: tag.to_owned(),
                pid: extra.parse()?,
                started: at,
                ended: None,
                last_seen: at,
            };
            attempts.insert((execution, attempt), stamp);
        }
        ("start", Some(_)) => bail!("execution {execution}, attempt {attempt} started twice"),
        ("beat", Some(stamp)) => stamp.last_seen = at,
        ("end", Some(stamp)) => {
            stamp.last_seen = at;
            stamp.ended = Some(at);
        }
        _ => bail!("not a start, or without one"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(text: &str) -> anyhow::Result<Vec<Stamp>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        Stamps::at(file.path()).read()
    }

    #[test]
    fn attempts_that_touch_are_side_by_side() -> anyhow::Result<()> {
        let read = stamps("start 2 1 8 20 b 1\nstart 1 1 7 10 a 1\nend 1 1 7 20 a 0\nend 2 1 8 30 b 0\n")?;
        assert_eq!(read.iter().map(|stamp| stamp.tag.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(most_at_once(&read), 2);
        let read = stamps("start 1 1 7 10 a 1\nend 1 1 7 20 a 0\nstart 2 1 8 21 b 1\nend 2 1 8 30 b 0\n")?;
        assert_eq!(most_at_once(&read), 1);
        Ok(())
    }

    #[test]
    fn an_attempt_that_was_killed_ran_until_its_last_sign_of_life() -> anyhow::Result<()> {
        let read = stamps("start 1 1 7 10 a 1\nbeat 1 1 7 15 a 0\nstart 1 2 8 14 a 1\nend 1 2 8 16 a 0\n")?;
        assert_eq!((read[0].ended, read[0].last_seen), (None, 15));
        assert_eq!(most_at_once(&read), 2);
        Ok(())
    }

    /// `(tag, fence, attempt, start, end)` of each, checked against `a`, `b`, `c`.
    fn check(attempts: &[(&str, u64, u32, u64, u64)], limit: usize) -> Result<(), String> {
        let stamp = |&(tag, fence, attempt, started, end): &(&str, u64, u32, u64, u64)| {
            let ended = (end > started).then_some(end);
            let (tag, pid, execution) = (tag.to_owned(), 1, i64::try_from(fence).expect("small"));
            Stamp { execution, attempt, fence, tag, pid, started, ended, last_seen: end }
        };
        let stamps: Vec<Stamp> = attempts.iter().map(stamp).collect();
        check_line(&stamps, &["a", "b", "c"].map(str::to_owned), limit).map_err(|error| error.to_string())
    }

    #[test]
    fn the_judge_of_a_line_finds_each_way_to_break_it() {
        let good = [("a", 1, 1, 10, 20), ("b", 2, 1, 21, 30), ("c", 3, 1, 31, 40)];
        assert_eq!(check(&good, 1), Ok(()));
        for (broken, expected) in [
            (vec![good[0], good[1]], "granted out of order"),
            (vec![good[0], ("b", 2, 1, 21, 21), good[2]], "cut off"),
            (vec![good[0], good[1], ("b", 3, 1, 31, 40)], "granted out of order"),
            (vec![good[0], ("b", 3, 1, 21, 30), ("c", 2, 1, 31, 40)], "granted out of order"),
            (vec![good[0], ("b", 2, 1, 20, 30), good[2]], "2 ran at once"),
            (vec![good[0], ("b", 2, 1, 31, 40), ("c", 3, 1, 21, 30)], "started out of order"),
        ] {
            let error = check(&broken, 1).expect_err(expected);
            assert!(error.starts_with(expected), "{broken:?}: {error}");
        }
        assert_eq!(check(&[good[0], ("b", 2, 1, 12, 30), ("c", 3, 1, 11, 15)], 3), Ok(()));
        let slow = ("a", 1, 1, 22, 30);
        assert_eq!(check(&[slow, ("b", 2, 1, 10, 15), ("c", 3, 1, 16, 20)], 2), Ok(()), "as many as may pass it");
        let both = [slow, ("b", 2, 1, 21, 30), ("c", 3, 1, 16, 20)];
        let error = check(&both, 2).expect_err("a and b held both slots");
        assert!(error.starts_with("started out of order: c before"), "{error}");
    }

    #[test]
    fn one_that_was_handed_back_may_run_under_a_later_grant_than_its_successors() {
        let c = ("c", 3, 1, 12, 30);
        assert_eq!(check(&[("a", 1, 1, 10, 20), ("b", 4, 2, 13, 30), c], 3), Ok(()), "its first grant was the second");
        let error = check(&[("a", 1, 1, 10, 20), ("b", 4, 1, 13, 30), c], 3).expect_err("it was never handed back");
        assert!(error.starts_with("granted out of order"), "{error}");
    }

    #[test]
    fn an_attempt_number_that_starts_twice_is_an_error() {
        let error = stamps("start 1 1 7 10 a 1\nstart 1 1 7 11 a 1\n").expect_err("twice");
        assert!(format!("{error:#}").contains("started twice"), "{error:#}");
    }
}
