//! What a command that waited for an execution prints last, and its exit code.

use std::process::ExitCode;

use slotline_protocol::ExecutionId;
use slotline_protocol::http::Execution;

use crate::exit::Exit;
use crate::settings::Output;
use crate::show::{describe, output};

/// Prints how `execution` ended, and returns the exit code.
pub(crate) fn show(format: Output, execution: &Execution) -> ExitCode {
    let id = execution.execution_id;
    let exit = Exit::of_status(execution.status);
    output::ends_as(exit);
    match format {
        Output::Json => output::json(execution),
        Output::Table | Output::Wide => {
            let run = match (execution.start_time, execution.end_time) {
                (Some(start), Some(end)) => format!(" after {:.3} s", end.since(start).as_secs_f64()),
                _ => String::new(),
            };
            // The time is that of the last attempt.
            let attempt =
                if execution.attempt > 1 { format!(" in attempt {}", execution.attempt) } else { String::new() };
            let ended = describe::ended(execution.status);
            let why = execution.error.as_ref().map(|error| format!(": {}", describe::failure(error)));
            let tasks = execution.progress.as_ref().map(|latest| describe::tree(&latest.tasks)).unwrap_or_default();
            tasks.iter().for_each(output::note);
            let text = format!("execution {id} {ended}{attempt}{run}{}", why.unwrap_or_default());
            // The error of a time-out has a line for the newest message of each level.
            text.lines().for_each(|line| output::note(output::clean(line)));
            if let Some(result) = execution.result.as_ref().filter(|result| result.get() != "null") {
                output::line(result.get());
            }
        }
    }
    exit.into()
}

/// What is printed when the command ends before the execution.
pub(crate) fn detached(id: ExecutionId) -> String {
    format!("execution {id} goes on; end it with `slotline cancel {id}`")
}
