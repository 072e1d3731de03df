//! The reader against a small server that plays an executor: it cuts, repeats, resets, refuses and leaves events out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;

use slotline_protocol::Status;
use slotline_protocol::message::{GapReason, Report, Stream as LogStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::show::describe::tests::{event, moved};

/// The longest wait for anything.
const SOON: Duration = Duration::from_secs(120);

/// What the played executor does with one connection.
#[derive(Clone)]
enum Play {
    /// Sends this body as a stream of events, then ends it in order.
    Body(String),
    /// Sends this body, and breaks off.
    Cut(String),
    /// Answers with this status and body.
    Answer(u16, &'static str),
}

/// An executor that answers one connection after the other, the last answer for ever.
struct Player {
    client: Client,
    asked: Arc<Mutex<Vec<u64>>>,
}

impl Player {
    async fn start(plays: impl FnMut(u64) -> Play + Send + 'static) -> Self {
        // Another test may have installed it already; it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(listener, plays, Arc::clone(&asked)));
        Self { client: Client::new(&url, None).expect("a URL"), asked }
    }

    async fn with(plays: impl IntoIterator<Item = Play>) -> Self {
        let mut plays: VecDeque<Play> = plays.into_iter().collect();
        Self::start(move |_| if plays.len() > 1 { plays.pop_front() } else { plays.front().cloned() }.expect("a play"))
            .await
    }

    fn follow(&self, after: u64) -> Follow {
        Follow::new(self.client.clone(), ExecutionId(42), after)
    }

    /// The numbers of all events until the end, and how often the API was reported to be away.
    async fn numbers(&self, after: u64) -> Result<(Vec<u64>, usize), Error> {
        let mut follow = self.follow(after);
        let (mut numbers, mut away) = (Vec::new(), 0);
        let all = async {
            while let Some(item) = follow.next().await {
                match item? {
                    StreamItem::Event(raw) => numbers.push(raw.event.number),
                    StreamItem::Away(_) => away += 1,
                }
            }
            Ok(())
        };
        timeout(SOON, all).await.expect("an end")?;
        Ok((numbers, away))
    }

    /// The `last-event-id` of each request.
    fn asked(&self) -> Vec<u64> {
        self.asked.lock().expect("no thread panicked").clone()
    }
}

async fn serve(listener: TcpListener, mut plays: impl FnMut(u64) -> Play, asked: Arc<Mutex<Vec<u64>>>) {
    loop {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let last = last_event_id(&mut socket).await;
        asked.lock().expect("no thread panicked").push(last);
        // The reader may be gone.
        let _ = play(&mut socket, plays(last)).await;
    }
}

async fn last_event_id(socket: &mut TcpStream) -> u64 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a request"));
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("get /api/v1/executions/42/events "), "{head}");
    assert!(head.contains("accept: text/event-stream"), "{head}");
    let id = head.lines().find_map(|line| line.strip_prefix("last-event-id: "));
    id.map_or(0, |id| id.parse().expect("a number"))
}

async fn play(socket: &mut TcpStream, play: Play) -> std::io::Result<()> {
    let stream =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked";
    let chunk = |body: &str| if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
    let text = match play {
        Play::Body(body) => format!("{stream}\r\n\r\n{}0\r\n\r\n", chunk(&body)),
        Play::Cut(body) => format!("{stream}\r\n\r\n{}", chunk(&body)),
        Play::Answer(status, body) => format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    socket.write_all(text.as_bytes()).await?;
    socket.shutdown().await
}

/// As an executor sends it.
fn sent(event: &Event) -> String {
    let json = serde_json::to_string(event).expect("plain data");
    format!("id: {}\nevent: {}\ndata: {json}\n\n", event.number, event.what.kind().as_str())
}

const LAST: u64 = 6;

/// The events of one run that settles with number [`LAST`].
fn run() -> Vec<Event> {
    let message = Report { message: Some("schön\nund gut".to_owned()), ..Report::default() };
    vec![
        event(1, moved(Status::Requested, Status::Queued)),
        event(2, moved(Status::Queued, Status::Running)),
        event(3, What::Started),
        event(4, What::Progress(message)),
        event(5, What::Log { stream: LogStream::Stdout, lines: vec!["a".to_owned(), "b".to_owned()] }),
        event(LAST, What::Settled { previous: Status::Running, status: Status::Completed, result: None, error: None }),
    ]
}

/// The part of the run from number `first` to number `last`.
fn part(first: u64, last: u64) -> String {
    run().iter().filter(|event| (first..=last).contains(&event.number)).map(sent).collect()
}

fn all() -> Vec<u64> {
    (1..=LAST).collect()
}

#[tokio::test]
async fn a_run_is_read_to_its_end_on_one_connection_and_the_json_as_it_came() {
    let player = Player::with([Play::Body(format!(": hello\n\n{}: alive\n\n{}", part(1, 3), part(4, LAST)))]).await;
    let mut follow = player.follow(0);
    for expected in run() {
        let Some(Ok(StreamItem::Event(raw))) = follow.next().await else { panic!("{} is missing", expected.number) };
        assert_eq!(raw.json, serde_json::to_string(&expected).expect("plain data"));
    }
    assert!(follow.next().await.is_none());
    assert_eq!(player.asked(), [0]);
}

#[tokio::test]
async fn a_connection_cut_after_every_event_loses_none_and_repeats_none() {
    let player = Player::start(|last| Play::Cut(part(last + 1, last + 1))).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (all(), 0));
    assert_eq!(player.asked(), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_connection_cut_within_an_event_loses_none_and_repeats_none() {
    let whole = part(1, LAST);
    let cuts = (0..whole.len()).filter(|cut| whole.is_char_boundary(*cut)).step_by(13);
    let readings = cuts.map(|cut| {
        let first = whole[..cut].to_owned();
        async move {
            let mut is_first = true;
            let player = Player::start(move |last| match std::mem::take(&mut is_first) {
                true => Play::Cut(first.clone()),
                false => Play::Body(part(last + 1, LAST)),
            });
            assert_eq!(player.await.numbers(0).await.expect("a stream"), (all(), 0), "cut at {cut}");
        }
    });
    futures::future::join_all(readings).await;
}

#[tokio::test]
async fn what_is_sent_again_is_not_handed_on_again() {
    let player = Player::with([Play::Body(part(1, 3) + &part(2, 4)), Play::Body(part(1, LAST))]).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (all(), 0));
    assert_eq!(player.asked(), [0, 4]);
}

#[tokio::test]
async fn after_a_reset_it_goes_on_after_the_last_event_it_got() {
    let reset = "id: 2\nevent: reset\ndata: {\"after\":2}\n\n";
    let late = part(3, 3);
    let player = Player::with([Play::Body(part(1, 2) + reset + &late), Play::Body(part(3, LAST))]).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (all(), 0));
    assert_eq!(player.asked(), [0, 2]);
}

