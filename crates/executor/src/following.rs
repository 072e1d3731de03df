//! While another leads: hearing from it the events that clients of this executor watch.
//!
//! What a leader tells may be lost on the way, as may the leader. So the wish is repeated, and whenever something may
//! have been missed, everyone who watches looks into the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotline_api::Hub;
use slotline_api::hub::{Interest, LiveEvent};
use slotline_broker::Delivery;
use slotline_protocol::chain;
use slotline_protocol::record::Event;
use tokio_util::sync::CancellationToken;

use crate::ask::{Answer, Ask};
use crate::handle::Handle;

/// The `type` of a message that brings events to a follower.
pub(crate) const NEWS: &str = "executor.news";
/// How often the leader is told again what is watched here.
const AGAIN: Duration = Duration::from_secs(1);
/// Wishes that come at once are told together.
const GATHER: Duration = Duration::from_millis(10);

/// Keeps the leader informed of what is watched here, until `shutdown`.
pub(crate) async fn follow(handle: Arc<Handle>, hub: Arc<Hub>, shutdown: CancellationToken) {
    let mut known = Interest::default();
    loop {
        tokio::select! {
            () = hub.interest_changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(AGAIN), if !hub.is_idle() => {}
            () = shutdown.cancelled() => return,
        }
        if handle.leads.load(Ordering::Acquire) {
            known = Interest::default();
            continue;
        }
        let interest = hub.interest();
        if interest == Interest::default() && known == interest {
            continue;
        }
        let ask = Ask::Follow { all: interest.all, ids: interest.ids.clone() };
        match tokio::time::timeout(AGAIN * 2, handle.ask_elsewhere(ask)).await {
            Ok(Some(Ok(Answer::Following { is_new }))) => {
                if is_new || interest != known {
                    hub.resync();
                }
                known = interest;
            }
            // Nobody leads, or nobody answers: what happens meanwhile is found in the journal afterwards.
            Ok(Some(_) | None) | Err(_) => known = Interest::default(),
        }
    }
}

/// Hands on what the leader tells.
pub(crate) fn deliver(hub: &Hub, delivery: &Delivery) {
    match serde_json::from_slice::<Vec<Event>>(&delivery.body) {
        Ok(events) => hub.publish(&events.into_iter().map(|event| Arc::new(LiveEvent::new(event))).collect::<Vec<_>>()),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "dropped events of the leader that can't be read");
            hub.resync();
        }
    }
}
