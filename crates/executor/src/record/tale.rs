//! One execution's part of the record: its events so far, and what still has to come before the next.
//!
//! While an attempt's last events are awaited, everything that happened since is held back in order, so that numbers
//! tell the order in which things happened. Slots don't wait for that: the scheduler has long gone on.

use std::collections::VecDeque;
use std::sync::Arc;

use slotline_protocol::message::{Event as Wire, GapReason, Progress};
use slotline_protocol::record::{Event, Latest, Newest, What};
use slotline_protocol::{ActionRef, ExecutionId, OutcomeKind, Status, Timestamp, WorkerName};
use slotline_scheduler::{Announcement, Input, Lease, Settled, Snapshot};
use slotline_store::{OpenStory, RECENT_MAX, Story};

use super::attempt::Attempt;
use super::plain::is_told_by_the_row;
use super::{ASK_AFTER, ASK_AGAIN, End, Missing, Out, Said, Word, tell};

#[derive(Debug)]
pub(super) struct Tale {
    id: ExecutionId,
    action_ref: ActionRef,
    /// As last told.
    status: Status,
    first: u64,
    last: u64,
    /// The events so far, while the execution's row alone tells them; `None` once they are written.
    plain: Option<Vec<Arc<Event>>>,
    newest: Newest,
    latest: Option<Latest>,
    recent: VecDeque<Arc<Event>>,
    /// The newest attempt, until all of it is told.
    attempt: Option<Attempt>,
    /// What happened while the attempt's last events were awaited.
    held: VecDeque<Held>,
    /// Events of a later attempt than the one that is waited for were dropped.
    has_skipped: bool,
    due: Option<Timestamp>,
    is_over: bool,
}

/// What waits for the events before it.
#[derive(Debug)]
enum Held {
    /// The word of a later attempt's worker.
    End(End),
    Move {
        to: Status,
        attempt: u32,
        lease: Option<Lease>,
        at: Timestamp,
    },
    Settle {
        settled: What,
        attempt: u32,
        started_at: Option<Timestamp>,
        at: Timestamp,
    },
}

impl Tale {
    /// An execution that waits for its first attempt.
    pub(super) fn new(action_ref: ActionRef, id: ExecutionId) -> Self {
        Self {
            id,
            action_ref,
            status: Status::Requested,
            first: 1,
            last: 0,
            plain: Some(Vec::new()),
            newest: Newest::default(),
            latest: None,
            recent: VecDeque::new(),
            attempt: None,
            held: VecDeque::new(),
            has_skipped: false,
            due: None,
            is_over: false,
        }
    }

    /// What the row of a live execution tells.
    pub(super) fn of_row(action_ref: ActionRef, snapshot: &Snapshot) -> Self {
        let mut tale = Self::new(action_ref, snapshot.id);
        // All of this was told by the leader before.
        let mut unheard = Out::default();
        tale.queued(snapshot.enqueued_at, &mut unheard);
        if let Some(lease) = &snapshot.lease {
            tale.moves(Status::Scheduled, snapshot.attempt, Some(lease.clone()), lease.scheduled_at, &mut unheard);
            if let Some(started_at) = lease.started_at {
                tale.starts(started_at, &mut unheard);
                if let Some(attempt) = &mut tale.attempt {
                    attempt.sequence = 2;
                }
            }
        }
        tale.is_as(snapshot);
        tale
    }

