//! Printing: a table for people, JSON for programs; results to stdout, everything else to stderr.
//!
//! Commands and publishers wrote much of the text, so every function escapes what would steer a terminal ([`visible`]), except
//! [`verbatim`] and [`verbatim_note`], whose text goes into a file or another program.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;
use slotline_protocol::Timestamp;

use crate::exit::Exit;
use crate::show::terminal::{Ink, Span, Stdio, wrapped};

/// The code with which the program ends if nothing reads its output any more.
static UNREAD: AtomicU8 = AtomicU8::new(0);

/// What follows only shows how it ended: a closed pipe changes nothing of that.
pub(crate) fn ends_as(exit: Exit) {
    UNREAD.store(exit.number(), Ordering::Relaxed);
}

/// Prints a line to stdout. A closed pipe (`| head`) ends the program without an error.
pub(crate) fn line(text: impl AsRef<str>) {
    write_line(&visible(text.as_ref()));
}

/// Prints a line as it is, to a stdout that is no terminal.
pub(crate) fn verbatim(text: &str) {
    write_line(text);
}

fn write_line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"))
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(UNREAD.load(Ordering::Relaxed).into());
    }
}

/// Prints a line to stdout; a closed pipe does not end the program.
pub(crate) fn announce(text: impl AsRef<str>) {
    let _ = writeln!(io::stdout().lock(), "{}", visible(text.as_ref()));
}

/// Prints a note to stderr, wrapped at the width of the terminal.
pub(crate) fn note(text: impl AsRef<str>) {
    write_to_stderr(&visible(text.as_ref()), |line| line);
}

/// Writes lines no wider than the terminal, each painted by `paint`.
fn write_to_stderr(text: &str, paint: impl Fn(String) -> String) {
    let columns = Stdio::Err.columns().unwrap_or(usize::MAX);
    let mut err = io::stderr().lock();
    for line in text.split('\n').flat_map(|line| wrapped(line, columns)) {
        // A closed stderr is no error of the command.
        let _ = writeln!(err, "{}", paint(line));
    }
}

/// Prints a line as it is, to a stderr that is no terminal.
pub(crate) fn verbatim_note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string_pretty(value).expect("bodies are plain data with string keys"));
}

/// Prints a line of coloured pieces; only the colours steer the terminal.
pub(crate) fn spans(spans: &[Span]) {
    write_line(&painted(spans));
}

/// The same; a closed pipe does not end the program.
pub(crate) fn announce_spans(spans: &[Span]) {
    let _ = writeln!(io::stdout().lock(), "{}", painted(spans));
}

fn painted(spans: &[Span]) -> String {
    let is_colourful = Stdio::Out.is_colourful();
    spans.iter().map(|span| span.ink.paint(&visible(&span.text), is_colourful)).collect()
}

/// Prints sentences to stdout, wrapped at the width of the terminal.
pub(crate) fn paragraph(text: impl AsRef<str>) {
    for line in text.as_ref().lines() {
        wrapped(line, Stdio::Out.columns().unwrap_or(usize::MAX)).iter().for_each(announce);
    }
}

/// Prints an error to stderr.
pub(crate) fn error(text: &str) {
    const MARK: &str = "slotline:";
    let is_colourful = Stdio::Err.is_colourful();
    write_to_stderr(&format!("{MARK} {}", visible(text)), |line| match line.strip_prefix(MARK) {
        Some(rest) => format!("{}{rest}", Ink::Bad.paint(MARK, is_colourful)),
        None => line,
    });
}

/// `name  value` lines, names aligned; empty values are left out.
pub(crate) fn fields(fields: &[(&str, String)]) {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let room = Stdio::Out.columns().map_or(usize::MAX, |columns| columns.saturating_sub(width + 2).max(1));
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let ink = if matches!(*name, "status" | "state") { Ink::of(value) } else { Ink::Plain };
        let lines = value.lines().flat_map(|line| wrapped(&clean(line), room));
        for (at, line) in lines.enumerate() {
            let name = if at == 0 { *name } else { "" };
            let name = Span { ink: Ink::Heading, text: format!("{name:width$}  ") };
            spans(&[name, Span { ink, text: line }]);
        }
    }
}

/// The text with everything escaped that would steer the terminal or break the line.
pub(crate) fn clean(text: &str) -> String {
    let steers = |c: char| steers(c) || matches!(c, '\n' | '\t');
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The text with everything escaped that would steer a terminal, as JSON escapes it, so that JSON keeps its value. Line breaks
/// and tabs stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let spelt = |c: char| if steers(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(spelt).collect())
}

/// Whether the character steers a terminal: a control, 8-bit ones included, or a change of the text's direction, which can make
/// a line read as another.
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// Like [`clean`], but tabs stay.
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
    fn json_for_a_terminal_means_the_same_with_all_that_steers_escaped() {
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
