//! Several endpoints of one broker: whichever is away, a session is opened on another.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::Context;
use slotline_broker::{Broker, Error};
use slotline_tests::{Port, Rabbit};

/// For some turns of which each may wait for a silent endpoint.
const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn whichever_endpoint_is_silent_or_gone_the_next_one_is_taken() -> anyhow::Result<()> {
    let rabbit = Rabbit::shared().await?;
    let live = rabbit.fresh_vhost().await?;
    let gone = Port::claim()?;
    // Accepted by the kernel and never answered.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let at = |port: u16| live.replacen(&rabbit.port().to_string(), &port.to_string(), 1);
    let urls = [at(gone.number()), at(silent.local_addr()?.port()), live.clone()].join(",");
    let broker = Broker::rabbit(&urls, "p")?;
    // Each begins with another endpoint than the one before.
    for _ in 0..3 {
        let session = tokio::time::timeout(DEADLINE, broker.open("test")).await.context("no session")??;
        session.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn without_any_endpoint_the_last_failure_is_returned() -> anyhow::Result<()> {
    let (one, two) = (Port::claim()?, Port::claim()?);
    let url = |port: &Port| format!("amqp://guest:geheim@127.0.0.1:{}/", port.number());
    let error =
        Broker::rabbit(&format!("{},{}", url(&one), url(&two)), "p")?.open("test").await.expect_err("no broker");
    assert!(matches!(error, Error::Unreachable { .. }) && !error.to_string().contains("geheim"), "{error}");
    Ok(())
}
