//! The duty book against chance: whatever an executor, a broker and processes do, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use slotline_protocol::Incarnation;
use slotline_protocol::message::{AttemptKey, Completed, Level, Report, Stream};
use slotline_worker::duty::{AttemptOutput, Effect, Input, Shortage};

use super::world::{World, key};

/// Lives for each that proptest would try by itself, or that `PROPTEST_CASES` asks for. Each has up to 120 steps.
const LIVES: u32 = 4;

/// One thing that happens. Ids are few, so that things meet.
#[derive(Clone, Debug)]
enum Step {
    Dispatch {
        id: i64,
        after: Option<i64>,
        isolated: bool,
    },
    /// A copy of an order sent before.
    Replay {
        n: u64,
        id: i64,
    },
    Cancel(i64),
    CancelIfNotStarted(i64),
    Recall(i64),
    Record(i64),
    Hello,
    NewLeader,
    Lost,
    Session,
    /// The newest or an older heartbeat is confirmed.
    Confirm {
        back: usize,
    },
    Started(usize),
    /// The same report so many times at once, of one of a few kinds.
    Tell {
        index: usize,
        kind: u8,
        times: u64,
    },
    Resend(i64),
    Succeed(usize),
    Fail(usize),
    /// The worker is short of something that it needs for the start.
    Short(usize),
    Pass(u64),
    /// Whether too much waits to be sent.
    Congest(bool),
    Drain,
    Stop,
    FarewellConfirmed,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..12_i64;
    prop_oneof![
        6 => (id.clone(), prop::option::of(0..12_i64), prop::bool::weighted(0.1))
            .prop_map(|(id, after, isolated)| Step::Dispatch { id, after, isolated }),
        1 => (0..40_u64, id.clone()).prop_map(|(n, id)| Step::Replay { n, id }),
        2 => id.clone().prop_map(Step::Cancel),
        1 => id.clone().prop_map(Step::CancelIfNotStarted),
        1 => id.clone().prop_map(Step::Recall),
        1 => id.clone().prop_map(Step::Resend),
        3 => id.prop_map(Step::Record),
        1 => Just(Step::Hello),
        1 => Just(Step::NewLeader),
        1 => Just(Step::Lost),
        1 => Just(Step::Session),
        6 => (0..3_usize).prop_map(|back| Step::Confirm { back }),
        3 => (0..4_usize).prop_map(Step::Started),
        4 => (0..4_usize, 0..5_u8, 1..40_u64).prop_map(|(index, kind, times)| Step::Tell { index, kind, times }),
        5 => (0..4_usize).prop_map(Step::Succeed),
        2 => (0..4_usize).prop_map(Step::Fail),
        1 => (0..4_usize).prop_map(Step::Short),
        6 => (1..20_000_u64).prop_map(Step::Pass),
        1 => prop::bool::weighted(0.3).prop_map(Step::Congest),
        1 => Just(Step::Drain),
        1 => Just(Step::Stop),
        1 => Just(Step::FarewellConfirmed),
    ]
}

/// What must hold at every step, seen from outside.
#[derive(Default)]
struct Judge {
    /// Every start of a life, with its incarnation. An attempt handed back unstarted may be granted again.
    started: BTreeMap<AttemptKey, Incarnation>,
    /// Of those, the attempts whose process or handler really started.
    begun: BTreeSet<AttemptKey>,
    ended: BTreeSet<AttemptKey>,
    killed: BTreeSet<AttemptKey>,
    isolated: BTreeSet<AttemptKey>,
    /// What was reported of each attempt that started.
    words: BTreeMap<AttemptKey, String>,
    /// The number of each attempt's last event.
    sequences: BTreeMap<AttemptKey, u64>,
    beats: Vec<(Incarnation, Duration)>,
    /// The newest heartbeat confirmed in time, of each incarnation.
    confirmed: BTreeMap<Incarnation, Duration>,
    over: BTreeSet<Incarnation>,
    live: Vec<AttemptKey>,
    finished: bool,
    farewells: BTreeSet<Incarnation>,
}

