//! Starts and ends of executions on the terminal of `slotline dev`, a line for each.
//!
//! Read from the API's stream of all events. Under load most lines are counted and not shown.

use std::time::Duration;

use eventsource_stream::Eventsource as _;
use futures::StreamExt as _;
use slotline_protocol::Status;
use slotline_protocol::record::{Event, What};
use tokio::time::{MissedTickBehavior, interval};

use crate::client::Client;
use crate::client::backoff::Backoff;
use crate::show::terminal::{Ink, Span};
use crate::show::{describe, output};

/// Lines that are shown of each stretch of time; a person reads no more.
const LINES_MAX: usize = 20;
const STRETCH: Duration = Duration::from_secs(1);

/// Shows starts and ends until it is dropped.
pub(crate) async fn show(client: Client) {
    let mut backoff = Backoff::new();
    loop {
        // An error that matters ends `dev` by itself; here the stream is only opened again.
        if let Ok(Some(response)) = client.open(&["events"], 0).await {
            read(response).await;
        }
        backoff.pause().await;
    }
}

async fn read(response: reqwest::Response) {
    let chunks = futures::stream::try_unfold(response, async |mut response| {
        Ok::<_, reqwest::Error>(response.chunk().await?.map(|chunk| (chunk, response)))
    });
    let mut events = std::pin::pin!(chunks.eventsource());
    let (mut pace, mut stretches) = (Pace::default(), interval(STRETCH));
    stretches.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = events.next() => {
                let Some(Ok(message)) = message else { return };
                let Ok(event) = serde_json::from_str::<Event>(&message.data) else { continue };
                if let Some(line) = line(&event)
                    && pace.takes()
                {
                    output::announce_spans(&line);
                }
            }
            _ = stretches.tick() => match pace.begin_anew() {
                0 => {}
                more => output::announce(format!("(and {more} more)")),
            }
        }
    }
}

/// How much of a stretch has been shown.
#[derive(Default)]
struct Pace {
    shown: usize,
    left_out: u64,
}

impl Pace {
    fn takes(&mut self) -> bool {
        let takes = self.shown < LINES_MAX;
        if takes {
            self.shown += 1
        } else {
            self.left_out += 1
        }
        takes
    }

    /// How many lines were left out of the stretch that is over.
    fn begin_anew(&mut self) -> u64 {
        std::mem::take(self).left_out
    }
}

/// `#12  demo.echo completed`.
fn line(event: &Event) -> Option<Vec<Span>> {
    let (status, why) = match &event.what {
        What::Status { new: new @ (Status::Running | Status::Cancelling), .. } => (*new, None),
        What::Settled { status, error, .. } => (*status, error.as_ref()),
        What::Status { .. }
        | What::Started
        | What::Progress(_)
        | What::Log { .. }
        | What::Gap { .. }
        | What::Finished { .. } => return None,
    };
    let why = why.and_then(|error| describe::failure(error).lines().next().map(|line| format!(": {line}")));
    let plain = |text: String| Span { ink: Ink::Plain, text: output::clean(&text) };
    let verb = if status.is_terminal() { describe::ended(status).to_owned() } else { format!("is {status}") };
    Some(vec![
        plain(format!("#{}  {} ", event.execution_id, event.action_ref)),
        Span { ink: Ink::of(&status.to_string()), text: verb },
        plain(why.unwrap_or_default()),
    ])
}

#[cfg(test)]
mod tests {
    use slotline_protocol::message::Failure;

    use super::*;
    use crate::show::describe::tests::{event, moved};

    fn text(what: What) -> Option<String> {
        line(&event(1, what)).map(|spans| spans.into_iter().map(|span| span.text).collect())
    }

    #[test]
    fn a_start_and_an_end_are_a_line_each_and_nothing_of_them_steers_the_terminal() {
        assert_eq!(text(moved(Status::Scheduled, Status::Running)).as_deref(), Some("#42  deploy.app is running"));
        assert_eq!(text(moved(Status::Queued, Status::Scheduled)), None);
        let error = Some(Failure::new("exit_status", "no\u{1b}[2J room\nmore"));
        let settled = What::Settled { previous: Status::Running, status: Status::Failed, result: None, error };
        let expected = "#42  deploy.app failed: exit_status: no\\u{1b}[2J room";
        assert_eq!(text(settled).as_deref(), Some(expected));
    }

    #[test]
    fn of_a_flood_a_person_sees_some_and_how_many_there_were() {
        let mut pace = Pace::default();
        let shown = (0..100).filter(|_| pace.takes()).count();
        assert_eq!((shown, pace.begin_anew()), (LINES_MAX, 80));
        assert!(pace.takes());
        assert_eq!(pace.begin_anew(), 0);
    }
}
