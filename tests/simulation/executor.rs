//! One executor process: its session with the broker, its place in the queue for leadership, and its term when it leads.
//!
//! As `crates/executor/src/{run,link}.rs` do it. Not here: what a leader does (`term`).

use slotline_protocol::Epoch;
use slotline_scheduler::Counters;

use crate::clock::{Clock, MS, Micros, SECOND};
use crate::faults::Node;
use crate::history::Fact;
use crate::plan::{Mistake, Terms};
use crate::stage::{Event, Stage};
use crate::term::{Leadership, Office, Term};
use crate::wire::{Answer, Ask, DbId, Down, Mark, Purpose, Recovered, SessionId, Standing, Up, Verdict};

pub(crate) const SEEK_AGAIN: Micros = 300 * MS;
/// Wait before a copy of the journal that must not be led on is looked at again.
const SUPERSEDED_PAUSE: Micros = 5 * SECOND;
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
    /// The epoch that this process led last, and the last batch of which anything left, by what it knows itself.
    witness: Option<(Epoch, i64)>,
    /// The life of the journal's server that it saw last.
    server_life: u32,
    /// When its loop wakes up next, by true time.
    wake_at: Option<Micros>,
}

enum Seat {
    /// Neither leads nor waits.
    Idle,
    Waiting(DbId),
    Recovering(Leadership),
    /// Waits for the marks.
    Judging(Leadership, Box<Recovered>),
    /// Waits until the broker has its mark, and then whether it shows another beside it.
    Claiming(Box<Claim>),
    /// Waits until the judgement is noted; `None`: it will stand down.
    Entering(Leadership, Option<(Box<Recovered>, Box<Office>)>),
    Leading(Box<Term>),
}

struct Claim {
    leadership: Leadership,
    recovered: Box<Recovered>,
    office: Box<Office>,
    mark: Mark,
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
            server_life: 0,
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

