//! Printing: a table for people, JSON for programs; results to stdout, everything else to stderr.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use slotline_protocol::Timestamp;

/// Prints a line to stdout. A reader that has seen enough (`| head`) ends the program, without a complaint.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.write_all(b"\n"))
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Prints a line to stdout, for what goes on whether somebody reads it or not.
pub(crate) fn announce(text: impl AsRef<str>) {
    let _ = writeln!(io::stdout().lock(), "{}", text.as_ref());
}

/// Prints a line to stderr, where news go.
pub(crate) fn note(text: impl AsRef<str>) {
    // Who closed stderr does not want to know.
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
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

/// What others wrote must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
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
    }

    #[test]
    fn a_moment_is_shown_to_the_second() {
        assert_eq!(moment(Timestamp::from_micros(1_763_713_800_000_123)), "2025-11-21T08:30:00Z");
    }
}
