//! `slotline open`: the page of an executor, in the browser of this desktop; without one the address alone is printed.

use std::process::{Command, ExitCode, Stdio};

use slotline_protocol::ExecutionId;

use crate::settings::Settings;
use crate::show::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// An execution; without one, all lines
    id: Option<ExecutionId>,
}

pub(crate) fn open(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let screen = args.id.map_or_else(|| "lines".to_owned(), |id| format!("execution/{id}"));
    let address = format!("{}{}#/{screen}", settings.api_url().trim_end_matches('/'), slotline_api::ui::PATH);
    output::line(&address);
    if let Some(opener) = opener() {
        // The address is printed: a desktop that can't open it takes nothing away.
        let _ =
            Command::new(opener).arg(&address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
    Ok(ExitCode::SUCCESS)
}

/// The program that opens an address on this desktop, if there is a desktop.
fn opener() -> Option<&'static str> {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    match std::env::consts::OS {
        "macos" => Some("open"),
        _ if has_display => Some("xdg-open"),
        _ => None,
    }
}
