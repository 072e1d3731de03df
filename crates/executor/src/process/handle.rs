//! The questions of HTTP to this executor. It answers itself if it leads, and otherwise passes the question to the
//! leader.
//!
//! Submissions go through the requests queue like all others, from any executor. Not here: what each call asks
//! (`control`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotline_api::control::{ControlError, RefusalKind, Submission};
use slotline_broker::{Delivery, Properties, Publication, PublishError, Session, topology};
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::http::{Action, Submitted};
use slotline_protocol::message::{Accepted, Message, Rejected, Reply, Requested};
use slotline_protocol::proof::{Channel, PROOF_HEADER};
use slotline_protocol::{By, ExecutionId, Reason, Status, sizes};
use slotline_store::Store;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::replies::Replies;
use crate::leader::ask::{Answered, Ask, CALL, LeaderAnswer};
use crate::shell::clock;
use crate::shell::context::{Common, LeaderCall};
use crate::shell::gate::{Gate, Gates};
use crate::shell::headers::awaited_until;
use crate::shell::seeking::Current;

/// How long an answer of the leader is waited for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long `/readyz?verbose` reports that the journal went back; `slotline verify` always does.
pub(crate) const REWINDS_TOLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long to wait for the answer to a question that changes nothing before it is asked again: its leader may have
/// died with it, and another may lead by then, or this executor itself.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Pause before another look for a leader.
const LEADER_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Handle {
    pub(crate) id: Uuid,
    pub(crate) source: String,
    pub(crate) prefix: String,
    pub(crate) store: Store,
    pub(crate) current: Current,
    pub(crate) replies: Arc<Replies>,
    pub(crate) calls: mpsc::Sender<LeaderCall>,
    /// What the start-up checks found.
    pub(crate) warnings: Vec<String>,
    pub(crate) common: Common,
}

impl Handle {
    pub(crate) fn session(&self) -> Result<Session, ControlError> {
        self.current.borrow().clone().ok_or_else(|| ControlError::unavailable("there is no connection to the broker"))
    }

    /// Asks the leader; waits a little for one, except where the journal alone gives a useful answer.
    pub(crate) async fn ask(&self, ask: Ask) -> Answered {
        let waits = !matches!(ask, Ask::Explain { .. });
        let answered = async {
            loop {
                let answered = if self.common.leads.load(Ordering::Acquire) {
                    Some(self.ask_here(ask.clone()).await)
                } else if ask.only_reads() {
                    match tokio::time::timeout(READ_AGAIN, self.ask_elsewhere(ask.clone())).await {
                        Ok(answered) => answered,
                        Err(_) => continue,
                    }
                } else {
                    self.ask_elsewhere(ask.clone()).await
                };
                match answered {
                    Some(answered) => return answered,
                    None if waits => tokio::time::sleep(LEADER_PAUSE).await,
                    None => return Err(no_leader()),
                }
            }
        };
        tokio::time::timeout(ANSWER_DEADLINE, answered).await.unwrap_or_else(|_| Err(no_leader()))
    }

    pub(crate) async fn gate(&self) -> Result<Arc<Gate>, ControlError> {
        match self.common.gates.current() {
            Some(gate) => Ok(gate),
            None => {
                self.common.gates.read(&self.store).await.map_err(|error| ControlError::unavailable(error.to_string()))
            }
        }
    }

