//! Faults of the in-process broker, for tests: what clients of a real broker must survive.

use super::{Server, SessionState};
use crate::Error;

/// Switches that make the in-process broker misbehave. Clones and all sessions share them.
#[derive(Clone)]
pub struct Faults(Server);

impl Faults {
    pub(crate) fn new(server: Server) -> Self {
        Self(server)
    }

    /// Cuts the connection of every session. What was withheld or blocked is never confirmed.
    pub fn end_sessions(&self) {
        let mut state = self.0.lock();
        let generations: Vec<u64> = state.sessions.keys().copied().collect();
        for generation in generations {
            state.end(generation, Error::Lost("connection reset".to_owned()));
        }
    }

    /// Cuts the connection of one session; returns whether it was open.
    pub fn end_session(&self, generation: u64) -> bool {
        let mut state = self.0.lock();
        let is_open = state.sessions.contains_key(&generation);
        state.end(generation, Error::Lost("connection reset".to_owned()));
        is_open
    }

    /// While on, no session can be opened.
    pub fn refuse_sessions(&self, on: bool) {
        self.0.lock().refuses_sessions = on;
    }

    /// From now on messages may have no more bytes; clients read this bound when they open a session.
    pub fn limit_messages(&self, bytes: usize) {
        self.0.lock().message_bytes_max = Some(bytes);
    }

    /// While on, publications are stored but their receipts stay open, as if the confirms were under way. Switched
    /// off, they arrive.
    pub fn withhold_confirms(&self, on: bool) {
        let mut state = self.0.lock();
        state.withholds_confirms = on;
        if !on {
            for attached in state.sessions.values_mut() {
                for open in attached.open_receipts.extract_if(.., |open| open.result.is_some()) {
                    // The receipt may have been dropped.
                    let _ = open.receipt.send(open.result.unwrap_or(Ok(())));
                }
            }
        }
    }

    /// While on, publishers are blocked as by an alarm: publications wait, and are lost with their session.
    pub fn block(&self, on: bool) {
        let mut state = self.0.lock();
        state.is_blocked = on;
        if on {
            return;
        }
        let generations: Vec<u64> = state.sessions.keys().copied().collect();
        for generation in generations {
            let Some(attached) = state.sessions.get_mut(&generation) else { continue };
            let held = std::mem::take(&mut attached.held);
            attached.held_bytes = 0;
            for publication in held {
                match state.route(publication) {
                    Ok(result) => settle_next(state.sessions.get_mut(&generation), result),
                    Err(error) => {
                        state.end(generation, error);
                        break;
                    }
                }
            }
        }
    }
}

/// Settles the oldest receipt of a publication that was held back.
fn settle_next(attached: Option<&mut SessionState>, result: Result<(), crate::PublishError>) {
    if let Some(attached) = attached
        && let Some(at) = attached.open_receipts.iter().position(|open| open.result.is_none())
    {
        // The receipt may have been dropped.
        let _ = attached.open_receipts.remove(at).receipt.send(result);
    }
}
