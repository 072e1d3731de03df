//! The lines of the log about workers.

use std::time::Duration;

use slotline_protocol::message::Process;
use slotline_protocol::{ActionRef, ExecutionId};
use slotline_scheduler::{Attendance, Departed, Departure};

/// The most executions that a line names.
const NAMED_MAX: usize = 50;

/// Something for an operator to read, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Joined(Attendance, Option<Process>),
    Silent(Attendance),
    /// A worker that was silent.
    Back(Attendance),
    Draining(Attendance),
    /// Executions of the action wait, and no worker takes them.
    Unserved {
        action_ref: ActionRef,
        waiting: usize,
        waited: Duration,
    },
    /// A worker takes the executions of the action again.
    Served(ActionRef),
    /// No worker takes the action, but none of its executions waits any more.
    Unneeded(ActionRef),
}

impl News {
    pub(crate) fn log(&self) {
        match self {
            Self::Joined(Attendance { incarnation, worker, capacity, .. }, process) => tracing::info!(
                worker.name = %worker,
                worker.incarnation = %incarnation,
                capacity,
                host = process.as_ref().map(|process| process.host.as_str()),
                pid = process.as_ref().map(|process| process.pid),
                "a worker has joined"
            ),
            Self::Silent(Attendance { incarnation, worker, leases, .. }) => tracing::warn!(
                worker.name = %worker,
                worker.incarnation = %incarnation,
                attempts = leases,
                "a worker is silent: two heartbeats in a row are missing; it is lost if it stays so for its lease"
            ),
            Self::Back(attendance) => log_with_attempts(attendance, "a worker that was silent is back"),
            Self::Draining(attendance) => log_with_attempts(attendance, "a worker drains: it takes no new work"),
            Self::Unserved { action_ref, waiting, waited } => tracing::warn!(
                "action.ref" = %action_ref,
                waiting,
                "executions have waited for {waited:.0?}, and no live worker serves their action"
            ),
            Self::Served(action_ref) => {
                tracing::info!("action.ref" = %action_ref, "a worker serves the action again");
            }
            Self::Unneeded(action_ref) => {
                tracing::info!("action.ref" = %action_ref, "no execution of the action waits for a worker any more");
            }
        }
    }
}

fn log_with_attempts(attendance: &Attendance, sentence: &str) {
    let Attendance { incarnation, worker, leases, .. } = attendance;
    tracing::info!(
        worker.name = %worker,
        worker.incarnation = %incarnation,
        attempts = leases,
        "{sentence}"
    );
}

/// Logs an incarnation that is over for ever, once that is committed.
pub(crate) fn log_departed(departed: &Departed) {
    let Departed { incarnation, worker, how, lost } = departed;
    let (attempts, executions) = (lost.len(), named(lost));
    macro_rules! say {
        ($level:ident, $message:literal) => {
            tracing::$level!(worker.name = %worker, worker.incarnation = %incarnation, attempts, executions, $message)
        };
    }
    match how {
        Departure::Silent => say!(warn, "a worker is lost: it was silent for a whole lease"),
        Departure::Replaced if lost.is_empty() => say!(info, "a worker's process is gone, and its next one is here"),
        Departure::Replaced => say!(warn, "a worker is lost: its process is gone, as its next one shows"),
        Departure::Fenced => {
            say!(warn, "a worker was isolated: it has ended what it ran, and goes on as another incarnation")
        }
        Departure::Drained => say!(info, "a worker has drained and is gone"),
    }
}

/// `12, 13`; `None` if there are none.
fn named(executions: &[ExecutionId]) -> Option<String> {
    if executions.is_empty() {
        return None;
    }
    let names: Vec<_> = executions.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = executions.len().saturating_sub(NAMED_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("{}{rest}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_so_many_executions_and_counts_the_rest() {
        let ids = |count: i64| (1..=count).map(ExecutionId).collect::<Vec<_>>();
        assert_eq!(named(&[]), None);
        assert_eq!(named(&ids(2)).as_deref(), Some("1, 2"));
        let many = named(&ids(60)).expect("some");
        assert!(many.ends_with("49, 50 and 10 more"), "{many}");
    }
}
