//! L: from the publication of a request to the start of its handler, on an idle system.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::figure::{Book, Figure};
use crate::installation::Site;
use crate::limits;
use crate::publisher::{Request, publish_one};
use crate::scale::Scale;
use crate::stamps;
use crate::workers::Served;

const ACTION: &str = "bench.idle";
const COUNT: usize = 400;
/// Requests before those that count.
const WARM_UP: usize = 20;
/// Long enough for each to find everything at rest; not a multiple of anything that ticks.
pub(crate) const EVERY: Duration = Duration::from_micros(23_700);

pub(crate) async fn measure(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    let floors = [limits::REQUEST, limits::REQUEST_AT_REST];
    let before = site.floors(&floors, scale).await?;
    let installation = site.install().await?;
    installation.put(ACTION, "{}").await?;
    let workers = installation.start_workers(1, 10, &[Served::one(ACTION, 0)]).await?;
    let (count, clocks) = (scale.of(COUNT), workers.meter.read()?);
    let begun = std::time::Instant::now();
    let mut sent = Vec::with_capacity(WARM_UP + count);
    for request in Request::of(ACTION, None, 0..WARM_UP + count) {
        sent.push(publish_one(&installation.session, &request).await?);
        tokio::time::sleep(EVERY).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    installation.until_settled(sent.len() as u64).await?;
    let spent = workers.meter.since(&clocks)?;
    let mut stamps = workers.end().await?;
    stamps::each_once(&stamps, sent.len())?;

    stamps.sort_unstable_by_key(|stamp| stamp.n);
    let took = stamps.iter().zip(&sent).skip(WARM_UP).map(|(stamp, sent)| stamp.start.checked_sub(*sent));
    let took = took.collect::<Option<Vec<_>>>().context("nothing starts before it is asked for")?;
    let mut figure =
        Figure::new(site.system(), "L", format!("{count} requests, one at a time"), count).percentiles(took).cpu(spent);
    figure.seconds = Some(seconds.round());
    figure.journal_violations = installation.verify().await?;
    installation.close(site).await?;
    book.add(figure.between(before, &site.floors(&floors, scale).await?));
    Ok(())
}
