//! The last JSON value among all that a command printed.
//!
//! A value begins a line and ends one; in between it may have any number of lines. Other lines may come before it and
//! after it. What begins like an array or an object and then turns out to be something else is text, and so is whatever
//! stands indented below it: that could be a part of the broken value.
//!
//! ```text
//!   2026-11-30 all three are up       begins with a number, but its line goes on: text
//!   [                                 a value of four lines
//!     "i-123",
//!     "i-456"
//!   ]
//!   done                              text
//! ```

use serde_json::value::RawValue;
use slotline_protocol::message::Failure;

use crate::duty::JsonText;
use crate::duty::limit::{self, RESULT_BYTES_MAX, result_too_large};
use crate::text::clip;

/// How much of a line an error quotes.
const QUOTED_BYTES_MAX: usize = 60;

/// What stands at the beginning of a line.
enum Found<'a> {
    /// A value, and where its last line ends.
    Value(&'a RawValue, usize),
    /// An array or an object of several lines that turns out to be none before this place.
    Broken(usize),
    /// An array or an object that is not complete at the end of the text.
    Unfinished,
    Text,
}

/// The last JSON value in `printed`, `null` if there is none; `is_cut`: bytes before that were not kept.
pub(super) fn last_value(printed: &[u8], is_cut: bool) -> Result<JsonText, Failure> {
    let mut last = None;
    // Skips the rest of a line whose beginning is cut off, perhaps in the middle of a value.
    let mut at = if is_cut { line_end(printed, 0) } else { 0 };
    let mut may_be_a_part = is_cut;
    while at < printed.len() {
        let start = at + indentation(&printed[at..]);
        let is_indented = start > at;
        at = match look(&printed[start..]) {
            Found::Value(value, length) => {
                if !(may_be_a_part && is_indented) {
                    last = Some(value);
                    may_be_a_part = false;
                }
                start + length
            }
            Found::Broken(length) => {
                may_be_a_part = true;
                line_end(printed, start + length)
            }
            Found::Unfinished => return Err(unfinished(&printed[start..line_end(printed, start)])),
            Found::Text => line_end(printed, start),
        };
    }
    match last {
        Some(value) if value.get().len() > RESULT_BYTES_MAX => Err(result_too_large()),
        Some(value) => limit::result(JsonText(value.to_owned().into())),
        None if is_cut && ends_a_value(printed) => Err(result_too_large()),
        None => Ok(JsonText::null()),
    }
}

fn look(text: &[u8]) -> Found<'_> {
    let line = line_end(text, 0);
    let may_go_on = matches!(text.first(), Some(b'{' | b'['));
    let may_be_json = may_go_on || matches!(text.first(), Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'));
    if !may_be_json {
        return Found::Text;
    }
    let text = if may_go_on { text } else { &text[..line] };
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    let (ends_at, found) = match values.next() {
        Some(Ok(value)) => {
            let last_line = line_end(text, values.byte_offset());
            if text[values.byte_offset()..last_line].trim_ascii().is_empty() {
                return Found::Value(value, last_line);
            }
            (values.byte_offset(), Found::Text)
        }
        Some(Err(error)) if error.is_eof() => (text.len(), Found::Unfinished),
        Some(Err(error)) => (place_of(&error, text), Found::Text),
        None => return Found::Text,
    };
    match found {
        _ if !may_go_on || ends_at < line => Found::Text,
        Found::Unfinished => Found::Unfinished,
        _ => Found::Broken(ends_at),
    }
}

/// The offset in bytes of an error in the text.
fn place_of(error: &serde_json::Error, text: &[u8]) -> usize {
    let lines_before = text.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
    let place = lines_before.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
    place.min(text.len())
}

