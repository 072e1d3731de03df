//! The record beside a real scheduler: what is published, what is written, and what has to be resent.

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::message::{Failure, GapReason, Heartbeat, Level, Report, Served};
use slotline_protocol::record::What;
use slotline_protocol::{ActionId, Epoch, OutcomeKind, WorkerName};
use slotline_scheduler::{Config, Counters, Limits, Outcome};
use slotline_store::Story;

use super::word::{ASK_AFTER, ASK_AGAIN, ASKS_MAX};
use super::*;

const KEPT: u64 = 100;
const ACTION: ActionId = ActionId(1);

struct World {
    scheduler: Scheduler,
    record: Record,
    now: Timestamp,
    worker: Incarnation,
    /// The events in the journal.
    written: BTreeMap<(ExecutionId, u64), Arc<Event>>,
    stories: BTreeMap<ExecutionId, Story>,
    told: Vec<Arc<Event>>,
    missing: Vec<Missing>,
    errors: BTreeMap<ExecutionId, Failure>,
    attempt_errors: BTreeMap<AttemptKey, Failure>,
    /// The status of each execution after its last published move.
    statuses: BTreeMap<ExecutionId, Status>,
}

fn action_ref() -> ActionRef {
    ActionRef::new("deploy.app").expect("a name")
}

