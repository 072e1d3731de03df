//! The real `slotline` program, made up to date once: a stale one would be measured without a word.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use slotline_tests::{Guarded, Sandbox};

/// `SLOTLINE_BIN`, or what `cargo build --release` makes.
pub(crate) fn path() -> Result<&'static Path> {
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let path = PATH.get_or_init(|| match std::env::var_os("SLOTLINE_BIN") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });
    path.as_ref().map(PathBuf::as_path).map_err(|error| anyhow::anyhow!("{error}"))
}

fn build() -> Result<PathBuf> {
    let bench = std::env::current_exe()?;
    let release = bench.parent().and_then(Path::parent).context("a benchmark lies in a folder of the target")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--locked", "--package", "slotline"]);
    let done = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().context("cargo")?;
    ensure!(done.status.success(), "cargo build: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    Ok(release.join("slotline"))
}

/// Starts it below `sandbox`, without what the shell says about another installation. The harness's own daemons print
/// their logs when they end, which would spoil the output here.
pub(crate) fn start(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Result<Guarded> {
    let mut command = Command::new(path()?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SLOTLINE_") {
            command.env_remove(variable);
        }
    }
    command.env("HOME", sandbox.path()).env("NO_COLOR", "1").args(arguments);
    sandbox.spawn(&mut command, &format!("{name}.log"))
}
