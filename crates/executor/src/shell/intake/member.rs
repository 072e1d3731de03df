//! What one envelope of the requests queue requests, checked against its action.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use slotline_broker::crash;
use slotline_protocol::envelope::{Envelope, LABEL_CHARS_MAX};
use slotline_protocol::message::{CancelRequested, Message, Requested};
use slotline_protocol::{By, Reason, RequestName, Unreadable, canonical, did_you_mean};
use slotline_store::Request;

use crate::leader::request::{Asked, Came, Member, Target};
use crate::shell::registry::Registry;

/// What an envelope requests, checked against its action. An examiner does the same, to see whether it survives.
pub(crate) fn member(registry: &Registry, envelope: &Envelope<'_>, came: &Arc<Came>) -> Result<Member, Unreadable> {
    match &*envelope.message_type {
        Requested::TYPE => request(registry, envelope, came),
        CancelRequested::TYPE => cancel(envelope, came),
        other => {
            let meant = did_you_mean(other, &[Requested::TYPE, CancelRequested::TYPE]);
            let detail = format!("message_type: {other:?} is not read here{meant}");
            Err(unreadable(envelope, Reason::UnknownType, detail))
        }
    }
}

fn request(registry: &Registry, envelope: &Envelope<'_>, came: &Arc<Came>) -> Result<Member, Unreadable> {
    let requested: Requested = envelope.open()?;
    requested.check().map_err(|invalid| unreadable(envelope, invalid.reason(), format!("payload.{invalid}")))?;
    for (field, text) in [
        ("correlation_id", envelope.correlation_id.as_deref()),
        ("trace_id", envelope.trace_id.as_deref()),
        ("source", envelope.source.as_deref()),
    ] {
        if text.is_some_and(|text| text.chars().count() > LABEL_CHARS_MAX || text.contains('\0')) {
            let detail = format!("{field}: expected at most {LABEL_CHARS_MAX} characters and no NUL");
            return Err(unreadable(envelope, Reason::Malformed, detail));
        }
    }
    let digest = match envelope.message_id {
        Some(_) => digest(&requested),
        None => [0; 32],
    };
    let registered = registry.get(&requested.action_ref).ok_or_else(|| {
        let (unknown, meant) = (&requested.action_ref, registry.perhaps_meant(&requested.action_ref));
        let detail = format!("payload.action_ref: no action is called {unknown}{meant}");
        unreadable(envelope, Reason::UnknownAction, detail)
    })?;
    crash::on_poison("admit", requested.parameters.get().as_bytes());
    let key = registered
        .admit(requested.parameters.get(), requested.concurrency_key)
        .map_err(|detail| unreadable(envelope, Reason::InvalidParameters, format!("payload.{detail}")))?;
    let name = envelope.message_id.as_deref().map(|message_id| name(message_id, came));
    let request = Request {
        name,
        digest,
        parameters: requested.parameters,
        timeout: requested.timeout_seconds,
        detail: requested.progress,
        correlation_id: envelope.correlation_id.clone(),
        trace_id: envelope.trace_id.clone(),
        source: envelope.source.as_deref().map(str::to_owned),
        reply_to: came.properties.reply_to.clone(),
        reply: requested.reply,
    };
    let asked = Asked { action_ref: requested.action_ref, key, request: Arc::new(request), came: came.clone() };
    Ok(Member::Request { action: registered.action.action_id, asked, known: None })
}

/// Equal for two requests that ask for the same, however each is spelt.
fn digest(requested: &Requested) -> [u8; 32] {
    let json = serde_json::to_string(requested).expect("plain data with string keys");
    Sha256::digest(canonical(&json)).into()
}

/// The name of a request: its publisher's `message_id`, with the user if the broker names one.
fn name(message_id: &str, came: &Came) -> RequestName {
    RequestName::new(came.properties.user_id.as_deref().filter(|user| !user.is_empty()), message_id)
}

/// A cancellation names the `message_id` of the publisher's own request only: numbers are easily guessed, and any
/// publisher may send this.
fn cancel(envelope: &Envelope<'_>, came: &Came) -> Result<Member, Unreadable> {
    let asked: CancelRequested = envelope.open()?;
    let Some(message_id) = asked.message_id.filter(|_| asked.execution_id.is_none()) else {
        let detail =
            "payload: expected the message_id of the request that is to be cancelled, and no execution_id: by its \
                      number an operator cancels an execution over HTTP"
                .to_owned();
        return Err(unreadable(envelope, Reason::InvalidPayload, detail));
    };
    let target = Target { name: name(&message_id, came), known: None };
    let user = came.properties.user_id.as_deref().filter(|user| !user.is_empty());
    Ok(Member::Cancel { target, by: By::publisher(user, asked.reason) })
}

fn unreadable(envelope: &Envelope<'_>, reason: Reason, detail: String) -> Unreadable {
    Unreadable { reason, detail, message_id: envelope.message_id.clone() }
}
