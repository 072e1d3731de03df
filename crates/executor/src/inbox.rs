//! What workers say, and what comes back from the leader's own queues, turned into inputs.
//!
//! A message here that can't be read is logged and dropped: workers repeat what matters, and heartbeats show the rest.

use slotline_broker::Delivery;
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Probe, Progress, Returned, StatusChanged};
use slotline_protocol::{Status, Unreadable};
use slotline_scheduler::{Input, Outcome, ProbedQueue};
use uuid::Uuid;

/// Which of this leader's probes count: those of this session and this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeMark {
    pub(crate) generation: u64,
    pub(crate) nonce: Uuid,
}

/// The inputs that one delivery carries.
pub(crate) fn read(delivery: &Delivery, queue: Option<ProbedQueue>, mark: ProbeMark) -> Vec<Input> {
    let mut inputs = Vec::new();
    match envelope::read(&delivery.body, &delivery.properties.defaults()) {
        Ok(members) => {
            for member in members {
                if let Err(error) = member.and_then(|envelope| open(&envelope, queue, mark, &mut inputs)) {
                    tracing::warn!(%error, routing_key = delivery.routing_key, "dropped a message that can't be read");
                }
            }
        }
        Err(error) => {
            tracing::warn!(%error, routing_key = delivery.routing_key, "dropped a message that can't be read")
        }
    }
    inputs
}

fn open(
    envelope: &Envelope,
    queue: Option<ProbedQueue>,
    mark: ProbeMark,
    inputs: &mut Vec<Input>,
) -> Result<(), Unreadable> {
    match envelope.message_type.as_str() {
        Completed::TYPE => inputs.push(completed(envelope.open()?)),
        Returned::TYPE => inputs.push(returned(envelope.open()?)),
        Heartbeat::TYPE => inputs.push(Input::Heartbeat(envelope.open()?)),
        Ended::TYPE => {
            let Ended { incarnation, reason, outcomes, returned: handed_back, .. } = envelope.open()?;
            inputs.extend(outcomes.into_iter().map(completed));
            inputs.extend(handed_back.into_iter().map(returned));
            inputs.push(Input::IncarnationEnded { incarnation, reason });
        }
        StatusChanged::TYPE => {
            let changed: StatusChanged = envelope.open()?;
            if let (Some(fence), Status::Running) = (changed.fence, changed.new_status) {
                let key = (changed.execution_id, changed.attempt);
                inputs.push(Input::Started { key, fence, started_at: changed.changed_at });
            }
        }
        Progress::TYPE => {}
        Probe::TYPE => {
            let Probe { generation, nonce, published_at } = envelope.open()?;
            if let (Some(queue), true) = (queue, mark == ProbeMark { generation, nonce }) {
                inputs.push(Input::Probed { queue, published_at });
            }
        }
        other => tracing::debug!(message_type = other, "ignored a message of a type that is not read here"),
    }
    Ok(())
}

fn completed(completed: Completed) -> Input {
    Input::Completed {
        key: (completed.execution_id, completed.attempt),
        fence: completed.fence,
        incarnation: completed.incarnation,
        outcome: Outcome {
            kind: completed.status,
            result: completed.result,
            error: completed.error,
            started_at: completed.started_at,
            ended_at: completed.completed_at,
        },
    }
}

fn returned(returned: Returned) -> Input {
    Input::Returned {
        key: (returned.execution_id, returned.attempt),
        fence: returned.fence,
        incarnation: returned.incarnation,
        started: returned.started,
        reason: returned.reason,
    }
}
