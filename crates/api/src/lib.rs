//! HTTP over the executor: actions, executions, workers, dead letters, health.
//!
//! Mount it with [`serve`], on anything that implements [`Control`]. Every answer is `{"data": ...}`, every refusal
//! `{"error": {"code", "message", "field"?, "details"?}}`.
//! Deliberately absent: decisions. What can be read is read from the journal, everything else is asked of the executor.

mod actions;
mod auth;
pub mod control;
mod dead;
mod error;
mod executions;
mod health;
pub mod hub;
mod input;
mod known;
mod limits;
mod serve;
mod workers;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use slotline_store::Store;

pub use auth::{InvalidToken, Token, check_exposure};
pub use control::{Control, Kind, Refused, Submission};
pub use error::Exposed;
pub use hub::Hub;
pub use input::{BODY_BYTES_MAX, LIMIT_DEFAULT, LIMIT_MAX};
pub use serve::{Error as ServeError, listen, serve};

/// What the API answers from.
#[derive(Clone)]
pub struct State {
    pub control: Arc<dyn Control>,
    pub store: Store,
    /// Without one the API listens on loopback only.
    pub token: Option<Token>,
    /// Where the executor publishes what happens.
    pub hub: Arc<Hub>,
}

#[derive(Clone)]
struct Api(Arc<Shared>);

struct Shared {
    control: Arc<dyn Control>,
    store: Store,
    known: known::Known,
}

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// All routes. To listen on the network use [`serve`], which also bounds connections and refuses to be exposed.
pub fn router(state: State) -> Router {
    let State { control, store, token, hub: _ } = state;
    let api = Api(Arc::new(Shared { control, store, known: known::Known::default() }));
    let v1 = Router::new()
        .route("/actions", get(actions::list))
        .route("/actions/{action_ref}", get(actions::show).put(actions::put).delete(actions::delete))
        .route("/actions/{action_ref}/pause", post(actions::pause))
        .route("/actions/{action_ref}/resume", post(actions::resume))
        .route("/actions/{action_ref}/queue-stats", get(actions::queue_stats))
        .route("/queues", get(actions::queues))
        .route("/executions", get(executions::list).post(executions::submit))
        .route("/executions/{id}", get(executions::show))
        .route("/executions/{id}/cancel", post(executions::cancel))
        .route("/requests/{message_id}", get(executions::request))
        .route("/workers", get(workers::list))
        .route("/dead", get(dead::list))
        .route("/dead/{id}", get(dead::show).delete(dead::discard))
        .route("/dead/{id}/replay", post(dead::replay))
        .layer(axum::middleware::from_fn_with_state(limits::Places::default(), limits::admit));
    Router::new()
        .nest("/api/v1", v1)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(async || error::Error::NoRoute)
        .with_state(api)
        .layer(axum::middleware::from_fn(limits::hurry))
        .layer(axum::middleware::map_response(error::uniform))
        .layer(axum::middleware::from_fn_with_state(token, auth::guard))
}
