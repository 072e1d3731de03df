//! How the program ends: each code has one cause, so that a script may rely on it.
//!
//! Not here: printing the error (`main`, with its chain of causes).

use std::error::Error as StdError;
use std::process::ExitCode;

use reqwest::StatusCode;
use slotline_protocol::Status;

use crate::settings::{self, toml_file};
use crate::{client, journal};

/// A way to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// The execution failed, or what was checked does not hold.
    Failed,
    /// Wrong use, or refused: the same call fails again.
    Refused,
    NotFound,
    /// This program or its host is at fault.
    Broken,
    NothingAnswers,
    TryAgain,
    TimedOut,
    Interrupted,
}

impl Exit {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Refused,
        Self::NotFound,
        Self::NothingAnswers,
        Self::Broken,
        Self::TryAgain,
        Self::TimedOut,
        Self::Interrupted,
    ];

    /// 69 to 75 are those of `sysexits.h`, 124 is that of `timeout`, 130 a shell's for Ctrl-C.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Refused => 2,
            Self::NotFound => 3,
            Self::NothingAnswers => 69,
            Self::Broken => 70,
            Self::TryAgain => 75,
            Self::TimedOut => 124,
            Self::Interrupted => 130,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "the execution failed, or what was checked does not hold",
            Self::Refused => "wrong use, a wrong setting, or refused",
            Self::NotFound => "not found",
            Self::NothingAnswers => "nothing answers: no executor, broker or database",
            Self::Broken => "a fault of this program or its host",
            Self::TryAgain => "not now: try again in a moment",
            Self::TimedOut => "the execution timed out",
            Self::Interrupted => "the execution was cancelled, or the command interrupted",
        }
    }

    /// How a command that waited for an execution ends, once the execution has this status.
    pub(crate) fn of_status(status: Status) -> Self {
        match status {
            Status::Completed => Self::Done,
            Status::Timeout => Self::TimedOut,
            Status::Cancelled => Self::Interrupted,
            Status::Failed
            | Status::Requested
            | Status::Queued
            | Status::Scheduled
            | Status::Running
            | Status::Cancelling => Self::Failed,
        }
    }

    /// How a command that failed with `error` ends.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(cause).unwrap_or(Self::Broken)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// The table for `--help`.
pub(crate) fn help() -> String {
    let lines = Exit::ALL.map(|exit| format!("  {:>3}  {}", exit.number(), exit.meaning()));
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// The exit that one error of a chain stands for, if any.
fn cause(error: &(dyn StdError + 'static)) -> Option<Exit> {
    if error.is::<settings::Error>()
        || error.is::<settings::ReadError>()
        || error.is::<toml_file::Error>()
        || error.is::<slotline_api::Exposed>()
        || error.is::<slotline_api::ServeError>()
    {
        return Some(Exit::Refused);
    }
    error
        .downcast_ref()
        .map(of_client)
        .or_else(|| error.downcast_ref::<journal::Error>().map(|error| of_store(&error.inner)))
        .or_else(|| error.downcast_ref().map(of_store))
        .or_else(|| error.downcast_ref().map(of_broker))
        .or_else(|| error.downcast_ref().and_then(of_executor))
        .or_else(|| error.downcast_ref().and_then(of_worker))
}

fn of_client(error: &client::Error) -> Exit {
    match error {
        client::Error::InvalidUrl(_) | client::Error::NoTls { .. } => Exit::Refused,
        client::Error::Unreachable { .. } | client::Error::Silent { .. } => Exit::NothingAnswers,
        client::Error::Foreign { .. } => {
            if error.is_passing() {
                Exit::TryAgain
            } else {
                Exit::Refused
            }
        }
        client::Error::Refused { status, .. } => match *status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Exit::TryAgain,
            status if status.is_server_error() => Exit::Broken,
            _ => Exit::Refused,
        },
    }
}

fn of_store(error: &slotline_store::Error) -> Exit {
    use slotline_store::Error;
    match error {
        Error::InvalidUrl(_) | Error::Denied(_) | Error::Unfit(_) | Error::Migrate(_) | Error::InvalidCursor => {
            Exit::Refused
        }
        Error::Unavailable(_) | Error::TimedOut(_) => Exit::NothingAnswers,
        Error::ReadOnly | Error::Full | Error::LeadershipOver => Exit::TryAgain,
        Error::Refused(_) | Error::UnknownStatus { .. } | Error::Corrupt { .. } => Exit::Broken,
    }
}

fn of_broker(error: &slotline_broker::Error) -> Exit {
    use slotline_broker::Error;
    match error {
        Error::InvalidUrl(_)
        | Error::InvalidPrefix(_)
        | Error::Denied { .. }
        | Error::NoRight(_)
        | Error::Refused(_)
        | Error::Missing(_)
        | Error::Mismatch { .. }
        | Error::TooLong(_) => Exit::Refused,
        Error::Unreachable { .. } => Exit::NothingAnswers,
        Error::TimedOut { .. }
        | Error::Overdue { .. }
        | Error::RefusedForGood { .. }
        | Error::ConsumerCancelled { .. }
        | Error::Lost(_)
        | Error::Closed => Exit::TryAgain,
    }
}

fn of_executor(error: &slotline_executor::Error) -> Option<Exit> {
    use slotline_executor::Error;
    match error {
        Error::InvalidConfig(_) => Some(Exit::Refused),
        Error::Broker(error) => Some(of_broker(error)),
        // Their causes decide.
        Error::Api(_) | Error::Journal(_) => None,
        Error::Thread(_) | Error::Died => Some(Exit::Broken),
    }
}

fn of_worker(error: &slotline_worker::Error) -> Option<Exit> {
    use slotline_worker::Error;
    match error {
        Error::InvalidName(_)
        | Error::Misconfigured(_)
        | Error::StateDir { .. }
        | Error::NameTaken { .. }
        | Error::Refused { .. } => Some(Exit::Refused),
        Error::Broker(error) => Some(of_broker(error)),
        Error::Thread(_) | Error::Unstoppable { .. } | Error::Stands { .. } | Error::Died => Some(Exit::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help_with_its_one_meaning() {
        let help = help();
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{:>3}  {}", exit.number(), exit.meaning())), "{help}");
        }
        let mut numbers = Exit::ALL.map(Exit::number);
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }

    #[test]
    fn the_cause_decides_however_it_is_wrapped() {
        let of = |error: anyhow::Error| Exit::of(&error.context("while starting"));
        let denied =
            || slotline_broker::Error::Denied { endpoint: String::new(), user: String::new(), detail: String::new() };
        assert_eq!(of(settings::Error::Invalid("x".to_owned()).into()), Exit::Refused);
        assert_eq!(of(denied().into()), Exit::Refused);
        assert_eq!(of(slotline_executor::Error::Broker(denied()).into()), Exit::Refused);
        assert_eq!(of(slotline_store::Error::ReadOnly.into()), Exit::TryAgain);
        assert_eq!(of(anyhow::anyhow!("anything else")), Exit::Broken);
    }
}
