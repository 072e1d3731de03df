//! The life of an attempt on its worker: started, followed, asked to end, ended, reported.

use std::collections::BTreeSet;
use std::time::Duration;

use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{AttemptKey, Event};

use super::entry::{Cause, Entry, FinalReport, REPEAT_AFTER, Run, Stage};
use super::verdict::{has_completed, judge};
use super::{AttemptOutput, Duty, Effect, Ending, Life, Now, Start, limit};

impl Duty {
    /// Starts an attempt that waits, if the latch allows it and there is room for what it will report.
    pub(super) fn start(&mut self, now: Now, key: AttemptKey, fx: &mut Vec<Effect>) {
        let Some(deadline) = self.fence_deadline().filter(|deadline| now.boot < *deadline) else { return };
        if self.is_congested {
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if !entry.is_waiting() {
            return;
        }
        entry.stage = Stage::Running(Run { heard_at: now.boot, ..Run::default() });
        fx.push(Effect::Start(Start {
            key,
            counts_as: entry.task.counts_as,
            fence: entry.task.fence,
            action_ref: entry.task.action_ref.clone(),
            parameters: entry.task.parameters.clone(),
            progress: entry.task.detail,
            deadline: (!entry.task.is_isolated_ok).then_some(deadline),
            correlation_id: entry.task.correlation_id.clone(),
            trace_id: entry.task.trace_id.clone(),
        }));
        self.running.insert(key);
        self.rearm(key);
    }

    /// Starts the attempts that wait for no predecessor, in the order of their grants.
    pub(super) fn start_ready(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let mut ready: Vec<_> = self
            .entries
            .values()
            .filter(|entry| matches!(entry.stage, Stage::Waiting { after: None, .. }))
            .map(|entry| (entry.task.fence, entry.task.key))
            .collect();
        ready.sort_unstable();
        for (_, key) in ready {
            self.start(now, key, fx);
        }
    }

    pub(super) fn congested(&mut self) {
        self.is_congested = true;
        self.rearm_running();
    }

    pub(super) fn uncongested(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.is_congested = false;
        self.rearm_running();
        self.start_ready(now, fx);
    }

    pub(super) fn started(&mut self, key: AttemptKey, at: Now, fx: &mut Vec<Effect>) {
        let (worker, incarnation) = (self.config.worker.clone(), self.incarnation_of(key));
        let Some(entry) = self.entry_mut(key) else { return };
        let Some(run) = entry.run_mut() else { return };
        if run.started.is_some() {
            return;
        }
        run.started = Some(at);
        run.heard_at = at.boot;
        fx.push(entry.running(&worker, incarnation, at.wall));
        fx.push(entry.event(Event::Started {}, at.wall));
        self.rearm(key);
    }

    pub(super) fn reported(&mut self, now: Now, key: AttemptKey, told: AttemptOutput, fx: &mut Vec<Effect>) {
        let Self { config, entries, formers, is_congested, .. } = self;
        let isolated = formers.iter_mut().find_map(|former| former.isolated.get_mut(&key));
        let Some(entry) = entries.get_mut(&key).or(isolated) else { return };
        let Some(run) = entry.run_mut() else { return };
        run.heard_at = now.boot;
        match told {
            AttemptOutput::Progress(mut report) => {
                if let Some(action) = config.actions.get(&entry.task.action_ref) {
                    entry.course.follow(&action.phases, &mut report);
                }
                entry.recent.told(&report);
                if let Some(said) = entry.pace.report(entry.task.detail, report, now.boot, !*is_congested) {
                    entry.say(said, now.wall, fx);
                }
            }
            AttemptOutput::Log { stream, lines } => {
                let missed = entry.pace.unsaid();
                entry.gap(missed, now.wall, fx);
                fx.push(entry.event(Event::Log { stream, lines }, now.wall));
            }
            AttemptOutput::Gap { count } => entry.pace.missed(count),
        }
        self.rearm(key);
    }

    pub(super) fn ended(&mut self, now: Now, key: AttemptKey, ending: Ending, fx: &mut Vec<Effect>) {
        let sizes = self.sizes;
        let Some(entry) = self.entry_mut(key) else { return };
        if entry.run().is_none() {
            return;
        }
        let ending = limit::fit(ending, sizes);
        let (return_code, at) = (ending.return_code, ending.ended_at);
        // Reported before the end is judged, so that its error shows these reports, too.
        if has_completed(entry, &ending)
            && let Some(report) = entry.course.complete()
            && let Some(said) = entry.pace.report(entry.task.detail, report, now.boot, true)
        {
            entry.say(said, at, fx);
        }
        while let Some(said) = entry.pace.flush(Duration::MAX, now.boot) {
            entry.say(said, at, fx);
        }
        let missed = entry.pace.unsaid();
        entry.gap(missed, at, fx);
        let word = judge(entry, ending);
        let message = match &word {
            Some(FinalReport::Completed(outcome)) => outcome.error.as_ref().map(|error| error.message.clone()),
            Some(FinalReport::Returned { reason, .. }) => Some((*reason).to_owned()),
            None => Some("the worker was isolated".to_owned()),
        };
        fx.push(entry.event(Event::Finished { return_code, message }, at));
        self.running.remove(&key);
        match word {
            Some(word) => self.conclude(now, key, word, fx),
            None => self.forget(key),
        }
    }

    /// An attempt is over: reports that, and starts or hands back the attempts that waited for it.
    pub(super) fn conclude(&mut self, now: Now, key: AttemptKey, word: FinalReport, fx: &mut Vec<Effect>) {
        if !self.entries.contains_key(&key) {
            return self.conclude_isolated(key, word);
        }
        let completed = matches!(&word, FinalReport::Completed(outcome) if outcome.status == OutcomeKind::Completed);
        let successors = self.close(now, key, word);
        if completed {
            // The hand-off comes before the report: the line waits for it.
            for successor in successors {
                self.release(now, successor, fx);
            }
            return self.tell_alive(now, key, fx);
        }
        self.tell_alive(now, key, fx);
        let mut left: Vec<_> = successors.into_iter().collect();
        while let Some(successor) = left.pop() {
            if self.entries.get(&successor).is_some_and(Entry::is_waiting) {
                let word = FinalReport::Returned { reason: "predecessor", started: false };
                left.extend(self.close(now, successor, word));
                self.tell_alive(now, successor, fx);
            }
        }
    }

    /// Notes how an attempt ended; returns the attempts that wait for it.
    pub(super) fn close(&mut self, now: Now, key: AttemptKey, word: FinalReport) -> BTreeSet<AttemptKey> {
        if let Some(entry) = self.entries.get_mut(&key) {
            if let Stage::Waiting { after: Some(predecessor), .. } = entry.stage
                && let Some(others) = self.successors.get_mut(&predecessor)
            {
                others.remove(&key);
            }
            entry.stage = Stage::Done { word, told: 0, repeat_at: now.boot + REPEAT_AFTER };
            self.rearm(key);
        }
        self.successors.remove(&key).unwrap_or_default()
    }

    /// The predecessor of a waiting attempt has completed.
    pub(super) fn release(&mut self, now: Now, key: AttemptKey, fx: &mut Vec<Effect>) {
        if let Some(Entry { stage: Stage::Waiting { after, .. }, .. }) = self.entries.get_mut(&key) {
            *after = None;
            self.start(now, key, fx);
        }
    }

    /// Hands back an attempt that waits; nothing if it does not.
    pub(super) fn hand_back(&mut self, now: Now, key: AttemptKey, reason: &'static str, fx: &mut Vec<Effect>) {
        if self.entries.get(&key).is_some_and(Entry::is_waiting) {
            self.conclude(now, key, FinalReport::Returned { reason, started: false }, fx);
        }
    }

    /// Reports how an attempt ended, unless the incarnation is over: then its farewell alone has that.
    pub(super) fn tell_alive(&mut self, now: Now, key: AttemptKey, fx: &mut Vec<Effect>) {
        if matches!(self.life, Life::Alive { .. }) {
            self.tell(now, key, fx);
        }
    }

    /// Reports how an attempt ended, and sets when to report it again.
    pub(super) fn tell(&mut self, now: Now, key: AttemptKey, fx: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(word) = entry.last_word(&self.config.worker, self.incarnation, now.boot) {
            fx.push(word);
            entry.told(now.boot);
            self.rearm(key);
        }
    }

    /// Reports all ends again that are not known to be recorded, in the order of the grants: in a chain the executor
    /// takes no end of an attempt before that of its predecessor.
    pub(super) fn tell_all(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let unrecorded = self.entries.values().filter(|entry| entry.word().is_some());
        let mut unrecorded: Vec<_> = unrecorded.map(|entry| (entry.task.fence, entry.task.key)).collect();
        unrecorded.sort_unstable();
        for (_, key) in unrecorded {
            self.tell(now, key, fx);
        }
    }

    /// Asks a running attempt to end. A cancellation outweighs every other reason; else the first one stays.
    pub(super) fn interrupt(
        &mut self,
        now: Now,
        key: AttemptKey,
        cause: Cause,
        grace: Option<Duration>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.entry_mut(key) else { return };
        let action_ref = entry.task.action_ref.clone();
        let Some(run) = entry.run_mut() else { return };
        match (&run.cause, &cause) {
            (None, _) => run.cause = Some(cause),
            (Some(Cause::Cancelled { .. }), _) => return,
            (Some(_), Cause::Cancelled { .. }) => {
                run.cause = Some(cause);
                return;
            }
            (Some(_), _) => return,
        }
        let own = self.config.actions.get(&action_ref).map(|action| action.grace);
        let grace = grace.or(own).unwrap_or_default();
        if let Some(run) = self.entry_mut(key).and_then(Entry::run_mut) {
            run.kill_at = Some(now.boot + grace);
        }
        fx.push(Effect::Interrupt { key, grace });
        self.rearm(key);
    }
}
