//! How an executor comes to lead: the journal is held against the marks, its terms are noted, a mark is left and the
//! others are read, and what lives is recovered.
//!
//! As `crates/executor/src/shell/term/entry.rs` does it, with the production marks.

use std::rc::Rc;

use slotline_executor::leader::{Judgement, Marks, Office, Unmarked};
use slotline_protocol::{Epoch, Timestamp};
use slotline_store::Recovered;

use super::{Claim, Executor, PING_EVERY, SUPERSEDED_PAUSE, Seat};
use crate::clock::Clock;
use crate::plan::Mistake;
use crate::stage::{Event, Stage};
use crate::term::{BOUNDS, Leadership, Term};
use crate::wire::{Ask, DbId, Up};

impl Executor {
    pub(super) fn led(&mut self, db: DbId, epoch: Epoch, at: Timestamp, stage: &mut Stage) {
        stage.trace(|| format!("executor {} leads epoch {epoch}", self.index));
        let clock = match stage.mistake {
            Some(Mistake::GoesByItsOwnClock) => Clock { offset: self.wall, ..self.clock },
            _ => self.clock.set_to(at, stage.now),
        };
        self.seat = Seat::Standing(Leadership { db, epoch, clock });
        self.starving_since = Some(stage.now);
        stage.ask(db, Ask::Stand, 0);
        stage.after(PING_EVERY, Event::Ping { executor: self.index, life: self.life, db });
    }

    pub(super) fn read_marks(&self, stage: &mut Stage) {
        if let Some(session) = self.session {
            stage.send(session, Up::ReadMarks);
        }
    }

    /// Holds the journal against the marks.
    pub(super) fn judge(&mut self, marks: &Marks, stage: &mut Stage) {
        let Seat::Judging(leadership, _) = &self.seat else { return };
        let leadership = *leadership;
        let Leadership { db, epoch, .. } = leadership;
        if stage.dbs[db].call.is_some() {
            // Its answer asks for the marks again.
            return;
        }
        let Seat::Judging(_, standing) = std::mem::replace(&mut self.seat, Seat::Standing(leadership)) else { return };
        let judgement = match marks.judge(&standing, self.witness, false) {
            // What a leader of this very copy has found out is all that is believed.
            _ if stage.mistake == Some(Mistake::BelievesEveryCopy) => match standing.doubt.clone() {
                Some(reason) if !reason.is_empty() => Judgement::Doubted(reason),
                _ => Judgement::Sound { skips: false },
            },
            Ok(judgement) => judgement,
            Err(superseded) => {
                stage.trace(|| format!("executor {}: {superseded}", self.index));
                return self.over_for(SUPERSEDED_PAUSE, stage);
            }
        };
        stage.trace(|| format!("executor {} of epoch {epoch} finds the journal {judgement:?}", self.index));
        match &judgement {
            Judgement::Doubted(reason) if marks.epoch() >= epoch => {
                stage.ask(db, Ask::Doubt { reason: reason.clone(), above: marks.epoch() }, 0);
                self.seat = Seat::Doubting(leadership);
            }
            Judgement::Sound { .. } | Judgement::Doubted(_) => {
                let office = Office::new(*standing, &judgement, epoch, self.terms.lease, marks, &BOUNDS);
                stage.ask(db, Ask::TakeTerms { doubt: office.doubt().map(str::to_owned) }, 0);
                self.seat = Seat::Entering(leadership, Box::new(office));
            }
        }
    }

    /// Leaves the first mark, now that the journal knows how it was judged.
    pub(super) fn claim(&mut self, stage: &mut Stage) {
        let Some(session) = self.session else { return self.over(stage) };
        let Seat::Entering(leadership, mut office) = std::mem::replace(&mut self.seat, Seat::Idle) else { return };
        let mark = Rc::new(office.claim());
        stage.send(session, Up::Mark { mark: mark.clone(), asks: true });
        let since = stage.now;
        self.seat = Seat::Claiming(Box::new(Claim { leadership, office, mark, since, session, is_left: false }));
    }

    /// The marks beside its own: of two leaders that begin at once at least one sees the other's.
    pub(super) fn claimed(&mut self, marks: &Marks, stage: &mut Stage) {
        let Seat::Claiming(claim) = &mut self.seat else { return };
        let Leadership { db, epoch, .. } = claim.leadership;
        let beside = match marks.beside(&claim.mark) {
            Err(Unmarked::Foreign(_)) if stage.mistake == Some(Mistake::BelievesEveryCopy) => Ok(()),
            beside => beside,
        };
        match beside {
            Ok(()) => {
                claim.office.claimed(claim.session as u64, claim.mark.reserved());
                let Seat::Claiming(claim) = std::mem::replace(&mut self.seat, Seat::Idle) else { return };
                stage.ask(db, Ask::Recover, 0);
                self.seat = Seat::Recovering(claim.leadership, claim.office);
            }
            Err(Unmarked::Foreign(reason)) => {
                stage.trace(|| format!("executor {}: {reason}", self.index));
                self.seat = Seat::Doubting(claim.leadership);
                stage.ask(db, Ask::Doubt { reason, above: epoch }, 0);
            }
            Err(error) => {
                stage.trace(|| format!("executor {}: {error}", self.index));
                self.over(stage);
            }
        }
    }

    pub(super) fn enter(&mut self, recovered: Recovered, stage: &mut Stage) {
        let Seat::Recovering(leadership, office) = std::mem::replace(&mut self.seat, Seat::Idle) else { return };
        let (epoch, doubt) = (leadership.epoch, office.doubt());
        stage.trace(|| format!("executor {} enters epoch {epoch}, in doubt: {doubt:?}", self.index));
        let place = (self.index, self.life, self.site);
        let mut term = Term::new(leadership, recovered, *office, self.terms, place, stage);
        if let Some(session) = self.session {
            term.open(session, stage);
        }
        self.seat = Seat::Leading(Box::new(term));
    }
}
