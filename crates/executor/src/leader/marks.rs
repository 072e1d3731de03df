//! What a leader makes of the journal, the marks that it leaves while it leads, and why it stands down or settles where
//! the journal went back.

use slotline_protocol::{ActionRef, ExecutionId, Policy, Timestamp, chain};
use slotline_scheduler::{Counters, DoubtView, Input};
use slotline_store::Rewind;

use super::mark::hand::{EVERY, LOOK_EVERY};
use super::mark::{Mark, Marks, Unmarked, Witness};
use super::office::StandDown;
use super::{Leader, LeaderAction};

/// The most workers and executions that a sentence names.
const NAMED_MAX: usize = 10;

impl<P> Leader<P> {
    /// Before the first input.
    pub(super) fn begin(&mut self) {
        self.scheduler.raise(self.office.from);
        self.scheduler.reserve(self.office.hand.confirmed());
        if self.office.doubt.is_some() {
            let settled = std::mem::take(&mut self.office.settled);
            self.scheduler.doubt(self.office.floor, self.office.lease, settled);
        }
    }

    /// Requests wait on the broker while numbers are short, and while there is doubt.
    pub(super) fn may_accept(&self) -> bool {
        let next = self.scheduler.counters().next_id;
        next + self.settings.bounds.numbers_per_turn <= self.office.hand.confirmed().next_id
            && self.office.doubt.is_none()
    }

    /// Leaves the first mark of a session that came after the one on which the leader began, while its queues are declared.
    pub(super) fn claim_in(&mut self, session: u64) {
        if self.office.doubt.is_none() && self.office.claimed_on != Some(session) {
            let mark = self.office.hand.first(self.scheduler.counters());
            self.out.push_back(LeaderAction::ClaimMark(Box::new(mark)));
        }
    }

    /// Leaves a mark that covers more numbers, if those that are left are few.
    fn renew_mark(&mut self) {
        if !self.can_mark() {
            return;
        }
        if let Some(mark) = self.office.hand.renewal(self.scheduler.counters()) {
            self.out.push_back(LeaderAction::RenewMark(Box::new(mark)));
        }
    }

