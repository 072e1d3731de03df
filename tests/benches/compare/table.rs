//! The figures for people: one row each, measure by measure, ours and others' beside each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::figure::Figure;

/// In this order; what has none of these names comes last.
const MEASURES: [&str; 9] = ["limits", "S", "T", "M", "H", "L", "F", "G", "C"];
const HEADS: [&str; 11] = ["", "system", "case", "n", "s", "per s", "mean ms", "p50 ms", "p99 ms", "p99.9 ms", "kept"];

pub(crate) fn told(what: &BTreeMap<String, String>, figures: &[Figure]) -> String {
    let mut text = String::new();
    for (name, value) in what {
        let _ = writeln!(text, "{name}: {value}");
    }
    let mut sorted: Vec<&Figure> = figures.iter().collect();
    // Stable, so that each measure's own order stays.
    sorted.sort_by_key(|figure| MEASURES.iter().position(|name| *name == figure.measure).unwrap_or(MEASURES.len()));
    let rows: Vec<Vec<String>> = sorted.iter().map(|figure| row(figure)).collect();
    let mut widths = HEADS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let _ = writeln!(text, "\n{}", aligned(&HEADS.map(str::to_owned), &widths));
    for (row, figure) in rows.iter().zip(&sorted) {
        let _ = writeln!(text, "{}  {}", aligned(row, &widths), notes(figure));
    }
    text
}

/// One figure as it arrives.
pub(crate) fn line(figure: &Figure) -> String {
    let cells = row(figure);
    let named = HEADS.iter().zip(&cells).skip(3).filter(|(_, cell)| !cell.is_empty());
    let named: Vec<String> = named.map(|(head, cell)| format!("{head} {cell}")).collect();
    format!("{} {}, {}: {}  {}", figure.measure, figure.system, figure.case, named.join(", "), notes(figure))
}

fn row(figure: &Figure) -> Vec<String> {
    let milliseconds = |us: Option<f64>| us.map(|us| format!("{:.3}", us / 1e3)).unwrap_or_default();
    vec![
        figure.measure.clone(),
        figure.system.clone(),
        figure.case.clone(),
        figure.n.to_string(),
        figure.seconds.map(|seconds| format!("{seconds:.2}")).unwrap_or_default(),
        figure.per_second.map(|rate| format!("{rate:.0}")).unwrap_or_default(),
        milliseconds(figure.mean_us),
        milliseconds(figure.p50_us),
        milliseconds(figure.p99_us),
        milliseconds(figure.p999_us),
        match figure.judged() {
            None => String::new(),
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
        },
    ]
}

/// Words to the left, numbers to the right.
fn aligned(cells: &[String], widths: &[usize]) -> String {
    let cells =
        cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
    cells.collect::<Vec<_>>().join("  ")
}

/// The values without a column: broken promises, processors' seconds, and what only this measure has.
fn notes(figure: &Figure) -> String {
    let mut notes = Vec::new();
    for (count, what) in [
        (figure.order_violations, "out of order"),
        (figure.overlaps, "over the limit"),
        (figure.journal_violations, "broken promises in the journal"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            notes.push(format!("{count} {what}!"));
        }
    }
    if !figure.cpu_seconds.is_empty() {
        let spent = figure.cpu_seconds.iter().map(|(name, seconds)| format!("{name} {seconds:.2}"));
        notes.push(format!("cpu s: {}", spent.collect::<Vec<_>>().join(", ")));
    }
    let floors = figure.floors_us.iter().map(|(floor, us)| format!("{floor}: {:.3} ms", us / 1e3));
    notes.extend(floors);
    notes.extend(figure.more.iter().map(|(name, value)| format!("{name} {value}")));
    notes.join("; ")
}
