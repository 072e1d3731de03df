//! One leadership: arrivals into the production scheduler, batches into the journal, and what leaves after them.
//!
//! As `crates/executor/src/{term,outbox,flight,admission,intake,inbox}.rs` do it, without bodies, schemas and HTTP.
//! Not here: how orders are written (`mail`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use slotline_protocol::message::{Completed, Ended, Lineage, Probe, Returned};
use slotline_protocol::proof::Ring;
use slotline_protocol::{ActionId, Epoch, ExecutionId, Incarnation, Status, Timestamp, message};
use slotline_scheduler::{
    Config, Counters, Effects, Input, Limits, Outcome, ProbedQueue, RecoveredAction, Scheduler, Snapshot, Token,
};
use uuid::Uuid;

use crate::broker::MARKS_MAX;
use crate::clock::Clock;
use crate::faults::Node;
use crate::history::Fact;
use crate::journal::slowness;
use crate::mail::{Letter, Mailbag};
use crate::plan::{Mistake, Terms};
use crate::seal::{self, Heard};
use crate::stage::{Event, Stage};
use crate::wire::{ActionRow, Ask, Batch, Body, DbId, Down, Mark, Queue, Recovered, SessionId, Standing, Tag, Up};

/// How long a fact that needs no commit of its own may wait for one.
const LAZY: Duration = Duration::from_millis(50);
/// Inputs that are worth a batch of their own while another commits. Few, so that it happens all the time.
const WORTH_A_BATCH: usize = 3;

/// Numbers that one mark reserves. Few, so that it is renewed all the time.
const RESERVE: i64 = 60;
/// The most marks that a leader leaves before it looks for those of others.
const UNLOOKED_MAX: usize = MARKS_MAX / 2 - 1;
/// How far behind the commits the newest mark may be.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// What a leader made of the journal, and the marks that it leaves: as `crates/executor/src/term/marks.rs` has it.
pub(crate) struct Office {
    standing: Standing,
    doubt: bool,
    /// The numbers that come next at least.
    from: Counters,
    inherited: Counters,
    /// The highest generation of the journal that any mark shows.
    marked_generation: u64,
    /// Copies of the journal whose place this one takes.
    retired: u64,
    confirmed: Counters,
    is_renewing: bool,
    /// Marks that were left since those of others were read.
    unlooked: usize,
    /// The session on which it left its first mark.
    claimed_on: Option<SessionId>,
    /// The first mark of another session, once the broker has it, until none is found beside it.
    unproven: Option<Mark>,
    begins: bool,
    reads: Reads,
    /// The next numbers as of the last batch that is committed.
    next: Counters,
    marked_at: Option<Timestamp>,
}

/// What a leader in doubt knows of the marks that were left since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Nothing,
    /// The broker was asked.
    Soon,
    All,
}

impl Office {
    pub(crate) fn new(standing: Standing, counters: Counters, marks: &[Mark], doubt: bool, skips: bool) -> Self {
        let inherited = reserved(marks);
        let newest = marks.iter().max_by_key(|mark| (mark.generation, mark.epoch, mark.batch));
        let before = newest.map_or(0, |mark| 1 << mark.site);
        let retired = marks.iter().fold(before, |retired, mark| retired | mark.retired) & !(1 << standing.site);
        Self {
            standing,
            doubt,
            from: if skips { inherited } else { counters },
            inherited,
            retired,
            marked_generation: generation(marks),
            confirmed: counters,
            is_renewing: false,
            unlooked: 0,
            claimed_on: None,
            unproven: None,
            begins: false,
            reads: Reads::Nothing,
            next: counters,
            marked_at: None,
        }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubt
    }

    /// Left before the leader greets anybody: this copy of the journal is led on, and others are not to be.
    pub(crate) fn claim(&self, epoch: Epoch) -> Mark {
        let reserved = if self.doubt { self.inherited } else { self.reserve(self.from) };
        Mark { reserved, ..self.mark(epoch, 0) }
    }

    pub(crate) fn has_claimed(&mut self, session: SessionId, claim: &Mark) {
        self.claimed_on = Some(session);
        if !self.doubt {
            self.confirmed = claim.reserved;
        }
    }

    /// A whole reserve above what comes next.
    fn reserve(&self, next: Counters) -> Counters {
        let inherited = self.inherited;
        Counters {
            next_id: (next.next_id + RESERVE).max(inherited.next_id),
            next_fence: (next.next_fence + RESERVE).max(inherited.next_fence),
            next_action: next.next_action.max(inherited.next_action),
        }
    }

