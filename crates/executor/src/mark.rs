//! What outlives the journal: marks that leaders leave on the broker, and what a new leader reads from them.
//!
//! A mark says which journal is led on, how far it had come, and which numbers may have been given. A journal that falls
//! short of it was restored, promoted or rolled back: it is *doubted*, and nothing is granted before every worker that may
//! live has shown what it holds. No number is given that a confirmed mark does not cover, so none is given twice, whatever
//! the journal forgot.
//!
//! Not here: what a doubt means for executions (`slotline_scheduler`), and how it is remembered (`slotline_store`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotline_broker::{Error, Properties, Publication, PublishError, Receipt, Session, topology};
use slotline_protocol::message::Lineage;
use slotline_protocol::{Epoch, chain};
use slotline_scheduler::Counters;
use slotline_store::Standing;

/// Numbers of each kind that a leader may give by one mark. They are skipped only where the journal may have gone back.
/// With fewer than half of them left, the next mark is due.
pub(crate) const RESERVE: i64 = 20_000;
/// How far behind the commits the newest mark may be.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// The most copies of the journal that are remembered as superseded; the oldest is forgotten first.
const RETIRED_MAX: usize = 16;
/// The most marks that a leader leaves before it looks for those of others: few enough that the claim to another copy of the
/// journal is still in the queue then.
pub(crate) const UNLOOKED_MAX: u32 = topology::MARKS_MAX / 2 - 1;
/// How often a leader looks for its own mark before it gives up, and the wait in between: another process reads them all in a
/// few milliseconds.
const LOOKS_MAX: u32 = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The `type` of a mark, for people who look at the queue.
const TYPE: &str = "journal.mark";

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

    pub(crate) async fn read(session: &Session, prefix: &str) -> Result<Self, Error> {
        let browser = session.browse(&topology::marks_queue(prefix), MARKS_MAX).await?;
        let read = |body: &[u8]| match serde_json::from_slice(body) {
            Ok(mark) => Some(mark),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a mark of the journal on the broker can't be read");
                None
            }
        };
        let marks = browser.deliveries.iter().filter_map(|delivery| read(&delivery.body)).collect();
        browser.close().await?;
        Ok(Self(marks))
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

/// The most marks that are looked at: as many as the queue keeps.
const MARKS_MAX: usize = topology::MARKS_MAX as usize;

/// The hand of one leader: what it writes into its marks, and what it may give by them.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    mark: Mark,
    /// See [`RESERVE`] and [`UNLOOKED_MAX`].
    reserve: i64,
    unlooked_max: u32,
    /// Covered by a confirmed mark of this leader.
    confirmed: Numbers,
    /// Covered by the marks of those before it.
    inherited: Numbers,
    /// A mark that raises the reserve is on its way.
    is_renewing: bool,
    /// Marks that were left since those of others were read.
    unlooked: u32,
}

impl Hand {
    /// For the leader of `epoch`, which may give nothing before its first mark is confirmed.
    pub(crate) fn new(
        standing: &Standing,
        epoch: Epoch,
        lease: Duration,
        marks: &Marks,
        reserve: i64,
        unlooked_max: u32,
    ) -> Self {
        let next = Numbers::from(standing.counters);
        let mut retired = marks.retired();
        if let Some(mark) = marks.newest()
            && mark.journal.identity == standing.lineage.identity
            && mark.site != standing.site
            && !retired.contains(&mark.site)
        {
            retired.push(mark.site.clone());
        }
        retired.retain(|site| *site != standing.site);
        retired.drain(..retired.len().saturating_sub(RETIRED_MAX));
        let lease = lease.max(marks.lease());
        let mark = Mark {
            journal: standing.lineage,
            epoch,
            batch: 0,
            next,
            reserved: next,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            site: standing.site.clone(),
            life: standing.life.clone(),
            log: standing.log,
            retired,
            is_last: false,
        };
        let inherited = marks.reserved().into();
        Self { mark, reserve, unlooked_max, confirmed: next, inherited, is_renewing: false, unlooked: 0 }
    }

    /// What may be given by now.
    pub(crate) fn confirmed(&self) -> Counters {
        self.confirmed.into()
    }

    /// Notes what is committed.
    pub(crate) fn committed(&mut self, batch: i64, next: Counters) {
        self.mark.batch = batch;
        self.mark.next = next.into();
    }

    pub(crate) fn batch(&self) -> i64 {
        self.mark.batch
    }

    /// Whether it may leave another mark without a look at those of others, which its own would push out of the queue.
    pub(crate) fn may_leave(&self) -> bool {
        self.unlooked < self.unlooked_max
    }

