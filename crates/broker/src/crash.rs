//! Named points at which a process can be made to abort, so that tests can stop it between any two of its steps.
//!
//! `SLOTLINE_CRASH_AT=name:n` aborts the process when it passes the point for the n-th time; the first, without `:n`.
//! `SLOTLINE_CRASH_ON=step:text` aborts every process that takes a message with that text through that step. Only
//! builds with debug assertions have points: in a release they do nothing.
//!
//! Here because executor and worker both use this crate, and one of its own would be a crate for one function. Not
//! here: which points there are. Each is named where it is passed, and a test looks them up in the sources.

#[cfg(debug_assertions)]
use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

/// The variable with the point at which the process aborts.
pub const VARIABLE: &str = "SLOTLINE_CRASH_AT";

#[cfg(debug_assertions)]
static TARGET: LazyLock<Option<CrashPoint>> = LazyLock::new(|| CrashPoint::parse(&std::env::var(VARIABLE).ok()?));

/// The variable with the step and the text of messages at which every process aborts.
pub const POISON_VARIABLE: &str = "SLOTLINE_CRASH_ON";

#[cfg(debug_assertions)]
static POISON: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
    let poison = std::env::var(POISON_VARIABLE).ok()?;
    poison.split_once(':').map(|(step, text)| (step.to_owned(), text.to_owned()))
});

/// Aborts the process if [`POISON_VARIABLE`] names this step and a text in this message.
#[cfg_attr(not(debug_assertions), expect(unused_variables, reason = "there is no poison in a release"))]
pub fn on_poison(step: &str, message: &[u8]) {
    #[cfg(debug_assertions)]
    if let Some((deadly, poison)) = &*POISON
        && deadly == step
        && message.windows(poison.len().max(1)).any(|window| window == poison.as_bytes())
    {
        tracing::error!("crash on {poison}");
        std::process::abort();
    }
}

/// The variable to set for a process that is started with another environment, so that it aborts at the same messages.
pub fn poison_variable() -> Option<(&'static str, std::ffi::OsString)> {
    cfg!(debug_assertions).then(|| Some((POISON_VARIABLE, std::env::var_os(POISON_VARIABLE)?)))?
}

/// Aborts the process if [`VARIABLE`] names this point and this passing.
#[cfg_attr(not(debug_assertions), expect(unused_variables, reason = "there are no points in a release"))]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    if let Some(target) = &*TARGET
        && target.is_met(name)
    {
        tracing::error!("crash point {name}");
        std::process::abort();
    }
}

#[cfg(debug_assertions)]
struct CrashPoint {
    name: String,
    /// The passings left until the process aborts.
    left: AtomicU64,
}

#[cfg(debug_assertions)]
impl CrashPoint {
    fn parse(text: &str) -> Option<Self> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        Some(Self { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
    }

    fn is_met(&self, name: &str) -> bool {
        // Below zero it wraps, and is not met again.
        self.name == name && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[usize]) {
        let target = CrashPoint::parse(text).expect("a name, and a number or none");
        let met: Vec<usize> = (1..=4).filter(|_| target.is_met("commit.before")).collect();
        assert_eq!(met, expected, "{text}");
    }

    #[test]
    fn a_point_is_met_once_at_the_passing_that_was_named() {
        check("commit.before", &[1]);
        check("commit.before:3", &[3]);
        check("commit.before:9", &[]);
        check("commit.after", &[]);
        assert!(CrashPoint::parse("commit.before:soon").is_none());
    }
}
