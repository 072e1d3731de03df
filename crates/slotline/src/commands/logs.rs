//! `slotline logs`: what an execution wrote. Its stdout to stdout, everything else to stderr.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use slotline_protocol::ExecutionId;
use slotline_protocol::http::{Events, Execution};
use slotline_protocol::message::Stream;
use slotline_protocol::record::{Event, What};

use crate::client::Client;
use crate::client::stream::{Follow, StreamItem};
use crate::settings::{Output, Settings};
use crate::show::{describe, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    id: ExecutionId,
    /// Go on until the execution has ended
    #[arg(short, long)]
    follow: bool,
    /// Begin after this event
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    after: u64,
}

pub(crate) async fn logs(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    let printer = Printer::new(settings.output());
    if args.follow {
        follow(client, &args, &printer).await?;
    } else {
        so_far(&client, &args, &printer).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(client: Client, args: &Args, printer: &Printer) -> anyhow::Result<()> {
    // Nothing to follow is an error at once; an API that goes away later is waited for.
    client.get::<Execution>(&["executions", &args.id.to_string()]).await?;
    let mut events = Follow::new(client, args.id, args.after);
    while let Some(item) = events.next().await {
        match item? {
            StreamItem::Event(raw) => printer.print(&raw.event),
            StreamItem::Away(error) => output::note(format!("{error}; waiting")),
        }
    }
    Ok(())
}

async fn so_far(client: &Client, args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let id = args.id.to_string();
    let mut after = args.after;
    loop {
        let query = [("after", after.to_string()), ("limit", slotline_api::LIMIT_MAX.to_string())];
        let events: Events = client.whole(&["executions", &id, "events"], &query).await?;
        events.data.iter().for_each(|event| printer.print(event));
        if events.is_over || events.data.is_empty() || events.next_after <= after {
            return Ok(());
        }
        after = events.next_after;
    }
}

/// Prints lines; to a file or a pipe as they were written.
struct Printer {
    output: Output,
    is_stdout_terminal: bool,
    is_stderr_terminal: bool,
}

impl Printer {
    fn new(output: Output) -> Self {
        Self { output, is_stdout_terminal: io::stdout().is_terminal(), is_stderr_terminal: io::stderr().is_terminal() }
    }

    fn print(&self, event: &Event) {
        match self.output {
            Output::Json => match &event.what {
                What::Log { .. } | What::Gap { .. } => {
                    output::line(serde_json::to_string(event).expect("events are plain data with string keys"));
                }
                What::Status { .. }
                | What::Started
                | What::Progress(_)
                | What::Finished { .. }
                | What::Settled { .. } => {}
            },
            Output::Table | Output::Wide => lines(event).into_iter().for_each(|line| self.line(line)),
        }
    }

    fn line(&self, line: Line) {
        match line {
            Line::Out(text) if self.is_stdout_terminal => output::line(output::clean_line(&text)),
            Line::Err(text) if self.is_stderr_terminal => output::note(output::clean_line(&text)),
            Line::Out(text) => output::verbatim(&text),
            Line::Err(text) => output::verbatim_note(&text),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Out(String),
    Err(String),
}

fn lines(event: &Event) -> Vec<Line> {
    match &event.what {
        What::Log { stream, lines } => lines.iter().map(|line| written(*stream, line)).collect(),
        What::Gap { count, reason } => vec![Line::Err(describe::gap(*count, *reason))],
        // The first attempt has no mark: most executions have no other.
        What::Started if event.attempt > 1 => vec![Line::Err(format!("(attempt {})", event.attempt))],
        What::Status { .. } | What::Started | What::Progress(_) | What::Finished { .. } | What::Settled { .. } => {
            Vec::new()
        }
    }
}

fn written(stream: Stream, line: &str) -> Line {
    match stream {
        Stream::Stdout => Line::Out(line.to_owned()),
        Stream::Stderr => Line::Err(line.to_owned()),
        Stream::Notice => Line::Err(format!("{} | {line}", describe::name(stream))),
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::message::GapReason;

    use super::*;
    use crate::show::describe::tests::event;

    #[test]
    fn what_it_wrote_to_stdout_goes_to_stdout_and_all_else_to_stderr() {
        let mut again = event(4, What::Started);
        again.attempt = 2;
        let log = |stream, line: &str| What::Log { stream, lines: vec![line.to_owned(), String::new()] };
        let events = [
            event(1, What::Started),
            event(2, log(Stream::Stdout, "o\u{1b}")),
            event(3, log(Stream::Stderr, "e")),
            again,
            event(5, log(Stream::Notice, "n")),
            event(6, What::Gap { count: 1, reason: GapReason::Pruned }),
        ];
        let err = |text: &str| Line::Err(text.to_owned());
        let expected = [
            Line::Out("o\u{1b}".to_owned()),
            Line::Out(String::new()),
            err("e"),
            err(""),
            err("(attempt 2)"),
            err("notice | n"),
            err("notice | "),
            err("(1 older event is not kept any more)"),
        ];
        assert_eq!(events.iter().flat_map(lines).collect::<Vec<_>>(), expected);
    }
}
