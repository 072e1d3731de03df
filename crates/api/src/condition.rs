//! The precondition of a change to a policy: the headers `If-Match` and `If-None-Match`.
//!
//! A policy that is put whole replaces all members, also those that the client has never seen. So the request names the
//! policy that it replaces, by the ETag from `GET`.

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use slotline_protocol::{ActionRef, Policy};

use crate::error::Error;
use crate::refusal::{ControlError, RefusalKind};

/// What must hold for a policy to be changed. Serializable: a follower passes it on to the leader, which checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    #[default]
    None,
    /// There is no such action yet.
    New,
    /// There is such an action, whatever its policy is.
    Any,
    /// The policy has one of these ETags.
    OneOf(Vec<String>),
}

impl Condition {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Error> {
        let (wanted, unwanted) = (tags(headers, &IF_MATCH)?, tags(headers, &IF_NONE_MATCH)?);
        match (wanted, unwanted) {
            (None, None) => Ok(Self::None),
            (Some(tags), None) if tags == ["*"] => Ok(Self::Any),
            (Some(tags), None) => Ok(Self::OneOf(tags)),
            (None, Some(tags)) if tags == ["*"] => Ok(Self::New),
            (None, Some(_)) => Err(Error::malformed(IF_NONE_MATCH.as_str(), "expected *, for an action that is new")),
            (Some(_), Some(_)) => {
                Err(Error::malformed(IF_NONE_MATCH.as_str(), "expected this header or If-Match, not both"))
            }
        }
    }

    /// Whether a whole policy may take the place of `current`; `None` is no action of this name.
    pub fn check_put(&self, action_ref: &ActionRef, current: Option<&Policy>) -> Result<(), ControlError> {
        match (self, current) {
            (Self::None, Some(_)) => {
                let message = format!(
                    "{action_ref} exists, and PUT replaces its whole policy: send the ETag that GET gives as If-Match, or \
                     change single members with PATCH"
                );
                Err(ControlError::new(RefusalKind::PreconditionRequired, "precondition_required", message)
                    .at(IF_MATCH.as_str()))
            }
            _ => self.check(action_ref, current),
        }
    }

    /// Whether members of `current` may be changed, or an action made.
    pub fn check(&self, action_ref: &ActionRef, current: Option<&Policy>) -> Result<(), ControlError> {
        let failed = |field: &HeaderName, message: String| {
            let mut refused =
                ControlError::new(RefusalKind::PreconditionFailed, "precondition_failed", message).at(field.as_str());
            refused.refusal.details = current.map(|policy| json!({"etag": policy.etag()}));
            Err(refused)
        };
        match (self, current) {
            (Self::New, Some(_)) => {
                let message =
                    format!("{action_ref} exists already: GET it, and send its ETag as If-Match to replace it");
                failed(&IF_NONE_MATCH, message)
            }
            (Self::Any | Self::OneOf(_), None) => {
                failed(&IF_MATCH, format!("no action is called {action_ref}: leave If-Match out to make it"))
            }
            (Self::OneOf(tags), Some(policy)) if !tags.contains(&policy.etag()) => {
                let message = format!("the policy of {action_ref} has changed: GET it again, and send its ETag");
                failed(&IF_MATCH, message)
            }
            (Self::None | Self::New, None) | (Self::None | Self::Any | Self::OneOf(_), Some(_)) => Ok(()),
        }
    }
}

/// The entity tags of a header, all its lines together. A weak one is as good: proxies that compress make them so, and
/// what is compared is a policy, not bytes.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Vec<String>>, Error> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
        tags.extend(text.split(',').map(|tag| tag.trim().trim_start_matches("W/").to_owned()));
    }
    let is_tag = |tag: &String| tag == "*" || tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
    match tags.iter().all(is_tag) {
        true if tags.is_empty() => Ok(None),
        true => Ok(Some(tags)),
        false => Err(Error::malformed(name.as_str(), "expected an ETag in its quotes, as GET gives it, or *")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(headers: &[(HeaderName, &str)]) -> Result<Condition, String> {
        let pairs = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value")));
        Condition::read(&pairs.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn tags_are_read_from_either_header_and_never_from_both() {
        let one_of = |tags: &[&str]| Ok(Condition::OneOf(tags.iter().map(|&tag| tag.to_owned()).collect()));
        assert_eq!(read(&[]), Ok(Condition::None));
        assert_eq!(read(&[(IF_MATCH, "*")]), Ok(Condition::Any));
        assert_eq!(read(&[(IF_NONE_MATCH, "*")]), Ok(Condition::New));
        assert_eq!(read(&[(IF_MATCH, "\"a\", W/\"b\"")]), one_of(&["\"a\"", "\"b\""]));
        for bad in [
            &[(IF_MATCH, "a")][..],
            &[(IF_MATCH, "")],
            &[(IF_MATCH, "\"")],
            &[(IF_NONE_MATCH, "\"a\"")],
            &[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_was_seen_is_replaced_and_every_refusal_says_the_next_step() {
        let name = ActionRef::new("deploy.app").expect("a name");
        let policy = Policy { limit: Some(1), ..Policy::default() };
        let tag = |policy: &Policy| Condition::OneOf(vec!["\"other\"".to_owned(), policy.etag()]);
        let put = |condition: &Condition, current| {
            let refused = condition.check_put(&name, current).err();
            refused.map(|refused| (refused.kind, refused.refusal.message))
        };
        for (condition, current) in [
            (Condition::None, None),
            (Condition::New, None),
            (Condition::Any, Some(&policy)),
            (tag(&policy), Some(&policy)),
        ] {
            assert_eq!(put(&condition, current), None, "{condition:?}");
        }
        for (condition, current, kind, step) in [
            (
                Condition::None,
                Some(&policy),
                RefusalKind::PreconditionRequired,
                "as If-Match, or change single members with PATCH",
            ),
            (Condition::New, Some(&policy), RefusalKind::PreconditionFailed, "send its ETag as If-Match"),
            (tag(&Policy::default()), Some(&policy), RefusalKind::PreconditionFailed, "GET it again"),
            (Condition::Any, None, RefusalKind::PreconditionFailed, "leave If-Match out"),
            (tag(&policy), None, RefusalKind::PreconditionFailed, "leave If-Match out"),
        ] {
            let (found, message) = put(&condition, current).expect("it is refused");
            assert!(found == kind && message.contains(step), "{condition:?}: {message}");
        }
        assert_eq!(Condition::None.check(&name, Some(&policy)), Ok(()), "one member needs no condition");
    }
}
