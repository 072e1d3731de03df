//! The broker as data: queues, consumers, confirms, and what it forgets when it is hurt.
//!
//! Like RabbitMQ: what a consumer did not ack goes back to its place when its session ends; the requests queue has one
//! active consumer at a time and survives everything; all else is transient and may be gone at any moment.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use slotline_executor::leader::{Mark, Marks};
use slotline_protocol::Incarnation;

use crate::chance::Chance;
use crate::clock::{MS, SECOND};
use crate::faults::Node;
use crate::history::Fact;
use crate::plan::Mistake;
use crate::stage::{Event, Side, Stage, Why};
use crate::wire::{Body, Down, Queue as Name, Route, SessionId, Tag, Up, Verdict};

pub(crate) struct Broker {
    pub(crate) is_up: bool,
    /// Since when it stands still; what arrives meanwhile waits.
    pub(crate) frozen: Option<u64>,
    waiting: Vec<(SessionId, Up)>,
    is_blocked: bool,
    blocked: Vec<(SessionId, Up)>,
    pub(crate) is_refusing: bool,
    /// Whose heartbeats find a full queue.
    pub(crate) refused: Option<usize>,
    queues: BTreeMap<Name, Queue>,
    enqueued: Vec<bool>,
    pub(crate) marks: VecDeque<Rc<Mark>>,
    /// As which incarnation a session consumes.
    serving: BTreeMap<SessionId, Incarnation>,
}

/// Requests that a leader has at once: few, so that others wait behind them as they would behind a thousand.
const PREFETCH: usize = 4;
/// The most marks that are kept.
pub(crate) const MARKS_MAX: usize = 8;

#[derive(Default)]
struct Queue {
    ready: VecDeque<Stored>,
    last_place: Tag,
    /// In the order in which they came.
    consumers: Vec<Consumer>,
    turn: usize,
}

struct Stored {
    place: Tag,
    body: Rc<Body>,
}

struct Consumer {
    session: SessionId,
    unacked: VecDeque<Stored>,
}

impl Broker {
    pub(crate) fn new(requests: usize) -> Self {
        Self {
            is_up: true,
            frozen: None,
            waiting: Vec::new(),
            is_blocked: false,
            blocked: Vec::new(),
            is_refusing: false,
            refused: None,
            queues: BTreeMap::from([(Name::Requests, Queue::default())]),
            enqueued: vec![false; requests],
            marks: VecDeque::new(),
            serving: BTreeMap::new(),
        }
    }

    pub(crate) fn accepts_sessions(&self) -> bool {
        self.is_up && self.frozen.is_none()
    }

    pub(crate) fn arrive(&mut self, session: SessionId, up: Up, stage: &mut Stage) {
        if self.frozen.is_some() {
            self.waiting.push((session, up));
            return;
        }
        if !stage.sessions[session].broker_up {
            return;
        }
        match up {
            Up::Publish { .. } | Up::Mark { .. } if self.is_blocked => self.blocked.push((session, up)),
            Up::Publish { seq, route, body, mandatory } => {
                let finds_it_full = route == Route::Heartbeats
                    && self.refused.is_some_and(|worker| stage.sessions[session].owner == Node::Worker(worker));
                let verdict = match finds_it_full {
                    true => Verdict::Refused,
                    false if route == Route::Events => {
                        self.publish(route, self.signed(session, body), mandatory, stage)
                    }
                    false => self.publish(route, body, mandatory, stage),
                };
                stage.deliver(session, Down::Confirmed { seq, verdict });
            }
            Up::Ack { queue, tag } => self.ack(queue, session, tag, stage),
            Up::Lead { epoch } => {
                for queue in [Name::Completions(epoch), Name::Heartbeats(epoch), Name::Events(epoch)] {
                    self.queues.entry(queue).or_default();
                }
                stage.deliver(session, Down::Leading { epoch });
                for queue in [Name::Completions(epoch), Name::Heartbeats(epoch), Name::Events(epoch), Name::Requests] {
                    self.consume(queue, session, stage);
                }
            }
            Up::Serve { incarnation, former } => {
                self.serving.insert(session, incarnation);
                let queue = Name::Worker(incarnation);
                self.queues.entry(queue).or_default();
                stage.deliver(session, Down::Serving { incarnation });
                if let Some(former) = former {
                    self.delete(Name::Worker(former), Some(session), stage);
                }
                self.consume(queue, session, stage);
            }
            Up::Delete { queue } => self.delete(queue, Some(session), stage),
            Up::Mark { mark, asks } => {
                if !self.is_refusing {
                    self.marks.push_back(mark);
                    if self.marks.len() > MARKS_MAX {
                        self.marks.pop_front();
                    }
                }
                if asks {
                    stage.deliver(session, Down::Marked(!self.is_refusing));
                }
            }
            Up::ReadMarks => {
                let marks = Marks::of(self.marks.iter().map(|mark| Mark::clone(mark)).collect());
                stage.deliver(session, Down::Marks(Rc::new(marks)));
            }
            Up::Close => self.end_session(session, stage),
        }
    }

