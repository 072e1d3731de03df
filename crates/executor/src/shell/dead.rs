//! Dead letters: the leader takes them from the broker's queue into the journal, where any executor finds them.
//!
//! The queue is the way in, since the broker puts messages aside, too, and a publication to a queue is confirmed. But
//! reading a queue changes it, and a queue can't give out a single letter. Not here: how many are kept
//! (`slotline_store`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotline_api::control::ControlError;
use slotline_broker::{Consumer, Delivery, Properties, Publication, Session, topology};
use slotline_protocol::audit::Changed;
use slotline_protocol::{By, Timestamp, chain};
use slotline_store::{DeadBounds, Store, StoredLetter};
use uuid::Uuid;

use super::clock::Clock;
use super::gate::Gate;
use super::headers::{DEAD_ID_HEADER, DETAIL_HEADER, REASON_HEADER, ROUTING_KEY_HEADER, USER_HEADER};
use super::noted;

/// Letters that are taken at once. Few, since each may be as large as a message can be, and nothing waits for them.
pub(crate) const TAKEN_AT_ONCE: u16 = 3;
/// How much is kept in the journal: more than a person looks through, and little beside what runs.
const KEPT: DeadBounds = DeadBounds { letters: 100_000, bytes: 1 << 30 };
/// Wait before letters that the journal did not take are tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// The most characters of a reason, a detail or a routing key; any publisher may set the headers.
const LABEL_CHARS_MAX: usize = 1000;

/// The header of a message that the broker has put aside by itself.
const BY_BROKER_HEADER: &str = "x-first-death-reason";

/// What travelled beside a body, as the journal keeps it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Carried {
    message_id: Option<String>,
    message_type: Option<String>,
    app_id: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    user_id: Option<String>,
    timestamp: Option<Timestamp>,
    headers: BTreeMap<String, String>,
}

/// Moves letters into the journal until their session is over. Each is acked once the journal has it.
pub(crate) async fn keep(mut consumer: Consumer, store: Store, clock: Clock) {
    let acker = consumer.acker();
    let mut deliveries = Vec::new();
    while consumer.next_batch(&mut deliveries, TAKEN_AT_ONCE.into()).await {
        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { return };
        let now = clock.now();
        let letters: Vec<_> = deliveries.drain(..).map(|delivery| letter(delivery, now)).collect();
        loop {
            match store.put_dead(&letters, KEPT).await {
                Ok(0) => break,
                Ok(dropped) => {
                    tracing::warn!(dropped, "there are too many dead letters; the oldest were dropped");
                    break;
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "dead letters can't be kept; they wait for the database");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        acker.ack_up_to(last);
    }
}

fn letter(delivery: Delivery, now: Timestamp) -> StoredLetter {
    let Delivery { routing_key, body, properties, .. } = delivery;
    let header = |name: &str| properties.headers.get(name).map(|value| clip(value));
    // Only the executor names letters; what the broker put aside has no name yet.
    let id = header(DEAD_ID_HEADER).and_then(|id| Uuid::parse_str(&id).ok()).unwrap_or_else(Uuid::now_v7);
    let reason = header(REASON_HEADER).or_else(|| header(BY_BROKER_HEADER));
    StoredLetter {
        id: id.to_string(),
        dead_at: put_aside_at(id).unwrap_or(now),
        reason: reason.unwrap_or_else(|| "unknown".to_owned()),
        detail: header(DETAIL_HEADER).unwrap_or_else(|| "put aside by the broker".to_owned()),
        message_id: properties.message_id.clone(),
        routing_key: header(ROUTING_KEY_HEADER).unwrap_or(routing_key),
        properties: carried(properties),
        body,
    }
}

fn clip(text: &str) -> String {
    text.chars().take(LABEL_CHARS_MAX).collect()
}

/// Ids are version 7, so they contain the time.
fn put_aside_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Some(Timestamp::from_micros(i64::try_from(seconds).ok()?.checked_mul(1_000_000)? + i64::from(nanos / 1000)))
}

fn carried(properties: Properties) -> String {
    // The message may have been refused for its priority: replayed without one, it runs in its turn.
    let Properties {
        message_id,
        message_type,
        app_id,
        content_type,
        content_encoding,
        correlation_id,
        reply_to,
        timestamp,
        headers,
        priority: _,
        user_id,
    } = properties;
    // The executor has published a letter under its own user. A message that the broker put aside itself has its
    // publisher's user, and any headers that its publisher set.
    let is_brokers = headers.contains_key(BY_BROKER_HEADER);
    let user_id = if is_brokers { user_id } else { headers.get(USER_HEADER).cloned() };
    let carried = Carried {
        message_id,
        message_type,
        app_id,
        content_type,
        content_encoding,
        correlation_id,
        reply_to,
        user_id,
        timestamp,
        headers,
    };
    serde_json::to_string(&carried).expect("plain data with string keys")
}

/// The properties as they came, without those that were added when the message was put aside.
fn as_it_came(carried: &str) -> Properties {
    let Carried { message_id, message_type, app_id, content_type, content_encoding, correlation_id, reply_to, user_id, timestamp, mut headers } =
        serde_json::from_str(carried).unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "what travelled with a dead letter can't be read; it is replayed without");
            Carried::default()
        });
    headers.retain(|name, _| {
        !name.starts_with("x-slotline-") && !name.starts_with("x-death") && !name.starts_with("x-first-death")
    });
    let rest = Properties::default();
    Properties {
        message_id,
        message_type,
        app_id,
        content_type,
        content_encoding,
        correlation_id,
        reply_to,
        user_id,
        timestamp,
        headers,
        ..rest
    }
}

