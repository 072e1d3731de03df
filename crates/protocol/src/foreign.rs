//! Messages of other systems, recognised by their shape: a refusal of one names the system.

use serde_json::{Map, Value};

/// Envelopes of other systems: the name of each, and members that only it has together.
const ENVELOPES: [(&str, &[&str]); 8] = [
    ("a payload without its envelope", &["action_ref"]),
    ("a Celery task of protocol 1", &["task", "args", "kwargs"]),
    ("a Dramatiq message", &["actor_name", "args", "kwargs"]),
    ("a MassTransit envelope", &["messageType", "message"]),
    ("a Sidekiq job", &["class", "args", "jid"]),
    ("a Laravel job", &["displayName", "job", "data"]),
    ("a NestJS message", &["pattern", "data"]),
    ("a CloudEvents event", &["specversion", "type"]),
];

/// Members of the third part of a Celery task of protocol 2.
const CELERY_OPTIONS: [&str; 4] = ["callbacks", "errbacks", "chain", "chord"];

/// What to send instead.
const EXPECTED: &str =
    r#"expected {"message_type": "execution.requested", "payload": {"action_ref": "...", "parameters": {}}}"#;

/// Names what an object that is no envelope seems to be.
pub(crate) fn envelope(text: &str) -> Option<String> {
    let members: Map<String, Value> = serde_json::from_str(text).ok()?;
    let has = |names: &[&str]| names.iter().all(|name| members.contains_key(*name));
    let (name, _) = ENVELOPES.iter().find(|(_, names)| has(names))?;
    Some(format!("this is {name}: {EXPECTED}"))
}

/// Names what an array without envelopes seems to be; `members` are its elements.
pub(crate) fn array(members: &[&str]) -> Option<String> {
    let &[arguments, keywords, options] = members else { return None };
    let options: Map<String, Value> = serde_json::from_str(options).ok()?;
    let is_task = arguments.starts_with('[')
        && keywords.starts_with('{')
        && CELERY_OPTIONS.iter().any(|name| options.contains_key(*name));
    is_task.then(|| format!("this is a Celery task (its arguments, keyword arguments and options): {EXPECTED}"))
}

/// How a body is compressed, by its first bytes.
pub fn compression(body: &[u8]) -> Option<&'static str> {
    const BEGINNINGS: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0x78, 0x9c], "deflate"),
        (&[0x78, 0xda], "deflate"),
    ];
    BEGINNINGS.iter().find(|(bytes, _)| body.starts_with(bytes)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelopes_of_others_are_told_by_their_members() {
        for (text, name) in [
            (r#"{"messageId": "1", "messageType": ["urn:message:Deploy"], "message": {"app": "web"}}"#, "MassTransit"),
            (r#"{"task": "deploy", "id": "1", "args": ["web"], "kwargs": {}}"#, "Celery"),
            (r#"{"queue_name": "q", "actor_name": "deploy", "args": [], "kwargs": {}, "options": {}}"#, "Dramatiq"),
            (r#"{"class": "Deploy", "args": ["web"], "jid": "1"}"#, "Sidekiq"),
            (r#"{"specversion": "1.0", "type": "deploy", "source": "/x", "id": "1"}"#, "CloudEvents"),
            (r#"{"action_ref": "deploy.app", "parameters": {}}"#, "without its envelope"),
        ] {
            let message = envelope(text).unwrap_or_else(|| panic!("{name} is known"));
            assert!(message.contains(name) && message.contains("expected {\"message_type\""), "{message}");
        }
        assert_eq!(envelope(r#"{"app": "web"}"#), None);
        assert_eq!(envelope("7"), None);
    }

    #[test]
    fn a_celery_task_is_told_from_an_array_of_envelopes() {
        let task = [r#"["web"]"#, r#"{"ms": 5}"#, r#"{"callbacks": null, "chord": null}"#];
        assert!(array(&task).is_some_and(|message| message.contains("Celery")));
        assert_eq!(array(&["[]", "{}", "{}"]), None);
        assert_eq!(array(&["{}", "{}", "{}"]), None);
    }
}
