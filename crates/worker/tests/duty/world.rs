//! A duty book in a world that the test commands: its time, its executor, its processes.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::message::{self, AttemptKey, Event, Failure};
use slotline_protocol::{
    ActionId, ActionRef, Detail, Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Timestamp, WorkerName,
};
use slotline_worker::duty::{
    AttemptOutput, Config, Duty, Effect, Ending, Input, JsonText, Now, OnDrain, Order, Phase, ServedAction, Start,
    Terms,
};
use uuid::Uuid;

pub(crate) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn key(id: i64) -> AttemptKey {
    (ExecutionId(id), 1)
}

pub(crate) struct World {
    pub(crate) duty: Duty,
    pub(crate) now: Now,
    pub(crate) incarnation: Incarnation,
    /// The executor's last number.
    pub(crate) n: u64,
    pub(crate) epoch: i64,
    /// The executor's last number when the incarnation began.
    pub(crate) born_at: (i64, u64),
    effects: Vec<Effect>,
    lives: u128,
}

pub(crate) fn config(on_drain: OnDrain) -> Config {
    let action =
        |on_drain| ServedAction { capabilities: vec!["cancel".to_owned()], grace: s(5), on_drain, phases: vec![] };
    Config {
        worker: WorkerName::new("w1").expect("a name"),
        capacity: 4,
        actions: BTreeMap::from([
            (ActionRef::new("demo.echo").expect("a ref"), action(OnDrain::Return)),
            (
                ActionRef::new("deploy.app").expect("a ref"),
                ServedAction { phases: vec![Phase::new("pull", 1), Phase::new("start", 3)], ..action(on_drain) },
            ),
        ]),
        labels: BTreeMap::new(),
        terms: Terms::default(),
        drain_timeout: s(30),
        process: None,
    }
}

impl World {
    /// A worker whose first heartbeat is confirmed.
    pub(crate) fn new() -> Self {
        let mut world = Self::unconfirmed();
        world.confirm_heartbeat();
        world.effects.clear();
        world
    }

    pub(crate) fn with_on_drain(on_drain: OnDrain) -> Self {
        let mut world = Self::from(config(on_drain));
        world.confirm_heartbeat();
        world.effects.clear();
        world
    }

    pub(crate) fn unconfirmed() -> Self {
        Self::from(config(OnDrain::Return))
    }

    fn from(config: Config) -> Self {
        let now = Now { boot: s(1000), wall: Timestamp::from_micros(1_700_000_000_000_000) };
        let incarnation = Incarnation(Uuid::from_u128(1));
        Self {
            duty: Duty::new(config, incarnation, now),
            now,
            incarnation,
            n: 0,
            epoch: 1,
            born_at: (1, 0),
            effects: vec![],
            lives: 1,
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.duty.handle(self.now, input, &mut self.effects);
    }

    /// Time passes, and the book gets no input.
    pub(crate) fn clock(&mut self, by: Duration) {
        self.now = Now { boot: self.now.boot + by, wall: self.now.wall + by };
    }

    /// Time passes; the book gets each of its deadlines.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.now.boot + by;
        while let Some(at) = self.duty.next_deadline().filter(|at| *at <= end) {
            self.clock(at.saturating_sub(self.now.boot));
            self.input(Input::Tick);
            assert!(
                self.duty.next_deadline().is_none_or(|next| next > self.now.boot),
                "a tick did not settle its time"
            );
        }
        self.clock(end - self.now.boot);
    }

    /// Time passes, and every heartbeat is confirmed.
    pub(crate) fn advance_connected(&mut self, by: Duration) {
        let end = self.now.boot + by;
        loop {
            let next = self.duty.next_deadline().map_or(end, |at| at.min(end));
            self.advance(next.saturating_sub(self.now.boot));
            for sent in self.take(|effect| if let Effect::Beat { sent, .. } = effect { Some(*sent) } else { None }) {
                self.confirm(sent);
            }
            if self.now.boot == end {
                return;
            }
        }
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.input(Input::Ordered { incarnation: self.incarnation, order });
    }

    fn next(&mut self) -> (Epoch, u64) {
        self.n += 1;
        (Epoch(self.epoch), self.n)
    }

