//! The attempts of a worker: what their shims report, and what is done to them.

use slotline_protocol::message::{Failure, Report};
use slotline_worker::driver::AttemptAction;
use slotline_worker::duty::{AttemptOutput, Ending, Input, Now, Shortage};

use super::{Memory, Worker};
use crate::process::Process;
use crate::stage::{News, Stage};

impl Worker {
    /// What a shim has to say.
    pub(crate) fn told(&mut self, process: usize, news: News, processes: &mut Vec<Process>, stage: &mut Stage) {
        let (key, began_at) = (processes[process].key, processes[process].began_at);
        let input = match news {
            News::Started => {
                let clock = self.plan.clock;
                Input::Started { key, at: Now { boot: clock.boot(began_at), wall: clock.wall(began_at) } }
            }
            News::Told { numbers } => {
                let report = Report {
                    progress: numbers.then_some((stage.now, None)),
                    message: (!numbers).then(|| "it goes on".to_owned()),
                    ..Report::default()
                };
                Input::Reported { key, event: AttemptOutput::Progress(report) }
            }
            News::Unstarted => Input::Unstarted { key, shortage: Shortage::Processes },
            News::Ended { succeeded } => {
                let result = if succeeded { Ok(self.null.clone()) } else { Err(Failure::new("exit_status", "1")) };
                let ended_at = self.now(stage).wall;
                let return_code = Some(i32::from(!succeeded));
                Input::Ended { key, ending: Ending { result, left: None, return_code, ended_at } }
            }
        };
        if let (News::Unstarted | News::Ended { .. }, Some(memory)) = (news, &mut self.memory) {
            memory.live.remove(&key);
        }
        self.report(input, stage);
        self.turn(processes, stage);
    }

    pub(super) fn act(&mut self, attempt: AttemptAction, processes: &mut Vec<Process>, stage: &mut Stage) {
        let Some(Memory { live, .. }) = &mut self.memory else { return };
        match attempt {
            AttemptAction::Start(start) => {
                let number = start.parameters.0.get().parse().expect("a request's number");
                let index = processes.len();
                let owner = (self.index, self.life);
                let process = Process::start(stage, index, owner, (start.key, start.fence), start.deadline, number);
                processes.push(process);
                live.insert(start.key, index);
            }
            AttemptAction::Interrupt { key, grace } => {
                if let Some(index) = live.get(&key) {
                    processes[*index].interrupt(*index, grace, stage);
                }
            }
            AttemptAction::Kill { key } => {
                if let Some(index) = live.get(&key) {
                    processes[*index].kill(*index, stage);
                }
            }
            AttemptAction::Extend { deadline: Some(deadline) } => {
                for index in live.values() {
                    processes[*index].extend(deadline);
                }
            }
            // What is started from now on has a deadline of its own.
            AttemptAction::Extend { deadline: None } => {}
        }
    }
}