/// A program may end a line with `\r` alone, to show its progress.
fn line_end(text: &[u8], from: usize) -> usize {
    let end = text[from..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
    end.map_or(text.len(), |end| from + end + 1)
}

fn indentation(line: &[u8]) -> usize {
    line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// Whether the text ends with the last line of a value whose first line was not kept.
fn ends_a_value(printed: &[u8]) -> bool {
    let Some((b'}' | b']', before)) = printed.trim_ascii_end().split_last() else { return false };
    // At the beginning of a line, or of the only line.
    before.last() == Some(&b'\n') || !before.contains(&b'\n')
}

fn unfinished(line: &[u8]) -> Failure {
    let mut quoted = String::from_utf8_lossy(line.trim_ascii()).into_owned();
    clip(&mut quoted, QUOTED_BYTES_MAX);
    let message = format!(
        "stdout has a line {quoted:?} that begins JSON which does not end, so that its result can't be told; print the \
         whole of it last, or write it to $SLOTLINE_RESULT_FILE"
    );
    Failure::new("handler_error", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(printed: &str) -> String {
        last_value(printed.as_bytes(), false).map_or_else(|failure| failure.message, |value| value.0.get().to_owned())
    }

    #[test]
    fn the_last_value_counts_however_many_lines_it_has_and_whatever_stands_around_it() {
        for (printed, expected) in [
            ("", "null"),
            ("done\n", "null"),
            ("1\n2\n", "2"),
            ("1\n  {\"a\": 2}  \n", "{\"a\": 2}"),
            ("{\"a\": 1}\r\ndone\r\n", "{\"a\": 1}"),
            ("[\n  \"i-123\",\n  \"i-456\"\n]\n", "[\n  \"i-123\",\n  \"i-456\"\n]"),
            ("7\n{\n  \"a\": [\n    1\n  ]\n}\nall is well\n", "{\n  \"a\": [\n    1\n  ]\n}"),
            ("[\n1\n]\n[\n2\n]", "[\n2\n]"),
            ("10 %\r50 %\r100 %\r{\"a\": 1}\n", "{\"a\": 1}"),
            ("\"a string\"\n\"said\" nobody\n\"open\n", "\"a string\""),
        ] {
            assert_eq!(found(printed), expected, "{printed:?}");
        }
    }

    #[test]
    fn lines_that_merely_begin_like_json_are_text() {
        for printed in [
            "[INFO] up\n",
            "[2026-11-30] up\n",
            "[1] 4711\n",
            "2026-11-30 up\n",
            "12 of 13\n",
            "nothing\ntrue enough\n",
            "{ignored}\n",
            "[==========] 5 tests ran\n",
        ] {
            assert_eq!(found(printed), "null", "{printed:?}");
        }
    }

    #[test]
    fn a_part_of_what_is_no_json_is_no_result() {
        assert_eq!(found("{\n  \"ids\": [\n    oops\n    \"i-456\"\n  ],\n  \"n\": 2\n}\n"), "null");
        assert_eq!(found("{\n  \"ids\": oops\n  7\n}\n{\"ok\": true}\n"), "{\"ok\": true}");
        assert_eq!(found("[\n  1\n] and more\n  7\n"), "null");
    }

    #[test]
    fn what_begins_and_does_not_end_is_an_error_that_quotes_it() {
        for printed in ["{\n  \"ids\": [\n    \"i-456\"\n", "1\n{\"a\": [1,\n", "[\n"] {
            let message = found(printed);
            assert!(message.contains("does not end") && message.contains("$SLOTLINE_RESULT_FILE"), "{message}");
        }
    }

    #[test]
    fn of_a_value_whose_beginning_is_gone_no_part_is_the_result() {
        let cut = |printed: &str| last_value(printed.as_bytes(), true);
        let failure = cut("rest\",\n  \"i-456\"\n]\n").expect_err("too large");
        assert_eq!(failure.code, "result_too_large");
        let value = cut("rest\",\n  \"i-456\"\n]\n{\"ok\": true}\n").expect("at the beginning of a line");
        assert_eq!(value.0.get(), "{\"ok\": true}");
        assert_eq!(cut("1, 2, 3]}\n").expect_err("too large").code, "result_too_large");
        assert_eq!(cut("rest of a line\nand another\n").expect("no value").0.get(), "null");
    }

    #[test]
    fn brackets_without_an_end_take_no_longer_than_as_many_other_bytes() {
        // Quadratic work would not end today.
        for piece in ["[\n", "[1,\n", "{\"a\":\n", "[\n1,\n", "\"\n", "[]\n", "[\n]x\n", "[x\n"] {
            let printed = piece.repeat((1 << 20) / piece.len());
            let _ = last_value(printed.as_bytes(), false);
        }
        let nested = format!("{}{}x\n", "[\n".repeat(100_000), "]\n".repeat(100_000));
        let _ = last_value(nested.as_bytes(), false);
    }
}
