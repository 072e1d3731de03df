//! Idempotency: a `message_id` is known while its execution lives and as long as its history is kept.

use slotline_protocol::{ExecutionId, RequestName};
use slotline_store::{AcceptedRequest, Batch, CommitError, Known, Request};

use crate::world::{World, accepted, at, cases, ends, full_request, settled};

cases!(
    a_message_is_known_while_it_lives_and_after_it_settled,
    a_message_that_settled_can_not_be_accepted_again,
    two_users_may_name_their_requests_alike_and_neither_takes_the_others_name,
    nothing_is_known_of_no_messages,
);

fn named(id: i64) -> AcceptedRequest {
    AcceptedRequest { request: full_request(id).into(), ..accepted(id) }
}

async fn a_message_is_known_while_it_lives_and_after_it_settled(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.commit(Batch { accepted: vec![named(1), named(2), accepted(3)], ..Batch::default() }).await?;
    writer.settle([1]).await?;
    let asked = ["message-1", "message-2", "message-3", ""].map(RequestName::from);
    let mut known = world.store.find_messages(&asked).await?;
    known.sort_by_key(|known| known.execution_id);
    let expected = [1, 2].map(|id| Known {
        name: format!("message-{id}").into(),
        execution_id: ExecutionId(id),
        digest: full_request(id).digest,
    });
    assert_eq!(known, expected);
    assert_eq!(world.store.find_request(&"message-2".into()).await?, Some(ExecutionId(2)));
    assert_eq!(world.store.find_request(&"message-3".into()).await?, None);

    assert_eq!(world.store.prune(writer.lead.epoch(), at(4_000), 10).await?, 1);
    assert_eq!(world.store.find_request(&"message-1".into()).await?, None);
    Ok(())
}

async fn a_message_that_settled_can_not_be_accepted_again(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.commit(Batch { accepted: vec![named(1)], settled: ends([settled(1)]), ..Batch::default() }).await?;
    let again = AcceptedRequest { request: full_request(1).into(), ..accepted(2) };
    let error = writer.commit(Batch { accepted: vec![again], ..Batch::default() }).await.expect_err("refused");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    drop(writer);
    assert!(world.recovered().await?.live.is_empty());
    Ok(())
}

async fn two_users_may_name_their_requests_alike_and_neither_takes_the_others_name(world: World) -> anyhow::Result<()> {
    let names = [None, Some("alice"), Some("bob")].map(|user| RequestName::new(user, "the-one"));
    let of = |name: &RequestName, id| AcceptedRequest {
        request: Request { name: Some(name.clone()), ..full_request(id) }.into(),
        ..accepted(id)
    };
    let mut writer = world.writer().await?;
    let all = names.iter().zip(1..).map(|(name, id)| of(name, id)).collect();
    writer.commit(Batch { accepted: all, ..Batch::default() }).await?;
    writer.settle([2]).await?;
    for (name, id) in names.iter().zip(1..) {
        assert_eq!(world.store.find_request(name).await?, Some(ExecutionId(id)), "{name}");
        let shown = world.store.execution(ExecutionId(id)).await?.expect("it is there");
        assert_eq!(shown.message_id.as_deref(), Some("the-one"), "as its publisher knows it");
    }
    let requests = world.store.requests(&[ExecutionId(1), ExecutionId(3)]).await?;
    assert!(requests.iter().all(|(id, request)| request.name.as_ref() == Some(&names[id.0 as usize - 1])));
    assert_eq!(world.store.prune(writer.lead.epoch(), at(4_000), 10).await?, 1);
    assert_eq!(world.store.find_request(&names[1]).await?, None, "it goes with its history");
    assert_eq!(world.store.find_request(&names[2]).await?, Some(ExecutionId(3)));
    let again = writer.commit(Batch { accepted: vec![of(&names[2], 4)], ..Batch::default() }).await;
    assert!(matches!(again, Err(CommitError::Unknown(_))), "{again:?}");
    Ok(())
}

async fn nothing_is_known_of_no_messages(world: World) -> anyhow::Result<()> {
    assert_eq!(world.store.find_messages(&[]).await?, []);
    assert!(world.store.requests(&[]).await?.is_empty());
    assert!(world.store.execution(ExecutionId(1)).await?.is_none());
    Ok(())
}