    /// The mark of a whole reserve above `next`, if one is due and none is on its way. It is left with a look at the others.
    pub(crate) fn renewal(&mut self, next: Counters) -> Option<Mark> {
        let given = Numbers::from(next);
        let left = |of: fn(Numbers) -> i64| of(self.confirmed) - of(given);
        let least = left(|of| of.execution).min(left(|of| of.fence)).min(left(|of| of.action));
        let is_due = least < self.reserve / 2 || !self.may_leave();
        (is_due && !self.is_renewing).then(|| self.first(next))
    }

    /// The same for a new session, whatever is left.
    pub(crate) fn first(&mut self, next: Counters) -> Mark {
        self.is_renewing = true;
        let next = Numbers::from(next);
        let above = |number: i64, inherited: i64| number.saturating_add(self.reserve).max(inherited);
        self.mark.reserved = Numbers {
            execution: above(next.execution, self.inherited.execution),
            fence: above(next.fence, self.inherited.fence),
            action: above(next.action, self.inherited.action),
        };
        self.mark.clone()
    }

    /// The broker has a mark with this reserve, or did not take it.
    pub(crate) fn renewed(&mut self, reserved: Option<Counters>) {
        self.is_renewing = false;
        if let Some(reserved) = reserved {
            self.confirmed = reserved.into();
            self.unlooked = 1;
        }
    }

    /// The queue of the marks is empty: there is none that another one would push out.
    pub(crate) fn found_nothing(&mut self) {
        self.unlooked = 0;
    }

    /// How far it has come, within what is reserved; nothing waits for its confirm.
    pub(crate) fn progress(&mut self, is_last: bool) -> Mark {
        self.unlooked += 1;
        Mark { is_last, ..self.mark.clone() }
    }

    /// Of a leader in doubt, which gives nothing: this copy of the journal is led on, and others are not to be.
    pub(crate) fn claim(&self) -> Mark {
        Mark { reserved: self.inherited, ..self.mark.clone() }
    }

    /// The mark of a journal that was settled with these numbers, as this generation.
    pub(crate) fn settled(&self, generation: u64, next: Counters) -> Mark {
        let journal = Lineage { generation, ..self.mark.journal };
        Mark { journal, next: next.into(), reserved: next.into(), ..self.mark.clone() }
    }
}

