//! Followers over a journal that is as slow, as late and as far away as a test wants it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use slotline_protocol::message::GapReason;
use slotline_protocol::record::Kind;
use slotline_protocol::{ActionRef, Status, Timestamp};

use super::*;
use crate::hub::BUFFER_MAX;

const ID: ExecutionId = ExecutionId(42);

fn event(number: u64, what: What) -> Event {
    let action_ref = ActionRef::new("demo.echo").expect("a name");
    Event { execution_id: ID, action_ref, number, attempt: 1, timestamp: Timestamp::from_micros(0), what }
}

/// A journal, and the hub on which its events are published.
#[derive(Default)]
struct World {
    hub: Arc<Hub>,
    past: Arc<Script>,
}

#[derive(Default)]
struct Script {
    events: Mutex<Vec<Event>>,
    /// Numbers up to this one are forgotten.
    pruned: AtomicU64,
    is_away: AtomicBool,
    is_forgotten: AtomicBool,
    reads: AtomicU64,
    /// What happens between the next read of the journal and its answer.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl PastEvents for Script {
    fn events(&self, _: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read> {
        self.read(after, limit).boxed()
    }
}

impl Script {
    async fn read(&self, after: u64, limit: u32) -> Read {
        self.reads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        if self.is_away.load(Ordering::Relaxed) {
            return Err(Error::ReadOnly);
        }
        if self.is_forgotten.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let page = {
            let written = self.events.lock().expect("no test panics with it");
            let pruned = self.pruned.load(Ordering::Relaxed);
            let gap = What::Gap { count: pruned.saturating_sub(after), reason: GapReason::Pruned };
            let gap = (after < pruned).then(|| event(pruned, gap));
            let kept = written.iter().filter(|event| event.number > after.max(pruned)).cloned();
            let events: Vec<_> = gap.into_iter().chain(kept).take(limit as usize).collect();
            let last = written.len() as u64;
            let is_settled = written.last().is_some_and(is_last);
            let is_over = is_settled && events.last().map_or(after, |event| event.number) >= last;
            RecordPart { events, last, is_over }
        };
        let meanwhile = self.meanwhile.lock().expect("no test panics with it").take();
        meanwhile.into_iter().for_each(|happen| happen());
        tokio::task::yield_now().await;
        Ok(Some(page))
    }
}

impl World {
    /// Writes the next event, and returns it for the hub.
    fn write(&self, what: What) -> Arc<LiveEvent> {
        let mut written = self.past.events.lock().expect("no test panics with it");
        let event = event(written.len() as u64 + 1, what);
        written.push(event.clone());
        Arc::new(LiveEvent::new(event.into()))
    }

    fn publish(&self, what: What) {
        let live = self.write(what);
        self.hub.publish(&[live]);
    }

    fn publish_many(&self, count: usize) {
        (0..count).for_each(|_| self.publish(What::Started));
    }

    fn settle(&self) {
        self.publish(What::Settled { previous: Status::Running, status: Status::Completed, result: None, error: None });
    }

