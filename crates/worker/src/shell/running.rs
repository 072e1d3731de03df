//! The live attempts, and how to start, interrupt and end one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::ActionRef;
use slotline_protocol::message::{AttemptKey, Failure};
use tokio::runtime;
use tokio::sync::{mpsc, watch};

use super::watch::{Doing, Gauge};
use crate::clock;
use crate::driver::AttemptAction;
use crate::duty::{Ending, ServedAction, Start};
use crate::handler::{self, Handler};
use crate::process::attempt::{self, Plan, StopRequest};
use crate::process::command::Command;
use crate::process::pool::Pool;
use crate::process::resident::{self, GroupInput, Resident};
use crate::process::scratch::Scratch;
use crate::report::feed::{AttemptFeed, Listener};
use crate::report::phases::DeclaredPhases;

/// What an action of that name runs.
#[derive(Clone)]
pub(crate) enum Work {
    Handler(Handler),
    Command(Arc<Command>),
    Resident(Arc<Resident>),
}

impl Work {
    pub(crate) fn command(&self) -> Option<&Arc<Command>> {
        match self {
            Self::Handler(_) => None,
            Self::Command(command) => Some(command),
            Self::Resident(resident) => Some(&resident.command),
        }
    }
}

/// What an action runs, and the phases that its attempts may name.
pub(crate) struct Offer {
    work: Work,
    phases: Arc<DeclaredPhases>,
}

/// All that a worker serves.
pub(crate) fn offers(
    work: BTreeMap<ActionRef, Work>,
    actions: &BTreeMap<ActionRef, ServedAction>,
) -> BTreeMap<ActionRef, Offer> {
    let offer = |(name, work)| {
        let phases = actions.get(&name).map_or(&[][..], |action| &action.phases);
        (name, Offer { work, phases: Arc::new(DeclaredPhases::new(phases)) })
    };
    work.into_iter().map(offer).collect()
}

pub(crate) struct Running {
    offers: BTreeMap<ActionRef, Offer>,
    /// The handle of each attempt that has not ended.
    live: BTreeMap<AttemptKey, Live>,
    /// Until when attempts that obey the fence may run.
    fence: watch::Sender<Option<Duration>>,
    /// `None` in a worker without commands.
    commands: Option<Commands>,
    handlers: runtime::Handle,
    announcements: mpsc::UnboundedSender<Arc<AttemptFeed>>,
    gauge: Arc<Gauge>,
    /// The worker has ended, and an attempt that starts now has nowhere to run.
    is_closed: bool,
}

struct Commands {
    pool: Pool,
    scratch: Scratch,
    /// The loop's runtime, where commands are watched.
    own: runtime::Handle,
    /// The runtime where their reports are read.
    channels: runtime::Handle,
    /// The handler processes of each name, once there was an attempt for them.
    groups: BTreeMap<String, mpsc::UnboundedSender<GroupInput>>,
}

impl Commands {
    /// The group of that handler, which is there from its first attempt on.
    fn group(
        &mut self,
        resident: &Arc<Resident>,
        fence: &watch::Sender<Option<Duration>>,
    ) -> mpsc::UnboundedSender<GroupInput> {
        let Self { pool, channels, groups, .. } = self;
        let group = groups.entry(resident.config.name.clone()).or_insert_with(|| {
            let (group, inputs) = mpsc::unbounded_channel();
            channels.spawn(resident::run(resident.clone(), pool.clone(), fence.subscribe(), inputs));
            group
        });
        group.clone()
    }
}

enum Live {
    Handler(handler::RunningHandler),
    Command(mpsc::UnboundedSender<StopRequest>),
    Resident(mpsc::UnboundedSender<GroupInput>),
}

