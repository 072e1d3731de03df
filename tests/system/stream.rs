//! Clients that follow an execution: cut off, slow, many at once, and through the end of executors.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use slotline_tests::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::actions::Action;
use crate::follower::{Follower, check_whole, gaps, messages};
use crate::listener::{Ear, Heard, patient};
use crate::world::{LATER, SOON, World, list};

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}

fn data(heard: &[Heard]) -> Vec<&Value> {
    heard.iter().map(|heard| &heard.data).collect()
}

#[tokio::test]
async fn whoever_is_cut_off_after_any_event_resumes_exactly_there() -> anyhow::Result<()> {
    let policy = "retry = { max_attempts = 2, backoff = \"100ms\", backoff_max = \"100ms\" }";
    let world = World::with([Action::reports("talk.much", policy)]).start().await?;
    let steps = json!([{"report": {"message": "begun", "phase": "one"}}, {"count": {"to": 12, "every": 0.005}},
        {"out": "a line"}, {"report": {"message": "failed", "level": "error"}}, {"wait": "end"}, {"exit": 1}]);
    let id = world.submit_detailed("talk.much", json!({"steps": steps})).await?;

    // While it runs: a connection for every single event.
    let follower = Follower::new(&world.addresses(), id)?;
    let mut count = follower.count();
    let live = tokio::spawn(follower.until_settled(|| (1, 0)));
    count.reaches(19).await?;
    world.open("end")?;
    let (live, connections) = live.await??;
    assert_eq!(connections, live.len());

    // And afterwards, from every number.
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    assert_eq!(data(&live), record.iter().collect::<Vec<_>>());
    assert!(record.len() > 40 && gaps(&record).is_empty(), "{record:?}");
    let (client, url) = (patient()?, format!("{}/api/v1/executions/{id}/events", world.executors[0].api_url()));
    for cut in 0..record.len() {
        let rest: Vec<_> = record[cut..].iter().collect();
        let resumed = Ear::open(&client, &url, Some(cut as u64)).await?.context("a stream")?.rest().await?;
        assert_eq!(data(&resumed), rest, "after {cut}");
        let kinds: Vec<_> = resumed.iter().map(|heard| heard.kind.as_str()).collect();
        assert_eq!(kinds, rest.iter().filter_map(|event| event["kind"].as_str()).collect::<Vec<_>>());
        let numbers: Vec<_> = resumed.iter().map(|heard| heard.id.clone()).collect();
        assert_eq!(numbers, rest.iter().map(|event| event["number"].to_string()).collect::<Vec<_>>());
        let after = Ear::open(&client, &format!("{url}?after={cut}"), None).await?.context("a stream")?.rest().await?;
        assert_eq!(after, resumed, "after {cut}");

        let page = world.page(id, &format!("after={cut}&limit=7&wait=30s")).await?;
        let expected: Vec<_> = rest.iter().copied().take(7).collect();
        assert_eq!(list(&page["data"])?.iter().collect::<Vec<_>>(), expected);
        assert_eq!(page["next_after"], cut + expected.len(), "{page}");
        assert_eq!(page["is_over"], rest.len() <= 7, "{page}");
    }
    let over = Ear::open(&client, &url, Some(record.len() as u64)).await?;
    ensure!(over.is_none(), "nothing follows the end");
    Ok(())
}

