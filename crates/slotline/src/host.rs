//! What this machine is called and how many cores it has: the defaults of names and capacities.

/// The host's name, with what no worker's name may have replaced.
pub(crate) fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    as_name(name.trim())
}

pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
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