    async fn follow(&self, after: u64) -> EventFollower<Script> {
        let opened = EventFollower::open(self.past.clone(), self.hub.clone(), ID, after).await;
        opened.expect("the journal is there").expect("the execution is known")
    }
}

/// Waits for what must come.
async fn next(follower: &mut EventFollower<Script>) -> Next {
    tokio::time::timeout(2 * AWAY_MAX, follower.next()).await.expect("something comes")
}

/// The numbers of events until something else comes, and that.
async fn numbers(follower: &mut EventFollower<Script>) -> (Vec<u64>, Next) {
    let mut numbers = Vec::new();
    loop {
        match next(follower).await {
            Next::Event(live) => numbers.push(live.event.number),
            end => return (numbers, end),
        }
    }
}

/// Random numbers that are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_followers_that_are_cut_off_at_random_each_get_every_number_once() {
    const EVENTS: u64 = 600;
    let world = Arc::new(World::default());
    let newest = Arc::new(AtomicU64::new(0));
    let followers: Vec<_> = (0..200)
        .map(|seed| {
            let (world, newest) = (world.clone(), newest.clone());
            tokio::spawn(async move {
                let (mut chance, mut received) = (Chance(seed), Vec::new());
                loop {
                    let mut follower = world.follow(received.last().copied().unwrap_or(0)).await;
                    for _ in 0..chance.below(90) + 1 {
                        match next(&mut follower).await {
                            Next::Event(live) => {
                                newest.fetch_max(live.event.number, Ordering::Relaxed);
                                received.push(live.event.number);
                            }
                            Next::Over => return received,
                            Next::Lagged => break,
                            Next::Away => panic!("the journal is there"),
                        }
                    }
                }
            })
        })
        .collect();
    let mut chance = Chance(7);
    for number in 1..EVENTS {
        // The hub loses some events, as a connection does, and sooner or later asks for a resync.
        let live = world.write(What::Started);
        match chance.below(20) {
            0 => {}
            1 => world.hub.resync(),
            _ => world.hub.publish(&[live]),
        }
        // Some follower receives the events while they happen.
        while number > newest.load(Ordering::Relaxed) + 20 {
            tokio::task::yield_now().await;
        }
    }
    world.settle();
    let expected: Vec<u64> = (1..=EVENTS).collect();
    for follower in followers {
        let received =
            tokio::time::timeout(Duration::from_secs(60), follower).await.expect("in time").expect("no panic");
        assert_eq!(received, expected);
    }
    assert!(world.hub.is_idle());
}

#[tokio::test]
async fn what_happens_while_the_past_is_read_follows_after_it() {
    let world = Arc::new(World::default());
    world.publish_many(3);
    let settle = Box::new({
        let world = world.clone();
        move || world.settle()
    });
    *world.past.meanwhile.lock().expect("no test panics with it") = Some(settle);
    assert!(matches!(numbers(&mut world.follow(0).await).await, (received, Next::Over) if received == [1, 2, 3, 4]));
}

#[tokio::test]
async fn a_follower_resumes_at_every_number_with_exactly_what_follows() {
    let world = World::default();
    world.publish_many(250);
    world.settle();
    for after in 0..=251 {
        let mut follower = world.follow(after).await;
        assert_eq!(follower.has_ended(), after == 251, "{after}");
        let (received, end) = numbers(&mut follower).await;
        assert_eq!(received, (after + 1..=251).collect::<Vec<_>>());
        assert!(matches!(end, Next::Over), "{end:?}");
    }
    assert!(world.follow(1000).await.has_ended());
}

