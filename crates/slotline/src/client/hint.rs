//! Suggests a known action in place of an unknown one. The actions are listed only once a request was refused.

use slotline_protocol::http::Action;
use slotline_protocol::{ActionRef, perhaps_meant};

use crate::client::{Client, Error};

/// How many names are compared with an unknown one.
const ALIKE_AMONG: usize = 1_000;

/// The answer; if it refuses the name of the action, with the name that was probably meant.
pub(crate) async fn with_near_name<T>(
    client: &Client,
    action: &ActionRef,
    answer: Result<T, Error>,
) -> Result<T, Error> {
    let (status, mut refusal) = match answer {
        Err(Error::Refused { status, refusal }) if refusal.code == "unknown_action" => (status, refusal),
        other => return other,
    };
    // The API may have added a suggestion already.
    if !refusal.message.contains("did you mean")
        && let Ok(known) = client.list::<Action>(&["actions"], &[], ALIKE_AMONG).await
    {
        let meant = perhaps_meant(action.as_str(), known.iter().map(|known| known.action_ref.as_str()));
        refusal.message.push_str(&meant);
    }
    Err(Error::Refused { status, refusal })
}
