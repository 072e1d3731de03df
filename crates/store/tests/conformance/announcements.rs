//! Which events are to be published, and with which facts.

use slotline_protocol::{ActionId, Epoch, ExecutionId, Status};
use slotline_scheduler::Settled;
use slotline_store::{AcceptedRequest, Batch, BatchKey, EventRange, Facts};

use crate::world::{World, accepted, cases, ends, full_request, lease, queued, running, settled};

cases!(
    what_is_to_be_published_is_remembered_with_its_batch_until_it_is_forgotten,
    what_events_are_published_with_is_known_of_the_living_and_the_settled,
);

fn range(id: i64, first: u64, last: u64) -> EventRange {
    EventRange { id: ExecutionId(id), first, last }
}

async fn what_is_to_be_published_is_remembered_with_its_batch_until_it_is_forgotten(
    world: World,
) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let announced = vec![range(1, 1, 2), range(2, 1, 1)];
    writer.commit(Batch { accepted: vec![accepted(1), accepted(2)], announced, ..Batch::default() }).await?;
    writer.settle([1]).await?;
    writer.commit(Batch { announced: vec![range(2, 2, 7)], ..Batch::default() }).await?;
    let later = Epoch(i64::MAX);
    let keys = world.store.announcements_before(later).await?;
    let [first, last] = keys[..] else { panic!("{keys:?}") };
    assert!(first < last && first.epoch == last.epoch);
    assert_eq!(world.store.announcements_before(first.epoch).await?, []);
    assert_eq!(world.store.announcement(first).await?, [range(1, 1, 2), range(2, 1, 1)]);
    assert_eq!(world.store.announcement(last).await?, [range(2, 2, 7)]);

    world.store.forget_announcements(first).await?;
    assert_eq!(world.store.announcements_before(later).await?, [last]);
    assert_eq!(world.store.announcement(first).await?, []);
    let next = BatchKey { epoch: Epoch(last.epoch.0 + 1), number: 0 };
    world.store.forget_announcements(next).await?;
    assert_eq!(world.store.announcements_before(later).await?, []);
    Ok(())
}

async fn what_events_are_published_with_is_known_of_the_living_and_the_settled(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let named = AcceptedRequest { snapshot: queued(1), request: full_request(1).into() };
    let batch = Batch { accepted: vec![named, accepted(2), accepted(3)], live: vec![running(3)], ..Batch::default() };
    writer.commit(batch).await?;
    let timeout = Settled { status: Status::Timeout, attempt: 0, lease: None, result: None, ..settled(2) };
    writer.commit(Batch { settled: ends([settled(1), timeout]), ..Batch::default() }).await?;
    let mut facts = world.store.facts(&[1, 2, 3, 4].map(ExecutionId)).await?;
    facts.sort_by_key(|facts| facts.id);
    let bare = |id| Facts {
        id: ExecutionId(id),
        action_id: ActionId(1),
        message_id: None,
        correlation_id: None,
        trace_id: None,
        lease: None,
        started_at: None,
    };
    let held = |id| {
        let lease = lease(id);
        (Some((lease.fence, lease.worker, lease.incarnation)), lease.started_at)
    };
    let (lease, started_at) = held(1);
    let first = Facts {
        message_id: Some("message-1".to_owned()),
        correlation_id: Some("correlation".to_owned()),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        lease,
        started_at,
        ..bare(1)
    };
    let (lease, started_at) = held(3);
    assert_eq!(facts, [first, bare(2), Facts { lease, started_at, ..bare(3) }]);
    Ok(())
}
