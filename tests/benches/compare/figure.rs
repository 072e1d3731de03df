//! One figure: system, measure, case and result. The scripts of the rivals print the same as JSON lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::table;

/// The name that our own figures bear.
pub(crate) const OURS: &str = "slotline";
pub(crate) const EMBEDDED: &str = "slotline embedded";
/// The name of the limits' figures.
pub(crate) const MACHINE: &str = "machine";

/// All that is `None` or empty was not measured in this case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) system: String,
    pub(crate) measure: String,
    pub(crate) case: String,
    /// Executions, hand-offs, messages or rows, over all rounds.
    pub(crate) n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounds: Option<u64>,
    /// Of all rounds together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mean_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p50_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p99_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p999_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_us: Option<f64>,
    /// Starts out of order, and starts before the slot was free, by the handlers' own stamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order_violations: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) overlaps: Option<u64>,
    /// Broken promises by `slotline verify`; `None` if the journal was too large for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal_violations: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cpu_seconds: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) floors_us: Floors,
    /// What only this measure has, by a name that ends in its unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) more: BTreeMap<String, serde_json::Value>,
}

impl Figure {
    pub(crate) fn new(system: &str, measure: &str, case: impl Into<String>, n: usize) -> Self {
        Self {
            system: system.to_owned(),
            measure: measure.to_owned(),
            case: case.into(),
            n: n as u64,
            ..Self::default()
        }
    }

    pub(crate) fn rate(mut self, rounds: usize, seconds: f64) -> Self {
        self.rounds = Some(rounds as u64);
        self.seconds = Some(hundredths(seconds));
        self.per_second = Some((self.n as f64 / seconds).round());
        self
    }

    /// Of nanoseconds, in any order.
    pub(crate) fn percentiles(mut self, mut nanoseconds: Vec<u64>) -> Self {
        if nanoseconds.is_empty() {
            return self;
        }
        nanoseconds.sort_unstable();
        let at =
            |share: f64| Some((nanoseconds[((nanoseconds.len() - 1) as f64 * share) as usize] / 100) as f64 / 10.0);
        let sum: u64 = nanoseconds.iter().sum();
        self.mean_us = Some((sum / nanoseconds.len() as u64 / 100) as f64 / 10.0);
        (self.p50_us, self.p99_us, self.p999_us, self.max_us) = (at(0.5), at(0.99), at(0.999), at(1.0));
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Beside the mean of what the machine took right before it and right after it.
    pub(crate) fn between(mut self, before: Floors, after: &Floors) -> Self {
        self.floors_us = before
            .into_iter()
            .map(|(case, us)| {
                let mean = after.get(&case).map_or(us, |then| f64::midpoint(us, *then));
                (case, mean.round())
            })
            .collect();
        self
    }

    pub(crate) fn cpu(mut self, seconds: BTreeMap<String, f64>) -> Self {
        self.cpu_seconds = seconds.into_iter().map(|(name, seconds)| (name, hundredths(seconds))).collect();
        self
    }

    /// Whether order and limit were kept; `None` if that was not checked, or nothing was promised.
    pub(crate) fn judged(&self) -> Option<bool> {
        let counts = [self.order_violations, self.overlaps, self.journal_violations];
        counts.into_iter().flatten().map(|count| count == 0).reduce(|one, other| one && other)
    }
}

/// What the machine itself takes for the same, by case: medians in microseconds.
pub(crate) type Floors = BTreeMap<String, f64>;

/// The figures so far. Each is printed when it is added, so that a later failure does not lose it.
#[derive(Default)]
pub(crate) struct Book(pub(crate) Vec<Figure>);

impl Book {
    pub(crate) fn add(&mut self, figure: Figure) {
        eprintln!("{}", table::line(&figure));
        self.0.push(figure);
    }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
