//! Lines for people: a row of each, and pages of one, each at a cost that the length of a line does not raise. Nothing
//! here changes anything.

use std::sync::Arc;

use slotline_protocol::http::WorkerState;
use slotline_protocol::lines::{Holder, InLine, LinePage, LineRow, LineState, WorkerCounts};
use slotline_protocol::{ActionId, ExecutionId, Timestamp};

use crate::action::ActionLines;
use crate::execution::Execution;
use crate::key::LineKey;
use crate::line::{Line, Spot};
use crate::scheduler::Scheduler;
use crate::state::State;

/// The most lines of one action that are looked at for one answer.
pub(crate) const LINES_MAX: usize = 10_000;
/// The most live executions that are looked at for the oldest of an action with more lines.
const EXECUTIONS_MAX: usize = 10_000;

/// Which line of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichLine {
    /// The only one: keys do not matter.
    Only,
    /// That of the executions without a key.
    Keyless,
    Of(Arc<str>),
}

/// The action has no line of that kind: it has a line for each key, or only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherLines {
    pub has_keys: bool,
}

impl Scheduler {
    /// How the line of an action stands. Only the caller knows whether a limit is the declared one.
    pub fn line_row(&self, id: ActionId) -> Option<LineRow> {
        let action = self.actions.get(&id)?;
        let oldest = self.oldest_of(action).and_then(|id| self.executions.get(&id));
        Some(LineRow {
            action_ref: action.action_ref.clone(),
            state: self.line_state(action),
            waiting: action.queue_length() as u64,
            backing_off: action.backing_off.len() as u64,
            running: action.slots.len() as u64,
            limit: action.limits.limit,
            declared_limit: action.limits.limit,
            limit_override: None,
            key_limit: action.limits.key_limit,
            keys: if action.limits.key_limit.is_some() { action.lines.len() as u64 } else { 0 },
            oldest_enqueued_at: oldest.map(|oldest| oldest.enqueued_at),
            total_enqueued: action.total_enqueued,
            total_completed: action.total_completed,
            started: action.activity.started,
            failed: action.activity.failed,
            run_mean_seconds: action.activity.mean_seconds(),
            rates: None,
            history: Vec::new(),
        })
    }

    /// What a row of this action costs, in looks at lines.
    pub fn row_cost(&self, id: ActionId) -> usize {
        self.actions.get(&id).map_or(1, |action| 1 + action.lines.len().min(LINES_MAX))
    }

    fn line_state(&self, action: &ActionLines) -> LineState {
        let is_idle = action.queue_length() == 0;
        if action.paused {
            LineState::Paused
        } else if is_idle && action.slots.is_empty() {
            LineState::Idle
        } else if is_idle {
            LineState::Running
        } else if action.has_next() && self.pools.servers_of(action).is_empty() {
            LineState::Stuck
        } else {
            LineState::Waiting
        }
    }

    /// The execution of an action that has waited longest. Of an action with more than [`LINES_MAX`] lines it is looked
    /// for among the oldest of all executions first, and then among so many lines.
    pub(crate) fn oldest_of(&self, action: &ActionLines) -> Option<ExecutionId> {
        if action.lines.len() > LINES_MAX {
            let mut all = self.executions.iter().take(EXECUTIONS_MAX);
            if let Some((id, _)) = all.find(|(_, execution)| execution.action == action.id && is_in_line(execution)) {
                return Some(id);
            }
        }
        action.oldest(LINES_MAX)
    }

