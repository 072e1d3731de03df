//! Other executors whose clients watch events: which events each of them gets from the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slotline_api::board::Round;
use slotline_broker::Properties;
use slotline_protocol::record::Event;
use slotline_protocol::{ExecutionId, Timestamp};

/// A follower that has not asked again for so long is forgotten; it asks every second.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// Executors that may follow at once.
const FOLLOWERS_MAX: usize = 64;

/// By the queue that each of them consumes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers(BTreeMap<String, Follower>);

#[derive(Clone, Debug)]
struct Follower {
    all: bool,
    ids: BTreeSet<ExecutionId>,
    /// What its clients have of the lines, if any of them looks.
    view: Option<Round>,
    until: Timestamp,
}

impl Followers {
    /// Takes what a follower watches from now on. Whether it was unknown, and so may have missed something.
    pub(crate) fn follow(
        &mut self,
        asker: &Properties,
        all: bool,
        ids: Vec<ExecutionId>,
        view: Option<Round>,
        now: Timestamp,
    ) -> bool {
        let Some(queue) = &asker.reply_to else { return true };
        let follower = Follower { all, ids: ids.into_iter().collect(), view, until: now + FORGET_AFTER };
        if self.0.len() >= FOLLOWERS_MAX && !self.0.contains_key(queue) {
            return true;
        }
        self.0.insert(queue.clone(), follower).is_none_or(|before| before.until < now)
    }

    pub(crate) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn want(&self, id: ExecutionId) -> bool {
        self.0.values().any(|follower| follower.wants(id))
    }

    /// Those whose clients look at lines, by their queues, with what they have.
    pub(crate) fn viewers(&self, now: Timestamp) -> impl Iterator<Item = (&str, Round)> {
        let live = self.0.iter().filter(move |(_, follower)| follower.until >= now);
        live.filter_map(|(queue, follower)| Some((queue.as_str(), follower.view?)))
    }

    /// Which of `told` goes to which queue.
    pub(crate) fn news(&mut self, told: &[Arc<Event>], now: Timestamp) -> Vec<(String, Vec<Arc<Event>>)> {
        if told.is_empty() || self.0.is_empty() {
            return Vec::new();
        }
        self.0.retain(|_, follower| follower.until >= now);
        let news = self.0.iter().map(|(queue, follower)| {
            let wanted = told.iter().filter(|event| follower.wants(event.execution_id));
            (queue.clone(), wanted.cloned().collect::<Vec<_>>())
        });
        news.filter(|(_, events)| !events.is_empty()).collect()
    }
}

impl Follower {
    fn wants(&self, id: ExecutionId) -> bool {
        self.all || self.ids.contains(&id)
    }
}
