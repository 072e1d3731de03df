//! The documents of the contract: kept as files, and true of the golden messages.

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};
use slotline_protocol::contract::{DOCUMENTS, Document};
use slotline_protocol::handler::{AttemptId, FromHandler, ToHandler};
use slotline_protocol::{ActionRef, ExecutionId, Fence};

/// Set to write the files anew.
const RENEW: &str = "SLOTLINE_RENEW_CONTRACT";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contract")
}

fn validator(name: &str) -> Validator {
    let document = Document::named(name).expect(name).value();
    jsonschema::validator_for(&document).expect("a schema")
}

fn check(validator: &Validator, value: &Value) -> Result<(), String> {
    validator.validate(value).map_err(|error| format!("{}: {error}\n{value:#}", error.instance_path()))
}

#[test]
fn the_files_are_what_the_program_makes() {
    for document in DOCUMENTS {
        let path = folder().join(document.file);
        let made = document.text();
        if std::env::var_os(RENEW).is_some() {
            std::fs::write(&path, &made).expect("written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{} is out of date: review the change, and run with {RENEW}=1", path.display());
    }
    let files = folder().read_dir().expect("a folder").count();
    assert_eq!(files, DOCUMENTS.len(), "every file is a document");
}

/// Each golden message that a publisher or subscriber sees, in an envelope.
fn golden() -> Vec<Value> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let of_publishers = ["requested", "cancel_requested", "accepted", "rejected", "settled"];
    let mut paths: Vec<_> =
        of_publishers.iter().map(|name| tests.join(format!("golden/execution.{name}.json"))).collect();
    let public = tests.join("golden_public").read_dir().expect("a folder");
    paths.extend(public.map(|entry| entry.expect("an entry").path()));
    let read = |path: PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let message_type = name.split('.').take(2).collect::<Vec<_>>().join(".");
        let payload: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("text")).expect("JSON");
        json!({ "message_type": message_type, "payload": payload })
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_golden_message_fits_and_one_with_a_wrong_member_does_not() {
    let validator = validator("messages");
    let golden = golden();
    assert!(golden.len() > 10);
    for mut message in golden {
        check(&validator, &message).unwrap_or_else(|error| panic!("{error}"));
        let (member, value) = match message["message_type"].as_str() {
            Some("execution.requested") => ("concurrency_kay", json!("x")),
            Some("execution.cancel_requested") => ("reasons", json!("x")),
            Some("execution.accepted") => ("execution_id", json!("1")),
            Some("execution.rejected") => ("error", json!("x")),
            _ => ("action_ref", json!(1)),
        };
        message["payload"][member] = value;
        check(&validator, &message).expect_err("it does not fit");
    }
}

#[test]
fn every_line_of_a_handler_process_that_is_read_fits() {
    let validator = validator("handler");
    for line in [
        r#"{"type":"hello","protocol":1,"actions":["a.b"],"concurrency":2,"sdk":"x/1"}"#,
        r#"{"type":"hello","protocol":1,"actions":[]}"#,
        r#"{"type":"started","id":"1:2"}"#,
        r#"{"type":"progress","id":"1:2","report":{"progress":[1,null],"message":"x"}}"#,
        r#"{"type":"log","id":"1:2","message":"x"}"#,
        r#"{"type":"completed","id":"1:2","result":[1]}"#,
        r#"{"type":"completed","id":"1:2"}"#,
        r#"{"type":"failed","id":"1:2","error":{"code":"a","message":"b"}}"#,
        r#"{"type":"cancelled","id":"1:2"}"#,
        r#"{"type":"ping","n":1}"#,
    ] {
        FromHandler::read(line.as_bytes()).expect(line);
        check(&validator, &serde_json::from_str(line).expect(line)).unwrap_or_else(|error| panic!("{error}"));
    }
    for line in [r#"{"type":"started"}"#, r#"{"type":"started","id":"1"}"#, r#"{"type":"done","id":"1:2"}"#] {
        FromHandler::read(line.as_bytes()).expect_err(line);
        check(&validator, &serde_json::from_str(line).expect(line)).expect_err(line);
    }
}

#[test]
fn every_line_of_a_worker_fits() {
    let validator = validator("handler");
    let (id, action_ref) = (AttemptId((ExecutionId(1), 2)), ActionRef::new("a.b").expect("a name"));
    let parameters = serde_json::value::RawValue::from_string("{}".to_owned()).expect("JSON");
    let start = ToHandler::Start {
        id: &id,
        execution_id: ExecutionId(1),
        attempt: 1,
        fence: Fence(3),
        action_ref: &action_ref,
        parameters: &parameters,
        correlation_id: None,
        trace_id: Some("x"),
    };
    let welcome = ToHandler::Welcome { protocol: 1, handler: "x", concurrency: 2 };
    for line in [start, welcome, ToHandler::Cancel { id: &id, grace_ms: 5 }, ToHandler::Drain, ToHandler::Pong { n: 1 }]
    {
        let line = serde_json::to_value(line).expect("JSON");
        check(&validator, &line).unwrap_or_else(|error| panic!("{error}"));
    }
}
