//! One executor process: its session with the broker, its place in the queue for leadership, and its term when it leads.
//!
//! As `crates/executor/src/process/{run,link}.rs` do it. Not here: what a leader does (`term`).

mod entry;
mod link;

use std::rc::Rc;

use slotline_executor::leader::{Mark, Office, Witness};
use slotline_protocol::Epoch;
use slotline_store::Standing;

use crate::clock::{Clock, MS, Micros, SECOND};
use crate::faults::Node;
use crate::plan::{Mistake, Terms};
use crate::stage::{Event, Stage};
use crate::term::{End, Leadership, Term};
use crate::wire::{Answer, Ask, DbId, SessionId};

pub(crate) const SEEK_AGAIN: Micros = 300 * MS;
/// Wait before a copy of the journal that must not be led on is looked at again.
const SUPERSEDED_PAUSE: Micros = 5 * SECOND;
/// How long the broker may take for the claim; looked at with each ping.
const CLAIM_DEADLINE: Micros = 5 * SECOND;
/// How long a leader may be without a broker; looked at with each ping.
const BROKERLESS_MAX: Micros = 5 * SECOND;
pub(crate) const PING_EVERY: Micros = 2 * SECOND;

pub(crate) struct Executor {
    pub(crate) index: usize,
    /// The copy of the journal that it connects to.
    pub(crate) site: usize,
    pub(crate) life: u32,
    pub(crate) is_up: bool,
    pub(crate) clock: Clock,
    pub(crate) terms: Terms,
    pub(crate) session: Option<SessionId>,
    pub(crate) failures: u32,
    /// What the wall clock of its host showed at true time zero, as that was set last.
    pub(crate) wall: u64,
    /// Since when it leads without consumers at the broker.
    starving_since: Option<Micros>,
    seat: Seat,
    /// What this process knows of the journal by having led on it.
    witness: Option<Witness>,
    /// It was asked to end.
    is_ending: bool,
    /// When its loop wakes up next, by true time.
    wake_at: Option<Micros>,
}

enum Seat {
    /// Neither leads nor waits.
    Idle,
    Waiting(DbId),
    /// Reads where the journal stands.
    Standing(Leadership),
    /// Waits for the marks.
    Judging(Leadership, Box<Standing>),
    /// Waits until its terms, and its doubt, are noted.
    Entering(Leadership, Box<Office>),
    /// Waits until the broker has its mark, and then whether it shows another beside it.
    Claiming(Box<Claim>),
    Recovering(Leadership, Box<Office>),
    /// Waits until the journal knows that it is doubted, and stands down.
    Doubting(Leadership),
    Leading(Box<Term>),
}

struct Claim {
    leadership: Leadership,
    office: Box<Office>,
    mark: Rc<Mark>,
    since: Micros,
    session: SessionId,
    is_left: bool,
}

impl Executor {
    pub(crate) fn new(index: usize, clock: Clock, terms: Terms) -> Self {
        Self {
            index,
            site: 0,
            life: 0,
            is_up: false,
            clock,
            terms,
            session: None,
            failures: 0,
            wall: clock.offset,
            starving_since: None,
            seat: Seat::Idle,
            witness: None,
            is_ending: false,
            wake_at: None,
        }
    }

    pub(crate) fn node(&self) -> Node {
        Node::Executor(self.index)
    }

    pub(crate) fn start(&mut self, stage: &mut Stage) {
        self.is_up = true;
        self.failures = 0;
        stage.after(MS, Event::Dial { node: self.node(), life: self.life });
        self.seek(stage);
    }

    /// The process is gone; its sockets are closed behind it.
    pub(crate) fn crash(&mut self, stage: &mut Stage) {
        self.is_up = false;
        self.is_ending = false;
        self.life += 1;
        self.witness = None;
        self.wake_at = None;
        if let Some(session) = self.session.take() {
            stage.hang_up(session);
        }
        if let Some(db) = self.db() {
            stage.disconnect(db);
        }
        self.seat = Seat::Idle;
        self.starving_since = None;
    }

    /// Asked to end: hands leadership over, then is gone.
    pub(crate) fn end(&mut self, stage: &mut Stage) {
        self.is_ending = true;
        match &mut self.seat {
            Seat::Leading(term) => {
                term.end.get_or_insert(End::Shutdown);
                self.turn(stage);
            }
            _ => self.crash(stage),
        }
    }

    pub(crate) fn term(&mut self) -> Option<&mut Term> {
        if let Seat::Leading(term) = &mut self.seat { Some(term) } else { None }
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(&self.seat, Seat::Leading(term) if term.feed.is_some())
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        if let Seat::Leading(term) = &self.seat { Some(term.epoch) } else { None }
    }

    fn db(&self) -> Option<DbId> {
        match &self.seat {
            Seat::Idle => None,
            Seat::Waiting(db) => Some(*db),
            Seat::Standing(leadership)
            | Seat::Judging(leadership, _)
            | Seat::Entering(leadership, _)
            | Seat::Recovering(leadership, _)
            | Seat::Doubting(leadership) => Some(leadership.db),
            Seat::Claiming(claim) => Some(claim.leadership.db),
            Seat::Leading(term) => Some(term.db),
        }
    }

    // ---- the journal ----

    pub(crate) fn seek(&mut self, stage: &mut Stage) {
        let has_broker = self.session.is_some() || stage.mistake == Some(Mistake::LeadsWithoutABroker);
        if self.is_up && has_broker && matches!(self.seat, Seat::Idle) {
            let db = stage.connect(self.index, self.life, self.site);
            stage.ask(db, Ask::Lead, 0);
            self.seat = Seat::Waiting(db);
        }
    }

