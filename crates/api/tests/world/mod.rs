//! The API under test: a journal with two actions and one waiting execution, and an executor that records.

#![allow(dead_code, reason = "each test target uses its part")]

pub(crate) mod event_writer;
pub(crate) mod listener;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use event_writer::EventWriter;
use futures::FutureExt;
use futures::future::BoxFuture;
use listener::Listener;
use serde_json::{Value, json};
use slotline_api::control::LineQuery;
use slotline_api::{ApiServices, Condition, Control, ControlError, Hub, RefusalKind, Submission, Tokens};
use slotline_protocol::audit::Changed;
use slotline_protocol::change::{Applied, ChangeOutcome, Declared, LimitOverride, differences, pause_difference};
use slotline_protocol::http::{Action, Health, Part, QueueStats, Role, Submitted, WaitReason, Waiting, Worker};
use slotline_protocol::lines::{Holder, InLine, LinePage};
use slotline_protocol::message::Reply;
use slotline_protocol::{ActionId, ActionRef, By, Detail, ExecutionId, Fence, Policy, Status, Timestamp};
use slotline_scheduler::{Counters, Snapshot};
use slotline_store::{AcceptedRequest, ActionChange, Audit, Batch, Store};
use tower::ServiceExt;

pub(crate) struct World {
    pub(crate) control: Arc<Recorder>,
    pub(crate) waiting: ExecutionId,
    pub(crate) hub: Arc<Hub>,
    pub store: Store,
    router: Router,
}

impl World {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        Self::build(Tokens::default()).await
    }

    /// With these tokens, as a file holds them.
    pub(crate) async fn guarded(tokens: &str) -> anyhow::Result<Self> {
        Self::build(Tokens::parse(tokens)?).await
    }

    async fn build(tokens: Tokens) -> anyhow::Result<Self> {
        let store = Store::open("sqlite::memory:").await?;
        store.migrate().await?;
        let waiting = fill(&store).await?;
        let control = Arc::new(Recorder { waiting, ..Recorder::default() });
        let hub: Arc<Hub> = Arc::default();
        let state =
            ApiServices { control: control.clone(), store: store.clone(), tokens, hub: hub.clone(), page: None };
        Ok(Self { control, waiting, hub, store, router: slotline_api::router(state) })
    }

    /// For a separate server.
    pub(crate) fn state(&self) -> ApiServices {
        ApiServices {
            control: self.control.clone(),
            store: self.store.clone(),
            tokens: Tokens::default(),
            hub: self.hub.clone(),
            page: None,
        }
    }

    /// Takes the lead, and writes the record of the execution that waits.
    pub(crate) async fn event_writer(&self) -> anyhow::Result<EventWriter> {
        EventWriter::new(&self.store, self.hub.clone(), self.waiting).await
    }

    /// The path of that execution's events.
    pub(crate) fn events(&self, query: &str) -> String {
        format!("/api/v1/executions/{}/events{query}", self.waiting)
    }

    /// Opens a stream, which must begin.
    pub(crate) async fn listen(&self, request: TestRequest) -> anyhow::Result<Listener> {
        let name = format!("{request:?}");
        let response = self.response(request.header("accept", "text/event-stream")).await?;
        let (parts, body) = response.into_parts();
        anyhow::ensure!(parts.status == StatusCode::OK, "{name}: {}", parts.status);
        let kind = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
        anyhow::ensure!(kind == Some("text/event-stream"), "{name}: {kind:?}");
        Ok(Listener::new(body))
    }

    pub(crate) async fn response(&self, request: TestRequest) -> anyhow::Result<axum::response::Response> {
        let mut built = Request::builder().method(request.method).uri(request.uri);
        if request.is_meant {
            built = built.header(slotline_api::INTENT_HEADER, "1");
        }
        for (name, value) in request.headers {
            built = built.header(name, value);
        }
        Ok(self.router.clone().oneshot(built.body(Body::from(request.body))?).await?)
    }

    /// Sends many at once, without waiting for an answer.
    pub(crate) fn ask_and_leave(&self, request: &TestRequest, times: usize) {
        for _ in 0..times {
            let built = Request::builder().method(request.method).uri(&request.uri).body(Body::empty());
            tokio::spawn(self.router.clone().oneshot(built.expect("a sound request")));
        }
    }

    pub(crate) async fn ask(&self, request: TestRequest) -> anyhow::Result<TestAnswer> {
        let (parts, body) = self.response(request).await?.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 24).await?;
        let kind = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
        anyhow::ensure!(kind == Some("application/json"), "{kind:?}: {}", String::from_utf8_lossy(&bytes));
        Ok(TestAnswer { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&bytes)? })
    }
}

