//! The tasks of a run as a tree: each below the one that it is a part of, in the order in which they were first named.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::message::{Failure, Task, TaskStatus};

/// The most tasks of one attempt that are shown; further ones are only in the record.
pub const TASKS_MAX: usize = 200;
/// The most bytes of errors that the tree shows: past it, an error is shown without its details and stack trace.
const ERROR_BYTES_MAX: usize = 256 << 10;

/// What is shown of all tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tasks(Vec<TaskState>);

/// The state of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskState {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    /// `[done, total]` steps of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The tasks that are a part of it.
    #[serde(skip_serializing_if = "Tasks::is_empty")]
    pub tasks: Tasks,
}

impl Tasks {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, TaskState> {
        self.0.iter()
    }

    /// Each task with its depth, followed by the tasks that are a part of it.
    pub fn flat(&self) -> Vec<(usize, &TaskState)> {
        let mut flat = Vec::new();
        self.walk(0, &mut |depth, task| flat.push((depth, task)));
        flat
    }

    fn walk<'t>(&'t self, depth: usize, see: &mut impl FnMut(usize, &'t TaskState)) {
        for task in &self.0 {
            see(depth, task);
            task.tasks.walk(depth + 1, see);
        }
    }

    /// Merges a report of a task. A new task is put below its parent, or at the root if there is no such parent.
    pub fn take(&mut self, newer: &Task, at: Timestamp) {
        if self.find(&newer.name).is_none() {
            if self.flat().len() >= TASKS_MAX {
                return;
            }
            let state = TaskState { name: newer.name.clone(), ..TaskState::default() };
            match newer.parent.as_deref().and_then(|parent| self.find(parent)) {
                Some(parent) => parent.tasks.0.push(state),
                None => self.0.push(state),
            }
        }
        let error = newer.error.clone().map(|error| self.shown(error));
        let Some(task) = self.find(&newer.name) else { return };
        task.step = newer.step.or(task.step);
        if let Some(status) = newer.status {
            task.status = Some(status);
            task.error = None;
            match status {
                TaskStatus::Started => (task.start_time, task.end_time) = (Some(at), None),
                TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped => task.end_time = Some(at),
            }
        }
        task.error = error.or(task.error.take());
    }

    /// Whether the task has this status already.
    pub fn has(&self, name: &str, status: TaskStatus) -> bool {
        self.flat().iter().any(|(_, task)| task.name == name && task.status == Some(status))
    }

    fn find(&mut self, name: &str) -> Option<&mut TaskState> {
        for task in &mut self.0 {
            if task.name == name {
                return Some(task);
            }
            if let Some(found) = task.tasks.find(name) {
                return Some(found);
            }
        }
        None
    }

    fn shown(&self, error: Failure) -> Failure {
        let bytes = |error: &Failure| serde_json::to_vec(error).map_or(0, |json| json.len());
        let before: usize = self.flat().iter().filter_map(|(_, task)| task.error.as_ref()).map(bytes).sum();
        if before + bytes(&error) <= ERROR_BYTES_MAX {
            return error;
        }
        Failure { stack_trace: None, details: None, ..error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn task(name: &str, parent: Option<&str>, status: TaskStatus) -> Task {
        Task { name: name.to_owned(), parent: parent.map(str::to_owned), status: Some(status), ..Task::default() }
    }

    fn shown(tasks: &Tasks) -> Vec<String> {
        let line = |(depth, task): (usize, &TaskState)| {
            let status = task.status.map_or("", TaskStatus::as_str);
            format!("{}{} {status}", "  ".repeat(depth), task.name)
        };
        tasks.flat().into_iter().map(line).collect()
    }

    #[test]
    fn tasks_stand_below_the_one_they_are_a_part_of_in_the_order_of_their_names() {
        let mut tasks = Tasks::default();
        tasks.take(&task("build", None, TaskStatus::Started), at(1));
        tasks.take(&task("compile", Some("build"), TaskStatus::Started), at(2));
        tasks.take(&task("deploy", Some("nowhere"), TaskStatus::Skipped), at(3));
        let failed = Task { error: Some(Failure::new("no_disk", "it is full")), step: Some((2, 7)), ..Task::default() };
        tasks.take(&Task { name: "compile".to_owned(), status: Some(TaskStatus::Failed), ..failed }, at(4));
        assert_eq!(shown(&tasks), ["build started", "  compile failed", "deploy skipped"]);
        let compile = tasks.find("compile").expect("it is known");
        assert_eq!((compile.start_time, compile.end_time, compile.step), (Some(at(2)), Some(at(4)), Some((2, 7))));
        assert_eq!(compile.error.as_ref().map(|error| error.code.as_str()), Some("no_disk"));
        tasks.take(&task("compile", None, TaskStatus::Started), at(5));
        let compile = tasks.find("compile").expect("it is known");
        assert_eq!((compile.start_time, compile.end_time, &compile.error), (Some(at(5)), None, &None), "tried again");
    }

    #[test]
    fn there_are_no_more_than_so_many_tasks_and_bytes_of_their_errors() {
        let mut tasks = Tasks::default();
        for n in 0..TASKS_MAX + 5 {
            let error = Failure { stack_trace: Some("x".repeat(64 << 10)), ..Failure::new("boom", "it went off") };
            let failed = task(&n.to_string(), None, TaskStatus::Failed);
            tasks.take(&Task { error: Some(error), ..failed }, at(1));
        }
        assert_eq!(tasks.iter().len(), TASKS_MAX);
        assert!(serde_json::to_vec(&tasks).expect("plain data").len() < ERROR_BYTES_MAX + (64 << 10));
        let last = tasks.iter().last().and_then(|task| task.error.as_ref());
        assert_eq!(last.map(|error| (error.code.as_str(), error.stack_trace.as_deref())), Some(("boom", None)));
    }
}