impl World {
    fn new() -> Self {
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

    fn happens(&mut self, input: Input) {
        self.scheduler.handle(input, self.now);
        self.record.follow(&self.scheduler, self.now);
    }

    fn puts(&mut self, policy: &slotline_protocol::Policy) {
        let limits = Limits::from(policy);
        self.happens(Input::ActionPut { id: ACTION, action_ref: action_ref(), limits, paused: false });
    }

    fn beats(&mut self) {
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

    fn submits(&mut self) -> ExecutionId {
        let id = ExecutionId(self.scheduler.counters().next_id);
        self.happens(Input::Requested { token: 0, action: ACTION, key: None });
        self.commits();
        id
    }

    /// A batch is cut and committed.
    fn commits(&mut self) {
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

    fn passes(&mut self, time: Duration) {
        self.now = self.now + time;
        self.record.tick(self.now);
        self.happens(Input::Ticked);
        self.commits();
    }

    fn hears(&mut self, id: ExecutionId, attempt: u32, sequence: u64, said: Said) {
        self.now = self.now + Duration::from_micros(10);
        let word = Word { key: (id, attempt), by: self.worker, sequence: Some(sequence), at: self.now, said };
        if let Some(input) = self.record.heard(word, self.now) {
            self.happens(input);
        }
    }

    fn starts(&mut self, id: ExecutionId, attempt: u32) -> Timestamp {
        let at = self.now + Duration::from_micros(10);
        self.hears(id, attempt, 1, Said::Running);
        self.now = at;
        let word = Word { key: (id, attempt), by: self.worker, sequence: Some(2), at, said: Said::Started };
        if let Some(input) = self.record.heard(word, at) {
            self.happens(input);
        }
        at
    }

    fn completes(&mut self, id: ExecutionId, attempt: u32, started_at: Timestamp, last_sequence: u64) {
        self.ends(id, attempt, started_at, last_sequence, OutcomeKind::Completed);
    }

    fn ends(&mut self, id: ExecutionId, attempt: u32, started_at: Timestamp, last_sequence: u64, kind: OutcomeKind) {
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
        let outcome = Outcome { kind, result: None, error: None, started_at: Some(started_at), ended_at: self.now };
        self.happens(Input::Completed { key: (id, attempt), fence, incarnation: self.worker, outcome });
    }

    /// `number kind` of the published events of one execution.
    fn told(&self, id: ExecutionId) -> Vec<String> {
        let of = self.told.iter().filter(|event| event.execution_id == id);
        of.map(|event| format!("{} {}", event.number, shown(&event.what))).collect()
    }

    fn written(&self, id: ExecutionId) -> Vec<String> {
        let of = self.written.values().filter(|event| event.execution_id == id);
        of.map(|event| format!("{} {}", event.number, shown(&event.what))).collect()
    }
}

fn shown(what: &What) -> String {
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

fn says(message: &str) -> Said {
    Said::Progress(Report { message: Some(message.to_owned()), ..Report::default() })
}

const PLAIN: [&str; 6] =
    ["1 queued", "2 scheduled", "3 running", "4 started", "5 finished completed", "6 settled completed"];

#[test]
fn an_execution_that_tells_nothing_is_told_and_never_written() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.hears(id, 1, 3, Said::Finished);
    world.completes(id, 1, started_at, 3);
    world.commits();
    assert_eq!(world.told(id), PLAIN);
    assert!(world.written.is_empty() && world.stories.is_empty());
    assert!(world.record.tales.is_empty() && world.record.due.is_empty());
}

#[test]
fn a_completion_that_overtakes_all_events_needs_none_of_them() {
    let mut world = World::new();
    let id = world.submits();
    world.completes(id, 1, world.now, 3);
    world.commits();
    assert_eq!(world.told(id), PLAIN);
    assert!(world.written.is_empty() && world.missing.is_empty());
}

#[test]
fn with_the_first_report_everything_before_it_is_written_too() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.commits();
    world.hears(id, 1, 3, says("pulling"));
    world.commits();
    assert_eq!(world.written(id), ["1 queued", "2 scheduled", "3 running", "4 started", "5 pulling"]);
    assert_eq!(world.stories[&id].newest.info.as_deref(), Some("pulling"));
    world.hears(id, 1, 4, Said::Finished);
    world.completes(id, 1, started_at, 4);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 pulling", "6 finished completed", "7 settled completed"]);
    assert_eq!(world.stories[&id].last, 7, "the event that settles counts");
    assert_eq!(world.written(id).last().expect("events"), "6 finished completed", "and is not written");
}

#[test]
fn events_are_told_in_the_order_of_their_numbers_and_each_once() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    for (sequence, message) in [(5, "c"), (3, "a"), (3, "a"), (4, "b"), (5, "c"), (1, "x")] {
        world.hears(id, 1, sequence, says(message));
    }
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 a", "6 b", "7 c"]);
}

#[test]
fn what_is_missing_is_asked_for_while_the_slot_is_long_free() {
    let mut world = World::new();
    let id = world.submits();
    let next = world.submits();
    let started_at = world.starts(id, 1);
    world.completes(id, 1, started_at, 5);
    world.commits();
    assert!(world.scheduler.snapshot(next).expect("it lives").lease.is_some(), "the next in line has the slot");
    assert_eq!(world.stories[&id].awaits, Some(5), "a later leader must know of it");
    assert!(world.missing.is_empty(), "it may still be on its way");
    world.passes(ASK_AFTER);
    assert_eq!(world.missing.len(), 1);
    let missing = world.missing[0].clone();
    assert_eq!((missing.key, missing.first, missing.last), ((id, 1), 3, Some(5)));
    world.hears(id, 1, 3, says("a"));
    world.hears(id, 1, 4, says("b"));
    world.commits();
    assert_eq!(world.told(id).last().expect("events"), "6 b", "its end waits");
    world.hears(id, 1, 5, Said::Finished);
    world.commits();
    assert_eq!(world.told(id)[6..], ["7 finished completed", "8 settled completed"]);
    assert_eq!(world.stories[&id].awaits, None);
    assert!(!world.record.tales.contains_key(&id));
}

#[test]
fn what_can_not_be_had_becomes_one_gap_and_the_end_follows() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.completes(id, 1, started_at, 9);
    for _ in 0..=ASKS_MAX {
        world.passes(ASK_AGAIN);
    }
    assert_eq!(world.missing.len(), usize::try_from(ASKS_MAX).expect("few"));
    assert_eq!(world.told(id)[4..], ["5 lost 7", "6 finished completed", "7 settled completed"]);
    assert_eq!(world.written(id).len(), 6);
}

#[test]
fn a_worker_that_has_forgotten_says_so_and_that_counts_as_told() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.completes(id, 1, started_at, 6);
    world.hears(id, 1, 3, Said::Gap { count: 3, reason: GapReason::Lost });
    world.hears(id, 1, 6, Said::Finished);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 lost 3", "6 finished completed", "7 settled completed"]);
}

#[test]
fn a_number_that_nobody_could_mean_breaks_nothing() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    world.hears(id, 1, 3, Said::Gap { count: u64::MAX, reason: GapReason::Lost });
    world.hears(id, 1, u64::MAX, says("far"));
    let started_at = world.now;
    world.completes(id, 1, started_at, u64::MAX);
    world.commits();
    for _ in 0..=ASKS_MAX {
        world.passes(ASK_AGAIN);
    }
    assert!(world.told(id).last().expect("events").ends_with("settled completed"), "{:?}", world.told(id));
}