async fn fill(store: &Store) -> anyhow::Result<ExecutionId> {
    let now = Timestamp::from_micros(1_763_713_800_000_000);
    let mut leadership = store.lead("test").await?;
    leadership.recover().await?;
    let snapshot = Snapshot {
        id: ExecutionId(3),
        action: ActionId(1),
        key: None,
        status: Status::Queued,
        place: 3,
        attempt: 0,
        tried: 0,
        failures: 0,
        losses: 0,
        enqueued_at: now,
        queued_at: now,
        not_before: None,
        keeps_slot: false,
        cancel_requested: false,
        is_bulky: false,
        lease: None,
    };
    let request = slotline_store::Request {
        name: Some("message/1".into()),
        digest: [7; 32],
        parameters: serde_json::value::to_raw_value(&json!({"n": 1}))?.into(),
        timeout: None,
        detail: Detail::Default,
        correlation_id: None,
        trace_id: None,
        source: None,
        reply_to: None,
        reply: Reply::Accepted,
    };
    leadership
        .commit(&Batch {
            number: 1,
            counters: Counters { next_id: 4, next_fence: 1, next_action: 3 },
            actions: vec![
                ActionChange::Put(action(1, "demo.echo", Policy::default())),
                ActionChange::Put(action(2, "demo.other", Policy::default())),
            ],
            accepted: vec![AcceptedRequest { snapshot, request: request.into() }],
            audit: audit(now),
            ..Batch::default()
        })
        .await?;
    leadership.release().await;
    Ok(ExecutionId(3))
}

/// The audit: an action paused and resumed by two people, and an execution cancelled by a publisher.
fn audit(now: Timestamp) -> Vec<Audit> {
    let of = action(1, "demo.echo", Policy::default());
    let paused =
        |by, changed, paused| Audit::of_action(now, changed, by, &of, Fence(1), vec![pause_difference(paused)]);
    let name = of.action_ref.clone();
    vec![
        paused(By::http("alice", Some("a flood".to_owned())), Changed::Paused, true),
        paused(By::http("bob", None), Changed::Resumed, false),
        Audit::of_cancel(now, By::publisher(Some("shop"), None), ExecutionId(3), (ActionId(1), name)),
    ]
}

fn action(id: i64, name: &str, policy: Policy) -> Action {
    let moment = Timestamp::from_micros(1_763_713_800_000_000);
    Action {
        action_id: ActionId(id),
        action_ref: ActionRef::new(name).expect("a name"),
        paused: false,
        policy,
        limit_override: None,
        created_at: moment,
        updated_at: moment,
    }
}

/// A request to send.
#[derive(Clone)]
pub(crate) struct TestRequest {
    method: &'static str,
    uri: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether it has the header that no form can send.
    is_meant: bool,
}

impl std::fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body).chars().take(80).collect::<String>();
        write!(f, "{} {} {body}", self.method, self.uri)
    }
}

impl TestRequest {
    pub(crate) fn new(method: &'static str, uri: &str) -> Self {
        Self { method, uri: uri.to_owned(), headers: Vec::new(), body: Vec::new(), is_meant: true }
    }

