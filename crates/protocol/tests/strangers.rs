//! Whatever reaches these readers, nothing panics, a refusal gives its reason, and what was read and written reads back
//! the same.
//!
//! `FUZZ_SECONDS=60 FUZZ_SEED=$RANDOM cargo test -p slotline-protocol --test strangers` for the long run; see
//! `slotline_tests::fuzz`. The seeds are the golden files.

use std::fmt::Debug;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use slotline_protocol::envelope::{self, Body, Defaults, Envelope};
use slotline_protocol::http::Action;
use slotline_protocol::message::{
    Accepted, Cancel, CancelRequested, Completed, Ended, Heartbeat, Hello, Message, Probe, Progress, Recall, Recorded,
    Rejected, Requested, Resend, Returned, Scheduled, Settled, StatusChanged, TYPES,
};
use slotline_protocol::record::{Event, Latest, Newest};
use slotline_protocol::requested::check_key;
use slotline_protocol::{ActionRef, Detail, ExecutionId, Policy, Status, Timestamp, WorkerName, duration};
use slotline_tests::Fuzz;
use slotline_tests::fuzz::way;

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// The golden files, by their names.
fn golden() -> Vec<(String, String)> {
    let folder = std::fs::read_dir(format!("{PACKAGE}/tests/golden")).expect("golden files");
    let mut files: Vec<(String, String)> = folder
        .map(|entry| {
            let path = entry.expect("readable").path();
            let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
            (name, std::fs::read_to_string(path).expect("readable"))
        })
        .collect();
    files.sort();
    assert!(files.len() >= TYPES.len());
    files
}

/// The type of the message in a golden file: `execution.progress.gap` holds an `execution.progress`.
fn type_of(name: &str) -> &'static str {
    TYPES.iter().filter(|known| name.starts_with(**known)).max_by_key(|known| known.len()).expect("a message")
}

fn refusal(error: impl std::fmt::Display) -> Result<String, String> {
    let text = error.to_string();
    if text.trim().is_empty() { Err("a refusal without a word".to_owned()) } else { Ok(way(text)) }
}

/// Written, read and written again, it is the same.
fn same_again<T: Serialize + DeserializeOwned>(value: &T) -> Result<(), String> {
    let written = serde_json::to_string(value).map_err(|error| format!("it can't be written: {error}"))?;
    let read: T = serde_json::from_str(&written)
        .map_err(|error| format!("what was written can't be read: {error}: {written}"))?;
    let again = serde_json::to_string(&read).map_err(|error| error.to_string())?;
    if again == written { Ok(()) } else { Err(format!("written as\n{written}\nand then as\n{again}")) }
}

fn json<T: Serialize + DeserializeOwned>(input: &[u8]) -> Result<String, String> {
    match serde_json::from_slice::<T>(input) {
        Ok(value) => same_again(&value).map(|()| "sound".to_owned()),
        Err(error) => refusal(error),
    }
}

fn open<M: Message>(envelope: &Envelope<'_>) -> Result<String, String> {
    match envelope.open::<M>() {
        Ok(message) => same_again(&message).map(|()| M::TYPE.to_owned()),
        Err(unreadable) if unreadable.detail.starts_with("payload") => refusal(unreadable),
        Err(unreadable) => Err(format!("no field is named: {unreadable}")),
    }
}

/// Opens the envelope by its type.
fn open_any(envelope: &Envelope<'_>) -> Result<String, String> {
    macro_rules! by_type {
        ($($name:ident),* $(,)?) => {
            match &*envelope.message_type {
                $($name::TYPE => open::<$name>(envelope),)*
                known if TYPES.contains(&known) => Err(format!("{known} is not tried here")),
                _ => Ok("unknown".to_owned()),
            }
        };
    }
    by_type!(
        Requested,
        CancelRequested,
        Accepted,
        Rejected,
        Settled,
        Scheduled,
        Cancel,
        Recall,
        Recorded,
        Resend,
        Hello,
        Completed,
        Returned,
        StatusChanged,
        Progress,
        Heartbeat,
        Ended,
        Probe,
    )
}