    /// What an incarnation says of its attempts bears its name, where nothing proves it.
    fn signed(&self, session: SessionId, body: Rc<Body>) -> Rc<Body> {
        match (&*body, self.serving.get(&session)) {
            (Body::Written(_), _) | (_, None) => body,
            (_, Some(by)) => Rc::new(Body::Of(*by, body)),
        }
    }

    fn publish(&mut self, route: Route, body: Rc<Body>, mandatory: bool, stage: &mut Stage) -> Verdict {
        if self.is_refusing {
            return Verdict::Refused;
        }
        let to: Vec<Name> = match route {
            Route::To(queue) => self.queues.contains_key(&queue).then_some(queue).into_iter().collect(),
            Route::Requests => vec![Name::Requests],
            Route::Completions => self.bound(|name| matches!(name, Name::Completions(_))),
            Route::Heartbeats => self.bound(|name| matches!(name, Name::Heartbeats(_))),
            Route::Events => self.bound(|name| matches!(name, Name::Events(_))),
            Route::Workers => self.bound(|name| matches!(name, Name::Worker(_))),
        };
        if to.is_empty() {
            return if mandatory { Verdict::Returned } else { Verdict::Stored };
        }
        for queue in to {
            self.store(queue, &body, stage);
        }
        Verdict::Stored
    }

    fn bound(&self, is_bound: impl Fn(&Name) -> bool) -> Vec<Name> {
        self.queues.keys().copied().filter(is_bound).collect()
    }

    fn store(&mut self, queue: Name, body: &Rc<Body>, stage: &mut Stage) {
        if queue == Name::Requests {
            if let Body::Request { number } = **body
                && !std::mem::replace(&mut self.enqueued[number], true)
            {
                let request = stage.requests[number].clone();
                stage.record(Fact::Enqueued { request });
            }
        } else if stage.chance.parts(stage.rates.dropped) {
            stage.trace(|| format!("the broker loses a message of {queue:?}: {}", kind(body)));
            return;
        }
        self.put(queue, body.clone(), stage);
        if stage.chance.parts(stage.rates.duplicated) {
            let delay = stage.chance.spread(MS, 30 * SECOND);
            stage.after(delay, Event::Duplicate { queue, body: body.clone() });
        }
    }

    /// A stranger without a session here publishes.
    pub(crate) fn inject(&mut self, route: Route, body: Body, stage: &mut Stage) {
        if self.is_up && self.frozen.is_none() {
            stage.trace(|| format!("into {route:?} comes {}", kind(&body)));
            self.publish(route, Rc::new(body), false, stage);
        }
    }

    /// A second copy turns up.
    pub(crate) fn duplicate(&mut self, queue: Name, body: Rc<Body>, stage: &mut Stage) {
        if self.is_up && self.frozen.is_none() && self.queues.contains_key(&queue) {
            stage.trace(|| format!("a second copy turns up in {queue:?}: {}", kind(&body)));
            self.put(queue, body, stage);
        }
    }