#[tokio::test]
async fn what_comes_too_early_is_asked_for_again_in_order() {
    let player = Player::with([Play::Body(part(1, 1) + &part(3, 4)), Play::Body(part(2, LAST))]).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (all(), 0));
    assert_eq!(player.asked(), [0, 1]);
}

#[tokio::test]
async fn what_is_missing_twice_does_not_hold_up_the_rest() {
    let player = Player::with([Play::Body(part(1, 1) + &part(3, LAST)), Play::Body(part(3, LAST))]).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (vec![1, 3, 4, 5, 6], 0));
    assert_eq!(player.asked(), [0, 1]);
}

#[tokio::test]
async fn a_gap_stands_for_the_events_that_are_not_kept() {
    let gap = sent(&event(4, What::Gap { count: 4, reason: GapReason::Pruned }));
    let player = Player::with([Play::Body(gap + &part(5, LAST))]).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (vec![4, 5, 6], 0));
}

#[tokio::test]
async fn an_executor_that_is_away_is_reported_once_and_waited_for() {
    let busy = r#"{"error":{"code":"unavailable","message":"no"}}"#;
    let player = Player::with([
        Play::Cut(part(1, 2)),
        Play::Answer(503, busy),
        Play::Answer(502, "<html>"),
        Play::Body(part(3, LAST)),
    ]);
    let player = player.await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (all(), 1));
    assert_eq!(player.asked(), [0, 2, 2, 2]);
}

#[tokio::test]
async fn what_will_not_pass_ends_it() {
    let unknown = r#"{"error":{"code":"unknown_execution","message":"there is no execution 42"}}"#;
    let player = Player::with([Play::Answer(404, unknown)]).await;
    let error = player.numbers(0).await.expect_err("unknown");
    assert_eq!(error.to_string(), "there is no execution 42");
    let player = Player::with([Play::Answer(200, "{}")]).await;
    assert!(matches!(player.numbers(0).await, Err(Error::Foreign { .. })));
}

#[tokio::test]
async fn where_nothing_follows_any_more_it_ends_at_once() {
    let player = Player::with([Play::Answer(204, "")]).await;
    assert_eq!(player.numbers(LAST).await.expect("an end"), (Vec::new(), 0));
    assert_eq!(player.asked(), [LAST]);
}

#[tokio::test]
async fn an_event_of_a_kind_that_is_yet_to_come_is_passed_over() {
    let unknown = "id: 4\nevent: thought\ndata: {\"kind\":\"thought\",\"number\":4}\n\n";
    let player = Player::with([Play::Body(part(1, 3) + unknown + &part(5, LAST))]).await;
    assert_eq!(player.numbers(0).await.expect("a stream"), (vec![1, 2, 3, 5, 6], 0));
    assert_eq!(player.asked(), [0]);
}

#[tokio::test]
async fn bytes_without_an_event_are_read_up_to_their_bound() {
    let unread = Arc::new(AtomicUsize::new(0));
    let chunks = || stream::iter(["12345"; 3].map(Ok::<_, Infallible>));
    let whole: Vec<_> = bounded(chunks(), Arc::clone(&unread), 15).collect().await;
    assert_eq!(whole.len(), 3);
    unread.store(0, Ordering::Relaxed);
    let short: Vec<_> = bounded(chunks(), unread, 14).collect().await;
    assert_eq!(short.len(), 2);
}
