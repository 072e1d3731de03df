//! The name and the cores of this machine: defaults of names and capacities.

use crate::settings::File;

/// The host's name, with the characters replaced that a worker's name may not have.
pub(crate) fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    as_name(name.trim())
}

pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
}

/// Warnings about the user that runs this process.
pub(crate) fn user_warnings(runs_commands: bool, file: &File) -> Vec<String> {
    let mut warnings = Vec::new();
    if nix::unistd::geteuid().is_root() {
        warnings.push(match runs_commands {
            true => "this worker runs as root: every command of its actions does, too, unless it has a `user`; run it \
                     as a user of its own"
                .to_owned(),
            false => "this executor runs as root, which it needs for nothing; run it as a user of its own".to_owned(),
        });
    }
    let secrets = file.executor_secrets();
    if runs_commands && !secrets.is_empty() {
        warnings.push(format!(
            "this worker's user can read an executor's secrets ({} in the file of --config): its commands can read what \
             it can; give the worker a file of its own with `amqp_url` alone",
            secrets.join(" and ")
        ));
    }
    warnings
}

fn as_name(text: &str) -> String {
    /// As long as a worker's name may be.
    const CHARS_MAX: usize = 64;
    let text: String = text
        .chars()
        .take(CHARS_MAX)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .collect();
    let text = text.trim_matches('.').replace("..", ".");
    if text.is_empty() { "slotline".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_a_worker_name() {
        for text in ["web-1.example.com", "", "...", "a..b", "büro", &"x".repeat(300)] {
            let name = as_name(text);
            assert!(slotline_protocol::WorkerName::new(&name).is_ok(), "{text:?} became {name:?}");
        }
        assert!(slotline_protocol::WorkerName::new(&name()).is_ok());
    }
}
