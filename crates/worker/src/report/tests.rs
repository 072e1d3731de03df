use super::*;
use slotline_protocol::{ExecutionId, Status};

use slotline_protocol::message::Report;

fn outbox() -> Outbox {
    Outbox::new("slotline", &WorkerName::new("w1").expect("a name"), Incarnation(Uuid::from_u128(1)))
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
fn full() -> Outbox {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    outbox.status_changed(&status(1), now);
    outbox.progress(&progress(2, message(Level::Error)), now);
    for sequence in 3..LOSSY.events as u64 + 3 {
        let event = if sequence % 2 == 0 { number() } else { log(Stream::Stdout) };
        outbox.progress(&progress(sequence, event), now);
    }
    outbox
}

fn weights(outbox: &Outbox, weight: Weight) -> usize {
    let placed = outbox.events.iter().chain(&outbox.logs).map(|(_, kept)| kept);
    outbox.moves.iter().chain(placed).filter(|kept| kept.weight == weight).count()
}

#[test]
fn without_a_session_events_wait_and_at_the_bound_all_are_there() {
    let mut outbox = full();
    outbox.flush(None);
    assert_eq!((outbox.moves.len(), outbox.events.len() + outbox.logs.len()), (1, LOSSY.events + 1));
    assert_eq!((outbox.loads.lossy.events, outbox.loads.news.events), (LOSSY.events, 2));
}

#[test]
fn past_the_bound_the_oldest_numbers_go_first_then_output_and_news_never() {
    let (mut outbox, now) = (full(), Timestamp::from_micros(0));
    let (mut sequence, mut output) = (LOSSY.events as u64 + 2, weights(&outbox, Weight::Output));
    let mut one_more = |outbox: &mut Outbox| {
        sequence += 1;
        outbox.progress(&progress(sequence, log(Stream::Stdout)), now);
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
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    let lines = vec!["x".repeat(1 << 20)];
    for sequence in 1..=40 {
        let lines = lines.clone();
        outbox.progress(&progress(sequence, Event::Log { stream: Stream::Stdout, lines }), now);
    }
    assert!(outbox.loads.lossy.bytes <= LOSSY.bytes && outbox.logs.len() >= 27, "{}", outbox.logs.len());
}

#[test]
fn past_their_bound_news_are_all_there_and_the_worker_is_congested_until_half_is_sent() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    for sequence in 1..=NEWS_MAX.events as u64 {
        outbox.progress(&progress(sequence, message(Level::Info)), now);
    }
    assert!(!outbox.is_congested(false), "at the bound there is room");
    outbox.progress(&progress(NEWS_MAX.events as u64 + 1, message(Level::Error)), now);
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
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    outbox.progress(&progress(1, message(Level::Info)), now);
    for _ in 0..=LOSSY.events {
        outbox.resend((ExecutionId(1), 1), (1, Some(1)), &ActionRef::new("demo.echo").expect("a name"), now);
    }
    assert_eq!((outbox.loads.lossy.events, outbox.loads.news.events), (LOSSY_KEPT.events, 1));
}

#[test]
fn what_was_left_out_for_lack_of_room_can_be_had_again() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    outbox.progress(&progress(1, number()), now);
    outbox.next_events().expect("it waits");
    outbox.resend((ExecutionId(1), 1), (1, Some(1)), &ActionRef::new("demo.echo").expect("a name"), now);
    assert_eq!(outbox.events.len(), 1);
}

#[test]
fn several_envelopes_are_one_array_that_can_be_read() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    for sequence in 1..=3 {
        outbox.progress(&progress(sequence, message(Level::Info)), now);
    }
    let publication = outbox.next_events().expect("events wait");
    let defaults = publication.properties.defaults();
    let members = envelope::read(&publication.body, defaults).expect("a body");
    let sequences =
        members.iter().map(|member| member.expect("an envelope").open::<Progress>().expect("a payload").sequence);
    assert_eq!(sequences.collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(outbox.loads.news, Load::default());
}

#[test]
fn first_events_leave_together_before_those_that_follow() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    for _ in 0..3 {
        outbox.status_changed(&status(1), now);
        outbox.progress(&progress(2, Event::Started {}), now);
    }
    let types: Vec<_> =
        std::iter::from_fn(|| outbox.next_events()).map(|publication| publication.routing_key).collect();
    assert_eq!(types, [StatusChanged::TYPE, Progress::TYPE]);
    assert_eq!(outbox.loads.news, Load::default());
}

#[test]
fn what_commands_print_travels_under_a_key_of_its_own_and_what_waited_longer_leaves_first() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    for sequence in 1..=3 {
        outbox.progress(&progress(2 * sequence - 1, log(Stream::Stdout)), now);
        outbox.progress(&progress(2 * sequence, message(Level::Info)), now);
    }
    let next = |outbox: &mut Outbox| {
        let Publication { routing_key, properties, .. } = outbox.next_events().expect("events wait");
        assert_eq!(properties.message_type.as_deref(), Some(Progress::TYPE));
        routing_key
    };
    assert_eq!([next(&mut outbox), next(&mut outbox)], [topology::LOGS_KEY, Progress::TYPE]);
    outbox.progress(&progress(7, message(Level::Info)), now);
    outbox.progress(&progress(8, log(Stream::Stderr)), now);
    assert_eq!([next(&mut outbox), next(&mut outbox)], [Progress::TYPE, topology::LOGS_KEY]);
    assert!(outbox.next_events().is_none());
}

#[test]
fn outcomes_wait_for_a_session_no_longer_than_to_the_next_flush() {
    let (mut outbox, now) = (outbox(), Timestamp::from_micros(0));
    for _ in 0..=WORDS_MAX {
        outbox.say(&status(1), now);
    }
    assert_eq!(outbox.words.len(), WORDS_MAX);
    outbox.flush(None);
    assert!(outbox.words.is_empty(), "they are said again in time");
}
