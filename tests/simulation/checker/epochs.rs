//! Epochs and batches rise by one; no two branches of the journal are led on under one epoch.

use slotline_protocol::Epoch;

use super::Checker;
use super::rule::{Rule, Violation, ensure};

impl Checker {
    /// A leader has the lock.
    pub(super) fn led(&mut self, epoch: Epoch) -> Result<(), Violation> {
        let before = std::mem::replace(&mut self.journal.epoch, epoch);
        self.journal.batch = 0;
        self.journal.leader = Some((epoch, None));
        ensure(epoch > before, Rule::EpochsRise, None, || format!("epoch {epoch} after epoch {before}"))
    }

    pub(super) fn committed(&mut self, epoch: Epoch, batch: i64) -> Result<(), Violation> {
        let (ours, before) = (self.journal.epoch, std::mem::replace(&mut self.journal.batch, batch));
        ensure(epoch == ours && batch == before + 1, Rule::EpochsRise, None, || {
            format!("batch {batch} of epoch {epoch} was committed after batch {before} in epoch {ours}")
        })
    }

    /// A leader consumes its queues.
    pub(super) fn feeds(&mut self, epoch: Epoch) -> Result<(), Violation> {
        // One that has lost the lock may not have heard of that.
        if self.journal.leader.is_some_and(|(leads, _)| leads == epoch) {
            let branch = *self.led.entry(epoch).or_insert(self.journal.branch);
            ensure(branch == self.journal.branch, Rule::NoNumberTwice, None, || {
                let ours = self.journal.branch;
                format!("epoch {epoch} is led under by branch {ours} of the journal, and was by {branch}")
            })?;
        }
        self.starves(epoch, None);
        Ok(())
    }
}