#[test]
fn numbers_go_on_across_attempts_and_a_lost_one_is_told_with_its_holes() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    world.hears(id, 1, 3, says("half way"));
    world.hears(id, 1, 6, says("further"));
    let reason = slotline_protocol::message::EndReason::Replaced;
    world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
    world.worker = Incarnation(uuid::Uuid::from_u128(2));
    world.beats();
    world.commits();
    let started_at = world.starts(id, 2);
    world.completes(id, 2, started_at, 3);
    world.commits();
    let expected = [
        "1 queued",
        "2 scheduled",
        "3 running",
        "4 started",
        "5 half way",
        "6 lost 2",
        "7 further",
        "8 finished lost",
        "9 queued",
        "10 scheduled",
        "11 running",
        "12 started",
        "13 finished completed",
        "14 settled completed",
    ];
    assert_eq!(world.told(id), expected);
    assert_eq!(world.written(id), expected[..13]);
}

#[test]
fn an_attempt_that_ends_while_events_of_the_one_before_are_awaited_is_told_after_them() {
    let mut world = World::new();
    let retry = slotline_protocol::policy::Retry { max_attempts: 2, ..Default::default() };
    let policy = slotline_protocol::Policy { retry, ..slotline_protocol::Policy::default() };
    world.puts(&policy);
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.ends(id, 1, started_at, 4, OutcomeKind::Failed);
    world.commits();
    // A resend is not answered while the next attempt comes and goes.
    world.passes(Duration::from_millis(1500));
    let started_at = world.starts(id, 2);
    world.completes(id, 2, started_at, 3);
    world.commits();
    assert_eq!(world.told(id).last().expect("events"), "4 started");
    world.hears(id, 1, 3, says("late"));
    world.hears(id, 1, 4, Said::Finished);
    world.commits();
    let rest =
        ["finished failed", "queued", "scheduled", "running", "started", "finished completed", "settled completed"];
    let rest: Vec<String> = (6..).zip(rest).map(|(number, what)| format!("{number} {what}")).collect();
    assert_eq!(world.told(id)[4..5], ["5 late"]);
    assert_eq!(world.told(id)[5..], rest);
    assert!(world.record.tales.is_empty());
}

#[test]
fn a_new_leader_goes_on_with_the_next_number_and_asks_for_the_rest() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.hears(id, 1, 3, says("a"));
    world.commits();
    // This event is never committed.
    world.hears(id, 1, 4, says("b"));
    let open = OpenStory { story: world.stories[&id].clone(), recent: Vec::new(), settled: None };
    let live = [world.scheduler.snapshot(id).expect("it lives")];
    world.record = Record::recover(KEPT, vec![open], &live, |_| Some(action_ref()), world.now);
    world.record.ask_all();
    world.scheduler.take_effects();
    world.commits();
    assert_eq!(world.missing.last().map(|missing| (missing.first, missing.last)), Some((4, None)));
    world.hears(id, 1, 4, says("b"));
    world.completes(id, 1, started_at, 5);
    world.hears(id, 1, 5, Said::Finished);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 a", "6 b", "7 finished completed", "8 settled completed"]);
}

#[test]
fn a_new_leader_tells_moves_that_were_held_back_from_where_the_last_told_one_led() {
    let mut world = World::new();
    let retry = slotline_protocol::policy::Retry { max_attempts: 2, ..Default::default() };
    world.puts(&slotline_protocol::Policy { retry, ..slotline_protocol::Policy::default() });
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.ends(id, 1, started_at, 4, OutcomeKind::Failed);
    world.commits();
    assert_eq!(world.told(id).last().expect("events"), "4 started", "its third event is awaited");
    let open = OpenStory { story: world.stories[&id].clone(), recent: Vec::new(), settled: None };
    let live = [world.scheduler.snapshot(id).expect("it backs off")];
    world.record = Record::recover(KEPT, vec![open], &live, |_| Some(action_ref()), world.now);
    world.commits();
    assert_eq!(world.told(id)[4..], ["5 lost 2", "6 queued"]);
    world.passes(Duration::from_secs(5));
    let started_at = world.starts(id, 2);
    world.completes(id, 2, started_at, 3);
    world.commits();
    let rest = ["scheduled", "running", "started", "finished completed", "settled completed"];
    let rest: Vec<String> = (7..).zip(rest).map(|(number, what)| format!("{number} {what}")).collect();
    assert_eq!(world.told(id)[6..], rest);
}