    /// A page of a line in its order, behind the place that `cursor` names.
    pub fn waiting_page(
        &self,
        id: ActionId,
        which: &WhichLine,
        cursor: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Result<LinePage<InLine>, OtherLines> {
        let empty = LinePage { data: Vec::new(), next_cursor: None };
        let Some(action) = self.actions.get(&id) else { return Ok(empty) };
        let Some(line) = action.lines.get(&line_key(action, which)?) else { return Ok(empty) };
        let first = cursor.and_then(spot).map_or(0, |spot| line.behind(spot));
        let forecast = self.forecast(action, line, now);
        let item = |(offset, spot): (usize, Spot)| {
            let (execution, position) = (self.executions.live(spot.id), first + offset + 1);
            let eta = forecast.as_ref().map(|forecast| forecast.start_of(position));
            InLine {
                position: position as u64,
                execution_id: spot.id,
                concurrency_key: execution.key.as_deref().map(str::to_owned),
                attempt: execution.tried,
                enqueued_at: execution.enqueued_at,
                queued_at: execution.queued_at(),
                is_sent_ahead: execution.ahead().is_some(),
                eta_low: eta.map(|(low, _)| low),
                eta_high: eta.map(|(_, high)| high),
            }
        };
        let data = line.iter_from(first).take(limit).enumerate().map(item).collect::<Vec<_>>();
        let last = (first + data.len()).checked_sub(1).filter(|last| last + 1 < line.len());
        let next_cursor = last.and_then(|last| line.iter_from(last).next()).map(|spot| cursor_of(&spot));
        Ok(LinePage { data, next_cursor })
    }

    /// Between which two moments an execution that waits in its line starts.
    pub(crate) fn eta(&self, id: ExecutionId, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let execution = self.executions.get(&id).filter(|execution| is_in_line(execution))?;
        let action = self.actions.of(execution);
        let line = action.lines.get(&action.line_key(&execution.key))?;
        Some(self.forecast(action, line, now)?.start_of(line.position(execution.spot(id))))
    }

    /// When the executions of a line start. A line of a key is not foreseen while the action's own limit is reached:
    /// then the other keys decide as well.
    fn forecast(&self, action: &ActionLines, line: &Line, now: Timestamp) -> Option<crate::forecast::Forecast> {
        if action.paused || (line.key.has_limit() && action.is_full()) {
            return None;
        }
        let since = action.holders(line).map(|id| {
            let assignment = self.executions.live(id).assignment();
            assignment.map_or(now, |assignment| assignment.started_at.unwrap_or(assignment.scheduled_at))
        });
        action.activity.forecast(since, now)
    }

    /// A page of the executions that hold slots of an action, or of one of its lines, by id.
    pub fn holders_page(
        &self,
        id: ActionId,
        which: Option<&WhichLine>,
        cursor: Option<ExecutionId>,
        limit: usize,
    ) -> Result<LinePage<Holder>, OtherLines> {
        let empty = LinePage { data: Vec::new(), next_cursor: None };
        let Some(action) = self.actions.get(&id) else { return Ok(empty) };
        let slots = match which {
            None | Some(WhichLine::Only) => &action.slots,
            Some(which) => match action.lines.get(&line_key(action, which)?) {
                Some(line) => &line.slots,
                None => return Ok(empty),
            },
        };
        let mut ids = slots.iter_after(cursor);
        let data = ids.by_ref().take(limit).map(|id| self.holder(id)).collect::<Vec<_>>();
        let has_more = ids.next().is_some();
        let next_cursor = data.last().filter(|_| has_more).map(|holder| holder.execution_id.to_string());
        Ok(LinePage { data, next_cursor })
    }

    fn holder(&self, id: ExecutionId) -> Holder {
        let execution = self.executions.live(id);
        let assignment = execution.assignment();
        let worker = assignment.and_then(|assignment| self.workers.get(&assignment.worker));
        Holder {
            execution_id: id,
            concurrency_key: execution.key.as_deref().map(str::to_owned),
            status: execution.status(),
            attempt: execution.counts_as(),
            worker: worker.map(|worker| worker.name.clone()),
            scheduled_at: assignment.map(|assignment| assignment.scheduled_at),
            start_time: assignment.and_then(|assignment| assignment.started_at),
            is_uncertain: worker.is_some_and(|worker| self.is_silent(worker)),
        }
    }

    /// How many workers there are, and of which kind.
    pub fn workers_now(&self) -> WorkerCounts {
        let mut counted = WorkerCounts::default();
        for worker in self.workers.values().filter(|worker| worker.introduced) {
            counted.capacity += u64::from(worker.capacity);
            match WorkerState::of(self.is_silent(worker), worker.draining) {
                WorkerState::Ready => counted.ready += 1,
                WorkerState::Silent => counted.silent += 1,
                WorkerState::Draining => counted.draining += 1,
            }
        }
        counted
    }
}

fn is_in_line(execution: &Execution) -> bool {
    match execution.state() {
        State::Waiting { keeps_slot } | State::BackingOff { keeps_slot, .. } => !keeps_slot,
        State::Ahead(_) => true,
        State::Leased(_) => false,
    }
}

fn line_key(action: &ActionLines, which: &WhichLine) -> Result<LineKey, OtherLines> {
    match (action.limits.key_limit, which) {
        (None, WhichLine::Only) => Ok(LineKey::WHOLE),
        (Some(_), WhichLine::Keyless) => Ok(LineKey::KEYLESS),
        (Some(_), WhichLine::Of(key)) => Ok(LineKey::new(key.clone())),
        (None, WhichLine::Keyless | WhichLine::Of(_)) => Err(OtherLines { has_keys: false }),
        (Some(_), WhichLine::Only) => Err(OtherLines { has_keys: true }),
    }
}

/// The place of the last item of a page: what has left since does not shift the next.
fn cursor_of(spot: &Spot) -> String {
    format!("{}.{}", spot.place, spot.id)
}

fn spot(cursor: &str) -> Option<Spot> {
    let (place, id) = cursor.split_once('.')?;
    Some(Spot { place: place.parse().ok()?, id: id.parse().ok()? })
}
