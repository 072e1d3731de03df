//! What will go wrong, and when: plain data that only the seed decides. Not here: how it is done (`blow`).

use std::time::Duration;

use slotline_tests::Weather;

use crate::chance::Chance;

pub(crate) const EXECUTORS: usize = 2;
pub(crate) const WORKERS: usize = 4;
/// Client and server with a proxy between them: each executor to broker and journal, each worker and the publisher to
/// the broker.
pub(crate) const LINKS: usize = 2 * EXECUTORS + WORKERS + 1;

/// Milliseconds from one fault to the next.
const GAP: (u64, u64) = (1000, 3300);
/// Milliseconds that most faults last, and that some last: past fence, lease and the database's patience.
const SHORT: (u64, u64) = (200, 3000);
const LONG: (u64, u64) = (6000, 14_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Since the storm began.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) blow: Blow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL; started again when it is over.
    Kill(Who),
    /// SIGTERM; started again when it is over.
    End(Who),
    /// SIGSTOP until it is over.
    Freeze(Who),
    /// All connections of a link are reset.
    Cut(usize),
    /// A link has this weather until it is over.
    Weather(usize, Weather),
    BrokerStops,
    BrokerKilled,
    BrokerFreezes,
    /// It blocks who publishes.
    BrokerAlarm,
    ConnectionsClosed,
    /// Any queue but the requests, which are the publishers' receipts, and the dead.
    QueueDeleted(u64),
    JournalRestarts,
    JournalKilled,
    /// One session, or all.
    SessionsEnded {
        all: bool,
    },
    /// Nobody can commit.
    JournalLocked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Executor(usize),
    Worker(usize),
}

/// The faults of a storm, in order.
pub(crate) fn plan(seed: u64, lasts: Duration) -> Vec<Fault> {
    let mut chance = Chance::of(seed, 1);
    let mut faults = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(chance.between(GAP.0, GAP.1));
        if at > lasts {
            return faults;
        }
        let blow = choose(&mut chance);
        let (least, most) = if chance.percent(25) { LONG } else { SHORT };
        faults.push(Fault { at, lasts: Duration::from_millis(chance.between(least, most)), blow });
    }
}

fn choose(chance: &mut Chance) -> Blow {
    let who =
        if chance.percent(40) { Who::Executor(chance.index(EXECUTORS)) } else { Who::Worker(chance.index(WORKERS)) };
    let link = chance.index(LINKS);
    match chance.below(100) {
        0..20 => Blow::Kill(who),
        20..26 => Blow::End(who),
        26..40 => Blow::Freeze(who),
        40..46 => Blow::Cut(link),
        46..68 => {
            let bytes = chance.spread(1, 20_000);
            let kinds = [
                Weather::Stalled,
                Weather::StalledUp,
                Weather::StalledDown,
                Weather::HalfOpen,
                Weather::Slow,
                Weather::Down,
                Weather::ResetAfter(bytes),
                Weather::ResetAfter(bytes),
            ];
            Blow::Weather(link, chance.pick(&kinds))
        }
        68..71 => Blow::BrokerStops,
        71..74 => Blow::BrokerKilled,
        74..77 => Blow::BrokerFreezes,
        77..80 => Blow::BrokerAlarm,
        80..84 => Blow::ConnectionsClosed,
        84..88 => Blow::QueueDeleted(chance.next()),
        88..91 => Blow::JournalRestarts,
        91..93 => Blow::JournalKilled,
        93..97 => Blow::SessionsEnded { all: chance.percent(50) },
        _ => Blow::JournalLocked,
    }
}
