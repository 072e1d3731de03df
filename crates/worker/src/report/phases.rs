//! Names of phases that an action does not declare: a report of such a phase is taken and has no percentage, so its
//! author is warned of it.
//!
//! Not here: the percentage (`duty`). An action that declares no phases may name any.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use slotline_protocol::perhaps_meant;

use super::check::quoted;
use super::feed::NOTICES_MAX;
use crate::duty::Phase;

/// The names that were warned of already. No more are kept than there may be warnings.
#[derive(Debug, Default)]
pub(super) struct Warned(Mutex<BTreeSet<String>>);

impl Warned {
    /// Whether this is the first time of this name.
    pub(super) fn is_first(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.len() < NOTICES_MAX as usize && !names.contains(name) && names.insert(name.to_owned())
    }
}

/// The phases of an action, shared by its attempts.
#[derive(Debug, Default)]
pub(crate) struct DeclaredPhases {
    names: Vec<String>,
    /// For the log of the worker, which would have the same line of every attempt.
    logged: Warned,
}

impl DeclaredPhases {
    pub(crate) fn new(phases: &[Phase]) -> Self {
        Self { names: phases.iter().map(|phase| phase.name.clone()).collect(), logged: Warned::default() }
    }

    pub(super) fn lack(&self, name: &str) -> bool {
        !self.names.is_empty() && !self.names.iter().any(|declared| declared == name)
    }

    /// The warning about a name that is none of these.
    pub(super) fn warning(&self, name: &str) -> String {
        let meant = perhaps_meant(name, self.names.iter().map(String::as_str));
        let (name, declared) =
            (quoted(name), self.names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "));
        format!("phase {name} is not declared, so it has no percentage: declared are {declared}{meant}")
    }

    pub(super) fn is_first(&self, name: &str) -> bool {
        self.logged.is_first(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(names: &[&str]) -> DeclaredPhases {
        DeclaredPhases::new(&names.iter().map(|name| Phase::new(*name, 1)).collect::<Vec<_>>())
    }

    #[test]
    fn a_phase_that_is_not_declared_is_warned_of_with_those_that_are_and_the_nearest() {
        let phases = declared(&["pull", "start", "probe"]);
        assert!(phases.lack("prob") && !phases.lack("probe"));
        assert_eq!(
            phases.warning("prob"),
            "phase prob is not declared, so it has no percentage: declared are pull, start, probe: did you mean `probe`?"
        );
        assert_eq!(
            phases.warning("lunch"),
            "phase lunch is not declared, so it has no percentage: declared are pull, start, probe"
        );
        assert!(!declared(&[]).lack("any"), "without phases a name is only a name");
    }

    #[test]
    fn a_warning_is_short_and_on_one_line_whatever_the_name_is() {
        let warning = declared(&["pull"]).warning(&"a\n".repeat(4 << 10));
        assert!(warning.len() < 200 && !warning.contains('\n'), "{warning}");
    }

    #[test]
    fn each_name_is_warned_of_once_and_no_more_names_are_kept_than_warnings_given() {
        let warned = Warned::default();
        assert!(warned.is_first("a") && !warned.is_first("a") && warned.is_first("b"));
        let more = (0..1_000).filter(|i| warned.is_first(&i.to_string())).count();
        assert_eq!(more, NOTICES_MAX as usize - 2);
    }
}
