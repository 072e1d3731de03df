//! What outlives the journal: marks that leaders leave on the broker, and what a new leader reads from them.
//!
//! A mark says which journal is led on, how far it had come, and which numbers may have been given. A journal that falls
//! short of it was restored, promoted or rolled back: it is *doubted*, and nothing is granted before every worker that may
//! live has shown what it holds. No number is given that a confirmed mark does not cover, so none is given twice, whatever
//! the journal forgot.
//!
//! Not here: what a doubt means for executions (`slotline_scheduler`), and how it is remembered (`slotline_store`).

pub(crate) mod hand;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotline_broker::{Error, PublishError};
use slotline_protocol::Epoch;
use slotline_protocol::message::Lineage;
use slotline_scheduler::Counters;
use slotline_store::Standing;

/// The next numbers of a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Numbers {
    execution: i64,
    fence: i64,
    action: i64,
}

/// How far a leader has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub journal: Lineage,
    pub epoch: Epoch,
    /// Every batch up to this one is committed.
    pub batch: i64,
    /// The next numbers as of that batch, and those that no leader may reach without another mark.
    next: Numbers,
    reserved: Numbers,
    /// The longest lease that a worker may go by.
    lease_ms: u64,
    /// See [`Standing`].
    site: String,
    life: String,
    log: i64,
    /// Copies of the journal that were led on before this one took their place.
    #[serde(default)]
    retired: Vec<String>,
    /// The leader went in good order: nothing of any later batch has left it.
    #[serde(default)]
    is_last: bool,
}

/// What this process knows of the journal by having led on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    pub journal: Lineage,
    pub epoch: Epoch,
    /// The last batch of which anything left.
    pub batch: i64,
}

/// What a new leader makes of the journal it is to lead on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is no older than anything shows. `skips`: nothing proves that it has all that its last leader committed, or
    /// another copy may yet commit more, so that no number of the last reserve is given.
    Sound { skips: bool },
    /// It may be older than the world.
    Doubted(String),
}

/// Another copy of the journal was led on since: this one must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another copy of this journal was led on since, and the site goes on there: connect this executor to that database"
)]
pub struct Superseded;

impl From<Counters> for Numbers {
    fn from(counters: Counters) -> Self {
        Self { execution: counters.next_id, fence: counters.next_fence, action: counters.next_action }
    }
}

impl From<Numbers> for Counters {
    fn from(numbers: Numbers) -> Self {
        Self { next_id: numbers.execution, next_fence: numbers.fence, next_action: numbers.action }
    }
}

impl Numbers {
    fn exceed(self, other: Self) -> bool {
        self.execution > other.execution || self.fence > other.fence || self.action > other.action
    }
}

/// The marks on the broker, at most a few, and what they come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<Mark>);

impl Mark {
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn batch(&self) -> i64 {
        self.batch
    }

    /// Which copy of the journal it is of.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// What may be given once the broker has it.
    pub fn reserved(&self) -> Counters {
        self.reserved.into()
    }
}

impl Marks {
    /// What was found on the broker.
    pub fn of(marks: Vec<Mark>) -> Self {
        Self(marks)
    }

    /// Fails if another leader that counts beside the one of `own` has left a mark, or if the reading tells nothing, since
    /// `own` is not among them.
    pub fn beside(&self, own: &Mark) -> Result<(), Unmarked> {
        if let Some(foreign) = self.0.iter().find(|other| is_foreign(other, own)) {
            return Err(Unmarked::Foreign(format!(
                "another leader has left a mark of epoch {} on the broker; this one is of epoch {}",
                foreign.epoch, own.epoch
            )));
        }
        let is_own = |mark: &Mark| mark.epoch == own.epoch && mark.site == own.site;
        if self.0.iter().any(is_own) { Ok(()) } else { Err(Unmarked::Gone) }
    }

    pub(crate) fn newest(&self) -> Option<&Mark> {
        self.0.iter().max_by_key(|mark| (mark.journal.generation, mark.epoch, mark.batch))
    }

    /// No number from these on was given.
    pub fn reserved(&self) -> Counters {
        let all = |number: fn(&Mark) -> i64| self.0.iter().map(number).max().unwrap_or_default();
        Counters {
            next_id: all(|mark| mark.reserved.execution),
            next_fence: all(|mark| mark.reserved.fence),
            next_action: all(|mark| mark.reserved.action),
        }
    }

    /// The next execution by the newest of what was committed, as far as any mark tells.
    pub(crate) fn next_execution(&self) -> i64 {
        self.0.iter().map(|mark| mark.next.execution).max().unwrap_or_default()
    }

