//! Headers of dead letters, of messages that are published again for their publishers, and of requests over HTTP.
//!
//! Not here: headers that prove something (`slotline_protocol::proof`).

use std::time::Duration;

use slotline_broker::Properties;
use slotline_protocol::Timestamp;

/// Headers of a dead letter.
pub(crate) const REASON_HEADER: &str = "x-slotline-reason";
pub(crate) const DETAIL_HEADER: &str = "x-slotline-detail";
pub(crate) const ROUTING_KEY_HEADER: &str = "x-slotline-routing-key";
pub(crate) const DEAD_ID_HEADER: &str = "x-slotline-dead-id";
/// Whose message a letter, or one that is replayed, is: its publisher's own name for it goes by that user. The property
/// `user_id` can't say so, since RabbitMQ holds it against the connection of whom publishes.
pub(crate) const USER_HEADER: &str = "x-slotline-user-id";
/// Until when the client of a request over HTTP waits for the answer, in microseconds since 1970.
pub(crate) const AWAITED_HEADER: &str = "x-slotline-awaited-until";
/// How long an answer to a request over HTTP surely finds its client. Shorter than the client is kept waiting, by more
/// than the clocks of two executors may differ.
pub(crate) const AWAITED_FOR: Duration = Duration::from_secs(3);

pub(crate) fn awaited_until(now: Timestamp) -> (String, String) {
    (AWAITED_HEADER.to_owned(), (now + AWAITED_FOR).as_micros().to_string())
}

/// Whether a client still waits for the answer. If not, a refusal must be found by other means.
pub(crate) fn is_awaited(properties: &Properties, now: Timestamp) -> bool {
    let until = properties.headers.get(AWAITED_HEADER).and_then(|until| until.parse().ok());
    properties.reply_to.is_some()
        && until.map(Timestamp::from_micros).is_some_and(|until| until > now && until.since(now) <= 2 * AWAITED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_awaited_for_a_few_seconds_at_an_address_of_its_own() {
        let now = Timestamp::from_micros(1_000_000_000);
        let with = |until: &str, reply_to: Option<&str>| Properties {
            headers: [(AWAITED_HEADER.to_owned(), until.to_owned())].into(),
            reply_to: reply_to.map(str::to_owned),
            ..Properties::default()
        };
        let (_, until) = awaited_until(now);
        assert!(is_awaited(&with(&until, Some("q")), now));
        assert!(is_awaited(&with(&until, Some("q")), now + AWAITED_FOR - Duration::from_micros(1)));
        assert!(!is_awaited(&with(&until, Some("q")), now + AWAITED_FOR), "the client may be gone");
        assert!(!is_awaited(&with(&until, None), now), "nothing can be answered");
        for wrong in ["", "soon", "-1", &i64::MAX.to_string()] {
            assert!(!is_awaited(&with(wrong, Some("q")), now), "{wrong}");
        }
        assert!(!is_awaited(&Properties::default(), now));
    }
}
