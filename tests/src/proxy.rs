//! A TCP proxy between one client and one server, with the faults of a network, switched while it runs.
//!
//! It holds at most [`CHUNK`] bytes of each direction: bytes that it does not forward stay with the sender, as on a
//! network that carries nothing. Deliberately absent: parsing of what passes.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::Port;

/// The most bytes taken from one side before the other has them.
const CHUNK: usize = 16 << 10;
/// Between two bytes of a [`Conditions::Slow`] connection.
const SLOW_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of connections, new ones and those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Everything passes.
    Normal,
    /// What the client sends is held back.
    StalledUp,
    /// What the server sends is held back.
    StalledDown,
    /// Nothing passes either way.
    Stalled,
    /// New connections are accepted and lead nowhere, old ones are silent; all of them break when this is over.
    HalfOpen,
    /// One byte a second each way.
    Slow,
    /// A connection is reset once so many further bytes have passed one way, be it in the middle of a frame.
    ResetAfter(u64),
    /// Connections are reset at once.
    Down,
}

/// A proxy on a port of its own. Its connections are reset when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    state: watch::Sender<LinkState>,
    task: AbortHandle,
}

#[derive(Clone, Copy, Debug)]
struct LinkState {
    conditions: Conditions,
    /// Changes of the conditions, so that a second limit of bytes is not taken for the first.
    changes: u64,
    /// Connections that are older are reset.
    cuts: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// The connection is to be reset.
struct Broken;

impl Proxy {
    /// Listens for connections to `server`, a port of this machine. Call it within a runtime.
    pub fn start(server: u16) -> anyhow::Result<Self> {
        let port = Port::claim()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let state = watch::Sender::new(LinkState { conditions: Conditions::Normal, changes: 0, cuts: 0 });
        let task = tokio::spawn(serve(listener, server, state.subscribe())).abort_handle();
        Ok(Self { port, state, task })
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The same URL, by way of this proxy. Its host must be `127.0.0.1:` and the server's port.
    pub fn url(&self, direct: &str, server: u16) -> String {
        direct.replacen(&format!("127.0.0.1:{server}"), &format!("127.0.0.1:{}", self.port()), 1)
    }

    pub fn conditions(&self) -> Conditions {
        self.state.borrow().conditions
    }

    /// Holds from now on, also for the connections that are there.
    pub fn set(&self, conditions: Conditions) {
        self.state.send_modify(|state| {
            state.cuts += u64::from(state.conditions == Conditions::HalfOpen && conditions != Conditions::HalfOpen);
            state.conditions = conditions;
            state.changes += 1;
        });
    }

    /// Resets every connection that is there.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, server: u16, state: watch::Receiver<LinkState>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connect(client, server, state.clone()));
                }
                // The client has gone already, or there is no descriptor left for it.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to its end.
async fn connect(mut client: TcpStream, port: u16, mut state: watch::Receiver<LinkState>) {
    let born = state.borrow_and_update().cuts;
    let mut watched = state.clone();
    let reset = async move {
        loop {
            let now = *watched.borrow_and_update();
            if now.cuts != born || now.conditions == Conditions::Down || watched.changed().await.is_err() {
                return;
            }
        }
    };
    let mut server = None;
    let carry = async {
        // Past a half-open time this is over, one way or the other.
        state.wait_for(|state| state.conditions != Conditions::HalfOpen).await.map_err(|_| Broken)?;
        let server = server.insert(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|_| Broken)?);
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            pump(Direction::Up, from_client, to_server, state.clone()),
            pump(Direction::Down, from_server, to_client, state.clone()),
        )?;
        Ok(())
    };
    let ended: Result<(), Broken> = tokio::select! {
        ended = carry => ended,
        () = reset => Err(Broken),
    };
    if ended.is_err() {
        // Closed like this, a socket sends RST and drops what it had yet to send.
        for socket in [Some(client), server].into_iter().flatten() {
            let _ = socket.set_zero_linger();
        }
    }
}

