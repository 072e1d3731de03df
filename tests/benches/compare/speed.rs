//! S: how fast a line with one slot goes, alone and beside others: executions a second from the first start to the last
//! end, and the pauses between them.
//!
//! Handlers do nothing, or spin until they have taken as long as they should, by their own stamps: no timer decides. While
//! they spin they let other tasks of their process run. How long they took is part of the figure, and so is the share of
//! the time in which one ran.

use anyhow::Result;

use crate::figure::{Book, Figure};
use crate::installation::{Installation, Site};
use crate::prefilled::{self, Filling};
use crate::scale::Scale;
use crate::workers::Served;

const ACTION: &str = "bench.line";
/// Of each worker. More than the lines need, so that only their limit holds them back.
const CAPACITY: u32 = 200;

#[derive(Clone, Copy)]
struct Case {
    lines: u64,
    workers: usize,
    /// How long each handler spins; 0 for none at all.
    spin_us: u64,
    count: usize,
}

const CASES: [Case; 10] = [
    Case { lines: 1, workers: 1, spin_us: 0, count: 5_000 },
    Case { lines: 1, workers: 4, spin_us: 0, count: 5_000 },
    Case { lines: 1, workers: 1, spin_us: 1_000, count: 5_000 },
    Case { lines: 1, workers: 4, spin_us: 1_000, count: 5_000 },
    Case { lines: 1, workers: 1, spin_us: 10_000, count: 500 },
    Case { lines: 1, workers: 4, spin_us: 10_000, count: 500 },
    Case { lines: 10, workers: 1, spin_us: 0, count: 20_000 },
    Case { lines: 10, workers: 1, spin_us: 1_000, count: 5_000 },
    Case { lines: 100, workers: 1, spin_us: 0, count: 20_000 },
    Case { lines: 100, workers: 1, spin_us: 1_000, count: 5_000 },
];

pub(crate) async fn measure(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    for case in CASES {
        let installation = site.install().await?;
        let figure = run(&installation, case, scale).await?;
        let journal_violations = installation.verify().await?;
        installation.close(site).await?;
        book.add(Figure { journal_violations, ..figure });
    }
    Ok(())
}

async fn run(installation: &Installation, case: Case, scale: &Scale) -> Result<Figure> {
    let Case { lines, workers, spin_us, count } = case;
    let (policy, keys) = if lines == 1 { (r#"{"limit": 1}"#, None) } else { (r#"{"key_limit": 1}"#, Some(lines)) };
    installation.put(ACTION, policy).await?;
    let served = Served { spin_us, ..Served::one(ACTION, 0) };
    let running = installation.start_workers(workers, CAPACITY, &[served]).await?;
    let filling = Filling { action: ACTION, keys, count: scale.of(count).max(lines as usize) };
    let rounds = prefilled::run(installation, running, filling, scale).await?;
    let seconds = rounds.start_to_end();
    let busy = rounds.handler_ns() * (rounds.len() * filling.count) as f64 / 1e9 / (seconds * lines as f64);
    let work = match spin_us {
        0 => "no-op".to_owned(),
        _ => format!("{} ms", spin_us / 1_000),
    };
    let plural = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let case = format!("{}, {work}, {}", plural(lines, "line"), plural(workers as u64, "worker"));
    let figure = rounds.figure(installation.system, "S", case, seconds);
    Ok(figure.with("busy_share", (busy * 1_000.0).round() / 1_000.0))
}