    fn mark(&self, epoch: Epoch, batch: i64) -> Mark {
        let Self { next, confirmed: reserved, retired, .. } = *self;
        let Standing { generation, site, .. } = self.standing;
        Mark { generation, epoch, batch, next, reserved, site, retired }
    }
}

/// No number from these on was given, as far as marks tell.
fn reserved(marks: &[Mark]) -> Counters {
    let all = |of: fn(Counters) -> i64| marks.iter().map(|mark| of(mark.reserved)).max().unwrap_or_default();
    Counters {
        next_id: all(|of| of.next_id),
        next_fence: all(|of| of.next_fence),
        next_action: all(|of| of.next_action),
    }
}

fn generation(marks: &[Mark]) -> u64 {
    marks.iter().map(|mark| mark.generation).max().unwrap_or_default()
}

/// What came with the lock: the session that holds it, and the clock that its term goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leadership {
    pub(crate) db: DbId,
    pub(crate) epoch: Epoch,
    pub(crate) clock: Clock,
}

pub(crate) struct Term {
    pub(crate) db: DbId,
    /// The copy of the journal that is led on.
    site: usize,
    executor: usize,
    life: u32,
    pub(crate) epoch: Epoch,
    pub(crate) clock: Clock,
    terms: Terms,
    pub(crate) scheduler: Scheduler,
    actions: BTreeMap<ActionId, ActionRow>,
    flight: Option<Cargo>,
    /// Packed while another commits.
    next: Option<(Batch, Cargo)>,
    /// Since the last was packed.
    inputs: usize,
    batch: i64,
    committed: i64,
    pending: Pending,
    /// Which request each execution answers; its dispatch carries that.
    bodies: BTreeMap<ExecutionId, usize>,
    recent: BTreeMap<usize, (ExecutionId, i64)>,
    next_token: Token,
    /// The session whose consumers it has.
    pub(crate) feed: Option<SessionId>,
    acks: Vec<(Queue, Tag)>,
    requests: Option<Tag>,
    lazy_since: Option<Timestamp>,
    is_urgent: bool,
    intake: VecDeque<(Tag, Rc<Body>)>,
    checking: Option<Checking>,
    /// Leaves one after the other; what a freeze keeps back leaves after it.
    outgoing: VecDeque<Letter>,
    pub(crate) is_ending: bool,
    /// It has told the journal that it stands down.
    pub(crate) is_leaving: bool,
    office: Office,
    evidence: Option<Epoch>,
    /// Where messages are written out.
    ring: Option<Ring>,
    /// Incarnations that are to be introduced, with the nonces of their heartbeats.
    strangers: BTreeSet<(Incarnation, String)>,
}

/// Deliveries that are being looked up, and the last batch that was committed before.
struct Checking {
    deliveries: Vec<(Tag, Rc<Body>)>,
    seen_batch: i64,
}

#[derive(Default)]
struct Pending {
    requests: BTreeMap<Token, usize>,
    actions: Vec<ActionRow>,
    /// Operations that wait for their answer.
    answers: Vec<usize>,
    refused: Vec<usize>,
    /// Requests that were accepted before.
    repeated: Vec<usize>,
}

/// What may leave once its batch is committed.
struct Cargo {
    effects: Effects,
    answers: Vec<usize>,
    answered: Vec<usize>,
    refused: Vec<usize>,
    acks: Vec<(Queue, Tag)>,
    request_ack: Option<Tag>,
    generation: Option<SessionId>,
    probe: Option<Timestamp>,
    bodies: BTreeMap<ExecutionId, usize>,
    /// The next numbers as of its batch.
    next: Counters,
    introductions: Vec<(Incarnation, String, u64)>,
}

impl Term {
    pub(crate) fn new(
        Leadership { db, epoch, clock }: Leadership,
        recovered: Recovered,
        office: Office,
        terms: Terms,
        (executor, life): (usize, u32),
        stage: &Stage,
    ) -> Self {
        let Recovered { actions, live, ended, counters, requests, .. } = recovered;
        let rows = actions.iter().map(|row| RecoveredAction {
            id: row.id,
            action_ref: row.action_ref.clone(),
            limits: Limits::from(&*row.policy),
            paused: row.paused,
            total_enqueued: 0,
            total_completed: 0,
        });
        let lease = if stage.mistake == Some(Mistake::LosesTooEarly) { terms.fence / 2 } else { terms.lease };
        let config = Config { lease, heartbeat: terms.heartbeat };
        let mut scheduler = Scheduler::recover(config, epoch, counters, rows, live, ended, clock.wall(stage.now));
        scheduler.know_as(lineage(office.standing.generation), office.standing.rewound_below);
        scheduler.raise(office.from);
        scheduler.reserve(office.confirmed);
        if office.doubt {
            scheduler.doubt(office.standing.floor, terms.lease, office.standing.settled.iter().copied());
        }
        Self {
            db,
            site: office.standing.site,
            executor,
            life,
            epoch,
            clock,
            terms,
            scheduler,
            actions: actions.into_iter().map(|row| (row.id, row)).collect(),
            flight: None,
            next: None,
            inputs: 0,
            batch: 0,
            committed: 0,
            pending: Pending::default(),
            bodies: requests,
            recent: BTreeMap::new(),
            next_token: 0,
            feed: None,
            acks: Vec::new(),
            requests: None,
            lazy_since: None,
            is_urgent: false,
            intake: VecDeque::new(),
            checking: None,
            outgoing: VecDeque::new(),
            is_ending: false,
            is_leaving: false,
            office,
            evidence: None,
            ring: stage.secret.clone().map(Ring::new),
            strangers: BTreeSet::new(),
        }
    }

