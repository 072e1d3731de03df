//! Ways to get the protocol wrong. A search that does not find each of them is worth nothing.

/// One thing done wrong, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The journal takes batches of leaders that were deposed.
    IgnoresTheEpoch,
    /// A leader's letters leave before their batch is committed.
    SpeaksBeforeItCommits,
    /// A leader takes a probe for come back as soon as it is due.
    CountsSilenceByTheClock,
    /// A leader takes an order that found no queue for the end of its incarnation.
    TakesAReturnForALoss,
    /// A worker takes every order for a new one.
    IgnoresOrderNumbers,
    /// A worker's fence counts from when a heartbeat was confirmed, not from when it was sent.
    FenceCountsFromTheConfirm,
    /// A worker goes on under a name of which nothing was confirmed for as long as a fence lasts.
    TakesALateFirstConfirm,
}
