//! The only place where this crate draws by chance.

use slotline_protocol::Incarnation;
use uuid::Uuid;

#[expect(clippy::disallowed_methods, reason = "this is the edge where chance comes in")]
pub(crate) fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// The next name of a worker.
pub(crate) fn incarnation() -> Incarnation {
    Incarnation(uuid())
}

/// What nobody can guess.
pub(crate) fn nonce() -> String {
    uuid().simple().to_string()
}