    pub(crate) fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    pub(crate) fn next_deadline(&self) -> Timestamp {
        if self.verdict().is_some() {
            // The journal's answer is all that is waited for.
            return Timestamp::MAX;
        }
        let lazy = self.lazy_since.filter(|_| self.flight.is_none()).map(|since| since + LAZY);
        let mark = self.office.marked_at.map(|since| since + MARK_EVERY);
        [self.scheduler.next_deadline(), lazy, mark].into_iter().flatten().min().unwrap_or(Timestamp::MAX)
    }

    // ---- the session ----

    pub(crate) fn open(&mut self, session: SessionId, stage: &mut Stage) {
        self.close();
        self.office.is_renewing = false;
        self.office.reads = Reads::Nothing;
        self.office.unproven = None;
        self.office.begins = !self.office.doubt && self.office.claimed_on != Some(session);
        if self.office.begins {
            self.renew_mark(session, true, stage);
        }
        stage.send(session, Up::Lead { epoch: self.epoch });
    }

    pub(crate) fn close(&mut self) {
        self.feed = None;
        self.acks.clear();
        self.requests = None;
        self.intake.clear();
        self.checking = None;
    }

    pub(crate) fn hear(&mut self, session: SessionId, down: Down, stage: &mut Stage) {
        match down {
            Down::Leading { epoch } if epoch == self.epoch => {
                self.feed = Some(session);
                self.apply(Input::SessionOpened, stage);
            }
            Down::Delivered { queue, tag, body } if self.feed == Some(session) => match queue {
                Queue::Requests => {
                    if stage.mistake == Some(Mistake::AcksBeforeItCommits) {
                        stage.send(session, Up::Ack { queue, tag });
                    }
                    self.intake.push_back((tag, body));
                    self.look_up(stage);
                }
                Queue::Completions(_) | Queue::Heartbeats(_) | Queue::Events(_) | Queue::Worker(_) => {
                    self.acks.push((queue, tag));
                    self.read(queue, &body, stage);
                    // The acks go out with a commit, soon.
                    self.lazy_since.get_or_insert(self.clock.wall(stage.now));
                }
            },
            Down::Marked(mark) => {
                if std::mem::take(&mut self.office.begins) {
                    self.office.unproven = Some(mark);
                    stage.send(session, Up::ReadMarks);
                } else {
                    self.marked(mark, stage);
                }
            }
            Down::Marks(marks) => self.weigh(session, &marks, stage),
            Down::Leading { .. }
            | Down::Delivered { .. }
            | Down::Serving { .. }
            | Down::Confirmed { .. }
            | Down::Closed => {}
        }
    }

    pub(crate) fn order_returned(&mut self, incarnation: Incarnation, stage: &mut Stage) {
        if stage.mistake == Some(Mistake::TakesAReturnForALoss) {
            let reason = message::EndReason::Replaced;
            return self.apply(Input::IncarnationEnded { incarnation, reason }, stage);
        }
        self.apply(Input::OrderReturned { incarnation }, stage);
    }

    // ---- what comes in ----

    fn apply(&mut self, input: Input, stage: &mut Stage) {
        let now = self.clock.wall(stage.now);
        if matches!(input, Input::Started { .. }) {
            // A start needs no commit of its own; what follows it takes it along.
            self.lazy_since.get_or_insert(now);
        } else {
            self.is_urgent = true;
        }
        if stage.is_traced() {
            trace(&input, self.executor, stage);
        }
        self.inputs += 1;
        self.scheduler.handle(input, now);
        if let Some(evidence) = self.scheduler.effects().missing.as_ref().and_then(|missing| missing.evidence.as_ref())
        {
            self.evidence.get_or_insert(evidence.epoch.max(self.epoch));
        }
    }

