//! What may happen next in a world: what somebody has to do, what may go wrong, and whether time may pass.

use crate::action::{Action, Place, Stall};
use crate::completion::TICKS_MAX;
use crate::rules::everything_is_settled;
use crate::worker::Stage;
use crate::world::{QUEUES, Scale, Troubles, World};

impl World {
    pub(crate) fn actions(&self, scale: &Scale, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        match self.detours {
            Some(_) if self.now >= scale.horizon => actions.extend(self.turn_to_the_end(scale)),
            Some(detours) => {
                self.turns(detours, actions);
                self.troubles(actions);
            }
            None => {
                self.duties(actions);
                let may_time_pass = self.now < scale.horizon && !actions.iter().any(|action| is_urgent(*action));
                self.troubles(actions);
                actions.extend(may_time_pass.then_some(Action::Tick));
            }
        }
    }

    /// What may happen next where only so many steps may be taken out of turn. Whoever can act does so before anything
    /// happens of which nobody knows when.
    fn turns(&self, detours: u8, actions: &mut Vec<Action>) {
        self.duties(actions);
        match actions.iter().position(|action| is_urgent(*action)) {
            None => actions.push(Action::Tick),
            Some(_) if detours > 0 => {}
            Some(first) => {
                actions.swap(0, first);
                actions.truncate(1);
            }
        }
    }

    /// Counts a step if it is taken out of turn.
    pub(crate) fn count_detour(&mut self, scale: &Scale, action: Action) {
        let Some(detours) = self.detours.filter(|detours| *detours > 0 && self.now < scale.horizon) else { return };
        let mut duties = Vec::new();
        self.duties(&mut duties);
        let first = duties.iter().find(|action| is_urgent(**action));
        if first.is_some_and(|first| *first != action && duties.contains(&action)) {
            self.detours = Some(detours - 1);
        }
    }

    /// The one step that follows where nothing goes wrong any more; none once everything is settled, or takes too long.
    fn turn_to_the_end(&self, scale: &Scale) -> Option<Action> {
        let is_over = everything_is_settled(self) || self.now >= scale.horizon + TICKS_MAX;
        (!is_over).then(|| self.fair_turn())
    }

    /// What comes next when everybody gets a turn: time passes when nobody has anything left to do.
    pub(crate) fn fair_turn(&self) -> Action {
        let mut duties = Vec::new();
        self.duties(&mut duties);
        duties.first().copied().unwrap_or(Action::Tick)
    }

    /// What somebody has to do, sooner or later, in the order in which a world where nothing goes wrong does it.
    pub(crate) fn duties(&self, actions: &mut Vec<Action>) {
        (0..self.executors.len()).for_each(|e| self.duties_of_executor(e, actions));
        if !self.has_leader() {
            actions.extend((0..self.executors.len()).filter(|e| self.may_take_over(*e)).map(Action::TakeOver));
        }
        (0..self.workers.len()).for_each(|w| self.duties_of_worker(w, actions));
    }

    fn duties_of_executor(&self, e: usize, actions: &mut Vec<Action>) {
        let executor = &self.executors[e];
        let is_frozen = executor.stall == Some(Stall::Frozen);
        actions.extend(executor.stall.map(|_| Action::ResumeExecutor(e)));
        let Some(term) = &executor.term else { return };
        if term.flight.is_some() {
            // It is the journal that decides.
            actions.push(Action::Commit(e));
        }
        if term.epoch < self.journal.epoch {
            // Whatever else it did, nothing of that could leave it: see `depose`.
            actions.extend((!is_frozen).then_some(Action::StandDown(e)));
            return;
        }
        if executor.stall.is_none() {
            let queues = QUEUES.into_iter().filter(|queue| !term.queued(*queue).is_empty());
            actions.extend(queues.map(|queue| Action::Hear(e, queue)));
        }
        if !is_frozen && executor.is_due(self.now) {
            actions.push(Action::Alarm(e));
        }
    }

