//! The real `slotline` program, made up to date once: a stale one would be measured without a word.

use std::process::Command;

use anyhow::Result;
use slotline_tests::{Guarded, Sandbox, slotline_binary};

/// Starts it below `sandbox`, without what the shell says about another installation. The harness's own daemons print
/// their logs when they end, which would spoil the output here.
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