    // ---- the journal's age ----

    /// What the journal is told because of what is known of it by now; nothing more is committed then.
    pub(crate) fn verdict(&self) -> Option<Ask> {
        if let Some(above) = self.evidence {
            return Some(Ask::Doubt { above });
        }
        let is_over = self.scheduler.in_doubt().is_some_and(|doubt| doubt.is_over);
        (is_over && !self.is_urgent && self.flight.is_none())
            .then(|| Ask::Settle { generation: self.next_generation(), next: self.scheduler.counters() })
    }

    /// Above every generation that the journal, the marks and the workers know of.
    fn next_generation(&self) -> u64 {
        let shown = self.scheduler.in_doubt().map_or(0, |doubt| doubt.generation);
        self.office.standing.generation.max(self.office.marked_generation).max(shown) + 1
    }

    /// Of a journal that it settled.
    pub(crate) fn settled_mark(&self) -> Option<Mark> {
        let is_settled = self.office.doubt && self.evidence.is_none();
        let next = self.scheduler.counters();
        is_settled.then(|| Mark {
            generation: self.next_generation(),
            next,
            reserved: next,
            ..self.office.mark(self.epoch, self.committed)
        })
    }

    /// What it knows of the journal without being told.
    pub(crate) fn witness(&self) -> Option<(Epoch, i64)> {
        (!self.office.doubt).then_some((self.epoch, self.committed))
    }

    fn renew_mark(&mut self, session: SessionId, is_new_session: bool, stage: &mut Stage) {
        let (next, confirmed) = (self.scheduler.counters(), self.office.confirmed);
        let left = (confirmed.next_id - next.next_id).min(confirmed.next_fence - next.next_fence);
        let is_due = left < RESERVE / 2 || self.office.unlooked >= UNLOOKED_MAX;
        if self.office.doubt || !is_new_session && (self.office.is_renewing || !is_due) {
            return;
        }
        self.office.is_renewing = true;
        if is_new_session {
            stage.send(session, Up::Mark(self.renewal()));
        } else {
            stage.send(session, Up::ReadMarks);
        }
    }

    /// The mark of a whole reserve above what comes next.
    fn renewal(&self) -> Mark {
        let reserved = self.office.reserve(self.scheduler.counters());
        Mark { reserved, ..self.office.mark(self.epoch, self.committed) }
    }

    /// Before the doubt is settled: a leader of another copy may have left one more mark before it saw the claim.
    pub(crate) fn must_read_marks(&self) -> bool {
        self.feed.is_some() && self.office.reads != Reads::All && matches!(self.verdict(), Some(Ask::Settle { .. }))
    }

    pub(crate) fn read_marks(&mut self, stage: &mut Stage) {
        if let Some(session) = self.feed.filter(|_| self.office.reads == Reads::Nothing) {
            self.office.reads = Reads::Soon;
            stage.send(session, Up::ReadMarks);
        }
    }

    /// The broker has this mark, and the numbers that it reserves may be given.
    fn marked(&mut self, mark: Mark, stage: &mut Stage) {
        self.office.is_renewing = false;
        if mark.reserved.next_id > self.office.confirmed.next_id
            || mark.reserved.next_fence > self.office.confirmed.next_fence
        {
            self.office.confirmed = mark.reserved;
            self.scheduler.reserve(mark.reserved);
            self.apply(Input::Ticked, stage);
            self.look_up(stage);
        }
    }

    fn weigh(&mut self, session: SessionId, marks: &[Mark], stage: &mut Stage) {
        if self.office.doubt {
            if self.office.reads == Reads::Soon {
                self.scheduler.raise(reserved(marks));
                self.office.marked_generation = self.office.marked_generation.max(generation(marks));
                self.office.reads = Reads::All;
            }
            return;
        }
        let own = self.office.mark(self.epoch, self.committed);
        if marks.iter().any(|other| own.is_beside(other)) {
            self.evidence.get_or_insert(self.epoch);
        } else if let Some(mark) = self.office.unproven.take() {
            self.marked(mark, stage);
        } else if self.office.is_renewing {
            self.office.unlooked = 1;
            stage.send(session, Up::Mark(self.renewal()));
        }
    }

