use std::collections::BTreeMap;

use slotline_protocol::envelope::{self, Defaults, Envelope};
use slotline_protocol::message::{Completed, EndReason, Hello, Message};
use slotline_protocol::proof::{Ring, SECRET_BYTES, Secret};
use slotline_protocol::{Epoch, Timestamp, WorkerName};
use uuid::Uuid;

use super::*;
use crate::duty::{Config, Terms};

const NOW: Now = Now { boot: Duration::from_secs(1), wall: Timestamp::from_micros(0) };

fn incarnation(number: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(number))
}

fn name() -> WorkerName {
    WorkerName::new("w1").expect("a name")
}

fn ring() -> Ring {
    Ring::new(Secret::new(&[1; SECRET_BYTES]).expect("long enough"))
}

/// A driver, and what it asked for last.
struct Desk(Driver<Envelopes>);

impl Desk {
    fn new() -> Self {
        let wire = Envelopes::new(&name(), Uuid::from_u128(9), incarnation(1), "nonce 1".to_owned());
        Self(Driver::new(incarnation(1), wire))
    }

    /// One that has a session, and that executors know.
    fn known() -> Self {
        let mut desk = Self::new();
        desk.handle(Input::Subscribed { incarnation: incarnation(1), sizes: Sizes::FULL });
        desk.handle(delivered(hello(1), true));
        desk
    }

    fn handle(&mut self, input: Input) -> Vec<DriverAction> {
        self.0.handle(NOW, input);
        std::iter::from_fn(|| self.0.next_action()).filter(|action| !matches!(action, DriverAction::Log(_))).collect()
    }

    fn asked(&mut self, effects: Vec<Effect>) -> Vec<DriverAction> {
        self.handle(Input::Asked(effects))
    }

    fn turn_ended(&mut self) -> Vec<DriverAction> {
        self.handle(Input::TurnEnded)
    }
}

/// The first hello to an incarnation, with its token.
fn hello(number: u128) -> ReceivedMessage {
    let hello = Hello {
        epoch: Epoch(1),
        n: 1,
        lease_seconds: None,
        fence_seconds: None,
        heartbeat_seconds: None,
        lost: false,
        journal: None,
        account: false,
        refused: None,
    };
    let body = envelope::write(&Envelope::new(&hello, "executor", NOW.wall));
    ReceivedMessage {
        is_to_all: false,
        proof: Some(ring().order(incarnation(number), &body)),
        nonce: Some(format!("nonce {number}")),
        token: Some(ring().token(incarnation(number)).to_string()),
        defaults: Defaults::default(),
        body,
    }
}

fn delivered(delivery: ReceivedMessage, is_last: bool) -> Input {
    Input::Delivered { incarnation: incarnation(1), delivery, is_last }
}

fn beat() -> Effect {
    let config = Config {
        worker: name(),
        capacity: 1,
        actions: BTreeMap::new(),
        labels: BTreeMap::new(),
        terms: Terms::default(),
        drain_timeout: Duration::ZERO,
        process: None,
    };
    let mut effects = Vec::new();
    duty::Duty::new(config, incarnation(1), NOW).handle(NOW, duty::Input::Tick, &mut effects);
    effects.into_iter().find(|effect| matches!(effect, Effect::Beat { .. })).expect("a heartbeat")
}

fn farewell(number: u128) -> Effect {
    Effect::Farewell(Ended {
        worker: name(),
        incarnation: incarnation(number),
        reason: EndReason::Fence,
        outcomes: Vec::new(),
        returned: Vec::new(),
        told_by: None,
        has_more: false,
    })
}

fn outcome() -> Effect {
    let message: Completed = serde_json::from_value(serde_json::json!({
        "execution_id": 1, "action_id": 1, "action_ref": "demo.echo", "attempt": 1, "fence": 1, "worker": "w1",
        "incarnation": incarnation(1), "last_sequence": 3, "status": "completed",
        "completed_at": "2026-11-21T08:30:00.000000Z",
    }))
    .expect("a completion");
    Effect::Complete(duty::Traced { message, correlation_id: None, trace_id: None })
}

fn published(actions: &[DriverAction]) -> Vec<&'static str> {
    let published = actions.iter().map(|action| match action {
        DriverAction::Publish(publication) => publication.message_type,
        other => panic!("{other:?}"),
    });
    published.collect()
}

fn first_id(actions: &[DriverAction]) -> u64 {
    let Some(DriverAction::Publish(publication)) = actions.first() else { panic!("{actions:?}") };
    publication.id
}

#[test]
fn before_an_executor_knows_the_incarnation_only_heartbeats_leave() {
    let mut desk = Desk::new();
    assert!(desk.asked(vec![beat()]).is_empty(), "there is no session");
    desk.handle(Input::Subscribed { incarnation: incarnation(1), sizes: Sizes::FULL });
    assert_eq!(published(&desk.asked(vec![farewell(0), beat(), outcome()])), [Heartbeat::TYPE]);
    assert!(desk.turn_ended().is_empty(), "outcomes are reported again in time");
    desk.handle(delivered(hello(1), true));
    assert_eq!(published(&desk.asked(vec![farewell(0), beat(), outcome()])), [Ended::TYPE, Heartbeat::TYPE]);
    assert_eq!(published(&desk.turn_ended()), [Completed::TYPE]);
}

