//! The duty book, with what it asks for parted by when it is done: what concerns attempts at once, since the next of a
//! chain waits for it, and everything else by the driver.

use std::hash::{Hash, Hasher};
use std::mem;

use slotline_protocol::message::Ended;
use slotline_protocol::{Incarnation, Sizes};

use super::AttemptAction;
use crate::duty::{Config, Duty, Effect, Input, Now};

/// The most incarnations of a former process that are reported, the newest first.
const FORMERS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub struct Book {
    duty: Duty,
    effects: Vec<Effect>,
    /// Bounded by what the driver takes each turn: it takes all.
    deferred: Vec<Effect>,
}

/// Between turns, when nothing of what it asked for is left to do.
impl Hash for Book {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { duty, effects, deferred } = self;
        debug_assert!(effects.is_empty() && deferred.is_empty(), "the turn is not over");
        duty.hash(state);
    }
}

impl Book {
    /// The book of a process that begins, with proof that nothing of the `formers` lives, and what the process before has
    /// `kept`.
    pub fn begin(
        config: Config,
        incarnation: Incarnation,
        now: Now,
        kept: Vec<Ended>,
        formers: &[Incarnation],
    ) -> Self {
        let mut duty = Duty::new(config, incarnation, now);
        kept.into_iter().for_each(|ended| duty.inherits(ended));
        formers.iter().for_each(|former| duty.replaces(*former));
        Self { duty, effects: Vec::new(), deferred: Vec::new() }
    }

    /// Takes what happened; hands over what is to be done to attempts, in order.
    pub fn handle(&mut self, now: Now, input: Input, mut attempts: impl FnMut(AttemptAction)) {
        self.duty.handle(now, input, &mut self.effects);
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Start(start) => attempts(AttemptAction::Start(start)),
                Effect::Interrupt { key, grace } => attempts(AttemptAction::Interrupt { key, grace }),
                Effect::Kill { key } => attempts(AttemptAction::Kill { key }),
                Effect::Extend { deadline } => attempts(AttemptAction::Extend { deadline: Some(deadline) }),
                Effect::Complete(_)
                | Effect::Return(_)
                | Effect::ChangeStatus(_)
                | Effect::Progress(_)
                | Effect::Resend { .. }
                | Effect::Beat { .. }
                | Effect::Farewell(_)
                | Effect::TakeLess { .. }
                | Effect::TakeAll
                | Effect::Refused(_)
                | Effect::IncarnationOver(_)
                | Effect::Keep(_)
                | Effect::GiveUp(_)
                | Effect::Finish => self.deferred.push(effect),
            }
        }
    }

    /// What is for the driver, as [`super::Input::Asked`].
    pub fn take_deferred(&mut self) -> Vec<Effect> {
        mem::take(&mut self.deferred)
    }

    /// Keeps to what the broker takes from now on.
    pub fn keep_to(&mut self, sizes: Sizes) {
        self.duty.keep_to(sizes);
    }

    pub fn duty(&self) -> &Duty {
        &self.duty
    }
}

/// Those of the incarnations in a lock file, the oldest first, that the next process reports.
pub fn newest(mut formers: Vec<Incarnation>) -> Vec<Incarnation> {
    formers.drain(..formers.len().saturating_sub(FORMERS_MAX));
    formers
}
