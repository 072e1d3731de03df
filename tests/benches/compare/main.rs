//! Slotline beside the limits of the machine, and beside what people would pick instead, in one run.
//!
//!     cargo bench -p slotline-tests --bench compare -- [MEASURE...] [OPTION...]
//!
//! | measure | what |
//! | --- | --- |
//! | `limits` | what the broker, the database and the disk give to a program that does nothing else |
//! | `S` | how fast a line with one slot goes, with handlers of one length; 10 and 100 such lines at once |
//! | `T` | no-op executions per second, end to end, one unlimited action, one message each and in arrays |
//! | `M` | the same over 100 keys with one slot each, in chains of up to 40 |
//! | `H` | hand-off: end of one to start of the next on a line with one slot, with 1 and 4 workers, with run-ahead and without |
//! | `L` | idle: publication to start |
//! | `F` | fan-out: 10,000 actions with one slot each, 4 workers |
//! | `G` | growth: T and H beside 10^6 that wait and beside 10^5 actions, memory, start-up |
//! | `C` | commands per second, beside a bare loop that starts them |
//! | `embedded` | S, T, M, H and L of everything in one process |
//! | `rivals` | runs `tests/benches/rivals/run.sh`, which takes long and packages of others |
//!
//! Without a measure: all but `rivals`. Prints a table, then the same as JSON.
//!
//! - `--output table` or `--output json`: only that.
//! - `--rivals FILE`: shows what the rivals' script printed earlier beside it all.
//! - `--run-ahead N`: the longest chain where a line of `H` may run ahead; as long as fits.
//! - `--subscriber`: a queue gets every public event, and keeps the newest thousand.
//! - `--trial`: a twentieth of everything, to see that it all works. Its figures mean nothing.
//!
//! Servers, executor and workers are private processes of this run, durable as by default. Workers are this program
//! again, since what is measured is Slotline and not the start of commands; for `C` they are `slotline worker`.
//! Requests are published as fast as the broker confirms them. Whatever is quoted lasts 3 s at least, if need be by
//! several rounds. After each measure order and limits are judged twice: by the handlers' stamps and by the journal.

mod commands;
mod cpu;
mod fanout;
mod figure;
mod growth;
mod handoff;
mod installation;
mod latency;
mod limits;
mod load;
mod machine;
mod options;
mod prefilled;
mod program;
mod publisher;
mod ratios;
mod rivals;
mod scale;
mod servers;
mod speed;
mod stamps;
mod table;
mod workers;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use figure::{Book, EMBEDDED, Figure, OURS};
use installation::Site;
use options::{Measure, Options, Output};
use servers::Servers;

/// As in `slotline`: workers are this program again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// First part of all names on the broker.
const PREFIX: &str = "slotline";

fn main() -> Result<()> {
    // As in `slotline`, too.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, orders] = arguments.as_slice()
        && role == workers::ROLE
    {
        return workers::run(orders);
    }
    let options = Options::parse(&arguments)?;
    // The HTTP client asks for a provider even where no TLS is spoken.
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    tokio::runtime::Runtime::new()?.block_on(Box::pin(run(&options)))
}

async fn run(options: &Options) -> Result<()> {
    let mut what = machine::told()?;
    if options.scale.is_trial() {
        what.insert("trial".to_owned(), "a twentieth of everything; these figures mean nothing".to_owned());
    }
    let mut book = Book(options.rivals.as_deref().map(rivals::read).transpose()?.unwrap_or_default());
    slotline_tests::slotline_binary()?;
    let servers = Servers::start(options.has_subscriber).await?;
    what.extend(servers.told.clone());
    let mut failed = Vec::new();
    for measure in &options.measures {
        // The others' figures are worth as much without it.
        if let Err(error) = Box::pin(one(*measure, &servers, options, &mut book)).await {
            eprintln!("{measure}: {error:#}");
            failed.push(measure.to_string());
        }
    }
    let Book(figures) = book;
    what.insert("load when it ended".to_owned(), machine::load());
    show(&what, &figures, options.output)?;
    let broken =
        |figure: &&Figure| [OURS, EMBEDDED].contains(&figure.system.as_str()) && figure.judged() == Some(false);
    failed.extend(figures.iter().filter(broken).map(|figure| format!("{}, {}", figure.measure, figure.case)));
    ensure!(failed.is_empty(), "failed, or broke a promise: {}", failed.join("; "));
    Ok(())
}

async fn one(measure: Measure, servers: &Servers, options: &Options, book: &mut Book) -> Result<()> {
    let (site, scale) = (Site::Servers(servers), &options.scale);
    match measure {
        Measure::Limits => limits::measure(servers, scale, book).await,
        Measure::Speed => speed::measure(site, scale, book).await,
        Measure::Throughput => load::throughput(site, scale, book).await,
        Measure::Keys => load::keys(site, scale, book).await,
        Measure::Handoff => handoff::measure(site, scale, book).await,
        Measure::Latency => latency::measure(site, scale, book).await,
        Measure::Fanout => fanout::measure(site, scale, book).await,
        Measure::Growth => growth::measure(site, scale, book).await,
        Measure::Commands => commands::measure(site, scale, book).await,
        Measure::Embedded => {
            speed::measure(Site::Embedded, scale, book).await?;
            load::throughput(Site::Embedded, scale, book).await?;
            load::keys(Site::Embedded, scale, book).await?;
            handoff::measure(Site::Embedded, scale, book).await?;
            latency::measure(Site::Embedded, scale, book).await
        }
        Measure::Rivals => rivals::run(book),
    }
}

fn show(what: &BTreeMap<String, String>, figures: &[Figure], output: Output) -> Result<()> {
    if output != Output::Json {
        println!("{}", table::told(what, figures));
        ratios::told(figures).iter().for_each(|ratio| println!("{ratio}"));
        println!();
    }
    if output != Output::Table {
        println!("{}", serde_json::json!({"on": what, "figures": figures, "ratios": ratios::told(figures)}));
    }
    Ok(())
}
