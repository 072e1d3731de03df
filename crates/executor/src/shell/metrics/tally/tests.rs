//! Batches, and what they count as.

use prometheus_client::encoding::text::encode;
use serde_json::json;
use slotline_protocol::{ActionRef, Fence, Incarnation, Policy, WorkerName};
use slotline_store::AcceptedRequest;

use super::*;

const ACTION: ActionId = ActionId(1);

struct World {
    registry: Registry,
    executions: ExecutionCounts,
}

impl World {
    /// A leader of `demo.deploy` with one slot.
    fn new() -> Self {
        let mut registry = Registry::default();
        let executions = ExecutionCounts::register(&mut registry);
        executions.begin_term([action(1, "demo.deploy")].iter(), &[]);
        Self { registry, executions }
    }

    /// The value of a series as a scrape shows it.
    fn value(&self, series: &str) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in\n{text}")).to_owned()
    }
}

fn action(id: i64, name: &str) -> Action {
    let policy = Policy { limit: Some(1), ..Policy::default() };
    let action = json!({
        "action_id": id, "action_ref": name, "paused": false, "policy": policy,
        "created_at": at(0), "updated_at": at(0),
    });
    serde_json::from_value(action).expect("an action")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_763_713_800_000_000 + second * 1_000_000)
}

fn lease(started: Option<i64>) -> Lease {
    Lease {
        worker: WorkerName::new("w-1").expect("a name"),
        incarnation: Incarnation(uuid::Uuid::from_u128(1)),
        fence: Fence(1),
        scheduled_at: at(0),
        started_at: started.map(at),
        after: None,
    }
}

fn live(id: i64, queued: i64, started: i64) -> Snapshot {
    Snapshot {
        id: ExecutionId(id),
        action: ACTION,
        key: None,
        status: Status::Running,
        place: id,
        attempt: 1,
        tried: 0,
        failures: 0,
        losses: 0,
        enqueued_at: at(queued),
        queued_at: at(queued),
        not_before: None,
        keeps_slot: false,
        cancel_requested: false,
        is_bulky: false,
        lease: Some(lease(Some(started))),
    }
}

fn settled(id: i64, status: Status, queued: i64, started: Option<i64>, ended: i64) -> Arc<Settled> {
    Arc::new(Settled {
        id: ExecutionId(id),
        action: ACTION,
        action_ref: ActionRef::new("demo.deploy").expect("a name"),
        status,
        attempt: 1,
        queued_at: at(queued),
        counts_as: 1,
        failures: 0,
        losses: 0,
        lease: started.map(|started| lease(Some(started))),
        result: None,
        error: None,
        ended_at: at(ended),
    })
}

fn lost(id: i64, started: Option<i64>) -> AttemptEnded {
    AttemptEnded {
        id: ExecutionId(id),
        action: ACTION,
        attempt: 1,
        queued_at: at(0),
        lease: lease(started),
        outcome: OutcomeKind::Lost,
        result: None,
        error: None,
        ended_at: at(9),
    }
}

