//! Which faults happen, and when: plain data that only the seed decides. Not here: injecting them (`inject`).

use std::time::Duration;

use slotline_tests::Conditions;

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
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// SIGKILL; started again when it is over.
    Kill(Target),
    /// SIGTERM; started again when it is over.
    End(Target),
    /// SIGSTOP until it is over.
    Freeze(Target),
    /// All connections of a link are reset.
    Cut(usize),
    /// A link has these conditions until it is over.
    Link(usize, Conditions),
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
pub(crate) enum Target {
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
        let kind = choose(&mut chance);
        let (least, most) = if chance.percent(25) { LONG } else { SHORT };
        faults.push(Fault { at, lasts: Duration::from_millis(chance.between(least, most)), kind });
    }
}

fn choose(chance: &mut Chance) -> FaultKind {
    let target = if chance.percent(40) {
        Target::Executor(chance.index(EXECUTORS))
    } else {
        Target::Worker(chance.index(WORKERS))
    };
    let link = chance.index(LINKS);
    match chance.below(100) {
        0..22 => FaultKind::Kill(target),
        22..29 => FaultKind::End(target),
        29..44 => FaultKind::Freeze(target),
        44..52 => FaultKind::Cut(link),
        52..76 => {
            let bytes = chance.spread(1, 20_000);
            let kinds = [
                Conditions::Stalled,
                Conditions::StalledUp,
                Conditions::StalledDown,
                Conditions::HalfOpen,
                Conditions::Slow,
                Conditions::Down,
                Conditions::ResetAfter(bytes),
                Conditions::ResetAfter(bytes),
            ];
            FaultKind::Link(link, chance.pick(&kinds))
        }
        // A broker takes long to come back, so these are few; while it is away other faults have no effect.
        76..78 => FaultKind::BrokerStops,
        78..80 => FaultKind::BrokerKilled,
        80..82 => FaultKind::BrokerFreezes,
        82..84 => FaultKind::BrokerAlarm,
        84..87 => FaultKind::ConnectionsClosed,
        87..90 => FaultKind::QueueDeleted(chance.next()),
        90..92 => FaultKind::JournalRestarts,
        92..94 => FaultKind::JournalKilled,
        94..96 => FaultKind::SessionsEnded { all: chance.percent(50) },
        96..98 => FaultKind::JournalLocked,
        _ => FaultKind::JournalFreezes,
    }
}