    fn leave_mark_if_due(&mut self, stage: &mut Stage) {
        let now = self.clock.wall(stage.now);
        if self.office.marked_at.is_none_or(|since| now < since + MARK_EVERY) {
            return;
        }
        self.office.marked_at = None;
        let Some(session) = self.feed.filter(|_| !self.office.doubt) else { return };
        if self.office.unlooked < UNLOOKED_MAX {
            self.office.unlooked += 1;
            stage.send(session, Up::Mark(self.office.mark(self.epoch, self.committed)));
        }
        // One that was not taken is not told of: the next is tried with it.
        self.office.is_renewing = false;
        self.renew_mark(session, false, stage);
        if self.office.is_renewing {
            self.office.marked_at = Some(now);
        }
    }

    /// Requests wait on the broker while numbers are short, and while there is doubt.
    fn may_accept(&self) -> bool {
        let next = self.scheduler.counters().next_id;
        !self.office.doubt && next + RESERVE / 4 <= self.office.confirmed.next_id
    }

    pub(crate) fn tick(&mut self, stage: &mut Stage) {
        self.leave_mark_if_due(stage);
        self.apply(Input::Ticked, stage);
    }

    fn read(&mut self, queue: Queue, body: &Body, stage: &mut Stage) {
        let heard = match (body, &self.ring) {
            (Body::Several(bodies), _) => return bodies.iter().for_each(|body| self.take(queue, body, stage)),
            (Body::Written(written), Some(ring)) => seal::hear(ring, written, stage),
            (body, _) => return self.take(queue, body, stage),
        };
        for heard in heard {
            match heard {
                Heard::Believed(body) => self.take(queue, &body, stage),
                Heard::Stranger(incarnation, nonce) => {
                    self.strangers.insert((incarnation, nonce));
                    self.is_urgent = true;
                }
            }
        }
    }

    /// Whether the last word of an incarnation is its own, or that of a later one of its worker.
    fn may_part(&self, word: &Ended) -> bool {
        let name_of = |incarnation| self.scheduler.name_of(incarnation);
        let teller = word.told_by.unwrap_or(word.incarnation);
        let is_its_own = teller == word.incarnation || name_of(teller) == Some(&word.worker);
        is_its_own && name_of(word.incarnation).is_none_or(|known| *known == word.worker)
    }

    fn take(&mut self, queue: Queue, body: &Body, stage: &mut Stage) {
        match body {
            Body::Ended(word) if !self.may_part(word) => {}
            Body::Completed(word) => self.apply(completed(word), stage),
            Body::Returned(word) => self.apply(returned(word), stage),
            Body::Heartbeat(heartbeat) => self.apply(Input::Heartbeat(heartbeat.clone()), stage),
            Body::Ended(Ended { incarnation, reason, outcomes, returned: handed_back, told_by, has_more, .. }) => {
                let teller = told_by.unwrap_or(*incarnation);
                let holder = |word: &Completed, scheduler: &Scheduler| scheduler.holder_of(word.key(), word.fence);
                for word in outcomes {
                    if holder(word, &self.scheduler).is_some_and(|holder| holder != *incarnation) {
                        continue;
                    }
                    let word = Completed { incarnation: teller, ..word.clone() };
                    self.apply(completed(&word), stage);
                }
                for word in handed_back {
                    self.apply(returned(word), stage);
                }
                if !has_more {
                    self.apply(Input::IncarnationEnded { incarnation: *incarnation, reason: *reason }, stage);
                }
            }
            Body::StatusChanged(changed) => {
                if let (Some(fence), Status::Running) = (changed.fence, changed.new_status) {
                    let key = changed.key();
                    self.apply(Input::Started { key, fence, started_at: changed.changed_at }, stage);
                }
            }
            Body::Probe(probe) => {
                if probe.generation != self.feed.unwrap_or(usize::MAX) as u64 || probe.nonce != nonce(self.epoch) {
                    return;
                }
                let queue = match queue {
                    Queue::Completions(_) => ProbedQueue::Completions,
                    Queue::Heartbeats(_) => ProbedQueue::Heartbeats,
                    Queue::Requests | Queue::Events(_) | Queue::Worker(_) => return,
                };
                self.apply(Input::Probed { queue, published_at: probe.published_at }, stage);
            }
            Body::Progress(_)
            | Body::Request { .. }
            | Body::Cancel { .. }
            | Body::Greeting(_)
            | Body::Orders(_)
            | Body::Several(_)
            | Body::Written(_) => {}
        }
    }

    /// An operator changes an action.
    pub(crate) fn put(&mut self, operation: usize, row: ActionRow, stage: &mut Stage) {
        let limits = Limits::from(&*row.policy);
        let input = Input::ActionPut { id: row.id, action_ref: row.action_ref.clone(), limits, paused: row.paused };
        self.apply(input, stage);
        self.actions.insert(row.id, row.clone());
        self.pending.actions.retain(|before| before.id != row.id);
        self.pending.actions.push(row);
        self.pending.answers.push(operation);
    }

