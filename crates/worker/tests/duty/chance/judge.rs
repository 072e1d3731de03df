//! What must hold of a duty book at every step, and how the steps are carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotline_protocol::Incarnation;
use slotline_protocol::message::{AttemptKey, Completed, Ended, Level, Report, Returned, Stream};
use slotline_worker::duty::{AttemptOutput, Effect, Input, Shortage, Start};

use super::Step;
use crate::duty::world::{World, key};

/// What must hold at every step, seen from outside.
#[derive(Default)]
pub(super) struct Judge {
    /// Every start of a life, with its incarnation. An attempt handed back unstarted may be granted again.
    pub(super) started: BTreeMap<AttemptKey, Incarnation>,
    /// Of those, the attempts whose process or handler really started.
    begun: BTreeSet<AttemptKey>,
    pub(super) ended: BTreeSet<AttemptKey>,
    killed: BTreeSet<AttemptKey>,
    isolated: BTreeSet<AttemptKey>,
    /// What was reported of each attempt that started.
    pub(super) words: BTreeMap<AttemptKey, String>,
    /// The number of each attempt's last event.
    sequences: BTreeMap<AttemptKey, u64>,
    beats: Vec<(Incarnation, Duration)>,
    /// The newest heartbeat confirmed in time, of each incarnation.
    confirmed: BTreeMap<Incarnation, Duration>,
    over: BTreeSet<Incarnation>,
    pub(super) live: Vec<AttemptKey>,
    pub(super) finished: bool,
    pub(super) farewells: BTreeSet<Incarnation>,
}

impl Judge {
    pub(super) fn see(&mut self, world: &mut World) {
        for effect in world.drain_effects() {
            assert!(!self.finished, "nothing follows the end: {effect:?}");
            self.judge(world, effect);
        }
        if self.over.contains(&world.incarnation) && !self.finished {
            world.new_incarnation();
            self.see(world);
        }
    }

    fn judge(&mut self, world: &World, effect: Effect) {
        match effect {
            Effect::Start(start) => self.starts(world, &start),
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
            Effect::Return(word) => self.returns(&word.message),
            Effect::Beat { heartbeat, sent } => {
                assert!(!self.over.contains(&heartbeat.incarnation));
                for (id, attempt, _) in &heartbeat.holding {
                    assert!(!heartbeat.unrecorded.contains(&(*id, *attempt)), "both held and ended");
                }
                self.beats.push((heartbeat.incarnation, sent));
            }
            Effect::Farewell(ended) => self.parts(&ended),
            Effect::IncarnationOver(incarnation) => self.is_over(incarnation),
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

    fn starts(&mut self, world: &World, start: &Start) {
        assert!(self.started.insert(start.key, world.incarnation).is_none(), "{:?} started twice", start.key);
        let sent = self.confirmed.get(&world.incarnation).expect("a confirmed heartbeat before any start");
        assert!(world.now.boot < *sent + Duration::from_secs(45), "started past the fence");
        assert!(!self.over.contains(&world.incarnation), "started under an incarnation that is over");
        self.ended.remove(&start.key);
        if start.deadline.is_none() {
            self.isolated.insert(start.key);
        }
        self.live.push(start.key);
    }

    fn returns(&mut self, returned: &Returned) {
        let key = (returned.execution_id, returned.attempt);
        if returned.started {
            self.word(key, "returned".to_owned());
        } else {
            assert!(!self.started.contains_key(&key), "{key:?} started and is handed back as if it had not");
        }
    }

    fn parts(&mut self, ended: &Ended) {
        for completed in &ended.outcomes {
            self.is_last(completed);
            self.word(completed.key(), format!("{:?}", completed.status));
        }
        for key in &self.live {
            assert_ne!(self.started.get(key), Some(&ended.incarnation), "{key:?} runs past the last word");
        }
        self.farewells.insert(ended.incarnation);
    }

    fn is_over(&mut self, incarnation: Incarnation) {
        for key in &self.live {
            let is_of_it = self.started.get(key) == Some(&incarnation);
            assert!(!is_of_it || self.isolated.contains(key), "{key:?} runs under an incarnation that is over");
        }
        self.over.insert(incarnation);
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

    pub(super) fn act(&mut self, world: &mut World, step: &Step) {
        let live = |index: usize| self.live.get(index).copied();
        match step {
            Step::Dispatch { id, after, isolated } => self.dispatch(world, *id, *after, *isolated),
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
                    self.confirm(world, incarnation, sent);
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
                    world.input(Input::Reported { key, event: output(*kind, i) });
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
            Step::Pass(millis) => self.pass(world, Duration::from_millis(*millis)),
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

    fn dispatch(&self, world: &mut World, id: i64, after: Option<i64>, isolated: bool) {
        // Attempt numbers are never used again once they are started or settled, nor once anything was reported of them.
        let key = key(id);
        if self.started.contains_key(&key) || self.words.contains_key(&key) || self.sequences.contains_key(&key) {
            return;
        }
        let fence = i64::try_from(world.n).expect("small") + 1;
        let mut dispatch = world.dispatch(id).fence(fence);
        if let Some(after) = after {
            dispatch = dispatch.after(after);
        }
        if isolated {
            dispatch = dispatch.continue_when_isolated();
        }
        dispatch.send();
    }

    fn confirm(&mut self, world: &mut World, incarnation: Incarnation, sent: Duration) {
        let in_time = world.now.boot < sent + Duration::from_secs(45);
        let before = self.confirmed.get(&incarnation);
        let holds = before.is_none_or(|before| world.now.boot < *before + Duration::from_secs(45));
        if in_time && holds {
            let newest = self.confirmed.entry(incarnation).or_insert(sent);
            *newest = (*newest).max(sent);
        }
        world.input(Input::HeartbeatConfirmed { incarnation, sent });
    }

    /// Looks in small steps, as effects are carried out at once.
    fn pass(&mut self, world: &mut World, duration: Duration) {
        let end = world.now.boot + duration;
        while let Some(at) = world.duty.next_deadline().filter(|at| *at <= end) {
            world.clock(at.saturating_sub(world.now.boot));
            world.input(Input::Tick);
            let next = world.duty.next_deadline();
            assert!(next.is_none_or(|next| next > world.now.boot), "a tick settles nothing");
            self.see(world);
        }
        world.clock(end.saturating_sub(world.now.boot));
    }
}

fn output(kind: u8, i: u64) -> AttemptOutput {
    let message = Some(format!("message {i}"));
    match kind {
        0 => AttemptOutput::Progress(Report { progress: Some((i, Some(40))), ..Report::default() }),
        1 => AttemptOutput::Progress(Report { message, ..Report::default() }),
        2 => AttemptOutput::Progress(Report { message, level: Level::Error, ..Report::default() }),
        3 => AttemptOutput::Log { stream: Stream::Stdout, lines: vec!["a".to_owned()] },
        _ => AttemptOutput::Gap { count: i },
    }
}