impl Judge {
    fn see(&mut self, world: &mut World) {
        for effect in world.drain_effects() {
            assert!(!self.finished, "nothing follows the end: {effect:?}");
            match effect {
                Effect::Start(start) => {
                    assert!(
                        self.started.insert(start.key, world.incarnation).is_none(),
                        "{:?} started twice",
                        start.key
                    );
                    let sent = self.confirmed.get(&world.incarnation).expect("a confirmed heartbeat before any start");
                    assert!(world.now.boot < *sent + Duration::from_secs(45), "started past the fence");
                    assert!(!self.over.contains(&world.incarnation), "started under an incarnation that is over");
                    self.ended.remove(&start.key);
                    if start.deadline.is_none() {
                        self.isolated.insert(start.key);
                    }
                    self.live.push(start.key);
                }
                Effect::Kill { key } => {
                    assert!(self.started.contains_key(&key));
                    self.killed.insert(key);
                }
                Effect::Interrupt { key, .. } => assert!(self.live.contains(&key), "nobody is there to be asked"),
                Effect::Complete(word) => {
                    let completed = word.message;
                    assert_eq!(completed.incarnation, world.incarnation);
                    self.is_last(&completed);
                    self.word(completed.key(), format!("{:?}", completed.status));
                }
                Effect::Return(word) => {
                    let returned = word.message;
                    let key = (returned.execution_id, returned.attempt);
                    if returned.started {
                        self.word(key, "returned".to_owned());
                    } else {
                        assert!(
                            !self.started.contains_key(&key),
                            "{key:?} started and is handed back as if it had not"
                        );
                    }
                }
                Effect::Beat { heartbeat, sent } => {
                    assert!(!self.over.contains(&heartbeat.incarnation));
                    for (id, attempt, _) in &heartbeat.holding {
                        assert!(!heartbeat.unrecorded.contains(&(*id, *attempt)), "both held and ended");
                    }
                    self.beats.push((heartbeat.incarnation, sent));
                }
                Effect::Farewell(ended) => {
                    for completed in &ended.outcomes {
                        self.is_last(completed);
                        self.word(completed.key(), format!("{:?}", completed.status));
                    }
                    for key in &self.live {
                        assert_ne!(self.started.get(key), Some(&ended.incarnation), "{key:?} runs past the last word");
                    }
                    self.farewells.insert(ended.incarnation);
                }
                Effect::IncarnationOver(incarnation) => {
                    for key in &self.live {
                        let is_of_it = self.started.get(key) == Some(&incarnation);
                        assert!(
                            !is_of_it || self.isolated.contains(key),
                            "{key:?} runs under an incarnation that is over"
                        );
                    }
                    self.over.insert(incarnation);
                }
                Effect::GiveUp(keys) => {
                    assert!(keys.iter().all(|key| self.live.contains(key)));
                    self.finished = true;
                }
                Effect::Finish => self.finished = true,
                Effect::Extend { deadline } => {
                    assert!(deadline > world.now.boot, "extended into the past");
                }
                Effect::ChangeStatus(change) => {
                    let change = change.message;
                    self.numbered(change.key(), change.sequence.expect("numbered"));
                }
                Effect::Progress(progress) => {
                    let progress = progress.message;
                    self.numbered(progress.key(), progress.sequence);
                }
                Effect::Resend { key, .. } => {
                    assert!(key.0.0 < 12, "an order for nobody");
                }
                Effect::TakeLess { most, .. } => assert!(most as usize <= self.live.len(), "no more than what runs"),
                Effect::TakeAll => {}
                Effect::Refused(reason) => panic!("nothing refuses it here: {reason}"),
                Effect::Keep(words) => {
                    let kept = words.iter().flat_map(|word| &word.outcomes);
                    kept.for_each(|completed| self.is_last(completed));
                }
            }
        }
        if self.over.contains(&world.incarnation) && !self.finished {
            world.new_incarnation();
            self.see(world);
        }
    }

    fn numbered(&mut self, key: AttemptKey, sequence: u64) {
        let last = self.sequences.entry(key).or_insert(0);
        assert_eq!(sequence, *last + 1, "the events of {key:?} are numbered one by one");
        *last = sequence;
    }

    fn is_last(&self, completed: &Completed) {
        let last = self.sequences.get(&completed.key());
        assert_eq!(Some(&completed.last_sequence), last, "the end knows the last number");
    }

    fn word(&mut self, key: AttemptKey, word: String) {
        if self.started.contains_key(&key) {
            assert!(self.ended.contains(&key), "told of {key:?} before it ended");
        }
        let before = self.words.entry(key).or_insert_with(|| word.clone());
        assert_eq!(*before, word, "two outcomes of {key:?}");
    }