    pub(crate) fn dispatch(&mut self, id: i64) -> Dispatch<'_> {
        let (epoch, n) = self.next();
        let scheduled = message::Scheduled {
            epoch,
            n,
            execution_id: ExecutionId(id),
            attempt: 1,
            counts_as: None,
            fence: Fence(id),
            action_id: ActionId(1),
            action_ref: ActionRef::new("demo.echo").expect("a ref"),
            parameters: RawValue::from_string("{}".to_owned()).expect("JSON").into(),
            timeout_seconds: None,
            start_timeout_seconds: None,
            stall_timeout_seconds: None,
            progress: Detail::Default,
            starts_after: None,
            scheduled_at: self.now.wall,
            concurrency_key: None,
            message_id: None,
            continue_when_isolated: false,
            correlation_id: None,
            trace_id: None,
        };
        Dispatch { world: self, scheduled }
    }

    pub(crate) fn cancel(&mut self, id: i64, grace: Option<Duration>) {
        self.send_cancel(id, grace, false);
    }

    pub(crate) fn cancel_if_not_started(&mut self, id: i64) {
        self.send_cancel(id, None, true);
    }

    fn send_cancel(&mut self, id: i64, grace_seconds: Option<Duration>, if_not_started: bool) {
        let (epoch, n) = self.next();
        self.order(Order::Cancel(message::Cancel {
            epoch,
            n,
            execution_id: ExecutionId(id),
            attempt: 1,
            fence: Fence(id),
            if_not_started,
            grace_seconds,
            reason: None,
        }));
    }

    pub(crate) fn recall(&mut self, id: i64, fence: i64) {
        let (epoch, n) = self.next();
        self.order(Order::Recall(message::Recall {
            epoch,
            n,
            execution_id: ExecutionId(id),
            attempt: 1,
            fence: Fence(fence),
            reason: "a test".to_owned(),
        }));
    }

    pub(crate) fn record(&mut self, ids: &[i64]) {
        let (epoch, n) = self.next();
        self.order(Order::Recorded(message::Recorded { epoch, n, attempts: ids.iter().map(|id| key(*id)).collect() }));
    }

    pub(crate) fn resend(&mut self, id: i64, first_sequence: u64, last_sequence: Option<u64>) {
        let (epoch, n) = self.next();
        let (execution_id, attempt) = key(id);
        let action_ref = ActionRef::new("demo.echo").expect("a name");
        let resend = message::Resend { epoch, n, execution_id, action_ref, attempt, first_sequence, last_sequence };
        self.order(Order::Resend(resend));
    }

    /// By the same leader.
    pub(crate) fn hello_again(&mut self) {
        let (epoch, n) = self.next();
        let terms = Terms::default();
        self.order(Order::Hello(message::Hello {
            epoch,
            n,
            lease_seconds: Some(terms.lease),
            fence_seconds: Some(terms.fence),
            heartbeat_seconds: Some(terms.heartbeat),
            lost: false,
            journal: None,
            account: false,
            refused: None,
        }));
    }

    pub(crate) fn hello(&mut self, epoch: i64) {
        self.hello_with_terms(epoch, s(60), s(45), s(5));
    }

    pub(crate) fn hello_with_terms(&mut self, epoch: i64, lease: Duration, fence: Duration, heartbeat: Duration) {
        (self.epoch, self.n) = (epoch, 0);
        let hello = self.plain_hello();
        self.order(Order::Hello(message::Hello {
            lease_seconds: Some(lease),
            fence_seconds: Some(fence),
            heartbeat_seconds: Some(heartbeat),
            ..hello
        }));
    }

    /// The executor does not take this worker.
    pub(crate) fn refuse(&mut self, reason: &str) {
        let hello = self.plain_hello();
        self.order(Order::Hello(message::Hello { refused: Some(reason.to_owned()), ..hello }));
    }

    pub(crate) fn lost(&mut self) {
        let hello = self.plain_hello();
        self.order(Order::Hello(message::Hello { lost: true, ..hello }));
    }

    /// The next greeting, which states nothing but that its leader leads.
    fn plain_hello(&mut self) -> message::Hello {
        let (epoch, n) = self.next();
        message::Hello {
            epoch,
            n,
            lease_seconds: None,
            fence_seconds: None,
            heartbeat_seconds: None,
            lost: false,
            journal: None,
            account: false,
            refused: None,
        }
    }

    pub(crate) fn session_opened(&mut self) {
        self.input(Input::SessionOpened { incarnation: self.incarnation });
    }

    pub(crate) fn started(&mut self, id: i64) {
        self.input(Input::Started { key: key(id), at: self.now });
    }

    pub(crate) fn report(&mut self, id: i64, report: message::Report) {
        self.input(Input::Reported { key: key(id), event: AttemptOutput::Progress(report) });
    }

    pub(crate) fn succeed(&mut self, id: i64, json: &str) {
        let result = Ok(JsonText(RawValue::from_string(json.to_owned()).expect("JSON").into()));
        self.end(id, result);
    }

    pub(crate) fn fail(&mut self, id: i64) {
        self.end(id, Err(Failure::new("exit_status", "exited with status 1")));
    }

    pub(crate) fn end(&mut self, id: i64, result: Result<JsonText, Failure>) {
        let ending = Ending { result, left: None, return_code: None, ended_at: self.now.wall };
        self.input(Input::Ended { key: key(id), ending });
    }

    /// Has a heartbeat sent now, and confirmed at once.
    pub(crate) fn confirm_heartbeat(&mut self) {
        let sent = self.beat_without_confirm();
        self.confirm(sent);
    }

    pub(crate) fn beat_without_confirm(&mut self) -> Duration {
        self.session_opened();
        self.now.boot
    }

    pub(crate) fn confirm(&mut self, sent: Duration) {
        self.input(Input::HeartbeatConfirmed { incarnation: self.incarnation, sent });
    }

    pub(crate) fn new_incarnation(&mut self) {
        self.lives += 1;
        self.born_at = (self.epoch, self.n);
        self.incarnation = Incarnation(Uuid::from_u128(self.lives));
        self.input(Input::NewIncarnation(self.incarnation));
        assert_eq!(self.duty.incarnation(), self.incarnation);
    }

    pub(crate) fn unrecorded(&self) -> Vec<AttemptKey> {
        self.duty.unrecorded().collect()
    }

    pub(crate) fn duty_heartbeat(&mut self) -> message::Heartbeat {
        self.session_opened();
        self.take_heartbeats().pop().expect("a session opened, so a heartbeat is due")
    }

    pub(crate) fn drain_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(crate) fn take<T>(&mut self, pick: impl Fn(&Effect) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.effects.retain(|effect| match pick(effect) {
            Some(found) => {
                taken.push(found);
                false
            }
            None => true,
        });
        taken
    }

    pub(crate) fn take_starts(&mut self) -> Vec<Start> {
        self.take(|effect| if let Effect::Start(start) = effect { Some(start.clone()) } else { None })
    }

    pub(crate) fn take_started(&mut self) -> Vec<AttemptKey> {
        self.take_starts().into_iter().map(|start| start.key).collect()
    }

    pub(crate) fn take_interrupted(&mut self) -> Vec<(AttemptKey, Duration)> {
        self.take(|effect| if let Effect::Interrupt { key, grace } = effect { Some((*key, *grace)) } else { None })
    }

    pub(crate) fn take_killed(&mut self) -> Vec<AttemptKey> {
        self.take(|effect| if let Effect::Kill { key } = effect { Some(*key) } else { None })
    }

    pub(crate) fn take_extended(&mut self) -> Vec<Duration> {
        self.take(|effect| if let Effect::Extend { deadline } = effect { Some(*deadline) } else { None })
    }

    pub(crate) fn take_completions(&mut self) -> Vec<message::Completed> {
        self.take(|effect| if let Effect::Complete(word) = effect { Some(word.message.clone()) } else { None })
    }

    pub(crate) fn take_completed(&mut self) -> Vec<(AttemptKey, OutcomeKind, Option<String>)> {
        let brief = |completed: message::Completed| {
            let key = completed.key();
            (key, completed.status, completed.error.map(|error| error.code))
        };
        self.take_completions().into_iter().map(brief).collect()
    }

    pub(crate) fn take_returned(&mut self) -> Vec<(AttemptKey, String, bool)> {
        self.take(|effect| match effect {
            Effect::Return(word) => {
                let returned = &word.message;
                Some(((returned.execution_id, returned.attempt), returned.reason.clone(), returned.started))
            }
            _ => None,
        })
    }

    pub(crate) fn take_status_changes(&mut self) -> Vec<message::StatusChanged> {
        self.take(|effect| if let Effect::ChangeStatus(change) = effect { Some(change.message.clone()) } else { None })
    }

    pub(crate) fn take_resends(&mut self) -> Vec<(AttemptKey, u64, Option<u64>)> {
        self.take(|effect| match effect {
            Effect::Resend { key, first, last, .. } => Some((*key, *first, *last)),
            _ => None,
        })
    }

    /// The numbers of all events, with what each was.
    pub(crate) fn take_events(&mut self) -> Vec<(u64, String)> {
        self.take(|effect| match effect {
            Effect::ChangeStatus(change) => {
                let change = &change.message;
                let text = format!("{} -> {}", change.previous_status, change.new_status);
                Some((change.sequence.expect("numbered"), text))
            }
            Effect::Progress(progress) => {
                let text = match &progress.message.event {
                    Event::Started {} => "started".to_owned(),
                    Event::Progress(report) => format!("progress {:?}", report.message),
                    Event::Log { lines, .. } => format!("log {lines:?}"),
                    Event::Finished { return_code, message } => format!("finished {return_code:?} {message:?}"),
                    Event::Gap { count, reason } => format!("gap {count} {reason:?}"),
                };
                Some((progress.message.sequence, text))
            }
            _ => None,
        })
    }

    pub(crate) fn take_heartbeats(&mut self) -> Vec<message::Heartbeat> {
        self.take(|effect| if let Effect::Beat { heartbeat, .. } = effect { Some(heartbeat.clone()) } else { None })
    }

    pub(crate) fn take_farewells(&mut self) -> Vec<message::Ended> {
        self.take(|effect| if let Effect::Farewell(ended) = effect { Some(ended.clone()) } else { None })
    }

    pub(crate) fn take_incarnations_over(&mut self) -> Vec<Incarnation> {
        self.take(|effect| if let Effect::IncarnationOver(over) = effect { Some(*over) } else { None })
    }

    pub(crate) fn take_given_up(&mut self) -> Vec<AttemptKey> {
        self.take(|effect| if let Effect::GiveUp(keys) = effect { Some(keys.clone()) } else { None }).concat()
    }

    pub(crate) fn finished(&mut self) -> bool {
        !self.take(|effect| matches!(effect, Effect::Finish).then_some(())).is_empty()
    }
}