fn body(input: &[u8]) -> Result<String, String> {
    let defaults = Defaults { message_id: Some("a message".to_owned()), ..Defaults::default() };
    let members = match envelope::read(&Bytes::copy_from_slice(input), defaults) {
        Ok(members) => members,
        Err(unreadable) => return refusal(unreadable),
    };
    let mut ways = Vec::new();
    let mut sound = Vec::new();
    for member in members.iter() {
        match member {
            Ok(envelope) => {
                ways.push(open_any(&envelope)?);
                sound.push(envelope);
            }
            Err(unreadable) => ways.push(refusal(unreadable)?),
        }
    }
    let write = |envelopes: &[Envelope<'_>]| {
        let mut body = Body::with_room(envelopes.len());
        for envelope in envelopes {
            body.write(envelope);
        }
        body.finish()
    };
    ways.sort();
    ways.dedup();
    if sound.is_empty() {
        return Ok(ways.join("; "));
    }
    let written = write(&sound);
    let again = envelope::read(&written, Defaults::default()).map_err(|error| format!("what was written: {error}"))?;
    let again: Vec<Envelope<'_>> =
        again.iter().collect::<Result<_, _>>().map_err(|error| format!("a member that was written: {error}"))?;
    if write(&again) != written {
        return Err(format!("written as\n{}", String::from_utf8_lossy(&written)));
    }
    Ok(ways.join("; "))
}