#[tokio::test]
async fn leader_and_follower_stream_everything_that_their_client_asks_for() -> anyhow::Result<()> {
    let actions = [Action::reports("talk.much", ""), Action::reports("talk.more", "")];
    let mut world = World::with(actions).executors(2).start().await?;
    world.ready().await?;
    let client = patient()?;
    let mut ears = Vec::new();
    for executor in &world.executors {
        let url = format!("{}/api/v1/events", executor.api_url());
        let all = Ear::open(&client, &url, None).await?.context("a stream")?;
        let of_one = Ear::open(&client, &format!("{url}?action=talk.more"), None).await?.context("a stream")?;
        let ends = Ear::open(&client, &format!("{url}?status=completed,failed"), None).await?.context("a stream")?;
        ears.push((all, of_one, ends));
    }
    // Events before an executor has subscribed to the leader do not reach its clients, so all wait for these first.
    for (turn, (all, ..)) in ears.iter_mut().enumerate() {
        let greeted = async {
            loop {
                let id = world.submit("talk.much", json!({"steps": []})).await?;
                world.reaches(id, "completed").await?;
                if tokio::time::timeout(std::time::Duration::from_millis(500), all.next()).await.is_ok() {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(SOON, greeted).await.with_context(|| format!("executor {turn} tells nothing"))??;
    }
    let say = |message: &str| json!({"report": {"message": message}});
    let much = world.submit("talk.much", json!({"steps": [say("much"), {"exit": 1}]})).await?;
    let more = world.submit("talk.more", json!({"steps": [say("more")]})).await?;
    let records = [world.whole_record(much).await?, world.whole_record(more).await?];
    for (all, of_one, ends) in &mut ears {
        // In one execution's own order, whatever happens between.
        let mut heard = [Vec::new(), Vec::new()];
        while heard.iter().zip(&records).any(|(heard, record)| heard.len() < record.len()) {
            let event = all.next().await?.context("it goes on for ever")?;
            let id = &event.data["execution_id"];
            if let Some(of) = [much, more].iter().position(|mine| id == mine) {
                assert_eq!(event.id, format!("{id}-{}", event.data["number"]));
                heard[of].push(event.data);
            }
        }
        assert_eq!(heard, records);
        for expected in &records[1] {
            assert_eq!(&of_one.next().await?.context("it goes on for ever")?.data, expected);
        }
        let mut settled = Vec::new();
        while settled.len() < 2 {
            let event = ends.next().await?.context("it goes on for ever")?;
            assert_eq!(event.kind, "settled");
            let id = &event.data["execution_id"];
            if id == much || id == more {
                settled.push((id.as_i64(), event.data["status"].clone()));
            }
        }
        settled.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(settled, [(Some(much), json!("failed")), (Some(more), json!("completed"))]);
    }
    Ok(())
}

#[tokio::test]
async fn two_hundred_clients_that_are_cut_at_random_each_hear_every_event_once() -> anyhow::Result<()> {
    const CLIENTS: usize = 200;
    const REPORTS: usize = 250;
    let mut world = World::with([Action::reports("talk.much", "")]).executors(2).start().await?;
    world.ready().await?;
    let steps = json!([{"wait": "begin"}, {"count": {"to": REPORTS, "every": 0.01}}]);
    let id = world.submit_detailed("talk.much", json!({"steps": steps})).await?;
    let addresses = world.addresses();
    let mut clients = Vec::new();
    for seed in 0..CLIENTS {
        let follower = Follower::new(&addresses, id)?;
        let count = follower.count();
        let mut chance = Chance(seed as u64);
        // Half of them begin with the leader, the others with the follower; later cuts choose anew.
        let mut first = Some(seed);
        let client = follower.until_settled(move || {
            let turn = first.take().unwrap_or_else(|| chance.below(2));
            (1 + chance.below(120), turn)
        });
        clients.push((tokio::spawn(client), count));
    }
    // All clients listen before there are many events.
    try_join_all(clients.iter_mut().map(|(_, count)| count.reaches(1))).await?;
    world.open("begin")?;
    let mut connections = 0;
    let mut all = Vec::new();
    for (client, _) in clients {
        let (heard, used) = client.await??;
        connections += used;
        all.push(heard);
    }
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    assert!(gaps(&record).is_empty(), "{record:?}");
    assert_eq!(record.iter().filter(|event| event["progress"].is_array()).count(), REPORTS);
    for (client, heard) in all.iter().enumerate() {
        assert!(data(heard).into_iter().eq(&record), "client {client}");
    }
    assert!(connections > 2 * CLIENTS, "only {connections} connections for {CLIENTS} clients");
    Ok(())
}

/// Follows a run that reports, kills the leader twice meanwhile, and compares the events with the reports.
async fn through_the_end_of_executors(mut world: World, in_its_place: bool) -> anyhow::Result<()> {
    let steps = json!([{"talk": {"until": "end", "every": 0.1}}]);
    let id = world.submit("talk.much", json!({"steps": steps})).await?;
    let addresses = world.addresses();
    let follower = Follower::new(&addresses, id)?;
    let mut count = follower.count();
    let mut turn = 0;
    let client = tokio::spawn(follower.until_settled(move || {
        turn += 1;
        (usize::MAX, turn)
    }));
    let mut enough = 20;
    for _ in 0..2 {
        count.reaches(enough).await?;
        let leader = eventually("an executor leads", SOON, async || world.leader().await).await?;
        world.executors[leader].kill()?;
        if in_its_place {
            world.start_executor_again(leader)?;
        } else {
            world.executors.remove(leader);
            world.start_executor()?;
        }
        world.addresses();
        // These events were reported to the next leader, or kept for it.
        enough = count.reaches(enough).await? + 20;
    }
    count.reaches(enough).await?;
    world.open("end")?;
    let (heard, connections) = client.await??;
    assert!(connections > 1);
    world.ready().await?;
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    assert!(data(&heard).into_iter().eq(&record));
    assert!(gaps(&record).is_empty(), "{:?}", gaps(&record));
    let execution = world.execution(id).await?;
    assert_eq!((&execution["status"], &execution["attempt"]), (&json!("completed"), &json!(1)), "{execution}");
    let said = execution["result"]["written"].as_u64().context("how many")?;
    assert_eq!(messages(&record), (1..=said).map(|n| format!("n {n}")).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_client_that_follows_through_a_take_over_misses_nothing_and_receives_nothing_twice() -> anyhow::Result<()> {
    let world = World::with([Action::reports("talk.much", "")]).executors(2).start().await?;
    through_the_end_of_executors(world, false).await
}

#[tokio::test]
async fn a_client_that_follows_while_the_only_executor_is_killed_and_restarted_misses_nothing() -> anyhow::Result<()> {
    let world = World::with([Action::reports("talk.much", "")]).start().await?;
    through_the_end_of_executors(world, true).await
}

#[tokio::test]
async fn a_client_that_never_reads_delays_no_other() -> anyhow::Result<()> {
    // More than both ends of a connection and the buffer between can take, and less than is kept in full.
    const REPORTS: usize = 700;
    const PADDING: usize = 16_000;
    let world = World::with([Action::reports("talk.much", "")]).start().await?;
    let steps = json!([{"wait": "begin"}, {"count": {"to": REPORTS, "every": 0, "padding": PADDING}}]);
    let id = world.submit_detailed("talk.much", json!({"steps": steps})).await?;
    let address = world.executors[0].api_url();
    let host = address.strip_prefix("http://").context("an address")?;
    let mut silent = TcpStream::connect(host).await?;
    let request =
        format!("GET /api/v1/executions/{id}/events HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n");
    silent.write_all(request.as_bytes()).await?;
    // Its first bytes are there, so the executor serves it; they stay where they are.
    silent.readable().await?;

    let follower = Follower::new(&world.addresses(), id)?;
    let mut count = follower.count();
    let client = tokio::spawn(follower.until_settled(|| (usize::MAX, 0)));
    count.reaches(1).await?;
    world.open("begin")?;
    let (heard, _) = client.await??;
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    assert!(data(&heard).into_iter().eq(&record));
    // A worker that was held up may have dropped some on the way, but not the last.
    let reports: Vec<_> = record.iter().filter(|event| event["progress"].is_array()).collect();
    assert_eq!(reports.last().map(|report| &report["progress"]), Some(&json!([REPORTS, REPORTS])));
    assert_eq!(world.execution(id).await?["status"], "completed");

    // It reads at last: what was kept for it, and from which number it may resume; unless it took so long that the
    // executor has given it up.
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let all = async {
        while !bytes.ends_with(b"0\r\n\r\n") {
            match silent.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
        }
    };
    tokio::time::timeout(LATER, all).await.context("the end of what was kept")?;
    let text = String::from_utf8_lossy(&bytes);
    // The last event may have been cut in the middle.
    let text = text.rsplit_once("\n\n").context("an event")?.0;
    let numbers: Vec<usize> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    let told = text.matches("event: progress").count();
    assert!(told > 0 && told < reports.len(), "{told} of {}", reports.len());
    assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{numbers:?}");
    let last = *numbers.last().context("a number")?;
    let url = format!("{address}/api/v1/executions/{id}/events");
    let rest = Ear::open(&patient()?, &url, Some(last as u64)).await?.context("a stream")?.rest().await?;
    assert!(data(&rest).into_iter().eq(&record[last..]));
    Ok(())
}
