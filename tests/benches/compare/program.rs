//! The real `slotline` program, built once before the run, so that no stale one is measured.

use std::process::Command;

use anyhow::Result;
use slotline_tests::{Guarded, Sandbox, slotline_binary};

/// Starts it in `sandbox`, without the `SLOTLINE_` variables of the shell. The harness's own daemons would print their
/// logs between the figures when they end.
pub(crate) fn start(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Result<Guarded> {
    let mut command = Command::new(slotline_binary()?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SLOTLINE_") {
            command.env_remove(variable);
        }
    }
    command.env("HOME", sandbox.path()).env("NO_COLOR", "1").args(arguments);
    sandbox.spawn(&mut command, &format!("{name}.log"))
}
