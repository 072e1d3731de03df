//! Every route, and what each request passes on its way to its handler.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::MethodRouter;
use http_body::Body as _;
use tokio_util::sync::CancellationToken;

use crate::error::{self, Error};
use crate::limits::in_time;
use crate::sending::holding;
use crate::state::{ApiServices, SharedApi};
use crate::{actions, audit, auth, dead, events, executions, health, lines, live, metrics, ui, workers};

/// All routes. To listen on the network use [`serve`], which also bounds connections, refuses to be exposed, and ends
/// streams at shutdown.
pub fn router(state: ApiServices) -> Router {
    routes(state, CancellationToken::new())
}

/// Makes a router and the list of its routes, which a test compares with the reference (`README.md`).
macro_rules! routes {
    ($list:ident, $router:ident: $($path:literal => $($method:ident $handler:path),+;)+) => {
        const $list: &[(&str, &str)] = &[$($((stringify!($method), $path)),+),+];

        fn $router() -> Router<SharedApi> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))+
        }
    };
}

// These take their permits themselves, and may take longer than others.
routes! {
    STREAMS, streams:
    "/events" => get events::of_all;
    "/executions/{id}/events" => get events::of_one;
    "/stream" => get live::stream;
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
    "/lines" => get lines::list;
    "/lines/{action_ref}" => get lines::show;
    "/lines/{action_ref}/waiting" => get lines::waiting;
    "/lines/{action_ref}/holders" => get lines::holders;
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
    let own = [STREAMS, REQUESTS].concat();
    own.iter().map(below(BASE)).chain([HEALTH, METRICS].concat().iter().map(below(""))).collect()
}

pub(crate) fn routes(state: ApiServices, shutdown: CancellationToken) -> Router {
    let (tokens, page) = (state.tokens.clone(), state.page.clone());
    let api = SharedApi::new(state, shutdown);
    let requests = requests().layer(middleware::from_fn_with_state(api.clone(), admit));
    Router::new()
        .nest(BASE, requests)
        .merge(health())
        .merge(scrapes())
        .layer(middleware::from_fn(bound_time))
        .nest(BASE, streams())
        .with_state(api.clone())
        .merge(ui::router(page))
        .fallback(async || Error::NoRoute)
        .layer(middleware::map_response(error::uniform))
        .layer(middleware::from_fn_with_state(tokens, auth::guard))
        .layer(middleware::from_fn_with_state(api, metrics::count))
}

/// Not for health, which must answer while all permits are taken. Streams have their own permits.
async fn admit(State(api): State<SharedApi>, request: Request, next: Next) -> Result<Response, Error> {
    let permit = api.permits.request()?;
    let response = next.run(request).await;
    let bytes = response.body().size_hint().exact().map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let memory = api.permits.answer(bytes)?;
    Ok(holding(response, (permit, memory)))
}

async fn bound_time(request: Request, next: Next) -> Result<Response, Error> {
    in_time(next.run(request)).await
}
