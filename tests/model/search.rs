//! The search: the world as a model of `stateright`, its properties, and what is told of a run.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};

use crate::action::Action;
use crate::completion::Completion;
use crate::rules;
use crate::words::{summary, words};
use crate::world::{self, Scale, World};

/// Both cores of the smallest machine that this has to run on.
const THREADS: usize = 2;

pub(crate) struct Search {
    scale: Scale,
    completion: Completion,
    /// Set with the first state that breaks a rule: that one has the shortest path.
    is_broken: AtomicBool,
}

/// What a search found.
pub(crate) struct Found {
    /// States made, those that were known included.
    pub(crate) states: usize,
    pub(crate) unique: usize,
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// The rule that does not hold, and how that comes about.
    pub(crate) broken: Option<(&'static str, String)>,
    /// What must be seen and was not.
    pub(crate) unseen: Vec<&'static str>,
    /// What must be seen, and after how many steps it was.
    pub(crate) seen: Vec<(&'static str, usize)>,
}

/// A search takes all cores and much memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Searches breadth-first, until a rule is broken or nothing is left.
pub(crate) fn search(scale: Scale) -> Found {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let search = Search { scale, completion: Completion::default(), is_broken: AtomicBool::new(false) };
    let checker = search.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let took = began.elapsed();
    let (mut broken, mut unseen, mut seen) = (None, Vec::new(), Vec::new());
    for property in checker.model().properties() {
        let discovery = checker.discovery(property.name);
        match (property.expectation, discovery) {
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                // A world that breaks a rule goes no further, so the first to be named is the one that counts.
                broken.get_or_insert_with(|| checker.model().tell(property.name, path));
            }
            (Expectation::Sometimes, Some(path)) => seen.push((property.name, path.into_actions().len())),
            (Expectation::Sometimes, None) => unseen.push(property.name),
            (Expectation::Always | Expectation::Eventually, None) => {}
        }
    }
    let (states, unique, depth) = (checker.state_count(), checker.unique_state_count(), checker.max_depth());
    drop(checker);
    world::forget();
    Found { states, unique, depth, took, broken, unseen, seen }
}

impl Search {
    /// Whether a state is the first that breaks a rule.
    fn holds(&self, holds: bool) -> bool {
        holds || self.is_broken.swap(true, Ordering::Relaxed)
    }

    /// The rule that does not hold in the end, and how it came to that, in words.
    fn tell(&self, name: &'static str, path: Path<World, Action>) -> (&'static str, String) {
        let steps = path.into_vec();
        let mut told = String::from("this is how:\n");
        let mut last = None;
        for (number, (world, action)) in steps.into_iter().enumerate() {
            if let Some(action) = action {
                let _ = writeln!(told, "{:4}. {}", number + 1, words(&world, action));
            }
            last = Some(world);
        }
        let Some(mut world) = last else { return (name, told) };
        if rules::broken(&self.scale, &world).is_none() && self.scale.detours.is_none() {
            told.push_str("and from there, with nothing more going wrong:\n");
            let mut steps = 0;
            world = self
                .completion
                .path(&self.scale, &world, |action, world| {
                    steps += 1;
                    if steps <= LINES_MAX {
                        let _ = writeln!(told, "      {}", words(world, action));
                    }
                })
                .err()
                .map_or(world, |end| *end);
        }
        let rule = rules::broken(&self.scale, &world).unwrap_or(name);
        let _ = writeln!(told, "and there it does not hold that {rule}: {}", summary(&world));
        (rule, told)
    }
}

/// The most steps that are told of what should have ended well.
const LINES_MAX: usize = 200;

impl Model for Search {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.scale)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(&self.scale, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        world.count_detour(&self.scale, action);
        world.take(&self.scale, action);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(rules::LIMIT, |model: &Self, world| {
                model.holds(rules::the_limit_holds(&model.scale, world))
            }),
            Property::always(rules::LEASED, |model: &Self, world| model.holds(rules::processes_within_leases(world))),
            Property::always(rules::ONCE, |model: &Self, world| model.holds(rules::no_attempt_twice(world))),
            Property::always(rules::SETTLED_ONCE, |model: &Self, world| model.holds(rules::settled_once(world))),
            Property::always(rules::IN_ORDER, |model: &Self, world| model.holds(rules::grants_in_order(world))),
            Property::always(rules::ONE_WRITES, |model: &Self, world| {
                model.holds(rules::only_the_leader_writes(world))
            }),
            Property::always(rules::COMMITTED, |model: &Self, world| {
                model.holds(rules::nothing_is_said_before_its_commit(world))
            }),
            Property::always(rules::BELIEVED, |model: &Self, world| {
                model.holds(rules::leader_and_journal_agree(world))
            }),
            // Where every order is searched, paths end at the horizon: it is the rest of each that is looked at.
            Property::always(rules::ENDS_WELL, |model: &Self, world| {
                let is_asked = model.scale.detours.is_none() && rules::broken(&model.scale, world).is_none();
                model.holds(!is_asked || model.completion.path(&model.scale, world, |_, _| {}).is_ok())
            }),
            Property::eventually(rules::SETTLES, |model: &Self, world| {
                model.scale.detours.is_none() || rules::everything_is_settled(world)
            }),
            Property::sometimes("a loss is declared", |_, world| rules::a_loss_is_declared(world)),
            Property::sometimes("a dispatch is sent again", |_, world| rules::a_dispatch_is_sent_again(world)),
            Property::sometimes("a deposed leader's batch is refused", |_, world| rules::a_batch_is_refused(world)),
            Property::sometimes(rules::DEPOSED_IN_MID_DISPATCH, |_, world| {
                rules::deposed_with_an_effect_in_flight(world)
            }),
            Property::sometimes("a deposed leader's dispatch arrives", |_, world| {
                rules::a_late_dispatch_arrives(world)
            }),
            Property::sometimes("a worker goes on under a new incarnation", |_, world| {
                rules::a_worker_goes_on_under_a_new_name(world)
            }),
            Property::sometimes("an attempt follows one that was lost", |_, world| {
                rules::an_attempt_follows_one_that_was_lost(world)
            }),
            Property::sometimes("an attempt outlives its worker", |_, world| {
                rules::an_attempt_outlives_its_worker(world)
            }),
            Property::sometimes("two leaders coexist", |_, world| rules::two_leaders_coexist(world)),
            Property::sometimes("everything is settled", |_, world| rules::everything_is_settled(world)),
        ]
    }
}
