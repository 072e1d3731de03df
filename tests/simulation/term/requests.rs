//! Requests on their way to the leader: each is looked up in the journal first.

use std::collections::VecDeque;
use std::rc::Rc;

use slotline_broker::{Properties, Tag as DeliveryTag};
use slotline_executor::leader::{Asked, Came, Checked, Input, Member, Target};
use slotline_protocol::message::Reply;
use slotline_protocol::{By, Detail, ExecutionId, RequestName};
use slotline_store::{Known, Request};

use super::Term;
use crate::journal::{action_id, action_ref};
use crate::mail::parameters;
use crate::plan::RequestPlan;
use crate::stage::{Event, Stage};
use crate::wire::{Body, SessionId, Tag};

#[derive(Default)]
pub(super) struct Intake {
    waiting: VecDeque<(Tag, Rc<Body>)>,
    checking: Option<Checking>,
}

/// Deliveries that are being looked up, and the last batch that was committed before.
struct Checking {
    deliveries: Vec<(Tag, Rc<Body>)>,
    seen_batch: i64,
}

impl Term {
    pub(super) fn take_request(&mut self, tag: Tag, body: Rc<Body>, stage: &mut Stage) {
        self.intake.waiting.push_back((tag, body));
        self.look_up(stage);
    }

    pub(super) fn look_up(&mut self, stage: &mut Stage) {
        if self.intake.checking.is_none()
            && !self.intake.waiting.is_empty()
            && self.leader.takes_requests()
            && let Some(session) = self.feed
        {
            let deliveries = self.intake.waiting.drain(..).collect();
            self.intake.checking = Some(Checking { deliveries, seen_batch: self.committed });
            let delay = stage.chance.spread(100, 5_000);
            stage.after(delay, Event::LookUp { executor: self.executor, life: self.life, session });
        }
    }

    /// The requests that are being looked up.
    pub(crate) fn sought(&self, session: SessionId) -> Option<Vec<usize>> {
        let checking = self.intake.checking.as_ref().filter(|_| self.feed == Some(session))?;
        Some(checking.deliveries.iter().filter_map(|(_, body)| number(body)).collect())
    }

    pub(crate) fn admit(&mut self, session: SessionId, known: &[Option<ExecutionId>], stage: &mut Stage) {
        if self.feed != Some(session) {
            return;
        }
        let Some(Checking { deliveries, seen_batch }) = self.intake.checking.take() else { return };
        let (mut members, mut tag) = (Vec::with_capacity(deliveries.len()), None);
        for ((delivered, body), known) in deliveries.into_iter().zip(known) {
            tag = Some(DeliveryTag::new(0, delivered));
            let Some(number) = number(&body) else { continue };
            let asked = &stage.asked[number];
            let Some(name) = asked.request.name.clone() else { continue };
            let digest = asked.request.digest;
            let known = known.map(|execution_id| Known { name: name.clone(), execution_id, digest });
            members.push(match &*body {
                Body::Cancel { .. } => Member::Cancel { target: Target { name, known }, by: By::default() },
                _ => Member::Request { action: action_id(stage.plans[number].action), asked: asked.clone(), known },
            });
        }
        let checked = Checked { generation: session as u64, seen_batch, members, tag };
        self.handle(Input::Checked(checked), stage);
        self.look_up(stage);
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
        | Body::Sealed(_) => None,
    }
}

/// What names a request is all that it holds.
pub(super) fn number_of(request: &Request) -> usize {
    request.parameters.get().parse().expect("a request's number")
}

/// A request as it is read. Its publisher wants to hear of it at an address that is its number.
pub(crate) fn asked(plan: &RequestPlan) -> Asked {
    let number = plan.number;
    let request = Request {
        name: Some(RequestName::from_text(plan.id.to_string())),
        digest: [u8::try_from(number).unwrap_or(u8::MAX) | 0x80; 32],
        parameters: parameters(number),
        timeout: None,
        detail: Detail::default(),
        correlation_id: None,
        trace_id: None,
        source: None,
        reply_to: Some(number.to_string()),
        reply: Reply::Accepted,
    };
    let came = Came { properties: Properties::default(), routing_key: String::new(), is_array: false };
    Asked { action_ref: action_ref(plan.action), key: plan.key.clone(), request: request.into(), came: came.into() }
}
