//! The events of an execution with nothing but a wait, one start and its end: derived from its row.
//!
//! Not here: executions with a story of their own (`events`).

use slotline_protocol::record::{Event, What};
use slotline_protocol::{Status, Timestamp, http};

/// The events of a plain execution, from its row, from number 1 on. A step whose time is not known is left out.
pub fn plain(execution: &http::Execution) -> Vec<Event> {
    let mut told = Told { execution, events: Vec::with_capacity(6) };
    let (attempt, worker) = (execution.attempt, &execution.worker);
    let status = |previous, new, worker| What::Status { previous, new, worker };
    told.at(Some(execution.enqueued_at), 0, status(Status::Requested, Status::Queued, None));
    told.at(execution.scheduled_at, attempt, status(Status::Queued, Status::Scheduled, worker.clone()));
    told.at(execution.start_time, attempt, status(Status::Scheduled, Status::Running, worker.clone()));
    told.at(execution.start_time, attempt, What::Started);
    // An execution that never started did not finish either; it settled.
    let finished = execution.start_time.and(execution.end_time).filter(|_| execution.status.is_terminal());
    let message = execution.error.as_ref().map(|error| error.message.clone());
    told.at(finished, attempt, What::Finished { outcome: execution.status.outcome(), return_code: None, message });
    let number = told.next();
    let before = execution.start_time.map(|_| Status::Running).or(execution.scheduled_at.map(|_| Status::Scheduled));
    told.events.extend(settled(execution, before.unwrap_or(Status::Queued), number));
    told.events
}

/// The event that settles an execution, if its row has an end; for any execution, plain or not. `previous` is the
/// status before its end.
pub(crate) fn settled(execution: &http::Execution, previous: Status, number: u64) -> Option<Event> {
    let at = execution.end_time.filter(|_| execution.status.is_terminal())?;
    let (result, error) = (execution.result.clone(), execution.error.clone());
    let what = What::Settled { previous, status: execution.status, result, error };
    Some(event(execution, number, at, execution.attempt, what))
}

struct Told<'e> {
    execution: &'e http::Execution,
    events: Vec<Event>,
}

impl Told<'_> {
    fn at(&mut self, time: Option<Timestamp>, attempt: u32, what: What) {
        let number = self.next();
        self.events.extend(time.map(|time| event(self.execution, number, time, attempt, what)));
    }

    fn next(&self) -> u64 {
        self.events.last().map_or(1, |last| last.number + 1)
    }
}

