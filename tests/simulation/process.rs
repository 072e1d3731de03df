//! Attempts as they truly run: a process under its shim, with its own deadline, whatever its worker believes.
//!
//! As `crates/worker/src/process/{shim,attempt}.rs` do it. A process that stands still with its machine does not run; one that
//! wakes past its deadline is killed before it does anything.

use std::time::Duration;

use slotline_protocol::Fence;
use slotline_protocol::message::AttemptKey;

use crate::chance::Chance;
use crate::clock::{Clock, MS, Micros, SECOND};
use crate::history::Fact;
use crate::plan::{Mistake, RUN_MAX};
use crate::stage::{Event, News, Stage};

/// What becomes due for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Spawn,
    Report,
    Finish,
    /// It did not heed its interruption in time, or heeds it now.
    Stop,
    Deadline,
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) worker: usize,
    /// The life of the worker that started it, and hears of it.
    pub(crate) life: u32,
    pub(crate) key: AttemptKey,
    pub(crate) fence: Fence,
    /// When it must be gone, by its machine's clock; `None` where the action runs on when isolated.
    deadline: Option<Duration>,
    phase: Phase,
    pub(crate) began_at: Micros,
    is_killed: bool,
    is_paused: bool,
    /// Its worker has too little of something to start it.
    is_short: bool,
    course: Course,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Spawning,
    Running,
    Gone,
}

/// What it does if nobody stops it; decided by the request and the attempt alone.
#[derive(Clone, Copy, Debug)]
struct Course {
    spawns: bool,
    runs_for: Micros,
    succeeds: bool,
    reports: u64,
    /// How long it takes to heed an interruption.
    heeds_after: Option<Micros>,
}

impl Course {
    fn of(stage: &Stage, number: usize, attempt: u32) -> Self {
        if let Some(runs_for) = stage.plans[number].runs_for {
            return Self { spawns: true, runs_for, succeeds: true, reports: 0, heeds_after: Some(MS) };
        }
        let number = stage.plans[number].number;
        let mut chance = Chance::of(stage.seed, 1_000 + ((number as u64) << 20) + u64::from(attempt));
        let runs_for = match chance.below(100) {
            0..70 => chance.spread(MS, 2 * SECOND),
            70..95 => chance.spread(SECOND, 20 * SECOND),
            _ => chance.between(RUN_MAX / 5, RUN_MAX),
        };
        Self {
            spawns: !chance.parts(stage.rates.spawn_fails),
            runs_for,
            succeeds: chance.percent(80),
            reports: chance.below(4),
            heeds_after: chance.percent(70).then(|| chance.spread(MS, 2 * SECOND)),
        }
    }
}

