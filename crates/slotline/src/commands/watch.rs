//! `slotline watch`, and `run --watch`: shows an execution until its end.
//!
//! Not here: the events themselves (`stream`), and how they look (`screen`).

use std::process::ExitCode;

use slotline_protocol::http::{CancelBody, Execution};
use slotline_protocol::record::What;
use slotline_protocol::{ExecutionId, Status};

use crate::client::Client;
use crate::client::position::{Position, Positions};
use crate::client::stream::{Follow, StreamItem};
use crate::commands::executions::Cancelled;
use crate::commands::follow;
use crate::exit::Exit;
use crate::settings::{Output, Settings};
use crate::show::prompt::{self, Choice, EchoOff, Press, Prompt};
use crate::show::screen::Screen;
use crate::show::{end, output};
use crate::signals::{Signals, StopSignal};

#[derive(clap::Args)]
pub(crate) struct Args {
    id: ExecutionId,
    /// Show the lines of its output too
    #[arg(long)]
    logs: bool,
    /// Begin after this event
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    after: u64,
}

/// Which execution to watch, and how.
pub(crate) struct WatchedExecution {
    pub(crate) id: ExecutionId,
    pub(crate) after: u64,
    pub(crate) with_logs: bool,
    pub(crate) output: Output,
}

pub(crate) async fn command(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    // Nothing to watch is an error at once; an API that goes away later is waited for.
    client.get::<Execution>(&["executions", &args.id.to_string()]).await?;
    let mut signals = Signals::catch()?;
    let watch = WatchedExecution { id: args.id, after: args.after, with_logs: args.logs, output: settings.output() };
    watch.run(&client, &mut signals).await
}

impl WatchedExecution {
    /// Shows the execution until it ends, and exits with its outcome; or until a signal or the prompt stops watching.
    pub(crate) async fn run(self, client: &Client, signals: &mut Signals) -> anyhow::Result<ExitCode> {
        if !self.show(client, signals).await? {
            output::note(end::detached(self.id));
            return Ok(Exit::Interrupted.into());
        }
        let execution: Execution = tokio::select! {
            execution = follow::ended(client, self.id) => execution?,
            _ = signals.next() => return Ok(Exit::Interrupted.into()),
        };
        Ok(match self.output {
            // The last event was the end.
            Output::Json => Exit::of_status(execution.status).into(),
            Output::Table | Output::Wide => end::show(self.output, &execution),
        })
    }

    /// Whether the execution ended; `false` if watching was stopped.
    async fn show(&self, client: &Client, signals: &mut Signals) -> anyhow::Result<bool> {
        let mut screen = Screen::new(self.output, self.id, self.with_logs);
        let _echo_off = screen.is_terminal().then(EchoOff::new).flatten();
        let mut events = Follow::new(client.clone(), self.id, self.after);
        let look = || (self.output != Output::Json).then(|| Positions::new(client.clone(), self.id));
        // From the beginning, the first event shows that it waits.
        let mut positions = if self.after > 0 { look() } else { None };
        let mut prompt: Option<Prompt> = None;
        let mut was_interrupted = false;
        loop {
            tokio::select! {
                item = events.next() => match item {
                    Some(Ok(StreamItem::Event(raw))) => {
                        if let What::Status { new, .. } = raw.event.what {
                            // The position is out of date; the execution may be back in the line.
                            positions = (new == Status::Queued).then(look).flatten();
                        }
                        screen.event(&raw);
                    }
                    Some(Ok(StreamItem::Away(error))) => screen.note(&format!("{error}; waiting")),
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(true),
                },
                position = next_position(&mut positions) => screen.set_position(position),
                caught = signals.next() => match caught {
                    StopSignal::Interrupt if !was_interrupted && screen.is_terminal() && prompt::is_interactive() => {
                        was_interrupted = true;
                        prompt = Some(Prompt::open()?);
                        screen.set_prompt(Some(prompt::text(None)));
                    }
                    StopSignal::Interrupt | StopSignal::Terminate | StopSignal::HangUp => return Ok(false),
                },
                press = next_press(&mut prompt) => {
                    let choice = match press {
                        Some(Press::Selected(selected)) => {
                            screen.set_prompt(Some(prompt::text(selected)));
                            continue;
                        }
                        Some(Press::Confirmed(choice)) => choice,
                        // The keyboard is gone.
                        None => Choice::GoOn,
                    };
                    prompt = None;
                    screen.set_prompt(None);
                    match choice {
                        Choice::Stop => return Ok(false),
                        Choice::Cancel => match cancel(client, self.id).await {
                            Ok(cancelled) => screen.note(&format!("asked to end; execution {} is {}", self.id, cancelled.status)),
                            Err(error) => screen.note(&format!("can't cancel: {error}")),
                        },
                        Choice::GoOn => was_interrupted = false,
                    }
                }
            }
        }
    }
}

async fn cancel(client: &Client, id: ExecutionId) -> Result<Cancelled, crate::client::Error> {
    client.post(&["executions", &id.to_string(), "cancel"], &CancelBody { reason: None }).await
}

async fn next_position(positions: &mut Option<Positions>) -> Position {
    match positions {
        Some(looking) => match looking.next().await {
            Some(position) => position,
            None => {
                *positions = None;
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

async fn next_press(prompt: &mut Option<Prompt>) -> Option<Press> {
    match prompt {
        Some(prompt) => prompt.next().await,
        None => std::future::pending().await,
    }
}
