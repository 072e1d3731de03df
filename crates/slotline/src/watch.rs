//! `slotline watch`, and `run --watch`: an execution seen until its end.
//!
//! Not here: the events themselves (`stream`), and how they look (`screen`).

use std::process::ExitCode;

use slotline_protocol::http::{CancelBody, Execution};
use slotline_protocol::record::What;
use slotline_protocol::{ExecutionId, Status};

use crate::ask::{self, Answer, Heard, Question, Quiet};
use crate::client::Client;
use crate::config::Output;
use crate::executions::Cancelled;
use crate::place::{Place, Places};
use crate::screen::Screen;
use crate::signals::{Caught, Signals};
use crate::stream::{Follow, Said};
use crate::{Settings, ending, follow, output};

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

/// What is to be watched, and how.
pub(crate) struct Watch {
    pub(crate) id: ExecutionId,
    pub(crate) after: u64,
    pub(crate) with_logs: bool,
    pub(crate) output: Output,
}

pub(crate) async fn command(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    let mut signals = Signals::catch()?;
    let watch = Watch { id: args.id, after: args.after, with_logs: args.logs, output: settings.output() };
    watch.run(&client, &mut signals).await
}

impl Watch {
    /// Shows the execution until it ends, and ends as it did; or until whoever watches has enough.
    pub(crate) async fn run(self, client: &Client, signals: &mut Signals) -> anyhow::Result<ExitCode> {
        if !self.show(client, signals).await? {
            output::note(ending::left(self.id));
            return Ok(ending::left_code());
        }
        let execution: Execution = tokio::select! {
            execution = follow::ended(client, self.id) => execution?,
            _ = signals.next() => return Ok(ending::left_code()),
        };
        Ok(match self.output {
            // Its last event told the end already.
            Output::Json => ending::code(execution.status),
            Output::Table | Output::Wide => ending::tell(self.output, &execution),
        })
    }

    /// Whether it was seen to its end.
    async fn show(&self, client: &Client, signals: &mut Signals) -> anyhow::Result<bool> {
        let mut screen = Screen::new(self.output, self.id, self.with_logs);
        let _quiet = screen.is_terminal().then(Quiet::new).flatten();
        let mut events = Follow::new(client.clone(), self.id, self.after);
        let look = || (self.output != Output::Json).then(|| Places::new(client.clone(), self.id));
        // Seen from its beginning, the first event says that it waits.
        let mut places = if self.after > 0 { look() } else { None };
        let mut question: Option<Question> = None;
        let mut was_asked = false;
        loop {
            tokio::select! {
                said = events.next() => match said {
                    Some(Ok(Said::Event(told))) => {
                        if let What::Status { new, .. } = told.event.what {
                            // What was known of its place is past; it may have come back to the line.
                            places = (new == Status::Queued).then(look).flatten();
                        }
                        screen.event(&told);
                    }
                    Some(Ok(Said::Away(error))) => screen.say(&format!("{error}; waiting")),
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(true),
                },
                place = next_place(&mut places) => screen.stand(place),
                caught = signals.next() => match caught {
                    Caught::Interrupt if !was_asked && screen.is_terminal() && ask::can_be_asked() => {
                        was_asked = true;
                        question = Some(Question::open()?);
                        screen.ask(Some(ask::words(None)));
                    }
                    Caught::Interrupt | Caught::Terminate => return Ok(false),
                },
                heard = heard(&mut question) => {
                    let answer = match heard {
                        Some(Heard::Chosen(chosen)) => {
                            screen.ask(Some(ask::words(chosen)));
                            continue;
                        }
                        Some(Heard::Answered(answer)) => answer,
                        // The terminal is gone.
                        None => Answer::GoOn,
                    };
                    question = None;
                    screen.ask(None);
                    match answer {
                        Answer::Stop => return Ok(false),
                        Answer::Cancel => match cancel(client, self.id).await {
                            Ok(cancelled) => screen.say(&format!("asked to end; execution {} is {}", self.id, cancelled.status)),
                            Err(error) => screen.say(&format!("can't cancel: {error}")),
                        },
                        Answer::GoOn => was_asked = false,
                    }
                }
            }
        }
    }
}

async fn cancel(client: &Client, id: ExecutionId) -> Result<Cancelled, crate::client::Error> {
    client.post(&["executions", &id.to_string(), "cancel"], &CancelBody { reason: None }).await
}

async fn next_place(places: &mut Option<Places>) -> Place {
    match places {
        Some(looking) => match looking.next().await {
            Some(place) => place,
            None => {
                *places = None;
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

async fn heard(question: &mut Option<Question>) -> Option<Heard> {
    match question {
        Some(question) => question.hear().await,
        None => std::future::pending().await,
    }
}
