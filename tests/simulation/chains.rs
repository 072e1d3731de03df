//! Chains of attempts in one duty book: who starts after whom, whatever becomes of the one before.
//!
//! No scheduler grants chains yet, so the world never sees one. Here a leader of chance orders them, attempts end by
//! chance, and two rules are held: whoever waits for another starts only once that one has completed, and everyone is
//! told of in the end. Not here: connections, crashes and time-outs (`world`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Cancel, Failure, Recall, Recorded};
use slotline_protocol::{Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Timestamp, WorkerName};
use slotline_worker::duty::{Config, Duty, Effect, Ending, Input, JsonText, Now, OnDrain, Order, ServedAction, Terms};
use uuid::Uuid;

use crate::chance::Chance;
use crate::checker::{Rule, Violation};
use crate::journal::action_ref;
use crate::mail::chained;

/// Things that happen before everything is let to end.
const HAPPENINGS: u64 = 40;
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(1));

struct Book {
    duty: Duty,
    now: Duration,
    n: u64,
    /// Every order that was ever given, for those that come twice.
    orders: Vec<Order>,
    /// Everyone that was granted, and after whom.
    granted: BTreeMap<AttemptKey, Option<AttemptKey>>,
    started: BTreeSet<AttemptKey>,
    running: BTreeSet<AttemptKey>,
    completed: BTreeSet<AttemptKey>,
    told: BTreeSet<AttemptKey>,
    trace: Vec<String>,
    violation: Option<Violation>,
}

/// Plays the chains of `seed`. What does not hold, and all that led to it.
pub(crate) fn play(seed: u64) -> Option<(Violation, Vec<String>)> {
    let mut chance = Chance::of(seed, 3);
    let mut book = Book::new();
    for _ in 0..HAPPENINGS {
        book.happen(&mut chance);
        if book.violation.is_some() {
            break;
        }
    }
    book.end();
    book.violation.map(|violation| (violation, book.trace))
}

impl Book {
    fn new() -> Self {
        let own = ServedAction {
            capabilities: Vec::new(),
            grace: Duration::from_secs(2),
            on_drain: OnDrain::Return,
            phases: Vec::new(),
        };
        let config = Config {
            worker: WorkerName::new("w0").expect("a word"),
            capacity: 4,
            actions: BTreeMap::from([(action_ref(0), own)]),
            labels: BTreeMap::new(),
            terms: Terms::default(),
            drain_timeout: Duration::from_secs(10),
            process: None,
        };
        let now = Duration::from_secs(1);
        let mut book = Self {
            duty: Duty::new(config, INCARNATION, at(now)),
            now,
            n: 0,
            orders: Vec::new(),
            granted: BTreeMap::new(),
            started: BTreeSet::new(),
            running: BTreeSet::new(),
            completed: BTreeSet::new(),
            told: BTreeSet::new(),
            trace: Vec::new(),
            violation: None,
        };
        book.handle(Input::SessionOpened { incarnation: INCARNATION });
        book
    }

    fn happen(&mut self, chance: &mut Chance) {
        self.now += Duration::from_micros(chance.spread(1, 3_000_000));
        let known: Vec<AttemptKey> = self.granted.keys().copied().collect();
        let running: Vec<AttemptKey> = self.running.iter().copied().collect();
        let someone = |chance: &mut Chance| chance.pick(&known);
        match chance.below(12) {
            0..5 => {
                // Of ten, one waits for somebody who was never heard of.
                let after = match chance.below(10) {
                    0 => Some((ExecutionId(1_000), 1)),
                    1..8 if !known.is_empty() => Some(known[known.len() - 1 - chance.index(known.len().min(3))]),
                    _ => None,
                };
                self.grant(after);
            }
            5..8 if !running.is_empty() => self.finish(chance.pick(&running), chance.percent(60)),
            8 if !known.is_empty() => {
                let (execution_id, attempt) = someone(chance);
                let (epoch, n, fence) = (Epoch(1), self.number(), Fence(execution_id.0));
                let (if_not_started, grace_seconds, reason) = (chance.percent(30), None, None);
                self.order(Order::Cancel(Cancel {
                    epoch,
                    n,
                    execution_id,
                    attempt,
                    fence,
                    if_not_started,
                    grace_seconds,
                    reason,
                }));
            }
            9 if !known.is_empty() => {
                let (execution_id, attempt) = someone(chance);
                let (epoch, n, fence) = (Epoch(1), self.number(), Fence(execution_id.0));
                let reason = "limit".to_owned();
                self.order(Order::Recall(Recall { epoch, n, execution_id, attempt, fence, reason }));
            }
            10 if !self.told.is_empty() => {
                let attempts: Vec<_> = self.told.iter().copied().filter(|_| chance.percent(50)).collect();
                let order = Recorded { epoch: Epoch(1), n: self.number(), attempts };
                self.order(Order::Recorded(order));
            }
            11 if !self.orders.is_empty() => {
                let order = self.orders[chance.index(self.orders.len())].clone();
                self.obey(order);
            }
            _ => self.handle(Input::Tick),
        }
    }

