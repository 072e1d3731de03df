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
use slotline_protocol::lines::ViewPart;
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
    let board = hub.board();
    loop {
        tokio::select! {
            () = hub.interest_changed() => tokio::time::sleep(GATHER).await,
            () = board.wanted() => {}
            () = tokio::time::sleep(AGAIN), if !hub.is_idle() || board.is_watched() => {}
            () = shutdown.cancelled() => return,
        }
        let view = board.is_watched().then(|| board.round().unwrap_or_default());
        if handle.common.leads.load(Ordering::Acquire) {
            known = Interest::default();
            if view.is_some() {
                // The answer says nothing: the loop looks at its lines once it turns.
                let ask = Ask::Follow { all: false, ids: Vec::new(), view };
                let _ = tokio::time::timeout(AGAIN, handle.ask_here(ask)).await;
            }
            continue;
        }
        let interest = hub.interest();
        if interest == Interest::default() && known == interest && view.is_none() {
            continue;
        }
        let ask = Ask::Follow { all: interest.all, ids: interest.ids.clone(), view };
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

/// Passes on a part of a view from the leader.
pub(crate) fn show(hub: &Hub, delivery: &Delivery) {
    match serde_json::from_slice::<ViewPart>(&delivery.body) {
        Ok(part) => hub.board().apply(part),
        Err(error) => tracing::warn!(error = %chain(&error), "dropped a view of the leader that can't be read"),
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
