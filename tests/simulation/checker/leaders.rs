//! Leadership goes to an executor that can do the whole job: none keeps it for long without a broker.

use slotline_protocol::Epoch;

use super::Checker;
use super::rule::{Rule, Violation, ensure};

/// How long a leader may be without a broker: until it hands over, its last commit has landed, or its session with the
/// journal is ended by the server because it stands still.
const BROKERLESS_MAX: u64 = 40_000_000;

impl Checker {
    /// Since when the leader of an epoch has no broker.
    pub(super) fn starves(&mut self, epoch: Epoch, since: Option<u64>) {
        let leader = self.journal.leader;
        self.journal.leader = leader.map(|(leads, was)| (leads, if leads == epoch { since } else { was }));
    }

    /// The journal stands still, or goes on.
    pub(super) fn stands(&mut self, is_still: bool, at: u64) {
        self.journal.stands = is_still;
        self.journal.leader = self.journal.leader.map(|(epoch, since)| (epoch, since.map(|_| at)));
    }

    pub(super) fn leads_with_a_broker(&self, at: u64) -> Result<(), Violation> {
        let Some((epoch, Some(since))) = self.journal.leader.filter(|_| !self.journal.stands) else { return Ok(()) };
        ensure(at <= since + BROKERLESS_MAX, Rule::LeadersHaveABroker, None, || {
            format!("the leader of epoch {epoch} has had no broker since {since}, and leads on at {at}")
        })
    }
}
