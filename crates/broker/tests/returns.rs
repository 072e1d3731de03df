//! A returned message is distinguished from the confirmed ones around it, whatever the broker acknowledges with one
//! frame.
//!
//! RabbitMQ decides by its load how many confirms share a frame; the server here, with just enough AMQP for one
//! publisher, always puts a whole batch into one, with the returns of some of them right before.

use std::time::Duration;

use slotline_broker::{Broker, Publication, PublishError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How many publications are acknowledged with one frame.
const BATCH: usize = 50;
const ROUNDS: usize = 400;
const NOWHERE: &str = "nowhere";
/// The key of the large message by which a session probes the bound of the broker.
const LARGEST: &str = "slotline.nowhere";

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_is_matched_to_its_own_publication_within_one_acknowledgement_of_many() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://127.0.0.1:{}", listener.local_addr()?.port());
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that leaves in the middle of a frame is no failure of the test.
            tokio::spawn(async move { drop((stream.set_nodelay(true), serve(stream).await)) });
        }
    });
    let session = Broker::rabbit(&url, "p")?.open("returns").await?;
    for round in 0..ROUNDS {
        let is_lost = |number: usize| number == round % BATCH || (round % 2 == 0 && number % 10 == 9);
        let receipts: Vec<_> = (0..BATCH)
            .map(|number| {
                session.publish(Publication {
                    routing_key: if is_lost(number) { NOWHERE } else { "q" }.to_owned(),
                    body: format!("{round}.{number}").into(),
                    mandatory: true,
                    ..Publication::default()
                })
            })
            .collect();
        for (number, receipt) in receipts.into_iter().enumerate() {
            let expected = if is_lost(number) { Err(PublishError::Returned) } else { Ok(()) };
            let result = tokio::time::timeout(Duration::from_secs(30), receipt).await?;
            assert_eq!(result, expected, "message {number} of round {round}");
        }
    }
    server.abort();
    Ok(())
}

/// A publication as it came: its routing key, and the frames of its content.
struct Received {
    key: Vec<u8>,
    content: Vec<(u8, Vec<u8>)>,
}

/// Greets a client, opens what it asks for, and acknowledges its publications batch by batch.
async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).await?;
    let start = [&[0, 9, 0, 0, 0, 0][..], &long("PLAIN"), &long("en_US")].concat();
    send(&mut stream, 0, METHOD, &method(10, 10, &start)).await?;
    let mut batch: Vec<Received> = Vec::new();
    let mut acknowledged: u64 = 0;
    // The channel on which a session has probed that bound.
    let mut aside = None;
    loop {
        let (kind, channel, payload) = receive(&mut stream).await?;
        if kind != METHOD && aside == Some(channel) {
            continue;
        }
        if kind == HEADER || kind == BODY {
            if let Some(last) = batch.last_mut() {
                last.content.push((kind, payload));
            }
            // Every body of the test fits into one frame.
            if kind == BODY && batch.len() == BATCH {
                acknowledged += BATCH as u64;
                for received in batch.drain(..).filter(|received| received.key == NOWHERE.as_bytes()) {
                    let returned =
                        [&312_u16.to_be_bytes()[..], &short("NO_ROUTE"), &short(""), &short(NOWHERE)].concat();
                    send(&mut stream, channel, METHOD, &method(60, 50, &returned)).await?;
                    for (kind, payload) in received.content {
                        send(&mut stream, channel, kind, &payload).await?;
                    }
                }
                let ack = [&acknowledged.to_be_bytes()[..], &[1]].concat();
                send(&mut stream, channel, METHOD, &method(60, 80, &ack)).await?;
            }
            continue;
        }
        let answer = match payload.get(..4) {
            // connection: start-ok, open, close; channel: open, close; confirm: select
            Some([0, 10, 0, 11]) => method(10, 30, &[7, 255, 0, 2, 0, 0, 0, 60]),
            Some([0, 10, 0, 40]) => method(10, 41, &[0]),
            Some([0, 10, 0, 50]) => method(10, 51, &[]),
            Some([0, 20, 0, 10]) => method(20, 11, &[0, 0, 0, 0]),
            Some([0, 20, 0, 40]) => method(20, 41, &[]),
            Some([0, 85, 0, 10]) => method(85, 11, &[]),
            Some([0, 60, 0, 40]) => {
                // Past the ticket stand the exchange and the routing key, each after its length.
                let key = 7 + usize::from(payload[6]);
                let key = payload[key + 1..=key + usize::from(payload[key])].to_vec();
                if key == LARGEST.as_bytes() {
                    aside = Some(channel);
                    let ack = [&1_u64.to_be_bytes()[..], &[0]].concat();
                    send(&mut stream, channel, METHOD, &method(60, 80, &ack)).await?;
                    continue;
                }
                batch.push(Received { key, content: Vec::new() });
                continue;
            }
            _ => continue,
        };
        send(&mut stream, channel, METHOD, &answer).await?;
    }
}

fn method(class: u16, id: u16, arguments: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes()[..], &id.to_be_bytes(), arguments].concat()
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8][..], text.as_bytes()].concat()
}

fn long(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

async fn send(stream: &mut TcpStream, channel: u16, kind: u8, payload: &[u8]) -> std::io::Result<()> {
    let size = (payload.len() as u32).to_be_bytes();
    stream.write_all(&[&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xCE]].concat()).await
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<(u8, u16, Vec<u8>)> {
    let mut header = [0; 7];
    stream.read_exact(&mut header).await?;
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    let mut payload = vec![0; size + 1];
    stream.read_exact(&mut payload).await?;
    payload.pop();
    Ok((header[0], u16::from_be_bytes([header[1], header[2]]), payload))
}
