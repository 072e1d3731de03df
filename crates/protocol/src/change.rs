//! Changes to an action: single members of its policy, a whole file of policies, and a temporary limit.
//!
//! Pure: what differs between two policies, and what a merge patch (RFC 7396) makes of one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::refusal::Refusal;
use crate::{ActionId, ActionRef, Policy, Timestamp, canonical, did_you_mean, duration};

/// The most actions of one `POST /api/v1/actions/apply`.
pub const APPLY_ACTIONS_MAX: usize = 10_000;
/// The member of a policy that is compared member by member.
const RETRY: &str = "retry";

/// One member that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// A path such as `limit` or `retry.max_attempts`.
    pub member: String,
    pub old: Value,
    pub new: Value,
}

impl Difference {
    fn new(member: impl Into<String>, old: Value, new: Value) -> Self {
        Self { member: member.into(), old, new }
    }
}

/// A limit that replaces the declared one until its time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitOverride {
    /// `None` is unlimited.
    pub limit: Option<u32>,
    pub until: Timestamp,
    pub since: Timestamp,
    pub actor: String,
    #[serde(default)]
    pub reason: Option<String>,
}

/// Body of `PUT /api/v1/actions/{ref}/limit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideBody {
    /// null is unlimited; the member must be present.
    #[serde(deserialize_with = "Option::deserialize")]
    pub limit: Option<u32>,
    /// Counted from now.
    #[serde(rename = "for", with = "duration")]
    pub duration: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl OverrideBody {
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.limit == Some(0) {
            return Err(("limit", "expected at least 1, or null for no limit; to run nothing, pause the action"));
        }
        if self.duration.is_zero() {
            return Err(("for", "expected more than zero"));
        }
        Ok(())
    }
}

/// Body of a request that has at most a reason, such as `POST /api/v1/actions/{ref}/pause`; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReasonBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of `POST /api/v1/actions/apply`: all of these policies, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyBody {
    pub actions: Vec<Declared>,
    /// Shows what would change, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An action as a file declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    pub action_ref: ActionRef,
    pub policy: Policy,
}

/// The result for one action of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    pub action_ref: ActionRef,
    /// null for an action that a dry run would create.
    pub action_id: Option<ActionId>,
    pub outcome: ChangeOutcome,
    #[serde(default)]
    pub changes: Vec<Difference>,
    /// The override of its limit, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_override: Option<LimitOverride>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeOutcome {
    Created,
    Changed,
    Unchanged,
}

impl ChangeOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// The members in which `new` differs from `old`. If one of them is `None`, the members of the other that differ from
/// the default, with null on the missing side.
pub fn differences(old: Option<&Policy>, new: Option<&Policy>) -> Vec<Difference> {
    let default = Policy::default();
    let mut found = Vec::new();
    differ("", &members(old.unwrap_or(&default)), &members(new.unwrap_or(&default)), &mut found);
    for difference in &mut found {
        if old.is_none() {
            difference.old = Value::Null;
        }
        if new.is_none() {
            difference.new = Value::Null;
        }
    }
    found
}

/// The difference when the override of a limit begins, changes or ends.
pub fn override_difference(old: Option<&LimitOverride>, new: Option<&LimitOverride>) -> Difference {
    let value = |it: Option<&LimitOverride>| serde_json::to_value(it).expect("plain data with string keys");
    Difference::new("limit_override", value(old), value(new))
}

/// The difference when an action is paused or resumed.
pub fn pause_difference(paused: bool) -> Difference {
    Difference::new("paused", Value::Bool(!paused), Value::Bool(paused))
}

fn members(policy: &Policy) -> Map<String, Value> {
    match serde_json::to_value(policy) {
        Ok(Value::Object(members)) => members,
        other => unreachable!("a policy is written as an object: {other:?}"),
    }
}

fn differ(before: &str, old: &Map<String, Value>, new: &Map<String, Value>, found: &mut Vec<Difference>) {
    for (name, was) in old {
        let is = new.get(name).unwrap_or(&Value::Null);
        if was == is {
            continue;
        }
        match (name.as_str(), was, is) {
            (RETRY, Value::Object(was), Value::Object(is)) => differ("retry.", was, is, found),
            _ => found.push(Difference::new(format!("{before}{name}"), was.clone(), is.clone())),
        }
    }
}

impl Policy {
    /// The policy's ETag for `If-Match`. It depends on the policy alone, not on the action's other members.
    pub fn etag(&self) -> String {
        let json = serde_json::to_string(self).expect("plain data with string keys");
        let digest = Sha256::digest(canonical(&json));
        let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    }

    /// The policy that a merge patch makes of this one (RFC 7396): each member that the patch names is replaced, null
    /// resets it to its default, and `retry` and `schema` are merged member by member.
    pub fn merged(&self, patch: &Value) -> Result<Self, Refusal> {
        let refuse = |field: &str, message: String| Err(Refusal::new("invalid_request", message).at(field));
        let Value::Object(asked) = patch else {
            return refuse("body", "expected a JSON object with the members of the policy that change".to_owned());
        };
        let mut whole = members(self);
        for (name, value) in asked {
            // An unknown member is refused even if it is null: removing it would change nothing, without an error.
            let Some(known) = whole.get(name) else {
                return refuse(name, unknown(name, &whole));
            };
            if let (RETRY, Value::Object(asked), Value::Object(known)) = (name.as_str(), value, known)
                && let Some(name) = asked.keys().find(|name| !known.contains_key(*name))
            {
                return refuse(&format!("retry.{name}"), unknown(name, known));
            }
        }
        merge_members(&mut whole, asked);
        let policy: Self = serde_path_to_error::deserialize(Value::Object(whole))
            .or_else(|error| refuse(&error.path().to_string(), error.inner().to_string()))?;
        policy.check().map_err(|invalid| Refusal::new("invalid_policy", invalid.message).at(invalid.field))?;
        Ok(policy)
    }
}

