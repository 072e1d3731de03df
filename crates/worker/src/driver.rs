//! The driver: what a worker does about what happens around its duty book.
//!
//! `(state, now, input) -> actions`, and nothing else: no I/O, no clock, no chance, no logging. It decides when a report is
//! published, kept, sent again or dropped, what an executor's message is worth and when it is acked, under which name the
//! worker goes on, and how it ends. The shell (`run`, `link`, `shared`) owns the clock, the session, the processes and the
//! files: it hands in what happened, carries out [`Driver::next_action`] in order, hands over what the book has deferred
//! ([`Input::Asked`]) until there is no more, and ends the turn ([`Input::TurnEnded`]). The simulator does the same.
//!
//! Attempts begin and end on threads of their own, and tell the [`Book`] directly: the next of a chain waits for that, and
//! not for a turn of the loop.
//!
//! Not here: what is owed for an attempt ([`crate::duty`]).

mod action;
mod archive;
mod book;
mod envelopes;
mod input;
mod outbox;
mod unheard;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Ended, Heartbeat};
use slotline_protocol::proof::Worth;
use slotline_protocol::{Incarnation, Sizes};

pub use action::{AttemptAction, DriverAction, LogLine, OutgoingMessage, WorkerExit};
pub use book::{Book, newest};
pub use envelopes::Envelopes;
pub use input::{Confirm, Input, ReceivedMessage};
use outbox::{Batch, Outbox};
use unheard::Unheard;
pub use wire::{Trace, Wire, WorkerMessage};

use crate::duty::{self, Effect, Now};

/// The state of a worker around its duty book.
#[derive(Clone, Debug)]
pub struct Driver<W> {
    incarnation: Incarnation,
    wire: W,
    /// The queue of the incarnation is consumed through the session there is. Nothing is published otherwise.
    is_open: bool,
    /// What the broker takes.
    sizes: Sizes,
    outbox: Outbox,
    /// What was published and is not confirmed.
    unconfirmed: BTreeMap<u64, Purpose>,
    is_congested: bool,
    unheard: Unheard,
    /// What the next process is to find, and is not written yet.
    kept: Option<Vec<Ended>>,
    /// Why the executor does not take this worker.
    refused: Option<String>,
    /// The book has come to its end; with attempts that ignore theirs.
    finished: Option<Vec<AttemptKey>>,
    /// What the book has asked for; behind the end of an incarnation it waits for the next name, under which it is done.
    asked: VecDeque<Effect>,
    awaits_name: bool,
    actions: VecDeque<DriverAction>,
}

/// What a publication is for, as far as its confirm matters.
#[derive(Clone, Debug, Hash)]
enum Purpose {
    Heartbeat { incarnation: Incarnation, sent: Duration },
    Farewell { incarnation: Incarnation },
    Outcomes,
    Events(Batch),
}

/// Between turns, when all that was asked for is done. The numbers of publications are names, and no part of where it stands.
impl<W: Hash> Hash for Driver<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { incarnation, wire, is_open, sizes, outbox, unconfirmed, is_congested, unheard, refused, .. } = self;
        let Self { kept, finished, asked, awaits_name, actions, .. } = self;
        let is_over = kept.is_none() && finished.is_none() && asked.is_empty() && !awaits_name && actions.is_empty();
        debug_assert!(is_over, "the turn is not over");
        (incarnation, wire, is_open, sizes, outbox, is_congested, unheard, refused, unconfirmed.len()).hash(state);
        unconfirmed.values().for_each(|purpose| purpose.hash(state));
    }
}

impl<W: Wire> Driver<W> {
    /// Under the first name of a process, for which `wire` writes.
    pub fn new(incarnation: Incarnation, wire: W) -> Self {
        Self {
            incarnation,
            wire,
            is_open: false,
            sizes: Sizes::FULL,
            outbox: Outbox::default(),
            unconfirmed: BTreeMap::new(),
            is_congested: false,
            unheard: Unheard::default(),
            kept: None,
            refused: None,
            finished: None,
            asked: VecDeque::new(),
            awaits_name: false,
            actions: VecDeque::new(),
        }
    }

