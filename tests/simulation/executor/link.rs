//! The executor's side of its sessions with the broker.
//!
//! As `crates/executor/src/process/link.rs` has it: one session at a time, and another after a pause.

use slotline_executor::leader::Marks;

use super::{Executor, Seat};
use crate::clock::{MS, SECOND};
use crate::history::Fact;
use crate::plan::Mistake;
use crate::stage::{Event, Stage};
use crate::term::{End, Marked};
use crate::wire::{Ask, Down, Purpose, SessionId, Up, Verdict};

impl Executor {
    pub(crate) fn dialed(&mut self, session: SessionId, stage: &mut Stage) {
        self.session = Some(session);
        self.failures = 0;
        self.seek(stage);
        match &mut self.seat {
            Seat::Leading(term) if term.end.is_none() => term.open(session, stage),
            Seat::Judging(..) => stage.send(session, Up::ReadMarks),
            _ => {}
        }
    }

    pub(super) fn dial_again(&mut self, stage: &mut Stage) {
        self.failures += 1;
        let pause = ((100 * MS) << self.failures.min(5)).min(2 * SECOND);
        let pause = pause / 2 + stage.chance.below(pause / 2);
        stage.after(pause, Event::Dial { node: self.node(), life: self.life });
    }

    pub(crate) fn dial_failed(&mut self, stage: &mut Stage) {
        self.dial_again(stage);
    }

    /// The session is over, as this side sees it.
    pub(crate) fn lost(&mut self, session: SessionId, stage: &mut Stage) {
        stage.hang_up(session);
        if self.session == Some(session) {
            self.session = None;
            match &mut self.seat {
                Seat::Leading(term) => {
                    if term.feed.is_some() {
                        self.starving_since = Some(stage.now);
                        // Where another has the lock by now, its epoch may be the same: of a journal that went back.
                        if stage.dbs[term.db].server_up {
                            stage.record_of(self.site, Fact::Starves { epoch: term.epoch });
                        }
                    }
                    term.close(stage);
                    term.end = term.end.take().map(End::without_a_broker);
                }
                // The broker did not take the claim.
                Seat::Claiming(claim) if claim.session == session => self.over(stage),
                // Its place among those that wait goes with its broker.
                Seat::Waiting(db) if stage.mistake != Some(Mistake::LeadsWithoutABroker) => {
                    stage.disconnect(*db);
                    self.seat = Seat::Idle;
                }
                _ => {}
            }
            self.dial_again(stage);
        }
    }

    pub(crate) fn hear(&mut self, session: SessionId, down: Down, stage: &mut Stage) {
        if self.session != Some(session) {
            return;
        }
        match down {
            Down::Closed => self.lost(session, stage),
            Down::Confirmed { seq, verdict } => {
                if let (Some(Purpose::Order(incarnation)), Seat::Leading(term)) =
                    (stage.confirmed(session, seq), &mut self.seat)
                {
                    term.confirmed(incarnation, verdict == Verdict::Returned, stage);
                }
            }
            Down::Marks(marks) => self.hear_marks(session, &marks, stage),
            Down::Marked(is_taken) => self.hear_marked(session, is_taken, stage),
            Down::Leading { epoch } => {
                if let Seat::Leading(term) = &mut self.seat
                    && term.epoch == epoch
                    && term.end.is_none()
                {
                    term.feeds(session, stage);
                    if self.starving_since.take().is_some() && stage.dbs[term.db].server_up {
                        stage.record_of(self.site, Fact::Feeds { epoch });
                    }
                }
            }
            Down::Delivered { queue, tag, body } => {
                if let Seat::Leading(term) = &mut self.seat
                    && term.end.is_none()
                {
                    term.deliver(queue, tag, body, stage);
                }
            }
            Down::Serving { .. } => {}
        }
        self.turn(stage);
    }

    fn hear_marks(&mut self, session: SessionId, marks: &Marks, stage: &mut Stage) {
        match &mut self.seat {
            Seat::Judging(..) => self.judge(marks, stage),
            Seat::Claiming(claim) if claim.is_left => self.claimed(marks, stage),
            Seat::Leading(term) => match term.look(session, marks, stage) {
                Marked::Nothing => {}
                Marked::Settle(rewind) => stage.ask(term.db, Ask::Settle(rewind), 0),
                Marked::Over => self.over(stage),
            },
            _ => {}
        }
    }

    fn hear_marked(&mut self, session: SessionId, is_taken: bool, stage: &mut Stage) {
        match &mut self.seat {
            Seat::Claiming(claim) if is_taken => {
                claim.is_left = true;
                stage.send(session, Up::ReadMarks);
            }
            Seat::Claiming(_) => self.over(stage),
            Seat::Leading(term) => {
                if let Marked::Over = term.marked(session, is_taken, stage) {
                    self.over(stage);
                }
            }
            _ => {}
        }
    }
}
