//! Which faults happen, and when: plain data that only the seed decides. Not here: injecting them (`inject`).

use std::time::Duration;

use slotline_tests::Weather;

use crate::chance::Chance;

pub(crate) const EXECUTORS: usize = 2;
pub(crate) const WORKERS: usize = 4;
/// Client and server with a proxy between them: each executor to broker and journal, each worker and the publisher to
/// the broker.
pub(crate) const LINKS: usize = 2 * EXECUTORS + WORKERS + 1;

/// Milliseconds from one fault to the next.
const GAP: (u64, u64) = (1000, 3000);
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
    /// The broker blocks publishers.
    BrokerAlarm,
    ConnectionsClosed,
    /// Any queue but those of requests and dead letters, which hold messages that were confirmed to publishers.
    QueueDeleted(u64),
    JournalRestarts,
    JournalKilled,
    /// One session, or all.
    SessionsEnded {
        all: bool,
    },
    /// No executor can commit.
    JournalLocked,
    /// SIGSTOP to the database and all its sessions.
    JournalFreezes,
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
        0..22 => Blow::Kill(who),
        22..29 => Blow::End(who),
        29..44 => Blow::Freeze(who),
        44..52 => Blow::Cut(link),
        52..76 => {
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
        // A broker takes long to come back, so these are few; while it is away other faults have no effect.
        76..78 => Blow::BrokerStops,
        78..80 => Blow::BrokerKilled,
        80..82 => Blow::BrokerFreezes,
        82..84 => Blow::BrokerAlarm,
        84..87 => Blow::ConnectionsClosed,
        87..90 => Blow::QueueDeleted(chance.next()),
        90..92 => Blow::JournalRestarts,
        92..94 => Blow::JournalKilled,
        94..96 => Blow::SessionsEnded { all: chance.percent(50) },
        96..98 => Blow::JournalLocked,
        _ => Blow::JournalFreezes,
    }
}
