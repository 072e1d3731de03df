//! HTTP over the executor: actions, executions and their events, workers, dead letters, health.
//!
//! Mount it with [`serve`], on anything that implements [`Control`]. Every answer is `{"data": ...}`, every refusal
//! `{"error": {"code", "message", "field"?, "details"?}}`. Deliberately absent: decisions. What can be read is read
//! from the journal, everything else goes to the executor.

mod actions;
mod audit;
mod auth;
mod condition;
mod connections;
pub mod control;
mod dead;
mod error;
mod events;
mod executions;
mod follow;
mod health;
pub mod hub;
mod input;
mod known_actions;
mod limits;
mod metrics;
mod sending;
mod serve;
mod stream;
mod token;
mod workers;
mod write_timeout;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::MethodRouter;
use slotline_store::Store;
use tokio_util::sync::CancellationToken;

pub use auth::{EXPOSED_TOKEN_CHARS_MIN, INTENT_HEADER, check_exposure};
pub use condition::Condition;
pub use control::{Control, ControlError, RefusalKind, Submission};
pub use error::Exposed;
pub use hub::Hub;
pub use input::{BODY_BYTES_MAX, LIMIT_DEFAULT, LIMIT_MAX};
pub use serve::{Error as ServeError, listen, serve};
pub use token::{ApiToken, InvalidToken, InvalidTokens, TOKENS_MAX, Tokens};

/// What the API needs to answer requests.
#[derive(Clone)]
pub struct ApiServices {
    pub control: Arc<dyn Control>,
    pub store: Store,
    /// Without one the API listens on loopback only.
    pub tokens: Tokens,
    /// Where the executor publishes events.
    pub hub: Arc<Hub>,
}

#[derive(Clone)]
struct Api(Arc<ApiState>);

struct ApiState {
    control: Arc<dyn Control>,
    store: Store,
    known_actions: known_actions::KnownActions,
    permits: limits::Permits,
    hub: Arc<Hub>,
    journal: Arc<follow::LimitedJournal>,
    /// Ends streams and long polls, which would go on for ever.
    shutdown: CancellationToken,
}

impl Deref for Api {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.0
    }
}

/// All routes. To listen on the network use [`serve`], which also bounds connections, refuses to be exposed, and ends
/// streams at shutdown.
pub fn router(state: ApiServices) -> Router {
    routes(state, CancellationToken::new())
}

/// Makes a router and the list of its routes, which a test compares with the reference (`README.md`).
macro_rules! routes {
    ($list:ident, $router:ident: $($path:literal => $($method:ident $handler:path),+;)+) => {
        const $list: &[(&str, &str)] = &[$($((stringify!($method), $path)),+),+];

        fn $router() -> Router<Api> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))+
        }
    };
}

// These take their permits themselves, and may take longer than others.
routes! {
    STREAMS, streams:
    "/events" => get events::of_all;
    "/executions/{id}/events" => get events::of_one;
}

routes! {
    REQUESTS, requests:
    "/actions" => get actions::list;
    "/actions/apply" => post actions::apply;
    "/actions/{action_ref}" => get actions::show, put actions::put, patch actions::patch, delete actions::delete;
    "/actions/{action_ref}/limit" => put actions::override_limit, delete actions::clear_override;
    "/actions/{action_ref}/pause" => post actions::pause;
    "/actions/{action_ref}/resume" => post actions::resume;
    "/actions/{action_ref}/queue-stats" => get actions::queue_stats;
    "/queues" => get actions::queues;
    "/executions" => get executions::list, post executions::submit;
    "/executions/{id}" => get executions::show;
    "/executions/{id}/cancel" => post executions::cancel;
    "/requests/{message_id}" => get executions::request;
    "/workers" => get workers::list;
    "/audit" => get audit::list;
    "/dead" => get dead::list;
    "/dead/{id}" => get dead::show, delete dead::discard;
    "/dead/{id}/replay" => post dead::replay;
}

routes! {
    HEALTH, health:
    "/livez" => get health::live;
    "/readyz" => get health::ready;
}

routes! {
    METRICS, scrapes:
    "/metrics" => get metrics::expose;
}

/// The path of all routes but health and metrics.
const BASE: &str = "/api/v1";

/// Every route, such as `GET /api/v1/workers`.
pub fn served() -> Vec<String> {
    let below =
        |base: &'static str| move |(method, path): &(&str, &str)| format!("{} {base}{path}", method.to_uppercase());
    [STREAMS, REQUESTS]
        .concat()
        .iter()
        .map(below(BASE))
        .chain([HEALTH, METRICS].concat().iter().map(below("")))
        .collect()
}

fn routes(state: ApiServices, shutdown: CancellationToken) -> Router {
    let ApiServices { control, store, tokens, hub } = state;
    let journal = Arc::new(follow::LimitedJournal::new(store.clone()));
    let (known_actions, permits) = (known_actions::KnownActions::default(), limits::Permits::default());
    let api = Api(Arc::new(ApiState { control, store, known_actions, permits, hub, journal, shutdown }));
    let requests = requests().layer(middleware::from_fn_with_state(api.clone(), limits::admit));
    Router::new()
        .nest(BASE, requests)
        .merge(health())
        .merge(scrapes())
        .layer(middleware::from_fn(limits::bound_time))
        .nest(BASE, streams())
        .fallback(async || error::Error::NoRoute)
        .with_state(api.clone())
        .layer(middleware::map_response(error::uniform))
        .layer(middleware::from_fn_with_state(tokens, auth::guard))
        .layer(middleware::from_fn_with_state(api, metrics::count))
}
