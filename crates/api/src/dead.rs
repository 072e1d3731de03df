//! `/api/v1/dead`: messages that were put aside, to look at, to replay and to drop.

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use slotline_protocol::change::ReasonBody;
use slotline_protocol::envelope::ENVELOPE_BYTES_MAX;
use slotline_protocol::http::{Answer, DeadLetter, Page};
use slotline_store::PageRequest;

use crate::auth::Actor;
use crate::error::Error;
use crate::input;
use crate::refusal::ControlError;
use crate::state::SharedApi;

/// The properties of a letter that describe its body.
#[derive(Default, Deserialize)]
struct BodyProperties {
    content_type: Option<String>,
    content_encoding: Option<String>,
}

/// In pages that neither new letters nor dropped ones shift.
pub(crate) async fn list(State(api): State<SharedApi>, uri: Uri) -> Result<Json<Page<DeadLetter>>, Error> {
    let pairs = input::query(&uri, &["limit", "cursor"])?;
    let page = PageRequest {
        limit: u32::try_from(input::limit(&pairs)?).expect("the limit is bounded"),
        cursor: input::once(&pairs, "cursor")?.map(str::to_owned),
    };
    Ok(Json(api.store.dead_letters(&page).await?))
}

pub(crate) async fn show(
    State(api): State<SharedApi>,
    Path(id): Path<String>,
) -> Result<Json<Answer<DeadLetter>>, Error> {
    let whole = api.store.dead_letter(&id).await?.ok_or_else(|| ControlError::unknown_dead_letter(&id))?;
    // The body is shown as text, whatever it holds, and no more of it than one request may have.
    let shown = &whole.body[..whole.body.len().min(ENVELOPE_BYTES_MAX)];
    let BodyProperties { content_type, content_encoding } = serde_json::from_str(&whole.properties).unwrap_or_default();
    let body = Some(String::from_utf8_lossy(shown).into_owned());
    let data = DeadLetter { content_type, content_encoding, body, ..whole.letter };
    Ok(Json(Answer { data }))
}

pub(crate) async fn replay(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    uri: Uri,
    input::OptionalJsonBody(body): input::OptionalJsonBody<ReasonBody>,
) -> Result<Json<Answer<Value>>, Error> {
    let by = actor.by(input::reason_of(&uri, body.reason)?);
    api.control.replay_dead(id.clone(), by).await?;
    Ok(Json(Answer { data: json!({"id": id, "replayed": true}) }))
}

pub(crate) async fn discard(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Answer<Value>>, Error> {
    api.control.drop_dead(id.clone(), actor.by(input::reason(&uri)?)).await?;
    Ok(Json(Answer { data: json!({"id": id, "dropped": true}) }))
}
