//! What the paths took when the figures were last accepted: `instructions.toml`, in the repository.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");
/// Counts repeat to the instruction on one machine; what a processor or C library may add stays below this.
const TOLERANCE_PERCENT: f64 = 3.0;

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) compiler: String,
    /// By path.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Record {
    pub(crate) fn read() -> Result<Self, String> {
        let text = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
        toml::from_str(&text).map_err(|error| format!("{FILE}: {error}"))
    }

    pub(crate) fn write(&self) -> Result<(), String> {
        let text = toml::to_string(self).map_err(|error| error.to_string())?;
        std::fs::write(FILE, text).map_err(|error| format!("{FILE}: {error}"))
    }

    /// By how many percent each path differs; `None` if only one side has it.
    fn changes<'a>(&'a self, known: &'a Self) -> impl Iterator<Item = (&'a str, Option<f64>)> {
        let names = self.counts.keys().chain(known.counts.keys().filter(|name| !self.counts.contains_key(*name)));
        names.map(|name| {
            let change = |(now, before): (&u64, &u64)| (*now as f64 / *before as f64 - 1.0) * 100.0;
            (name.as_str(), self.counts.get(name).zip(known.counts.get(name)).map(change))
        })
    }

    pub(crate) fn print(&self, known: &Self) {
        println!("{:>50} {:>12} {:>9}", "instructions", "count", "change");
        for (name, change) in self.changes(known) {
            let count = self.counts.get(name).copied().unwrap_or_default();
            let change = change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.2} %"));
            println!("{name:>50} {count:>12} {change:>9}");
        }
    }

    /// Fails with what to do about it.
    pub(crate) fn check(&self, known: &Self) -> Result<(), String> {
        let is_off = |change: Option<f64>| change.is_none_or(|change| change.abs() > TOLERANCE_PERCENT);
        let off: Vec<_> = self.changes(known).filter(|(_, change)| is_off(*change)).map(|(name, _)| name).collect();
        if off.is_empty() {
            return Ok(());
        }
        let compiler = if self.compiler == known.compiler {
            String::new()
        } else {
            format!(
                "\nThey were recorded with {:?}, this is {:?}: that alone may be it.",
                known.compiler, self.compiler
            )
        };
        Err(format!(
            "these paths differ by more than {TOLERANCE_PERCENT} % from what {FILE} has:\n  {}{compiler}\n\
             If they got dearer and nobody meant that, find out why: `callgrind_annotate --inclusive=yes` reads the \
             profiles. If it is meant, or they got cheaper, record it and commit the file with the change:\n  \
             cargo bench -p slotline-scheduler --bench instructions -- --record",
            off.join("\n  ")
        ))
    }
}