    // ---- requests ----

    fn look_up(&mut self, stage: &mut Stage) {
        if self.checking.is_none()
            && !self.intake.is_empty()
            && self.may_accept()
            && let Some(session) = self.feed
        {
            self.checking = Some(Checking { deliveries: self.intake.drain(..).collect(), seen_batch: self.committed });
            let delay = stage.chance.spread(100, 5_000);
            stage.after(delay, Event::LookUp { executor: self.executor, life: self.life, session });
        }
    }

    /// The requests that are being looked up.
    pub(crate) fn sought(&self, session: SessionId) -> Option<Vec<usize>> {
        let checking = self.checking.as_ref().filter(|_| self.feed == Some(session))?;
        Some(checking.deliveries.iter().filter_map(|(_, body)| number(body)).collect())
    }

    pub(crate) fn admit(&mut self, session: SessionId, known: &[Option<ExecutionId>], stage: &mut Stage) {
        if self.feed != Some(session) {
            // Of a session that is over: unacked, it comes again, in its place.
            return;
        }
        let Some(Checking { deliveries, seen_batch }) = self.checking.take() else { return };
        self.recent.retain(|_, (_, batch)| *batch > seen_batch);
        self.is_urgent = true;
        for ((tag, body), known) in deliveries.into_iter().zip(known) {
            self.requests = Some(tag);
            let Some(number) = number(&body) else { continue };
            let known = known.or_else(|| self.recent.get(&number).map(|(id, _)| *id));
            match (&*body, known) {
                (Body::Cancel { .. }, Some(id)) => {
                    self.apply(Input::CancelRequested { id, reason: None }, stage);
                }
                (Body::Request { .. }, Some(_)) => self.pending.repeated.push(number),
                (Body::Request { .. }, None) => self.request(number, stage),
                (_, _) => {}
            }
        }
        self.look_up(stage);
    }

    fn request(&mut self, number: usize, stage: &mut Stage) {
        let token = self.next_token;
        self.next_token += 1;
        let plan = &stage.plans[number];
        let (action, key) = (plan.action, plan.key.clone());
        self.pending.requests.insert(token, number);
        let id = ExecutionId(self.scheduler.counters().next_id);
        self.apply(Input::Requested { token, action: crate::journal::action_id(action), key }, stage);
        if self.scheduler.counters().next_id > id.0 {
            self.recent.insert(number, (id, self.batch + 1));
        }
    }

    // ---- commits ----

    pub(crate) fn cut(&mut self, stage: &mut Stage) {
        let now = self.clock.wall(stage.now);
        let lazily_due = self.lazy_since.is_some_and(|since| since + LAZY <= now);
        let has_room = self.flight.is_none() || self.next.is_none() && self.inputs >= WORTH_A_BATCH;
        if !has_room || !(self.is_urgent || lazily_due) {
            return;
        }
        self.inputs = 0;
        self.is_urgent = false;
        self.lazy_since = None;
        let (batch, cargo) = self.pack(now, stage);
        let effects = &cargo.effects;
        let speaks_for_itself = batch.is_empty()
            && effects.orders.is_empty()
            && effects.hello.is_none()
            && effects.greetings.is_empty()
            && cargo.introductions.is_empty();
        if speaks_for_itself && self.flight.is_none() {
            return self.release(cargo, stage);
        }
        self.batch += 1;
        let batch = Batch { number: self.batch, ..batch };
        if self.flight.is_some() {
            self.next = Some((batch, cargo));
        } else {
            self.commit(batch, cargo, stage);
        }
    }

    fn commit(&mut self, batch: Batch, cargo: Cargo, stage: &mut Stage) {
        let slow = slowness(stage);
        if stage.mistake == Some(Mistake::SpeaksBeforeItCommits) {
            self.release(cargo, stage);
            self.flight = Some(Cargo::empty());
        } else {
            self.flight = Some(cargo);
        }
        stage.ask(self.db, Ask::Commit(Box::new(batch)), slow);
    }