impl Process {
    /// Hands an attempt to a shim.
    pub(crate) fn start(
        stage: &mut Stage,
        index: usize,
        (worker, life): (usize, u32),
        (key, fence): (AttemptKey, Fence),
        deadline: Option<Duration>,
        number: usize,
    ) -> Self {
        let course = Course::of(stage, number, key.1);
        let delay =
            if stage.chance.percent(3) { stage.chance.spread(20 * MS, 4 * SECOND) } else { stage.chance.below(5 * MS) };
        stage.after(delay, Event::Process { process: index, step: Step::Spawn });
        let is_short = stage.chance.parts(stage.rates.is_short);
        Self {
            worker,
            life,
            key,
            fence,
            deadline,
            phase: Phase::Spawning,
            began_at: 0,
            is_killed: false,
            is_paused: false,
            is_short,
            course,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    pub(crate) fn step(&mut self, index: usize, step: Step, clock: Clock, stage: &mut Stage) {
        let again = |step| Event::Process { process: index, step };
        match (step, self.phase) {
            (_, Phase::Gone) => {}
            (Step::Spawn, Phase::Spawning) => {
                if self.is_short && !self.is_killed {
                    self.phase = Phase::Gone;
                    return self.tell(index, News::Unstarted, stage);
                }
                if self.is_killed || self.is_past(clock, stage) || !self.course.spawns {
                    self.phase = Phase::Gone;
                    return self.tell(index, News::Ended { succeeded: false }, stage);
                }
                self.phase = Phase::Running;
                self.began_at = stage.now;
                let (execution, attempt) = self.key;
                stage.record(Fact::Began { execution, attempt, fence: self.fence });
                self.tell(index, News::Started, stage);
                stage.after(self.course.runs_for, again(Step::Finish));
                for report in 1..=self.course.reports {
                    stage.after(self.course.runs_for * report / (self.course.reports + 1), again(Step::Report));
                }
                if let Some(deadline) = self.deadline {
                    stage.at(clock.when(deadline), again(Step::Deadline));
                }
            }
            (Step::Report, Phase::Running) => {
                let numbers = stage.chance.percent(50);
                self.tell(index, News::Told { numbers }, stage);
            }
            (Step::Finish, Phase::Running) => self.go(index, self.course.succeeds, stage),
            (Step::Stop, Phase::Running) => self.go(index, false, stage),
            (Step::Deadline, Phase::Running) => match self.deadline {
                Some(_) if self.is_past(clock, stage) => self.kill(index, stage),
                Some(deadline) if clock.boot(stage.now) < deadline => {
                    stage.at(clock.when(deadline), again(Step::Deadline));
                }
                Some(_) | None => {}
            },
            (Step::Spawn, Phase::Running)
            | (Step::Report | Step::Finish | Step::Stop | Step::Deadline, Phase::Spawning) => {}
        }
    }

    fn is_past(&self, clock: Clock, stage: &Stage) -> bool {
        stage.mistake != Some(Mistake::ShimIgnoresTheFence)
            && self.deadline.is_some_and(|deadline| clock.boot(stage.now) >= deadline)
    }

    /// Nothing of it is left.
    fn go(&mut self, index: usize, succeeded: bool, stage: &mut Stage) {
        let was_running = std::mem::replace(&mut self.phase, Phase::Gone) == Phase::Running;
        if was_running && !self.is_paused {
            let (execution, attempt) = self.key;
            stage.record(Fact::Ended { execution, attempt, fence: self.fence });
        }
        self.tell(index, News::Ended { succeeded }, stage);
    }

    fn tell(&self, process: usize, news: News, stage: &mut Stage) {
        stage.after(50, Event::Shim { worker: self.worker, life: self.life, process, news });
    }

    pub(crate) fn interrupt(&mut self, index: usize, grace: Duration, stage: &mut Stage) {
        let stop = Event::Process { process: index, step: Step::Stop };
        let grace = grace.as_micros() as u64;
        match (self.phase, self.course.heeds_after) {
            (Phase::Spawning, _) => self.is_killed = true,
            (Phase::Running, Some(after)) if after < grace => stage.after(after, stop),
            (Phase::Running, _) => stage.after(grace, stop),
            (Phase::Gone, _) => {}
        }
    }

    pub(crate) fn kill(&mut self, index: usize, stage: &mut Stage) {
        self.is_killed = true;
        // Now and then it takes its time, as what waits for a disk does.
        let delay =
            if stage.chance.percent(8) { stage.chance.spread(MS, 8 * SECOND) } else { stage.chance.below(2 * MS) };
        stage.after(delay, Event::Process { process: index, step: Step::Stop });
    }

    pub(crate) fn extend(&mut self, deadline: Duration) {
        self.deadline = self.deadline.map(|before| before.max(deadline));
    }

    /// The machine stands still, or has lost its power.
    pub(crate) fn pause(&mut self, stage: &mut Stage) {
        if self.phase == Phase::Running && !std::mem::replace(&mut self.is_paused, true) {
            let (execution, attempt) = self.key;
            stage.record(Fact::Ended { execution, attempt, fence: self.fence });
        }
    }

    pub(crate) fn resume(&mut self, index: usize, clock: Clock, stage: &mut Stage) {
        if self.phase != Phase::Running || !self.is_paused {
            return;
        }
        if self.is_past(clock, stage) {
            return self.go(index, false, stage);
        }
        self.is_paused = false;
        let (execution, attempt) = self.key;
        stage.record(Fact::Resumed { execution, attempt, fence: self.fence });
    }

    /// Gone without a word.
    pub(crate) fn vanish(&mut self, stage: &mut Stage) {
        self.pause(stage);
        self.phase = Phase::Gone;
    }
}
