//! `/api/v1/audit`: changes, each with its actor and reason.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use slotline_protocol::ActionRef;
use slotline_protocol::audit::Entry;
use slotline_protocol::http::Page;
use slotline_store::{AuditFilter, PageRequest};

use crate::error::Error;
use crate::input;
use crate::state::SharedApi;

/// The newest first, by pages that neither new entries nor forgotten ones shift.
pub(crate) async fn list(State(api): State<SharedApi>, uri: Uri) -> Result<Json<Page<Entry>>, Error> {
    let pairs = input::query(&uri, &["action", "execution", "actor", "limit", "cursor"])?;
    let action_ref = input::once(&pairs, "action")?
        .map(ActionRef::new)
        .transpose()
        .map_err(|error| Error::malformed("action", error.to_string()))?;
    let execution = input::once(&pairs, "execution")?;
    let execution_id = execution
        .map(|text| text.parse().map_err(|_| Error::malformed("execution", "expected the number of an execution")))
        .transpose()?;
    let filter = AuditFilter { action_ref, execution_id, actor: input::once(&pairs, "actor")?.map(str::to_owned) };
    let page = PageRequest {
        limit: u32::try_from(input::limit(&pairs)?).expect("the limit is bounded"),
        cursor: input::once(&pairs, "cursor")?.map(str::to_owned),
    };
    Ok(Json(api.store.audit(&filter, &page).await?))
}