    fn pack(&mut self, now: Timestamp, stage: &mut Stage) -> (Batch, Cargo) {
        let mut effects = self.scheduler.take_effects();
        let mut accepted = Vec::new();
        let mut answered = std::mem::take(&mut self.pending.repeated);
        for one in std::mem::take(&mut effects.accepted) {
            let Some(number) = self.pending.requests.remove(&one.token) else { continue };
            effects.changed.remove(&one.id);
            let snapshot = self.scheduler.snapshot(one.id).or_else(|| accepted_and_settled(&effects, one.id, now));
            let Some(snapshot) = snapshot else { continue };
            accepted.push((snapshot, number));
            answered.push(number);
            self.bodies.insert(one.id, number);
        }
        let mut recovered = Vec::new();
        for one in effects.missing.take().unwrap_or_default().recovered {
            let id = one.shown.execution_id;
            effects.changed.remove(&id);
            let Ok(number) = one.shown.parameters.get().parse() else { continue };
            let snapshot = self.scheduler.snapshot(id).or_else(|| accepted_and_settled(&effects, id, now));
            let Some(snapshot) = snapshot else { continue };
            recovered.push((snapshot, number));
            self.bodies.insert(id, number);
        }
        let mut refused = std::mem::take(&mut self.pending.refused);
        for one in &effects.refused {
            if let Some(number) = self.pending.requests.remove(&one.token) {
                refused.push(number);
                // Told or not, it has lost its turn.
                stage.record(Fact::Refused { request: stage.requests[number].clone() });
            }
        }
        let mut bodies = BTreeMap::new();
        for sent in &effects.orders {
            if let slotline_scheduler::Order::Dispatch(dispatch) = &sent.order
                && let Some(number) = self.bodies.get(&dispatch.id)
            {
                bodies.insert(dispatch.id, *number);
            }
        }
        for settled in &effects.settled {
            self.bodies.remove(&settled.id);
        }
        let strangers = std::mem::take(&mut self.strangers).into_iter();
        // Numbered after the scheduler's own orders, since they leave after them.
        let introductions =
            strangers.map(|(incarnation, nonce)| (incarnation, nonce, self.scheduler.number_order())).collect();
        let batch = Batch {
            cut_at: stage.now,
            epoch: self.epoch,
            number: 0,
            counters: self.scheduler.counters(),
            actions: std::mem::take(&mut self.pending.actions),
            accepted,
            recovered,
            live: effects.changed.iter().filter_map(|id| self.scheduler.snapshot(*id)).collect(),
            settled: effects.settled.iter().map(|settled| (settled.id, settled.status)).collect(),
            ended: effects.ended_incarnations.iter().map(|departed| departed.incarnation).collect(),
            attempts: effects.attempts.len(),
        };
        let cargo = Cargo {
            probe: effects.probe.then_some(now),
            effects,
            answers: std::mem::take(&mut self.pending.answers),
            answered,
            refused,
            acks: std::mem::take(&mut self.acks),
            request_ack: self.requests.take(),
            generation: self.feed,
            bodies,
            next: batch.counters,
            introductions,
        };
        (batch, cargo)
    }

    pub(crate) fn landed(&mut self, batch: i64, stage: &mut Stage) {
        debug_assert_eq!(batch, self.committed + 1, "one commit is under way at a time");
        self.committed = batch;
        let cargo = self.flight.take();
        if let Some(cargo) = &cargo {
            self.office.next = cargo.next;
            self.office.marked_at.get_or_insert(self.clock.wall(stage.now));
        }
        if let Some(session) = self.feed {
            self.renew_mark(session, false, stage);
        }
        if let Some((batch, cargo)) = self.next.take() {
            self.commit(batch, cargo, stage);
        }
        if let Some(cargo) = cargo {
            self.release(cargo, stage);
            self.flush(stage);
        }
    }

    /// Lets out what a commit has made true.
    fn release(&mut self, cargo: Cargo, stage: &mut Stage) {
        let Cargo {
            effects,
            answers,
            answered,
            refused,
            acks,
            request_ack,
            generation,
            probe,
            bodies,
            introductions,
            ..
        } = cargo;
        stage.operated.extend(answers.into_iter().map(|operation| (self.site, operation)));
        let Some(session) = self.feed else { return };
        let bag = Mailbag {
            epoch: self.epoch,
            terms: self.terms,
            actions: &self.actions,
            bodies: &bodies,
            stage,
            journal: lineage(self.office.standing.generation),
            wants_accounts: self.office.doubt,
        };
        self.outgoing.extend(bag.write(&effects, introductions));
        let mut letters = Vec::new();
        letters.extend(
            answered.into_iter().map(|number| Letter::Said(Fact::Answered { request: stage.requests[number].clone() })),
        );
        letters.extend(
            refused.into_iter().map(|number| Letter::Said(Fact::Refused { request: stage.requests[number].clone() })),
        );
        if let Some(published_at) = probe {
            for queue in [Queue::Completions(self.epoch), Queue::Heartbeats(self.epoch)] {
                let probe = Probe { generation: session as u64, nonce: nonce(self.epoch), published_at };
                letters.push(Letter::Probe { queue, probe });
            }
        }
        if generation == Some(session) {
            letters.extend(acks.into_iter().map(|(queue, tag)| Letter::Ack { queue, tag }));
            letters.extend(request_ack.map(|tag| Letter::Ack { queue: Queue::Requests, tag }));
        }
        self.outgoing.extend(letters);
        self.flush(stage);
    }