    /// Without that header, as a form would send it.
    pub(crate) fn unmeant(self) -> Self {
        Self { is_meant: false, ..self }
    }

    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    pub(crate) fn body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }

    pub(crate) fn get(uri: &str) -> Self {
        Self::new("GET", uri)
    }

    pub(crate) fn put(uri: &str) -> Self {
        Self::new("PUT", uri)
    }

    pub(crate) fn patch(uri: &str) -> Self {
        Self::new("PATCH", uri)
    }

    pub(crate) fn post(uri: &str) -> Self {
        Self::new("POST", uri)
    }

    pub(crate) fn delete(uri: &str) -> Self {
        Self::new("DELETE", uri)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.text("application/json; charset=utf-8", &body.to_string())
    }

    pub(crate) fn text(self, kind: &str, body: &str) -> Self {
        self.bytes(kind, body.as_bytes())
    }

    pub(crate) fn bytes(self, kind: &str, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self.header("content-type", kind) }
    }
}

pub(crate) struct TestAnswer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Value,
}

impl TestAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// `actor` or `actor: reason`.
fn actor_of(by: &By) -> String {
    by.reason.as_ref().map_or_else(|| by.actor.clone(), |reason| format!("{}: {reason}", by.actor))
}

fn spelt(LineQuery { action_ref, line, cursor, limit }: &LineQuery) -> String {
    format!("{action_ref} {line:?} {cursor:?} {limit}")
}

/// The lines of both actions, in which nothing waits.
fn queue_stats() -> [QueueStats; 2] {
    [(1, "demo.echo"), (2, "demo.other")].map(|(id, name)| QueueStats {
        action_id: ActionId(id),
        action_ref: ActionRef::new(name).expect("a name"),
        queue_length: 0,
        active_count: 0,
        ahead_count: 0,
        max_concurrent: None,
        declared_limit: None,
        limit_override: None,
        key_limit: None,
        oldest_enqueued_at: None,
        total_enqueued: 0,
        total_completed: 0,
        last_updated: Timestamp::from_micros(0),
        paused: false,
        wait_seconds: None,
        run_seconds: None,
        keys: Vec::new(),
    })
}

/// An executor that records its calls, and answers as the test sets it up.
#[derive(Default)]
pub(crate) struct Recorder {
    calls: Mutex<Vec<String>>,
    refusal: Mutex<Option<ControlError>>,
    is_alone: Mutex<bool>,
    is_cut_off: Mutex<bool>,
    is_stalled: Mutex<bool>,
    workers: Mutex<Vec<Worker>>,
    waiting: ExecutionId,
    answered: Mutex<Vec<String>>,
}

impl Recorder {
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no test panics with it").clone()
    }

    /// What was answered: the status and the route of each request.
    pub(crate) fn answered(&self) -> Vec<String> {
        self.answered.lock().expect("no test panics with it").clone()
    }

    pub(crate) fn refuse(&self, refusal: ControlError) {
        *self.refusal.lock().expect("no test panics with it") = Some(refusal);
    }

    pub(crate) fn lose_the_leader(&self) {
        *self.is_alone.lock().expect("no test panics with it") = true;
    }

    /// From now on calls for the workers are never answered.
    pub(crate) fn stall(&self) {
        *self.is_stalled.lock().expect("no test panics with it") = true;
    }

    pub(crate) fn employ(&self, workers: Vec<Worker>) {
        *self.workers.lock().expect("no test panics with it") = workers;
    }

    pub(crate) fn lose_the_broker(&self) {
        *self.is_cut_off.lock().expect("no test panics with it") = true;
    }

    fn answer<T: Send + 'static>(&self, call: String, answer: T) -> BoxFuture<'_, Result<T, ControlError>> {
        self.calls.lock().expect("no test panics with it").push(call);
        self.quietly(answer)
    }

    fn quietly<T: Send + 'static>(&self, answer: T) -> BoxFuture<'_, Result<T, ControlError>> {
        let refusal = self.refusal.lock().expect("no test panics with it").clone();
        async move { refusal.map_or(Ok(answer), Err) }.boxed()
    }

    fn leads(&self) -> bool {
        !*self.is_alone.lock().expect("no test panics with it")
    }
}

