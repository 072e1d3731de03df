//! The leader: a pure machine between the queues, the scheduler and the journal.
//!
//! ```text
//!   Input ──> scheduler, record ──> what has gathered ──cut──> LeaderAction::Commit
//!   Input::Committed ──> LeaderAction::Publish, Show, Answer; once the broker has the orders: Announce, Probe, Ack, AckRequests
//! ```
//!
//! It decides when a batch is cut, what leaves once that is committed and in which order, which request is a repetition,
//! which mark of the journal is due, and when it must stand down. Nothing leaves before its commit; after a commit that
//! failed, or whose outcome is unknown, nothing leaves at all.
//!
//! Pure: time is an argument, and the same inputs give the same actions. The log is all that it writes to. What carries
//! its actions out (`shell`, or a simulation) owns clock, store, broker, encoder and the clients that wait for an answer.

#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub(crate) mod actions;
mod admission;
mod after_commit;
mod answer;
mod arrivals;
pub(crate) mod ask;
mod bodies;
mod bounds;
mod change;
mod commits;
mod followers;
pub(crate) mod heard;
mod input;
pub(crate) mod item;
pub(crate) mod letters;
pub(crate) mod lookout;
pub(crate) mod mark;
mod marks;
mod office;
pub(crate) mod outbox;
pub(crate) mod quarantine;
pub(crate) mod request;
mod rivals;
pub(crate) mod skew;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slotline_api::board::Round;
use slotline_broker::{Publication, Tag};
use slotline_protocol::http::Action;
use slotline_protocol::lines::{LineRow, WorkerCounts};
use slotline_protocol::message::Lineage;
use slotline_protocol::record::Event;
use slotline_protocol::{ActionRef, Epoch, ExecutionId, RequestName, Timestamp, chain};
use slotline_scheduler::{Config as SchedulerConfig, Limits, RecoveredAction, Scheduler, Snapshot};
use slotline_store::{ActionState, Recovered};

use crate::record::Record;
use actions::ActionTable;
use after_commit::{AfterCommit, Deferred};
use answer::Desk;
use bodies::Bodies;
use change::end_past_overrides;
use followers::Followers;
use lookout::Lookout;
use mark::hand::LOOK_EVERY;
use outbox::{Awaited, Pending};
use skew::Skews;

pub use crate::record::{AttemptEvent, AttemptEventKind, End, MissingEvents};
pub use actions::Registered;
pub use ask::{Answered, Ask, Asker, LeaderAnswer, Question};
pub use bounds::{Bounds, LeaderSettings};
pub use heard::SubscribedKeys;
pub use input::{Commit, Handled, Input, LeaderAction};
pub use item::{Arrival, Item, Source};
pub use letters::{Letters, Mail, Purpose};
pub use mark::{Judgement, Mark, Marks, Superseded, Unmarked, Witness};
pub use office::{Office, StandDown};
pub use quarantine::Quarantine;
pub use request::{Asked, Came, Checked, Member, PutAside, Rejection, Target, Turned};

/// How long a fact that needs no commit of its own may wait for one.
const LAZY: Duration = Duration::from_millis(50);
/// The most incarnations that one batch gives their tokens; the others ask again with their next heartbeat.
const STRANGERS_MAX: usize = 1_000;

/// One leadership. `P` is a message as its encoder wrote it, which the leader does not look into.
#[derive(Clone, Debug)]
pub struct Leader<P = Publication> {
    epoch: Epoch,
    settings: LeaderSettings,
    scheduler: Scheduler,
    actions: ActionTable,
    quarantine: Quarantine,
    /// Other executors whose clients watch.
    followers: Followers,
    skews: Skews,
    record: Record,
    /// What was logged of workers.
    lookout: Lookout,
    pending: Pending,
    bodies: Bodies,
    awaited: Awaited,
    /// Names accepted by batches that a look-up may not have seen: name -> (execution, digest, batch).
    recent: BTreeMap<RequestName, (ExecutionId, [u8; 32], i64)>,
    next_token: u64,
    /// The last batch handed to a commit.
    batch: i64,
    /// What leaves after the commit under way, and after the one packed behind it.
    under_way: VecDeque<AfterCommit>,
    /// What leaves without a commit, once it is encoded.
    uncommitted: Option<AfterCommit>,
    /// A commit failed, or its outcome is unknown: another may lead.
    is_over: bool,
    /// The generation of the session whose queues are consumed.
    session: Option<u64>,
    /// Acks that may go out with the batch now gathering.
    acks: Vec<(Source, Tag)>,
    requests: Option<Tag>,
    /// Since when something waits that is worth a commit, and whether at once.
    lazy_since: Option<Timestamp>,
    is_urgent: bool,
    /// What is left of the last release; nothing leaves before it.
    deferred: Option<Deferred<P>>,
    /// Dead letters of this session that the broker does not have yet, by weight.
    unstored: usize,
    /// What this leader made of the journal, and the marks that it leaves.
    office: Office,
    /// When the newest mark was left, if something was committed since.
    marked_at: Option<Timestamp>,
    /// When it looks at the marks of others, whether or not one of its own is due.
    looks_at: Timestamp,
    /// Why this leader must stand down, and above which epoch the next begins.
    evidence: Option<(String, Epoch)>,
    out: VecDeque<LeaderAction<P>>,
}

