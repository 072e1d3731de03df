//! A record beside a real scheduler, with a journal that has what was committed.

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::message::{Failure, GapReason, Heartbeat, Report, Served};
use slotline_protocol::record::What;
use slotline_protocol::{ActionId, Epoch, OutcomeKind, WorkerName};
use slotline_scheduler::{Config, Counters, Limits, Outcome};
use slotline_store::Story;

use crate::record::*;

pub(super) const KEPT: u64 = 100;
pub(super) const ACTION: ActionId = ActionId(1);

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) record: Record,
    pub(super) now: Timestamp,
    pub(super) worker: Incarnation,
    /// The events in the journal.
    pub(super) written: BTreeMap<(ExecutionId, u64), Arc<Event>>,
    pub(super) stories: BTreeMap<ExecutionId, Story>,
    pub(super) told: Vec<Arc<Event>>,
    pub(super) missing: Vec<MissingEvents>,
    pub(super) errors: BTreeMap<ExecutionId, Failure>,
    pub(super) attempt_errors: BTreeMap<AttemptKey, Failure>,
    /// The status of each execution after its last published move.
    pub(super) statuses: BTreeMap<ExecutionId, Status>,
}

pub(super) fn action_ref() -> ActionRef {
    ActionRef::new("deploy.app").expect("a name")
}

impl World {
    pub(super) fn new() -> Self {
        let config = Config { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(5) };
        let counters = Counters { next_id: 1, next_fence: 1, next_action: 2 };
        let mut world = Self {
            scheduler: Scheduler::new(config, Epoch(1), counters),
            record: Record::new(KEPT),
            now: Timestamp::from_micros(1_000_000),
            worker: Incarnation(uuid::Uuid::from_u128(1)),
            written: BTreeMap::new(),
            stories: BTreeMap::new(),
            told: Vec::new(),
            missing: Vec::new(),
            errors: BTreeMap::new(),
            attempt_errors: BTreeMap::new(),
            statuses: BTreeMap::new(),
        };
        let policy = slotline_protocol::Policy { limit: Some(1), ..slotline_protocol::Policy::default() };
        world.puts(&policy);
        world.happens(Input::SessionOpened);
        world.beats();
        world
    }

    pub(super) fn happens(&mut self, input: Input) {
        self.scheduler.handle(input, self.now);
        self.record.follow(&self.scheduler, self.now);
    }

    pub(super) fn puts(&mut self, policy: &slotline_protocol::Policy) {
        let limits = Limits::from(policy);
        self.happens(Input::ActionPut { id: ACTION, action_ref: action_ref(), limits, paused: false });
    }

    pub(super) fn beats(&mut self) {
        let heartbeat = Heartbeat {
            worker: WorkerName::new("w1").expect("a name"),
            incarnation: self.worker,
            capacity: 10,
            holding: Vec::new(),
            unrecorded: Vec::new(),
            seen: (Epoch(0), 0),
            actions: vec![Served { action_ref: action_ref(), capabilities: Vec::new() }],
            labels: BTreeMap::new(),
            draining: false,
            sent_at: self.now,
            journal: None,
            highest: Default::default(),
            account: None,
            process: None,
        };
        self.happens(Input::Heartbeat(heartbeat));
    }

    pub(super) fn submits(&mut self) -> ExecutionId {
        let id = ExecutionId(self.scheduler.counters().next_id);
        self.happens(Input::Requested { token: 0, action: ACTION, key: None, bytes: 2 });
        self.commits();
        id
    }

    /// A batch is cut and committed.
    pub(super) fn commits(&mut self) {
        self.scheduler.take_effects();
        let out = self.record.take();
        for event in out.events {
            let before = self.written.insert((event.execution_id, event.number), event);
            assert!(before.is_none(), "a number is written once");
        }
        for (id, story) in out.stories {
            self.written.retain(|(of, number), _| *of != id || *number >= story.first);
            self.stories.insert(id, story);
        }
        for event in &out.told {
            let (previous, new) = match event.what {
                What::Status { previous, new, .. } => (previous, new),
                What::Settled { previous, status, .. } => (previous, status),
                _ => continue,
            };
            let before = self.statuses.insert(event.execution_id, new).unwrap_or(Status::Requested);
            assert_eq!(before, previous, "moves are a chain: {event:?}");
        }
        self.told.extend(out.told);
        self.missing.extend(out.missing);
        self.errors.extend(out.errors);
        self.attempt_errors.extend(out.attempt_errors);
    }