impl Control for Recorder {
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Submitted, ControlError>> {
        let message_id = submission.message_id.unwrap_or_else(|| "made".to_owned());
        let call = format!("submit {} {message_id} {}", submission.body.action_ref, submission.body.parameters);
        let submitted = if self.leads() {
            let execution_id = Some(ExecutionId(7));
            Submitted { message_id, execution_id, status: Status::Queued, position: Some(1) }
        } else {
            Submitted { message_id, execution_id: None, status: Status::Requested, position: None }
        };
        self.answer(call, submitted)
    }

    fn cancel(&self, id: ExecutionId, by: By) -> BoxFuture<'_, Result<Status, ControlError>> {
        self.answer(format!("cancel {id} {}", actor_of(&by)), Status::Cancelled)
    }

    fn put_action(
        &self,
        action_ref: ActionRef,
        policy: Policy,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<(Action, bool), ControlError>> {
        let is_new = !action_ref.as_str().starts_with("demo.");
        if let Err(refused) = condition.check_put(&action_ref, (!is_new).then_some(&Policy::default())) {
            return async { Err(refused) }.boxed();
        }
        self.answer(format!("put {action_ref} {}", actor_of(&by)), (action(9, action_ref.as_str(), policy), is_new))
    }

    fn patch_action(
        &self,
        action_ref: ActionRef,
        patch: Value,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<Action, ControlError>> {
        if let Err(refused) = condition.check(&action_ref, Some(&Policy::default())) {
            return async { Err(refused) }.boxed();
        }
        let policy = match Policy::default().merged(&patch) {
            Ok(policy) => policy,
            Err(refusal) => return async { Err(ControlError { kind: RefusalKind::Invalid, refusal }) }.boxed(),
        };
        self.answer(format!("patch {action_ref} {patch} {}", actor_of(&by)), action(1, action_ref.as_str(), policy))
    }

    fn apply(
        &self,
        actions: Vec<Declared>,
        dry_run: bool,
        by: By,
    ) -> BoxFuture<'_, Result<Vec<Applied>, ControlError>> {
        let applied = |declared: &Declared| Applied {
            action_ref: declared.action_ref.clone(),
            action_id: None,
            outcome: ChangeOutcome::Created,
            changes: differences(None, Some(&declared.policy)),
            limit_override: None,
        };
        let names: Vec<&str> = actions.iter().map(|declared| declared.action_ref.as_str()).collect();
        let call = format!("apply {} {dry_run} {}", names.join(","), actor_of(&by));
        self.answer(call, actions.iter().map(applied).collect())
    }

    fn delete_action(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<(), ControlError>> {
        self.answer(format!("delete {action_ref} {}", actor_of(&by)), ())
    }

    fn pause(&self, action_ref: ActionRef, paused: bool, by: By) -> BoxFuture<'_, Result<Action, ControlError>> {
        let action = Action { paused, ..action(1, action_ref.as_str(), Policy::default()) };
        self.answer(format!("pause {action_ref} {paused} {}", actor_of(&by)), action)
    }

    fn override_limit(
        &self,
        action_ref: ActionRef,
        limit: Option<u32>,
        duration: Duration,
        by: By,
    ) -> BoxFuture<'_, Result<Action, ControlError>> {
        let since = Timestamp::from_micros(0);
        let call = format!("override {action_ref} {limit:?} {duration:?} {}", actor_of(&by));
        let temporary = LimitOverride { limit, until: since + duration, since, actor: by.actor, reason: by.reason };
        let limit_override = Some(temporary);
        self.answer(call, Action { limit_override, ..action(1, action_ref.as_str(), Policy::default()) })
    }

    fn clear_override(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<Action, ControlError>> {
        let call = format!("clear {action_ref} {}", actor_of(&by));
        self.answer(call, action(1, action_ref.as_str(), Policy::default()))
    }

    fn queue_stats(&self, action_ref: ActionRef) -> BoxFuture<'_, Result<Option<QueueStats>, ControlError>> {
        self.quietly(queue_stats().into_iter().find(|stats| stats.action_ref == action_ref))
    }

    fn queues(&self, after: Option<ActionRef>, limit: usize) -> BoxFuture<'_, Result<Vec<QueueStats>, ControlError>> {
        let behind = |stats: &QueueStats| after.as_ref().is_none_or(|after| stats.action_ref > *after);
        self.quietly(queue_stats().into_iter().filter(behind).take(limit).collect())
    }

    fn waiting(&self, query: LineQuery) -> BoxFuture<'_, Result<LinePage<InLine>, ControlError>> {
        let moment = Timestamp::from_micros(0);
        let item = InLine {
            position: 1,
            execution_id: self.waiting,
            concurrency_key: None,
            attempt: 0,
            enqueued_at: moment,
            queued_at: moment,
            is_sent_ahead: false,
            eta_low: Some(moment),
            eta_high: Some(moment),
        };
        let page = LinePage { data: vec![item], next_cursor: Some("3.3".to_owned()) };
        self.answer(format!("waiting {}", spelt(&query)), page)
    }

    fn holders(&self, query: LineQuery) -> BoxFuture<'_, Result<LinePage<Holder>, ControlError>> {
        self.answer(format!("holders {}", spelt(&query)), LinePage { data: Vec::new(), next_cursor: None })
    }

    fn explain(&self, ids: Vec<ExecutionId>) -> BoxFuture<'_, Result<Vec<(ExecutionId, Waiting)>, ControlError>> {
        if !self.leads() {
            return async { Err(ControlError::unavailable("no leader")) }.boxed();
        }
        let waiting = Waiting {
            reason: WaitReason::Limit,
            message: "all slots are taken".to_owned(),
            held_by: vec![ExecutionId(1)],
            position: 3,
            until: None,
            eta_low: None,
            eta_high: None,
        };
        let found = ids.into_iter().filter(|id| *id == self.waiting).map(|id| (id, waiting.clone())).collect();
        self.quietly(found)
    }

    fn workers(&self) -> BoxFuture<'_, Result<Vec<Worker>, ControlError>> {
        if *self.is_stalled.lock().expect("no test panics with it") {
            self.calls.lock().expect("no test panics with it").push("stalled".to_owned());
            return futures::future::pending().boxed();
        }
        self.quietly(self.workers.lock().expect("no test panics with it").clone())
    }

    fn replay_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), ControlError>> {
        self.answer(format!("replay {id} {}", actor_of(&by)), ())
    }

    fn drop_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), ControlError>> {
        let done = self.answer(format!("drop {id} {}", actor_of(&by)), ());
        async move { if id == "d-1" { done.await } else { Err(ControlError::unknown_dead_letter(&id)) } }.boxed()
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        let ok = !*self.is_cut_off.lock().expect("no test panics with it");
        let detail = (!ok).then(|| "no connection to amqp.internal".to_owned());
        let health = Health {
            role: Role::Leader,
            database: Part { ok: true, detail: None },
            broker: Part { ok, detail },
            warnings: Vec::new(),
        };
        async move { health }.boxed()
    }

    fn metrics(&self, open_streams: usize) -> BoxFuture<'_, Result<String, ControlError>> {
        self.quietly(format!("slotline_streams {open_streams}\n# EOF\n"))
    }

    fn answered(&self, route: &str, status: u16, _took: Duration) {
        self.answered.lock().expect("no test panics with it").push(format!("{status} {route}"));
    }
}
