//! One declared handler: its attempts and its processes. One task, which ends with the worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Failure};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::config::Resident;
use super::life::{self, Birth, LifeEvent, LifeOrder};
use super::open::{self, HandlerAttempt};
use super::roster::{LifeNumber, Roster};
use crate::clock;
use crate::duty::Start;
use crate::process::pool::Pool;
use crate::report::feed::AttemptFeed;

/// A message of the loop to the group.
pub(crate) enum GroupInput {
    Start(Box<Start>, Arc<AttemptFeed>),
    Interrupt { key: AttemptKey, grace: Duration },
    Kill { key: AttemptKey },
}

struct Group {
    resident: Arc<Resident>,
    pool: Pool,
    /// The fence, as it moves on.
    fence: watch::Receiver<Option<Duration>>,
    roster: Roster<HandlerAttempt>,
    lives: BTreeMap<LifeNumber, mpsc::UnboundedSender<LifeOrder>>,
    tasks: JoinSet<()>,
    events: mpsc::UnboundedSender<(LifeNumber, LifeEvent)>,
}

/// Runs until the worker drops its end of `inputs`, and then until no process is left.
pub(crate) async fn run(
    resident: Arc<Resident>,
    pool: Pool,
    fence: watch::Receiver<Option<Duration>>,
    mut inputs: mpsc::UnboundedReceiver<GroupInput>,
) {
    let (events, mut happened) = mpsc::unbounded_channel();
    let roster = Roster::new(resident.config.processes);
    let (lives, tasks) = (BTreeMap::new(), JoinSet::new());
    let mut group = Group { resident, pool, fence, roster, lives, tasks, events };
    loop {
        tokio::select! {
            biased;
            Some((life, event)) = happened.recv() => group.hear(life, event),
            input = inputs.recv() => match input {
                Some(input) => group.obey(input),
                None => break,
            },
            () = group.until_birth() => group.give_birth(),
        }
        group.assign();
    }
    // Without their channel they drain.
    group.lives.clear();
    while group.tasks.join_next().await.is_some() {}
}

impl Group {
    fn obey(&mut self, input: GroupInput) {
        match input {
            GroupInput::Start(start, feed) => self.roster.wait(start.key, HandlerAttempt { start: *start, feed }),
            GroupInput::Interrupt { key, grace } => self.stop(key, LifeOrder::Cancel { key, grace }),
            GroupInput::Kill { key } => self.stop(key, LifeOrder::Kill { key }),
        }
    }

    /// An attempt that waits ends here; one that has just ended takes no more orders.
    fn stop(&mut self, key: AttemptKey, order: LifeOrder) {
        if let Some(HandlerAttempt { feed, .. }) = self.roster.take(key) {
            feed.ended(open::ending(Err(Failure::new("cancelled", "it was ended before it started"))));
        } else if let Some(life) = self.roster.host(key).and_then(|life| self.lives.get(&life)) {
            // One that has ended reports that itself.
            let _ = life.send(order);
        }
    }

    fn hear(&mut self, life: LifeNumber, event: LifeEvent) {
        match event {
            LifeEvent::Ready { concurrency } => self.roster.ready(life, concurrency),
            LifeEvent::Freed { key } => self.roster.freed(life, key),
            LifeEvent::Ending => self.roster.ending(life),
            LifeEvent::Ended { untouched, unready } => {
                self.lives.remove(&life);
                while self.tasks.try_join_next().is_some() {}
                let untouched = untouched.into_iter().map(|attempt| (attempt.start.key, attempt)).collect();
                self.roster.ended(life, untouched);
                if let Some(why) = unready {
                    for (_, HandlerAttempt { feed, .. }) in self.roster.failed(clock::boot()) {
                        feed.ended(open::ending(Err(why.clone())));
                    }
                }
            }
        }
    }

    fn assign(&mut self) {
        while let Some((life, key, attempt)) = self.roster.next() {
            let sent = match self.lives.get(&life) {
                Some(orders) => orders.send(LifeOrder::Run(attempt)).map_err(|unsent| unsent.0),
                None => Err(LifeOrder::Run(attempt)),
            };
            // The process has just ended, and reports that next.
            if let Err(LifeOrder::Run(attempt)) = sent {
                self.roster.ended(life, vec![(key, attempt)]);
            }
        }
    }

    /// Returns when another process is to be started. Cancel-safe.
    async fn until_birth(&self) {
        match self.roster.next_birth() {
            Some(at) => tokio::time::sleep(at.saturating_sub(clock::boot())).await,
            None => std::future::pending().await,
        }
    }

    fn give_birth(&mut self) {
        let number = self.roster.born();
        let (orders, ordered) = mpsc::unbounded_channel();
        self.lives.insert(number, orders);
        let birth = Birth {
            resident: self.resident.clone(),
            pool: self.pool.clone(),
            fence: self.fence.clone(),
            number,
            events: self.events.clone(),
        };
        self.tasks.spawn(life::run(birth, ordered));
    }
}
