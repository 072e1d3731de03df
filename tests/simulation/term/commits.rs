//! Commits under way, and what leaves after them.
//!
//! As `crates/executor/src/flight.rs` does it: one is written at a time, the one packed behind it right after.

use std::sync::Arc;

use slotline_executor::leader::{Commit, Input, Letters};
use slotline_protocol::ExecutionId;
use slotline_store::Request;

use super::{End, Term};
use crate::history::Fact;
use crate::journal::slowness;
use crate::mail::number;
use crate::plan::Mistake;
use crate::stage::Stage;
use crate::wire;

/// One commit: what is written, until the journal is asked, and what leaves after it.
pub(super) struct Flight {
    written: Option<Box<wire::Commit>>,
    letters: Letters,
}

impl Term {
    pub(super) fn commit(&mut self, Commit { batch, letters, .. }: Commit, stage: &mut Stage) {
        for turned in &letters.refused {
            // Answered or not, it has lost its turn.
            let request = stage.requests[number(&turned.asked.request)].clone();
            stage.record(Fact::Refused { request });
        }
        let written = wire::Commit { cut_at: stage.now, epoch: self.epoch, batch, lacking: letters.missing() };
        self.flights.push_back(Flight { written: Some(Box::new(written)), letters });
        if self.flights.len() == 1 {
            self.fly(stage);
        }
    }

    /// Asks for the first commit, if that was not done.
    fn fly(&mut self, stage: &mut Stage) {
        let Some(flight) = self.flights.front_mut() else { return };
        let Some(written) = flight.written.take() else { return };
        if stage.mistake == Some(Mistake::SpeaksBeforeItCommits) {
            let letters = std::mem::take(&mut flight.letters);
            let mail = self.writer.write(letters, &self.registry);
            self.leader.handle(Input::Committed(mail), self.now(stage));
        }
        let slow = slowness(stage);
        stage.ask(self.db, wire::Ask::Commit(written), slow);
    }

    /// The oldest commit is done.
    pub(crate) fn landed(&mut self, found: Vec<(ExecutionId, Arc<Request>)>, stage: &mut Stage) {
        let Some(Flight { mut letters, .. }) = self.flights.pop_front() else { return };
        self.committed += 1;
        self.fly(stage);
        let lets_out = matches!(self.end, None | Some(End::Shutdown | End::Settled | End::Brokerless));
        if lets_out && stage.mistake != Some(Mistake::SpeaksBeforeItCommits) {
            letters.requests.extend(found);
            let mail = self.writer.write(letters, &self.registry);
            self.handle(Input::Committed(mail), stage);
        }
    }

    /// A commit failed, or its outcome is unknown; or the session with the journal is over.
    pub(crate) fn failed(&mut self, stage: &mut Stage) {
        if let Some(Flight { letters, .. }) = self.flights.pop_front() {
            let guesses = stage.mistake == Some(Mistake::GuessesAtCommits);
            let input = if guesses {
                Input::Committed(self.writer.write(letters, &self.registry))
            } else {
                Input::CommitFailed(None)
            };
            self.handle(input, stage);
        }
        self.flights.clear();
        self.end = Some(End::Over);
    }
}