    /// What the journal has written of a live execution.
    pub(super) fn reopened(action_ref: ActionRef, open: OpenStory, snapshot: &Snapshot, out: &mut Out) -> Self {
        let OpenStory { story, recent, .. } = open;
        let mut tale = Self::written(action_ref, &story, recent);
        tale.is_as(snapshot);
        if let Some(lease) = &snapshot.lease {
            let mut attempt = Attempt::new(snapshot.attempt, lease);
            if story.attempt == snapshot.attempt {
                attempt.sequence = story.sequence;
            }
            tale.attempt = Some(attempt);
        }
        if let Some(last) = story.awaits {
            // The leader before held back what came after events that it waited for.
            let at = snapshot.lease.as_ref().map_or(snapshot.queued_at, |lease| lease.scheduled_at);
            tale.lose(story.attempt, story.sequence.saturating_add(1), last, at, out);
            let worker = snapshot.lease.as_ref().map(|lease| lease.worker.clone());
            let moved = What::Status { previous: Status::Running, new: snapshot.status, worker };
            tale.push(moved, snapshot.attempt, at, out);
        }
        tale
    }

    /// A settled execution whose last events are awaited; `None` if the journal tells it otherwise.
    pub(super) fn unfinished(open: OpenStory, now: Timestamp, out: &mut Out) -> Option<Self> {
        let OpenStory { story, recent, settled } = open;
        let (execution, incarnation) = settled?;
        let (at, last_sequence) = (execution.end_time?, story.awaits?);
        let mut tale = Self::written(execution.action_ref.clone(), &story, recent);
        match (incarnation, execution.fence, execution.worker) {
            (Some(incarnation), Some(fence), Some(worker)) => {
                let lease = Lease { worker, incarnation, fence, scheduled_at: at, started_at: execution.start_time };
                let mut attempt = Attempt::new(story.attempt, &lease);
                attempt.sequence = story.sequence;
                attempt.end = Some(End {
                    key: (story.id, story.attempt),
                    fence,
                    last_sequence,
                    started_at: execution.start_time,
                    at,
                    outcome: execution.status.as_str().parse::<OutcomeKind>().ok(),
                    return_code: None,
                    message: execution.error.as_ref().map(|error| error.message.clone()),
                });
                tale.attempt = Some(attempt);
            }
            // Nobody can be asked.
            _ => tale.lose(story.attempt, story.sequence.saturating_add(1), last_sequence, at, out),
        }
        let settled = What::Settled { status: execution.status, result: execution.result, error: execution.error };
        let (attempt, started_at) = (execution.attempt, execution.start_time);
        tale.held.push_back(Held::Settle { settled, attempt, started_at, at });
        tale.set_due(Some(now), out);
        Some(tale)
    }

    /// Takes the status over. That it runs may have been seen in a heartbeat, and is yet to be told.
    fn is_as(&mut self, snapshot: &Snapshot) {
        let has_started = snapshot.lease.as_ref().is_some_and(|lease| lease.started_at.is_some());
        self.status = match snapshot.status {
            Status::Running if !has_started => Status::Scheduled,
            status => status,
        };
    }

    fn written(action_ref: ActionRef, story: &Story, recent: Vec<Event>) -> Self {
        Self {
            first: story.first,
            last: story.last,
            plain: None,
            newest: story.newest.clone(),
            latest: story.latest.clone(),
            recent: recent.into_iter().map(Arc::new).collect(),
            ..Self::new(action_ref, story.id)
        }
    }

    /// The whole story, where the row does not tell it, with the newest `kept` events and up to an eighth more, so that
    /// the oldest are not forgotten one by one.
    pub(super) fn story(&mut self, kept: u64) -> Story {
        if self.last + 1 - self.first > kept + kept / 8 {
            self.first = self.last + 1 - kept;
        }
        let attempt = self.attempt.as_ref();
        let end = attempt.and_then(|attempt| attempt.end.as_ref());
        Story {
            id: self.id,
            first: self.first,
            last: self.last,
            attempt: attempt.map_or(0, |attempt| attempt.number),
            sequence: attempt.map_or(0, |attempt| attempt.sequence),
            newest: self.newest.clone(),
            latest: self.latest.clone(),
            awaits: end.filter(|_| !self.held.is_empty()).map(|end| end.last_sequence),
        }
    }