/// Publishes the letter to the requests queue, as it came, and drops it once that is confirmed.
pub(crate) async fn replay(
    store: &Store,
    session: &Session,
    gate: &Gate,
    prefix: &str,
    id: &str,
    by: &By,
) -> Result<(), ControlError> {
    let whole =
        store.dead_letter(id).await.map_err(unavailable)?.ok_or_else(|| ControlError::unknown_dead_letter(id))?;
    let mut properties = as_it_came(&whole.properties);
    if let Some(user) = properties.user_id.take() {
        properties.headers.extend(gate.headers_of_replay(user, &whole.body));
    }
    let receipt = session.publish(Publication {
        exchange: String::new(),
        routing_key: topology::requests_queue(prefix),
        body: whole.body,
        properties,
        mandatory: true,
        persistent: true,
    });
    receipt.await.map_err(|error| ControlError::unavailable(format!("the letter can't be replayed: {error}")))?;
    store.drop_dead(id, Changed::DeadLetterReplayed, by).await.map_err(|error| {
        ControlError::unavailable(format!(
            "the letter was replayed, but is still there, since the journal failed: {error}"
        ))
    })?;
    noted::log_letter(id, Changed::DeadLetterReplayed, by);
    Ok(())
}

pub(crate) async fn discard(store: &Store, id: &str, by: &By) -> Result<(), ControlError> {
    match store.drop_dead(id, Changed::DeadLetterDropped, by).await.map_err(unavailable)? {
        true => {
            noted::log_letter(id, Changed::DeadLetterDropped, by);
            Ok(())
        }
        false => Err(ControlError::unknown_dead_letter(id)),
    }
}

fn unavailable(error: slotline_store::Error) -> ControlError {
    ControlError::unavailable(format!("dead letters can't be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_replayed_as_it_came() {
        let properties = Properties {
            message_id: Some("m-1".to_owned()),
            headers: [("tenant".to_owned(), "seven".to_owned()), ("a".to_owned(), "\0".to_owned())].into(),
            timestamp: Some(Timestamp::from_micros(1_000_000)),
            ..Properties::default()
        };
        let mut put_aside = properties.clone();
        put_aside.headers.insert(REASON_HEADER.to_owned(), "malformed".to_owned());
        put_aside.headers.insert("x-first-death-queue".to_owned(), "slotline.requests".to_owned());
        let written = carried(put_aside);
        assert!(!written.contains('\0'), "PostgreSQL would refuse it");
        assert_eq!(as_it_came(&written), properties);
    }

    #[test]
    fn a_letter_is_of_the_user_that_the_broker_or_the_executor_names_and_of_no_other() {
        let user_of = |user_id: Option<&str>, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let user_id = user_id.map(str::to_owned);
            as_it_came(&carried(Properties { user_id, headers, ..Properties::default() })).user_id
        };
        let by_broker = (BY_BROKER_HEADER, "expired");
        let claim = (USER_HEADER, "anna");
        assert_eq!(user_of(None, &[claim]).as_deref(), Some("anna"), "the executor wrote it");
        assert_eq!(user_of(Some("bert"), &[by_broker, claim]).as_deref(), Some("bert"));
        assert_eq!(user_of(None, &[by_broker, claim]), None);
    }

    #[test]
    fn the_name_of_a_letter_tells_when_it_was_put_aside() {
        let before = Timestamp::from_micros(1_700_000_000_000_000);
        let seconds = u64::try_from(before.as_micros() / 1_000_000).expect("after 1970");
        let id = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0));
        assert_eq!(put_aside_at(id), Some(before));
    }
}
