//! The search: the world as a model of `stateright`, its properties, and what is told of a run.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};

use crate::action::Action;
use crate::completion::Completion;
use crate::rules;
use crate::words::words;
use crate::world::{Scale, World};

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
    /// Whether there was nothing left to look at.
    pub(crate) is_exhausted: bool,
    /// The rule that does not hold, and how that comes about.
    pub(crate) broken: Option<(&'static str, String)>,
    /// What must be seen and was not.
    pub(crate) unseen: Vec<&'static str>,
    /// What must be seen, and after how many steps it was.
    pub(crate) seen: Vec<(&'static str, usize)>,
}

/// Searches breadth-first, until a rule is broken, nothing is left, or so many states were made.
pub(crate) fn search(scale: Scale, states_max: Option<usize>) -> Found {
    let began = Instant::now();
    let search = Search { scale, completion: Completion::default(), is_broken: AtomicBool::new(false) };
    let mut builder = search.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures);
    if let Some(states_max) = states_max {
        builder = builder.target_state_count(states_max);
    }
    let checker = builder.spawn_bfs().join();
    let took = began.elapsed();
    let (mut broken, mut unseen, mut seen) = (None, Vec::new(), Vec::new());
    for property in checker.model().properties() {
        let discovery = checker.discovery(property.name);
        match (property.expectation, discovery) {
            (Expectation::Always, Some(path)) => {
                broken = Some((property.name, checker.model().tell(property.name, path)));
            }
            (Expectation::Sometimes, Some(path)) => seen.push((property.name, path.into_actions().len())),
            (Expectation::Sometimes, None) => unseen.push(property.name),
            (Expectation::Always | Expectation::Eventually, _) => {}
        }
    }
    let states = checker.state_count();
    Found {
        states,
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        took,
        is_exhausted: broken.is_none() && states_max.is_none_or(|max| states < max),
        broken,
        unseen,
        seen,
    }
}

impl Search {
    /// Whether a state is the first that breaks a rule.
    fn holds(&self, holds: bool) -> bool {
        holds || self.is_broken.swap(true, Ordering::Relaxed)
    }

    /// How it came to what broke a rule, in words.
    fn tell(&self, name: &str, path: Path<World, Action>) -> String {
        let steps = path.into_vec();
        let mut told = format!("it does not hold that {name}:\n");
        let mut last = None;
        for (number, (world, action)) in steps.into_iter().enumerate() {
            if let Some(action) = action {
                let _ = writeln!(told, "{:4}. {}", number + 1, words(&world, action));
            }
            last = Some(world);
        }
        if let Some(world) = last {
            if !self.completion.ends_well(&self.scale, &world) && rules::all_hold(&self.scale, &world) {
                told.push_str("and from there, with nothing more going wrong:\n");
                let mut lines = Vec::new();
                self.completion.path(&self.scale, &world, |action, world| {
                    lines.push(format!("      {}\n", words(world, action)));
                });
                lines.truncate(LINES_MAX);
                told.extend(lines);
            }
            let _ = writeln!(told, "where it stands: {world:#?}");
        }
        told
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
        world.take(&self.scale, action);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never more run than the limit", |model: &Self, world| {
                model.holds(rules::the_limit_holds(&model.scale, world))
            }),
            Property::always("whatever runs has its lease, a live incarnation and a fence", |model: &Self, world| {
                model.holds(rules::processes_within_leases(world))
            }),
            Property::always("no attempt starts twice", |model: &Self, world| {
                model.holds(rules::no_attempt_twice(world))
            }),
            Property::always("every execution settles at most once", |model: &Self, world| {
                model.holds(rules::settled_once(world))
            }),
            Property::always("slots are granted in order", |model: &Self, world| {
                model.holds(rules::grants_in_order(world))
            }),
            Property::always("only the leader writes", |model: &Self, world| {
                model.holds(rules::only_the_leader_writes(world))
            }),
            Property::always("the leader believes what the journal has", |model: &Self, world| {
                model.holds(rules::leader_and_journal_agree(world))
            }),
            Property::always("everything settles once nothing goes wrong any more", |model: &Self, world| {
                model.holds(!rules::all_hold(&model.scale, world) || model.completion.ends_well(&model.scale, world))
            }),
            Property::sometimes("a loss is declared", |_, world| rules::a_loss_is_declared(world)),
            Property::sometimes("a dispatch is sent again", |_, world| rules::a_dispatch_is_sent_again(world)),
            Property::sometimes("a deposed leader's batch is refused", |_, world| rules::a_batch_is_refused(world)),
            Property::sometimes("a leader is deposed with an effect in flight", |_, world| {
                rules::deposed_with_an_effect_in_flight(world)
            }),
            Property::sometimes("a deposed leader's dispatch arrives", |_, world| {
                rules::a_late_dispatch_arrives(world)
            }),
            Property::sometimes("a worker goes on under a new incarnation", |_, world| {
                rules::a_worker_goes_on_under_a_new_name(world)
            }),
            Property::sometimes("two leaders coexist", |_, world| rules::two_leaders_coexist(world)),
            Property::sometimes("everything is settled", |_, world| rules::everything_is_settled(world)),
        ]
    }
}
