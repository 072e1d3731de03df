//! The events of one execution, each once and in order, for as long as it takes.
//!
//! A connection that ends before the execution has is opened again, from the last event that was handed on. So an
//! executor may restart, or cut off who reads too slowly, and nothing is missed or seen twice.
//! Not here: what is made of the events (`watch`, `logs`), and the bytes between them (an event stream's parser).

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

/// Events that are read ahead of whoever shows them.
const AHEAD_MAX: usize = 64;
/// A connection without even a heartbeat for so long is dead; heartbeats come every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The largest event that is read; a result may have a mebibyte, and escaped it is some times that.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// Something to show.
pub(crate) enum StreamItem {
    Event(Box<RawEvent>),
    /// Nobody answers any more. It is tried again.
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
                        // Nobody listens any more: then nobody needs the reason.
                        let _ = sender.send(Err(error)).await;
                    }
                }
                () = sender.closed() => {}
            }
        });
        Self(receiver)
    }

    /// The next; `None` after the event that settled the execution. Nothing is lost if it is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Result<StreamItem, Error>> {
        self.0.recv().await
    }
}

/// How far the events are handed on.
struct Cursor {
    last: u64,
    /// The event that came instead of the next, on the last connection.
    skipped_to: Option<u64>,
}

/// What to do with an event.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Next,
    /// It was handed on before.
    Seen,
    /// Others are missing before it: the connection is no good.
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
        // A gap stands for those before it. What is missing from two connections is missing from the record.
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
    /// Nothing can follow.
    is_over: bool,
    /// It brought something new.
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

    /// Hands on what `chunks` bring, until they end or make no sense.
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
                // It names the last event it sent; ours is that one, or one that we saw earlier.
                break;
            }
            let Ok(event) = serde_json::from_str::<Event>(&message.data) else {
                // Of a kind that only a newer program knows; its number still counts.
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
        // Whoever does not listen any more ends this reader.
        let _ = self.items.send(Ok(item)).await;
    }
}

/// The body as it comes.
fn chunks(response: Response) -> impl TryStream<Ok = impl AsRef<[u8]>, Error = reqwest::Error> + Send {
    stream::try_unfold(response, async |mut response| {
        let chunk = response.chunk().await?;
        Ok(chunk.map(|chunk| (chunk, response)))
    })
}

/// Ends where more than `most` bytes came without there being an event; `unread` is set back from outside.
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
