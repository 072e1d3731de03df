//! The marks that a leader leaves while it leads, and the mark of a journal that it has settled.
//!
//! As `crates/executor/src/shell/mark.rs` leaves them: a claim is left and then the others are read, a renewal the other way round.

use std::rc::Rc;

use slotline_broker::PublishError;
use slotline_executor::leader::{Input, Mark, Marks, Unmarked};
use slotline_store::Rewind;

use super::Term;
use crate::plan::Mistake;
use crate::stage::Stage;
use crate::wire::{SessionId, Up};

/// What is under way with the marks.
pub(super) enum Errand {
    /// The first mark of a session. `is_left`: the broker has it, and the others are being read.
    Claim { mark: Rc<Mark>, is_left: bool },
    /// `is_left`: the others were read, and it is on its way.
    Renew { mark: Rc<Mark>, is_left: bool },
    /// The marks are read before the journal is settled.
    Settle,
    /// The journal is being settled, and then its mark is on its way.
    Settled { mark: Rc<Mark> },
}

/// What follows from what the broker answered.
pub(crate) enum Marked {
    Nothing,
    /// The journal is to be settled so.
    Settle(Box<Rewind>),
    /// The term is over.
    Over,
}

impl Term {
    pub(super) fn claim_mark(&mut self, mark: Mark, stage: &mut Stage) {
        let Some(session) = self.opening.or(self.feed) else { return };
        let mark = Rc::new(mark);
        self.errand = Some(Errand::Claim { mark: mark.clone(), is_left: false });
        stage.send(session, Up::Mark { mark, asks: true });
    }

    pub(super) fn renew_mark(&mut self, mark: Mark, stage: &mut Stage) {
        let Some(session) = self.feed else { return };
        self.errand = Some(Errand::Renew { mark: Rc::new(mark), is_left: false });
        stage.send(session, Up::ReadMarks);
    }

    pub(super) fn leave_mark(&mut self, mark: Mark, stage: &mut Stage) {
        if let Some(session) = self.feed {
            stage.send(session, Up::Mark { mark: Rc::new(mark), asks: false });
        }
    }

    /// Reads the marks before the journal is settled; `false` without a session.
    pub(crate) fn begin_to_settle(&mut self, stage: &mut Stage) -> bool {
        let Some(session) = self.feed else { return false };
        self.errand = Some(Errand::Settle);
        self.has_told = true;
        stage.send(session, Up::ReadMarks);
        true
    }

    /// The journal is settled: its mark is left. `false` without a session.
    pub(crate) fn leave_settled(&mut self, stage: &mut Stage) -> bool {
        let (Some(session), Some(Errand::Settled { mark })) = (self.feed, &self.errand) else { return false };
        stage.send(session, Up::Mark { mark: mark.clone(), asks: true });
        true
    }

    /// The broker has taken a mark, or has not.
    pub(crate) fn marked(&mut self, session: SessionId, is_taken: bool, stage: &mut Stage) -> Marked {
        match self.errand.take() {
            Some(Errand::Claim { mark, is_left: false }) if is_taken => {
                self.errand = Some(Errand::Claim { mark, is_left: true });
                stage.send(session, Up::ReadMarks);
            }
            Some(Errand::Renew { mark, is_left: true }) if is_taken => {
                self.handle(Input::Marked(Ok(mark.reserved())), stage);
            }
            Some(Errand::Claim { .. } | Errand::Renew { .. }) => {
                self.handle(Input::Marked(Err(Unmarked::Refused(PublishError::Nacked))), stage);
            }
            Some(Errand::Settled { .. }) => return Marked::Over,
            errand @ (Some(Errand::Settle) | None) => self.errand = errand,
        }
        Marked::Nothing
    }

    /// The broker has shown the marks.
    pub(crate) fn look(&mut self, session: SessionId, marks: &Marks, stage: &mut Stage) -> Marked {
        let believes_all = stage.mistake == Some(Mistake::BelievesEveryCopy);
        let beside = |mark: &Mark| match marks.beside(mark) {
            Err(Unmarked::Foreign(_)) if believes_all => Ok(()),
            beside => beside,
        };
        match self.errand.take() {
            Some(Errand::Claim { mark, is_left: true }) => {
                let claimed = beside(&mark).map(|()| mark.reserved());
                self.handle(Input::Marked(claimed), stage);
            }
            Some(Errand::Renew { mark, is_left: false }) => match beside(&mark) {
                Ok(()) => {
                    self.errand = Some(Errand::Renew { mark: mark.clone(), is_left: true });
                    stage.send(session, Up::Mark { mark, asks: true });
                }
                Err(error) => self.handle(Input::Marked(Err(error)), stage),
            },
            Some(Errand::Settle) => {
                let Some((rewind, mark)) = self.leader.settle(marks) else { return Marked::Over };
                self.errand = Some(Errand::Settled { mark: Rc::new(mark) });
                return Marked::Settle(Box::new(rewind));
            }
            errand => self.errand = errand,
        }
        Marked::Nothing
    }
}
