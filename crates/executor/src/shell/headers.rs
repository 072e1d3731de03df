//! Headers of dead letters, and of messages that are published again for their publishers.

/// Headers of a dead letter.
pub(crate) const REASON_HEADER: &str = "x-slotline-reason";
pub(crate) const DETAIL_HEADER: &str = "x-slotline-detail";
pub(crate) const ROUTING_KEY_HEADER: &str = "x-slotline-routing-key";
pub(crate) const DEAD_ID_HEADER: &str = "x-slotline-dead-id";
/// Whose message a letter, or one that is replayed, is: its publisher's own name for it goes by that user. The property
/// `user_id` can't say so, since RabbitMQ holds it against the connection of whom publishes.
pub(crate) const USER_HEADER: &str = "x-slotline-user-id";
