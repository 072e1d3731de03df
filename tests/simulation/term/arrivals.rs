//! What reaches a leader: what workers say, read, and requests, looked up.
//!
//! As `crates/executor/src/{feed,inbox,intake}.rs` do it, where messages are not written out.

use std::rc::Rc;

use slotline_broker::Tag;
use slotline_executor::leader::{Arrival, Asked, Checked, Input, Item, Member, Source, Target};
use slotline_protocol::message::EndReason;
use slotline_protocol::{By, Incarnation, Sizes};
use slotline_scheduler::ProbedQueue;
use slotline_store::Known;

use super::{Term, nonce};
use crate::plan::Mistake;
use crate::seal::{self, Heard};
use crate::stage::{Event, Stage};
use crate::wire::{self, Body, Queue, SessionId, Up};

/// Groups of checked requests that may wait for the leader.
const CHECKED_MAX: usize = 4;

/// Deliveries that are being looked up, and the last batch that was committed before.
pub(super) struct Checking {
    deliveries: Vec<(wire::Tag, Rc<Body>)>,
    seen_batch: i64,
}

impl Term {
    /// The queues of this session are consumed from here on.
    pub(crate) fn feeds(&mut self, session: SessionId, stage: &mut Stage) {
        (self.opening, self.feed) = (None, Some(session));
        self.handle(Input::SessionOpened { session: session as u64, sizes: Sizes::FULL }, stage);
    }

    pub(crate) fn deliver(&mut self, queue: Queue, tag: wire::Tag, body: Rc<Body>, stage: &mut Stage) {
        let Some(session) = self.feed else { return };
        let source = match queue {
            Queue::Requests => {
                if stage.mistake == Some(Mistake::AcksBeforeItCommits) {
                    stage.send(session, Up::Ack { queue, tag });
                }
                self.intake.push_back((tag, body));
                return self.look_up(stage);
            }
            Queue::Completions(_) => Source::Completions,
            Queue::Heartbeats(_) => Source::Heartbeats,
            Queue::Events(_) | Queue::Worker(_) => Source::Events,
        };
        let items = self.read(source, &body, stage);
        let arrivals = if source == Source::Events { &mut self.events } else { &mut self.urgent };
        arrivals.push_back(Arrival::of(source, Tag::new(0, tag), items));
    }

    /// An order that came back is taken for the end of its incarnation.
    pub(super) fn lose(&mut self, incarnation: Incarnation, stage: &mut Stage) {
        let reason = EndReason::Replaced;
        let ended = Item::Input(slotline_scheduler::Input::IncarnationEnded { incarnation, reason });
        self.handle(Input::Arrived(Arrival::of(Source::Heartbeats, Tag::new(0, 0), vec![ended])), stage);
    }

    // ---- what workers say ----

    fn read(&self, source: Source, body: &Body, stage: &mut Stage) -> Vec<Item> {
        if stage.is_traced() {
            trace(body, self.executor, stage);
        }
        let (Body::Written(written), Some(ring)) = (body, &self.ring) else {
            return self.items(source, body, None, stage);
        };
        let heard = seal::hear(ring, written, stage).into_iter();
        let items = heard.flat_map(|heard| match heard {
            Heard::Believed(body, by) => self.items(source, &body, by, stage),
            Heard::Stranger(incarnation, nonce) => vec![Item::Stranger { incarnation, nonce }],
        });
        items.collect()
    }

    fn items(&self, source: Source, body: &Body, by: Option<Incarnation>, stage: &Stage) -> Vec<Item> {
        let received_at = self.now(stage);
        match body {
            Body::Completed(word) => vec![Item::completed(word.clone())],
            Body::Returned(word) => vec![Item::returned(word.clone(), received_at)],
            Body::Heartbeat(heartbeat) => vec![Item::Input(slotline_scheduler::Input::Heartbeat(heartbeat.clone()))],
            Body::Ended(word) => vec![Item::parting(word.clone(), received_at)],
            Body::StatusChanged(word) => by.map_or_else(Vec::new, |by| Item::status_changed(word, by)),
            Body::Progress(word) => by.map(|by| Item::progress(word.clone(), by)).into_iter().collect(),
            Body::Probe(probe) => {
                let is_own =
                    probe.generation == self.feed.unwrap_or(usize::MAX) as u64 && probe.nonce == nonce(self.epoch);
                let queue = match source {
                    Source::Completions => ProbedQueue::Completions,
                    Source::Heartbeats | Source::Events | Source::Calls => ProbedQueue::Heartbeats,
                };
                let probed = slotline_scheduler::Input::Probed { queue, published_at: probe.published_at };
                is_own.then_some(Item::Input(probed)).into_iter().collect()
            }
            Body::Of(by, body) => self.items(source, body, Some(*by), stage),
            Body::Several(bodies) => bodies.iter().flat_map(|body| self.items(source, body, by, stage)).collect(),
            Body::Request { .. } | Body::Cancel { .. } | Body::Greeting(_) | Body::Orders(_) | Body::Written(_) => {
                Vec::new()
            }
        }
    }