#[test]
fn an_attempt_counts_once_whether_its_start_was_journaled_apart_from_its_end_or_not() {
    let world = World::new();
    // The first is seen to run, and again for another reason; the second starts and ends within one batch.
    world.executions.count(&Batch { live: vec![live(1, 0, 2)], ..Batch::default() });
    world.executions.count(&Batch { live: vec![live(1, 0, 2)], ..Batch::default() });
    let both = vec![settled(1, Status::Completed, 0, Some(2), 5), settled(2, Status::Failed, 1, Some(6), 10)];
    world.executions.count(&Batch { settled: both, ..Batch::default() });

    assert_eq!(world.value(r#"executions_settled_total{action="demo.deploy",status="completed"}"#), "1");
    assert_eq!(world.value(r#"executions_settled_total{action="demo.deploy",status="failed"}"#), "1");
    assert_eq!(world.value(r#"attempts_total{action="demo.deploy",outcome="failed"}"#), "1");
    assert_eq!(world.value(r#"execution_wait_seconds_count{action="demo.deploy"}"#), "2");
    assert_eq!(world.value(r#"execution_wait_seconds_sum{action="demo.deploy"}"#), "7.0");
    assert_eq!(world.value(r#"attempt_run_seconds_sum{action="demo.deploy"}"#), "7.0");
    // From 5 to 6; the first one had none before it.
    assert_eq!(world.value(r#"handoff_seconds_count{action="demo.deploy"}"#), "1");
    assert_eq!(world.value(r#"handoff_seconds_sum{action="demo.deploy"}"#), "1.0");
}

#[test]
fn a_start_in_the_batch_of_the_end_before_it_is_handed_off_by_that_end() {
    let world = World::new();
    let (first, second) = (settled(1, Status::Completed, 0, Some(1), 3), settled(2, Status::Completed, 0, Some(4), 8));
    world.executions.count(&Batch { settled: vec![first], ..Batch::default() });
    world.executions.count(&Batch { settled: vec![second], live: vec![live(3, 0, 10)], ..Batch::default() });
    assert_eq!(world.value(r#"handoff_seconds_sum{action="demo.deploy"}"#), "3.0");
}

#[test]
fn what_had_not_waited_when_the_slot_became_free_is_no_hand_off() {
    let world = World::new();
    let (first, second) =
        (settled(1, Status::Completed, 0, Some(1), 3), settled(2, Status::Completed, 60, Some(61), 62));
    world.executions.count(&Batch { settled: vec![first, second], ..Batch::default() });
    assert_eq!(world.value(r#"handoff_seconds_count{action="demo.deploy"}"#), "0");
}

#[test]
fn a_grant_that_was_lost_before_its_start_is_no_attempt() {
    let world = World::new();
    world.executions.count(&Batch { attempts: vec![lost(1, None), lost(2, Some(3))], ..Batch::default() });
    assert_eq!(world.value(r#"attempts_total{action="demo.deploy",outcome="lost"}"#), "1");
}

#[test]
fn an_execution_that_ends_in_its_line_settles_without_an_attempt() {
    let world = World::new();
    world.executions.count(&Batch { settled: vec![settled(1, Status::Cancelled, 0, None, 4)], ..Batch::default() });
    assert_eq!(world.value(r#"executions_settled_total{action="demo.deploy",status="cancelled"}"#), "1");
    assert_eq!(world.value(r#"attempts_total{action="demo.deploy",outcome="cancelled"}"#), "0");
}

#[test]
fn the_actions_beyond_the_first_hundred_share_one_series() {
    let world = World::new();
    let actions = (2..=150).map(|id| ActionChange::Put(action(id, &format!("demo.n{id}"))));
    world.executions.count(&Batch { actions: actions.collect(), ..Batch::default() });
    let request: slotline_store::Request = request();
    let accepted = |id: i64| AcceptedRequest {
        snapshot: Snapshot { action: ActionId(id), lease: None, ..live(id, 0, 0) },
        request: Arc::new(request.clone()),
    };
    world.executions.count(&Batch { accepted: (1..=150).map(accepted).collect(), ..Batch::default() });
    assert_eq!(world.value(r#"executions_accepted_total{action="demo.n100"}"#), "1");
    assert_eq!(world.value(r#"executions_accepted_total{action="_other"}"#), "50");
}

fn request() -> slotline_store::Request {
    slotline_store::Request {
        name: None,
        digest: [0; 32],
        parameters: serde_json::value::RawValue::from_string("{}".to_owned()).expect("JSON").into(),
        timeout: None,
        detail: slotline_protocol::Detail::default(),
        correlation_id: None,
        trace_id: None,
        source: None,
        reply_to: None,
        reply: slotline_protocol::message::Reply::default(),
    }
}
