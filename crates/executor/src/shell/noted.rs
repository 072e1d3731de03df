//! One line of the log for each change that people ask for, and for each message that is put aside, once it is
//! committed: with its actor and its reason.

use slotline_broker::Publication;
use slotline_protocol::By;
use slotline_protocol::audit::{Changed, Via};
use slotline_protocol::change::Difference;
use slotline_store::Audit;

use super::headers::{DEAD_ID_HEADER, DETAIL_HEADER, REASON_HEADER};

/// Logs what was changed.
pub(crate) fn log(entry: &Audit) {
    let Audit { changed, by, action, execution_id, changes, .. } = entry;
    let By { actor, via, reason } = by;
    tracing::info!(
        "action.ref" = action.as_ref().map(|(_, name)| name.as_str()),
        "execution.id" = execution_id.map(|id| id.0),
        actor,
        via = way(*via),
        reason,
        changes = (!changes.is_empty()).then(|| told(changes)),
        "{}",
        sentence(*changed)
    );
}

/// Logs a change of a dead letter, which any executor makes.
pub(crate) fn log_letter(id: &str, changed: Changed, by: &By) {
    let By { actor, via, reason } = by;
    tracing::info!("dead_letter.id" = id, actor, via = way(*via), reason, "{}", sentence(changed));
}

/// Logs that a message goes to the dead letters, and why.
pub(crate) fn log_put_aside(letter: &Publication) {
    let header = |name| letter.properties.headers.get(name).map(String::as_str);
    tracing::warn!(
        "dead_letter.id" = header(DEAD_ID_HEADER),
        message.id = letter.properties.message_id,
        reason = header(REASON_HEADER),
        detail = header(DETAIL_HEADER),
        "put a message aside"
    );
}

/// Why a message was put aside.
pub(crate) fn reason(letter: &Publication) -> &str {
    letter.properties.headers.get(REASON_HEADER).map_or("unknown", String::as_str)
}

fn way(via: Via) -> &'static str {
    match via {
        Via::Http => "http",
        Via::Amqp => "amqp",
        Via::Executor => "executor",
    }
}

fn sentence(changed: Changed) -> &'static str {
    match changed {
        Changed::ActionCreated => "an action was created",
        Changed::PolicyChanged => "the policy of an action was changed",
        Changed::ActionDeleted => "an action was deleted",
        Changed::Paused => "an action was paused",
        Changed::Resumed => "an action was resumed",
        Changed::LimitOverridden => "the limit of an action was overridden",
        Changed::OverrideCleared => "the override of a limit was cleared",
        Changed::OverrideEnded => "the override of a limit ended",
        Changed::CancelRequested => "an execution is to be cancelled",
        Changed::DeadLetterReplayed => "a dead letter was replayed",
        Changed::DeadLetterDropped => "a dead letter was dropped",
    }
}

fn told(changes: &[Difference]) -> String {
    let one = |it: &Difference| format!("{} {} -> {}", it.member, it.old, it.new);
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}