#[test]
fn a_new_leader_that_finds_only_the_row_goes_on_as_the_row_tells() {
    let mut world = World::new();
    let id = world.submits();
    let started_at = world.starts(id, 1);
    world.commits();
    let live = [world.scheduler.snapshot(id).expect("it lives")];
    world.record = Record::recover(KEPT, Vec::new(), &live, |_| Some(action_ref()), world.now);
    world.completes(id, 1, started_at, 3);
    world.commits();
    assert_eq!(world.told(id), PLAIN);
    assert!(world.written.is_empty());
}

#[test]
fn a_start_that_was_lost_is_no_attempt_and_the_next_has_its_number_under_a_grant_of_its_own() {
    let mut world = World::new();
    let id = world.submits();
    for n in 2..4 {
        let reason = slotline_protocol::message::EndReason::Replaced;
        world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
        world.worker = Incarnation(uuid::Uuid::from_u128(n));
        world.beats();
        world.commits();
    }
    let snapshot = world.scheduler.snapshot(id).expect("it lives");
    assert_eq!((snapshot.attempt, snapshot.counts_as()), (3, 1));
    let started_at = world.starts(id, 3);
    world.completes(id, 3, started_at, 3);
    world.commits();
    let told = world.told.last().expect("events");
    assert!(matches!(told.what, What::Settled { .. }) && told.attempt == 1, "{told:?}");
    assert!(world.told.iter().all(|event| event.attempt <= 1));
}

#[test]
fn the_error_of_a_sudden_end_tells_what_was_known() {
    let mut world = World::new();
    let policy = slotline_protocol::Policy { max_lost_attempts: 0, ..slotline_protocol::Policy::default() };
    world.puts(&policy);
    let id = world.submits();
    world.starts(id, 1);
    world.hears(id, 1, 3, says("Container web is running but not ready"));
    let failing =
        Report { level: Level::Error, message: Some("Readiness probe failed: 503".to_owned()), ..Report::default() };
    world.hears(id, 1, 4, Said::Progress(failing));
    let reason = slotline_protocol::message::EndReason::Replaced;
    world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
    world.commits();
    let error = &world.errors[&id];
    assert_eq!(
        error.message,
        "Execution 1 (deploy.app): attempt 1 on worker w1 was lost with it. Progress events:\n\
         Info - Container web is running but not ready\nError - Readiness probe failed: 503"
    );
    let events = &error.details.as_ref().expect("details")["progress_events"];
    assert_eq!(events.as_array().expect("an array").len(), 2);
    assert_eq!(events[1]["level"], "error");
}

#[test]
fn the_error_of_an_attempt_that_was_lost_and_is_tried_again_tells_what_was_known_of_it() {
    let mut world = World::new();
    let id = world.submits();
    for (attempt, message) in [(1, "first half"), (2, "second half")] {
        world.starts(id, attempt);
        let phase = Some(format!("phase {attempt}"));
        let report = Report { phase, message: Some(message.to_owned()), ..Report::default() };
        world.hears(id, attempt, 3, Said::Progress(report));
        let reason = slotline_protocol::message::EndReason::Replaced;
        world.happens(Input::IncarnationEnded { incarnation: world.worker, reason });
        world.worker = Incarnation(uuid::Uuid::from_u128(1 + u128::from(attempt)));
        world.beats();
        world.commits();
        let error = &world.attempt_errors[&(id, attempt)];
        assert!(error.message.ends_with(&format!("Progress events:\nInfo - {message}")), "{error:?}");
        let events = error.details.as_ref().expect("details")["progress_events"].as_array().expect("an array").len();
        assert_eq!((error.phase.as_deref(), events), (Some(&*format!("phase {attempt}")), 1), "{error:?}");
    }
    assert!(world.errors.is_empty(), "it has not settled");
}

#[test]
fn events_of_a_grant_that_counts_as_another_attempt_name_the_grant() {
    let mut world = World::new();
    let id = world.submits();
    let lease = world.scheduler.snapshot(id).and_then(|snapshot| snapshot.lease).expect("an attempt is out");
    let (fence, incarnation) = (lease.fence, lease.incarnation);
    let reason = "unknown".to_owned();
    world.happens(Input::Returned { key: (id, 1), fence, incarnation, started: false, reason });
    world.commits();
    world.starts(id, 2);
    world.hears(id, 2, 3, says("half way"));
    let number = world.record.told().last().expect("events").number;
    assert_eq!(world.record.told().last().expect("events").attempt, 1, "people count it as the first");
    assert_eq!(world.record.take().grants.get(&(id, number)), Some(&2));
}

