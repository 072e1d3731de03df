//! Ratios of Slotline's figures to others', which hold from one day to the next while absolute figures drift.

use crate::figure::{EMBEDDED, Figure, MACHINE, OURS};

/// One sentence for each figure of Slotline that can be compared.
pub(crate) fn told(figures: &[Figure]) -> Vec<String> {
    let ours = figures.iter().filter(|figure| figure.system == OURS);
    ours.flat_map(|figure| {
        let by_floors = figure.floors_us.iter().filter_map(|(floor, us)| by_floor(figure, floor, *us));
        by_floors.chain(by_the_bare_loop(figure, figures)).chain(by_rivals(figure, figures))
    })
    .collect()
}

fn by_floor(ours: &Figure, floor: &str, floor_us: f64) -> Option<String> {
    let ratio = ours.p50_us? / floor_us;
    Some(format!("{}, {}: p50 is {ratio:.2} of {floor}, before and after it", ours.measure, ours.case))
}

fn by_the_bare_loop(ours: &Figure, figures: &[Figure]) -> Option<String> {
    let bare = figures.iter().filter(|figure| figure.system == MACHINE && figure.measure == "C");
    let bare = bare.filter_map(|figure| figure.per_second).max_by(f64::total_cmp)?;
    (ours.measure == "C").then_some(())?;
    Some(format!("C, {}: {:.2} of the bare loop", ours.case, ours.per_second? / bare))
}

/// Compared with the best rival that kept its promises, at the same size if there is one.
fn by_rivals(ours: &Figure, figures: &[Figure]) -> Option<String> {
    let rivals = figures.iter().filter(|figure| {
        figure.measure == ours.measure
            && ![OURS, EMBEDDED, MACHINE].contains(&figure.system.as_str())
            && figure.judged() != Some(false)
    });
    let same_size = rivals.clone().filter(|figure| size(figure) == size(ours)).collect::<Vec<_>>();
    let rivals = if same_size.is_empty() { rivals.collect() } else { same_size };
    let (best, ratio) = match ours.measure.as_str() {
        "S" | "T" | "M" => {
            let best = rivals
                .into_iter()
                .max_by(|a, b| a.per_second.unwrap_or(0.0).total_cmp(&b.per_second.unwrap_or(0.0)))?;
            (best, ours.per_second? / best.per_second?)
        }
        "H" | "L" => {
            let p50 = |figure: &Figure| figure.p50_us.unwrap_or(f64::INFINITY);
            let best = rivals.into_iter().min_by(|a, b| p50(a).total_cmp(&p50(b)))?;
            (best, ours.p50_us? / best.p50_us?)
        }
        _ => return None,
    };
    let what = if ["H", "L"].contains(&ours.measure.as_str()) { "p50" } else { "rate" };
    Some(format!("{}, {}: {what} is {ratio:.2} of {}, {}", ours.measure, ours.case, best.system, best.case))
}

/// How many executions each round had: every case of a throughput begins with it. That of a line's speed begins with the
/// number of lines, and how long its handlers take.
fn size(figure: &Figure) -> Vec<&str> {
    figure.case.split(',').take(if figure.measure == "S" { 2 } else { 1 }).collect()
}