impl Running {
    /// To be called on the loop's runtime.
    pub(crate) fn new(
        offers: BTreeMap<ActionRef, Offer>,
        pool: Option<Pool>,
        scratch: Option<Scratch>,
        handlers: runtime::Handle,
        channels: runtime::Handle,
        announcements: mpsc::UnboundedSender<Arc<AttemptFeed>>,
        gauge: Arc<Gauge>,
    ) -> Self {
        let own = runtime::Handle::current();
        let commands =
            pool.zip(scratch).map(|(pool, scratch)| Commands { pool, scratch, own, channels, groups: BTreeMap::new() });
        Self {
            offers,
            live: BTreeMap::new(),
            fence: watch::Sender::new(None),
            commands,
            handlers,
            announcements,
            gauge,
            is_closed: false,
        }
    }

    /// `listener` gets what happens to an attempt that is started.
    pub(crate) fn act(&mut self, listener: impl FnOnce() -> Arc<dyn Listener>, action: AttemptAction) {
        match action {
            AttemptAction::Start(start) => self.start(listener, start),
            AttemptAction::Interrupt { key, grace } => self.interrupt(key, grace),
            AttemptAction::Kill { key } => self.kill(key),
            AttemptAction::Extend { deadline } => drop(self.fence.send_replace(deadline)),
        }
    }

    /// Starts an attempt. Its feed reports everything else.
    fn start(&mut self, listener: impl FnOnce() -> Arc<dyn Listener>, start: Start) {
        if self.is_closed {
            return;
        }
        let key = start.key;
        let offer = self.offers.get(&start.action_ref);
        let phases = offer.map(|offer| offer.phases.clone()).unwrap_or_default();
        let feed = AttemptFeed::new(key, phases, listener(), self.announcements.clone());
        let live = match (offer.map(|offer| &offer.work), &mut self.commands) {
            (Some(Work::Handler(handler)), _) => Live::Handler(handler::start(&self.handlers, handler, start, feed)),
            (Some(Work::Command(command)), Some(Commands { pool, scratch, own, channels, .. })) => {
                let (asks, asked) = mpsc::unbounded_channel();
                let plan = Plan {
                    places: scratch.places(key, start.fence, command.confinement.account.as_ref()),
                    command: command.clone(),
                    channels: channels.clone(),
                    start,
                    feed,
                    asks: asked,
                    fence: self.fence.subscribe(),
                };
                let run = attempt::run(pool.clone(), plan);
                own.spawn(self.gauge.pulse().clone().during(Doing::Command as usize, run));
                Live::Command(asks)
            }
            (Some(Work::Resident(resident)), Some(commands)) => {
                let group = commands.group(resident, &self.fence);
                // It ends after this table.
                let _ = group.send(GroupInput::Start(Box::new(start), feed));
                Live::Resident(group)
            }
            (Some(Work::Command(_) | Work::Resident(_)) | None, _) => {
                // The book has the same table of actions. Reported from another task: the caller holds the book's lock.
                let error = Failure::new("spawn_failed", format!("this worker does not run {}", start.action_ref));
                self.handlers.spawn(async move {
                    feed.ended(Ending::failed(error, clock::now().wall));
                });
                return;
            }
        };
        self.live.insert(key, live);
    }

    fn interrupt(&self, key: AttemptKey, grace: Duration) {
        match self.live.get(&key) {
            Some(Live::Handler(handle)) => handle.interrupt(),
            // An attempt that has just ended takes no more messages.
            Some(Live::Command(asks)) => drop(asks.send(StopRequest::Interrupt { grace })),
            Some(Live::Resident(group)) => drop(group.send(GroupInput::Interrupt { key, grace })),
            None => {}
        }
    }

    fn kill(&self, key: AttemptKey) {
        match self.live.get(&key) {
            Some(Live::Handler(handle)) => handle.kill(),
            Some(Live::Command(asks)) => drop(asks.send(StopRequest::Kill)),
            Some(Live::Resident(group)) => drop(group.send(GroupInput::Kill { key })),
            None => {}
        }
    }

    /// The attempt has ended.
    pub(crate) fn forget(&mut self, key: AttemptKey) {
        self.live.remove(&key);
    }

    /// Drops every live attempt: commands end with their channel, handlers with their runtime.
    pub(crate) fn close(&mut self) -> Option<Scratch> {
        self.is_closed = true;
        self.live.clear();
        self.commands.take().map(|commands| commands.scratch)
    }
}
