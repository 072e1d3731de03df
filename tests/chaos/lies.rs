//! Tests the checker: a recorded history with one false entry at a time, each of which must be found.
//!
//! So a rule that holds in every run could have been broken: the facts that it needs do reach it.

use anyhow::{Context, ensure};
use slotline_protocol::ExecutionId;

use crate::checker::{Checker, Rule};
use crate::history::{Entry, Fact};

type Lie = fn(&mut Vec<Entry>) -> Option<()>;

const LIES: [(&str, Rule, Lie); 11] = [
    ("the end of an execution is left out", Rule::EverythingEnds, |history| {
        // The last end: without an earlier one, an execution that was sent ahead after it would break a rule first.
        let at = history.iter().rposition(|entry| matches!(entry.fact, Fact::Settled { .. }))?;
        history.remove(at);
        Some(())
    }),
    ("it took too long until all was quiet", Rule::EverythingEnds, |history| {
        history.last_mut()?.at += 3_600_000_000;
        Some(())
    }),
    ("an execution ends twice", Rule::OneTerminalStatus, |history| {
        repeat(history, |fact| matches!(fact, Fact::Settled { .. }))
    }),
    ("an attempt begins twice", Rule::NoAttemptTwice, |history| {
        repeat(history, |fact| matches!(fact, Fact::Began { .. }))
    }),
    ("a process outlives its lease", Rule::ProcessesWithinLeases, |history| {
        let at = position(history, |fact| matches!(fact, Fact::Ended { .. }))?;
        let ended = history.remove(at);
        let Fact::Ended { fence, .. } = ended.fact else { return None };
        let over = position(history, |fact| matches!(fact, Fact::Released { fence: of, .. } if *of == fence))?;
        history.insert(over + 1, ended);
        Some(())
    }),
    ("a slot is given away before it is free", Rule::LimitHolds, |history| {
        let handed_over = |facts: &[Entry]| {
            let [over, settled, granted] = facts else { return false };
            matches!(over.fact, Fact::Released { .. })
                && matches!(settled.fact, Fact::Settled { .. })
                && matches!(granted.fact, Fact::Granted { .. })
        };
        let at = history.windows(3).position(handed_over)?;
        history[at..at + 3].rotate_right(1);
        Some(())
    }),
    ("the last request came first", Rule::AcceptedInOrder, |history| {
        let is_enqueued = |entry: &&Entry| matches!(entry.fact, Fact::Enqueued { .. });
        let last = history.iter().rev().find(is_enqueued)?.clone();
        history.insert(0, last);
        Some(())
    }),
    ("a request runs that nobody made", Rule::NothingUnacceptedRuns, |history| {
        let at = position(history, |fact| matches!(fact, Fact::Enqueued { .. }))?;
        history.remove(at);
        Some(())
    }),
    ("a request was confirmed and is nowhere", Rule::NothingIsLost, |history| {
        let at = history.first()?.at;
        history.insert(0, Entry { at, fact: Fact::Confirmed { request: "nowhere".into() } });
        Some(())
    }),
    ("a batch is committed twice", Rule::EpochsRise, |history| {
        repeat(history, |fact| matches!(fact, Fact::Committed { .. }))
    }),
    ("an event is left out", Rule::EventsAreGapFree, |history| {
        let at = history.last()?.at;
        let place = history.len() - 1;
        history.insert(place, Entry { at, fact: Fact::Numbered { execution: ExecutionId(i64::MAX), number: 2 } });
        Some(())
    }),
];

/// Checks that each false entry in a history that keeps the rules is found.
pub(crate) fn are_found(history: &[Entry]) -> anyhow::Result<()> {
    for (name, rule, lie) in LIES {
        let mut told = history.to_vec();
        lie(&mut told).with_context(|| format!("the history leaves no room for this lie: {name}"))?;
        let found = Checker::check(&told).err().map(|violation| violation.rule);
        ensure!(found == Some(rule), "{name}: expected {rule:?}, found {found:?}");
    }
    Ok(())
}

fn position(history: &[Entry], wanted: impl Fn(&Fact) -> bool) -> Option<usize> {
    history.iter().position(|entry| wanted(&entry.fact))
}

fn repeat(history: &mut Vec<Entry>, wanted: impl Fn(&Fact) -> bool) -> Option<()> {
    let at = position(history, wanted)?;
    history.insert(at + 1, history[at].clone());
    Some(())
}