    pub(super) fn passes(&mut self, time: Duration) {
        self.now = self.now + time;
        self.record.tick(self.now);
        self.happens(Input::Ticked);
        self.commits();
    }

    pub(super) fn hears(&mut self, id: ExecutionId, attempt: u32, sequence: u64, said: AttemptEventKind) {
        self.now = self.now + Duration::from_micros(10);
        let word = AttemptEvent { key: (id, attempt), by: self.worker, sequence: Some(sequence), at: self.now, said };
        if let Some(input) = self.record.heard(word, self.now) {
            self.happens(input);
        }
    }

    pub(super) fn starts(&mut self, id: ExecutionId, attempt: u32) -> Timestamp {
        let at = self.now + Duration::from_micros(10);
        self.hears(id, attempt, 1, AttemptEventKind::Running);
        self.now = at;
        let word = AttemptEvent {
            key: (id, attempt),
            by: self.worker,
            sequence: Some(2),
            at,
            said: AttemptEventKind::Started,
        };
        if let Some(input) = self.record.heard(word, at) {
            self.happens(input);
        }
        at
    }

    pub(super) fn completes(&mut self, id: ExecutionId, attempt: u32, started_at: Timestamp, last_sequence: u64) {
        self.ends(id, attempt, started_at, last_sequence, OutcomeKind::Completed);
    }

    pub(super) fn ends(
        &mut self,
        id: ExecutionId,
        attempt: u32,
        started_at: Timestamp,
        last_sequence: u64,
        kind: OutcomeKind,
    ) {
        self.now = self.now + Duration::from_micros(10);
        let fence = self.scheduler.snapshot(id).and_then(|s| s.lease).expect("an attempt is out").fence;
        self.record.ended(End {
            key: (id, attempt),
            fence,
            last_sequence,
            started_at: Some(started_at),
            at: self.now,
            outcome: Some(kind),
            return_code: None,
            message: None,
        });
        let outcome =
            Outcome { kind, result: None, error: None, started_at: Some(started_at), ended_at: self.now, held: None };
        self.happens(Input::Completed { key: (id, attempt), fence, incarnation: self.worker, outcome });
    }

    /// `number kind` of the published events of one execution.
    pub(super) fn told(&self, id: ExecutionId) -> Vec<String> {
        let of = self.told.iter().filter(|event| event.execution_id == id);
        of.map(|event| format!("{} {}", event.number, shown(&event.what))).collect()
    }

    pub(super) fn written(&self, id: ExecutionId) -> Vec<String> {
        let of = self.written.values().filter(|event| event.execution_id == id);
        of.map(|event| format!("{} {}", event.number, shown(&event.what))).collect()
    }
}

pub(super) fn shown(what: &What) -> String {
    match what {
        What::Status { new, .. } => new.to_string(),
        What::Progress(report) => report.message.clone().unwrap_or_default(),
        What::Gap { count, reason: GapReason::Lost } => format!("lost {count}"),
        What::Gap { count, reason } => format!("gap {count} {reason:?}"),
        What::Finished { outcome, .. } => format!("finished {}", outcome.expect("an outcome")),
        What::Settled { status, .. } => format!("settled {status}"),
        What::Started | What::Log { .. } => what.kind().as_str().to_owned(),
    }
}

pub(super) fn says(message: &str) -> AttemptEventKind {
    AttemptEventKind::Progress(Report { message: Some(message.to_owned()), ..Report::default() })
}

pub(super) const PLAIN: [&str; 6] =
    ["1 queued", "2 scheduled", "3 running", "4 started", "5 finished completed", "6 settled completed"];