impl<P> Leader<P> {
    /// Goes on where the journal stands. `longest`: the longest lease that any worker may go by.
    pub fn new(
        epoch: Epoch,
        settings: LeaderSettings,
        recovered: Recovered,
        office: Office,
        quarantine: Quarantine,
        longest: Duration,
        now: Timestamp,
    ) -> Self {
        let Recovered { mut actions, live, ended, counters, stories, rewound_below, .. } = recovered;
        let mut pending = Pending::default();
        end_past_overrides(&mut actions, counters.next_fence, now, &mut pending);
        tracing::info!(%epoch, actions = actions.len(), live = live.len(), "leading");
        let (known, actions) = actions_of(actions);
        let names: BTreeMap<_, _> = actions.iter().map(|action| (action.id, action.action_ref.clone())).collect();
        let name = |snapshot: &Snapshot| names.get(&snapshot.action).cloned();
        let record = Record::recover(settings.events_kept, stories, &live, name, now);
        let config = SchedulerConfig { lease: settings.lease, heartbeat: settings.heartbeat };
        let mut scheduler = Scheduler::recover(config, epoch, counters, actions, live, ended, now);
        scheduler.know_as(office.lineage(), rewound_below);
        scheduler.inherit_lease(longest);
        let mut leader = Self {
            epoch,
            settings,
            scheduler,
            actions: known,
            quarantine,
            followers: Followers::default(),
            skews: Skews::default(),
            record,
            lookout: Lookout::default(),
            is_urgent: !pending.audit.is_empty(),
            pending,
            bodies: Bodies::default(),
            awaited: Awaited { requests: BTreeMap::new(), inherited_below: ExecutionId(counters.next_id) },
            recent: BTreeMap::new(),
            next_token: 0,
            batch: 0,
            under_way: VecDeque::new(),
            uncommitted: None,
            is_over: false,
            session: None,
            acks: Vec::new(),
            requests: None,
            lazy_since: None,
            deferred: None,
            unstored: 0,
            office,
            marked_at: None,
            looks_at: now + LOOK_EVERY,
            evidence: None,
            out: VecDeque::new(),
        };
        leader.begin();
        leader.send_registered();
        leader
    }

    /// Takes what happened at `now`, or rather what was received by then: a silence must never be counted too long.
    pub fn handle(&mut self, input: Input<P>, now: Timestamp) {
        match input {
            Input::SessionOpening { session } => self.claim_in(session),
            Input::SessionOpened { session, sizes } => self.session_opened(session, sizes, now),
            Input::SessionClosed => self.session_closed(),
            Input::Arrived(arrival) => self.arrive(arrival, now),
            Input::Checked(checked) => self.admit(checked, now),
            Input::Asked(question) => self.answer(*question, now),
            Input::Watched => self.is_urgent = true,
            Input::Encoded(mail) => self.encoded(mail, now),
            Input::Committed(mail) => self.committed(mail, now),
            Input::CommitFailed(refused) => self.commit_failed(refused, now),
            Input::OrderConfirmed => self.release_deferred(),
            Input::OrderReturned(incarnation) => {
                self.apply(slotline_scheduler::Input::OrderReturned { incarnation }, now);
            }
            // One of an earlier session may still come.
            Input::LetterStored { weight } => self.unstored = self.unstored.saturating_sub(weight),
            Input::Marked(marked) => self.marked(marked, now),
            Input::Ticked => self.tick(now),
            Input::Leaving => self.release_deferred(),
        }
        self.send_registered();
    }

