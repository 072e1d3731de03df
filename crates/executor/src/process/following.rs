//! While another executor leads: getting from it the events that clients of this executor watch.
//!
//! The leader may die, and what it sends may be lost on the way. So the interest is sent again and again, and whenever
//! something may have been missed, every stream is read again from the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotline_api::Hub;
use slotline_api::hub::{Interest, LiveEvent};
use slotline_broker::Delivery;
use slotline_protocol::chain;
use slotline_protocol::record::Event;
use tokio_util::sync::CancellationToken;

use super::handle::Handle;
use crate::leader::ask::{Ask, LeaderAnswer};

/// How often the interest is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// Changes of the interest within this time are sent as one.
const GATHER: Duration = Duration::from_millis(10);

/// Sends to the leader what is watched here, until `shutdown`.
pub(crate) async fn follow(handle: Arc<Handle>, hub: Arc<Hub>, shutdown: CancellationToken) {
    let mut known = Interest::default();
    loop {
        tokio::select! {
            () = hub.interest_changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(AGAIN), if !hub.is_idle() => {}
            () = shutdown.cancelled() => return,
        }
        if handle.common.leads.load(Ordering::Acquire) {
            known = Interest::default();
            continue;
        }
        let interest = hub.interest();
        if interest == Interest::default() && known == interest {
            continue;
        }
        let ask = Ask::Follow { all: interest.all, ids: interest.ids.clone() };
        match tokio::time::timeout(AGAIN * 2, handle.ask_elsewhere(ask)).await {
            Ok(Some(Ok(LeaderAnswer::Following { is_new }))) => {
                if is_new || interest != known {
                    hub.resync();
                }
                known = interest;
            }
            // There is no leader, or it does not answer: the streams find what happens meanwhile in the journal
            // afterwards.
            Ok(Some(_) | None) | Err(_) => known = Interest::default(),
        }
    }
}

/// Passes on the events from the leader.
pub(crate) fn deliver(hub: &Hub, delivery: &Delivery) {
    match serde_json::from_slice::<Vec<Event>>(&delivery.body) {
        Ok(events) => {
            hub.publish(&events.into_iter().map(|event| Arc::new(LiveEvent::new(Arc::new(event)))).collect::<Vec<_>>())
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "dropped events of the leader that can't be read");
            hub.resync();
        }
    }
}