    /// Whether anything has arrived that the leader has room for.
    pub(super) fn has_something_to_take(&self) -> bool {
        let has_room = self.leader.has_room() && !(self.urgent.is_empty() && self.events.is_empty());
        has_room || self.leader.takes_requests() && !self.checked.is_empty()
    }

    /// Adds to the batch what has arrived already. Events can wait for the next turn where something urgent does not.
    pub(super) fn take_what_is_there(&mut self, stage: &mut Stage) {
        while stage.struck.is_none() {
            let has_room = self.leader.has_room();
            let has_time = !self.leader.is_urgent() || self.is_flying();
            if has_room && let Some(arrival) = self.urgent.pop_front() {
                self.handle(Input::Arrived(arrival), stage);
            } else if self.leader.takes_requests()
                && let Some(checked) = self.checked.pop_front()
            {
                self.handle(Input::Checked(checked), stage);
                self.look_up(stage);
            } else if has_room
                && has_time
                && let Some(arrival) = self.events.pop_front()
            {
                self.handle(Input::Arrived(arrival), stage);
            } else {
                return;
            }
        }
    }

    // ---- requests ----

    fn look_up(&mut self, stage: &mut Stage) {
        if self.checking.is_none()
            && !self.intake.is_empty()
            && self.checked.len() < CHECKED_MAX
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

    /// They were found, or were not.
    pub(crate) fn found(&mut self, session: SessionId, known: Vec<Option<Known>>, stage: &mut Stage) {
        if self.feed != Some(session) || self.end.is_some() {
            return;
        }
        let Some(Checking { deliveries, seen_batch }) = self.checking.take() else { return };
        let tag = deliveries.last().map(|(tag, _)| Tag::new(0, *tag));
        let members = deliveries.iter().zip(known).filter_map(|((_, body), known)| self.member(body, known, stage));
        let members = members.collect();
        self.checked.push_back(Checked { generation: session as u64, seen_batch, members, tag });
        self.look_up(stage);
    }

    fn member(&self, body: &Body, known: Option<Known>, stage: &Stage) -> Option<Member> {
        let number = number(body)?;
        let request = stage.read[number].clone();
        if matches!(body, Body::Cancel { .. }) {
            let target = Target { name: request.name.clone()?, known };
            return Some(Member::Cancel { target, by: By::publisher(None, None) });
        }
        let plan = &stage.plans[number];
        let action_ref = crate::journal::action_ref(plan.action);
        let action = self.registry.get(&action_ref)?.action.action_id;
        let asked = Asked { action_ref, key: plan.key.clone(), request, came: stage.came.clone() };
        Some(Member::Request { action, asked, known })
    }
}

fn number(body: &Body) -> Option<usize> {
    match body {
        Body::Request { number } | Body::Cancel { number } => Some(*number),
        _ => None,
    }
}

fn trace(body: &Body, executor: usize, stage: &mut Stage) {
    let line = match body {
        Body::Probe(_) => return,
        Body::Of(_, body) => return trace(body, executor, stage),
        Body::Several(bodies) => return bodies.iter().for_each(|body| trace(body, executor, stage)),
        Body::Heartbeat(beat) => format!(
            "heartbeat of {}: holding {:?}, unrecorded {:?}, seen {:?}",
            crate::broker::short(beat.incarnation),
            beat.holding,
            beat.unrecorded,
            beat.seen
        ),
        Body::Completed(word) => {
            let worker = crate::broker::short(word.incarnation);
            let (id, attempt) = word.key();
            format!("{id}/{attempt} (fence {}) ended as {} on {worker}", word.fence, word.status)
        }
        Body::Ended(word) => format!("{word:?}"),
        body => crate::broker::kind(body),
    };
    stage.trace(|| format!("executor {executor} <- {line}"));
}