    /// What is to be done, in this order.
    pub fn next_action(&mut self) -> Option<LeaderAction<P>> {
        self.out.pop_front()
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn lineage(&self) -> Lineage {
        self.office.lineage()
    }

    /// Whether the journal may be older than its workers.
    pub fn is_in_doubt(&self) -> bool {
        self.office.doubt().is_some()
    }

    /// Whether something waits for a commit of its own, at once.
    pub fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Whether more may be taken than requests.
    pub fn has_room(&self) -> bool {
        self.pending.inputs < self.settings.bounds.inputs_max
    }

    /// Whether more requests may join the batch, and whether what was refused before them has been stored for the most
    /// part, since it takes memory until then.
    pub fn takes_requests(&self) -> bool {
        self.pending.members < self.settings.bounds.members_max
            && self.unstored < self.settings.bounds.unstored_max
            && self.may_accept()
    }

    /// Events that are to be shown once they are committed.
    pub fn told(&self) -> &[Arc<Event>] {
        self.record.told()
    }

    /// When it must tick; `None`: not before something happens.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let lazy = self.lazy_since.filter(|_| self.under_way.is_empty()).map(|since| since + LAZY);
        let ends = self.actions.next_end();
        let deadlines = [self.scheduler.next_deadline(), self.record.next_deadline(), lazy, self.next_mark(), ends];
        deadlines.into_iter().flatten().min()
    }

    /// What the next leader of this process begins with.
    pub fn into_quarantine(self) -> Quarantine {
        self.quarantine
    }

    fn desk(&mut self, now: Timestamp) -> Desk<'_> {
        Desk {
            now,
            scheduler: &mut self.scheduler,
            registry: &mut self.actions,
            quarantine: &self.quarantine,
            skews: &self.skews,
            pending: &mut self.pending,
        }
    }

    /// The checks of requests go by a change before it is committed: what they let pass waits for the same commit.
    fn send_registered(&mut self) {
        let changes = self.actions.take_changes();
        self.out.extend(changes.map(|(action_ref, registered)| LeaderAction::Register { action_ref, registered }));
    }

    /// Whether clients of another executor look at lines, as far as is known.
    pub fn has_followers(&self) -> bool {
        !self.followers.are_none()
    }

    /// The queues of executors whose clients look at lines, each with what it has of them.
    pub fn viewers(&self, now: Timestamp) -> impl Iterator<Item = (&str, Round)> {
        self.followers.viewers(now)
    }

    /// The rows of the next lines behind `after`, by name, at a cost of about `lines` looks; with the last name if there
    /// are more.
    pub fn look(&self, after: Option<&ActionRef>, lines: usize) -> (Vec<LineRow>, Option<ActionRef>) {
        let (mut rows, mut cost) = (Vec::new(), 0);
        for registered in self.actions.after(after) {
            let Action { action_id, policy, limit_override, .. } = &registered.action;
            if cost >= lines {
                let last = rows.last().map(|row: &LineRow| row.action_ref.clone());
                return (rows, last);
            }
            cost += self.scheduler.row_cost(*action_id);
            let row = self.scheduler.line_row(*action_id);
            rows.extend(row.map(|row| LineRow {
                declared_limit: policy.limit,
                limit_override: limit_override.clone(),
                ..row
            }));
        }
        (rows, None)
    }

    pub fn workers_now(&self) -> WorkerCounts {
        self.scheduler.workers_now()
    }

    /// What is known of an action.
    pub fn action(&self, action_ref: &ActionRef) -> Option<&Arc<Registered>> {
        self.actions.get(action_ref)
    }
}

/// The actions of the journal: as requests are checked by them, and as the scheduler goes by them.
fn actions_of(states: Vec<ActionState>) -> (ActionTable, Vec<RecoveredAction>) {
    let (mut known, mut recovered) = (ActionTable::default(), Vec::with_capacity(states.len()));
    for ActionState { action, total_enqueued, total_completed } in states {
        recovered.push(RecoveredAction {
            id: action.action_id,
            action_ref: action.action_ref.clone(),
            limits: Limits { limit: action.limit(), ..Limits::from(&action.policy) },
            paused: action.paused,
            total_enqueued,
            total_completed,
        });
        match Registered::new(action) {
            Ok(registered) => known.put(registered),
            Err(error) => {
                tracing::error!(error = %chain(&error), "an action in the journal has a policy that can't be used");
            }
        }
    }
    (known, recovered)
}
