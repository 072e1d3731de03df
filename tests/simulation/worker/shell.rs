//! What the driver of a worker asks for, carried out.
//!
//! As `crates/worker/src/shell/{run,running,publish,link,lock,legacy}.rs` do it.

use slotline_protocol::Incarnation;
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Progress, Returned, StatusChanged};
use slotline_worker::driver::{DriverAction, Input, LogLine, OutgoingMessage, WorkerExit};
use slotline_worker::duty::{self, Order};

use super::notes::{describe, note_told, renumber};
use super::{Link, Worker};
use crate::clock::{MS, SECOND};
use crate::codec;
use crate::history::Fact;
use crate::plan::Mistake;
use crate::process::Process;
use crate::stage::{Event, Stage};
use crate::wire::{Purpose, Queue, Route, Up};

impl Worker {
    pub(super) fn carry_out(&mut self, action: DriverAction, processes: &mut [Process], stage: &mut Stage) {
        match action {
            DriverAction::Duty(input) => {
                let input = self.seen(input, stage);
                self.report(input, stage);
            }
            DriverAction::KeepTo(sizes) => {
                if let Some(memory) = &mut self.memory {
                    memory.book.keep_to(sizes);
                }
            }
            DriverAction::Attempt(attempt) => {
                if let Some(memory) = &mut self.memory {
                    memory.attempts.push_back(attempt);
                }
            }
            DriverAction::Publish(publication) => self.publish(publication, stage),
            DriverAction::Ack => {
                let unacked = self.memory.as_mut().and_then(|memory| memory.unacked.take());
                if let (Link::Open(session, _), Some((queue, tag))) = (self.link, unacked) {
                    stage.send(session, Up::Ack { queue, tag });
                }
            }
            DriverAction::ChooseName => {
                if let Some(memory) = &mut self.memory {
                    memory.owed.clear();
                }
                let (incarnation, nonce) = (self.next_name(), codec::nonce(stage));
                self.handle(Input::Named { incarnation, nonce }, stage);
            }
            DriverAction::Note(incarnation) => self.note_in_lock(incarnation),
            DriverAction::Subscribe(next) => {
                if let Link::Open(session, former) = self.link {
                    self.link = Link::Subscribing(session);
                    stage.send(session, Up::Serve { incarnation: next, former: Some(former) });
                }
            }
            DriverAction::Keep(kept) => self.keep(kept),
            DriverAction::Log(notice) => {
                // A liar has no proof, and a message without proof is not read.
                assert!(!matches!(notice, LogLine::Unreadable(_)), "an order can't be read: {notice:?}");
                stage.trace(|| format!("worker {}: {notice:?}", self.index));
            }
            DriverAction::Exit(exit) => self.exit(exit, processes, stage),
        }
    }

    /// Looks at an order on its way into the book.
    fn seen(&mut self, mut input: duty::Input, stage: &mut Stage) -> duty::Input {
        let (duty::Input::Ordered { order, .. } | duty::Input::Introduced { order, .. }) = &mut input else {
            return input;
        };
        if stage.mistake == Some(Mistake::IgnoresOrderNumbers) {
            self.orders_taken += 1;
            renumber(order, self.orders_taken);
        }
        stage.trace(|| format!("worker {} <- {}", self.index, describe(order)));
        if let (Order::Recorded(order), Some(memory)) = (order, &mut self.memory) {
            memory.owed.retain(|key| !order.attempts.contains(key));
        }
        input
    }

    fn publish(&mut self, publication: OutgoingMessage, stage: &mut Stage) {
        let Some(memory) = &mut self.memory else { return };
        let id = publication.id;
        let Link::Open(session, _) = self.link else { return memory.unsent.push(id) };
        let route = match publication.message_type {
            Completed::TYPE | Returned::TYPE => Route::Completions,
            Heartbeat::TYPE | Ended::TYPE => Route::Heartbeats,
            StatusChanged::TYPE | Progress::TYPE => Route::Events,
            other => unreachable!("no worker reports {other}"),
        };
        if stage.secret.is_some() {
            stage.overheard.clone_from(&publication.proof);
        }
        let body = memory.driver.wire().carry(publication);
        if route == Route::Events {
            memory.events.insert(id, body.clone());
        } else {
            note_told(&body, stage);
        }
        stage.publish(session, route, body, false, Purpose::Report(id));
    }

    pub(super) fn note_in_lock(&mut self, incarnation: Incarnation) {
        if self.plan.has_lock {
            self.lock.push(incarnation);
        }
    }

    fn keep(&mut self, kept: Vec<Ended>) {
        if self.plan.has_lock {
            self.kept = kept;
        }
    }

    fn exit(&mut self, exit: WorkerExit, processes: &mut [Process], stage: &mut Stage) {
        let WorkerExit { unstoppable, kept, refused } = exit;
        assert_eq!(refused, None, "nothing refuses a worker here");
        if let Some(kept) = kept {
            self.keep(kept);
        }
        if !unstoppable.is_empty() {
            stage.trace(|| format!("worker {} gives itself up", self.index));
            self.crash(processes, stage);
            return stage.after(SECOND, Event::Start { node: self.node(), life: self.life });
        }
        if let Link::Open(session, incarnation) = self.link {
            stage.send(session, Up::Delete { queue: Queue::Worker(incarnation) });
        }
        if self.plan.has_lock {
            let owed = self.memory.as_mut().map(|memory| std::mem::take(&mut memory.owed)).unwrap_or_default();
            for (execution, attempt) in owed {
                stage.record(Fact::Left { execution, attempt });
                self.left.insert((execution, attempt));
            }
        }
        self.crash(processes, stage);
        self.lock.clear();
        stage.trace(|| format!("worker {} has drained", self.index));
        let delay = stage.chance.spread(100 * MS, 20 * SECOND);
        stage.after(delay, Event::Start { node: self.node(), life: self.life });
    }
}