    fn put(&mut self, name: Name, body: Rc<Body>, stage: &mut Stage) {
        let Some(queue) = self.queues.get_mut(&name) else { return };
        queue.last_place += 1;
        queue.ready.push_back(Stored { place: queue.last_place, body });
        self.hand_out(name, stage);
    }

    fn consume(&mut self, name: Name, session: SessionId, stage: &mut Stage) {
        let Some(queue) = self.queues.get_mut(&name) else { return };
        queue.consumers.push(Consumer { session, unacked: VecDeque::new() });
        self.hand_out(name, stage);
    }

    fn hand_out(&mut self, name: Name, stage: &mut Stage) {
        let Some(queue) = self.queues.get_mut(&name) else { return };
        if queue.consumers.is_empty() {
            return;
        }
        while let Some(stored) = queue.ready.pop_front() {
            if name == Name::Requests && queue.consumers[0].unacked.len() >= PREFETCH {
                queue.ready.push_front(stored);
                return;
            }
            let index = if name == Name::Requests {
                // The first is the active one, for as long as it is there.
                0
            } else {
                queue.turn = (queue.turn + 1) % queue.consumers.len();
                queue.turn
            };
            let consumer = &mut queue.consumers[index];
            let down = Down::Delivered { queue: name, tag: stored.place, body: stored.body.clone() };
            stage.deliver(consumer.session, down);
            consumer.unacked.push_back(stored);
        }
    }

    fn ack(&mut self, name: Name, session: SessionId, tag: Tag, stage: &mut Stage) {
        let Some(queue) = self.queues.get_mut(&name) else { return };
        if let Some(consumer) = queue.consumers.iter_mut().find(|consumer| consumer.session == session) {
            while consumer.unacked.pop_front_if(|stored| stored.place <= tag).is_some() {}
        }
        if name == Name::Requests {
            self.hand_out(name, stage);
        }
    }

    /// The broker's side of a session ends: what it did not ack goes back to its place.
    pub(crate) fn end_session(&mut self, session: SessionId, stage: &mut Stage) {
        if !std::mem::replace(&mut stage.sessions[session].broker_up, false) {
            return;
        }
        let names: Vec<Name> = self.queues.keys().copied().collect();
        for name in names {
            self.cancel(name, session, stage);
        }
        stage.deliver(session, Down::Closed);
    }

    fn cancel(&mut self, name: Name, session: SessionId, stage: &mut Stage) {
        let Some(queue) = self.queues.get_mut(&name) else { return };
        let mut returned = Vec::new();
        queue.consumers.retain_mut(|consumer| {
            if consumer.session == session {
                returned.extend(consumer.unacked.drain(..));
            }
            consumer.session != session
        });
        if !returned.is_empty() {
            if stage.mistake == Some(Mistake::ReturnsToTheEnd) {
                queue.ready.extend(returned);
            } else {
                returned.extend(queue.ready.drain(..));
                returned.sort_by_key(|stored| stored.place);
                queue.ready = returned.into();
            }
        }
        self.hand_out(name, stage);
    }

    fn delete(&mut self, name: Name, by: Option<SessionId>, stage: &mut Stage) {
        let Some(queue) = self.queues.remove(&name) else { return };
        for consumer in queue.consumers {
            // A client drops its session when the broker cancels its consumer, but for one it deletes itself.
            if Some(consumer.session) != by {
                self.end_session(consumer.session, stage);
            }
        }
    }

    // ---- what hurts ----

    pub(crate) fn stop(&mut self, stage: &mut Stage) {
        self.is_up = false;
        self.thaw(stage);
        for session in 0..stage.sessions.len() {
            self.end_session(session, stage);
        }
        for (name, queue) in &mut self.queues {
            if *name != Name::Requests {
                queue.ready.clear();
            }
        }
        self.blocked.clear();
    }

    pub(crate) fn freeze(&mut self, stage: &mut Stage) {
        let since = *self.frozen.get_or_insert(stage.now);
        for session in 0..stage.sessions.len() {
            if stage.sessions[session].client_up {
                stage.suspect(session, Side::Client, Why::FrozenSince(since));
            }
        }
    }