/// A dispatch being written.
pub(crate) struct Dispatch<'a> {
    world: &'a mut World,
    scheduled: message::Scheduled,
}

impl Dispatch<'_> {
    pub(crate) fn after(mut self, id: i64) -> Self {
        self.scheduled.starts_after = Some(key(id));
        self
    }

    pub(crate) fn fence(mut self, fence: i64) -> Self {
        self.scheduled.fence = Fence(fence);
        self
    }

    pub(crate) fn number(mut self, epoch: i64, n: u64) -> Self {
        self.world.n -= 1;
        (self.scheduled.epoch, self.scheduled.n) = (Epoch(epoch), n);
        self
    }

    pub(crate) fn action(mut self, action_ref: &str) -> Self {
        self.scheduled.action_ref = ActionRef::new(action_ref).expect("a ref");
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.scheduled.timeout_seconds = Some(timeout);
        self
    }

    pub(crate) fn start_timeout(mut self, timeout: Duration) -> Self {
        self.scheduled.start_timeout_seconds = Some(timeout);
        self
    }

    pub(crate) fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.scheduled.stall_timeout_seconds = Some(timeout);
        self
    }

    pub(crate) fn detail(mut self, detail: Detail) -> Self {
        self.scheduled.progress = detail;
        self
    }

    pub(crate) fn continue_when_isolated(mut self) -> Self {
        self.scheduled.continue_when_isolated = true;
        self
    }

    pub(crate) fn send(self) {
        let Self { world, scheduled } = self;
        world.order(Order::Scheduled(scheduled));
    }
}
