//! The width of a terminal, whether it shows colours (`NO_COLOR`), and fitting text into it.

use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;

/// Stdout or stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stdio {
    Out,
    Err,
}

impl Stdio {
    fn is_terminal(self) -> bool {
        match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
        }
    }

    /// The terminal's columns; `None` without a terminal, or if its width is unknown.
    pub(crate) fn columns(self) -> Option<usize> {
        let size = match self {
            Self::Out => tcgetwinsize(io::stdout()),
            Self::Err => tcgetwinsize(io::stderr()),
        };
        size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
    }

    pub(crate) fn is_colourful(self) -> bool {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        self.is_terminal() && !is_refused && !is_dumb
    }
}

/// What a colour stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ink {
    #[default]
    Plain,
    Heading,
    Good,
    Bad,
    Doubtful,
    Busy,
}

impl Ink {
    /// The ink of a status or state.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "completed" | "ready" => Self::Good,
            "failed" | "timeout" | "lost" => Self::Bad,
            "cancelled" | "cancelling" | "paused" | "draining" | "no worker" => Self::Doubtful,
            "running" | "scheduled" => Self::Busy,
            _ => Self::Plain,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Heading => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Doubtful => "33",
            Self::Busy => "36",
        }
    }

    /// The text in this colour; it must hold nothing that steers a terminal.
    pub(crate) fn paint(self, text: &str, is_colourful: bool) -> String {
        match self.code() {
            code if is_colourful && !code.is_empty() && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// A piece of text and its colour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) ink: Ink,
    pub(crate) text: String,
}

/// Breaks a text between words, so that no line is wider than `columns`. A word that is wider is broken, too; the indent of the
/// first line stays.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let body = text.trim_start_matches(' ');
    let mut line = " ".repeat((text.len() - body.len()).min(columns - 1));
    let (mut lines, mut is_fresh) = (Vec::new(), true);
    for word in body.split(' ') {
        let gap = usize::from(!is_fresh);
        if !is_fresh && width(&line) + gap + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        } else if !is_fresh {
            line.push(' ');
        }
        is_fresh = false;
        let mut rest = word;
        while width(&line) + width(rest) > columns {
            let (head, tail) = rest.split_at(fitting(rest, columns - width(&line)));
            line.push_str(head);
            lines.push(std::mem::take(&mut line));
            rest = tail;
        }
        line.push_str(rest);
    }
    lines.push(line);
    lines
}

/// The text, or as much as fits and an ellipsis.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    match columns {
        0 => String::new(),
        columns => format!("{}…", &text[..fitting(text, columns - 1)]),
    }
}

/// Columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    use unicode_width::UnicodeWidthStr as _;
    text.width()
}

/// The bytes of a text that fit.
fn fitting(text: &str, columns: usize) -> usize {
    use unicode_width::UnicodeWidthChar as _;
    let mut taken = 0;
    let beyond = text.char_indices().find(|(_, c)| {
        taken += c.width().unwrap_or(0);
        taken > columns
    });
    let bytes = beyond.map_or(text.len(), |(at, _)| at);
    // At least one character, or wrapping would not end.
    if bytes == 0 { text.chars().next().map_or(0, char::len_utf8) } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_at_its_words_and_no_line_is_wider() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one", 80), ["one"]);
        assert_eq!(wrapped("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrapped("日本語", 4), ["日本", "語"]);
        assert_eq!(wrapped("  + layer 1", 80), ["  + layer 1"]);
        assert_eq!(wrapped("Try:   it", 80), ["Try:   it"]);
        for columns in 1..30 {
            let lines = wrapped("a sentence with some words, anything-but-short ones", columns);
            assert!(lines.iter().all(|line| width(line) <= columns), "{columns}: {lines:?}");
        }
    }

    #[test]
    fn what_does_not_fit_ends_with_a_sign() {
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello", 4), "hel…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("hello", 0), "");
    }

    #[test]
    fn colours_are_left_out_where_none_are_wanted() {
        assert_eq!(Ink::Good.paint("completed", true), "\x1b[32mcompleted\x1b[0m");
        assert_eq!(Ink::Good.paint("completed", false), "completed");
        assert_eq!(Ink::Plain.paint("x", true), "x");
    }
}
