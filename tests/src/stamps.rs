//! What the attempts themselves say of their start and end, so that limits are not judged by anybody's bookkeeping.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};

use crate::eventually;

/// Nanoseconds on the clock that all processes of this machine share and nobody sets.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).expect("the boot clock is positive") * 1_000_000_000
        + u64::try_from(now.tv_nsec).expect("a fraction of a second is positive")
}

/// One attempt, by its own word.
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
    /// When it surely still ran: its end, or its last sign of life.
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
        for line in text.lines() {
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

    #[test]
    fn an_attempt_number_that_starts_twice_is_an_error() {
        let error = stamps("start 1 1 7 10 a 1\nstart 1 1 7 11 a 1\n").expect_err("twice");
        assert!(format!("{error:#}").contains("started twice"), "{error:#}");
    }
}
