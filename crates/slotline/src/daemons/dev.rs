//! `slotline dev`: everything in one process, until it is stopped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::daemons::embedded::{Embedded, EmbeddedPlan};
use crate::daemons::{activity, host};
use crate::exit::Exit;
use crate::settings::actions::{self, DeclaredAction};
use crate::settings::{self, Settings};
use crate::show::output;
use crate::signals::Signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// File with further actions: what each is, and what it runs
    #[arg(long, env = "SLOTLINE_ACTIONS", value_name = "FILE")]
    actions: Option<PathBuf>,
    /// Folder for the journal [default: $XDG_STATE_HOME/slotline/dev or ~/.local/state/slotline/dev]
    #[arg(long, env = "SLOTLINE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to serve HTTP; beyond this machine only with a token [default: 127.0.0.1:7070]
    #[arg(long, env = "SLOTLINE_LISTEN", value_name = "ADDRESS:PORT", value_parser = settings::address)]
    listen: Option<SocketAddr>,
    /// Attempts that may run at once [default: twice the cores, at least 8]
    #[arg(long, env = "SLOTLINE_CAPACITY", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// Read the files of the page from this folder each time, for work on them
    #[arg(long, value_name = "DIR", hide = true)]
    ui_dir: Option<PathBuf>,
}

/// How many actions the first lines name.
const NAMES_MAX: usize = 20;
/// Enough for every example.
const CAPACITY_MIN: u32 = 8;

pub(crate) async fn dev(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    settings.log("warn")?;
    let file = &settings.file;
    let data = match args.data.or(file.data.clone()) {
        Some(data) => data,
        None => default_data()
            .ok_or_else(|| settings::Error::Invalid("no home folder: name a folder with --data".to_owned()))?,
    };
    let plan = EmbeddedPlan {
        data: data.clone(),
        actions: actions::with_examples(args.actions.as_deref().or(file.actions.as_deref()))?,
        listen: args.listen.or(file.listen).unwrap_or(settings::DEFAULT_LISTEN),
        tokens: settings.tokens()?,
        capacity: args.capacity.or(file.capacity).unwrap_or((2 * host::cores()).max(CAPACITY_MIN)),
        page: args.ui_dir,
    };
    let actions = names(&plan.actions);
    let mut signals = Signals::catch()?;
    let mut embedded = tokio::select! {
        embedded = Embedded::start(plan) => embedded?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let url = &embedded.url;
    let option = if *url == settings::DEFAULT_API_URL { String::new() } else { format!(" --api-url {url}") };
    output::paragraph(format!("Slotline serves {url}, its journal is in {}", data.display()));
    output::paragraph(format!("See:   {url}{}", slotline_api::ui::PATH));
    output::paragraph(format!("Actions: {actions}"));
    output::paragraph(format!("Try:   {} run demo.echo -p message=hello --wait{option}", program()));
    output::paragraph("Stop:  Ctrl-C. Executions, as they come:");
    let client = embedded.client.clone();
    tokio::select! {
        ended = embedded.ended() => ended?,
        () = activity::show(client) => {}
        _ = signals.next() => output::note("ends in order; once more ends at once"),
    }
    tokio::select! {
        stopped = embedded.stop() => stopped?,
        _ = signals.next() => return Ok(Exit::Interrupted.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `demo.deploy (limit 1), demo.echo`.
fn names(actions: &[DeclaredAction]) -> String {
    let name = |DeclaredAction { action_ref, policy, .. }: &DeclaredAction| match (policy.limit, policy.key_limit) {
        (Some(limit), _) => format!("{action_ref} (limit {limit})"),
        (None, Some(limit)) => format!("{action_ref} (limit {limit} a key)"),
        (None, None) => action_ref.to_string(),
    };
    let mut names: Vec<String> = actions.iter().map(name).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn default_data() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("slotline/dev"))
}

/// How to call this program from this folder.
pub(crate) fn program() -> String {
    let is_in_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("slotline").is_file()));
    let called = std::env::args().next().filter(|_| !is_in_path);
    called.unwrap_or_else(|| "slotline".to_owned())
}