/// A mark as it is left in its queue.
pub(crate) fn publication(prefix: &str, mark: &Mark) -> Publication {
    Publication {
        exchange: String::new(),
        routing_key: topology::marks_queue(prefix),
        body: serde_json::to_vec(mark).expect("a mark is plain data").into(),
        properties: Properties { message_type: Some(TYPE.to_owned()), ..Properties::default() },
        mandatory: true,
        persistent: true,
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

/// Leaves the first mark of a leader, or of a session, and looks then whether another leader has left one: of two that
/// begin at once at least one sees the other's. Returns what may be given then.
pub(crate) fn claim(
    session: &Session,
    prefix: &str,
    mark: Mark,
) -> impl Future<Output = Result<Counters, Unmarked>> + use<> {
    let receipt = session.publish(publication(prefix, &mark));
    let (session, prefix) = (session.clone(), prefix.to_owned());
    async move {
        receipt.await?;
        alone(&session, &prefix, &mark).await?;
        Ok(mark.reserved.into())
    }
}

/// Leaves `mark`, unless another leader has left one since. Returns what may be given then.
pub(crate) async fn renew(session: Session, prefix: String, mark: Mark) -> Result<Counters, Unmarked> {
    alone(&session, &prefix, &mark).await?;
    session.publish(publication(&prefix, &mark)).await?;
    Ok(mark.reserved.into())
}

/// Fails if another leader that counts beside the one of `own` has left a mark. While another process reads the marks they are
/// not there for this one, so that a reading tells something only if a mark of this leader is among them.
async fn alone(session: &Session, prefix: &str, own: &Mark) -> Result<(), Unmarked> {
    for _ in 0..LOOKS_MAX {
        match Marks::read(session, prefix).await?.beside(own) {
            Err(Unmarked::Gone) => tokio::time::sleep(LOOK_AGAIN).await,
            looked => return looked,
        }
    }
    Err(Unmarked::Gone)
}

/// Whether another leader that counts left this mark.
fn is_foreign(other: &Mark, own: &Mark) -> bool {
    other.epoch > own.epoch
        || other.epoch == own.epoch && other.site != own.site
        || other.journal.generation > own.journal.generation
        || other.retired.contains(&own.site)
}

/// Whether the broker has a publication of this module.
pub(crate) async fn is_left(receipt: Receipt) -> Result<(), PublishError> {
    receipt.await
}

/// What this process and its readers know of the doubt that its leader has.
#[derive(Debug, Default)]
pub(crate) struct Notice(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    doubt: Option<String>,
    witness: Option<Witness>,
}

impl Notice {
    /// Why nothing is granted now, and what is waited for.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.told().doubt.clone()
    }

    pub(crate) fn set_doubt(&self, doubt: Option<String>) {
        self.told().doubt = doubt;
    }

    pub(crate) fn witness(&self) -> Option<Witness> {
        self.told().witness
    }

    pub(crate) fn bear_witness(&self, witness: Witness) {
        self.told().witness = Some(witness);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use slotline_broker::topology::{Overflow, Queue};
    use slotline_broker::{Broker, Topology};

    use super::*;

    fn standing() -> Standing {
        let counters = Counters { next_id: 100, next_fence: 100, next_action: 3 };
        Standing {
            lineage: Lineage { identity: uuid::Uuid::from_u128(7), generation: 1 },
            former: (Epoch(5), 40),
            doubt: Some(String::new()),
            counters,
            floor: counters,
            settled: Vec::new(),
            lease: Duration::from_secs(60),
            site: "one".to_owned(),
            life: "first".to_owned(),
            log: 1_000,
        }
    }

    fn hand(standing: &Standing, epoch: Epoch, marks: &Marks) -> Hand {
        Hand::new(standing, epoch, Duration::from_secs(60), marks, RESERVE, UNLOOKED_MAX)
    }

    fn mark() -> Mark {
        let now = Standing { former: (Epoch(4), 9), ..standing() };
        let mut hand = hand(&now, Epoch(5), &Marks::default());
        hand.committed(40, Counters { next_id: 100, next_fence: 100, next_action: 3 });
        hand.mark.clone()
    }

    fn judge(change: impl FnOnce(&mut Standing, &mut Mark)) -> Judgement {
        let (mut standing, mut mark) = (standing(), mark());
        change(&mut standing, &mut mark);
        Marks(vec![mark]).judge(&standing, None, false).expect("there is one copy of it")
    }

    fn is_doubted(change: impl FnOnce(&mut Standing, &mut Mark)) -> bool {
        matches!(judge(change), Judgement::Doubted(_))
    }

    #[test]
    fn a_journal_that_has_all_that_its_last_leader_left_is_sound_and_skips_nothing() {
        assert_eq!(judge(|_, _| {}), Judgement::Sound { skips: false });
        assert_eq!(judge(|standing, _| standing.former.1 += 1), Judgement::Sound { skips: false });
        assert_eq!(judge(|_, mark| mark.batch -= 7), Judgement::Sound { skips: false });
    }

    #[test]
    fn a_journal_that_falls_short_of_a_mark_is_doubted() {
        assert!(is_doubted(|standing, _| standing.former.1 -= 1));
        assert!(is_doubted(|standing, _| standing.former.0 = Epoch(4)));
        assert!(is_doubted(|standing, _| standing.counters.next_fence -= 1));
        assert!(is_doubted(|_, mark| mark.journal.generation = 2));
        assert!(is_doubted(|standing, _| standing.log -= 1));
    }

    #[test]
    fn a_copy_of_the_journal_is_doubted_unless_it_is_proven_to_have_all() {
        assert!(is_doubted(|standing, _| standing.site = "other".to_owned()));
        let last = |standing: &mut Standing, mark: &mut Mark| {
            standing.site = "other".to_owned();
            mark.is_last = true;
        };
        let has_all = Judgement::Sound { skips: true };
        assert_eq!(judge(last), has_all, "but for what the other may yet commit");
        let witness = |batch| Witness { journal: standing().lineage, epoch: Epoch(5), batch };
        let copy = Standing { site: "other".to_owned(), ..standing() };
        let marks = Marks(vec![mark()]);
        assert_eq!(marks.judge(&copy, Some(witness(40)), false), Ok(has_all));
        assert!(matches!(marks.judge(&copy, Some(witness(41)), false), Ok(Judgement::Doubted(_))));
    }

    #[test]
    fn another_journal_or_a_broker_without_a_mark_is_doubted_unless_all_is_new() {
        assert!(is_doubted(|standing, _| standing.lineage.identity = uuid::Uuid::nil()));
        let none = Marks::default();
        assert!(matches!(none.judge(&standing(), None, false), Ok(Judgement::Doubted(_))));
        assert_eq!(none.judge(&standing(), None, true), Ok(Judgement::Sound { skips: false }));
        let new = Standing { former: (Epoch(0), 0), ..standing() };
        assert_eq!(none.judge(&new, None, false), Ok(Judgement::Sound { skips: false }));
    }

    #[test]
    fn a_server_that_was_restarted_with_its_leader_dead_costs_the_reserve_and_no_time() {
        assert_eq!(judge(|standing, _| standing.life = "second".to_owned()), Judgement::Sound { skips: true });
    }

    #[test]
    fn a_doubt_that_was_not_settled_goes_on() {
        let doubt = Some("a worker shows more".to_owned());
        let again = judge(|standing, _| standing.doubt = doubt.clone());
        assert_eq!(again, Judgement::Doubted("a worker shows more".to_owned()));
    }

    #[test]
    fn of_two_copies_only_the_one_that_was_led_on_last_is_led_on() {
        let old = standing();
        let new = Standing { site: "two".to_owned(), ..standing() };
        let marks = Marks(vec![mark()]);
        assert!(matches!(marks.judge(&new, None, false), Ok(Judgement::Doubted(_))));
        let claim = hand(&new, Epoch(6), &marks).claim();
        assert!(is_foreign(&claim, &mark()), "the leader on the old one stands down");
        let marks = Marks(vec![mark(), claim]);
        assert!(marks.judge(&old, None, false).is_err());
        let doubted = Standing { doubt: Some("a copy".to_owned()), ..new };
        assert!(matches!(marks.judge(&doubted, None, false), Ok(Judgement::Doubted(_))));
    }

    #[tokio::test]
    async fn of_two_leaders_that_begin_at_once_on_two_copies_at_least_one_stands_down() -> anyhow::Result<()> {
        let session = Broker::memory("p").open("test").await?;
        session
            .declare(&Topology { queues: vec![Queue::quorum(topology::marks_queue("p"))], ..Topology::default() })
            .await?;
        // Both have read the same marks, and both have the same epoch.
        let read = Marks(vec![mark()]);
        let hand_of = |site: &str| hand(&Standing { site: site.to_owned(), ..standing() }, Epoch(6), &read);
        let (mut sound, doubted) = (hand_of("one"), hand_of("other"));
        let next = Counters { next_id: 100, next_fence: 100, next_action: 3 };
        let renewal = sound.first(next);
        let (sound, doubted) =
            tokio::join!(claim(&session, "p", renewal.clone()), claim(&session, "p", doubted.claim()));
        let stands_down = |claimed: &Result<Counters, Unmarked>| matches!(claimed, Err(Unmarked::Foreign(_)));
        assert!(stands_down(&sound) || stands_down(&doubted), "{sound:?} {doubted:?}");
        // The one whose place the other took stands down in any case, also on its next session.
        let again = claim(&session, "p", renewal).await;
        assert!(stands_down(&again), "{again:?}");
        Ok(())
    }

    #[tokio::test]
    async fn the_claim_to_another_copy_is_found_however_many_marks_the_leader_of_this_one_leaves() -> anyhow::Result<()>
    {
        let session = Broker::memory("p").open("test").await?;
        let marks = Queue::quorum(topology::marks_queue("p")).bounded(topology::MARKS_MAX, Overflow::DropHead);
        session.declare(&Topology { queues: vec![marks], ..Topology::default() }).await?;
        let next = Counters { next_id: 100, next_fence: 100, next_action: 3 };
        let mut leader = hand(&standing(), Epoch(6), &Marks(vec![mark()]));
        let first = leader.first(next);
        leader.renewed(Some(claim(&session, "p", first.clone()).await?));
        // The other one may have a higher or the same epoch, and is silent while it waits for accounts.
        let other = Standing { site: "other".to_owned(), ..standing() };
        let other = hand(&other, Epoch(7), &Marks(vec![first])).claim();
        session.publish(publication("p", &other)).await?;
        for _ in 0..2 * topology::MARKS_MAX {
            if leader.may_leave() {
                session.publish(publication("p", &leader.progress(false))).await?;
            }
            if let Some(mark) = leader.renewal(next) {
                let renewed = renew(session.clone(), "p".to_owned(), mark).await;
                assert!(matches!(renewed, Err(Unmarked::Foreign(_))), "{renewed:?}");
                return Ok(());
            }
        }
        panic!("it never looked");
    }

    #[test]
    fn nothing_is_given_that_no_confirmed_mark_covers() {
        let next = Counters { next_id: 100, next_fence: 100, next_action: 3 };
        let mut hand = hand(&standing(), Epoch(6), &Marks::default());
        assert_eq!(hand.confirmed(), next, "nothing may be given");
        let mark = hand.renewal(next).expect("due");
        assert_eq!(hand.renewal(next), None, "one is on its way");
        assert_eq!(hand.confirmed(), next);
        hand.renewed(Some(mark.reserved.into()));
        assert_eq!(hand.confirmed().next_id, 100 + RESERVE);
        assert_eq!(hand.renewal(next), None, "enough is left");
        assert!(hand.renewal(Counters { next_fence: 100 + RESERVE / 2 + 1, ..next }).is_some());
    }
}