/// Carries one direction until its sender is done.
async fn pump(
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<LinkState>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK];
    // What may pass before a reset, and since which change of the conditions that is counted.
    let mut budget = (0, u64::MAX);
    loop {
        let limit = allowed(direction, &mut state, &mut budget).await?;
        // A change of the conditions may be about bytes that are not there yet.
        let read = tokio::select! {
            read = from.read(&mut buffer[..limit]) => read.map_err(|_| Broken)?,
            changed = state.changed() => { changed.map_err(|_| Broken)?; continue }
        };
        if read == 0 {
            return to.shutdown().await.map_err(|_| Broken);
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            // Checked again: the bytes may have come at the moment of a change.
            let limit = allowed(direction, &mut state, &mut budget).await?;
            let (now, later) = rest.split_at(limit.min(rest.len()));
            to.write_all(now).await.map_err(|_| Broken)?;
            budget.1 = budget.1.saturating_sub(now.len() as u64);
            rest = later;
            if state.borrow().conditions == Conditions::Slow {
                let _ = tokio::time::timeout(SLOW_PAUSE, state.changed()).await;
            }
        }
    }
}

/// Waits until bytes may pass, and returns how many.
async fn allowed(
    direction: Direction,
    state: &mut watch::Receiver<LinkState>,
    budget: &mut (u64, u64),
) -> Result<usize, Broken> {
    loop {
        let now = *state.borrow_and_update();
        let limit = match now.conditions {
            Conditions::Normal => CHUNK,
            Conditions::Slow => 1,
            Conditions::StalledUp if direction == Direction::Down => CHUNK,
            Conditions::StalledDown if direction == Direction::Up => CHUNK,
            Conditions::ResetAfter(bytes) => {
                if budget.0 != now.changes {
                    *budget = (now.changes, bytes);
                }
                match usize::try_from(budget.1).unwrap_or(CHUNK).min(CHUNK) {
                    0 => return Err(Broken),
                    left => left,
                }
            }
            Conditions::StalledUp
            | Conditions::StalledDown
            | Conditions::Stalled
            | Conditions::HalfOpen
            | Conditions::Down => 0,
        };
        if limit > 0 {
            return Ok(limit);
        }
        state.changed().await.map_err(|_| Broken)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    /// How long nothing must come for "nothing comes" to be believed.
    const WATCHED: Duration = Duration::from_millis(200);

    /// A server that sends back what it gets, and a proxy in front of it.
    async fn echo() -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?.port())?;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Ok(proxy)
    }

    async fn dial(proxy: &Proxy) -> anyhow::Result<TcpStream> {
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await?)
    }

    async fn say(client: &mut TcpStream, text: &str) -> anyhow::Result<()> {
        Ok(tokio::time::timeout(SOON, client.write_all(text.as_bytes())).await??)
    }

    async fn hear(client: &mut TcpStream, bytes: usize) -> anyhow::Result<String> {
        let mut heard = vec![0; bytes];
        tokio::time::timeout(SOON, client.read_exact(&mut heard)).await??;
        Ok(String::from_utf8(heard)?)
    }

    async fn is_silent(client: &mut TcpStream) -> bool {
        tokio::time::timeout(WATCHED, client.read(&mut [0; 1])).await.is_err()
    }

    async fn is_reset(client: &mut TcpStream) -> anyhow::Result<()> {
        let error = loop {
            match tokio::time::timeout(SOON, client.read(&mut [0; 64])).await? {
                Ok(0) => anyhow::bail!("closed in order"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        anyhow::ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
        Ok(())
    }

    #[tokio::test]
    async fn in_fair_weather_bytes_and_ends_pass_both_ways() -> anyhow::Result<()> {
        let proxy = echo().await?;
        assert_eq!(proxy.url("x://u@127.0.0.1:1234/p", 1234), format!("x://u@127.0.0.1:{}/p", proxy.port()));
        let mut client = dial(&proxy).await?;
        let large = "x".repeat(10 * CHUNK);
        let (mut from, mut to) = client.split();
        let mut heard = Vec::new();
        let (written, read) = tokio::join!(
            async {
                to.write_all(large.as_bytes()).await?;
                to.shutdown().await
            },
            from.read_to_end(&mut heard)
        );
        written?;
        assert_eq!(read?, large.len());
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_there_and_nothing_that_comes() -> anyhow::Result<()> {
        let proxy = echo().await?;
        let mut client = dial(&proxy).await?;
        say(&mut client, "a").await?;
        hear(&mut client, 1).await?;
        proxy.cut();
        is_reset(&mut client).await?;
        let mut next = dial(&proxy).await?;
        say(&mut next, "b").await?;
        assert_eq!(hear(&mut next, 1).await?, "b");
        Ok(())
    }

    #[tokio::test]
    async fn stalled_bytes_are_held_and_pass_when_it_is_fair_again() -> anyhow::Result<()> {
        for conditions in [Conditions::Stalled, Conditions::StalledUp, Conditions::StalledDown] {
            let proxy = echo().await?;
            let mut client = dial(&proxy).await?;
            say(&mut client, "a").await?;
            hear(&mut client, 1).await?;
            proxy.set(conditions);
            say(&mut client, "late").await?;
            assert!(is_silent(&mut client).await, "{conditions:?}");
            proxy.set(Conditions::Normal);
            assert_eq!(hear(&mut client, 4).await?, "late", "{conditions:?}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_stall_of_one_direction_lets_the_other_pass() -> anyhow::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?.port())?;
        let mut client = dial(&proxy).await?;
        let (mut server, _) = listener.accept().await?;
        proxy.set(Conditions::StalledUp);
        say(&mut client, "held").await?;
        say(&mut server, "free").await?;
        assert_eq!(hear(&mut client, 4).await?, "free");
        assert!(is_silent(&mut server).await);
        proxy.set(Conditions::StalledDown);
        assert_eq!(hear(&mut server, 4).await?, "held");
        say(&mut server, "held").await?;
        assert!(is_silent(&mut client).await);
        Ok(())
    }

    #[tokio::test]
    async fn a_half_open_connection_is_accepted_leads_nowhere_and_breaks_in_the_end() -> anyhow::Result<()> {
        let proxy = echo().await?;
        let mut old = dial(&proxy).await?;
        say(&mut old, "a").await?;
        hear(&mut old, 1).await?;
        proxy.set(Conditions::HalfOpen);
        let mut new = dial(&proxy).await?;
        for client in [&mut old, &mut new] {
            say(client, "b").await?;
            assert!(is_silent(client).await);
        }
        proxy.set(Conditions::Normal);
        is_reset(&mut old).await?;
        is_reset(&mut new).await
    }

    #[tokio::test]
    async fn a_slow_connection_carries_a_byte_a_second() -> anyhow::Result<()> {
        let proxy = echo().await?;
        let mut client = dial(&proxy).await?;
        proxy.set(Conditions::Slow);
        say(&mut client, "abc").await?;
        let begun = std::time::Instant::now();
        assert_eq!(hear(&mut client, 2).await?, "ab");
        assert!(begun.elapsed() >= SLOW_PAUSE, "{:?}", begun.elapsed());
        proxy.set(Conditions::Normal);
        assert_eq!(hear(&mut client, 1).await?, "c");
        Ok(())
    }

    #[tokio::test]
    async fn a_reset_comes_after_exactly_so_many_bytes() -> anyhow::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?.port())?;
        let mut client = dial(&proxy).await?;
        let (mut server, _) = listener.accept().await?;
        for round in ["one", "two"] {
            proxy.set(Conditions::ResetAfter(5));
            if round == "two" {
                client = dial(&proxy).await?;
                (server, _) = listener.accept().await?;
            }
            say(&mut client, "12345678").await?;
            let mut heard = Vec::new();
            let end = tokio::time::timeout(SOON, server.read_to_end(&mut heard)).await?;
            assert!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
            assert!(heard.is_empty() || heard == b"12345", "{heard:?}");
            is_reset(&mut client).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_is_down_or_has_no_server_resets_at_once() -> anyhow::Result<()> {
        let proxy = echo().await?;
        let mut client = dial(&proxy).await?;
        proxy.set(Conditions::Down);
        is_reset(&mut client).await?;
        is_reset(&mut dial(&proxy).await?).await?;
        assert_eq!(proxy.conditions(), Conditions::Down);
        let nobody = Port::claim()?;
        let proxy = Proxy::start(nobody.number())?;
        is_reset(&mut dial(&proxy).await?).await
    }
}
