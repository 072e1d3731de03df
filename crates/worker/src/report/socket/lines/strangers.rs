//! Whatever a command writes, nothing panics, what is taken makes sense and reads back the same, and everything else
//! causes a warning.
//!
//! `FUZZ_SECONDS=60 FUZZ_SEED=$RANDOM cargo test -p slotline-worker --lib strangers` for the long run.

use slotline_protocol::ExecutionId;
use slotline_protocol::message::{Report, Stream};
use slotline_tests::Fuzz;
use slotline_tests::fuzz::way;
use tokio::sync::mpsc;

use super::*;
use crate::duty::{AttemptOutput, Ending, Shortage};
use crate::report::check;
use crate::report::feed::{Listener, NOTICES_MAX};

struct Nobody;

impl Listener for Nobody {
    fn ended(&self, _: &AttemptFeed, _: Ending) {}
    fn unstarted(&self, _: &AttemptFeed, _: Shortage) {}
}

/// What the feed holds of an attempt that writes `input`, in pieces of `size`.
fn told(input: &[u8], size: usize) -> Result<Vec<AttemptOutput>, String> {
    // Nothing takes from the feed meanwhile, so all of it waits there.
    let (sender, _announced) = mpsc::unbounded_channel();
    let feed = AttemptFeed::new((ExecutionId(1), 1), Arc::default(), Arc::new(Nobody), sender);
    let mut lines = Lines::default();
    for piece in input.chunks(size) {
        lines.take(piece, &feed);
        if lines.partial.len() > LINE_BYTES_MAX {
            return Err(format!("{} bytes of a line wait", lines.partial.len()));
        }
    }
    lines.finish(&feed);
    Ok(feed.take().1.into())
}

fn sense(report: &Report) -> Result<(), String> {
    let text = serde_json::to_string(report).map_err(|error| error.to_string())?;
    let mut warnings = Vec::new();
    let again = check::read(text.as_bytes(), &mut |warning| warnings.push(warning));
    let is_clipped = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > check::MESSAGE_BYTES_MAX);
    if again.as_ref() == Some(report) && warnings.is_empty() {
        Ok(())
    } else if [&report.message, &report.phase, &report.unit].into_iter().any(is_clipped) {
        // The mark at the cut makes the text longer than the limit.
        Ok(())
    } else {
        Err(format!("{text}\nis read back as {again:?} with {warnings:?}"))
    }
}

fn hear(input: &[u8]) -> Result<String, String> {
    let whole = told(input, usize::MAX)?;
    if told(input, 7)? != whole {
        return Err("it matters how it is cut into pieces".to_owned());
    }
    let (mut ways, mut notices) = (Vec::new(), 0);
    for told in &whole {
        match told {
            AttemptOutput::Progress(report) => {
                sense(report)?;
                ways.push("report".to_owned());
            }
            AttemptOutput::Log { stream: Stream::Notice, lines } => {
                notices += 1;
                for line in lines {
                    if line.trim().is_empty() || line.contains('\n') {
                        return Err(format!("a warning of no line: {line:?}"));
                    }
                    ways.push(way(line));
                }
            }
            AttemptOutput::Log { .. } => return Err("it printed nothing".to_owned()),
            AttemptOutput::Gap { .. } => ways.push("gap".to_owned()),
        }
    }
    if notices > NOTICES_MAX {
        return Err(format!("{notices} warnings"));
    }
    ways.sort();
    ways.dedup();
    Ok(ways.join("; "))
}

#[test]
fn no_line_of_a_command_is_too_strange() {
    let seeds = [
        r#"{"step":[2,7],"message":"m","progress":[60,1024],"unit":"Bytes","phase":"p","percent":40.5,"level":"error","data":{"a":[1]}}"#.to_owned(),
        "{\"message\":\"one\"}\n{\"progress\":[1,null]}\n{\"level\":\"info\"}\n".to_owned(),
        "{\"message\":\"no end of the line\"}\r\n\n\n{}".to_owned(),
        format!("{{\"message\":\"{}\"}}\n{{\"percent\":1}}\n", "x".repeat(LINE_BYTES_MAX)),
    ];
    Fuzz::new(env!("CARGO_MANIFEST_DIR"), "lines").seeds(seeds).run(hear);
}
