//! Tables without rules, which `cut` and `awk` can read; on a terminal no row is wider than the terminal.
//!
//! Not here: the text of a cell.

use crate::show::output::clean;
use crate::show::terminal::{Ink, Span, cut, width};

/// Spaces between two columns.
const GAP: usize = 2;
/// No column is narrower.
const NARROWEST: usize = 4;
/// The columns whose words are coloured.
const COLOURED: [&str; 2] = ["STATUS", "STATE"];

/// The rows of a table, its header first. With `columns`, empty ones are left out, and the widest cells are cut until all
/// fits.
pub(crate) fn rows<const N: usize>(header: [&str; N], cells: &[[String; N]], columns: Option<usize>) -> Vec<Vec<Span>> {
    let cells: Vec<[String; N]> = cells.iter().map(|row| row.each_ref().map(|cell| clean(cell))).collect();
    let is_shown: [bool; N] =
        std::array::from_fn(|at| columns.is_none() || cells.is_empty() || cells.iter().any(|row| !row[at].is_empty()));
    let mut widths: [usize; N] = std::array::from_fn(|at| {
        let widest = cells.iter().map(|row| width(&row[at])).max().unwrap_or(0);
        if is_shown[at] { widest.max(width(header[at])) } else { 0 }
    });
    if let Some(columns) = columns {
        fit(&mut widths, columns);
    }
    let shown: Vec<usize> = (0..N).filter(|at| is_shown[*at]).collect();
    let row = |text: &dyn Fn(usize) -> (Ink, String)| {
        let mut spans = Vec::new();
        for &at in &shown {
            let (ink, text) = text(at);
            let text = cut(&text, widths[at]);
            let padding = widths[at].saturating_sub(width(&text)) + GAP;
            spans.push(Span { ink, text });
            if Some(&at) != shown.last() {
                spans.push(Span { ink: Ink::Plain, text: " ".repeat(padding) });
            }
        }
        trimmed(spans)
    };
    let ink = |at: usize, cell: &str| if COLOURED.contains(&header[at]) { Ink::of(cell) } else { Ink::Plain };
    let head = row(&|at| (Ink::Heading, header[at].to_owned()));
    let body = cells.iter().map(|cells| row(&|at| (ink(at, &cells[at]), cells[at].clone())));
    std::iter::once(head).chain(body).collect()
}

/// Narrows the widest column until all fit, or none can be narrower.
fn fit(widths: &mut [usize], columns: usize) {
    loop {
        let shown = widths.iter().filter(|width| **width > 0).count();
        let whole = widths.iter().sum::<usize>() + GAP * shown.saturating_sub(1);
        let Some(widest) = widths.iter_mut().max() else { return };
        if whole <= columns || *widest <= NARROWEST {
            return;
        }
        *widest -= 1;
    }
}

/// Removes blanks at the end of a line.
fn trimmed(mut spans: Vec<Span>) -> Vec<Span> {
    while spans.last().is_some_and(|span| span.text.trim().is_empty()) {
        spans.pop();
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(columns: Option<usize>, cells: &[[&str; 4]]) -> Vec<String> {
        let cells: Vec<[String; 4]> = cells.iter().map(|row| row.map(str::to_owned)).collect();
        let rows = rows(["ID", "STATUS", "KEY", "NOTE"], &cells, columns);
        rows.iter().map(|row| row.iter().map(|span| span.text.as_str()).collect()).collect()
    }

    #[test]
    fn for_programs_every_column_is_there_and_whole() {
        let long = "a note that is longer than any terminal is wide".repeat(4);
        let rows = text(None, &[["1", "completed", "", &long], ["20", "failed", "", ""]]);
        assert_eq!(rows[0], "ID  STATUS     KEY  NOTE");
        assert_eq!(rows[1], format!("1   completed       {long}"));
        assert_eq!(rows[2], "20  failed");
    }

    #[test]
    fn on_a_terminal_no_row_is_wider_and_empty_columns_give_their_room() {
        let long = "a note that is longer than the terminal is wide, by far, as messages of others are";
        let cells = [["1", "completed", "", long], ["20", "failed", "", "日本語日本語日本語日本語日本語日本語日本語"]];
        for columns in [80, 50, 30] {
            let rows = text(Some(columns), &cells);
            assert!(rows.iter().all(|row| width(row) <= columns), "{columns}: {rows:?}");
            assert!(!rows[0].contains("KEY") && rows[1].starts_with("1   completed  a note") && rows[1].ends_with('…'));
        }
    }

    #[test]
    fn what_would_steer_a_terminal_is_spelt_out_in_a_cell() {
        assert_eq!(text(Some(80), &[["1", "x", "", "a\u{1b}[2J\nb"]])[1], "1   x       a\\u{1b}[2J\\nb");
    }
}