fn unknown(name: &str, known: &Map<String, Value>) -> String {
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    format!("unknown member `{name}`{}", did_you_mean(name, &names))
}

fn merge_members(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(patch) => {
                let member = target.entry(name).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                if let Value::Object(member) = member {
                    merge_members(member, patch);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                target.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(json: Value) -> Policy {
        serde_json::from_value(json).expect("a policy")
    }

    fn full() -> Policy {
        policy(json!({
            "limit": 1, "key": "/tenant", "timeout": "60s", "retry": {"max_attempts": 3, "backoff": "2s"},
            "schema": {"type": "object", "required": ["app"], "properties": {"app": {"type": "string"}}},
        }))
    }

    #[test]
    fn a_merge_patch_changes_what_it_names_and_nothing_else() {
        let changed = full().merged(&json!({"limit": 5, "retry": {"max_attempts": 4}})).expect("a sound patch");
        let expected =
            Policy { limit: Some(5), retry: crate::policy::Retry { max_attempts: 4, ..full().retry }, ..full() };
        assert_eq!(changed, expected);
        let reset = full().merged(&json!({"limit": null, "retry": null, "key": null})).expect("a sound patch");
        assert_eq!((reset.limit, reset.key, reset.retry), (None, None, Policy::default().retry));
        assert_eq!((reset.timeout, reset.schema), (full().timeout, full().schema));
        assert_eq!(full().merged(&json!({})).expect("nothing to do"), full());
    }

    #[test]
    fn a_schema_is_merged_member_by_member() {
        let patch = json!({"schema": {"required": null, "properties": {"tenant": {"type": "integer"}}}});
        let merged = full().merged(&patch).expect("a sound patch").schema;
        let expected = json!({
            "type": "object", "properties": {"app": {"type": "string"}, "tenant": {"type": "integer"}},
        });
        assert_eq!(merged, Some(expected));
        let whole = full().merged(&json!({"schema": true})).expect("a sound patch").schema;
        assert_eq!(whole, Some(json!(true)));
    }

    #[test]
    fn what_a_patch_can_not_mean_is_refused_by_its_path() {
        for (patch, field, words) in [
            (json!(5), "body", "expected a JSON object"),
            (json!([]), "body", "expected a JSON object"),
            (json!({"limits": 5}), "limits", "did you mean `limit`?"),
            (json!({"limits": null}), "limits", "did you mean `limit`?"),
            (json!({"retry": {"max_attempt": 5}}), "retry.max_attempt", "did you mean `max_attempts`?"),
            (json!({"limit": 0}), "limit", "expected at least 1"),
            (json!({"limit": "many"}), "limit", "invalid type"),
            (json!({"retry": {"backoff": "soon"}}), "retry.backoff", "is no duration"),
            (json!({"retry": {"max_attempts": 0}}), "retry.max_attempts", "expected at least 1"),
        ] {
            let refusal = full().merged(&patch).expect_err("it can't be meant");
            let found = refusal.field.clone().unwrap_or_default();
            assert!(found == field && refusal.message.contains(words), "{patch}: {refusal:?}");
        }
    }

    #[test]
    fn what_differs_is_told_by_member_with_old_and_new() {
        let changed = full().merged(&json!({"limit": 5, "timeout": null, "retry": {"backoff": "3s"}})).expect("sound");
        let found: Vec<_> =
            differences(Some(&full()), Some(&changed)).into_iter().map(|it| (it.member, it.old, it.new)).collect();
        let expected = [
            ("limit".to_owned(), json!(1), json!(5)),
            ("retry.backoff".to_owned(), json!("2s"), json!("3s")),
            ("timeout".to_owned(), json!("1m"), json!(null)),
        ];
        assert_eq!(found, expected);
        assert_eq!(differences(Some(&full()), Some(&full())), []);
        let one = policy(json!({"limit": 1}));
        let limit = |old, new| [Difference::new("limit", old, new)];
        assert_eq!(differences(None, Some(&one)), limit(json!(null), json!(1)));
        assert_eq!(differences(Some(&one), None), limit(json!(1), json!(null)));
    }

    #[test]
    fn an_etag_is_of_what_the_policy_means_and_not_of_how_it_is_spelt() {
        let one = policy(json!({"timeout": 60, "schema": {"a": 1, "b": 2}}));
        let same = policy(json!({"schema": {"b": 2, "a": 1}, "timeout": "1m"}));
        assert_eq!(one.etag(), same.etag());
        assert_ne!(one.etag(), Policy::default().etag());
        let etag = one.etag();
        assert!(etag.len() == 18 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    }

    #[test]
    fn an_override_says_its_limit_and_its_time() {
        let read = |text: &str| serde_json::from_str::<OverrideBody>(text);
        let body = read(r#"{"limit": 4, "for": "2h"}"#).expect("sound");
        assert_eq!((body.limit, body.duration), (Some(4), Duration::from_secs(7200)));
        assert_eq!(read(r#"{"limit": null, "for": 60}"#).expect("sound").limit, None);
        for missing in [r#"{"for": "2h"}"#, r#"{"limit": 4}"#, r#"{"limit": 4, "for": "2h", "until": "x"}"#] {
            assert!(read(missing).is_err(), "{missing}");
        }
        assert_eq!(read(r#"{"limit": 0, "for": "2h"}"#).expect("it reads").check().expect_err("none").0, "limit");
        assert_eq!(read(r#"{"limit": 1, "for": 0}"#).expect("it reads").check().expect_err("none").0, "for");
    }
}