    pub(crate) fn thaw(&mut self, stage: &mut Stage) {
        self.frozen = None;
        for (session, up) in std::mem::take(&mut self.waiting) {
            self.arrive(session, up, stage);
        }
    }

    pub(crate) fn block(&mut self) {
        self.is_blocked = true;
    }

    pub(crate) fn unblock(&mut self, stage: &mut Stage) {
        self.is_blocked = false;
        for (session, up) in std::mem::take(&mut self.blocked) {
            self.arrive(session, up, stage);
        }
    }

    /// Forgets every queue but the one that is the publishers' receipt; the marks only `with_marks`, which is not where the
    /// journal goes back as well: of what both forget only workers can tell, and those may have ended. That is no promise.
    pub(crate) fn empty(&mut self, with_marks: bool, stage: &mut Stage) {
        if with_marks {
            self.marks.clear();
        }
        for name in self.bound(|name| *name != Name::Requests) {
            self.delete(name, None, stage);
        }
    }

    /// Deletes the queues of all workers, without a word to anybody.
    pub(crate) fn empty_workers(&mut self, stage: &mut Stage) {
        for name in self.bound(|name| matches!(name, Name::Worker(_))) {
            self.delete(name, None, stage);
        }
    }

    pub(crate) fn lose_queue(&mut self, which: u64, stage: &mut Stage) {
        let names = self.bound(|name| *name != Name::Requests);
        if !names.is_empty() {
            let name = names[Chance::new(which).index(names.len())];
            stage.trace(|| format!("the broker deletes {name:?}"));
            self.delete(name, None, stage);
        }
    }

    pub(crate) fn cancel_consumers(&mut self, which: u64, stage: &mut Stage) {
        let names = self.bound(|_| true);
        let name = names[Chance::new(which).index(names.len())];
        let sessions: Vec<_> = self.queues[&name].consumers.iter().map(|consumer| consumer.session).collect();
        stage.trace(|| format!("the broker cancels the consumers of {name:?}"));
        for session in sessions {
            self.end_session(session, stage);
        }
    }

    pub(crate) fn reset(&mut self, node: Node, stage: &mut Stage) {
        for session in 0..stage.sessions.len() {
            if stage.sessions[session].owner == node {
                self.end_session(session, stage);
            }
        }
    }
}

pub(crate) fn kind(body: &Body) -> String {
    match body {
        Body::Request { number } => format!("request r{number}"),
        Body::Cancel { number } => format!("cancel r{number}"),
        Body::Greeting(epoch) => format!("greeting of epoch {epoch}"),
        Body::Orders(orders) => format!("{} order(s) from {:?}", orders.len(), orders.first().map(|one| one.number())),
        Body::Completed(word) => format!("completed {}/{}", word.execution_id, word.key().1),
        Body::Returned(word) => format!("returned {}/{}", word.execution_id, word.attempt),
        Body::Heartbeat(_) => "heartbeat".to_owned(),
        Body::Ended(word) => format!("last word of {}", short(word.incarnation)),
        Body::StatusChanged(word) => format!("status of {}/{}", word.execution_id, word.key().1),
        Body::Progress(word) => format!("progress of {}/{}", word.execution_id, word.key().1),
        Body::Probe(_) => "probe".to_owned(),
        Body::Of(_, body) => kind(body),
        Body::Several(bodies) => {
            format!("{} of {}", bodies.len(), bodies.first().map(|one| kind(one)).unwrap_or_default())
        }
        Body::Written(written) if written.is_lie => format!("a lie: {}", written.message_type),
        Body::Written(written) => format!("{}, written out", written.message_type),
    }
}

/// An incarnation as the simulation counts them.
pub(crate) fn short(incarnation: Incarnation) -> String {
    let number = incarnation.0.as_u128();
    format!("w{}.{}", number >> 64, number & u128::from(u32::MAX))
}
