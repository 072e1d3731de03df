//! Ways to get the protocol wrong. A search that does not find each of them is worth nothing.

/// One thing done wrong, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mistake {
    /// The journal takes batches of leaders that were deposed.
    IgnoresTheEpoch,
    /// A leader's letters leave before their batch is committed.
    SpeaksBeforeItCommits,
    /// A leader reads its journal and leaves out who holds a lease.
    ForgetsLeases,
    /// A leader takes a probe for come back as soon as it is due.
    CountsSilenceByTheClock,
    /// A leader takes an order that found no queue for the end of its incarnation.
    TakesAReturnForALoss,
    /// A worker takes every order for a new one.
    IgnoresOrderNumbers,
    /// A worker runs on, whatever is confirmed.
    KeepsNoFence,
}
