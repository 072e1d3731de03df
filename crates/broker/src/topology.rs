//! Every exchange, queue and binding as data, and every name on the broker.
//!
//! The declares are valid on RabbitMQ 3.10 to 4.x: the queue type is always given, no queue is transient, and the
//! arguments are few and frozen, since a changed argument is refused by every broker that has the queue already. What
//! may be tuned belongs in a policy on the broker. Not here: declaring (`Session::declare`).

use std::time::Duration;

use slotline_protocol::{Epoch, Incarnation, WorkerName};
use uuid::Uuid;

/// The prefix of all names where none is configured.
pub const DEFAULT_PREFIX: &str = "slotline";
/// The most marks that are kept: a few, since one of a deposed leader may come after that of the next.
pub const MARKS_MAX: u32 = 8;
/// How often a message of a quorum queue may be returned. Out of reach, and given explicitly: with a limit, returned
/// messages keep their place; without one, they go to the back (3.x) or are dropped after 20 returns (4.x).
pub const DELIVERY_LIMIT: u32 = 1_000_000;
/// How many requests may wait to be read by the leader; further ones are not confirmed.
pub const REQUESTS_MAX: u32 = 1_000_000;
/// How many dead letters may wait for the leader, which takes them into the journal; the oldest go first.
pub const DEAD_MAX: u32 = 100_000;
/// How many bytes of dead letters may wait; the oldest go first.
pub const DEAD_BYTES_MAX: u64 = 1 << 30;
/// How many events may wait to be read by the leader; the oldest go first, and the gap is requested again.
pub const EVENTS_MAX: u32 = 100_000;
/// How many calls of other executors may wait for the leader; further ones are not confirmed.
pub const CALLS_MAX: u32 = 10_000;
/// How many answers may wait for one executor; the oldest go first.
pub const REPLIES_MAX: u32 = 10_000;
/// The routing key of the output of commands, which an operator may keep from the public; all other progress uses its
/// type.
pub const LOGS_KEY: &str = "execution.progress.log";
/// How long the active consumer of the requests may be away with its node before the next is served: 60 s by default on
/// RabbitMQ 4.3, at once before. Short, since nothing is scheduled meanwhile, but longer than a brief interruption
/// between nodes.
pub const DISCONNECTED: Duration = Duration::from_secs(3);
/// The number of names that the sessions of one leader take in turn. More than a cluster has nodes: a name can't be
/// used while its queue lives on a node that is away. Few, so that the next leader can list them all.
pub const LEADER_NAMES: u64 = 8;
/// How long a queue that belongs to one leader or one worker outlives its last consumer: ten leases.
pub const EXPIRES: Duration = Duration::from_secs(600);

/// What must exist on the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
}

/// A durable topic exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub name: String,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub kind: QueueKind,
    /// One consumer at a time, the next takes over when it goes.
    pub single_active_consumer: bool,
    /// How long a consumer keeps what it has not acked while its node is away (RabbitMQ 4.3; ignored before).
    pub disconnected: Option<Duration>,
    /// The queue that takes what exceeds `delivery_limit`, at least once.
    pub dead_letters: Option<String>,
    pub delivery_limit: Option<u32>,
    pub max_length: Option<u32>,
    /// In bytes of bodies.
    pub max_bytes: Option<u64>,
    pub overflow: Overflow,
    /// Deleted after so long without a consumer.
    pub expires: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    Classic,
    Quorum,
}

/// What happens to a publication into a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It is taken, and the oldest message goes.
    DropHead,
    /// It is not confirmed.
    RejectPublish,
}

/// Messages with a routing key that matches `pattern` go from `exchange` to `queue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub exchange: String,
    pub pattern: String,
    pub queue: String,
}

/// The value of a queue argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Flag(bool),
    Number(i64),
    Text(String),
}

impl Queue {
    /// A classic queue without bounds.
    pub fn classic(name: String) -> Self {
        Self {
            name,
            kind: QueueKind::Classic,
            single_active_consumer: false,
            disconnected: None,
            dead_letters: None,
            delivery_limit: None,
            max_length: None,
            max_bytes: None,
            overflow: Overflow::DropHead,
            expires: None,
        }
    }

