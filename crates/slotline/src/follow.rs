//! Waiting for an execution's end: by asking again, seldom enough to be no burden and soon enough to be no delay.

use std::time::Duration;

use slotline_protocol::http::{Execution, Submitted};
use slotline_protocol::{ExecutionId, Status};
use tokio::time::Instant;

use crate::client::{Client, Error};
use crate::output;

/// The first pause between two questions; each further one is half as long again, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long the API may be away before waiting is given up. The execution goes on all the same.
const AWAY_MAX: Duration = Duration::from_secs(300);

/// A pause that grows while nothing happens.
struct Pace(Duration);

impl Pace {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 3 / 2).min(LAST_PAUSE);
    }
}

/// Waits until the journal has the request `message_id`.
pub(crate) async fn accepted(client: &Client, message_id: &str) -> Result<ExecutionId, Error> {
    let mut pace = Pace::new();
    let mut patience = Patience::default();
    loop {
        match client.get::<Submitted>(&["requests", message_id]).await {
            Ok(Submitted { execution_id: Some(id), .. }) => return Ok(id),
            Ok(_) => {}
            Err(Error::Refused { refusal, .. }) if refusal.code == "unknown_request" => patience.spend(None)?,
            Err(error) => patience.spend(Some(error))?,
        }
        pace.pause().await;
    }
}

/// Waits for the end. Tells what changes on the way if `is_watched`.
pub(crate) async fn end(client: &Client, id: ExecutionId, is_watched: bool) -> Result<Execution, Error> {
    let path = ["executions", &id.to_string()];
    let mut pace = Pace::new();
    let mut patience = Patience::default();
    let mut told = String::new();
    loop {
        match client.get::<Execution>(&path).await {
            Ok(execution) if execution.status.is_terminal() => return Ok(execution),
            Ok(execution) => {
                patience = Patience::default();
                let news = news(&execution);
                if news != told {
                    if is_watched {
                        output::note(output::clean(&news));
                    }
                    told = news;
                    pace = Pace::new();
                }
            }
            Err(error) => patience.spend(Some(error))?,
        }
        pace.pause().await;
    }
}

fn news(execution: &Execution) -> String {
    let id = execution.execution_id;
    match (execution.status, &execution.waiting) {
        (Status::Queued, Some(waiting)) => {
            format!("execution {id} is number {} in line: {}", waiting.position, waiting.message)
        }
        (Status::Running, _) => {
            let worker = execution.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
            format!("execution {id} is running{worker}, attempt {}", execution.attempt)
        }
        (status, _) => format!("execution {id} is {status}"),
    }
}

/// How long the API has been away already.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
}

impl Patience {
    fn spend(&mut self, error: Option<Error>) -> Result<(), Error> {
        let Some(error) = error else { return Ok(()) };
        if !error.is_passing() {
            return Err(error);
        }
        match self.since {
            None => {
                output::note(format!("{error}; waiting"));
                self.since = Some(Instant::now());
                Ok(())
            }
            Some(since) if since.elapsed() < AWAY_MAX => Ok(()),
            Some(_) => Err(error),
        }
    }
}