fn event(execution: &http::Execution, number: u64, timestamp: Timestamp, attempt: u32, what: What) -> Event {
    let (execution_id, action_ref) = (execution.execution_id, execution.action_ref.clone());
    Event { execution_id, action_ref, number, attempt, timestamp, what }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use serde_json::value::RawValue;
    use slotline_protocol::message::Failure;
    use slotline_protocol::record::Newest;
    use slotline_protocol::{ActionId, ActionRef, Detail, ExecutionId, WorkerName};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn raw(json: &str) -> Arc<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON").into()
    }

    /// Waits in line since second 1.
    pub(crate) fn waiting() -> http::Execution {
        http::Execution {
            execution_id: ExecutionId(7),
            action_id: ActionId(1),
            action_ref: ActionRef::new("demo.echo").expect("a name"),
            status: Status::Queued,
            attempt: 0,
            grant: 0,
            concurrency_key: None,
            parameters: raw("{}"),
            timeout_seconds: None,
            timeout_from: http::TimeoutFrom::Default,
            progress_detail: Detail::Default,
            message_id: None,
            correlation_id: None,
            trace_id: None,
            source: None,
            enqueued_at: at(1),
            scheduled_at: None,
            start_time: None,
            end_time: None,
            worker: None,
            fence: None,
            result: None,
            error: None,
            position: None,
            waiting: None,
            progress: None,
            progress_events: Newest::default(),
            earlier_attempts: Vec::new(),
            awaits_events: false,
        }
    }

    fn scheduled() -> http::Execution {
        let worker = Some(WorkerName::new("worker-1").expect("a name"));
        http::Execution { status: Status::Scheduled, attempt: 1, scheduled_at: Some(at(2)), worker, ..waiting() }
    }

    pub(crate) fn completed() -> http::Execution {
        let (start_time, end_time) = (Some(at(3)), Some(at(4)));
        let result = Some(raw(r#"{"n": 1.10}"#));
        http::Execution { status: Status::Completed, start_time, end_time, result, ..scheduled() }
    }

    /// Second, attempt and kind of each event, after a check of their numbers.
    fn told(execution: &http::Execution) -> Vec<(i64, u32, String)> {
        let events = plain(execution);
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "numbers have no gap");
        let said = |what: &What| match what {
            What::Status { previous, new, worker } => {
                format!(
                    "{previous} to {new}{}",
                    worker.as_ref().map_or(String::new(), |worker| format!(" at {worker}"))
                )
            }
            What::Finished { outcome, return_code: None, message } => {
                let outcome = outcome.expect("it has one");
                format!("finished {outcome}{}", message.as_ref().map_or(String::new(), |text| format!(": {text}")))
            }
            What::Settled { previous, status, result, error } => {
                assert!(result.is_none() || error.is_none());
                format!(
                    "settled {previous} to {status}{}",
                    result.as_ref().map_or(String::new(), |result| format!(" {result}"))
                )
            }
            other => other.kind().as_str().to_owned(),
        };
        events.iter().map(|e| (e.timestamp.as_micros() / 1_000_000, e.attempt, said(&e.what))).collect()
    }

    fn lines(expected: &[(i64, u32, &str)]) -> Vec<(i64, u32, String)> {
        expected.iter().map(|&(second, attempt, text)| (second, attempt, text.to_owned())).collect()
    }

    #[test]
    fn a_waiting_execution_tells_that_it_was_queued() {
        assert_eq!(told(&waiting()), lines(&[(1, 0, "requested to queued")]));
    }

    #[test]
    fn a_scheduled_one_tells_its_worker() {
        let expected = lines(&[(1, 0, "requested to queued"), (2, 1, "queued to scheduled at worker-1")]);
        assert_eq!(told(&scheduled()), expected);
    }

    #[test]
    fn a_running_one_tells_its_start_and_no_end() {
        let running = http::Execution { status: Status::Running, start_time: Some(at(3)), ..scheduled() };
        let expected = lines(&[
            (1, 0, "requested to queued"),
            (2, 1, "queued to scheduled at worker-1"),
            (3, 1, "scheduled to running at worker-1"),
            (3, 1, "started"),
        ]);
        assert_eq!(told(&running), expected);
    }

    #[test]
    fn a_completed_one_tells_all_and_its_result_as_it_was_written() {
        let expected = lines(&[
            (1, 0, "requested to queued"),
            (2, 1, "queued to scheduled at worker-1"),
            (3, 1, "scheduled to running at worker-1"),
            (3, 1, "started"),
            (4, 1, "finished completed"),
            (4, 1, r#"settled running to completed {"n": 1.10}"#),
        ]);
        assert_eq!(told(&completed()), expected);
    }

    #[test]
    fn a_failed_one_finishes_with_the_message_of_its_error() {
        let error = Some(Failure::new("exit_status", "ended with 3"));
        let failed = http::Execution { status: Status::Failed, result: None, error, ..completed() };
        let told = told(&failed);
        assert_eq!(told[4], (4, 1, "finished failed: ended with 3".to_owned()));
        assert_eq!(told[5], (4, 1, "settled running to failed".to_owned()));
    }

    #[test]
    fn one_cancelled_in_line_only_waited_and_settled() {
        let cancelled = http::Execution { status: Status::Cancelled, end_time: Some(at(9)), ..waiting() };
        assert_eq!(told(&cancelled), lines(&[(1, 0, "requested to queued"), (9, 0, "settled queued to cancelled")]));
    }

    #[test]
    fn one_that_never_started_settles_without_having_finished() {
        let never = http::Execution { status: Status::Timeout, end_time: Some(at(9)), ..scheduled() };
        let expected = lines(&[
            (1, 0, "requested to queued"),
            (2, 1, "queued to scheduled at worker-1"),
            (9, 1, "settled scheduled to timeout"),
        ]);
        assert_eq!(told(&never), expected);
    }
}
