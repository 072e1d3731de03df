//! The filter of a list of executions, and the page by its cursor.
//!
//! Pages are keyed by id, newest first, so that neither new executions nor ended ones shift a page.

use slotline_protocol::{ActionRef, ExecutionId, Status, http};

use crate::Error;

/// The most executions on one page.
pub const PAGE_LIMIT_MAX: u32 = 1000;
/// The most bytes of parameters and results on one page; the page ends early beyond it. Several pages are in memory at
/// once, each about three times as rows and as JSON.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// The most earlier attempts shown of one execution, the newest.
pub const ATTEMPTS_SHOWN_MAX: i64 = 100;

/// Which executions to list. The default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of actions of this name, deleted ones included.
    pub action_ref: Option<ActionRef>,
    /// In one of these statuses; empty is any.
    pub statuses: Vec<Status>,
    pub concurrency_key: Option<String>,
}

/// Which part of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The `next_cursor` of the page before; `None` is the first page.
    pub cursor: Option<String>,
    /// At least 1 and at most [`PAGE_LIMIT_MAX`]; brought into that range otherwise.
    pub limit: u32,
}

impl PageRequest {
    pub(crate) fn limit(&self) -> usize {
        usize::try_from(self.limit.clamp(1, PAGE_LIMIT_MAX)).expect("a thousand fits")
    }

    /// The id below which the page begins.
    pub(crate) fn below(&self) -> Result<i64, Error> {
        match &self.cursor {
            None => Ok(i64::MAX),
            Some(cursor) => parse(cursor),
        }
    }
}

/// Marks the format, so that a later one can be distinguished.
const PREFIX: &str = "b1-";

/// The cursor of the page that begins below `last`.
pub(crate) fn cursor(last: ExecutionId) -> String {
    format!("{PREFIX}{:x}", last.0)
}

fn parse(cursor: &str) -> Result<i64, Error> {
    let digits = cursor.strip_prefix(PREFIX).ok_or(Error::InvalidCursor)?;
    let id = i64::from_str_radix(digits, 16).map_err(|_| Error::InvalidCursor)?;
    // Only the spelling of `cursor` is valid: no sign, no leading zeros.
    if id >= 1 && self::cursor(ExecutionId(id)) == cursor { Ok(id) } else { Err(Error::InvalidCursor) }
}

/// A page while it fills, newest first.
pub(crate) struct PageBuilder {
    limit: usize,
    executions: Vec<http::Execution>,
    bytes: usize,
    /// There is more than fits.
    cut: bool,
}

impl PageBuilder {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, executions: Vec::new(), bytes: 0, cut: false }
    }

    /// How many rows to read: one more than fits, to see whether there is a next page.
    pub(crate) fn rows_wanted(&self) -> i64 {
        i64::try_from(self.limit).expect("at most a thousand") + 1
    }

    /// Adds the next execution if there is room; `false` if there is none, and nothing more need be read.
    pub(crate) fn push(&mut self, execution: http::Execution) -> bool {
        let result = execution.result.as_ref().map_or(0, |result| result.get().len());
        self.bytes = self.bytes.saturating_add(execution.parameters.get().len()).saturating_add(result);
        let is_first = self.executions.is_empty();
        if self.executions.len() == self.limit || (self.bytes > PAGE_BYTES_MAX && !is_first) {
            self.cut = true;
            return false;
        }
        self.executions.push(execution);
        true
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn executions(&mut self) -> &mut [http::Execution] {
        &mut self.executions
    }

    pub(crate) fn finish(self) -> http::Page<http::Execution> {
        let last = self.executions.last().map(|execution| execution.execution_id);
        http::Page { next_cursor: last.filter(|_| self.cut).map(cursor), data: self.executions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        for id in [1, 42, i64::MAX] {
            assert_eq!(parse(&cursor(ExecutionId(id))).expect("our own cursor"), id);
        }
        for bad in ["", "1", "b1-", "b1-0", "b1-+1", "b1--1", "b1-01", "b1-1 ", "b1-g", "b1-ffffffffffffffff", "b2-1"] {
            assert!(matches!(parse(bad), Err(Error::InvalidCursor)), "{bad}");
        }
    }
    /// `FUZZ_SECONDS=60 FUZZ_SEED=$RANDOM cargo test -p slotline-store --lib strange` for the long run.
    #[test]
    fn no_cursor_is_too_strange() {
        let read = |input: &[u8]| {
            let text = String::from_utf8_lossy(input);
            match parse(&text) {
                Err(error) => Ok(error.to_string()),
                Ok(id) if id >= 1 && cursor(ExecutionId(id)) == text => Ok("sound".to_owned()),
                Ok(id) => Err(format!("it is read as {id}")),
            }
        };
        let seeds = [1, 42, i64::MAX].map(|id| cursor(ExecutionId(id)));
        slotline_tests::Fuzz::new(env!("CARGO_MANIFEST_DIR"), "cursor").seeds(seeds).run(read);
    }
}
