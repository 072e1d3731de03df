//! Dead letters: messages that were put aside, in the order in which they came, and the notes on their readers.
//!
//! The newest letters and bytes of them are kept ([`DeadBounds`]); each row has the sum of bytes up to it, so that
//! neither bound costs a count. Lists never load a body, and reading changes nothing.

use bytes::Bytes;
use slotline_protocol::{Timestamp, http};

use crate::row::Columns;
use crate::text::show;
use crate::{Error, PageRequest};

/// How much is kept; the oldest go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadBounds {
    pub letters: i64,
    /// Of bodies and of the properties beside them.
    pub bytes: i64,
}

/// A message to be put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// Two letters of one id are one letter, which came twice.
    pub id: String,
    pub dead_at: Timestamp,
    pub reason: String,
    pub detail: String,
    pub message_id: Option<String>,
    /// The routing key of the message.
    pub routing_key: String,
    /// The properties beside the body, as JSON of the executor that puts it aside.
    pub properties: String,
    pub body: Bytes,
}

impl StoredLetter {
    pub(crate) fn bytes(&self) -> i64 {
        i64::try_from(self.body.len() + self.properties.len()).unwrap_or(i64::MAX)
    }
}

/// A letter with all that belongs to it.
#[derive(Clone, Debug)]
pub struct WholeLetter {
    pub letter: http::DeadLetter,
    pub properties: String,
    pub body: Bytes,
}

pub(crate) const INSERT: &str = "INSERT INTO dead_letters \
    (id, dead_at, reason, detail, message_id, routing_key, bytes_through, properties, body) \
    SELECT $1, $2, $3, $4, $5, $6, \
    $7 + coalesce((SELECT bytes_through FROM dead_letters ORDER BY position DESC LIMIT 1), 0), $8, $9 \
    WHERE NOT EXISTS (SELECT 1 FROM dead_letters WHERE id = $1)";

pub(crate) const NEWEST: &str = "SELECT position, bytes_through FROM dead_letters ORDER BY position DESC LIMIT 1";

const DROP_TOO_MANY: &str = "DELETE FROM dead_letters WHERE position <= $1";

const DROP_TOO_LARGE: &str = "DELETE FROM dead_letters WHERE bytes_through <= $1";

macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT position, id, dead_at, reason, detail, message_id, routing_key, CAST(length(body) AS bigint) ",
            "AS body_bytes",
            $rest
        )
    };
}

pub(crate) const LIST: &str = columns!(" FROM dead_letters WHERE position > $1 ORDER BY position LIMIT $2");

pub(crate) const SHOW: &str = columns!(", properties, body FROM dead_letters WHERE id = $1");

pub(crate) const DROP: &str = "DELETE FROM dead_letters WHERE id = $1";

/// The entry for a replay or a drop, by the database's clock, since any executor may do it.
macro_rules! note {
    ($now:literal) => {
        concat!(
            "INSERT INTO audit (at, changed, actor, via, reason, dead_letter) VALUES (",
            $now,
            ", $1, $2, $3, $4, $5)"
        )
    };
}
pub(crate) use note;

pub(crate) const CLEAR_SUSPECT: &str = "DELETE FROM suspects WHERE digest = $1";

pub(crate) const CLEAR_SUSPECTS: &str = "DELETE FROM suspects WHERE process = $1";

impl DeadBounds {
    /// The statements that drop the letters before `newest` that are too many or too large, each with its limit: a
    /// position or a sum of bytes.
    pub(crate) fn drops(&self, newest: &impl Columns) -> Result<[(&'static str, i64); 2], Error> {
        let too_many = newest.number("position")? - self.letters;
        let too_large = newest.number("bytes_through")? - self.bytes;
        Ok([(DROP_TOO_MANY, too_many), (DROP_TOO_LARGE, too_large)])
    }
}

pub(crate) fn letter(row: &impl Columns) -> Result<http::DeadLetter, Error> {
    Ok(http::DeadLetter {
        content_type: None,
        content_encoding: None,
        id: show(row.text("id")?),
        reason: show(row.text("reason")?),
        detail: show(row.text("detail")?),
        message_id: row.maybe_text("message_id")?.map(show),
        routing_key: show(row.text("routing_key")?),
        dead_at: Some(row.time("dead_at")?),
        body_bytes: u64::try_from(row.number("body_bytes")?).unwrap_or(0),
        body: None,
    })
}

pub(crate) fn whole(row: &impl Columns) -> Result<WholeLetter, Error> {
    let (properties, body) = (row.text("properties")?.to_owned(), Bytes::copy_from_slice(row.bytes("body")?));
    Ok(WholeLetter { letter: letter(row)?, properties, body })
}

/// Marks the format, so that a later one can be distinguished.
const PREFIX: &str = "d1-";

/// The position above which the page begins.
pub(crate) fn above(page: &PageRequest) -> Result<i64, Error> {
    let Some(cursor) = &page.cursor else { return Ok(0) };
    let digits = cursor.strip_prefix(PREFIX).ok_or(Error::InvalidCursor)?;
    let position = i64::from_str_radix(digits, 16).map_err(|_| Error::InvalidCursor)?;
    if position >= 1 && self::cursor(position) == *cursor { Ok(position) } else { Err(Error::InvalidCursor) }
}

fn cursor(position: i64) -> String {
    format!("{PREFIX}{position:x}")
}

/// A page of `rows`, among which is one more than fits.
pub(crate) fn page<R: Columns>(rows: &[R], page: &PageRequest) -> Result<http::Page<http::DeadLetter>, Error> {
    let shown = &rows[..rows.len().min(page.limit())];
    let next_cursor = match shown.last() {
        Some(last) if shown.len() < rows.len() => Some(cursor(last.number("position")?)),
        Some(_) | None => None,
    };
    Ok(http::Page { data: shown.iter().map(letter).collect::<Result<_, _>>()?, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let read = |cursor: &str| above(&PageRequest { cursor: Some(cursor.to_owned()), limit: 1 });
        for position in [1, 42, i64::MAX] {
            assert_eq!(read(&cursor(position)).expect("our own cursor"), position);
        }
        for bad in ["", "1", "d1-", "d1-0", "d1-+1", "d1-01", "d1-g", "b1-1"] {
            assert!(matches!(read(bad), Err(Error::InvalidCursor)), "{bad}");
        }
    }
}
