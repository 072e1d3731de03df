//! Dead letters: looked at where they are, put back where they came from, or dropped.
//!
//! A letter is named by the id it was put aside with; one that the broker itself put aside by a digest of its body.

use sha2::{Digest, Sha256};
use slotline_api::control::Refused;
use slotline_broker::{Browser, Delivery, Publication, Session, topology};
use slotline_protocol::http::DeadLetter;
use slotline_protocol::{Timestamp, envelope};
use uuid::Uuid;

use crate::mail::{DEAD_ID_HEADER, DETAIL_HEADER, REASON_HEADER, ROUTING_KEY_HEADER};

/// The most letters that are looked through for one.
const BROWSE_MAX: usize = 10_000;
/// The most characters of a body that are shown.
const SHOWN_CHARS_MAX: usize = envelope::ENVELOPE_BYTES_MAX;

/// The oldest letters, without their bodies.
pub(crate) async fn list(session: &Session, prefix: &str, limit: usize) -> Result<Vec<DeadLetter>, Refused> {
    let browser = browse(session, prefix, limit).await?;
    let letters = browser.deliveries.iter().map(letter).collect();
    give_back(browser).await;
    Ok(letters)
}

pub(crate) async fn show(session: &Session, prefix: &str, id: &str) -> Result<DeadLetter, Refused> {
    let browser = browse(session, prefix, BROWSE_MAX).await?;
    let found = find(&browser, id).map(|delivery| DeadLetter {
        body: Some(String::from_utf8_lossy(&delivery.body).chars().take(SHOWN_CHARS_MAX).collect()),
        ..letter(delivery)
    });
    give_back(browser).await;
    found.ok_or_else(|| Refused::unknown_dead_letter(id))
}

/// Publishes the letter to the requests queue, as it came, and removes it once that is confirmed.
pub(crate) async fn replay(session: &Session, prefix: &str, id: &str) -> Result<(), Refused> {
    let browser = browse(session, prefix, BROWSE_MAX).await?;
    let Some(delivery) = find(&browser, id) else {
        give_back(browser).await;
        return Err(Refused::unknown_dead_letter(id));
    };
    let mut properties = delivery.properties.clone();
    properties.headers.retain(|name, _| {
        !name.starts_with("x-slotline-") && !name.starts_with("x-death") && !name.starts_with("x-first-death")
    });
    let receipt = session.publish(Publication {
        exchange: String::new(),
        routing_key: topology::requests_queue(prefix),
        body: delivery.body.clone(),
        properties,
        mandatory: true,
        persistent: true,
    });
    let replayed =
        receipt.await.map_err(|error| Refused::unavailable(format!("the letter can't be replayed: {error}")));
    if replayed.is_ok() {
        browser.ack(delivery.tag);
    }
    give_back(browser).await;
    replayed
}

pub(crate) async fn discard(session: &Session, prefix: &str, id: &str) -> Result<(), Refused> {
    let browser = browse(session, prefix, BROWSE_MAX).await?;
    let found = find(&browser, id).map(|delivery| browser.ack(delivery.tag));
    give_back(browser).await;
    found.ok_or_else(|| Refused::unknown_dead_letter(id))
}

/// Puts back what was only looked at; if that fails the session is over, and the broker puts it back itself.
async fn give_back(browser: Browser) {
    if let Err(error) = browser.close().await {
        tracing::debug!(%error, "the session ended while dead letters were put back");
    }
}

async fn browse(session: &Session, prefix: &str, max: usize) -> Result<Browser, Refused> {
    let queue = topology::dead_queue(prefix);
    session
        .browse(&queue, max)
        .await
        .map_err(|error| Refused::unavailable(format!("dead letters can't be read: {error}")))
}

fn find<'a>(browser: &'a Browser, id: &str) -> Option<&'a Delivery> {
    browser.deliveries.iter().find(|delivery| letter_id(delivery) == id)
}

fn letter_id(delivery: &Delivery) -> String {
    let digest = || Sha256::digest(&delivery.body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    delivery.properties.headers.get(DEAD_ID_HEADER).cloned().unwrap_or_else(digest)
}

fn letter(delivery: &Delivery) -> DeadLetter {
    let header = |name: &str| delivery.properties.headers.get(name).cloned();
    let id = letter_id(delivery);
    DeadLetter {
        // Ids are version 7, so they tell when.
        dead_at: Uuid::parse_str(&id).ok().and_then(|id| id.get_timestamp()).map(|stamp| {
            let (seconds, nanos) = stamp.to_unix();
            Timestamp::from_micros(i64::try_from(seconds).unwrap_or(0) * 1_000_000 + i64::from(nanos / 1000))
        }),
        id,
        reason: header(REASON_HEADER)
            .or_else(|| header("x-first-death-reason"))
            .unwrap_or_else(|| "unknown".to_owned()),
        detail: header(DETAIL_HEADER).unwrap_or_else(|| "put aside by the broker".to_owned()),
        message_id: delivery.properties.message_id.clone(),
        routing_key: header(ROUTING_KEY_HEADER).unwrap_or_else(|| delivery.routing_key.clone()),
        body_bytes: delivery.body.len() as u64,
        body: None,
    }
}
