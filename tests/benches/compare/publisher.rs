//! The publisher: as fast as the broker confirms, without waiting for the executions.

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::{Context as _, Result};
use slotline_broker::{Properties, Publication, Receipt, Session, topology};
use slotline_tests::now_ns;

use crate::PREFIX;

/// Requests in one message, when they travel together.
const ARRAY: usize = 500;
/// Messages that may be unconfirmed: of one request each, and of arrays.
const WINDOW: usize = 2000;
const WINDOW_OF_ARRAYS: usize = 20;

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Each,
    Arrays,
}

impl Form {
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Each => "one message each",
            Self::Arrays => "in arrays of 500",
        }
    }
}

/// One execution that is asked for.
pub(crate) struct Request {
    pub(crate) action: String,
    /// Names the concurrency key too, where the action has keys.
    pub(crate) line: u64,
    pub(crate) keyed: bool,
    pub(crate) n: u64,
}

impl Request {
    /// Requests of one action with these numbers, taking turns over the keys if there are any.
    pub(crate) fn of(action: &str, keys: Option<u64>, numbers: Range<usize>) -> impl Iterator<Item = Self> {
        numbers.map(move |n| {
            let n = n as u64;
            Self { action: action.to_owned(), line: keys.map_or(0, |keys| n % keys), keyed: keys.is_some(), n }
        })
    }

    fn write(&self, body: &mut String) {
        let Self { action, line, n, .. } = self;
        let key = if self.keyed { format!(r#""concurrency_key":"k{line}","#) } else { String::new() };
        // Written by hand, which is faster: the names need no escapes.
        body.push_str(&format!(
            r#"{{"message_type":"execution.requested","payload":{{"action_ref":"{action}",{key}"parameters":{{"line":{line},"n":{n}}}}}}}"#
        ));
    }
}

/// Returns once all is confirmed.
pub(crate) async fn publish(session: &Session, form: Form, mut requests: impl Iterator<Item = Request>) -> Result<()> {
    let (size, window) = match form {
        Form::Each => (1, WINDOW),
        Form::Arrays => (ARRAY, WINDOW_OF_ARRAYS),
    };
    let mut receipts: VecDeque<Receipt> = VecDeque::with_capacity(window);
    loop {
        let mut body = String::new();
        for (place, request) in requests.by_ref().take(size).enumerate() {
            if form == Form::Arrays {
                body.push(if place == 0 { '[' } else { ',' });
            }
            request.write(&mut body);
        }
        if body.is_empty() {
            break;
        }
        if form == Form::Arrays {
            body.push(']');
        }
        if receipts.len() == window {
            receipts.pop_front().context("the window is full")?.await?;
        }
        receipts.push_back(session.publish(message(body)));
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

/// Publishes one request and waits for its confirm; returns the time at which it was sent.
pub(crate) async fn publish_one(session: &Session, request: &Request) -> Result<u64> {
    let mut body = String::new();
    request.write(&mut body);
    let sent = now_ns();
    session.publish(message(body)).await?;
    Ok(sent)
}

fn message(body: String) -> Publication {
    let properties = Properties { message_id: Some(uuid::Uuid::new_v4().to_string()), ..Properties::default() };
    Publication {
        exchange: topology::executions_exchange(PREFIX),
        routing_key: "execution.requested".to_owned(),
        body: body.into(),
        properties,
        mandatory: true,
        persistent: true,
    }
}
