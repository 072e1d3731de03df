//! The attempts in one process, and what it reports of them: each line belongs to one of them, and ends it once.

use std::collections::BTreeMap;
use std::sync::Arc;

use slotline_protocol::handler::{AttemptId, FromHandler, LogEntry};
use slotline_protocol::message::{AttemptKey, Failure, Stream};

use crate::clock;
use crate::duty::{Ending, JsonText, Start, limit};
use crate::process::output::Allowance;
use crate::report::feed::AttemptFeed;

/// Of what a handler writes, a longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 << 10;

/// One attempt on its way to a process.
pub(crate) struct HandlerAttempt {
    pub(crate) start: Start,
    pub(crate) feed: Arc<AttemptFeed>,
}

/// An attempt that a process has.
pub(super) struct Open {
    pub(super) feed: Arc<AttemptFeed>,
    pub(super) allowance: Allowance,
    is_started: bool,
}

/// All of one process.
pub(super) struct OpenAttempts {
    open: BTreeMap<AttemptKey, Open>,
    output_max: usize,
}

/// What a line of an attempt means for its process.
pub(super) enum Heard {
    Nothing,
    /// The attempt has ended; its feed is still to be given the ending.
    Ended(Arc<AttemptFeed>, Ending),
    /// No attempt of that name is open here: it has ended, or never was.
    Unknown(AttemptId),
}

impl OpenAttempts {
    pub(super) fn new(output_max: usize) -> Self {
        Self { open: BTreeMap::new(), output_max }
    }

    pub(super) fn add(&mut self, feed: Arc<AttemptFeed>) {
        let allowance = Allowance::new(self.output_max);
        self.open.insert(feed.key, Open { feed, allowance, is_started: false });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn has(&self, key: AttemptKey) -> bool {
        self.open.contains_key(&key)
    }

    /// The attempt that prints what the process prints: where there are several, it can't be made out.
    pub(super) fn sole(&mut self) -> Option<&mut Open> {
        if self.open.len() == 1 { self.open.values_mut().next() } else { None }
    }

    /// Takes a line about an attempt.
    pub(super) fn hear(&mut self, line: FromHandler) -> Heard {
        let (id, result) = match line {
            FromHandler::Started { id } => return self.with(id, Open::start),
            FromHandler::Progress { id, report } => {
                return self.with(id, |open| {
                    open.start();
                    open.feed.line(report.get().as_bytes());
                });
            }
            FromHandler::Log(entry) => return self.with(entry.id, |open| open.log(&entry)),
            FromHandler::Completed { id, result } => (id, limit::result(JsonText(result))),
            FromHandler::Failed { id, error } => (id, Err(error)),
            FromHandler::Cancelled { id } => (id, Err(Failure::new("cancelled", "the handler ended it"))),
            FromHandler::Hello(_) | FromHandler::Ping { .. } | FromHandler::Unknown => return Heard::Nothing,
        };
        match self.open.remove(&id.0) {
            None => Heard::Unknown(id),
            Some(mut open) => {
                open.start();
                Heard::Ended(open.feed, ending(result))
            }
        }
    }

    /// Ends all of them with the process; each feed gets its ending from the caller.
    pub(super) fn take_all(&mut self) -> Vec<Arc<AttemptFeed>> {
        std::mem::take(&mut self.open).into_values().map(|open| open.feed).collect()
    }

    fn with(&mut self, id: AttemptId, act: impl FnOnce(&mut Open)) -> Heard {
        match self.open.get_mut(&id.0) {
            None => return Heard::Unknown(id),
            Some(open) => act(open),
        }
        Heard::Nothing
    }
}

impl Open {
    fn start(&mut self) {
        if !std::mem::replace(&mut self.is_started, true) {
            self.feed.started(clock::now());
        }
    }

    fn log(&mut self, entry: &LogEntry) {
        self.start();
        let stream = match entry.level.as_str() {
            "error" | "warning" | "critical" => Stream::Stderr,
            _ => Stream::Stdout,
        };
        let mut lines: Vec<String> = entry.message.lines().flat_map(pieces).collect();
        self.allowance.cut(&mut lines);
        if !lines.is_empty() {
            self.feed.log(stream, lines);
        }
    }
}

/// A line in pieces of which none is too long, cut between characters.
fn pieces(line: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for character in line.chars() {
        if pieces.last().is_some_and(|piece| piece.len() + character.len_utf8() > LINE_BYTES_MAX) {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
    }
    pieces
}

pub(super) fn ending(result: Result<JsonText, Failure>) -> Ending {
    Ending { result: result.map_err(limit::failure), left: None, return_code: None, ended_at: clock::now().wall }
}
