use super::*;
use slotline_protocol::{ExecutionId, Status};

use slotline_protocol::message::Report;

fn outbox() -> Outbox {
    Outbox::new("slotline", &WorkerName::new("w1").expect("a name"))
}

fn traced<M>(message: M) -> Traced<M> {
    Traced { message, correlation_id: None, trace_id: None }
}

fn progress(sequence: u64, event: Event) -> Traced<Progress> {
    traced(Progress {
        execution_id: ExecutionId(1),
        action_ref: ActionRef::new("a.b").expect("a name"),
        attempt: 1,
        sequence,
        timestamp: Timestamp::from_micros(0),
        event,
    })
}

fn status(sequence: u64) -> Traced<StatusChanged> {
    traced(StatusChanged {
        execution_id: ExecutionId(1),
        action_ref: ActionRef::new("a.b").expect("a name"),
        attempt: 1,
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

fn gap() -> Event {
    Event::Gap { count: 1, reason: GapReason::Merged }
}

/// One number, one line of output, and all else that is room for.
fn full() -> Outbox {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    outbox.status_changed(&status(1), now);
    for (sequence, event) in (2..).zip([number(), log(Stream::Stdout), log(Stream::Notice), gap()]) {
        outbox.progress(&progress(sequence, event), now);
    }
    for sequence in 6..=EVENTS_MAX as u64 {
        outbox.progress(&progress(sequence, message(Level::Info)), now);
    }
    outbox
}

fn weights(outbox: &Outbox, weight: Weight) -> usize {
    outbox.events.iter().filter(|kept| kept.weight == weight).count()
}

#[test]
fn without_a_session_events_wait_and_at_the_bound_all_are_there() {
    let mut outbox = full();
    outbox.flush(None);
    assert_eq!(outbox.events.len(), EVENTS_MAX);
    assert_eq!((weights(&outbox, Weight::Plain), weights(&outbox, Weight::Output)), (1, 1));
}

#[test]
fn past_the_bound_numbers_go_first_then_output_and_news_only_when_nothing_else_is_left() {
    let (mut outbox, now) = (full(), Timestamp::from_micros(0));
    let mut sequence = EVENTS_MAX as u64;
    let mut error = |outbox: &mut Outbox| {
        sequence += 1;
        outbox.progress(&progress(sequence, message(Level::Error)), now);
        assert_eq!(outbox.events.len(), EVENTS_MAX);
    };
    error(&mut outbox);
    assert_eq!((weights(&outbox, Weight::Plain), weights(&outbox, Weight::Output)), (0, 1));
    error(&mut outbox);
    assert_eq!(weights(&outbox, Weight::Output), 0);
    let is_first =
        |outbox: &Outbox, message_type| outbox.events.front().is_some_and(|one| one.message_type == message_type);
    assert!(is_first(&outbox, StatusChanged::TYPE), "no news has gone yet");
    error(&mut outbox);
    assert!(is_first(&outbox, Progress::TYPE), "now the oldest has");
}

#[test]
fn events_of_many_bytes_are_bounded_too() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    let lines = vec!["x".repeat(1 << 20)];
    for sequence in 1..=40 {
        let lines = lines.clone();
        outbox.progress(&progress(sequence, Event::Log { stream: Stream::Stdout, lines }), now);
    }
    assert!(outbox.events_bytes <= EVENTS_BYTES_MAX && outbox.events.len() >= 31, "{}", outbox.events.len());
}

#[test]
fn what_was_left_out_for_lack_of_room_can_be_had_again() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    outbox.progress(&progress(1, number()), now);
    outbox.events.clear();
    outbox.resend((ExecutionId(1), 1), (1, Some(1)), &ActionRef::new("demo.echo").expect("a name"), now);
    assert_eq!(outbox.events.len(), 1);
}

#[test]
fn several_envelopes_are_one_array_that_can_be_read() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    for sequence in 1..=3 {
        outbox.progress(&progress(sequence, message(Level::Info)), now);
    }
    let publication = outbox.next_array().expect("events wait");
    let members =
        slotline_protocol::envelope::read(&publication.body, &publication.properties.defaults()).expect("a body");
    let sequences =
        members.into_iter().map(|member| member.expect("an envelope").open::<Progress>().expect("a payload").sequence);
    assert_eq!(sequences.collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(outbox.events_bytes, 0);
}
