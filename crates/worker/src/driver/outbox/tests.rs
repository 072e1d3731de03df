use std::ops::{Deref, DerefMut};

use slotline_protocol::envelope;
use slotline_protocol::envelope::Defaults;
use slotline_protocol::message::Report;
use slotline_protocol::{ExecutionId, Incarnation, Status, WorkerName};
use uuid::Uuid;

use super::*;
use crate::driver::{Driver, DriverAction, Envelopes, Input, LogLine};
use crate::duty::{self, Effect, Now};

/// The outbox of a driver that has no session.
struct Reporter(Driver<Envelopes>);

impl Deref for Reporter {
    type Target = Outbox;

    fn deref(&self) -> &Outbox {
        &self.0.outbox
    }
}

impl DerefMut for Reporter {
    fn deref_mut(&mut self) -> &mut Outbox {
        &mut self.0.outbox
    }
}

impl Reporter {
    fn asked(&mut self, effect: Effect) {
        self.0.handle(NOW, Input::Asked(vec![effect]));
    }

    fn status_changed(&mut self, report: Traced<StatusChanged>) {
        self.asked(Effect::ChangeStatus(report));
    }

    fn progress(&mut self, report: Traced<Progress>) {
        self.asked(Effect::Progress(report));
    }

    fn resend(&mut self) {
        let (key, action_ref) = ((ExecutionId(1), 1), ActionRef::new("demo.echo").expect("a name"));
        self.asked(Effect::Resend { key, action_ref, first: 1, last: Some(1) });
    }

    fn next_events(&mut self) -> Option<Batch> {
        let next = self.0.outbox.next_events(Sizes::FULL);
        if next.is_some() {
            self.events_confirmed();
        }
        next
    }
}

const NOW: Now = Now { boot: Duration::ZERO, wall: Timestamp::from_micros(0) };

fn outbox() -> Reporter {
    let (name, incarnation) = (WorkerName::new("w1").expect("a name"), Incarnation(Uuid::from_u128(1)));
    let wire = Envelopes::new(&name, Uuid::from_u128(2), incarnation, "a nonce".to_owned());
    Reporter(Driver::new(incarnation, wire))
}

fn traced<M>(message: M) -> Traced<M> {
    Traced { message, correlation_id: None, trace_id: None }
}

fn progress(sequence: u64, event: Event) -> Traced<Progress> {
    traced(Progress {
        execution_id: ExecutionId(1),
        action_ref: ActionRef::new("a.b").expect("a name"),
        counts_as: 1,
        grant: None,
        sequence,
        timestamp: Timestamp::from_micros(0),
        event,
    })
}

fn status(sequence: u64) -> Traced<StatusChanged> {
    traced(StatusChanged {
        execution_id: ExecutionId(1),
        action_ref: ActionRef::new("a.b").expect("a name"),
        counts_as: 1,
        grant: None,
        sequence: Some(sequence),
        worker: None,
        fence: None,
        incarnation: None,
        previous_status: Status::Scheduled,
        new_status: Status::Running,
        changed_at: Timestamp::from_micros(0),
    })
}

fn number() -> Event {
    Event::Progress(Report { progress: Some((1, None)), ..Report::default() })
}

fn message(level: Level) -> Event {
    Event::Progress(Report { level, message: Some("m".to_owned()), ..Report::default() })
}

fn log(stream: Stream) -> Event {
    Event::Log { stream, lines: vec!["a".to_owned()] }
}

/// News, then as many numbers and lines of output, by turns, as there is room for.
fn full() -> Reporter {
    let mut outbox = outbox();
    outbox.status_changed(status(1));
    outbox.progress(progress(2, message(Level::Error)));
    for sequence in 3..LOSSY.events as u64 + 3 {
        let event = if sequence % 2 == 0 { number() } else { log(Stream::Stdout) };
        outbox.progress(progress(sequence, event));
    }
    outbox
}

fn weights(outbox: &Reporter, weight: Weight) -> usize {
    let placed = outbox.events.iter().chain(&outbox.logs).map(|(_, event)| event);
    outbox.first_events.iter().chain(placed).filter(|event| event.weight == weight).count()
}