    /// Asked to end: hands leadership over, then is gone. Whether it ended at once.
    pub(crate) fn end(&mut self, stage: &mut Stage) {
        if let Seat::Leading(term) = &mut self.seat
            && term.is_flying()
        {
            term.is_ending = true;
            return;
        }
        self.crash(stage);
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(&self.seat, Seat::Leading(term) if term.is_ending)
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
            Seat::Recovering(leadership) | Seat::Judging(leadership, _) | Seat::Entering(leadership, _) => {
                Some(leadership.db)
            }
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
            (Answer::Led { epoch, at }, Seat::Waiting(_)) => {
                stage.trace(|| format!("executor {} leads epoch {epoch}", self.index));
                let clock = match stage.mistake {
                    Some(Mistake::GoesByItsOwnClock) => Clock { offset: self.wall, ..self.clock },
                    _ => self.clock.set_to(at, stage.now),
                };
                self.seat = Seat::Recovering(Leadership { db, epoch, clock });
                self.starving_since = Some(stage.now);
                stage.ask(db, Ask::Recover, 0);
                stage.after(PING_EVERY, Event::Ping { executor: self.index, life: self.life, db });
            }
            (Answer::Recovered(recovered), Seat::Recovering(leadership)) => {
                self.seat = Seat::Judging(*leadership, recovered);
                if let Some(session) = self.session {
                    stage.send(session, Up::ReadMarks);
                }
            }
            (Answer::Noted, Seat::Entering(leadership, entering)) => {
                let leadership = *leadership;
                let Some((recovered, office)) = entering.take() else { return self.over(stage) };
                let who = (self.index, self.life);
                let mut term = Term::new(leadership, *recovered, *office, self.terms, who, stage);
                if let Some(session) = self.session {
                    term.open(session, stage);
                }
                self.seat = Seat::Leading(Box::new(term));
            }
            (Answer::Noted, Seat::Leading(term)) => {
                if let (Some(session), Some(mark)) = (self.session, term.settled_mark()) {
                    stage.send(session, Up::Mark(mark));
                }
                return self.over(stage);
            }
            (Answer::Committed { batch }, Seat::Leading(term)) => {
                term.landed(batch, stage);
                if term.is_ending {
                    self.crash(stage);
                    return;
                }
            }
            (Answer::Pong, Seat::Judging(..)) => {
                if let Some(session) = self.session {
                    stage.send(session, Up::ReadMarks);
                }
            }
            (Answer::Pong, _) => {}
            (Answer::Failed, seat) => {
                if let Seat::Leading(term) = seat {
                    term.guess(stage);
                }
                self.over(stage);
            }
            (Answer::Led { .. } | Answer::Recovered(_) | Answer::Committed { .. } | Answer::Noted, _) => {}
        }
        self.turn(stage);
    }

    /// Holds the journal against the marks. As `crates/executor/src/mark.rs` does it.
    fn judge(&mut self, marks: &[Mark], stage: &mut Stage) {
        let Seat::Judging(leadership, _) = &self.seat else { return };
        let leadership = *leadership;
        let Leadership { db, epoch, .. } = leadership;
        if stage.dbs[db].call.is_some() {
            // Its answer asks for the marks again.
            return;
        }
        let Seat::Judging(_, recovered) = std::mem::replace(&mut self.seat, Seat::Idle) else { return };
        let standing = recovered.standing.clone();
        let newest = marks.iter().max_by_key(|mark| (mark.generation, mark.epoch, mark.batch));
        let highest = marks.iter().map(|mark| mark.epoch).max().unwrap_or_default();
        self.server_life = standing.life;
        let retired = marks.iter().fold(0, |retired, mark| retired | mark.retired);
        let is_blind = stage.mistake == Some(Mistake::BelievesEveryCopy);
        if retired & (1 << standing.site) != 0 && newest.is_some_and(|mark| mark.site != standing.site) && !is_blind {
            stage.trace(|| format!("executor {}: copy {} must not be led on", self.index, standing.site));
            stage.disconnect(db);
            return self.over_for(SUPERSEDED_PAUSE, stage);
        }
        let (is_doubted, skips) = match is_blind {
            true => (false, false),
            false => self.weigh(&standing, recovered.counters, newest),
        };
        if is_doubted && highest >= epoch {
            stage.ask(db, Ask::Doubt { above: highest }, 0);
            self.seat = Seat::Entering(leadership, None);
            return;
        }
        stage.trace(|| format!("executor {} enters epoch {epoch}, in doubt: {is_doubted}", self.index));
        let office = Office::new(standing, recovered.counters, marks, is_doubted, is_doubted || skips);
        let mark = office.claim(epoch);
        if let Some(session) = self.session {
            stage.send(session, Up::Mark(mark));
        }
        let office = Box::new(office);
        self.seat = Seat::Claiming(Box::new(Claim { leadership, recovered, office, mark, is_left: false }));
    }

    /// The marks beside its own: of two leaders that begin at once at least one sees the other's.
    fn claimed(&mut self, session: SessionId, marks: &[Mark], stage: &mut Stage) {
        let Seat::Claiming(claim) = std::mem::replace(&mut self.seat, Seat::Idle) else { return };
        let Claim { leadership, recovered, mut office, mark, .. } = *claim;
        let Leadership { db, epoch, .. } = leadership;
        if marks.iter().any(|other| mark.is_beside(other)) && stage.mistake != Some(Mistake::BelievesEveryCopy) {
            stage.trace(|| format!("executor {}: another leader begins beside epoch {epoch}", self.index));
            stage.ask(db, Ask::Doubt { above: epoch }, 0);
            self.seat = Seat::Entering(leadership, None);
        } else {
            office.has_claimed(session, &mark);
            stage.ask(db, Ask::Judge { doubt: office.is_doubted() }, 0);
            self.seat = Seat::Entering(leadership, Some((recovered, office)));
        }
    }

    /// Whether the journal is doubted, and whether its numbers are skipped where it is not.
    fn weigh(&self, standing: &Standing, counters: Counters, newest: Option<&Mark>) -> (bool, bool) {
        if standing.doubt == Some(true) {
            return (true, true);
        }
        let Some(mark) = newest else { return (standing.former != (Epoch(0), 0), false) };
        if mark.generation < standing.generation {
            return (false, true);
        }
        let exceeds = mark.next.next_id > counters.next_id || mark.next.next_fence > counters.next_fence;
        if mark.generation > standing.generation || (mark.epoch, mark.batch) > standing.former || exceeds {
            return (true, true);
        }
        let knows = |(epoch, batch): (Epoch, i64)| epoch == standing.former.0 && batch <= standing.former.1;
        if mark.epoch == standing.former.0 && self.witness.is_some_and(knows) {
            return (false, false);
        }
        if mark.site != standing.site {
            return (true, true);
        }
        (false, self.server_life != standing.life)
    }

    /// Leadership, or the wish for it, is over; the process seeks it again.
    pub(crate) fn over(&mut self, stage: &mut Stage) {
        self.over_for(SEEK_AGAIN, stage);
    }

    fn over_for(&mut self, pause: Micros, stage: &mut Stage) {
        if let Some(db) = self.db() {
            stage.disconnect(db);
        }
        let is_ending = self.is_ending();
        if let Seat::Leading(term) = &self.seat {
            self.witness = term.witness().or(self.witness);
            stage.trace(|| format!("the term of executor {} is over", self.index));
            // So that the next leader gets the requests at once.
            if let Some(session) = self.session.take() {
                stage.hang_up(session);
                self.dial_again(stage);
            }
        }
        self.seat = Seat::Idle;
        self.starving_since = None;
        if is_ending {
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
            return self.over(stage);
        }
        let is_flying = matches!(&self.seat, Seat::Leading(term) if term.is_flying());
        let is_idle = matches!(self.seat, Seat::Leading(_) | Seat::Judging(..));
        if is_idle && !is_flying && stage.dbs[db].call.is_none() {
            stage.ask(db, Ask::Ping, 0);
        }
        stage.after(PING_EVERY, Event::Ping { executor: self.index, life: self.life, db });
    }

    // ---- the broker ----

    pub(crate) fn dialed(&mut self, session: SessionId, stage: &mut Stage) {
        self.session = Some(session);
        self.failures = 0;
        self.seek(stage);
        match &mut self.seat {
            Seat::Leading(term) => term.open(session, stage),
            Seat::Judging(..) => stage.send(session, Up::ReadMarks),
            Seat::Idle | Seat::Waiting(_) | Seat::Recovering(..) | Seat::Claiming(..) | Seat::Entering(..) => {}
        }
    }

    fn dial_again(&mut self, stage: &mut Stage) {
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
                    term.close();
                }
                // Its place among those that wait goes with its broker.
                Seat::Waiting(db) if stage.mistake != Some(Mistake::LeadsWithoutABroker) => {
                    stage.disconnect(*db);
                    self.seat = Seat::Idle;
                }
                Seat::Waiting(_)
                | Seat::Recovering(..)
                | Seat::Judging(..)
                | Seat::Claiming(..)
                | Seat::Entering(..)
                | Seat::Idle => {}
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
                if let (Some(Purpose::Order(incarnation)), Verdict::Returned) = (stage.confirmed(session, seq), verdict)
                    && let Seat::Leading(term) = &mut self.seat
                {
                    term.order_returned(incarnation, stage);
                }
            }
            Down::Marks(marks) if matches!(self.seat, Seat::Judging(..)) => self.judge(&marks, stage),
            Down::Marks(marks) if matches!(&self.seat, Seat::Claiming(claim) if claim.is_left) => {
                self.claimed(session, &marks, stage);
            }
            Down::Marked(_) if matches!(self.seat, Seat::Claiming(..)) => {
                if let Seat::Claiming(claim) = &mut self.seat {
                    claim.is_left = true;
                    stage.send(session, Up::ReadMarks);
                }
            }
            Down::Marks(_) | Down::Leading { .. } | Down::Delivered { .. } | Down::Serving { .. } | Down::Marked(_) => {
                if let Seat::Leading(term) = &mut self.seat {
                    term.hear(session, down, stage);
                    let is_fed = term.feed.is_some() && self.starving_since.take().is_some();
                    if is_fed && stage.dbs[term.db].server_up {
                        stage.record_of(self.site, Fact::Feeds { epoch: term.epoch });
                    }
                }
            }
        }
        self.turn(stage);
    }

    // ---- the loop ----

    /// The end of each turn of the loop: what has gathered is cut, and the next wake-up is set.
    pub(crate) fn turn(&mut self, stage: &mut Stage) {
        let (node, life) = (self.node(), self.life);
        let Seat::Leading(term) = &mut self.seat else { return };
        let clock = term.clock;
        term.flush(stage);
        if term.must_read_marks() {
            term.read_marks(stage);
        } else if let Some(ask) = term.verdict() {
            // What is under way lands first.
            if !term.is_flying() && !term.is_leaving && stage.dbs[term.db].call.is_none() {
                term.is_leaving = true;
                stage.ask(term.db, ask, 0);
            }
        } else {
            term.cut(stage);
        }
        let at = clock.when_wall(term.next_deadline()).max(stage.now);
        if self.wake_at.is_none_or(|wake_at| at < wake_at) {
            self.wake_at = Some(at);
            stage.at(at, Event::Wake { node, life, at });
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
