//! Workers as the scheduler's messages leave them: no fence, no processes, no mistakes.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::{AttemptKey, Heartbeat, Holding, Served};
use slotline_protocol::{ActionRef, Epoch, Fence, Incarnation, Timestamp, WorkerName};
use slotline_scheduler::{Order, Sent};

/// A worker as the scheduler's messages leave it: no fence, no processes, no mistakes.
pub(crate) struct FakeWorker {
    pub(crate) incarnation: Incarnation,
    pub(crate) name: WorkerName,
    pub(crate) capacity: u32,
    pub(crate) serves: Vec<ActionRef>,
    pub(crate) draining: bool,
    pub(crate) holding: BTreeMap<AttemptKey, (Fence, Holding)>,
    pub(crate) unrecorded: BTreeMap<AttemptKey, Fence>,
    pub(crate) seen: (Epoch, u64),
    pub(crate) is_lost: bool,
    /// Orders to it vanish.
    pub(crate) is_deaf: bool,
}

impl FakeWorker {
    pub(crate) fn heartbeat(&self, sent_at: Timestamp) -> Heartbeat {
        Heartbeat {
            worker: self.name.clone(),
            incarnation: self.incarnation,
            capacity: self.capacity,
            holding: self.holding.iter().map(|((id, attempt), (_, state))| (*id, *attempt, *state)).collect(),
            unrecorded: self.unrecorded.keys().copied().collect(),
            seen: self.seen,
            actions: self
                .serves
                .iter()
                .map(|action_ref| Served { action_ref: action_ref.clone(), capabilities: Vec::new() })
                .collect(),
            labels: BTreeMap::new(),
            draining: self.draining,
            sent_at,
        }
    }

    /// The attempt is over; what is said of it is kept until recorded.
    pub(crate) fn let_go(&mut self, key: AttemptKey) -> Fence {
        let (fence, _) = self.holding.remove(&key).expect("it holds the attempt");
        self.unrecorded.insert(key, fence);
        fence
    }

    /// As a real one: drops what is not above the highest number seen, and a dispatch of something it has.
    pub(crate) fn receive(&mut self, epoch: Epoch, sent: &Sent, begun: &mut BTreeSet<AttemptKey>) {
        if self.is_deaf || (epoch, sent.n) <= self.seen {
            return;
        }
        self.seen = (epoch, sent.n);
        match &sent.order {
            Order::Recorded { attempts } => {
                for key in attempts {
                    assert!(!self.holding.contains_key(key), "{key:?} was recorded while it was held");
                    self.unrecorded.remove(key);
                }
            }
            Order::Dispatch(dispatch) => {
                let key = (dispatch.id, dispatch.attempt);
                if !self.holding.contains_key(&key) && !self.unrecorded.contains_key(&key) {
                    assert!(begun.insert(key), "{key:?} began twice");
                    self.holding.insert(key, (dispatch.fence, Holding::Running));
                }
            }
            Order::Cancel { key, fence, .. } => {
                if let Some((held, state)) = self.holding.get_mut(key)
                    && held == fence
                {
                    *state = Holding::Cancelling;
                }
            }
            Order::Lost => self.is_lost = true,
        }
    }
}
