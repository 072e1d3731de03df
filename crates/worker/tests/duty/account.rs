//! What a worker reports to a leader whose journal may be older than its attempts.

use slotline_protocol::message::{Account, Hello, Holding, Lineage};
use slotline_protocol::{Epoch, ExecutionId, Fence, Sizes};
use slotline_worker::duty::Order;
use uuid::Uuid;

use super::world::{World, s};

fn journal(generation: u64) -> Lineage {
    Lineage { identity: Uuid::from_u128(7), generation }
}

fn hello(epoch: i64, account: bool) -> Order {
    Order::Hello(greeting(epoch, account))
}

fn greeting(epoch: i64, account: bool) -> Hello {
    Hello {
        epoch: Epoch(epoch),
        n: 1,
        lease_seconds: None,
        fence_seconds: None,
        heartbeat_seconds: None,
        lost: false,
        journal: Some(journal(2)),
        account,
        refused: None,
    }
}

#[test]
fn a_heartbeat_names_the_journal_and_the_highest_numbers_ever_given() {
    let mut world = World::new();
    world.dispatch(7).fence(70).send();
    world.dispatch(3).fence(71).send();
    world.succeed(7, "1");
    world.record(&[7]);
    world.order(hello(2, false));
    let beat = world.take_heartbeats().pop().expect("a hello is answered");
    assert_eq!((beat.journal, beat.account.is_none()), (Some(journal(2)), true));
    assert_eq!((beat.highest.execution_id, beat.highest.fence), (ExecutionId(7), Fence(71)));
    world.order(Order::Hello(Hello { lost: true, ..greeting(3, false) }));
    world.fail(3);
    world.new_incarnation();
    let beat = world.duty_heartbeat();
    assert_eq!((beat.journal, beat.highest.fence), (None, Fence(71)), "the numbers outlive the incarnation");
}

#[test]
fn a_leader_that_asks_is_told_all_that_is_held_or_unrecorded_with_every_heartbeat() {
    let mut world = World::new();
    world.dispatch(1).send();
    world.dispatch(2).send();
    world.succeed(1, "1");
    world.take_heartbeats();
    world.order(hello(2, true));
    for _ in 0..2 {
        let beat = world.take_heartbeats().pop().expect("one is due");
        let account = beat.account.expect("it was asked for");
        assert!(account.is_last());
        let told: Vec<_> =
            account.attempts.iter().map(|shown| (shown.execution_id.0, shown.fence.0, shown.state)).collect();
        assert_eq!(told, [(1, 1, None), (2, 2, Some(Holding::Starting))]);
        world.advance(s(5));
    }
    world.order(hello(3, false));
    assert!(world.take_heartbeats().pop().expect("a hello is answered").account.is_none());
}

#[test]
fn an_account_that_is_too_long_for_one_heartbeat_is_told_in_parts() {
    let mut world = World::new();
    let count = Account::ATTEMPTS_MAX + 1;
    for id in 0..count {
        world.dispatch(i64::try_from(id).expect("few") + 1).send();
    }
    world.take_heartbeats();
    world.order(hello(2, true));
    let beats = world.take_heartbeats();
    let accounts: Vec<_> = beats.into_iter().map(|beat| beat.account.expect("it was asked for")).collect();
    assert_eq!(accounts.iter().map(|account| account.attempts.len()).collect::<Vec<_>>(), [Account::ATTEMPTS_MAX, 1]);
    assert_eq!(accounts.iter().map(Account::is_last).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn what_a_worker_tells_of_all_that_it_holds_fits_what_the_broker_takes() {
    let mut world = World::unconfirmed();
    let sizes = Sizes::of(Sizes::MESSAGE_MIN).expect("enough");
    world.duty.keep_to(sizes);
    let most = i64::try_from(sizes.entries()).expect("few");
    for id in 0..=most {
        world.dispatch(id).send();
    }
    world.take_heartbeats();
    world.order(hello(2, true));
    let beats = world.take_heartbeats();
    let told: usize = beats.iter().filter_map(|beat| Some(beat.account.as_ref()?.attempts.len())).sum();
    assert_eq!(told, sizes.entries(), "one more is not taken");
    for beat in beats {
        let bytes = serde_json::to_vec(&beat).expect("plain data").len();
        assert!(bytes + sizes.request() < sizes.message(), "{bytes}");
    }
}
