//! The actions of a leader with their compiled schemas.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;
use slotline_protocol::http::Action;
use slotline_protocol::policy::InvalidPolicy;
use slotline_protocol::requested::check_key;
use slotline_protocol::{ActionRef, Policy, Timestamp, canonical};
use slotline_scheduler::Limits;

/// The actions of a leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActionTable {
    known: BTreeMap<ActionRef, Arc<Registered>>,
    /// When overrides end, the earliest first.
    ends: BTreeSet<(Timestamp, ActionRef)>,
    /// What changed since the last [`Self::take_changes`].
    changes: Vec<(ActionRef, Option<Arc<Registered>>)>,
}

#[derive(Debug)]
pub struct Registered {
    pub action: Action,
    validator: Option<Validator>,
}

impl ActionTable {
    pub(crate) fn get(&self, action_ref: &ActionRef) -> Option<&Arc<Registered>> {
        self.known.get(action_ref)
    }

    /// All behind this name, by name.
    pub(crate) fn after(&self, name: Option<&ActionRef>) -> impl Iterator<Item = &Arc<Registered>> {
        let behind = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.known.range::<ActionRef, _>((behind, Bound::Unbounded)).map(|(_, registered)| registered)
    }

    pub(crate) fn put(&mut self, registered: Registered) {
        let (action_ref, end) = (registered.action.action_ref.clone(), registered.end());
        let registered = Arc::new(registered);
        self.changes.push((action_ref.clone(), Some(registered.clone())));
        if let Some(before) = self.known.insert(action_ref, registered).and_then(|before| before.end()) {
            self.ends.remove(&before);
        }
        self.ends.extend(end);
    }

    pub(crate) fn remove(&mut self, action_ref: &ActionRef) {
        self.changes.push((action_ref.clone(), None));
        if let Some(end) = self.known.remove(action_ref).and_then(|before| before.end()) {
            self.ends.remove(&end);
        }
    }

    /// When the next override ends.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// An action whose override is over at `now`; the same again until another is put in its place.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Arc<Registered>> {
        let (_, name) = self.ends.first().filter(|(at, _)| *at <= now)?;
        self.get(name).cloned()
    }

    /// What changed since the last call, in order.
    pub(crate) fn take_changes(&mut self) -> std::vec::Drain<'_, (ActionRef, Option<Arc<Registered>>)> {
        self.changes.drain(..)
    }
}

/// Checks a policy whole, its schema included.
pub(crate) fn check(policy: &Policy) -> Result<Option<Validator>, InvalidPolicy> {
    policy.check()?;
    let compile = |schema| {
        // Built without resolvers: a remote or file `$ref` is an error, never a request.
        jsonschema::validator_for(schema).map_err(|error| InvalidPolicy {
            field: "schema",
            message: format!("expected a valid JSON Schema: {error}"),
        })
    };
    policy.schema.as_ref().map(compile).transpose()
}

impl Registered {
    /// What the scheduler decides by: the limit that holds now.
    pub(crate) fn limits(&self) -> Limits {
        Limits { limit: self.action.limit(), ..Limits::from(&self.action.policy) }
    }

    /// Whether it looks into the parameters of requests.
    pub(crate) fn looks_in(&self) -> bool {
        self.validator.is_some() || self.action.policy.key.is_some()
    }

    fn end(&self) -> Option<(Timestamp, ActionRef)> {
        let temporary = self.action.limit_override.as_ref()?;
        Some((temporary.until, self.action.action_ref.clone()))
    }

    pub(crate) fn new(action: Action) -> Result<Self, InvalidPolicy> {
        let validator = check(&action.policy)?;
        Ok(Self { action, validator })
    }

    /// Checks the parameters of a request (an object) against the schema, and finds its concurrency key: the request's
    /// own, or the value that the policy points to.
    pub(crate) fn admit(&self, parameters: &str, key: Option<String>) -> Result<Option<Arc<str>>, String> {
        let pointer = self.action.policy.key.as_deref().filter(|_| key.is_none());
        let key = if self.validator.is_some() || pointer.is_some() {
            let value: Value = serde_json::from_str(parameters).map_err(|error| format!("parameters: {error}"))?;
            if let Some(validator) = &self.validator
                && let Some(error) = validator.iter_errors(&value).next()
            {
                return Err(format!("parameters{}: {error}", error.instance_path()));
            }
            key.map_or_else(
                || pointer.and_then(|pointer| key_at(&value, parameters, pointer)).transpose(),
                |key| Ok(Some(key)),
            )?
        } else {
            key
        };
        if key.is_none() && self.action.policy.key_required {
            return Err(match pointer {
                Some(pointer) => format!(
                    "parameters{pointer}: expected a string or number, since it is the concurrency key, which this action \
                     requires (key_required)"
                ),
                None => "concurrency_key: expected one, which this action requires (key_required)".to_owned(),
            });
        }
        if let Some(key) = &key {
            check_key(key).map_err(|message| format!("concurrency_key: {message}"))?;
        }
        Ok(key.map(Into::into))
    }
}

