//! How many messages a second one session carries from publisher to consumer, confirmed and acked.
//!
//! `cargo run --release -p slotline-broker --example throughput -- [AMQP_URL]`; without a URL only the in-process broker.

use std::time::{Duration, Instant};

use slotline_broker::topology::Queue;
use slotline_broker::{Broker, Consume, Publication, Session, Topology};

const BODY_BYTES: usize = 300;
/// How many receipts are left open before the oldest is waited for.
const WINDOW: usize = 2_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    measure(&Broker::memory("throughput"), Queue::classic("throughput".to_owned()), 1_000_000).await?;
    if let Some(url) = std::env::args().nth(1) {
        let broker = Broker::rabbit(&url, "throughput")?;
        for queue in [Queue::classic("throughput.classic".to_owned()), Queue::quorum("throughput.quorum".to_owned())] {
            measure(&broker, queue, 100_000).await?;
        }
    }
    Ok(())
}

async fn measure(broker: &Broker, queue: Queue, count: usize) -> anyhow::Result<()> {
    let session = broker.open("throughput").await?;
    let name = queue.name.clone();
    session.declare(&Topology { queues: vec![queue], ..Topology::default() }).await?;
    let alone = publish(&session, &name, count).await?;
    session.delete_queue(&name).await?;
    session.close().await;

    let session = broker.open("throughput").await?;
    let queue = if name.ends_with("quorum") { Queue::quorum(name.clone()) } else { Queue::classic(name.clone()) };
    session.declare(&Topology { queues: vec![queue], ..Topology::default() }).await?;
    let mut consumer = session.consume(&name, Consume { prefetch: 1_000 }).await?;
    let begun = Instant::now();
    let consuming = tokio::spawn(async move {
        let (acker, mut seen, mut batch) = (consumer.acker(), 0, Vec::new());
        while seen < count && consumer.next_batch(&mut batch, 500).await {
            seen += batch.len();
            if let Some(last) = batch.last() {
                acker.ack_up_to(last.tag);
            }
            batch.clear();
        }
        anyhow::ensure!(seen == count, "{seen} of {count} came");
        Ok(consumer)
    });
    publish(&session, &name, count).await?;
    let consumer = consuming.await??;
    let through = begun.elapsed();
    drop(consumer);
    println!(
        "{:<40} {name:<20} published and confirmed {:>9.0}/s, carried through {:>9.0}/s",
        broker.endpoint(),
        rate(count, alone),
        rate(count, through)
    );
    let cleaning = broker.open("throughput").await?;
    cleaning.delete_queue(&name).await?;
    cleaning.close().await;
    Ok(())
}

async fn publish(session: &Session, queue: &str, count: usize) -> anyhow::Result<Duration> {
    let body = bytes::Bytes::from(vec![b'x'; BODY_BYTES]);
    let begun = Instant::now();
    let mut receipts = std::collections::VecDeque::with_capacity(WINDOW);
    for _ in 0..count {
        if receipts.len() == WINDOW
            && let Some(receipt) = receipts.pop_front()
        {
            let receipt: slotline_broker::Receipt = receipt;
            receipt.await?;
        }
        receipts.push_back(session.publish(Publication {
            routing_key: queue.to_owned(),
            body: body.clone(),
            mandatory: true,
            persistent: true,
            ..Publication::default()
        }));
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(begun.elapsed())
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