    /// A quorum queue that keeps returned messages in place.
    pub fn quorum(name: String) -> Self {
        Self { kind: QueueKind::Quorum, delivery_limit: Some(DELIVERY_LIMIT), ..Self::classic(name) }
    }

    pub fn bounded(self, max_length: u32, overflow: Overflow) -> Self {
        Self { max_length: Some(max_length), overflow, ..self }
    }

    pub fn expiring(self, expires: Duration) -> Self {
        Self { expires: Some(expires), ..self }
    }

    /// The arguments of the declare.
    pub fn arguments(&self) -> Vec<(&'static str, Argument)> {
        let mut arguments = vec![(
            "x-queue-type",
            Argument::Text(match self.kind {
                QueueKind::Classic => "classic".to_owned(),
                QueueKind::Quorum => "quorum".to_owned(),
            }),
        )];
        if self.single_active_consumer {
            arguments.push(("x-single-active-consumer", Argument::Flag(true)));
        }
        if let Some(disconnected) = self.disconnected {
            arguments.push(("x-consumer-disconnected-timeout", millis(disconnected)));
        }
        if let Some(queue) = &self.dead_letters {
            arguments.push(("x-dead-letter-exchange", Argument::Text(String::new())));
            arguments.push(("x-dead-letter-routing-key", Argument::Text(queue.clone())));
            arguments.push(("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())));
        }
        if let Some(limit) = self.delivery_limit {
            arguments.push(("x-delivery-limit", Argument::Number(limit.into())));
        }
        if let Some(max) = self.max_length {
            arguments.push(("x-max-length", Argument::Number(max.into())));
            arguments.push((
                "x-overflow",
                Argument::Text(match self.overflow {
                    Overflow::DropHead => "drop-head".to_owned(),
                    Overflow::RejectPublish => "reject-publish".to_owned(),
                }),
            ));
        }
        if let Some(max) = self.max_bytes {
            arguments.push(("x-max-length-bytes", Argument::Number(i64::try_from(max).unwrap_or(i64::MAX))));
        }
        if let Some(expires) = self.expires {
            arguments.push(("x-expires", millis(expires)));
        }
        arguments
    }
}

fn millis(duration: Duration) -> Argument {
    Argument::Number(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// The exchange for publishers: it leads to the requests queue and nowhere else.
pub fn executions_exchange(prefix: &str) -> String {
    format!("{prefix}.executions")
}

/// Between executors and workers, and among executors.
pub fn work_exchange(prefix: &str) -> String {
    format!("{prefix}.work")
}

/// The exchange of public events: only leaders publish there.
pub fn events_exchange(prefix: &str) -> String {
    format!("{prefix}.events")
}

/// Where requests and cancellations wait for the leader.
pub fn requests_queue(prefix: &str) -> String {
    format!("{prefix}.requests")
}

/// Where messages that can't be read are put aside.
pub fn dead_queue(prefix: &str) -> String {
    format!("{prefix}.dead")
}

/// Where leaders keep marks of how far the journal has come.
pub fn marks_queue(prefix: &str) -> String {
    format!("{prefix}.marks")
}

// A classic queue lives on one node of the broker, and its name can't be declared again while that node is away. So each
// of them is named by the session that reads it, and the next session has another.

pub fn completions_queue(prefix: &str, epoch: Epoch, session: u64) -> String {
    of_leader(prefix, "completions", epoch, session)
}

pub fn events_queue(prefix: &str, epoch: Epoch, session: u64) -> String {
    of_leader(prefix, "events", epoch, session)
}

pub fn heartbeats_queue(prefix: &str, epoch: Epoch, session: u64) -> String {
    of_leader(prefix, "heartbeats", epoch, session)
}

/// Where calls of other executors wait for the leader of `epoch`.
pub fn calls_queue(prefix: &str, epoch: Epoch, session: u64) -> String {
    of_leader(prefix, "calls", epoch, session)
}

fn of_leader(prefix: &str, what: &str, epoch: Epoch, session: u64) -> String {
    format!("{prefix}.{what}.{epoch}.{}", session % LEADER_NAMES)
}

pub fn worker_queue(prefix: &str, name: &WorkerName, incarnation: Incarnation, session: u64) -> String {
    format!("{prefix}.worker.{name}.{incarnation}.{session}")
}

pub fn replies_queue(prefix: &str, executor: Uuid, session: u64) -> String {
    format!("{prefix}.replies.{executor}.{session}")
}

/// The routing key of a message to one incarnation of a worker, such as `execution.scheduled.<incarnation>`.
pub fn to_worker(message_type: &str, incarnation: Incarnation) -> String {
    format!("{message_type}.{incarnation}")
}

impl Topology {
    /// What requests need: declared by executors, and by a publisher that starts before the first executor.
    pub fn requests(prefix: &str) -> Self {
        let requests = Queue {
            single_active_consumer: true,
            disconnected: Some(DISCONNECTED),
            dead_letters: Some(dead_queue(prefix)),
            ..Queue::quorum(requests_queue(prefix)).bounded(REQUESTS_MAX, Overflow::RejectPublish)
        };
        let dead = Queue::quorum(dead_queue(prefix)).bounded(DEAD_MAX, Overflow::DropHead);
        let dead = Queue { max_bytes: Some(DEAD_BYTES_MAX), ..dead };
        Self::of(
            executions_exchange(prefix),
            [
                (requests, &["execution.requested", "execution.requested.#", "execution.cancel_requested"][..]),
                (dead, &[]),
            ],
        )
    }

    /// What outlives the journal: the newest marks of it. Declared by executors.
    pub fn marks(prefix: &str) -> Self {
        let marks = Queue::quorum(marks_queue(prefix)).bounded(MARKS_MAX, Overflow::DropHead);
        Self { queues: vec![marks], ..Self::default() }
    }

    /// What one leader reads through one session; declared and bound before it counts anything.
    pub fn leader(prefix: &str, epoch: Epoch, session: u64) -> Self {
        let classic = |name: String| Queue::classic(name).expiring(EXPIRES);
        let completions = classic(completions_queue(prefix, epoch, session));
        let events = classic(events_queue(prefix, epoch, session)).bounded(EVENTS_MAX, Overflow::DropHead);
        let heartbeats = classic(heartbeats_queue(prefix, epoch, session));
        let calls = classic(calls_queue(prefix, epoch, session)).bounded(CALLS_MAX, Overflow::RejectPublish);
        Self::of(
            work_exchange(prefix),
            [
                (completions, &["execution.completed", "execution.returned"][..]),
                (events, &["execution.status_changed", "execution.progress", LOGS_KEY]),
                (heartbeats, &["worker.heartbeat", "worker.ended"]),
                (calls, &[]),
            ],
        )
    }

    /// What one incarnation of a worker reads through one session.
    pub fn worker(prefix: &str, name: &WorkerName, incarnation: Incarnation, session: u64) -> Self {
        let queue = Queue::classic(worker_queue(prefix, name, incarnation, session)).expiring(EXPIRES);
        let own = [
            "execution.scheduled",
            "execution.cancel",
            "execution.recall",
            "execution.recorded",
            "execution.resend",
            "executor.hello",
        ]
        .map(|message_type| to_worker(message_type, incarnation));
        let patterns: Vec<&str> = own.iter().map(String::as_str).chain(["executor.hello"]).collect();
        Self::of(work_exchange(prefix), [(queue, &patterns[..])])
    }

    /// Where one executor receives answers through one session.
    pub fn replies(prefix: &str, executor: Uuid, session: u64) -> Self {
        let queue = Queue::classic(replies_queue(prefix, executor, session))
            .bounded(REPLIES_MAX, Overflow::DropHead)
            .expiring(EXPIRES);
        Self { queues: vec![queue], ..Self::default() }
    }

    /// The exchange of public events, to which subscribers bind queues of their own.
    pub fn events(prefix: &str) -> Self {
        Self {
            exchanges: [work_exchange(prefix), events_exchange(prefix)].map(|name| Exchange { name }).into(),
            ..Self::default()
        }
    }

    fn of<'a>(exchange: String, queues: impl IntoIterator<Item = (Queue, &'a [&'a str])>) -> Self {
        let mut topology = Self { exchanges: vec![Exchange { name: exchange.clone() }], ..Self::default() };
        for (queue, patterns) in queues {
            topology.bindings.extend(patterns.iter().map(|pattern| Binding {
                exchange: exchange.clone(),
                pattern: (*pattern).to_owned(),
                queue: queue.name.clone(),
            }));
            topology.queues.push(queue);
        }
        topology
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Topology> {
        let incarnation = Incarnation(Uuid::nil());
        vec![
            Topology::requests("p"),
            Topology::marks("p"),
            Topology::leader("p", Epoch(7), 1),
            Topology::worker("p", &WorkerName::new("w-1").expect("a name"), incarnation, 1),
            Topology::replies("p", Uuid::nil(), 1),
            Topology::events("p"),
        ]
    }

    fn argument(queue: &Queue, name: &str) -> Option<Argument> {
        queue.arguments().into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    #[test]
    fn every_declare_says_its_type_and_nothing_that_a_broker_refuses() {
        let allowed = [
            "x-queue-type",
            "x-single-active-consumer",
            "x-consumer-disconnected-timeout",
            "x-dead-letter-exchange",
            "x-dead-letter-routing-key",
            "x-dead-letter-strategy",
            "x-delivery-limit",
            "x-max-length",
            "x-max-length-bytes",
            "x-overflow",
            "x-expires",
        ];
        for queue in all().iter().flat_map(|topology| &topology.queues) {
            let arguments = queue.arguments();
            assert_eq!(arguments[0].0, "x-queue-type");
            assert!(arguments.iter().all(|(name, _)| allowed.contains(name)), "{arguments:?}");
            if queue.kind == QueueKind::Quorum {
                assert_eq!(argument(queue, "x-delivery-limit"), Some(Argument::Number(DELIVERY_LIMIT.into())));
                assert_eq!(queue.expires, None, "{}", queue.name);
            }
        }
    }

    #[test]
    fn requests_are_dead_lettered_at_least_once_which_needs_reject_publish() {
        let topology = Topology::requests("p");
        let requests = topology.queues.iter().find(|queue| queue.name == "p.requests").expect("declared");
        assert!(requests.single_active_consumer);
        assert_eq!(argument(requests, "x-dead-letter-strategy"), Some(Argument::Text("at-least-once".into())));
        assert_eq!(argument(requests, "x-overflow"), Some(Argument::Text("reject-publish".into())));
        assert!(topology.queues.iter().any(|queue| Some(&queue.name) == requests.dead_letters.as_ref()));
    }

    #[test]
    fn heartbeats_have_neither_a_length_limit_nor_a_time_to_live() {
        let topology = Topology::leader("p", Epoch(7), 1);
        let heartbeats = topology.queues.iter().find(|queue| queue.name == "p.heartbeats.7.1").expect("declared");
        let names: Vec<_> = heartbeats.arguments().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x-queue-type", "x-expires"]);
    }

    #[test]
    fn every_binding_is_between_what_the_same_topology_declares() {
        for topology in all() {
            for binding in &topology.bindings {
                assert!(topology.exchanges.iter().any(|exchange| exchange.name == binding.exchange));
                assert!(topology.queues.iter().any(|queue| queue.name == binding.queue));
            }
        }
    }

    #[test]
    fn the_door_of_publishers_leads_to_the_requests_queue_and_nowhere_else() {
        let door = executions_exchange("p");
        for topology in all() {
            let behind = topology.bindings.iter().filter(|binding| binding.exchange == door);
            assert!(behind.map(|binding| &binding.queue).all(|queue| *queue == requests_queue("p")));
        }
    }
}