    /// The name under which the worker goes.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub fn wire(&self) -> &W {
        &self.wire
    }

    pub fn wire_mut(&mut self) -> &mut W {
        &mut self.wire
    }

    /// When a `Tick` is due, if nothing happens before. `None`: never.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.outbox.next_deadline()
    }

    /// What is to be done next; each is done before the one after it is asked for.
    pub fn next_action(&mut self) -> Option<DriverAction> {
        self.actions.pop_front()
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Subscribed { incarnation, sizes } => self.subscribed(incarnation, sizes),
            Input::SessionLost => {
                self.is_open = false;
                self.log(LogLine::SessionLost);
            }
            Input::Delivered { incarnation, delivery, is_last } => {
                self.delivered(incarnation, &delivery);
                if is_last {
                    // The book has all of them.
                    self.act(DriverAction::Ack);
                }
            }
            Input::Confirmed { id, confirm } => self.confirmed(now, id, confirm),
            Input::Asked(effects) => {
                self.asked.extend(effects);
                self.do_what_was_asked(now);
            }
            Input::Named { incarnation, nonce } => {
                self.named(incarnation, nonce);
                self.do_what_was_asked(now);
            }
            Input::DrainRequested => {
                self.log(LogLine::Draining);
                self.tell(duty::Input::DrainRequested);
            }
            Input::StopRequested => {
                self.log(LogLine::Stopping);
                self.tell(duty::Input::StopRequested);
            }
            Input::Tick => {
                self.outbox.tick(now.boot);
                self.tell(duty::Input::Tick);
            }
            Input::TurnEnded => self.end_turn(),
        }
    }

    // ---- what arrives ----

    fn subscribed(&mut self, incarnation: Incarnation, sizes: Sizes) {
        if incarnation != self.incarnation {
            // That one ended meanwhile.
            return self.act(DriverAction::Subscribe(self.incarnation));
        }
        self.is_open = true;
        self.sizes = sizes;
        self.log(LogLine::Connected(incarnation));
        self.act(DriverAction::KeepTo(sizes));
        self.tell(duty::Input::SessionOpened { incarnation });
    }

    fn delivered(&mut self, incarnation: Incarnation, delivery: &ReceivedMessage) {
        let Self { wire, actions, .. } = self;
        match wire.judge(delivery) {
            Worth::Nothing => actions.extend(wire.unproven().map(DriverAction::Log)),
            Worth::Hint => actions.push_back(DriverAction::Duty(duty::Input::Hinted { incarnation })),
            worth @ (Worth::Order | Worth::Introduction) => wire.read(delivery, |read| {
                actions.push_back(match (read, worth) {
                    (Ok(order), Worth::Introduction) => {
                        DriverAction::Duty(duty::Input::Introduced { incarnation, order })
                    }
                    (Ok(order), _) => DriverAction::Duty(duty::Input::Ordered { incarnation, order }),
                    (Err(error), _) => DriverAction::Log(LogLine::Unreadable(error)),
                });
            }),
        }
    }

    fn confirmed(&mut self, now: Now, id: u64, confirm: Confirm) {
        let Some(purpose) = self.unconfirmed.remove(&id) else { return };
        match (purpose, confirm) {
            (Purpose::Heartbeat { incarnation, sent }, Confirm::Stored) => {
                self.tell(duty::Input::HeartbeatConfirmed { incarnation, sent });
            }
            (Purpose::Heartbeat { incarnation, .. }, Confirm::Refused) => {
                self.tell(duty::Input::HeartbeatRefused { incarnation });
            }
            (Purpose::Farewell { incarnation }, Confirm::Stored) => {
                self.tell(duty::Input::FarewellConfirmed { incarnation });
            }
            // Sent again in time.
            (Purpose::Heartbeat { .. }, Confirm::Dropped | Confirm::Lost)
            | (Purpose::Farewell { .. }, Confirm::Refused | Confirm::Dropped | Confirm::Lost) => {}
            (Purpose::Outcomes, _) => self.outbox.outcomes_confirmed(),
            (Purpose::Events(_), Confirm::Stored | Confirm::Dropped) => self.outbox.events_confirmed(),
            (Purpose::Events(events), Confirm::Refused) => self.outbox.events_refused(events, now.boot),
            (Purpose::Events(events), Confirm::Lost) => self.outbox.events_lost(events),
        }
    }

    /// Goes on under a new name, which no executor knows yet.
    fn named(&mut self, incarnation: Incarnation, nonce: String) {
        self.awaits_name = false;
        self.log(LogLine::Renamed { former: self.incarnation, next: incarnation });
        self.incarnation = incarnation;
        self.wire.rename(incarnation, nonce);
        self.act(DriverAction::Note(incarnation));
        self.act(DriverAction::Attempt(AttemptAction::Extend { deadline: None }));
        self.tell(duty::Input::NewIncarnation(incarnation));
        if std::mem::take(&mut self.is_open) {
            self.act(DriverAction::Subscribe(incarnation));
        }
    }

    // ---- what the book asks for ----

    fn do_what_was_asked(&mut self, now: Now) {
        while !self.awaits_name
            && let Some(effect) = self.asked.pop_front()
        {
            self.carry_out(now, effect);
        }
    }

    fn carry_out(&mut self, now: Now, effect: Effect) {
        let Self { outbox, wire, .. } = self;
        match effect {
            Effect::Complete(report) => {
                outbox.outcome(WorkerMessage::Completed(&report.message), Trace::of(&report), wire, now.wall);
            }
            Effect::Return(report) => {
                outbox.outcome(WorkerMessage::Returned(&report.message), Trace::of(&report), wire, now.wall);
            }
            Effect::ChangeStatus(report) => outbox.status_changed(&report, wire, now.wall),
            Effect::Progress(report) => outbox.progress(&report, wire, now.wall),
            Effect::Resend { key, action_ref, first, last } => {
                outbox.resend(key, (first, last), &action_ref, wire, now.wall);
            }
            Effect::Beat { heartbeat, sent } => self.beat(now, &heartbeat, sent),
            Effect::Farewell(ended) => self.farewell(now, &ended),
            Effect::TakeLess { shortage, most } => self.log(LogLine::TakesLess { shortage, most }),
            Effect::TakeAll => self.log(LogLine::TakesAll),
            Effect::Refused(reason) => {
                self.log(LogLine::Refused(reason.clone()));
                self.refused = Some(reason);
            }
            Effect::IncarnationOver(_) => {
                self.awaits_name = true;
                self.act(DriverAction::ChooseName);
            }
            Effect::Keep(kept) => self.kept = Some(kept),
            Effect::GiveUp(attempts) => self.finished = Some(attempts),
            Effect::Finish => self.finished = Some(Vec::new()),
            Effect::Start(_) | Effect::Interrupt { .. } | Effect::Kill { .. } | Effect::Extend { .. } => {
                unreachable!("the book has these done at once")
            }
        }
    }

    /// Heartbeats leave at once or not at all, also before an executor knows the incarnation: they are what it is known by.
    fn beat(&mut self, now: Now, heartbeat: &Heartbeat, sent: Duration) {
        // Without a session that is what is logged.
        let is_answered = self.wire.is_known() || !self.is_open;
        let unanswered = self.unheard.beats(is_answered, now.boot).map(LogLine::Unanswered);
        self.actions.extend(unanswered.map(DriverAction::Log));
        if self.is_open {
            let purpose = Purpose::Heartbeat { incarnation: heartbeat.incarnation, sent };
            self.publish_one(now, WorkerMessage::Heartbeat(heartbeat), purpose);
        }
    }

    /// No executor would believe the last word of an incarnation from one that it does not know; it is sent again with the
    /// first greeting.
    fn farewell(&mut self, now: Now, ended: &Ended) {
        if self.is_open && self.wire.is_known() {
            let purpose = Purpose::Farewell { incarnation: ended.incarnation };
            self.publish_one(now, WorkerMessage::Ended(ended), purpose);
        }
    }

    // ---- what leaves ----

    fn end_turn(&mut self) {
        self.flush();
        let is_congested = self.outbox.is_congested(self.is_congested);
        if is_congested != self.is_congested {
            self.is_congested = is_congested;
            self.log(LogLine::Congested(is_congested));
            self.tell(if is_congested { duty::Input::OutboxFilled } else { duty::Input::OutboxEmptied });
        }
        if let Some(unstoppable) = self.finished.take() {
            let (kept, refused) = (self.kept.take(), self.refused.take());
            self.act(DriverAction::Exit(WorkerExit { unstoppable, kept, refused }));
        } else if let Some(kept) = self.kept.take() {
            self.act(DriverAction::Keep(kept));
        }
    }

    /// Sends what waits, as far as it may. Without a session, or before executors know this incarnation, events stay, and
    /// outcomes are reported again in time: nothing would be believed without the proof.
    fn flush(&mut self) {
        if !self.is_open || !self.wire.is_known() {
            return self.outbox.drop_outcomes();
        }
        while let Some(outcomes) = self.outbox.next_outcomes(self.sizes) {
            self.publish(outcomes, Purpose::Outcomes);
        }
        while let Some(events) = self.outbox.next_events(self.sizes) {
            self.publish(events.clone(), Purpose::Events(events));
        }
    }

    fn publish_one(&mut self, now: Now, message: WorkerMessage<'_>, purpose: Purpose) {
        let body = self.wire.write(message, Trace::default(), now.wall);
        self.publish(Batch { routing_key: message.message_type(), body }, purpose);
    }

    fn publish(&mut self, batch: Batch, purpose: Purpose) {
        // A number is free again once it was confirmed; few are taken at a time.
        let id = (1..).zip(self.unconfirmed.keys()).find_map(|(id, taken)| (id != *taken).then_some(id));
        let id = id.unwrap_or(self.unconfirmed.len() as u64 + 1);
        self.unconfirmed.insert(id, purpose);
        let (message_type, Batch { routing_key, body }) = (batch.message_type(), batch);
        let mut publication = OutgoingMessage { id, routing_key, message_type, body, nonce: None, proof: None };
        self.wire.prove(&mut publication);
        self.act(DriverAction::Publish(publication));
    }

    fn tell(&mut self, input: duty::Input) {
        self.act(DriverAction::Duty(input));
    }

    fn log(&mut self, notice: LogLine) {
        self.act(DriverAction::Log(notice));
    }

    fn act(&mut self, action: DriverAction) {
        self.actions.push_back(action);
    }
}

#[cfg(test)]
mod tests;
