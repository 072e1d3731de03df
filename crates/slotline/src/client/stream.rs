//! The events of one execution, each once and in order, for as long as it takes.
//!
//! A connection that ends before the execution is opened again after the last event that was returned. So an executor may
//! restart, or cut off a slow reader, and no event is missed or seen twice.
//! Not here: showing the events (`watch`, `logs`), and parsing the event stream (`eventsource_stream`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventsource_stream::EventStream;
use futures::{Stream, StreamExt, TryStream, TryStreamExt, stream};
use reqwest::Response;
use slotline_protocol::ExecutionId;
use slotline_protocol::record::{Event, Kind, What};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::client::backoff::{Backoff, Outage};
use crate::client::{Client, Error};

/// Events that are read before they are shown.
const AHEAD_MAX: usize = 64;
/// A connection that is silent for so long is dead; heartbeats come every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The largest event that is read; a result may have a mebibyte, and several once it is escaped.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// Something to show.
pub(crate) enum StreamItem {
    Event(Box<RawEvent>),
    /// The API does not answer; the reader goes on trying.
    Away(Error),
}

/// An event, and the JSON it came as.
pub(crate) struct RawEvent {
    pub(crate) event: Event,
    pub(crate) json: String,
}

/// A running reader of one execution's events; it ends when dropped.
pub(crate) struct Follow(mpsc::Receiver<Result<StreamItem, Error>>);

impl Follow {
    /// Reads the events after number `after`.
    pub(crate) fn new(client: Client, id: ExecutionId, after: u64) -> Self {
        let (sender, receiver) = mpsc::channel(AHEAD_MAX);
        tokio::spawn(async move {
            let reader = Reader { cursor: Cursor::after(after), items: sender.clone() };
            tokio::select! {
                result = reader.run(&client, id) => {
                    if let Err(error) = result {
                        // Without a receiver the reason is not needed.
                        let _ = sender.send(Err(error)).await;
                    }
                }
                () = sender.closed() => {}
            }
        });
        Self(receiver)
    }

    /// The next item; `None` after the event that settled the execution. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<StreamItem, Error>> {
        self.0.recv().await
    }
}

/// The number of the last event that was returned.
struct Cursor {
    last: u64,
    /// The event that came instead of the next one, on the last connection.
    skipped_to: Option<u64>,
}

/// What to do with an event.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Next,
    /// It was returned before.
    Seen,
    /// Events are missing before it: the connection must be opened again.
    Early,
}

impl Cursor {
    fn after(last: u64) -> Self {
        Self { last, skipped_to: None }
    }

    fn turn(&mut self, number: u64, is_gap: bool) -> Turn {
        if number <= self.last {
            return Turn::Seen;
        }
        // A gap stands for the events before it. An event that is missing on two connections is missing in the record.
        let is_next = number == self.last + 1 || is_gap || self.skipped_to == Some(number);
        self.skipped_to = (!is_next).then_some(number);
        if !is_next {
            return Turn::Early;
        }
        self.last = number;
        Turn::Next
    }
}

/// How a connection ended.
struct ReadEnd {
    /// The execution is settled: no event can follow.
    is_over: bool,
    /// It brought an event that was not seen before.
    was_of_use: bool,
}

struct Reader {
    cursor: Cursor,
    items: mpsc::Sender<Result<StreamItem, Error>>,
}

impl Reader {
    async fn run(mut self, client: &Client, id: ExecutionId) -> Result<(), Error> {
        let id = id.to_string();
        let path = ["executions", &id, "events"];
        let (mut backoff, mut outage) = (Backoff::new(), Outage::default());
        loop {
            match client.open(&path, self.cursor.last).await {
                Ok(None) => return Ok(()),
                Ok(Some(response)) => {
                    outage.end();
                    let ended = self.read(chunks(response)).await;
                    if ended.is_over {
                        return Ok(());
                    }
                    if ended.was_of_use {
                        backoff = Backoff::new();
                    }
                }
                Err(error) => {
                    if let Some(error) = outage.extend(error, Instant::now())? {
                        self.send(StreamItem::Away(error)).await;
                    }
                }
            }
            backoff.pause().await;
        }
    }

    /// Sends the events in `chunks` on, until they end or can't be parsed.
    async fn read<B: AsRef<[u8]> + Send, E: Send>(
        &mut self,
        chunks: impl TryStream<Ok = B, Error = E> + Send,
    ) -> ReadEnd {
        let unread = Arc::new(AtomicUsize::new(0));
        let bounded = bounded(chunks, Arc::clone(&unread), EVENT_BYTES_MAX);
        let mut events = std::pin::pin!(EventStream::new(bounded));
        let mut was_of_use = false;
        while let Ok(Some(Ok(message))) = timeout(SILENCE_MAX, events.next()).await {
            unread.store(0, Ordering::Relaxed);
            if message.event == "reset" {
                // The reader was too slow; it goes on after the last event it saw.
                break;
            }
            let Ok(event) = serde_json::from_str::<Event>(&message.data) else {
                // An event of a kind that only a newer program knows; its number still counts.
                if let Ok(number) = message.id.parse() {
                    was_of_use |= self.cursor.turn(number, false) == Turn::Next;
                }
                continue;
            };
            match self.cursor.turn(event.number, event.what.kind() == Kind::Gap) {
                Turn::Next => {}
                Turn::Seen => continue,
                Turn::Early => break,
            }
            was_of_use = true;
            let is_over = matches!(event.what, What::Settled { .. });
            self.send(StreamItem::Event(Box::new(RawEvent { event, json: message.data }))).await;
            if is_over {
                return ReadEnd { is_over, was_of_use };
            }
        }
        ReadEnd { is_over: false, was_of_use }
    }

    async fn send(&self, item: StreamItem) {
        // Without a receiver the reader is about to be ended.
        let _ = self.items.send(Ok(item)).await;
    }
}

/// The chunks of the body as they come.
fn chunks(response: Response) -> impl TryStream<Ok = impl AsRef<[u8]>, Error = reqwest::Error> + Send {
    stream::try_unfold(response, async |mut response| {
        let chunk = response.chunk().await?;
        Ok(chunk.map(|chunk| (chunk, response)))
    })
}

/// Ends the stream after more than `most` bytes without an event; the reader sets `unread` to 0 at each event.
fn bounded<B: AsRef<[u8]> + Send, E: Send>(
    chunks: impl TryStream<Ok = B, Error = E> + Send,
    unread: Arc<AtomicUsize>,
    most: usize,
) -> impl Stream<Item = Result<B, E>> + Send {
    chunks.into_stream().take_while(move |chunk| {
        let bytes = chunk.as_ref().map_or(0, |chunk| chunk.as_ref().len());
        let is_sane = unread.fetch_add(bytes, Ordering::Relaxed) + bytes <= most;
        std::future::ready(is_sane)
    })
}

#[cfg(test)]
mod tests;