#[test]
fn the_book_has_all_that_was_delivered_before_any_of_it_is_acked() {
    let mut desk = Desk::new();
    let first = desk.handle(delivered(hello(1), false));
    assert!(matches!(first[..], [DriverAction::Duty(duty::Input::Introduced { .. })]), "{first:?}");
    let last = desk.handle(delivered(hello(1), true));
    assert!(matches!(last[..], [DriverAction::Duty(duty::Input::Ordered { .. }), DriverAction::Ack]), "{last:?}");
}

#[test]
fn a_message_that_can_not_be_read_or_that_nobody_has_proved_is_acked_and_changes_nothing() {
    let mut desk = Desk::known();
    let body = bytes::Bytes::from_static(b"nonsense");
    let proof = Some(ring().order(incarnation(1), &body));
    let unreadable = desk.handle(delivered(ReceivedMessage { body, proof, ..hello(1) }, true));
    assert!(matches!(unreadable[..], [DriverAction::Ack]), "{unreadable:?}");
    let unproven = desk.handle(delivered(ReceivedMessage { proof: Some("made up".to_owned()), ..hello(1) }, true));
    assert!(matches!(unproven[..], [DriverAction::Ack]), "{unproven:?}");
}

#[test]
fn what_follows_the_end_of_an_incarnation_is_done_under_the_next_name() {
    let mut desk = Desk::known();
    let asked = desk.asked(vec![outcome(), Effect::IncarnationOver(incarnation(1)), farewell(1), beat()]);
    assert!(matches!(asked[..], [DriverAction::ChooseName]), "{asked:?}");
    let named = desk.handle(Input::Named { incarnation: incarnation(2), nonce: "nonce 2".to_owned() });
    assert!(
        matches!(
            named[..],
            [
                DriverAction::Note(_),
                DriverAction::Attempt(AttemptAction::Extend { deadline: None }),
                DriverAction::Duty(duty::Input::NewIncarnation(_)),
                DriverAction::Subscribe(next),
            ] if next == incarnation(2)
        ),
        "{named:?}"
    );
    assert!(desk.turn_ended().is_empty(), "what the former reported leaves with its last word, or again in time");
    let stale = desk.handle(Input::Subscribed { incarnation: incarnation(1), sizes: Sizes::FULL });
    assert!(matches!(stale[..], [DriverAction::Subscribe(next)] if next == incarnation(2)), "{stale:?}");
    assert!(desk.asked(vec![beat()]).is_empty(), "its queue is not consumed yet");
}

#[test]
fn a_heartbeat_is_confirmed_only_by_a_queue_that_has_it() {
    let mut desk = Desk::known();
    let mut confirmed = |confirm| {
        let id = first_id(&desk.asked(vec![beat()]));
        desk.handle(Input::Confirmed { id, confirm })
    };
    assert!(matches!(confirmed(Confirm::Stored)[..], [DriverAction::Duty(duty::Input::HeartbeatConfirmed { .. })]));
    assert!(matches!(confirmed(Confirm::Refused)[..], [DriverAction::Duty(duty::Input::HeartbeatRefused { .. })]));
    assert!(confirmed(Confirm::Dropped).is_empty() && confirmed(Confirm::Lost).is_empty());
    let id = first_id(&desk.asked(vec![farewell(1)]));
    let lost = desk.handle(Input::Confirmed { id, confirm: Confirm::Lost });
    assert!(lost.is_empty(), "a last word that may be lost was not heard");
}

#[test]
fn few_messages_of_outcomes_are_on_their_way_at_once_and_what_waits_travels_together() {
    let mut desk = Desk::known();
    let mut ids = Vec::new();
    for _ in 0..6 {
        desk.asked(vec![outcome()]);
        ids.extend(desk.turn_ended().iter().map(|action| first_id(std::slice::from_ref(action))));
    }
    assert_eq!(ids.len(), 4);
    desk.handle(Input::Confirmed { id: ids[0], confirm: Confirm::Lost });
    let next = desk.turn_ended();
    let [DriverAction::Publish(publication)] = &next[..] else { panic!("{next:?}") };
    let members = envelope::read_own(&publication.body, Defaults::default()).expect("a body");
    assert_eq!(members.len(), 2);
    assert!(publication.proof.is_some());
}

#[test]
fn what_must_outlive_the_process_is_kept_at_once_or_with_its_end() {
    let mut desk = Desk::new();
    desk.asked(vec![Effect::Keep(Vec::new())]);
    assert!(matches!(desk.turn_ended()[..], [DriverAction::Keep(_)]));
    desk.asked(vec![Effect::Keep(Vec::new()), Effect::Finish]);
    let ended = desk.turn_ended();
    let [DriverAction::Exit(exit)] = &ended[..] else { panic!("{ended:?}") };
    assert!(exit.kept.is_some() && exit.unstoppable.is_empty());
}
