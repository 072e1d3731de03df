//! Rivals' figures beside ours: run now by their script, or read from what it printed earlier.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::figure::{Book, Figure};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/rivals/run.sh");

/// Runs all rivals, for many minutes, on servers of their own. If one fails, the figures of the others stay.
pub(crate) fn run(book: &mut Book) -> Result<()> {
    let said = Command::new(SCRIPT).stderr(Stdio::inherit()).output().context(SCRIPT)?;
    parse(&String::from_utf8(said.stdout)?)?.into_iter().for_each(|figure| book.add(figure));
    ensure!(said.status.success(), "{SCRIPT}: {}", said.status);
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<Vec<Figure>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Figure>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("not a figure: {line}"))).collect()
}