#[tokio::test]
async fn what_is_forgotten_is_shown_as_one_gap_first() {
    let world = World::default();
    world.publish_many(20);
    world.past.pruned.store(12, Ordering::Relaxed);
    world.settle();
    let mut follower = world.follow(5).await;
    let Next::Event(first) = next(&mut follower).await else { panic!("an event") };
    assert_eq!((first.event.number, first.event.what.kind()), (12, Kind::Gap));
    assert_eq!(numbers(&mut follower).await.0, (13..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_follower_may_resume_and_another_misses_nothing() {
    let world = World::default();
    world.publish_many(3);
    let (mut slow, mut quick) = (world.follow(0).await, world.follow(0).await);
    for number in 1..=3 {
        assert!(matches!(next(&mut slow).await, Next::Event(live) if live.event.number == number));
    }
    for number in 1..=1000 {
        if number > 3 {
            world.publish(What::Started);
        }
        assert!(matches!(next(&mut quick).await, Next::Event(live) if live.event.number == number));
    }
    let (received, end) = numbers(&mut slow).await;
    assert_eq!(received, (4..4 + BUFFER_MAX as u64).collect::<Vec<_>>());
    assert!(matches!(end, Next::Lagged), "{end:?}");
    world.settle();
    let (received, end) = numbers(&mut world.follow(slow.last()).await).await;
    assert_eq!(received, (slow.last() + 1..=1001).collect::<Vec<_>>());
    assert!(matches!(end, Next::Over), "{end:?}");
}

#[tokio::test]
async fn a_buffer_that_fills_while_the_past_is_read_costs_nothing() {
    let world = World::default();
    world.publish_many(350);
    let mut follower = world.follow(0).await;
    world.publish_many(2 * BUFFER_MAX);
    let past = 350 + 2 * BUFFER_MAX as u64;
    for number in 1..=past {
        assert!(matches!(next(&mut follower).await, Next::Event(live) if live.event.number == number));
    }
    world.settle();
    let (received, end) = numbers(&mut follower).await;
    assert_eq!(received, [past + 1]);
    assert!(matches!(end, Next::Over), "{end:?}");
}

#[tokio::test]
async fn a_gap_in_live_events_is_read_from_the_journal() {
    let world = World::default();
    let mut follower = world.follow(0).await;
    for _ in 0..5 {
        world.write(What::Started);
    }
    world.publish(What::Started);
    for number in 1..=6 {
        assert!(matches!(next(&mut follower).await, Next::Event(live) if live.event.number == number));
    }
    world.write(What::Started);
    world.hub.resync();
    assert!(matches!(next(&mut follower).await, Next::Event(live) if live.event.number == 7));
    let reads = world.past.reads.load(Ordering::Relaxed);
    world.settle();
    assert!(matches!(numbers(&mut follower).await, (received, Next::Over) if received == [8]));
    assert_eq!(world.past.reads.load(Ordering::Relaxed), reads, "a live event needs no read of the journal");
}

#[tokio::test(start_paused = true)]
async fn while_the_journal_is_away_nothing_follows_and_after_so_long_the_end() {
    let world = World::default();
    let mut follower = world.follow(0).await;
    world.past.is_away.store(true, Ordering::Relaxed);
    world.write(What::Started);
    world.publish(What::Started);
    assert!(tokio::time::timeout(AWAY_MAX / 2, follower.next()).await.is_err());
    world.past.is_away.store(false, Ordering::Relaxed);
    for number in 1..=2 {
        assert!(matches!(next(&mut follower).await, Next::Event(live) if live.event.number == number));
    }
    world.past.is_away.store(true, Ordering::Relaxed);
    world.hub.resync();
    let begun = Instant::now();
    assert!(matches!(next(&mut follower).await, Next::Away));
    assert!(begun.elapsed() <= AWAY_MAX && begun.elapsed() > AWAY_MAX / 2, "{:?}", begun.elapsed());
    assert_eq!(follower.last(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_does_not_have_yet_follows_once_it_has() {
    let world = World::default();
    let mut follower = world.follow(0).await;
    world.hub.publish(&[Arc::new(LiveEvent::new(event(3, What::Started).into()))]);
    assert!(tokio::time::timeout(AWAY_MAX / 2, follower.next()).await.is_err());
    for _ in 0..3 {
        world.write(What::Started);
    }
    for number in 1..=3 {
        assert!(matches!(next(&mut follower).await, Next::Event(live) if live.event.number == number));
    }
}

#[tokio::test]
async fn an_execution_that_is_forgotten_is_over() {
    let world = World::default();
    let mut follower = world.follow(0).await;
    world.past.is_forgotten.store(true, Ordering::Relaxed);
    world.hub.resync();
    assert!(matches!(next(&mut follower).await, Next::Over));
    let unknown =
        EventFollower::open(world.past.clone(), world.hub.clone(), ID, 0).await.expect("the journal is there");
    assert!(unknown.is_none());
}

#[tokio::test]
async fn a_follower_that_resumes_past_the_end_is_over_when_it_comes() {
    let world = World::default();
    world.publish_many(2);
    let mut follower = world.follow(1000).await;
    world.publish_many(1);
    world.settle();
    assert!(matches!(numbers(&mut follower).await, (received, Next::Over) if received.is_empty()));
}
