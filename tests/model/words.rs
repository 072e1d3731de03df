//! What travels, in words: for whoever reads how a rule was broken.

use std::fmt;

use slotline_protocol::Incarnation;

use crate::action::Action;
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
