//! The duty book against chance: whatever an executor, a broker and processes do, in any order.

mod judge;

use proptest::prelude::*;

use super::world::World;
use judge::Judge;

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
