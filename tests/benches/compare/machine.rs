//! The machine of a run: figures of another machine, or of another hour, are not comparable.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use slotline_protocol::Timestamp;

/// Names and values, for the head of the table and the JSON.
pub(crate) fn told() -> Result<BTreeMap<String, String>> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = |text: &str, name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']).trim().to_owned()
    };
    let since = UNIX_EPOCH.elapsed()?;
    let told = [
        ("cores", std::thread::available_parallelism()?.to_string()),
        ("processor", line(&cpu, "model name")),
        ("memory", line(&memory, "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("load when it began", load()),
        ("date", Timestamp::from_micros(i64::try_from(since.as_micros())?).to_string()),
        ("slotline", env!("CARGO_PKG_VERSION").to_owned()),
        ("commit", commit().unwrap_or_else(|| "unknown".to_owned())),
    ];
    Ok(told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// How much else the machine did, in runnable tasks over a minute.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or("unknown").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn commit() -> Option<String> {
    let mut git = Command::new("git");
    let said = git.args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
