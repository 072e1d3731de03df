//! The attempts of one handler that wait, and its processes with their room: which attempt goes where, and when another
//! process is started.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use slotline_protocol::message::AttemptKey;

/// After a process that ended before it was ready, the next one waits for so long; doubles with each further one...
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// ... up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// One process, as the group counts them.
pub(super) type LifeNumber = u64;

/// `A` is what an attempt needs.
#[derive(Debug)]
pub(super) struct Roster<A> {
    processes_max: usize,
    waiting: VecDeque<(AttemptKey, A)>,
    lives: BTreeMap<LifeNumber, Room>,
    born: LifeNumber,
    /// Processes in a row that ended before they were ready.
    failures: u32,
    /// No process is started before.
    not_before: Duration,
}

#[derive(Debug, Default)]
struct Room {
    /// The most attempts; 0 until it is ready.
    most: usize,
    open: BTreeSet<AttemptKey>,
}

impl<A> Roster<A> {
    pub(super) fn new(processes_max: u32) -> Self {
        let processes_max = usize::try_from(processes_max).unwrap_or(usize::MAX);
        let (waiting, lives) = (VecDeque::new(), BTreeMap::new());
        Self { processes_max, waiting, lives, born: 0, failures: 0, not_before: Duration::ZERO }
    }

    pub(super) fn wait(&mut self, key: AttemptKey, attempt: A) {
        self.waiting.push_back((key, attempt));
    }

    /// Takes an attempt back that waits.
    pub(super) fn take(&mut self, key: AttemptKey) -> Option<A> {
        let place = self.waiting.iter().position(|(waiting, _)| *waiting == key)?;
        self.waiting.remove(place).map(|(_, attempt)| attempt)
    }

    /// The process that has the attempt.
    pub(super) fn host(&self, key: AttemptKey) -> Option<LifeNumber> {
        self.lives.iter().find(|(_, room)| room.open.contains(&key)).map(|(life, _)| *life)
    }

    /// The next attempt that a process has room for, and the one of them that has the fewest.
    pub(super) fn next(&mut self) -> Option<(LifeNumber, AttemptKey, A)> {
        let with_room = self.lives.iter_mut().filter(|(_, room)| room.open.len() < room.most);
        let (life, room) = with_room.min_by_key(|(_, room)| room.open.len())?;
        let (key, attempt) = self.waiting.pop_front()?;
        room.open.insert(key);
        Some((*life, key, attempt))
    }

    /// Whether one more process is wanted and allowed: when it may be started.
    pub(super) fn next_birth(&self) -> Option<Duration> {
        let unready = self.lives.values().filter(|room| room.most == 0).count();
        (self.waiting.len() > unready && self.lives.len() < self.processes_max).then_some(self.not_before)
    }

    pub(super) fn born(&mut self) -> LifeNumber {
        self.born += 1;
        self.lives.insert(self.born, Room::default());
        self.born
    }

    pub(super) fn ready(&mut self, life: LifeNumber, most: u32) {
        self.failures = 0;
        if let Some(room) = self.lives.get_mut(&life) {
            room.most = usize::try_from(most).unwrap_or(usize::MAX);
        }
    }

    /// It takes no further attempt.
    pub(super) fn ending(&mut self, life: LifeNumber) {
        if let Some(room) = self.lives.get_mut(&life) {
            room.most = room.most.min(1).min(room.open.len());
        }
    }

    pub(super) fn freed(&mut self, life: LifeNumber, key: AttemptKey) {
        if let Some(room) = self.lives.get_mut(&life) {
            room.open.remove(&key);
        }
    }

    /// A process has ended; `untouched` never reached it, and is first again.
    pub(super) fn ended(&mut self, life: LifeNumber, untouched: Vec<(AttemptKey, A)>) {
        self.lives.remove(&life);
        for attempt in untouched.into_iter().rev() {
            self.waiting.push_front(attempt);
        }
    }

    /// It had ended before it was ready. Returns what waited, where there is no other process to wait for.
    pub(super) fn failed(&mut self, now: Duration) -> Vec<(AttemptKey, A)> {
        let after = RETRY_AFTER * 2_u32.saturating_pow(self.failures.min(6));
        self.failures += 1;
        self.not_before = now + after.min(RETRY_AFTER_MAX);
        if self.lives.is_empty() { self.waiting.drain(..).collect() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotline_protocol::ExecutionId;

    fn key(n: i64) -> AttemptKey {
        (ExecutionId(n), 1)
    }

    fn roster(processes: u32, waiting: i64) -> Roster<&'static str> {
        let mut roster = Roster::new(processes);
        for n in 1..=waiting {
            roster.wait(key(n), "");
        }
        roster
    }

    #[test]
    fn processes_are_started_for_what_waits_and_never_more_than_allowed() {
        let mut roster = roster(2, 3);
        assert_eq!(roster.next_birth(), Some(Duration::ZERO));
        let first = roster.born();
        roster.born();
        assert_eq!(roster.next_birth(), None, "two are allowed");
        assert_eq!(roster.next(), None, "none is ready");
        roster.ready(first, 1);
        assert_eq!(roster.next(), Some((first, key(1), "")));
        assert_eq!(roster.next(), None, "it has one already");
        roster.freed(first, key(1));
        assert_eq!(roster.next(), Some((first, key(2), "")), "first in, first out");
    }

    #[test]
    fn an_attempt_goes_where_the_fewest_are_and_comes_back_where_it_was_not_seen() {
        let mut roster = roster(2, 3);
        let lives = [roster.born(), roster.born()];
        lives.iter().for_each(|life| roster.ready(*life, 2));
        let places: Vec<_> = std::iter::from_fn(|| roster.next()).map(|(life, ..)| life).collect();
        assert_eq!(places, [lives[0], lives[1], lives[0]]);
        assert_eq!(roster.host(key(2)), Some(lives[1]));
        roster.ended(lives[0], vec![(key(3), "back")]);
        roster.wait(key(4), "");
        assert_eq!(roster.next(), Some((lives[1], key(3), "back")));
    }

    #[test]
    fn processes_that_never_get_ready_are_started_ever_more_seldom_until_one_does() {
        let mut roster = roster(1, 1);
        let mut waits = Vec::new();
        for _ in 0..8 {
            roster.wait(key(9), "");
            let life = roster.born();
            roster.ended(life, Vec::new());
            assert!(!roster.failed(Duration::from_secs(100)).is_empty(), "what waits fails with it");
            roster.wait(key(1), "");
            waits.push(roster.next_birth().expect("one waits").as_secs() - 100);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let life = roster.born();
        roster.ready(life, 1);
        roster.ended(life, Vec::new());
        roster.failed(Duration::from_secs(100));
        roster.wait(key(1), "");
        assert_eq!(roster.next_birth(), Some(Duration::from_secs(101)));
    }

    #[test]
    fn a_process_that_ends_takes_no_further_attempt() {
        let mut roster = roster(1, 2);
        let life = roster.born();
        roster.ready(life, 2);
        assert!(roster.next().is_some());
        roster.ending(life);
        assert_eq!(roster.next(), None);
        assert_eq!(roster.take(key(2)), Some(""));
    }
}