    pub(super) fn marked(&mut self, marked: Result<Counters, Unmarked>, now: Timestamp) {
        self.looks_at = now + LOOK_EVERY;
        match marked {
            Ok(reserved) => {
                self.office.hand.renewed(Some(reserved));
                self.scheduler.reserve(reserved);
                self.apply(Input::Ticked, now);
            }
            Err(Unmarked::Foreign(reason)) => {
                self.evidence.get_or_insert((reason, self.epoch));
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "no mark of the journal was left; trying again");
                self.office.hand.renewed(None);
                if matches!(error, Unmarked::Gone) {
                    self.office.hand.found_nothing();
                }
                self.marked_at.get_or_insert(now);
            }
        }
    }

    pub(super) fn note_committed(&mut self, batch: i64, next: Counters, now: Timestamp) {
        if batch > self.office.hand.batch() {
            self.office.hand.committed(batch, next);
            self.marked_at.get_or_insert(now);
        }
        self.renew_mark();
    }

    /// When a mark of what was committed is due.
    fn mark_due(&self) -> Option<Timestamp> {
        self.marked_at.map(|since| since + EVERY)
    }

    /// When it leaves a mark, or looks at those of others.
    pub(super) fn next_mark(&self) -> Option<Timestamp> {
        let looks_at = self.can_mark().then_some(self.looks_at);
        [self.mark_due(), looks_at].into_iter().flatten().min()
    }

    fn can_mark(&self) -> bool {
        self.session.is_some() && self.office.doubt.is_none()
    }

    pub(super) fn leave_mark_if_due(&mut self, now: Timestamp) {
        if self.mark_due().is_some_and(|due| due <= now) {
            self.marked_at = None;
            if self.can_mark() && self.office.hand.may_leave() {
                let mark = self.office.hand.progress(false);
                self.out.push_back(LeaderAction::LeaveMark(Box::new(mark)));
            }
            self.renew_mark();
        }
        if self.can_mark() && self.looks_at <= now {
            self.looks_at = now + LOOK_EVERY;
            let mark = self.office.hand.look(self.scheduler.counters());
            self.out.extend(mark.map(|mark| LeaderAction::RenewMark(Box::new(mark))));
        }
    }

    /// Takes what the scheduler found out about the journal with the last input.
    pub(super) fn weigh_evidence(&mut self, now: Timestamp) {
        let Some(missing) = &self.scheduler.effects().missing else { return };
        if let Some(evidence) = &missing.evidence
            && self.evidence.is_none()
        {
            let (highest, above) = (evidence.highest, evidence.epoch.max(self.epoch));
            let reason = format!(
                "a worker shows execution {}, fence {} and epoch {}, which this journal has not given",
                highest.execution_id, highest.fence, evidence.epoch
            );
            self.evidence = Some((reason, above));
        }
        for action_ref in missing.unknown_actions.clone() {
            self.make_up(action_ref, now);
        }
    }

    /// A worker runs something of an action that the journal does not know: it is there again, paused, until an operator
    /// says what it is.
    fn make_up(&mut self, action_ref: ActionRef, now: Timestamp) {
        if self.action(&action_ref).is_some() {
            return;
        }
        tracing::error!(%action_ref, "a worker runs an action that this journal does not know; it is made up, paused, with one \
            slot: put its policy and resume it");
        let policy = Policy { limit: Some(1), ..Policy::default() };
        let reason = "a worker runs it, and this journal does not know it";
        if let Err(refused) = self.desk(now).make_up(action_ref, policy, reason) {
            tracing::error!(%refused, "the action can't be made up");
        }
    }

    /// Whether the term is over because of what is known of the journal by now.
    pub fn verdict(&self) -> Option<StandDown> {
        if let Some((reason, above)) = &self.evidence {
            return Some(StandDown::Doubted { reason: reason.clone(), above: *above });
        }
        self.office.doubt.as_ref()?;
        let is_quiet = self.under_way.is_empty() && !self.is_urgent;
        (is_quiet && self.scheduler.in_doubt()?.is_over).then_some(StandDown::Settled)
    }

    /// For people: why nothing is granted, until when at the soonest, and what is waited for.
    pub fn waits_in_doubt(&self) -> Option<String> {
        Some(waiting(self.office.doubt.as_ref()?, &self.scheduler.in_doubt()?))
    }

    /// What this leader knows of the journal by having led on it.
    pub fn witness(&self) -> Option<Witness> {
        let batch = self.office.hand.batch();
        let witness = Witness { journal: self.office.lineage, epoch: self.epoch, batch };
        self.office.doubt.is_none().then_some(witness)
    }

    /// To be left as the leader goes in good order.
    pub fn last_mark(&mut self) -> Option<Mark> {
        self.office.doubt.is_none().then(|| self.office.hand.progress(true))
    }

    /// How the journal goes on as it is: with higher numbers, as a new generation; and the mark of that. `marks` as they
    /// are now: a leader of another copy may have left one more before it saw the claim.
    pub fn settle(&mut self, marks: &Marks) -> Option<(Rewind, Mark)> {
        let view = self.scheduler.in_doubt()?;
        self.scheduler.raise(marks.reserved());
        let next = self.scheduler.counters();
        let recovered = &view.recovered;
        let shown = [
            self.office.next_execution.max(marks.next_execution()),
            view.shown.execution_id.0 + 1,
            recovered.last().map_or(0, |id| id.0 + 1),
            view.floor.next_id,
        ];
        let shown_id = ExecutionId(shown.into_iter().max().unwrap_or_default());
        let led = [self.office.lineage.generation, self.office.generation, marks.generation(), view.generation];
        let rewind = Rewind {
            generation: led.into_iter().max().unwrap_or_default() + 1,
            reason: self.office.doubt.clone().unwrap_or_default(),
            floor: view.floor,
            next,
            shown_id,
            recovered: recovered.clone(),
        };
        let mark = self.office.hand.settled(rewind.generation, next);
        Some((rewind, mark))
    }
}