#[test]
fn no_body_and_no_message_is_too_strange() {
    let envelopes: Vec<String> = golden()
        .iter()
        .map(|(name, payload)| {
            let rest = r#""message_id":"m-1","source":"s","timestamp":"2026-11-21T08:30:00Z","trace_id":"t""#;
            format!(r#"{{"message_type":"{}",{rest},"payload":{payload}}}"#, type_of(name))
        })
        .collect();
    let array = format!("[{}]", envelopes[..4].join(","));
    Fuzz::new(PACKAGE, "body").seeds(envelopes).seeds([array]).run(body);
}

#[test]
fn no_event_of_the_record_is_too_strange() {
    let start = r#"{"execution_id":42,"action_ref":"a.b","number":7,"attempt":1,"timestamp":"2026-11-21T08:30:00Z""#;
    let seeds = [
        r#""kind":"status","previous_status":"queued","new_status":"scheduled","worker":"w-1""#,
        r#""kind":"started""#,
        r#""kind":"progress","step":[2,7],"message":"m","progress":[60,1024],"unit":"Bytes","phase":"p","percent":40.5,"level":"error","data":{"a":[1]}"#,
        r#""kind":"log","stream":"stdout","lines":["a","b"]"#,
        r#""kind":"gap","count":3,"reason":"lost""#,
        r#""kind":"finished","outcome":"failed","return_code":3,"message":"m""#,
        r#""kind":"settled","status":"completed","result":{"n":1.10},"error":{"code":"c","message":"m","stack_trace":"s","details":{"a":1}}"#,
    ];
    Fuzz::new(PACKAGE, "event").seeds(seeds.map(|rest| format!("{start},{rest}}}"))).run(json::<Event>);
    let seeds = [
        r#"{"step":[1,2],"progress":[1,null],"unit":"u","percent":1.5,"phase":"p","updated_at":"2026-11-21T08:30:00Z"}"#,
    ];
    Fuzz::new(PACKAGE, "latest").seeds(seeds).run(json::<Latest>);
    Fuzz::new(PACKAGE, "newest").seeds([r#"{"Info":"a","Error":"b"}"#]).run(json::<Newest>);
}

#[test]
fn no_wish_for_progress_is_too_strange() {
    let seeds = [
        "null",
        "{}",
        r#"{"update_interval":"300ms","update_step":5}"#,
        r#"{"updateInterval":0.5,"updateStep":1}"#,
        r#"{"update-interval":null,"update-step":18446744073709551615}"#,
    ];
    Fuzz::new(PACKAGE, "detail").seeds(seeds).run(json::<Detail>);
}

#[test]
fn no_policy_is_too_strange() {
    let policy = |input: &[u8]| match serde_json::from_slice::<Policy>(input) {
        Err(error) => refusal(error),
        Ok(policy) => match policy.check() {
            Err(invalid) if invalid.field.is_empty() => Err("no field is named".to_owned()),
            Err(invalid) => refusal(invalid),
            Ok(()) => same_again(&policy).map(|()| "sound".to_owned()),
        },
    };
    let seeds = [
        "{}",
        r#"{"limit":1,"key_limit":2,"key":"/tenant","timeout":"60s","queue_timeout":"1h","start_timeout":30,
            "stall_timeout":"1m 30s","max_queue_length":100,"max_lost_attempts":0,
            "retry":{"max_attempts":3,"backoff":"1s","backoff_max":"1m","keep_place":true},
            "on_isolation":"continue","schema":{"type":"object","required":["app"]}}"#,
    ];
    Fuzz::new(PACKAGE, "policy").seeds(seeds).run(policy);
    let action = r#"{"action_id":1,"action_ref":"a.b","paused":false,"policy":{"limit":1},
        "created_at":"2026-11-21T08:30:00Z","updated_at":"2026-11-21T09:30:00+01:00"}"#;
    Fuzz::new(PACKAGE, "action").seeds([action]).run(json::<Action>);
}

/// Read from text and shown, it is read back as the same.
fn shown<T: PartialEq + Debug, E: std::fmt::Display>(
    text: &str,
    read: impl Fn(&str) -> Result<T, E>,
    show: impl Fn(&T) -> String,
) -> Result<String, String> {
    let value = match read(text) {
        Ok(value) => value,
        Err(error) => return refusal(error),
    };
    match read(&show(&value)) {
        Ok(again) if again == value => Ok("sound".to_owned()),
        Ok(again) => Err(format!("{value:?} is shown as {:?}, which is {again:?}", show(&value))),
        Err(error) => Err(format!("{value:?} is shown as {:?}: {error}", show(&value))),
    }
}

#[test]
fn no_name_number_or_duration_is_too_strange() {
    let words = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let text: &str = &text;
        let ways = [
            shown(text, ActionRef::new, ToString::to_string)?,
            shown(text, WorkerName::new, ToString::to_string)?,
            shown(text, str::parse::<ExecutionId>, ToString::to_string)?,
            shown(text, duration::parse, |duration| duration::format(*duration))?,
            shown(text, str::parse::<Status>, |status| status.as_str().to_owned())?,
            check_key(text).map_or_else(refusal, |()| Ok("sound".to_owned()))?,
            envelope::trace_id(text).map(|id| id.len().to_string()).unwrap_or_default(),
            envelope::check_depth(text).map_or_else(refusal, |()| Ok("sound".to_owned()))?,
        ];
        Ok(ways.join("; "))
    };
    let seeds = [
        "deploy.app",
        "a.b-c.d_e",
        "worker-1",
        "42",
        "-1",
        "300ms",
        "1h 30m",
        "1.5",
        "366days",
        "queued",
        "timeout",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "[{\"a\": \"\\\"\"}]",
    ];
    Fuzz::new(PACKAGE, "words").seeds(seeds).run(words);
}

#[test]
fn no_moment_is_too_strange() {
    let seeds = [
        "\"2026-11-21T08:30:00Z\"",
        "\"2025-11-21T09:30:00.000123+01:00\"",
        "\"9999-12-31T23:59:59.999999Z\"",
        "\"0000-01-01T00:00:00Z\"",
        "\"2016-12-31T23:59:60Z\"",
    ];
    Fuzz::new(PACKAGE, "moment").seeds(seeds).run(json::<Timestamp>);
}