    /// The highest generation of the journal that was led on.
    pub(crate) fn generation(&self) -> u64 {
        self.0.iter().map(|mark| mark.journal.generation).max().unwrap_or_default()
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.0.iter().map(|mark| mark.lease_ms).max().unwrap_or_default())
    }

    /// The highest epoch of any of them.
    pub fn epoch(&self) -> Epoch {
        self.0.iter().map(|mark| mark.epoch).max().unwrap_or_default()
    }

    fn retired(&self) -> Vec<String> {
        let mut retired: Vec<String> = Vec::new();
        for site in self.0.iter().flat_map(|mark| &mark.retired) {
            if !retired.contains(site) {
                retired.push(site.clone());
            }
        }
        retired
    }

    /// Holds the journal against the marks. `witness` is what this process itself knows. `is_private`: the broker is of
    /// this process, so that neither marks nor workers are older.
    pub fn judge(
        &self,
        standing: &Standing,
        witness: Option<Witness>,
        is_private: bool,
    ) -> Result<Judgement, Superseded> {
        let is_other = self.newest().is_some_and(|mark| mark.site != standing.site);
        if is_other && self.retired().contains(&standing.site) {
            return Err(Superseded);
        }
        Ok(self.judge_in_use(standing, witness, is_private))
    }

    /// Of the copy of the journal that is in use.
    fn judge_in_use(&self, standing: &Standing, witness: Option<Witness>, is_private: bool) -> Judgement {
        let Standing { lineage, former, site, .. } = standing;
        if let Some(doubt) = standing.doubt.as_ref().filter(|doubt| !doubt.is_empty()) {
            return Judgement::Doubted(doubt.clone());
        }
        let is_new = *former == (Epoch(0), 0);
        let Some(mark) = self.newest() else {
            let is_sound = is_new || is_private;
            let reason = "the broker has no mark of this journal: it was emptied, or the installation has moved here from \
                          another broker, where requests may have been left";
            return if is_sound { Judgement::Sound { skips: false } } else { Judgement::Doubted(reason.to_owned()) };
        };
        let doubted = |reason: String| Judgement::Doubted(reason);
        if mark.journal.identity != lineage.identity {
            return doubted("another journal was led on with this broker before".to_owned());
        }
        if mark.journal.generation < lineage.generation {
            // It was settled, and its leader did not live to leave the mark of it.
            return Judgement::Sound { skips: true };
        }
        if mark.journal.generation > lineage.generation {
            return doubted("it is from before it was last found older than the world".to_owned());
        }
        if (mark.epoch, mark.batch) > *former {
            let ((ours, batch), theirs) = (*former, mark.epoch);
            return doubted(format!(
                "it ends with batch {batch} of epoch {ours}, and batch {} of epoch {theirs} was committed",
                mark.batch
            ));
        }
        if mark.next.exceed(standing.counters.into()) {
            return doubted("it has not given numbers that were given".to_owned());
        }
        // Every leader leaves a mark before it gives anything, so that no leader gave anything after the one of this mark.
        let is_proven = witness.is_some_and(|witness| {
            witness.journal.identity == lineage.identity && witness.epoch == former.0 && witness.batch <= former.1
        });
        if mark.epoch == former.0 && (mark.is_last || is_proven) {
            // The copy that was led on may yet commit what was on its way there as its leader went: a server that stood still
            // does. Nothing of that leaves, and its numbers are not given again.
            return Judgement::Sound { skips: mark.site != *site };
        }
        if mark.site != *site {
            return doubted(
                "it is not the database that was led on last: a dump was restored, a replica promoted, or the table made \
                 anew"
                    .to_owned(),
            );
        }
        if mark.log > standing.log {
            return doubted("the log of the database is behind where it was".to_owned());
        }
        Judgement::Sound { skips: mark.life != standing.life }
    }
}

/// Why a leader may not go on giving numbers.
#[derive(Debug, thiserror::Error)]
pub enum Unmarked {
    /// Another leads, on this journal or on a copy of it.
    #[error("{0}")]
    Foreign(String),
    #[error("the broker did not take the mark of the journal: {0}")]
    Refused(#[from] PublishError),
    #[error("the marks of the journal can't be read: {0}")]
    Unread(#[from] Error),
    #[error("the mark that was left last is not there any more: something empties the queue of the marks")]
    Gone,
    #[error("there is no session with the broker")]
    NoSession,
    #[error("the broker did not take the mark within {0:?}")]
    Late(Duration),
}

/// Whether another leader that counts left this mark.
fn is_foreign(other: &Mark, own: &Mark) -> bool {
    other.epoch > own.epoch
        || other.epoch == own.epoch && other.site != own.site
        || other.journal.generation > own.journal.generation
        || other.retired.contains(&own.site)
}
