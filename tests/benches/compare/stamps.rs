//! When each handler began and ended, by its own clock, and what that shows of order and limits.
//!
//! The clock is the boot clock, which all processes of a machine share. The first thing that a handler does is to read
//! it, and the last; a stamp is put away afterwards. The journal's own stamps are not used for times.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// One run of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The line it belongs to: the key, or the number of the action.
    pub(crate) line: u64,
    /// Its place among all requests, as they were published.
    pub(crate) n: u64,
    /// Nanoseconds.
    pub(crate) start: u64,
    pub(crate) end: u64,
}

const STAMP_BYTES: usize = 32;

pub(crate) fn write(path: &Path, stamps: &[Stamp]) -> Result<()> {
    let mut bytes = Vec::with_capacity(stamps.len() * STAMP_BYTES);
    for stamp in stamps {
        for number in [stamp.line, stamp.n, stamp.start, stamp.end] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    Ok(std::fs::write(path, bytes)?)
}

pub(crate) fn read(path: &Path) -> Result<Vec<Stamp>> {
    let bytes = std::fs::read(path).with_context(|| format!("the stamps of a worker, {}", path.display()))?;
    let (stamps, rest) = bytes.as_chunks::<STAMP_BYTES>();
    ensure!(rest.is_empty(), "{} is cut off", path.display());
    let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let stamp = |bytes: &[u8; STAMP_BYTES]| {
        let (numbers, _) = bytes.as_chunks::<8>();
        Stamp {
            line: number(&numbers[0]),
            n: number(&numbers[1]),
            start: number(&numbers[2]),
            end: number(&numbers[3]),
        }
    };
    Ok(stamps.iter().map(stamp).collect())
}

/// Checks that each of `count` requests ran once.
pub(crate) fn each_once(stamps: &[Stamp], count: usize) -> Result<()> {
    let mut seen: Vec<u64> = stamps.iter().map(|stamp| stamp.n).collect();
    seen.sort_unstable();
    let expected = 0..count as u64;
    ensure!(seen.iter().copied().eq(expected), "of {count} executions {} handlers ran, or not once each", seen.len());
    Ok(())
}

/// What lines with one slot each show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) order_violations: u64,
    pub(crate) overlaps: u64,
    /// From each end to the next start of the same line, in nanoseconds. One that overlaps has none.
    pub(crate) pauses: Vec<u64>,
}

pub(crate) fn lines(stamps: &[Stamp]) -> Lines {
    let mut lines: BTreeMap<u64, Vec<Stamp>> = BTreeMap::new();
    for stamp in stamps {
        lines.entry(stamp.line).or_default().push(*stamp);
    }
    let mut seen = Lines::default();
    for line in lines.values_mut() {
        line.sort_unstable_by_key(|stamp| (stamp.start, stamp.n));
        for pair in line.windows(2) {
            seen.order_violations += u64::from(pair[1].n < pair[0].n);
            match pair[1].start.checked_sub(pair[0].end) {
                Some(pause) => seen.pauses.push(pause),
                None => seen.overlaps += 1,
            }
        }
    }
    seen
}
