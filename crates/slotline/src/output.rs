//! Printing: a table for people, JSON for programs; results to stdout, everything else to stderr.
//!
//! Much of it was written by others, so every way out of here shows what would steer a terminal instead of sending it
//! ([`visible`]); only [`verbatim`] does not, for what goes into a file or another program.

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use slotline_protocol::Timestamp;

/// Prints a line to stdout. A reader that has seen enough (`| head`) ends the program, without a complaint.
pub(crate) fn line(text: impl AsRef<str>) {
    write_line(&visible(text.as_ref()));
}

/// Prints the output of a command as it came, to a stdout that is no terminal.
pub(crate) fn verbatim(text: &str) {
    write_line(text);
}

fn write_line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"))
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Prints a line to stdout, for what goes on whether somebody reads it or not.
pub(crate) fn announce(text: impl AsRef<str>) {
    let _ = writeln!(io::stdout().lock(), "{}", visible(text.as_ref()));
}

/// Prints a line to stderr, where news go.
pub(crate) fn note(text: impl AsRef<str>) {
    // Who closed stderr does not want to know.
    let _ = writeln!(io::stderr().lock(), "{}", visible(text.as_ref()));
}

/// The same as it came, to a stderr that is no terminal.
pub(crate) fn verbatim_note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string_pretty(value).expect("bodies are plain data with string keys"));
}

/// A table without lines, that `cut` and `awk` can also read.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for row in table.to_string().lines() {
        line(row.trim_end());
    }
}

/// `name  value` lines, names aligned; empty values are left out.
pub(crate) fn fields(fields: &[(&str, String)]) {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let value = value.lines().map(clean).collect::<Vec<_>>().join(&format!("\n{:width$}  ", ""));
        line(format!("{name:width$}  {value}"));
    }
}

/// What others wrote must not steer the terminal, nor take more than its line.
pub(crate) fn clean(text: &str) -> String {
    let steers = |c: char| steers(c) || matches!(c, '\n' | '\t');
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The text with what would steer a terminal spelt as JSON spells it, so that JSON stays what it was. Lines and tabs are
/// meant.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let spelt = |c: char| if steers(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(spelt).collect())
}

/// Whether a terminal does something with it other than showing it: controls, 8-bit ones among them, and what turns the
/// direction of the text around it, by which a line can be made to read as another.
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// The same for a line of output, in which tabs are meant.
pub(crate) fn clean_line(text: &str) -> String {
    text.split('\t').map(clean).collect::<Vec<_>>().join("\t")
}

/// To the second.
pub(crate) fn moment(moment: Timestamp) -> String {
    let text = moment.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

pub(crate) fn optional<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_others_can_not_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\u{7}ü"), "a\\u{1b}[2Jb\\u{7}ü");
        assert_eq!(clean_line("a\tb\r"), "a\tb\\r");
        assert_eq!(clean("\u{9b}2J\u{9d}0;x\u{7f}\u{202e}txt\u{2066}"), r"\u{9b}2J\u{9d}0;x\u{7f}\u{202e}txt\u{2066}");
    }

    #[test]
    fn json_for_a_terminal_says_the_same_with_all_that_steers_spelt_out() {
        let text = "a\u{1b}[2J\u{7f}\u{9b}31m\u{9d}0;title\u{9c}\u{200f}\u{202e}gnp.exe\u{2069} ü\n\t🦀";
        let json = serde_json::to_string_pretty(&serde_json::json!({"text": text})).expect("JSON");
        let shown = visible(&json);
        assert!(!shown.chars().any(steers), "{shown:?}");
        let read: serde_json::Value = serde_json::from_str(&shown).expect("still JSON");
        assert_eq!(read["text"], text);
        assert!(matches!(visible("plain\ttext ü"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_moment_is_shown_to_the_second() {
        assert_eq!(moment(Timestamp::from_micros(1_763_713_800_000_123)), "2025-11-21T08:30:00Z");
    }
}
