//! One execution's part of the record: its events so far, and what still has to come before the next.
//!
//! While an attempt's last events are awaited, everything that happened since is held back in order, so that the
//! numbers have the order in which things happened. Slots don't wait for that: the scheduler has long gone on.

mod journal;

use std::collections::VecDeque;
use std::sync::Arc;

use slotline_protocol::message::{Failure, GapReason};
use slotline_protocol::record::{Event, Latest, Newest, What};
use slotline_protocol::{ActionRef, ExecutionId, Incarnation, OutcomeKind, Status, Timestamp, WorkerName};
use slotline_scheduler::{Announcement, Input, Lease, Settled};
use slotline_store::RECENT_MAX;

use super::attempt::Attempt;
use super::plain::is_told_by_the_row;
use super::word::{ASK_AFTER, ASK_AGAIN, AttemptEvent, AttemptEventKind, End, MissingEvents, Out, tell};

#[derive(Clone, Debug)]
pub(super) struct Tale {
    id: ExecutionId,
    action_ref: ActionRef,
    /// As of the last recorded event; of an execution that is over, before its end.
    status: Status,
    first: u64,
    last: u64,
    /// The events so far, while they all follow from the execution's row; `None` once they are written.
    plain: Option<Vec<Arc<Event>>>,
    newest: Newest,
    latest: Option<Latest>,
    recent: VecDeque<Arc<Event>>,
    /// The newest attempt, until all of it is recorded.
    attempt: Option<Attempt>,
    /// The newest attempt, recorded or not.
    newest_attempt: Of,
    /// What happened while the attempt's last events were awaited.
    held: VecDeque<Held>,
    /// Events of a later attempt than the awaited one were dropped.
    has_skipped: bool,
    due: Option<Timestamp>,
    is_over: bool,
}

/// The attempt that an event is about.
#[derive(Clone, Copy, Debug, Default)]
struct Of {
    /// The number of its grant.
    grant: u32,
    /// As people count attempts.
    attempt: u32,
}