    fn act(&mut self, world: &mut World, step: &Step) {
        let live = |index: usize| self.live.get(index).copied();
        match step {
            Step::Dispatch { id, after, isolated } => {
                // Attempt numbers are never used again once they are started or settled, nor once anything was reported
                // of them.
                let key = key(*id);
                if self.started.contains_key(&key) || self.words.contains_key(&key) || self.sequences.contains_key(&key)
                {
                    return;
                }
                let fence = i64::try_from(world.n).expect("small") + 1;
                let mut dispatch = world.dispatch(*id).fence(fence);
                if let Some(after) = after {
                    dispatch = dispatch.after(*after);
                }
                if *isolated {
                    dispatch = dispatch.continue_when_isolated();
                }
                dispatch.send();
            }
            Step::Replay { n, id } => {
                let (n, epoch) = ((*n).min(world.n), world.epoch);
                // A copy comes out of the queue that the order was put into: the incarnation's own.
                if (epoch, n) <= world.born_at {
                    return;
                }
                world.dispatch(*id).number(epoch, n).send();
            }
            Step::Cancel(id) => world.cancel(*id, None),
            Step::CancelIfNotStarted(id) => world.cancel_if_not_started(*id),
            Step::Recall(id) => world.recall(*id, *id),
            Step::Record(id) => world.record(&[*id]),
            Step::Hello => world.hello_again(),
            Step::NewLeader => world.hello(world.epoch + 1),
            Step::Lost => world.lost(),
            Step::Session => world.session_opened(),
            Step::Confirm { back } => {
                let index = self.beats.len().checked_sub(back + 1);
                if let Some((incarnation, sent)) = index.map(|index| self.beats[index]) {
                    let in_time = world.now.boot < sent + Duration::from_secs(45);
                    let holds = self
                        .confirmed
                        .get(&incarnation)
                        .is_none_or(|before| world.now.boot < *before + Duration::from_secs(45));
                    if in_time && holds {
                        let newest = self.confirmed.entry(incarnation).or_insert(sent);
                        *newest = (*newest).max(sent);
                    }
                    world.input(Input::HeartbeatConfirmed { incarnation, sent });
                }
            }
            Step::Started(index) => {
                if let Some(key) = live(*index) {
                    self.begun.insert(key);
                    world.input(Input::Started { key, at: world.now });
                }
            }
            Step::Tell { index, kind, times } => {
                let Some(key) = live(*index) else { return };
                for i in 0..*times {
                    let message = Some(format!("message {i}"));
                    let event = match kind {
                        0 => AttemptOutput::Progress(Report { progress: Some((i, Some(40))), ..Report::default() }),
                        1 => AttemptOutput::Progress(Report { message, ..Report::default() }),
                        2 => AttemptOutput::Progress(Report { message, level: Level::Error, ..Report::default() }),
                        3 => AttemptOutput::Log { stream: Stream::Stdout, lines: vec!["a".to_owned()] },
                        _ => AttemptOutput::Gap { count: i },
                    };
                    world.input(Input::Reported { key, event });
                }
            }
            Step::Resend(id) => world.resend(*id, 1, None),
            Step::Succeed(index) | Step::Fail(index) => {
                if let Some(key) = live(*index) {
                    self.live.retain(|other| *other != key);
                    self.ended.insert(key);
                    match step {
                        Step::Succeed(_) => world.succeed(key.0.0, "1"),
                        _ => world.fail(key.0.0),
                    }
                }
            }
            Step::Short(index) => {
                let Some(key) = live(*index).filter(|key| !self.begun.contains(key)) else { return };
                self.live.retain(|other| *other != key);
                self.started.remove(&key);
                world.input(Input::Unstarted { key, shortage: Shortage::Memory });
            }
            Step::Pass(millis) => {
                // Looked at in small steps, as effects are carried out at once.
                let end = world.now.boot + Duration::from_millis(*millis);
                while let Some(at) = world.duty.next_deadline().filter(|at| *at <= end) {
                    world.clock(at.saturating_sub(world.now.boot));
                    world.input(Input::Tick);
                    assert!(
                        world.duty.next_deadline().is_none_or(|next| next > world.now.boot),
                        "a tick settles nothing"
                    );
                    self.see(world);
                }
                world.clock(end.saturating_sub(world.now.boot));
            }
            Step::Congest(true) => world.input(Input::OutboxFilled),
            Step::Congest(false) => world.input(Input::OutboxEmptied),
            Step::Drain => world.input(Input::DrainRequested),
            Step::Stop => world.input(Input::StopRequested),
            Step::FarewellConfirmed => {
                for incarnation in self.farewells.clone() {
                    world.input(Input::FarewellConfirmed { incarnation });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: LIVES * ProptestConfig::default().cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_no_attempt_starts_twice_or_past_the_fence_or_ends_in_two_ways(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::unconfirmed();
        let mut judge = Judge::default();
        for step in &steps {
            judge.act(&mut world, step);
            judge.see(&mut world);
            if judge.finished {
                break;
            }
        }
        // Once everything has ended and the broker is there, whatever started is reported, or is lost with a farewell.
        if !judge.finished {
            for key in judge.live.clone() {
                judge.ended.insert(key);
                world.fail(key.0.0);
            }
            judge.live.clear();
            judge.see(&mut world);
            world.session_opened();
            judge.see(&mut world);
        }
        if !judge.finished {
            for (key, incarnation) in &judge.started {
                let told = judge.words.contains_key(key);
                let is_lost = judge.farewells.contains(incarnation);
                prop_assert!(told || is_lost, "{key:?} is neither told of nor lost");
            }
            prop_assert_eq!(world.duty.running().count(), 0);
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_state(steps in prop::collection::vec(step(), 1..60)) {
        let run = || {
            let mut world = World::unconfirmed();
            let mut judge = Judge::default();
            for step in &steps {
                judge.act(&mut world, step);
                judge.see(&mut world);
                if judge.finished {
                    break;
                }
            }
            world.duty
        };
        prop_assert_eq!(run(), run());
    }
}
