//! Workers as the scheduler's messages leave them: no fence, no processes, no mistakes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;
use slotline_protocol::message::{Account, AttemptKey, Heartbeat, Highest, Holding, Served, Shown};
use slotline_protocol::{ActionRef, Detail, Epoch, Fence, Incarnation, Timestamp, WorkerName};
use slotline_scheduler::{Dispatch, Order, Sent};

/// A worker as the scheduler's messages leave it: no fence, no processes, no mistakes.
pub(crate) struct FakeWorker {
    pub(crate) incarnation: Incarnation,
    pub(crate) name: WorkerName,
    pub(crate) capacity: u32,
    pub(crate) serves: Vec<ActionRef>,
    pub(crate) draining: bool,
    pub(crate) holding: BTreeMap<AttemptKey, (Fence, Holding)>,
    pub(crate) unrecorded: BTreeMap<AttemptKey, Fence>,
    /// The attempts that it holds to start after another, each with the one before.
    pub(crate) waiting: BTreeMap<AttemptKey, AttemptKey>,
    pub(crate) seen: (Epoch, u64),
    pub(crate) is_lost: bool,
    /// Orders to it vanish.
    pub(crate) is_deaf: bool,
    /// The dispatches that it got, by attempt.
    pub(crate) granted: BTreeMap<AttemptKey, Dispatch>,
    pub(crate) wants_account: bool,
    pub(crate) highest: Highest,
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
            journal: None,
            highest: self.highest,
            account: self.wants_account.then(|| self.account()),
            process: None,
        }
    }

    fn account(&self) -> Account {
        let held = self.holding.iter().map(|(key, (fence, state))| (key, fence, Some(*state)));
        let ended = self.unrecorded.iter().map(|(key, fence)| (key, fence, None));
        let shown = |((id, attempt), fence, state): (&AttemptKey, &Fence, Option<Holding>)| Shown {
            execution_id: *id,
            attempt: *attempt,
            counts_as: None,
            fence: *fence,
            action_ref: self.granted[&(*id, *attempt)].action_ref.clone(),
            concurrency_key: self.granted[&(*id, *attempt)].key.clone(),
            message_id: None,
            parameters: RawValue::from_string("{}".to_owned()).expect("JSON").into(),
            timeout_seconds: None,
            progress: Detail::default(),
            correlation_id: None,
            trace_id: None,
            state,
        };
        Account { part: 0, parts: 1, attempts: held.chain(ended).map(shown).collect() }
    }

    /// The attempt is over; its report is kept until recorded.
    pub(crate) fn let_go(&mut self, key: AttemptKey) -> Fence {
        let (fence, _) = self.holding.remove(&key).expect("it holds the attempt");
        self.unrecorded.insert(key, fence);
        self.waiting.remove(&key);
        fence
    }

    /// The attempt has completed: the one that waited for it begins.
    pub(crate) fn release(&mut self, key: AttemptKey, begun: &mut BTreeSet<AttemptKey>) {
        let next: Vec<_> = self.waiting.iter().filter(|(_, after)| **after == key).map(|(next, _)| *next).collect();
        for key in next {
            self.waiting.remove(&key);
            assert!(begun.insert(key), "{key:?} began twice");
            if let Some((_, state)) = self.holding.get_mut(&key) {
                *state = Holding::Running;
            }
        }
    }

    /// As a real one: drops an order whose number is not above the highest seen, and a dispatch of an attempt that it
    /// has.
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
                self.highest.execution_id = self.highest.execution_id.max(dispatch.id);
                self.highest.fence = self.highest.fence.max(dispatch.fence);
                self.granted.insert(key, dispatch.clone());
                if self.holding.contains_key(&key) || self.unrecorded.contains_key(&key) {
                    return;
                }
                if let Some(after) = dispatch.starts_after {
                    self.waiting.insert(key, after);
                    self.holding.insert(key, (dispatch.fence, Holding::Pending));
                } else {
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
            // A test decides what comes of it.
            Order::Recall { .. } => {}
            Order::Lost => self.is_lost = true,
        }
    }
}
