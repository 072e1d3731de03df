//! The only place where this crate draws random numbers.

use slotline_protocol::Incarnation;
use uuid::Uuid;

#[expect(clippy::disallowed_methods, reason = "this is the edge where chance comes in")]
pub(crate) fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// The name of a new incarnation.
pub(crate) fn incarnation() -> Incarnation {
    Incarnation(uuid())
}

/// A value that can't be guessed.
pub(crate) fn nonce() -> String {
    uuid().simple().to_string()
}
