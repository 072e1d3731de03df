//! `/api/v1/lines`: how all lines stand, and pages of one: what waits in its order, and what holds its slots.
//!
//! The list comes from the board of this process; only pages of a line are asked of the leader, each at the cost of a
//! page.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Serialize;
use slotline_protocol::ActionRef;
use slotline_protocol::http::{Action, Answer, Page, Percentiles};
use slotline_protocol::lines::{Holder, InLine, LinePage, LineRow, LineState, Totals};

use crate::control::{ControlError, LineOf, LineQuery};
use crate::error::Error;
use crate::input;
use crate::state::SharedApi;
use crate::view::{Cursor, LineList, LineSort, LinesView};

/// Percentiles are taken over this many of the newest executions.
const DURATIONS_OVER: u32 = 1000;

/// A page of lines with what all of them sum up to.
#[derive(Debug, Serialize)]
pub(crate) struct LinesAnswer {
    pub(crate) data: Vec<Arc<LineRow>>,
    pub(crate) next_cursor: Option<String>,
    pub(crate) totals: Totals,
}

/// One line: its row, the action, and how long its executions waited and ran.
#[derive(Debug, Serialize)]
pub(crate) struct LineDetail {
    #[serde(flatten)]
    pub(crate) row: Arc<LineRow>,
    pub(crate) action: Action,
    pub(crate) wait_seconds: Option<Percentiles>,
    pub(crate) run_seconds: Option<Percentiles>,
}

pub(crate) async fn list(State(api): State<SharedApi>, uri: Uri) -> Result<Json<LinesAnswer>, Error> {
    let pairs = input::query(&uri, &["sort", "state", "prefix", "limit", "cursor"])?;
    let list = read_list(&pairs)?;
    let view = view(&api).await?;
    let (data, next_cursor) = view.page(&list);
    Ok(Json(LinesAnswer { data, next_cursor, totals: view.totals.clone() }))
}

/// The list that a query asks for.
pub(crate) fn read_list(pairs: &[(String, String)]) -> Result<LineList, Error> {
    let sort = match input::once(pairs, "sort")? {
        None => LineSort::default(),
        Some(text) => named(LineSort::ALL, text)
            .ok_or_else(|| Error::malformed("sort", "expected waiting, oldest, running, drain or name"))?,
    };
    let state = match input::once(pairs, "state")? {
        None => None,
        Some(text) => Some(
            named(LineState::ALL.map(|state| (state.as_str(), state)), text)
                .ok_or_else(|| Error::malformed("state", "expected idle, running, waiting, paused or stuck"))?,
        ),
    };
    let cursor = match input::once(pairs, "cursor")? {
        None => None,
        Some(text) => {
            Some(Cursor::read(text).ok_or_else(|| Error::malformed("cursor", "no page of this list ended with it"))?)
        }
    };
    let prefix = input::once(pairs, "prefix")?.unwrap_or_default().to_owned();
    Ok(LineList { sort, state, prefix, cursor, limit: input::limit(pairs)? })
}

fn named<T: Copy, const N: usize>(all: [(&str, T); N], wanted: &str) -> Option<T> {
    all.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
}

async fn view(api: &SharedApi) -> Result<Arc<LinesView>, Error> {
    let view = api.hub.board().look().await;
    Ok(view
        .ok_or_else(|| ControlError::unavailable("no executor leads, or the leader did not show its lines in time"))?)
}

pub(crate) async fn show(
    State(api): State<SharedApi>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<LineDetail>>, Error> {
    let action_ref = input::known_ref(&action_ref)?;
    let unknown = || ControlError::unknown_action(&action_ref);
    let action = api.store.action(&action_ref).await?.ok_or_else(unknown)?;
    let durations = api.store.durations(action.action_id, DURATIONS_OVER).await?;
    let row = match view(&api).await?.row(&action_ref) {
        Some(row) => row.clone(),
        // It is newer than the view.
        None => Arc::new(row_of(&api, &action).await?),
    };
    let (wait_seconds, run_seconds) = (durations.wait, durations.run);
    Ok(Json(Answer { data: LineDetail { row, action, wait_seconds, run_seconds } }))
}

/// The row of an action that no view has yet.
async fn row_of(api: &SharedApi, action: &Action) -> Result<LineRow, Error> {
    let found = api.control.queue_stats(action.action_ref.clone()).await?;
    let stats = found.ok_or_else(|| ControlError::unknown_action(&action.action_ref))?;
    let state = match (stats.paused, stats.queue_length, stats.active_count) {
        (true, ..) => LineState::Paused,
        (false, 0, 0) => LineState::Idle,
        (false, 0, _) => LineState::Running,
        (false, ..) => LineState::Waiting,
    };
    Ok(LineRow {
        action_ref: stats.action_ref,
        state,
        waiting: stats.queue_length,
        backing_off: 0,
        running: stats.active_count,
        limit: stats.max_concurrent,
        declared_limit: stats.declared_limit,
        limit_override: stats.limit_override,
        key_limit: stats.key_limit,
        keys: stats.keys.len() as u64,
        oldest_enqueued_at: stats.oldest_enqueued_at,
        total_enqueued: stats.total_enqueued,
        total_completed: stats.total_completed,
        started: 0,
        failed: 0,
        run_mean_seconds: None,
        rates: None,
        history: Vec::new(),
    })
}

pub(crate) async fn waiting(
    State(api): State<SharedApi>,
    Path(action_ref): Path<String>,
    uri: Uri,
) -> Result<Json<Page<InLine>>, Error> {
    let query = read_query(&action_ref, &uri)?;
    if let Some(cursor) = &query.cursor {
        let is_place = cursor.split_once('.').is_some_and(|(place, id)| is_number(place) && is_number(id));
        check_cursor(is_place)?;
    }
    Ok(Json(page(api.control.waiting(query).await?)))
}

pub(crate) async fn holders(
    State(api): State<SharedApi>,
    Path(action_ref): Path<String>,
    uri: Uri,
) -> Result<Json<Page<Holder>>, Error> {
    let query = read_query(&action_ref, &uri)?;
    if let Some(cursor) = &query.cursor {
        check_cursor(is_number(cursor))?;
    }
    Ok(Json(page(api.control.holders(query).await?)))
}

fn is_number(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

fn check_cursor(is_sound: bool) -> Result<(), Error> {
    if is_sound { Ok(()) } else { Err(Error::malformed("cursor", "no page of this list ended with it")) }
}

fn read_query(action_ref: &str, uri: &Uri) -> Result<LineQuery, Error> {
    let action_ref: ActionRef = input::known_ref(action_ref)?;
    let pairs = input::query(uri, &["key", "keyless", "limit", "cursor"])?;
    let line = match (input::once(&pairs, "key")?, input::once(&pairs, "keyless")?) {
        (None, None | Some("false")) => None,
        (Some(key), None | Some("false")) => Some(LineOf::Key(key.to_owned())),
        (None, Some("true")) => Some(LineOf::Keyless),
        (Some(_), Some("true")) => return Err(Error::malformed("keyless", "expected key or keyless, not both")),
        (_, Some(_)) => return Err(Error::malformed("keyless", "expected true or false")),
    };
    let cursor = input::once(&pairs, "cursor")?.map(str::to_owned);
    Ok(LineQuery { action_ref, line, cursor, limit: input::limit(&pairs)? })
}

fn page<T>(LinePage { data, next_cursor }: LinePage<T>) -> Page<T> {
    Page { data, next_cursor }
}
