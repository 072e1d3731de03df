//! Looking at all lines once a second, while a client looks: in slices, so that nothing waits for it, and sending on
//! only what has changed.
//!
//! One round goes through all lines by name. Rounds follow on each other; one repeats every row if a board lacks the
//! round before it. Not here: what a board makes of it (`slotline_api::board`), and which executors look (`followers`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use slotline_api::Hub;
use slotline_api::board::Round;
use slotline_broker::Session;
use slotline_protocol::lines::{LineRow, ViewPart};
use slotline_protocol::{ActionRef, Epoch};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::Clock;
use super::mail::Postman;
use crate::leader::Leader;

/// The time from one round to the next.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Pause between two slices of a round: the loop does its work in between.
const SLICE_EVERY: Duration = Duration::from_millis(5);
/// Lines that one slice looks at: half a millisecond.
const SLICE_LINES: usize = 1_000;
/// Rounds that a board may be behind by what it last sent of itself.
const LAG_MAX: u64 = 5;

/// The rounds of one leader.
pub(crate) struct Viewing {
    round: Round,
    /// The rows as they were sent last.
    sent: BTreeMap<ActionRef, LineRow>,
    /// The last name of the slice before, within a round.
    after: Option<ActionRef>,
    /// The queues of other executors that get this round.
    queues: Vec<String>,
    is_local: bool,
    is_fresh: bool,
    is_under_way: bool,
    /// When the next slice is due; `None` while no client looks.
    due: Option<Instant>,
    began: Instant,
    out: mpsc::UnboundedSender<Outgoing>,
}

/// A part of a round and where it goes.
struct Outgoing {
    part: ViewPart,
    queues: Vec<String>,
    session: Option<Session>,
    postman: Arc<Postman>,
    is_local: bool,
}

impl Viewing {
    pub(crate) fn new(epoch: Epoch, hub: Arc<Hub>, callers: &runtime::Handle) -> Self {
        let (out, outgoing) = mpsc::unbounded_channel();
        callers.spawn(send(hub, outgoing));
        Self {
            round: Round { epoch, number: 0 },
            sent: BTreeMap::new(),
            after: None,
            queues: Vec::new(),
            is_local: false,
            is_fresh: false,
            is_under_way: false,
            due: None,
            began: Instant::now(),
            out,
        }
    }

    /// When the loop must turn at the latest.
    pub(crate) fn deadline(&self, other: Instant) -> Instant {
        self.due.map_or(other, |due| due.min(other))
    }

    /// No client looks.
    pub(crate) fn rest(&mut self) {
        if self.due.take().is_some() {
            self.sent = BTreeMap::new();
            self.is_under_way = false;
        }
    }

    /// Looks at the next slice, if it is due.
    pub(crate) fn turn(
        &mut self,
        leader: &Leader,
        hub: &Hub,
        clock: &Clock,
        postman: &Arc<Postman>,
        session: Option<&Session>,
    ) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due > now) {
            return;
        }
        if !self.is_under_way {
            self.begin(leader, hub, clock, now);
        }
        let (rows, next) = leader.look(self.after.as_ref(), SLICE_LINES);
        let gone = self.gone(&rows, next.as_ref());
        let rows = rows.into_iter().filter(|row| self.take(row)).collect();
        let part = ViewPart {
            epoch: self.round.epoch,
            round: self.round.number,
            is_fresh: self.is_fresh && self.after.is_none(),
            is_last: next.is_none(),
            at: clock.now(),
            rows,
            gone,
            workers: leader.workers_now(),
        };
        self.is_under_way = next.is_some();
        self.after = next;
        self.due = Some(if self.is_under_way { now + SLICE_EVERY } else { (self.began + ROUND_EVERY).max(now) });
        let (queues, session) = (self.queues.clone(), session.cloned());
        // The other end lives as long as this one.
        let _ = self.out.send(Outgoing { part, queues, session, postman: postman.clone(), is_local: self.is_local });
    }

    fn begin(&mut self, leader: &Leader, hub: &Hub, clock: &Clock, now: Instant) {
        let former = self.round;
        self.round.number += 1;
        self.began = now;
        self.is_local = hub.board().is_watched();
        let lacks = |has: Round| has.epoch != former.epoch || has.number + LAG_MAX < former.number || has.number == 0;
        self.is_fresh = self.sent.is_empty() || self.is_local && lacks(hub.board().round().unwrap_or_default());
        self.queues.clear();
        for (queue, has) in leader.viewers(clock.now()) {
            self.is_fresh |= lacks(has);
            self.queues.push(queue.to_owned());
        }
        if self.is_fresh {
            self.sent.clear();
        }
    }

    /// Whether a row has changed since it was sent.
    fn take(&mut self, row: &LineRow) -> bool {
        let is_new = self.sent.get(&row.action_ref) != Some(row);
        if is_new {
            self.sent.insert(row.action_ref.clone(), row.clone());
        }
        is_new
    }

    /// The names that were sent, stand in the part of the list that `rows` are all of, and are not among them.
    fn gone(&mut self, rows: &[LineRow], last: Option<&ActionRef>) -> Vec<ActionRef> {
        let from = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let to = last.map_or(Bound::Unbounded, Bound::Included);
        let there = |name: &&ActionRef| rows.binary_search_by(|row| row.action_ref.cmp(name)).is_err();
        let gone: Vec<_> =
            self.sent.range::<ActionRef, _>((from, to)).map(|(name, _)| name).filter(there).cloned().collect();
        for name in &gone {
            self.sent.remove(name);
        }
        gone
    }
}

/// Sends parts of rounds where they go, in order.
async fn send(hub: Arc<Hub>, mut outgoing: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(Outgoing { part, queues, session, postman, is_local }) = outgoing.recv().await {
        if let (Some(session), false) = (&session, queues.is_empty()) {
            for queue in queues {
                for publication in postman.view(&queue, &part) {
                    // What is lost is seen by its number, and repeated.
                    drop(session.publish(publication));
                }
            }
        }
        if is_local {
            hub.board().apply(part);
        }
    }
}