#[test]
fn without_a_session_events_wait_and_at_the_bound_all_are_there() {
    let mut outbox = full();
    outbox.0.handle(NOW, Input::TurnEnded);
    assert_eq!((outbox.first_events.len(), outbox.events.len() + outbox.logs.len()), (1, LOSSY.events + 1));
    assert_eq!((outbox.loads.lossy.events, outbox.loads.news.events), (LOSSY.events, 2));
}

#[test]
fn past_the_bound_the_oldest_numbers_go_first_then_output_and_news_never() {
    let mut outbox = full();
    let (mut sequence, mut output) = (LOSSY.events as u64 + 2, weights(&outbox, Weight::Output));
    let mut one_more = |outbox: &mut Reporter| {
        sequence += 1;
        outbox.progress(progress(sequence, log(Stream::Stdout)));
        (weights(outbox, Weight::Plain), weights(outbox, Weight::Output))
    };
    loop {
        let (plain, now_output) = one_more(&mut outbox);
        if plain == 0 {
            break;
        }
        assert_eq!(now_output, output + 1, "no output goes while there are numbers");
        output = now_output;
    }
    let (_, output) = (0..=LOSSY.events).map(|_| one_more(&mut outbox)).min().expect("some");
    assert!((LOSSY_KEPT.events..=LOSSY.events).contains(&output));
    assert_eq!(outbox.loads.lossy.events, weights(&outbox, Weight::Output));
    assert_eq!(weights(&outbox, Weight::News), 2);
}

#[test]
fn events_of_many_bytes_are_bounded_too() {
    let mut outbox = outbox();
    let lines = vec!["x".repeat(1 << 20)];
    for sequence in 1..=40 {
        let lines = lines.clone();
        outbox.progress(progress(sequence, Event::Log { stream: Stream::Stdout, lines }));
    }
    assert!(outbox.loads.lossy.bytes <= LOSSY.bytes && outbox.logs.len() >= 27, "{}", outbox.logs.len());
}

#[test]
fn past_their_bound_news_are_all_there_and_the_worker_is_congested_until_half_is_sent() {
    let mut outbox = outbox();
    for sequence in 1..=NEWS_MAX.events as u64 {
        outbox.progress(progress(sequence, message(Level::Info)));
    }
    assert!(!outbox.is_congested(false), "at the bound there is room");
    outbox.progress(progress(NEWS_MAX.events as u64 + 1, message(Level::Error)));
    assert!(outbox.is_congested(false));
    assert_eq!(outbox.events.len(), NEWS_MAX.events + 1);
    while outbox.loads.news.events > NEWS_LOW.events {
        assert!(outbox.is_congested(true));
        outbox.next_events().expect("events wait");
    }
    assert!(!outbox.is_congested(true));
}

#[test]
fn what_is_said_again_may_be_left_out_again() {
    let mut outbox = outbox();
    outbox.progress(progress(1, message(Level::Info)));
    for _ in 0..=LOSSY.events {
        outbox.resend();
    }
    assert_eq!((outbox.loads.lossy.events, outbox.loads.news.events), (LOSSY_KEPT.events, 1));
}

#[test]
fn what_was_left_out_for_lack_of_room_can_be_had_again() {
    let mut outbox = outbox();
    outbox.progress(progress(1, number()));
    outbox.next_events().expect("it waits");
    outbox.resend();
    assert_eq!(outbox.events.len(), 1);
}

