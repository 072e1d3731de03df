//! What travels, in words: for whoever reads how a rule was broken.

use std::fmt::{self, Write};

use slotline_protocol::Incarnation;

use crate::action::Action;
use crate::journal::Row;
use crate::wire::{Order, Word, worker_of};
use crate::world::World;

/// A step, with what it takes if it takes something.
pub(crate) fn words(world: &World, action: Action) -> String {
    let taken = match action {
        Action::Hear(e, queue) => world.next_word(e, queue).map(Word::to_string),
        Action::Obey(w) => world.workers[w].orders.front().map(|orders| list(orders)),
        _ => None,
    };
    match taken {
        Some(taken) => format!("[{}] {action}: {taken}", world.now),
        None => format!("[{}] {action}", world.now),
    }
}

/// Who leads, who runs what, and what the journal has.
pub(crate) fn summary(world: &World) -> String {
    let journal = &world.journal;
    let mut told = format!("it is {}, epoch {} leads", world.now, journal.epoch.0);
    for (fence, process) in world.running() {
        let (id, attempt) = process.key;
        let name = short(process.incarnation);
        let _ = write!(told, "; {id}/{attempt} runs for {name} with fence {fence} until {}", process.deadline);
    }
    for Row(snapshot) in journal.live.values() {
        let (id, attempt) = (snapshot.id, snapshot.attempt);
        let _ = match &snapshot.lease {
            Some(lease) => {
                write!(told, "; {id}/{attempt} is leased to {}, fence {}", short(lease.incarnation), lease.fence)
            }
            None => write!(told, "; {id} waits after {attempt} attempts"),
        };
    }
    for id in &journal.settled {
        let _ = write!(told, "; {id} is settled");
    }
    for incarnation in &journal.ended {
        let _ = write!(told, "; {} is over", short(*incarnation));
    }
    told
}

fn list(orders: &[Order]) -> String {
    orders.iter().map(Order::to_string).collect::<Vec<_>>().join(", ")
}

/// `w0.2` is the second incarnation of the first worker.
fn short(incarnation: Incarnation) -> String {
    format!("w{}.{}", worker_of(incarnation), incarnation.0.as_u128() & u128::from(u32::MAX))
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hint { epoch } => write!(f, "epoch {epoch} has begun"),
            Self::Hello { epoch, n, lost: false } => write!(f, "hello ({epoch}, {n})"),
            Self::Hello { epoch, n, lost: true } => write!(f, "you are lost ({epoch}, {n})"),
            Self::Recorded { epoch, n, attempts } => {
                let attempts: Vec<_> = attempts.iter().map(|(id, attempt)| format!("{id}/{attempt}")).collect();
                write!(f, "recorded {} ({epoch}, {n})", attempts.join(" "))
            }
            Self::Dispatch { epoch, n, key: (id, attempt), fence } => {
                write!(f, "start {id}/{attempt} with fence {fence} ({epoch}, {n})")
            }
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beat(beat) => write!(f, "{} {beat}", short(beat.incarnation)),
            Self::Completed(word) => write!(f, "{}/{} ended", word.key.0, word.key.1),
            Self::Returned(word) => write!(f, "{}/{} is handed back", word.key.0, word.key.1),
            Self::Ended { incarnation, reason, completed, returned } => {
                let (completed, returned) = (completed.len(), returned.len());
                let name = short(*incarnation);
                write!(f, "{name} is over ({reason:?}), {completed} ended and {returned} handed back")
            }
            Self::Probe { published_at } => write!(f, "the probe of {published_at}"),
        }
    }
}