    fn duties_of_worker(&self, w: usize, actions: &mut Vec<Action>) {
        let worker = &self.workers[w];
        let is_frozen = worker.stall == Some(Stall::Frozen);
        actions.extend(worker.stall.map(|_| Action::ResumeWorker(w)));
        if worker.stall.is_none() && !worker.confirms.is_empty() {
            actions.push(Action::Confirm(w));
        }
        if worker.stall.is_none() && worker.is_up() && !worker.orders.is_empty() {
            actions.push(Action::Obey(w));
        }
        if !is_frozen && worker.is_due(self.now) {
            actions.push(Action::Wake(w));
        }
        for (fence, process) in worker.processes.iter().filter(|_| !is_frozen) {
            match process.stage {
                Stage::Gone => actions.push(Action::Reap(w, *fence)),
                Stage::Killed => actions.extend([Action::Reap(w, *fence), Action::End(w, *fence)]),
                Stage::Running | Stage::Orphan => actions.push(Action::End(w, *fence)),
            }
        }
        if !worker.is_up() {
            if worker.processes.is_empty() {
                actions.push(Action::Restart { worker: w, has_proof: true });
            }
            actions.push(Action::Restart { worker: w, has_proof: false });
        }
    }

    fn troubles(&self, actions: &mut Vec<Action>) {
        let Troubles { crashes, coups, losses, cuts, stalls } = self.troubles;
        for (e, executor) in self.executors.iter().enumerate() {
            if crashes > 0 && (executor.term.is_some() || !executor.outgoing.is_empty()) {
                actions.push(Action::CrashExecutor(e));
            }
            if coups > 0 && self.has_leader() && self.may_take_over(e) {
                actions.push(Action::TakeOver(e));
            }
            let Some(term) = &executor.term else { continue };
            if stalls > 0 && executor.stall.is_none() {
                actions.extend([Stall::Frozen, Stall::CutOff].map(|stall| Action::StallExecutor(e, stall)));
            }
            if cuts > 0 {
                actions.push(Action::CutExecutor(e));
                if term.flight.is_some() && term.epoch == self.journal.epoch {
                    let lost = |is_committed| Action::LoseAnswer { executor: e, is_committed };
                    actions.extend([true, false].map(lost));
                }
            }
            if losses > 0 {
                for queue in QUEUES.into_iter().filter(|queue| !term.queued(*queue).is_empty()) {
                    let place = Place::Leader(e, queue);
                    actions.extend([Action::Drop(place), Action::Copy(place)]);
                }
            }
        }
        for (w, worker) in self.workers.iter().enumerate().filter(|(_, worker)| worker.is_up()) {
            if crashes > 0 {
                actions.push(Action::CrashWorker(w));
            }
            if stalls > 0 && worker.stall.is_none() {
                actions.extend([Stall::Frozen, Stall::CutOff].map(|stall| Action::StallWorker(w, stall)));
            }
            if cuts > 0 {
                actions.push(Action::CutWorker(w));
            }
            if losses > 0 && !worker.orders.is_empty() {
                let place = Place::Orders(w);
                actions.extend([Action::Drop(place), Action::Copy(place)]);
            }
        }
    }

    /// Of executors that are all alike the first will do.
    fn may_take_over(&self, e: usize) -> bool {
        let is_idle = |e: usize| self.executors[e].term.is_none() && self.executors[e].stall.is_none();
        let is_blank = |e: usize| is_idle(e) && self.executors[e].outgoing.is_empty();
        is_idle(e) && !(is_blank(e) && (0..e).any(is_blank))
    }
}

/// Whether time waits for it. Nobody knows how long an attempt takes, nor when somebody goes on, comes back or takes
/// over.
fn is_urgent(action: Action) -> bool {
    match action {
        Action::Commit(_)
        | Action::Hear(..)
        | Action::Alarm(_)
        | Action::StandDown(_)
        | Action::Confirm(_)
        | Action::Obey(_)
        | Action::Wake(_)
        | Action::Reap(..) => true,
        Action::Tick
        | Action::TakeOver(_)
        | Action::End(..)
        | Action::Restart { .. }
        | Action::StallExecutor(..)
        | Action::StallWorker(..)
        | Action::ResumeExecutor(_)
        | Action::ResumeWorker(_)
        | Action::CrashExecutor(_)
        | Action::CrashWorker(_)
        | Action::LoseAnswer { .. }
        | Action::CutExecutor(_)
        | Action::CutWorker(_)
        | Action::Drop(_)
        | Action::Copy(_) => false,
    }
}
