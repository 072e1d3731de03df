//! Lists: pages by keyset over live and history, filters, durations.

use slotline_protocol::{ActionId, ActionRef, Status, http};
use slotline_scheduler::{Settled, Snapshot};
use slotline_store::{
    AcceptedRequest, ActionChange, Batch, Error, Filter, PAGE_BYTES_MAX, PageRequest, Request, Store,
};

use crate::world::{World, accepted, action, cases, ends, queued, raw, request, running, settled};

cases!(
    pages_go_through_live_and_history_newest_first,
    filters_choose_by_action_status_and_key,
    a_page_is_not_disturbed_by_what_happens_meanwhile,
    a_cursor_that_no_page_gave_is_refused,
    a_limit_out_of_range_is_brought_into_it,
    a_page_of_large_results_ends_early,
    durations_are_those_of_the_newest,
);

/// Ids of all pages, each of at most `limit`.
async fn pages(store: &Store, filter: &Filter, limit: u32) -> anyhow::Result<Vec<Vec<i64>>> {
    let mut pages = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.executions(filter, PageRequest { cursor, limit }).await?;
        pages.push(page.data.iter().map(|execution| execution.execution_id.0).collect());
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(pages);
        }
    }
}

async fn pages_go_through_live_and_history_newest_first(world: World) -> anyhow::Result<()> {
    let everything = Filter::default();
    assert_eq!(pages(&world.store, &everything, 3).await?, [[0i64; 0]]);
    let mut writer = world.writer().await?;
    writer.accept(1..=7).await?;
    writer.settle([2, 3, 6]).await?;
    assert_eq!(pages(&world.store, &everything, 3).await?, [vec![7, 6, 5], vec![4, 3, 2], vec![1]]);
    // A page that is just full is the last.
    assert_eq!(pages(&world.store, &everything, 7).await?, [vec![7, 6, 5, 4, 3, 2, 1]]);
    assert_eq!(pages(&world.store, &everything, 1).await?.len(), 7);
    Ok(())
}

async fn filters_choose_by_action_status_and_key(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let of = |id, action, key: Option<&str>| AcceptedRequest {
        snapshot: Snapshot { action: ActionId(action), key: key.map(Into::into), ..queued(id) },
        request: request().into(),
    };
    let batch = Batch {
        actions: vec![ActionChange::Put(action(2, "demo.other"))],
        accepted: vec![
            of(1, 1, Some("a")),
            of(2, 2, Some("a")),
            of(3, 1, None),
            of(4, 2, Some("b")),
            of(5, 1, Some("a")),
        ],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    let end = |id, status| Settled { status, ..settled(id) };
    let batch = Batch {
        live: vec![Snapshot { key: Some("a".into()), ..running(5) }],
        settled: ends([end(1, Status::Failed), end(2, Status::Completed)]),
        ..Batch::default()
    };
    writer.commit(batch).await?;

    let check = async |filter: Filter, expected: &[i64]| -> anyhow::Result<()> {
        let found: Vec<i64> = pages(&world.store, &filter, 2).await?.concat();
        assert_eq!(found, expected, "{filter:?}");
        Ok(())
    };
    let name = |name| ActionRef::new(name).ok();
    let key = |key: &str| Some(key.to_owned());
    check(Filter { action_ref: name("demo.echo"), ..Filter::default() }, &[5, 3, 1]).await?;
    check(Filter { action_ref: name("demo.other"), ..Filter::default() }, &[4, 2]).await?;
    check(Filter { action_ref: name("demo.unknown"), ..Filter::default() }, &[]).await?;
    check(Filter { statuses: vec![Status::Failed], ..Filter::default() }, &[1]).await?;
    check(Filter { statuses: vec![Status::Running, Status::Completed], ..Filter::default() }, &[5, 2]).await?;
    check(Filter { statuses: vec![Status::Queued], ..Filter::default() }, &[4, 3]).await?;
    check(Filter { concurrency_key: key("a"), ..Filter::default() }, &[5, 2, 1]).await?;
    check(Filter { concurrency_key: key("' OR 1=1"), ..Filter::default() }, &[]).await?;
    let all = Filter { action_ref: name("demo.echo"), statuses: vec![Status::Failed], concurrency_key: key("a") };
    check(all, &[1]).await
}

async fn a_page_is_not_disturbed_by_what_happens_meanwhile(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept(1..=6).await?;
    let page = |cursor| PageRequest { cursor, limit: 3 };
    let ids = |page: &http::Page<http::Execution>| page.data.iter().map(|e| e.execution_id.0).collect::<Vec<_>>();
    let first = world.store.executions(&Filter::default(), page(None)).await?;
    assert_eq!(ids(&first), [6, 5, 4]);
    writer.accept(7..=9).await?;
    writer.settle([2, 4]).await?;
    let second = world.store.executions(&Filter::default(), page(first.next_cursor)).await?;
    assert_eq!(ids(&second), [3, 2, 1]);
    assert_eq!(second.next_cursor, None);
    Ok(())
}

async fn a_cursor_that_no_page_gave_is_refused(world: World) -> anyhow::Result<()> {
    for cursor in ["", "7", "b1-zz", "b1--5", "' OR 1=1 --"] {
        let page = PageRequest { cursor: Some(cursor.to_owned()), limit: 10 };
        let error = world.store.executions(&Filter::default(), page).await.expect_err(cursor);
        assert!(matches!(error, Error::InvalidCursor), "{error:?}");
    }
    Ok(())
}

async fn a_limit_out_of_range_is_brought_into_it(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept(1..=1_001).await?;
    let everything = Filter::default();
    assert_eq!(world.store.executions(&everything, PageRequest { cursor: None, limit: 0 }).await?.data.len(), 1);
    let most = world.store.executions(&everything, PageRequest { cursor: None, limit: u32::MAX }).await?;
    assert_eq!(most.data.len(), 1_000);
    assert!(most.next_cursor.is_some());
    Ok(())
}

async fn a_page_of_large_results_ends_early(world: World) -> anyhow::Result<()> {
    let large = raw(&format!("\"{}\"", "x".repeat(PAGE_BYTES_MAX / 4)));
    let mut writer = world.writer().await?;
    let accept =
        |id| AcceptedRequest { request: Request { parameters: large.clone(), ..request() }.into(), ..accepted(id) };
    writer.commit(Batch { accepted: (1..=5).map(accept).collect(), ..Batch::default() }).await?;
    assert_eq!(pages(&world.store, &Filter::default(), 100).await?, [vec![5, 4, 3], vec![2, 1]]);
    Ok(())
}

async fn durations_are_those_of_the_newest(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    assert_eq!(world.store.durations(ActionId(1), 100).await?, slotline_store::Durations::default());
    writer.accept(1..=10).await?;
    writer.settle(1..=10).await?;
    // Enqueued at `id`, started at 2000 + id, ended at 3000 + id.
    let durations = world.store.durations(ActionId(1), 4).await?;
    let wait = durations.wait.expect("started");
    assert_eq!((wait.count, wait.p50, wait.p99), (4, 2_000.0, 2_000.0));
    let run = durations.run.expect("ended");
    assert_eq!((run.count, run.p50, run.p90), (4, 1_000.0, 1_000.0));
    Ok(())
}