#[test]
fn several_envelopes_are_one_array_that_can_be_read() {
    let mut outbox = outbox();
    for sequence in 1..=3 {
        outbox.progress(progress(sequence, message(Level::Info)));
    }
    let batch = outbox.next_events().expect("events wait");
    let members = envelope::read(&batch.body, Defaults::default()).expect("a body");
    let sequences =
        members.iter().map(|member| member.expect("an envelope").open::<Progress>().expect("a payload").sequence);
    assert_eq!(sequences.collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(outbox.loads.news, Load::default());
}

#[test]
fn first_events_leave_together_before_those_that_follow() {
    let mut outbox = outbox();
    for _ in 0..3 {
        outbox.status_changed(status(1));
        outbox.progress(progress(2, Event::Started {}));
    }
    let types: Vec<_> = std::iter::from_fn(|| outbox.next_events()).map(|batch| batch.routing_key).collect();
    assert_eq!(types, [StatusChanged::TYPE, Progress::TYPE]);
    assert_eq!(outbox.loads.news, Load::default());
}

#[test]
fn what_commands_print_travels_under_a_key_of_its_own_and_what_waited_longer_leaves_first() {
    let mut outbox = outbox();
    for sequence in 1..=3 {
        outbox.progress(progress(2 * sequence - 1, log(Stream::Stdout)));
        outbox.progress(progress(2 * sequence, message(Level::Info)));
    }
    let next = |outbox: &mut Reporter| {
        let batch = outbox.next_events().expect("events wait");
        assert_eq!(batch.message_type(), Progress::TYPE);
        batch.routing_key
    };
    assert_eq!([next(&mut outbox), next(&mut outbox)], [LOGS_KEY, Progress::TYPE]);
    outbox.progress(progress(7, message(Level::Info)));
    outbox.progress(progress(8, log(Stream::Stderr)));
    assert_eq!([next(&mut outbox), next(&mut outbox)], [Progress::TYPE, LOGS_KEY]);
    assert!(outbox.next_events().is_none());
}

#[test]
fn outcomes_wait_for_a_session_no_longer_than_to_the_next_flush() {
    let mut outbox = outbox();
    for _ in 0..=OUTCOMES_MAX {
        let message = WorkerMessage::StatusChanged(&status(1).message);
        let Driver { outbox, wire, .. } = &mut outbox.0;
        outbox.outcome(message, Trace::default(), wire, NOW.wall);
    }
    assert_eq!(outbox.outcomes.len(), OUTCOMES_MAX);
    outbox.0.handle(NOW, Input::TurnEnded);
    assert!(outbox.outcomes.is_empty(), "they are reported again in time");
}

#[test]
fn the_book_is_told_that_the_worker_is_congested_and_that_it_is_no_more() {
    let mut outbox = outbox();
    for sequence in 1..=NEWS_MAX.events as u64 + 1 {
        outbox.progress(progress(sequence, message(Level::Info)));
    }
    let ended = |outbox: &mut Reporter| {
        outbox.0.handle(NOW, Input::TurnEnded);
        std::iter::from_fn(|| outbox.0.next_action()).collect::<Vec<_>>()
    };
    let filled = ended(&mut outbox);
    assert!(matches!(
        filled[..],
        [DriverAction::Log(LogLine::Congested(true)), DriverAction::Duty(duty::Input::OutboxFilled)]
    ));
    assert!(ended(&mut outbox).is_empty(), "it is told once");
    while outbox.is_congested(true) {
        outbox.next_events().expect("events wait");
    }
    assert!(matches!(ended(&mut outbox)[..], [_, DriverAction::Duty(duty::Input::OutboxEmptied)]));
}

#[test]
fn events_whose_session_ended_are_sent_again_at_once_and_those_that_were_refused_after_a_while() {
    let mut outbox = outbox();
    for sequence in 1..=2 {
        outbox.progress(progress(sequence, message(Level::Info)));
        let batch = outbox.0.outbox.next_events(Sizes::FULL).expect("an event waits");
        if sequence == 1 { outbox.events_refused(batch, NOW.boot) } else { outbox.events_lost(batch) }
    }
    assert_eq!(outbox.0.next_deadline(), Some(REFUSED_WAIT));
    assert!(outbox.next_events().is_some() && outbox.next_events().is_none());
    let later = Now { boot: REFUSED_WAIT, ..NOW };
    outbox.0.handle(later, Input::Tick);
    assert!(outbox.0.next_deadline().is_none() && outbox.next_events().is_some());
    assert_eq!(outbox.events_in_flight, 0);
}