    /// Sends what is to leave, until something strikes.
    pub(crate) fn flush(&mut self, stage: &mut Stage) {
        let node = Node::Executor(self.executor);
        while let Some(letter) = self.outgoing.pop_front() {
            let Some(session) = self.feed else {
                self.outgoing.clear();
                return;
            };
            letter.send(session, self.site, self.ring.as_ref(), stage);
            if stage.strikes_between(node) {
                return;
            }
        }
    }

    /// A commit failed, or nobody knows: nothing leaves, unless by mistake.
    pub(crate) fn guess(&mut self, stage: &mut Stage) {
        if stage.mistake == Some(Mistake::GuessesAtCommits)
            && let Some(cargo) = self.flight.take()
        {
            self.release(cargo, stage);
        }
    }
}

impl Cargo {
    fn empty() -> Self {
        Self {
            effects: Effects::default(),
            answers: Vec::new(),
            answered: Vec::new(),
            refused: Vec::new(),
            acks: Vec::new(),
            request_ack: None,
            generation: None,
            probe: None,
            bodies: BTreeMap::new(),
            next: Counters::default(),
            introductions: Vec::new(),
        }
    }
}

fn number(body: &Body) -> Option<usize> {
    match body {
        Body::Request { number } | Body::Cancel { number } => Some(*number),
        Body::Greeting(_)
        | Body::Orders(_)
        | Body::Completed(_)
        | Body::Returned(_)
        | Body::Heartbeat(_)
        | Body::Ended(_)
        | Body::StatusChanged(_)
        | Body::Progress(_)
        | Body::Probe(_)
        | Body::Several(_)
        | Body::Written(_) => None,
    }
}

/// There is one journal.
fn lineage(generation: u64) -> Lineage {
    Lineage { identity: Uuid::from_u128(1), generation }
}

fn nonce(epoch: Epoch) -> Uuid {
    Uuid::from_u128(epoch.0.unsigned_abs().into())
}

fn completed(word: &Completed) -> Input {
    Input::Completed {
        key: word.key(),
        fence: word.fence,
        incarnation: word.incarnation,
        outcome: Outcome {
            kind: word.status,
            result: word.result.clone(),
            error: word.error.clone(),
            started_at: word.started_at,
            ended_at: word.completed_at,
        },
    }
}

fn returned(word: &Returned) -> Input {
    Input::Returned {
        key: (word.execution_id, word.attempt),
        fence: word.fence,
        incarnation: word.incarnation,
        started: word.started,
        reason: word.reason.clone(),
    }
}

/// An execution that was cancelled in the very batch that accepted it: the journal still gets its row first.
fn accepted_and_settled(effects: &Effects, id: ExecutionId, now: Timestamp) -> Option<Snapshot> {
    let settled = effects.settled.iter().find(|settled| settled.id == id)?;
    Some(Snapshot {
        id,
        action: settled.action,
        key: None,
        status: Status::Queued,
        place: id.0,
        attempt: settled.attempt,
        tried: 0,
        failures: settled.failures,
        losses: settled.losses,
        enqueued_at: now,
        queued_at: now,
        not_before: None,
        keeps_slot: false,
        cancel_requested: false,
        lease: None,
    })
}

fn trace(input: &Input, executor: usize, stage: &mut Stage) {
    let line = match input {
        Input::Ticked | Input::Probed { .. } => return,
        Input::Heartbeat(beat) => format!(
            "heartbeat of {}: holding {:?}, unrecorded {:?}, seen {:?}",
            crate::broker::short(beat.incarnation),
            beat.holding,
            beat.unrecorded,
            beat.seen
        ),
        Input::Completed { key, fence, incarnation, outcome } => {
            let worker = crate::broker::short(*incarnation);
            format!("{}/{} (fence {fence}) ended as {} on {worker}", key.0, key.1, outcome.kind)
        }
        Input::Requested { .. }
        | Input::ActionPut { .. }
        | Input::ActionDeleted { .. }
        | Input::CancelRequested { .. }
        | Input::Started { .. }
        | Input::Returned { .. }
        | Input::IncarnationEnded { .. }
        | Input::OrderReturned { .. }
        | Input::SessionOpened => format!("{input:?}"),
    };
    stage.trace(|| format!("executor {executor} <- {line}"));
}
