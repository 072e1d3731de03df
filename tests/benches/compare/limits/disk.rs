//! What it takes until 8 kB are on the disk.

use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use anyhow::Result;

use super::MEASURE;
use crate::figure::{Figure, MACHINE};
use crate::scale::Scale;

const PAGE: usize = 8192;
/// The file is written round and round, as a log's segment is.
const PAGES: u64 = 2048;

pub(super) fn flushed(scale: &Scale) -> Result<Figure> {
    let file = tempfile::tempfile()?;
    file.set_len(PAGES * PAGE as u64)?;
    file.sync_all()?;
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < scale.floor {
        let flush = Instant::now();
        file.write_all_at(&[1; PAGE], (took.len() as u64 % PAGES) * PAGE as u64)?;
        file.sync_data()?;
        took.push(u64::try_from(flush.elapsed().as_nanos())?);
    }
    let figure = Figure::new(MACHINE, MEASURE, "disk: write and fdatasync of 8 kB", took.len());
    Ok(figure.rate(1, begun.elapsed().as_secs_f64()).percentiles(took))
}