fn waiting(reason: &str, view: &DoubtView) -> String {
    let until = view.until.map_or_else(|| "the broker is back".to_owned(), |until| until.to_string());
    let awaited = match &view.awaited[..] {
        [] => String::new(),
        workers => {
            let names: Vec<&str> = workers.iter().take(NAMED_MAX).map(slotline_protocol::WorkerName::as_str).collect();
            format!("; workers that have not told what they hold: {} ({})", workers.len(), names.join(", "))
        }
    };
    let recovered = match &view.recovered[..] {
        [] => String::new(),
        ids => {
            let names: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            format!("; executions that only workers knew: {} ({})", ids.len(), names.join(", "))
        }
    };
    format!(
        "nothing is granted, since the journal may be older than its workers: {reason}. Waits until {until}{awaited}{recovered}"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slotline_protocol::{Epoch, Sizes};
    use slotline_store::Recovered;

    use super::*;
    use crate::leader::mark::tests::{mark, standing};
    use crate::leader::{Bounds, Input, Judgement, LeaderSettings, Office, Quarantine};

    const EPOCH: Epoch = Epoch(6);

    /// A leader of [`standing`] with a session, which has claimed it.
    fn leader(now: Timestamp) -> Leader<()> {
        let (lease, heartbeat) = (Duration::from_secs(60), Duration::from_secs(5));
        let settings = LeaderSettings { lease, heartbeat, events_kept: 100, bounds: Bounds::default() };
        let (standing, sound) = (standing(), Judgement::Sound { skips: false });
        let recovered = Recovered {
            actions: Vec::new(),
            live: Vec::new(),
            ended: Vec::new(),
            counters: standing.counters,
            rewound_below: ExecutionId(0),
            generation: 1,
            stories: Vec::new(),
        };
        let office = Office::new(standing, &sound, EPOCH, lease, &Marks::of(vec![mark()]), &settings.bounds);
        let mut leader = Leader::new(EPOCH, settings, recovered, office, Quarantine::default(), lease, now);
        leader.handle(Input::SessionOpening { session: 1 }, now);
        let claim = actions(&mut leader).into_iter().find_map(|action| match action {
            LeaderAction::ClaimMark(mark) => Some(mark.reserved()),
            _ => None,
        });
        leader.handle(Input::Marked(Ok(claim.expect("it claims the journal"))), now);
        leader.handle(Input::SessionOpened { session: 1, sizes: Sizes::FULL }, now);
        leader
    }

    fn actions(leader: &mut Leader<()>) -> Vec<LeaderAction<()>> {
        std::iter::from_fn(|| leader.next_action()).collect()
    }

    fn looks(leader: &mut Leader<()>) -> usize {
        actions(leader).iter().filter(|action| matches!(action, LeaderAction::RenewMark(_))).count()
    }

    #[test]
    fn a_leader_to_which_nothing_happens_looks_for_the_leader_of_another_copy_all_the_same() {
        let begun = Timestamp::from_micros(1_000_000);
        let mut leader = leader(begun);
        leader.handle(Input::Ticked, begun + LOOK_EVERY / 2);
        assert_eq!(looks(&mut leader), 0);
        assert!(leader.next_deadline().is_some_and(|deadline| deadline <= begun + LOOK_EVERY));
        leader.handle(Input::Ticked, begun + LOOK_EVERY);
        assert_eq!(looks(&mut leader), 1);
        leader.handle(Input::Ticked, begun + LOOK_EVERY * 2);
        assert_eq!(looks(&mut leader), 0, "one look at a time");
        let found = Unmarked::Foreign("another leader has left a mark".to_owned());
        leader.handle(Input::Marked(Err(found)), begun + LOOK_EVERY * 2);
        assert!(matches!(leader.verdict(), Some(StandDown::Doubted { .. })));
    }
}