    pub(super) fn is_written(&self) -> bool {
        self.plain.is_none()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What its worker has beyond the last event taken.
    pub(super) fn rest(&self) -> Option<Missing> {
        self.attempt.as_ref().map(|attempt| attempt.rest(self.id, &self.action_ref))
    }

    // ---- what happens ----

    pub(super) fn queued(&mut self, enqueued_at: Timestamp, out: &mut Out) {
        self.moves(Status::Queued, 0, None, enqueued_at, out);
    }

    /// The scheduler moved it.
    pub(super) fn moved(
        &mut self,
        announcement: &Announcement,
        settled: Option<&Settled>,
        lease: Option<Lease>,
        now: Timestamp,
        out: &mut Out,
    ) {
        let move_ = match settled {
            None => {
                let at = match (&lease, announcement.to) {
                    (Some(lease), Status::Scheduled) => lease.scheduled_at,
                    _ => announcement.at,
                };
                Held::Move { to: announcement.to, attempt: announcement.attempt, lease, at }
            }
            Some(settled) => {
                let error = settled.error.clone().map(|error| {
                    let told = tell(error, &self.newest, &self.recent);
                    if settled.error.as_ref() != Some(&told) {
                        out.errors.insert(self.id, told.clone());
                    }
                    told
                });
                let started_at = settled.lease.as_ref().and_then(|lease| lease.started_at);
                let (attempt, at) = (settled.attempt, settled.ended_at);
                let settled = What::Settled { status: settled.status, result: settled.result.clone(), error };
                Held::Settle { settled, attempt, started_at, at }
            }
        };
        self.held.push_back(move_);
        if self.held.len() == 1 {
            self.resume(now, out);
        }
    }

    /// Its worker says how the attempt ended. Whether that counts shows in the move that follows.
    pub(super) fn ended(&mut self, end: End) {
        if self.held.is_empty() {
            self.ends(end);
        } else if self.attempt.as_ref().is_none_or(|attempt| attempt.number < end.key.1) {
            self.held.push_back(Held::End(end));
        }
    }

    fn ends(&mut self, end: End) {
        if let Some(attempt) = &mut self.attempt
            && (attempt.number, attempt.fence) == (end.key.1, end.fence)
        {
            attempt.end = Some(end);
        }
    }

    /// Its worker says something of an attempt. Gives back what the scheduler should know.
    pub(super) fn heard(&mut self, word: Word, now: Timestamp, out: &mut Out) -> Option<Input> {
        let attempt = self.attempt.as_mut()?;
        if attempt.number != word.key.1 {
            self.has_skipped |= word.key.1 > attempt.number;
            return None;
        }
        let input = match word.sequence {
            Some(sequence) => {
                attempt.keep(sequence, word.at, word.said);
                self.take_what_has_come(out)
            }
            // A worker that does not number its events says them once, and in order as far as anyone knows.
            None => self.take(word.at, word.said, out),
        };
        self.go_on(now, out);
        input
    }

    /// Asks for what is missing, or gives it up.
    pub(super) fn look(&mut self, now: Timestamp, out: &mut Out) {
        self.due = None;
        if let Some(missing) = self.attempt.as_mut().and_then(|attempt| attempt.ask(self.id, &self.action_ref)) {
            out.missing.push(missing);
            return self.set_due(Some(now + ASK_AGAIN), out);
        }
        while let Some((first, last)) = self.attempt.as_ref().and_then(Attempt::vain) {
            self.give_up(first, last, now, out);
        }
        self.go_on(now, out);
    }

    // ---- in order ----

    /// Applies what was held back, as far as it can be, and watches over what is missing.
    fn go_on(&mut self, now: Timestamp, out: &mut Out) {
        if !self.held.is_empty() {
            self.resume(now, out);
        }
        let is_missing = self.attempt.as_ref().is_some_and(|attempt| attempt.hole().is_some());
        match (is_missing, self.due) {
            (true, None) => self.set_due(Some(now + ASK_AFTER), out),
            (false, Some(_)) => self.set_due(None, out),
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn resume(&mut self, now: Timestamp, out: &mut Out) {
        while let Some(move_) = self.held.pop_front() {
            let ends = match &move_ {
                Held::End(_) => false,
                Held::Move { to, .. } => *to == Status::Queued,
                Held::Settle { .. } => true,
            };
            if ends && !self.is_told_to_the_end(now, out) {
                // What is awaited must outlive this leader.
                self.write(out);
                self.held.push_front(move_);
                if self.due.is_none() {
                    self.set_due(Some(now + ASK_AFTER), out);
                }
                return;
            }
            match move_ {
                Held::End(end) => self.ends(end),
                Held::Move { to, attempt, lease, at } => self.moves(to, attempt, lease, at, out),
                Held::Settle { settled, attempt, started_at, at } => {
                    self.settles(settled, attempt, started_at, at, out);
                }
            }
        }
        if std::mem::take(&mut self.has_skipped) {
            out.missing.extend(self.rest());
        }
    }

    /// Tells the end of the attempt that is out, if everything before it is told. Whether that is so.
    fn is_told_to_the_end(&mut self, now: Timestamp, out: &mut Out) -> bool {
        let Some(attempt) = &mut self.attempt else { return true };
        attempt.infer();
        self.take_what_has_come(out);
        while let Some(attempt) = &self.attempt
            && let Some((first, last)) = attempt.hole()
        {
            if attempt.end.is_some() {
                return false;
            }
            // Its worker is gone, and what it did not say with it.
            self.give_up(first, last, now, out);
        }
        let Some(attempt) = self.attempt.take() else { return true };
        match attempt.end {
            None => {
                let message = format!("worker {} was lost", attempt.worker);
                let finished = Wire::Finished { return_code: None, message: Some(message.clone()) };
                self.say(attempt.number, attempt.sequence.saturating_add(1), finished, now, out);
                let outcome = Some(OutcomeKind::Lost);
                let finished = What::Finished { outcome, return_code: None, message: Some(message) };
                self.push(finished, attempt.number, now, out);
            }
            // It was handed back before it began.
            Some(End { outcome: None, .. }) => {}
            Some(End { outcome, return_code, message, at, started_at, last_sequence, .. }) => {
                if let (Some(started_at), 0, false) = (started_at, last_sequence, attempt.has_started) {
                    self.starts_of(attempt.number, Some(attempt.worker), started_at, out);
                }
                self.push(What::Finished { outcome, return_code, message }, attempt.number, at, out);
            }
        }
        true
    }

    fn take_what_has_come(&mut self, out: &mut Out) -> Option<Input> {
        let mut input = None;
        while let Some((at, said)) = self.attempt.as_mut().and_then(Attempt::next) {
            input = self.take(at, said, out).or(input);
        }
        input
    }

    fn take(&mut self, at: Timestamp, said: Said, out: &mut Out) -> Option<Input> {
        let attempt = self.attempt.as_mut()?;
        let (number, fence) = (attempt.number, attempt.fence);
        match said {
            Said::Running if self.status == Status::Scheduled => {
                let worker = Some(attempt.worker.clone());
                self.status = Status::Running;
                self.push(What::Status { previous: Status::Scheduled, new: Status::Running, worker }, number, at, out);
            }
            // The end it was asked for stays the news.
            Said::Running => {}
            Said::Started => {
                if !std::mem::replace(&mut attempt.has_started, true) {
                    self.push(What::Started, number, at, out);
                    return Some(Input::Started { key: (self.id, number), fence, started_at: at });
                }
            }
            Said::Progress(report) => self.push(What::Progress(report), number, at, out),
            Said::Log { stream, lines } => self.push(What::Log { stream, lines }, number, at, out),
            Said::Gap { count, reason } => self.push(What::Gap { count, reason }, number, at, out),
            // Told with the outcome, which its completion brings.
            Said::Finished => {}
        }
        None
    }

    fn moves(&mut self, to: Status, attempt: u32, lease: Option<Lease>, at: Timestamp, out: &mut Out) {
        let worker = lease.as_ref().map(|lease| lease.worker.clone());
        if to == Status::Scheduled {
            self.attempt = lease.as_ref().map(|lease| Attempt::new(attempt, lease));
            self.latest = None;
        }
        let previous = std::mem::replace(&mut self.status, to);
        self.push(What::Status { previous, new: to, worker }, attempt, at, out);
    }

    fn starts(&mut self, at: Timestamp, out: &mut Out) {
        if let Some(attempt) = &mut self.attempt {
            attempt.has_started = true;
            let (number, worker) = (attempt.number, attempt.worker.clone());
            self.starts_of(number, Some(worker), at, out);
        }
    }

    fn starts_of(&mut self, attempt: u32, worker: Option<WorkerName>, at: Timestamp, out: &mut Out) {
        self.status = Status::Running;
        self.push(What::Status { previous: Status::Scheduled, new: Status::Running, worker }, attempt, at, out);
        self.push(What::Started, attempt, at, out);
    }

    fn settles(&mut self, settled: What, attempt: u32, started_at: Option<Timestamp>, at: Timestamp, out: &mut Out) {
        self.is_over = true;
        if !self.plain.as_ref().is_some_and(|events| is_told_by_the_row(events, &settled, started_at, at)) {
            self.write(out);
        }
        self.push(settled, attempt, at, out);
        self.set_due(None, out);
    }

    // ---- numbers ----

    fn push(&mut self, what: What, attempt: u32, at: Timestamp, out: &mut Out) {
        let is_stored = !matches!(what, What::Settled { .. });
        if is_stored && self.plain.as_ref().is_some_and(|events| !super::plain::may_follow(events, &what, attempt)) {
            self.write(out);
        }
        self.last += 1;
        let event = Arc::new(Event {
            execution_id: self.id,
            action_ref: self.action_ref.clone(),
            number: self.last,
            attempt,
            timestamp: at,
            what,
        });
        if let What::Progress(report) = &event.what {
            self.newest.take(report);
            self.latest.get_or_insert_default().take(report, at);
            self.recent.push_back(event.clone());
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
        out.told.push(event.clone());
        match &mut self.plain {
            Some(events) => events.push(event),
            None => {
                if is_stored {
                    out.events.push(event);
                }
                out.touched.insert(self.id);
            }
        }
    }

    /// From now on the row does not tell all: what it told so far is written, too.
    fn write(&mut self, out: &mut Out) {
        if let Some(events) = self.plain.take() {
            out.events.extend(events);
        }
        out.touched.insert(self.id);
    }

    /// The events of a hole are lost for good.
    fn give_up(&mut self, first: u64, last: u64, now: Timestamp, out: &mut Out) {
        if let Some(attempt) = &mut self.attempt {
            attempt.sequence = last;
            let number = attempt.number;
            self.say(
                number,
                first,
                Wire::Gap { count: (last - first).saturating_add(1), reason: GapReason::Lost },
                now,
                out,
            );
            self.lose(number, first, last, now, out);
            self.take_what_has_come(out);
        }
    }

    fn lose(&mut self, attempt: u32, first: u64, last: u64, at: Timestamp, out: &mut Out) {
        let count = last.saturating_sub(first).saturating_add(1);
        self.push(What::Gap { count, reason: GapReason::Lost }, attempt, at, out);
    }

    /// Says in the worker's place what the worker can't.
    fn say(&self, attempt: u32, sequence: u64, event: Wire, timestamp: Timestamp, out: &mut Out) {
        let action_ref = self.action_ref.clone();
        out.said.push(Progress { execution_id: self.id, action_ref, attempt, sequence, timestamp, event });
    }

    fn set_due(&mut self, due: Option<Timestamp>, out: &mut Out) {
        let before = std::mem::replace(&mut self.due, due);
        if before != due {
            out.timers.push((before, due, self.id));
        }
    }
}
