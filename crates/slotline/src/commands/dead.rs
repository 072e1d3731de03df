//! `slotline dead`: messages that were put aside.

use std::process::ExitCode;

use serde_json::Value;
use slotline_protocol::change::ReasonBody;
use slotline_protocol::http::DeadLetter;

use crate::commands::limit;
use crate::settings::{Output, Settings};
use crate::show::output;
use crate::show::style::Style;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List the oldest
    List {
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show one, with its body
    Show { id: String },
    /// Put one back where it came from
    Replay {
        id: String,
        /// Why, for the audit
        #[arg(long)]
        reason: Option<String>,
    },
    /// Throw one away
    Drop {
        id: String,
        /// Why, for the audit
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(crate) async fn dead(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    match command {
        Command::List { limit } => {
            let most = usize::try_from(limit).expect("a small number fits");
            let letters: Vec<DeadLetter> = client.list(&["dead"], &[], most).await?;
            match settings.output() {
                Output::Json => output::json(&letters),
                Output::Table | Output::Wide => list(settings.style(), &letters),
            }
        }
        Command::Show { id } => {
            let letter: DeadLetter = client.get(&["dead", &id]).await?;
            match settings.output() {
                Output::Json => output::json(&letter),
                Output::Table | Output::Wide => show(settings.style(), letter),
            }
        }
        Command::Replay { id, reason } => {
            client.post::<Value>(&["dead", &id, "replay"], &ReasonBody { reason }).await?;
            output::note(format!("{id} was put back"));
        }
        Command::Drop { id, reason } => {
            client.delete::<Value>(&["dead", &id], &limit::reason(reason)).await?;
            output::note(format!("{id} was dropped"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(style: Style, letters: &[DeadLetter]) {
    style.table(
        ["ID", "REASON", "PUT ASIDE", "BYTES", "MESSAGE ID", "DETAIL"],
        letters.iter().map(|letter| {
            [
                letter.id.clone(),
                letter.reason.clone(),
                style.optional(letter.dead_at),
                letter.body_bytes.to_string(),
                letter.message_id.clone().unwrap_or_default(),
                letter.detail.clone(),
            ]
        }),
    );
}

fn show(style: Style, letter: DeadLetter) {
    output::fields(&[
        ("id", letter.id),
        ("reason", letter.reason),
        ("detail", letter.detail),
        ("put aside", style.optional(letter.dead_at)),
        ("message id", letter.message_id.unwrap_or_default()),
        ("routing key", letter.routing_key),
        ("bytes", letter.body_bytes.to_string()),
        ("body", letter.body.unwrap_or_default()),
    ]);
}