/// A number is a key by its digits, which a float would not keep.
fn key_at(parameters: &Value, json: &str, pointer: &str) -> Option<Result<String, String>> {
    match parameters.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(Ok(text.clone())),
        Value::Number(_) => canonical::at(json, pointer).map(|number| Ok(canonical::number(number))),
        Value::Bool(flag) => Some(Ok(flag.to_string())),
        Value::Array(_) | Value::Object(_) => {
            Some(Err(format!("parameters{pointer}: expected a string or number, since it is the concurrency key")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotline_protocol::ActionId;

    fn registered(policy: &str) -> Registered {
        let policy = serde_json::from_str(policy).expect("a policy");
        let moment = Timestamp::from_micros(0);
        let action_ref = ActionRef::new("demo.echo").expect("a name");
        let action = Action {
            action_id: ActionId(1),
            action_ref,
            paused: false,
            policy,
            limit_override: None,
            created_at: moment,
            updated_at: moment,
        };
        Registered::new(action).expect("a valid policy")
    }

    #[test]
    fn the_key_is_the_requests_own_or_where_the_policy_points() {
        let action = registered(r#"{"key": "/tenant"}"#);
        let key = |parameters, own: Option<&str>| action.admit(parameters, own.map(str::to_owned));
        assert_eq!(key(r#"{"tenant": "a"}"#, None), Ok(Some("a".into())));
        for seven in [r#"{"tenant": 7.0}"#, r#"{"tenant": 70e-1}"#] {
            assert_eq!(key(seven, None), Ok(Some("7".into())), "{seven}");
        }
        let large = r#"{"tenant": 12345678901234567890123}"#;
        assert_eq!(key(large, None), Ok(Some("12345678901234567890123".into())), "not that of its neighbours");
        assert_eq!(key(r#"{"tenant": "a"}"#, Some("b")), Ok(Some("b".into())));
        assert_eq!(key(r#"{"tenant": null}"#, None), Ok(None));
        assert_eq!(key("{}", None), Ok(None));
        assert!(key(r#"{"tenant": {}}"#, None).expect_err("an object is no key").contains("/tenant"));
        assert!(key("{}", Some(&"k".repeat(257))).expect_err("too long").contains("concurrency_key"));
    }

    #[test]
    fn a_request_without_the_key_that_its_action_requires_is_refused_by_the_pointers_name() {
        let action = registered(r#"{"key": "/tenant", "key_required": true}"#);
        for parameters in ["{}", r#"{"tenant": null}"#, r#"{"Tenant": "a"}"#] {
            let refused = action.admit(parameters, None).expect_err("it has no key");
            assert!(refused.starts_with("parameters/tenant: "), "{refused}");
            assert_eq!(action.admit(parameters, Some("own".to_owned())), Ok(Some("own".into())));
        }
        assert_eq!(action.admit(r#"{"tenant": 7}"#, None), Ok(Some("7".into())));
        let refused = registered(r#"{"key_required": true}"#).admit("{}", None).expect_err("it has no key");
        assert!(refused.starts_with("concurrency_key: "), "{refused}");
    }

    #[test]
    fn parameters_are_held_against_the_schema_by_path() {
        let action = registered(
            r#"{"schema": {"type": "object", "required": ["app"], "properties": {"app": {"type": "string"}}}}"#,
        );
        assert!(action.admit(r#"{"app": "web"}"#, None).is_ok());
        assert!(action.admit("{}", None).expect_err("app is required").contains("app"));
        assert!(action.admit(r#"{"app": 5}"#, None).expect_err("app is a string").contains("/app"));
    }

    #[test]
    fn a_schema_that_reaches_out_is_refused() {
        for reference in ["http://example.invalid/schema.json", "file:///etc/passwd"] {
            let policy = Policy { schema: Some(serde_json::json!({ "$ref": reference })), ..Policy::default() };
            assert_eq!(check(&policy).expect_err(reference).field, "schema");
        }
    }
}