    pub(crate) async fn ask_here(&self, ask: Ask) -> Answered {
        let (reply, receiver) = oneshot::channel();
        let gone = || ControlError::unavailable("the leader stood down; ask again");
        self.calls.send(LeaderCall { ask, reply }).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// `None`: no executor leads.
    pub(crate) async fn ask_elsewhere(&self, ask: Ask) -> Option<Answered> {
        let session = match self.session() {
            Ok(session) => session,
            Err(refused) => return Some(Err(refused)),
        };
        let gate = match self.gate().await {
            Ok(gate) => gate,
            Err(refused) => return Some(Err(refused)),
        };
        let correlation_id = Uuid::new_v4().to_string();
        let mut waiter = self.replies.wait_for(correlation_id.clone());
        let body = serde_json::to_vec(&ask).expect("questions are plain data with string keys");
        let headers = [(PROOF_HEADER.to_owned(), gate.sign(Channel::Call, &body))].into();
        let unread = Unread(&self.common.gates);
        let published = session.publish(Publication {
            exchange: topology::work_exchange(&self.prefix),
            routing_key: CALL.to_owned(),
            body: body.into(),
            properties: Properties {
                message_type: Some(CALL.to_owned()),
                app_id: Some(self.source.clone()),
                correlation_id: Some(correlation_id),
                reply_to: Some(topology::replies_queue(&self.prefix, self.id, session.generation())),
                headers,
                ..Properties::default()
            },
            mandatory: true,
            persistent: false,
        });
        match published.await {
            Ok(()) => {}
            Err(PublishError::Returned) => {
                unread.settle();
                return None;
            }
            Err(PublishError::TooLarge) => {
                let most = session.sizes().message();
                let why =
                    format!("the leader can't be asked: the broker takes {most} bytes at most (max_message_size)");
                return Some(Err(ControlError::new(RefusalKind::TooLarge, Reason::Oversized.as_str(), why)));
            }
            Err(error) => return Some(Err(ControlError::unavailable(format!("the leader can't be asked: {error}")))),
        }
        let Some(reply) = waiter.reply().await else {
            return Some(Err(ControlError::unavailable("the leader's answer was lost; ask again")));
        };
        if !gate.is_executors(Channel::Answer, &reply.properties, &reply.body) {
            gate.refuse("an answer");
            return Some(Err(ControlError::unavailable("an answer came that the leader did not write; ask again")));
        }
        unread.settle();
        Some(serde_json::from_slice(&reply.body).unwrap_or_else(|_| Err(unexpected())))
    }

    pub(crate) async fn submit_request(&self, submission: Submission) -> Result<Submitted, ControlError> {
        let session = self.session()?;
        let message_id = submission.message_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let body = Requested { reply: Reply::Accepted, ..submission.body };
        let routing_key = format!("{}.{}", Requested::TYPE, body.action_ref);
        let mut request = Envelope::new(&body, &self.source, clock::wall());
        request.message_id = Some(message_id.clone());
        // What the client named, or else the request itself; the reply finds its waiter by another id, since two
        // clients may submit under one key at once.
        request.correlation_id = submission.correlation_id.or_else(|| Some(message_id.clone()));
        request.trace_id = submission.trace_id;
        let written = envelope::write(&request);
        let most = session.sizes().request();
        if written.len() > most {
            let code = Reason::Oversized.as_str();
            return Err(ControlError::new(RefusalKind::TooLarge, code, sizes::oversized(written.len(), most)));
        }
        let ticket = Uuid::new_v4().to_string();
        let mut waiter = self.replies.wait_for(ticket.clone());
        let published = session.publish(Publication {
            exchange: topology::executions_exchange(&self.prefix),
            routing_key,
            body: written,
            properties: Properties {
                message_id: Some(message_id.clone()),
                message_type: Some(Requested::TYPE.to_owned()),
                app_id: Some(self.source.clone()),
                correlation_id: Some(ticket),
                reply_to: Some(topology::replies_queue(&self.prefix, self.id, session.generation())),
                headers: [awaited_until(clock::wall())].into(),
                ..Properties::default()
            },
            mandatory: true,
            persistent: true,
        });
        match tokio::time::timeout(ANSWER_DEADLINE, published).await {
            Ok(Ok(())) => {}
            Ok(Err(PublishError::Nacked | PublishError::Full)) => {
                return Err(ControlError::new(
                    RefusalKind::Full,
                    "requests_full",
                    "the requests queue is full; try again later",
                ));
            }
            Ok(Err(error)) => {
                return Err(ControlError::unavailable(format!("the broker did not take the request: {error}")));
            }
            Err(_) => {
                let message = "the broker did not confirm the request in time, and may still take it; \
                               repeat it with the same Idempotency-Key";
                return Err(ControlError::unavailable(message));
            }
        }
        let unanswered = Submitted { message_id, execution_id: None, status: Status::Requested, position: None };
        match tokio::time::timeout(ANSWER_DEADLINE, waiter.reply()).await {
            Ok(Some(reply)) => self.submitted(&reply, unanswered).await,
            Ok(None) | Err(_) => Ok(unanswered),
        }
    }

    async fn submitted(&self, reply: &Delivery, unanswered: Submitted) -> Result<Submitted, ControlError> {
        let defaults = reply.properties.defaults();
        let Ok(members) = envelope::read_own(&reply.body, defaults) else { return Ok(unanswered) };
        let Some(Ok(envelope)) = members.iter().next() else { return Ok(unanswered) };
        if let Ok(accepted) = envelope.open::<Accepted>() {
            let id = accepted.execution_id;
            let status = match self.store.execution(id).await {
                Ok(Some(execution)) => execution.status,
                Ok(None) | Err(_) => Status::Queued,
            };
            let position = Some(accepted.position).filter(|_| status == Status::Queued);
            return Ok(Submitted { execution_id: Some(id), status, position, ..unanswered });
        }
        match envelope.open::<Rejected>() {
            Ok(rejected) => Err(refused(&rejected)),
            Err(_) => Ok(unanswered),
        }
    }

    /// An action that a client put, and whether it is new.
    pub(crate) async fn changed(&self, ask: Ask) -> Result<(Action, bool), ControlError> {
        match self.ask(ask).await? {
            LeaderAnswer::Action { action, created } => Ok((*action, created)),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn altered(&self, ask: Ask) -> Result<Action, ControlError> {
        self.changed(ask).await.map(|(action, _)| action)
    }

    pub(crate) async fn cancelled(&self, id: ExecutionId, by: By) -> Result<Status, ControlError> {
        match self.ask(Ask::Cancel { id, by }).await? {
            LeaderAnswer::Cancelled(Some(status)) => Ok(status),
            _ => {
                let execution =
                    self.store.execution(id).await.map_err(|error| ControlError::unavailable(error.to_string()))?;
                execution.map(|execution| execution.status).ok_or_else(|| ControlError::unknown_execution(id))
            }
        }
    }
}

/// While a question is not answered: the secret that it was signed with may be that of another journal.
struct Unread<'a>(&'a Gates);

impl Unread<'_> {
    fn settle(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

fn refused(rejected: &Rejected) -> ControlError {
    let kind = match rejected.error.code.as_str() {
        code if code == Reason::UnknownAction.as_str() => RefusalKind::NotFound,
        code if code == Reason::LineFull.as_str() => RefusalKind::Full,
        code if code == Reason::IdempotencyConflict.as_str() => RefusalKind::Conflict,
        code if code == Reason::Oversized.as_str() => RefusalKind::TooLarge,
        _ => RefusalKind::Invalid,
    };
    let code = &rejected.error.code;
    match rejected.error.message.split_once(": ") {
        Some((field, message)) if !field.contains(' ') => {
            ControlError::new(kind, code, message).at(field.trim_start_matches("payload."))
        }
        _ => ControlError::new(kind, code, rejected.error.message.clone()),
    }
}

/// Refused before anything is sent, so that the client can rely on it: the request is not taken later by itself.
pub(crate) fn no_journal(cause: &str) -> ControlError {
    let message = format!(
        "the journal takes nothing now ({cause}), so the request was not taken; \
         submit it again later, with the same Idempotency-Key if it has one"
    );
    ControlError::new(RefusalKind::Unavailable, "journal_unavailable", message)
}

fn no_leader() -> ControlError {
    ControlError::unavailable("no executor leads, or the leader did not answer in time")
}

/// An answer of another kind than the question's: the leader runs a version with other answers.
pub(crate) fn unexpected() -> ControlError {
    ControlError::unavailable("the leader's answer can't be read; it may run another version")
}