    pub(crate) fn answered(&mut self, db: DbId, answer: Answer, stage: &mut Stage) {
        if self.db() != Some(db) {
            return;
        }
        if !matches!(answer, Answer::Led { .. }) {
            stage.dbs[db].call = None;
        }
        match (answer, &mut self.seat) {
            (Answer::Led { epoch, at }, Seat::Waiting(_)) => self.led(db, epoch, at, stage),
            (Answer::Stands(standing), Seat::Standing(leadership)) => {
                self.seat = Seat::Judging(*leadership, standing);
                self.read_marks(stage);
            }
            (Answer::Pong, Seat::Judging(..)) => self.read_marks(stage),
            (Answer::Noted, Seat::Entering(..)) => self.claim(stage),
            (Answer::Recovered(recovered), Seat::Recovering(..)) => self.enter(*recovered, stage),
            (Answer::Noted, Seat::Doubting(_)) => return self.over(stage),
            (Answer::Noted, Seat::Leading(term)) => {
                let settles = matches!(term.end, Some(End::Settled));
                if !(settles && term.leave_settled(stage)) {
                    return self.over(stage);
                }
            }
            (Answer::Committed(found), Seat::Leading(term)) => term.landed(found, stage),
            (Answer::Failed, seat) => {
                if let Seat::Leading(term) = seat {
                    term.failed(stage);
                }
                return self.over(stage);
            }
            (
                Answer::Led { .. }
                | Answer::Stands(_)
                | Answer::Recovered(_)
                | Answer::Committed(_)
                | Answer::Noted
                | Answer::Pong,
                _,
            ) => {}
        }
        self.turn(stage);
    }

    /// Leadership, or the wish for it, is over; the process seeks it again.
    pub(crate) fn over(&mut self, stage: &mut Stage) {
        self.over_for(SEEK_AGAIN, stage);
    }

    fn over_for(&mut self, pause: Micros, stage: &mut Stage) {
        if let Some(db) = self.db() {
            stage.disconnect(db);
        }
        if let Seat::Leading(term) = &mut self.seat {
            self.witness = term.witness().or(self.witness);
            stage.trace(|| format!("the term of executor {} is over: {:?}", self.index, term.end));
            term.say_farewell(stage);
            // So that the next leader gets the requests at once.
            if let Some(session) = self.session.take() {
                stage.hang_up(session);
                self.dial_again(stage);
            }
        }
        self.seat = Seat::Idle;
        self.starving_since = None;
        if self.is_ending {
            return self.crash(stage);
        }
        let spread = stage.chance.below(200 * MS);
        stage.after(pause + spread, Event::SeekAgain { executor: self.index, life: self.life });
    }

    pub(crate) fn ping(&mut self, db: DbId, stage: &mut Stage) {
        if self.db() != Some(db) {
            return;
        }
        let is_starved = self.starving_since.is_some_and(|since| since + BROKERLESS_MAX <= stage.now);
        if is_starved && stage.mistake != Some(Mistake::LeadsWithoutABroker) {
            if let Seat::Leading(term) = &mut self.seat {
                term.end.get_or_insert(End::Brokerless);
            } else {
                return self.over(stage);
            }
        }
        let is_late = |claim: &Claim| claim.since + CLAIM_DEADLINE <= stage.now;
        if matches!(&self.seat, Seat::Claiming(claim) if is_late(claim)) {
            return self.over(stage);
        }
        let is_idle = match &self.seat {
            Seat::Leading(term) => term.end.is_none() && !term.is_flying(),
            Seat::Judging(..) => true,
            _ => false,
        };
        if is_idle && stage.dbs[db].call.is_none() {
            stage.ask(db, Ask::Ping, 0);
        }
        stage.after(PING_EVERY, Event::Ping { executor: self.index, life: self.life, db });
        self.turn(stage);
    }

    // ---- the loop ----

    /// The end of each turn of the loop: what has gathered is cut, and the next wake-up is set.
    pub(crate) fn turn(&mut self, stage: &mut Stage) {
        let (node, life) = (self.node(), self.life);
        let Seat::Leading(term) = &mut self.seat else { return };
        term.work(stage);
        if stage.struck.is_some() {
            return;
        }
        let (clock, deadline) = (term.clock, term.next_deadline());
        if term.end.is_some() {
            return self.leave(stage);
        }
        let at = clock.when_wall(deadline).max(stage.now);
        if self.wake_at.is_none_or(|wake_at| at < wake_at) {
            self.wake_at = Some(at);
            stage.at(at, Event::Wake { node, life, at });
        }
    }

    /// Ends the term, once what is under way has landed.
    fn leave(&mut self, stage: &mut Stage) {
        let Seat::Leading(term) = &mut self.seat else { return };
        if term.is_flying() || stage.dbs[term.db].call.is_some() {
            return;
        }
        match term.end.clone() {
            Some(End::Doubted { .. } | End::Settled) if term.has_told => {}
            Some(End::Doubted { reason, above }) => {
                term.has_told = true;
                stage.ask(term.db, Ask::Doubt { reason, above }, 0);
            }
            Some(End::Settled) if term.begin_to_settle(stage) => {}
            Some(End::Shutdown | End::Over | End::Brokerless | End::Settled) => self.over(stage),
            None => {}
        }
    }

    pub(crate) fn wake(&mut self, at: Micros, stage: &mut Stage) {
        if self.wake_at != Some(at) {
            return;
        }
        self.wake_at = None;
        if let Seat::Leading(term) = &mut self.seat {
            term.tick(stage);
        }
        self.turn(stage);
    }
}