    /// Everything ends, one after the other, and then everyone must have been told of.
    fn end(&mut self) {
        while let Some(key) = self.running.first().copied().filter(|_| self.violation.is_none()) {
            self.now += Duration::from_millis(1);
            self.finish(key, true);
        }
        if let Some((id, attempt)) = self.granted.keys().find(|key| !self.told.contains(*key)) {
            self.breaks(Rule::EverythingEnds, *id, format!("attempt {attempt} of execution {id} was never told of"));
        }
    }

    // ---- what is said to the book ----

    fn number(&mut self) -> u64 {
        self.n += 1;
        self.n
    }

    fn grant(&mut self, starts_after: Option<AttemptKey>) {
        let key = (ExecutionId(self.granted.len() as i64 + 1), 1);
        let order = chained(self.number(), key, starts_after, JsonText::null().0);
        self.granted.insert(key, starts_after);
        self.order(Order::Scheduled(order));
    }

    fn order(&mut self, order: Order) {
        self.orders.push(order.clone());
        self.obey(order);
    }

    fn obey(&mut self, order: Order) {
        self.handle(Input::Ordered { incarnation: INCARNATION, order });
    }

    fn finish(&mut self, key: AttemptKey, succeeds: bool) {
        self.running.remove(&key);
        let result = if succeeds { Ok(JsonText::null()) } else { Err(Failure::new("exit_status", "1")) };
        let ending = Ending { result, left: None, return_code: None, ended_at: at(self.now).wall };
        self.handle(Input::Ended { key, ending });
    }

    // ---- what it answers ----

    fn handle(&mut self, input: Input) {
        self.trace.push(format!("{:?} <- {input:?}", self.now));
        let mut effects = Vec::new();
        self.duty.handle(at(self.now), input, &mut effects);
        let mut starts = Vec::new();
        for effect in effects {
            match effect {
                Effect::Start(start) => starts.push(start.key),
                Effect::Complete(word) => {
                    let key = word.message.key();
                    self.trace.push(format!("  {key:?} is told as {}", word.message.status));
                    self.told.insert(key);
                    if word.message.status == OutcomeKind::Completed {
                        self.completed.insert(key);
                    }
                }
                Effect::Return(word) => {
                    let key = (word.message.execution_id, word.message.attempt);
                    self.trace.push(format!("  {key:?} is handed back: {}", word.message.reason));
                    self.told.insert(key);
                }
                Effect::Beat { sent, .. } => self.handle(Input::HeartbeatConfirmed { incarnation: INCARNATION, sent }),
                Effect::Interrupt { .. }
                | Effect::Kill { .. }
                | Effect::Extend { .. }
                | Effect::ChangeStatus(_)
                | Effect::Progress(_)
                | Effect::Resend { .. }
                | Effect::Farewell(_)
                | Effect::TakeLess { .. }
                | Effect::TakeAll
                | Effect::Keep(_)
                | Effect::Refused(_)
                | Effect::IncarnationOver(_)
                | Effect::GiveUp(_)
                | Effect::Finish => {}
            }
        }
        // The hand-over comes before the word that justifies it, but never without it.
        for key in starts {
            self.starts(key);
        }
    }

    fn starts(&mut self, key: AttemptKey) {
        self.trace.push(format!("  {key:?} starts"));
        self.running.insert(key);
        let (id, attempt) = key;
        if !self.started.insert(key) {
            self.breaks(Rule::NoAttemptTwice, id, format!("attempt {attempt} of execution {id} starts twice"));
        }
        let after = self.granted.get(&key).copied().flatten();
        if let Some((before, _)) = after.filter(|before| !self.completed.contains(before)) {
            self.breaks(
                Rule::ChainsFollowSuccess,
                id,
                format!("execution {id} starts after execution {before}, which has not completed"),
            );
        }
    }

    fn breaks(&mut self, rule: Rule, execution: ExecutionId, detail: String) {
        let at = self.now.as_micros() as u64;
        self.violation.get_or_insert(Violation { rule, at, execution: Some(execution), detail });
    }
}

fn at(boot: Duration) -> Now {
    Now { boot, wall: Timestamp::default() + boot }
}