#[test]
fn only_the_newest_events_are_kept_and_numbers_go_on() {
    let mut world = World::new();
    let id = world.submits();
    world.starts(id, 1);
    for sequence in 3..3 + 2 * KEPT {
        world.hears(id, 1, sequence, says("x"));
        world.commits();
    }
    let kept = u64::try_from(world.written(id).len()).expect("few");
    assert!((KEPT..=KEPT + KEPT / 8).contains(&kept), "{kept}");
    let story = &world.stories[&id];
    assert_eq!((story.last, story.last + 1 - story.first), (4 + 2 * KEPT, kept));
}

/// The events of one attempt that a worker sent, and may send again.
struct Talker {
    id: ExecutionId,
    said: Vec<String>,
}

impl Talker {
    fn word(&self, sequence: u64) -> Said {
        match sequence {
            1 => Said::Running,
            2 => Said::Started,
            n if n == self.last() => Said::Finished,
            n => says(&self.said[usize::try_from(n - 3).expect("few")]),
        }
    }

    fn last(&self) -> u64 {
        u64::try_from(self.said.len()).expect("few") + 3
    }
}

proptest::proptest! {
    /// Whatever is lost, doubled or overtaken on the way: what is published is whole, in order, and written as it was
    /// published.
    #[test]
    fn whatever_happens_on_the_way_the_record_is_whole(
        reports in 0..12_usize,
        way in proptest::collection::vec((0..100_u8, 0..16_u64), 0..60),
        completes_after in 0..60_usize,
        answers in proptest::collection::vec(proptest::bool::ANY, 8),
    ) {
        let mut world = World::new();
        let id = world.submits();
        let talker = Talker { id, said: (0..reports).map(|i| format!("report {i}")).collect() };
        let mut answers = answers.into_iter();
        let mut is_over = false;
        let mut sent = Vec::new();
        for (step, (chance, sequence)) in way.iter().enumerate() {
            // In any order, some twice, some never.
            if *sequence >= 1 && *sequence <= talker.last() {
                world.hears(talker.id, 1, *sequence, talker.word(*sequence));
                sent.push(*sequence);
            }
            if *chance < 30 {
                world.commits();
            }
            if step == completes_after {
                world.completes(id, 1, world.now, talker.last());
                is_over = true;
            }
        }
        if !is_over {
            world.completes(id, 1, world.now, talker.last());
        }
        world.commits();
        // Resends are answered, or not, until the record goes on without the events.
        for _ in 0..=ASKS_MAX {
            world.passes(ASK_AGAIN);
            for missing in std::mem::take(&mut world.missing) {
                if answers.next().unwrap_or(false) {
                    for sequence in missing.first..=missing.last.unwrap_or(missing.first) {
                        world.hears(id, 1, sequence, talker.word(sequence));
                    }
                    world.commits();
                }
            }
        }
        let numbers: Vec<u64> = world.told.iter().map(|event| event.number).collect();
        let expected: Vec<u64> = (1..=world.told.last().expect("events").number).collect();
        proptest::prop_assert_eq!(numbers, expected);
        proptest::prop_assert!(world.told(id).last().expect("events").ends_with("settled completed"));
        // Each report is published once and in its place, or is one of those that a gap counts.
        let mut sequence = 0;
        for event in &world.told {
            match &event.what {
                What::Status { new: Status::Running, .. } | What::Started => sequence += 1,
                What::Progress(report) => {
                    sequence += 1;
                    let expected = &talker.said[usize::try_from(sequence - 3).expect("few")];
                    proptest::prop_assert_eq!(report.message.as_ref(), Some(expected));
                }
                What::Gap { count, .. } => sequence += count,
                What::Status { .. } | What::Log { .. } | What::Finished { .. } | What::Settled { .. } => {}
            }
        }
        proptest::prop_assert!(sequence + 1 >= talker.last() && sequence <= talker.last());
        let written: Vec<String> = world.written(id);
        if !written.is_empty() {
            proptest::prop_assert_eq!(&written[..], &world.told(id)[..written.len()]);
        }
        proptest::prop_assert!(world.record.tales.is_empty() && world.record.due.is_empty());
    }
}