/// What waits for the events before it.
#[derive(Clone, Debug)]
enum Held {
    /// A worker's report of the end of a later attempt.
    End(End),
    Move {
        to: Status,
        of: Of,
        lease: Option<Lease>,
        at: Timestamp,
    },
    Settle {
        /// The status before it is set when its turn comes.
        settled: What,
        /// As people count attempts.
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
            newest_attempt: Of::default(),
            held: VecDeque::new(),
            has_skipped: false,
            due: None,
            is_over: false,
        }
    }

    pub(super) fn is_written(&self) -> bool {
        self.plain.is_none()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn teller_of(&self, attempt: u32) -> Option<Incarnation> {
        self.attempt.as_ref().filter(|newest| newest.number == attempt).map(|newest| newest.incarnation)
    }

    /// The events that its worker has beyond the last one taken.
    pub(super) fn rest(&self) -> Option<MissingEvents> {
        self.attempt.as_ref().map(|attempt| attempt.rest(self.id, &self.action_ref))
    }

    // ---- what happens ----

    pub(super) fn queued(&mut self, enqueued_at: Timestamp, out: &mut Out) {
        self.moves(Status::Queued, Of { grant: 0, attempt: 0 }, None, enqueued_at, out);
    }

    /// The scheduler changed its status.
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
                let of = Of { grant: announcement.attempt, attempt: announcement.counts_as };
                Held::Move { to: announcement.to, of, lease, at }
            }
            Some(settled) => {
                let error = settled.error.clone().map(|error| {
                    let latest = self.latest.as_ref().filter(|_| settled.lease.is_some());
                    let phase = latest.and_then(|latest| latest.phase.as_ref());
                    let told = tell(error, phase, &self.newest, &self.recent);
                    if settled.error.as_ref() != Some(&told) {
                        out.errors.insert(self.id, told.clone());
                    }
                    told
                });
                let started_at = settled.lease.as_ref().and_then(|lease| lease.started_at);
                let (attempt, at) = (settled.counts_as, settled.ended_at);
                let (status, result) = (settled.status, settled.result.clone());
                let settled = What::Settled { previous: self.status, status, result, error };
                Held::Settle { settled, attempt, started_at, at }
            }
        };
        self.held.push_back(move_);
        if self.held.len() == 1 {
            self.resume(now, out);
        }
    }

    /// The error of an attempt that did not settle the execution, with the newest reports of that attempt.
    pub(super) fn tell_of_attempt(&self, error: Failure, grant: u32, counts_as: u32) -> Failure {
        let is_newest = self.attempt.as_ref().is_some_and(|attempt| attempt.number == grant);
        let latest = self.latest.as_ref().filter(|_| is_newest);
        let phase = latest.and_then(|latest| latest.phase.as_ref());
        let recent: VecDeque<_> = self.recent.iter().filter(|event| event.attempt == counts_as).cloned().collect();
        // For a later attempt only the newest reports are kept apart from those of attempts before.
        let mut newest = if counts_as == 1 { self.newest.clone() } else { Newest::default() };
        for event in &recent {
            if let What::Progress(report) = &event.what {
                newest.take(report);
            }
        }
        tell(error, phase, &newest, &recent)
    }

    /// Takes a worker's report of the end of an attempt. Whether that counts shows in the move that follows.
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

    /// Takes a worker's report of an attempt. Returns the scheduler's input that follows from it.
    pub(super) fn heard(&mut self, word: AttemptEvent, now: Timestamp, out: &mut Out) -> Option<Input> {
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
            // A worker that does not number its events sends them once, and in order as far as is known.
            None => self.take(word.at, word.said, out),
        };
        self.go_on(now, out);
        input
    }

    /// Has missing events resent, or gives them up.
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

    /// Applies what was held back, as far as possible, and sets the deadline for missing events.
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
                Held::Move { to, of, lease, at } => self.moves(to, of, lease, at, out),
                Held::Settle { mut settled, attempt, started_at, at } => {
                    if let What::Settled { previous, .. } = &mut settled {
                        *previous = self.status;
                    }
                    self.settles(settled, attempt, started_at, at, out);
                }
            }
        }
        if std::mem::take(&mut self.has_skipped) {
            out.missing.extend(self.rest());
        }
    }

    /// Records the end of the attempt that is out, if everything before it is recorded. Whether that is so.
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
            // Its worker is lost, and with it the events that did not arrive.
            self.give_up(first, last, now, out);
        }
        let Some(attempt) = self.attempt.take() else { return true };
        match attempt.end {
            None => {
                let message = format!("worker {} was lost", attempt.worker);
                let outcome = Some(OutcomeKind::Lost);
                let finished = What::Finished { outcome, return_code: None, message: Some(message) };
                self.push(finished, attempt.counts_as, now, out);
            }
            // It was handed back before it began.
            Some(End { outcome: None, .. }) => {}
            Some(End { outcome, return_code, message, at, started_at, last_sequence, .. }) => {
                if let (Some(started_at), 0, false) = (started_at, last_sequence, attempt.has_started) {
                    self.starts_of(attempt.counts_as, Some(attempt.worker), started_at, out);
                }
                self.push(What::Finished { outcome, return_code, message }, attempt.counts_as, at, out);
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

    fn take(&mut self, at: Timestamp, said: AttemptEventKind, out: &mut Out) -> Option<Input> {
        let attempt = self.attempt.as_mut()?;
        let (key, fence, number) = ((self.id, attempt.number), attempt.fence, attempt.counts_as);
        match said {
            AttemptEventKind::Running if self.status == Status::Scheduled => {
                let worker = Some(attempt.worker.clone());
                self.status = Status::Running;
                self.push(What::Status { previous: Status::Scheduled, new: Status::Running, worker }, number, at, out);
            }
            // An attempt that is being cancelled stays `cancelling`.
            AttemptEventKind::Running => {}
            AttemptEventKind::Started => {
                if !std::mem::replace(&mut attempt.has_started, true) {
                    self.push(What::Started, number, at, out);
                    return Some(Input::Started { key, fence, started_at: at });
                }
            }
            AttemptEventKind::Progress(report) => self.push(What::Progress(report), number, at, out),
            AttemptEventKind::Log { stream, lines } => self.push(What::Log { stream, lines }, number, at, out),
            AttemptEventKind::Gap { count, reason } => self.push(What::Gap { count, reason }, number, at, out),
            // Recorded with the outcome, which its completion brings.
            AttemptEventKind::Finished => {}
        }
        None
    }

    fn moves(&mut self, to: Status, of: Of, lease: Option<Lease>, at: Timestamp, out: &mut Out) {
        let worker = lease.as_ref().map(|lease| lease.worker.clone());
        if to == Status::Scheduled {
            self.attempt = lease.as_ref().map(|lease| Attempt::new(of.grant, of.attempt, lease));
            self.newest_attempt = of;
            self.latest = None;
        }
        let previous = std::mem::replace(&mut self.status, to);
        self.push(What::Status { previous, new: to, worker }, of.attempt, at, out);
    }

    fn starts(&mut self, at: Timestamp, out: &mut Out) {
        if let Some(attempt) = &mut self.attempt {
            attempt.has_started = true;
            let (number, worker) = (attempt.counts_as, attempt.worker.clone());
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
        let Of { grant, attempt: counts_as } = self.newest_attempt;
        if counts_as == attempt && grant != attempt {
            out.grants.insert((self.id, self.last), grant);
        }
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

    /// From now on the row does not stand for all events: those so far are written, too.
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
            let number = attempt.counts_as;
            self.lose(number, first, last, now, out);
            self.take_what_has_come(out);
        }
    }

    fn lose(&mut self, attempt: u32, first: u64, last: u64, at: Timestamp, out: &mut Out) {
        let count = last.saturating_sub(first).saturating_add(1);
        self.push(What::Gap { count, reason: GapReason::Lost }, attempt, at, out);
    }

    fn set_due(&mut self, due: Option<Timestamp>, out: &mut Out) {
        let before = std::mem::replace(&mut self.due, due);
        if before != due {
            out.timers.push((before, due, self.id));
        }
    }
}
