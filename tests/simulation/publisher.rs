//! Those who ask: a publisher that repeats what was not confirmed, and an operator who repeats what was not answered.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::clock::MS;
use crate::faults::Node;
use crate::history::Fact;
use crate::stage::{Event, Stage};
use crate::wire::{Body, Down, Purpose, Route, SessionId, Verdict};

/// Wait before what was refused is published again.
const AGAIN: u64 = 500 * MS;

#[derive(Default)]
pub(crate) struct Publisher {
    pub(crate) session: Option<SessionId>,
    /// Requests, and cancellations of them, that are to be published.
    todo: VecDeque<(usize, bool)>,
    /// What the broker did not take, until it is tried again.
    refused: Vec<(usize, bool)>,
    unconfirmed: usize,
}

impl Publisher {
    pub(crate) fn submit(&mut self, number: usize, is_cancel: bool, stage: &mut Stage) {
        self.todo.push_back((number, is_cancel));
        self.publish(stage);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.todo.is_empty() && self.refused.is_empty() && self.unconfirmed == 0
    }

    pub(crate) fn dialed(&mut self, session: SessionId, stage: &mut Stage) {
        self.session = Some(session);
        self.publish(stage);
    }

    pub(crate) fn try_again(&mut self, stage: &mut Stage) {
        self.todo.extend(self.refused.drain(..));
        self.publish(stage);
    }

    fn publish(&mut self, stage: &mut Stage) {
        let Some(session) = self.session else { return };
        for (number, is_cancel) in self.todo.drain(..) {
            let (body, purpose) = if is_cancel {
                (Body::Cancel { number }, Purpose::Cancel(number))
            } else {
                (Body::Request { number }, Purpose::Request(number))
            };
            self.unconfirmed += 1;
            stage.publish(session, Route::Requests, Rc::new(body), true, purpose);
        }
    }

    pub(crate) fn lost(&mut self, session: SessionId, stage: &mut Stage) {
        let unconfirmed = stage.hang_up(session);
        if self.session != Some(session) {
            return;
        }
        self.session = None;
        self.unconfirmed = 0;
        for purpose in unconfirmed.into_iter().rev() {
            self.todo.extend(again(&purpose));
            self.todo.rotate_right(usize::from(again(&purpose).is_some()));
        }
        let pause = stage.chance.between(50 * MS, 2_000 * MS);
        stage.after(pause, Event::Dial { node: Node::Publisher, life: 0 });
    }

    pub(crate) fn hear(&mut self, session: SessionId, down: Down, stage: &mut Stage) {
        if self.session != Some(session) {
            return;
        }
        match down {
            Down::Closed => self.lost(session, stage),
            Down::Confirmed { seq, verdict } => {
                let Some(purpose) = stage.confirmed(session, seq) else { return };
                self.unconfirmed -= 1;
                match (verdict, &purpose) {
                    (Verdict::Stored, Purpose::Request(number)) => {
                        stage.record(Fact::Confirmed { request: stage.requests[*number].clone() });
                    }
                    (Verdict::Stored, _) => {}
                    (Verdict::Refused | Verdict::Returned, _) => {
                        if self.refused.is_empty() {
                            stage.after(AGAIN, Event::Publish);
                        }
                        self.refused.extend(again(&purpose));
                    }
                }
            }
            Down::Marks(_) | Down::Marked(_) | Down::Leading { .. } | Down::Serving { .. } | Down::Delivered { .. } => {
            }
        }
    }
}

fn again(purpose: &Purpose) -> Option<(usize, bool)> {
    match purpose {
        Purpose::Request(number) => Some((*number, false)),
        Purpose::Cancel(number) => Some((*number, true)),
        Purpose::Report(_) | Purpose::Order(_) | Purpose::Other => None,
    }
}
