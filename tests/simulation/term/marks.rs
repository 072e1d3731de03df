//! The marks of a leader on the broker, and how its doubt ends.
//!
//! As `crates/executor/src/{mark,term/marks}.rs` leave and read them.

use std::collections::VecDeque;
use std::rc::Rc;

use slotline_broker::PublishError;
use slotline_executor::leader::{self, Input, Marks, Unmarked, Verdict, Witness};
use slotline_store::Rewind;

use super::{Term, counters};
use crate::stage::Stage;
use crate::wire::{Ask, Mark, Up};

/// What the broker was asked about marks.
#[derive(Default)]
pub(super) struct Marking {
    /// Marks that were sent and not confirmed; `true`: the one that numbers wait for.
    sent: VecDeque<bool>,
    /// The mark that numbers wait for.
    awaited: Option<Awaited>,
    settling: Settling,
}

struct Awaited {
    mark: Mark,
    /// Whether the broker has it.
    is_left: bool,
    /// Whether it is left before those of others are looked for.
    is_claim: bool,
}

/// What a leader in doubt knows of the marks that were left since.
#[derive(Default)]
enum Settling {
    #[default]
    NotYet,
    /// The broker was asked.
    Reads,
    Knows(Rewind, Mark),
}

impl Term {
    pub(super) fn claim_mark(&mut self, mark: leader::Mark, stage: &mut Stage) {
        let mark = Rc::new(mark);
        self.send_mark(&mark, true, stage);
        self.marking.awaited = Some(Awaited { mark, is_left: false, is_claim: true });
    }

    pub(super) fn renew_mark(&mut self, mark: leader::Mark, stage: &mut Stage) {
        self.marking.awaited = Some(Awaited { mark: Rc::new(mark), is_left: false, is_claim: false });
        self.read_marks(stage);
    }

    pub(super) fn leave_mark(&mut self, mark: leader::Mark, stage: &mut Stage) {
        self.send_mark(&Rc::new(mark), false, stage);
    }

    fn send_mark(&mut self, mark: &Mark, is_awaited: bool, stage: &mut Stage) {
        if let Some(session) = self.session {
            self.marking.sent.push_back(is_awaited);
            stage.send(session, Up::Mark(mark.clone()));
        }
    }

    fn read_marks(&self, stage: &mut Stage) {
        if let Some(session) = self.session {
            stage.send(session, Up::ReadMarks);
        }
    }

    /// The session is over, and with it what it was asked.
    pub(super) fn forget_marks(&mut self, stage: &mut Stage) {
        let Marking { awaited, .. } = std::mem::take(&mut self.marking);
        if awaited.is_some() {
            self.handle(Input::Marked(Err(Unmarked::NoSession)), stage);
        }
    }

    /// The broker has a mark.
    pub(super) fn marked(&mut self, _: &Mark, stage: &mut Stage) {
        if self.marking.sent.pop_front() != Some(true) {
            return;
        }
        let Some(awaited) = &mut self.marking.awaited else { return };
        awaited.is_left = true;
        if awaited.is_claim {
            self.read_marks(stage);
        } else {
            let reserved = awaited.mark.reserved();
            self.marking.awaited = None;
            self.handle(Input::Marked(Ok(reserved)), stage);
            self.look_up(stage);
        }
    }

    /// The broker did not take one.
    pub(super) fn unmarked(&mut self, stage: &mut Stage) {
        if self.marking.sent.pop_front() == Some(true) && self.marking.awaited.take().is_some() {
            self.handle(Input::Marked(Err(Unmarked::Refused(PublishError::Nacked))), stage);
        }
    }

    pub(super) fn found_marks(&mut self, marks: Vec<Mark>, stage: &mut Stage) {
        let marks = Marks::of(marks.iter().map(|mark| (**mark).clone()).collect());
        if matches!(self.marking.settling, Settling::Reads) {
            if let Some((rewind, mark)) = self.leader.settle(&marks) {
                self.marking.settling = Settling::Knows(rewind, Rc::new(mark));
            }
            return;
        }
        let Some(awaited) = &self.marking.awaited else { return };
        if awaited.is_claim && !awaited.is_left {
            return;
        }
        let (mark, is_left) = (awaited.mark.clone(), awaited.is_left);
        match marks.beside(&mark) {
            Ok(()) if is_left => {
                self.marking.awaited = None;
                self.handle(Input::Marked(Ok(mark.reserved())), stage);
                self.look_up(stage);
            }
            Ok(()) => self.send_mark(&mark, true, stage),
            Err(unmarked) => {
                self.marking.awaited = None;
                self.handle(Input::Marked(Err(unmarked)), stage);
            }
        }
    }

    /// What the journal is told because of what is known of it by now; nothing more is cut then. `Some(None)`: the marks
    /// are read before.
    pub(crate) fn stands_down(&mut self, stage: &mut Stage) -> Option<Option<Ask>> {
        match self.leader.verdict()? {
            Verdict::Doubted { above, .. } => Some(Some(Ask::Doubt { above })),
            Verdict::Settled => Some(match &self.marking.settling {
                Settling::NotYet => {
                    if self.feed.is_some() {
                        self.marking.settling = Settling::Reads;
                        self.read_marks(stage);
                    }
                    None
                }
                Settling::Reads => None,
                Settling::Knows(rewind, _) => {
                    Some(Ask::Settle { generation: rewind.generation, next: counters(rewind.next) })
                }
            }),
        }
    }

    /// Of a journal that it settled.
    pub(crate) fn settled_mark(&self) -> Option<Mark> {
        match &self.marking.settling {
            Settling::Knows(_, mark) => Some(mark.clone()),
            Settling::NotYet | Settling::Reads => None,
        }
    }

    /// What it knows of the journal without being told.
    pub(crate) fn witness(&self) -> Option<Witness> {
        self.leader.witness()
    }
}
