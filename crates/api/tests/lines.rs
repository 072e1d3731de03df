//! The lines for those that look: lists, pages of one, and the stream of what changes.

use std::time::Duration;

use serde_json::{Value, json};
use slotline_api::board::{Board, Round};
use slotline_protocol::lines::{LineRow, LineState, ViewPart, WorkerCounts};
use slotline_protocol::{ActionRef, Epoch, Timestamp};

use crate::world::{TestRequest, World};

fn row(name: &str, waiting: u64) -> LineRow {
    LineRow {
        action_ref: ActionRef::new(name).expect("a name"),
        state: if waiting > 0 { LineState::Waiting } else { LineState::Idle },
        waiting,
        backing_off: 0,
        running: 0,
        limit: Some(2),
        declared_limit: Some(2),
        limit_override: None,
        key_limit: None,
        keys: 0,
        oldest_enqueued_at: (waiting > 0).then(|| Timestamp::from_micros(-(waiting as i64))),
        total_enqueued: waiting,
        total_completed: 0,
        started: 0,
        failed: 0,
        run_mean_seconds: None,
        rates: None,
        history: Vec::new(),
    }
}

/// A whole round.
fn part(round: u64, is_fresh: bool, rows: Vec<LineRow>) -> ViewPart {
    ViewPart {
        epoch: Epoch(1),
        round,
        is_fresh,
        is_last: true,
        at: Timestamp::from_micros(round as i64 * 1_000_000),
        rows,
        gone: Vec::new(),
        workers: WorkerCounts { ready: 1, ..WorkerCounts::default() },
    }
}

fn names(answer: &Value) -> Vec<&str> {
    answer["data"].as_array().into_iter().flatten().filter_map(|row| row["action_ref"].as_str()).collect()
}

async fn filled() -> anyhow::Result<World> {
    let world = World::new().await?;
    let rows = vec![row("a.one", 5), row("a.two", 0), row("b.one", 9), row("b.two", 5), row("demo.echo", 0)];
    world.hub.board().apply(part(1, true, rows));
    Ok(world)
}

#[tokio::test]
async fn lines_come_in_the_order_that_is_wanted_by_pages_and_with_their_totals() -> anyhow::Result<()> {
    let world = filled().await?;
    let answer = world.ask(TestRequest::get("/api/v1/lines?limit=2")).await?;
    assert_eq!(names(&answer.body), ["b.one", "a.one"]);
    assert_eq!(answer.body["totals"]["waiting"], 19);
    assert_eq!(answer.body["totals"]["slots"], 10);
    assert_eq!(answer.body["totals"]["workers"]["ready"], 1);
    let cursor = answer.body["next_cursor"].as_str().expect("there are more").to_owned();
    let answer = world.ask(TestRequest::get(&format!("/api/v1/lines?limit=2&cursor={cursor}"))).await?;
    assert_eq!(names(&answer.body), ["b.two", "a.two"]);
    let answer = world.ask(TestRequest::get("/api/v1/lines?sort=name&prefix=b.")).await?;
    assert_eq!((names(&answer.body), &answer.body["next_cursor"]), (vec!["b.one", "b.two"], &Value::Null));
    let answer = world.ask(TestRequest::get("/api/v1/lines?sort=oldest&state=waiting")).await?;
    assert_eq!(names(&answer.body), ["b.one", "a.one", "b.two"]);
    Ok(())
}

#[tokio::test]
async fn a_list_that_can_not_be_is_refused_by_its_field() -> anyhow::Result<()> {
    let world = filled().await?;
    for (query, field) in [
        ("sort=size", "sort"),
        ("state=open", "state"),
        ("cursor=b.one", "cursor"),
        ("cursor=1~b", "cursor"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("order=name", "order"),
    ] {
        let answer = world.ask(TestRequest::get(&format!("/api/v1/lines?{query}"))).await?;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["field"]), (400, &json!(field)), "{query}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_leader_the_last_view_is_shown_and_without_any_the_list_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    tokio::time::pause();
    let answer = world.ask(TestRequest::get("/api/v1/lines")).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "unavailable"));
    world.hub.board().apply(part(1, true, vec![row("a.one", 5)]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let answer = world.ask(TestRequest::get("/api/v1/lines")).await?;
    assert_eq!(names(&answer.body), ["a.one"]);
    Ok(())
}

#[tokio::test]
async fn pages_of_a_line_are_asked_of_the_leader_by_its_key() -> anyhow::Result<()> {
    let world = filled().await?;
    let answer = world.ask(TestRequest::get("/api/v1/lines/demo.echo/waiting?key=a%2Fb&limit=5&cursor=3.3")).await?;
    assert_eq!((&answer.body["data"][0]["position"], &answer.body["next_cursor"]), (&json!(1), &json!("3.3")));
    world.ask(TestRequest::get("/api/v1/lines/demo.echo/holders?keyless=true")).await?;
    assert_eq!(
        world.control.calls(),
        ["waiting demo.echo Some(Key(\"a/b\")) Some(\"3.3\") 5", "holders demo.echo Some(Keyless) None 100"]
    );
    for (path, field) in [
        ("waiting?cursor=3", "cursor"),
        ("holders?cursor=x", "cursor"),
        ("waiting?key=a&keyless=true", "keyless"),
        ("waiting?keyless=yes", "keyless"),
    ] {
        let answer = world.ask(TestRequest::get(&format!("/api/v1/lines/demo.echo/{path}"))).await?;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["field"]), (400, &json!(field)), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn one_line_is_shown_with_its_action() -> anyhow::Result<()> {
    let world = filled().await?;
    let answer = world.ask(TestRequest::get("/api/v1/lines/demo.echo")).await?;
    let data = &answer.body["data"];
    assert_eq!((&data["action_ref"], &data["state"], &data["limit"]), (&json!("demo.echo"), &json!("idle"), &json!(2)));
    assert_eq!(data["action"]["action_ref"], "demo.echo");
    let newer = world.ask(TestRequest::get("/api/v1/lines/demo.other")).await?;
    assert_eq!((newer.status.as_u16(), &newer.body["data"]["state"]), (200, &json!("idle")), "no view has it yet");
    let unknown = world.ask(TestRequest::get("/api/v1/lines/a.one")).await?;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, "unknown_action"));
    Ok(())
}

#[tokio::test]
async fn a_stream_begins_with_everything_and_goes_on_with_what_changed() -> anyhow::Result<()> {
    let world = filled().await?;
    let path = "/api/v1/stream?lines=waiting:waiting:2:&line=a.two&executions=99";
    let mut stream = world.listen(TestRequest::get(path)).await?;
    assert!(world.hub.board().is_watched());
    let (kind, data) = stream.event().await?;
    assert_eq!((kind.as_str(), data), ("unknown", json!({"execution_id": 99})));
    assert_eq!(stream.event().await?.0, "totals");
    let (kind, data) = stream.event().await?;
    assert_eq!((kind.as_str(), &data["order"]), ("lines", &json!(["b.one", "a.one"])));
    assert_eq!((&data["list"], data["rows"].as_array().map(Vec::len)), (&json!("waiting:waiting:2:"), Some(2)));
    let (kind, data) = stream.event().await?;
    assert_eq!((kind.as_str(), &data["action_ref"]), ("line", &json!("a.two")));

    world.hub.board().apply(part(2, false, vec![row("a.one", 12)]));
    assert_eq!(stream.event().await?.1["waiting"], 26);
    let (_, data) = stream.event().await?;
    assert_eq!((&data["order"], names(&json!({"data": data["rows"]}))), (&json!(["a.one", "b.one"]), vec!["a.one"]));
    drop(stream);
    assert!(!world.hub.board().is_watched());
    Ok(())
}

#[tokio::test]
async fn a_stream_that_can_not_be_is_refused() -> anyhow::Result<()> {
    let world = filled().await?;
    for (query, field) in [
        ("lines=size", "sort"),
        ("lines=name::201:", "lines"),
        ("line=x", "line"),
        ("executions=a", "executions"),
        ("executions=1:x", "executions"),
    ] {
        let answer = world.ask(TestRequest::get(&format!("/api/v1/stream?{query}"))).await?;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["field"]), (400, &json!(field)), "{query}");
    }
    let many = "lines=name&".repeat(17);
    let answer = world.ask(TestRequest::get(&format!("/api/v1/stream?{many}"))).await?;
    assert_eq!((answer.status.as_u16(), &answer.body["error"]["field"]), (400, &json!("lines")));
    Ok(())
}

#[tokio::test]
async fn a_board_goes_on_only_from_the_round_that_it_has() {
    let board = Board::default();
    let round = |number| Some(Round { epoch: Epoch(1), number });
    board.apply(part(4, false, vec![row("a.one", 1)]));
    assert_eq!(board.round(), None, "it lacks what was before");
    board.apply(ViewPart { is_last: false, ..part(5, true, vec![row("a.one", 1), row("b.one", 2)]) });
    assert_eq!(board.round(), None, "there is more to come");
    board.apply(part(5, false, vec![row("c.one", 3)]));
    assert_eq!(board.round(), round(5));
    board.apply(ViewPart { gone: vec![ActionRef::new("b.one").expect("a name")], ..part(6, false, Vec::new()) });
    let view = board.look().await.expect("a view");
    assert_eq!((board.round(), view.totals.lines, view.totals.waiting), (round(6), 2, 4));
    board.apply(part(8, false, Vec::new()));
    assert_eq!(board.round(), None, "a round is missing");
    board.apply(part(9, true, vec![row("d.one", 7)]));
    let view = board.look().await.expect("a view");
    assert_eq!((board.round(), view.totals.lines, view.totals.waiting), (round(9), 1, 7), "nothing is left of before");
}

#[tokio::test]
async fn rates_and_history_come_from_samples_of_ten_seconds() {
    let board = Board::default();
    let counted = |waiting, enqueued, started| LineRow {
        total_enqueued: enqueued,
        total_completed: started,
        started,
        ..row("a.one", waiting)
    };
    board.apply(part(1, true, vec![counted(30, 100, 50)]));
    for second in 2..11 {
        board.apply(part(second, false, Vec::new()));
    }
    let view = board.look().await.expect("a view");
    assert_eq!(view.totals.rates, None, "it was looked at for nine seconds");
    board.apply(part(11, false, vec![counted(20, 100, 60)]));
    let rates = board.look().await.and_then(|view| view.totals.rates).expect("rates");
    assert_eq!((rates.over_seconds, rates.started_per_minute, rates.enqueued_per_minute), (10.0, 60.0, 0.0));
    assert_eq!((rates.drain_seconds, rates.is_growing), (Some(20.0), false));
    board.apply(part(12, false, vec![counted(90, 200, 60)]));
    let rates = board.look().await.and_then(|view| view.totals.rates).expect("rates");
    assert_eq!((rates.drain_seconds, rates.is_growing), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_board_is_watched_for_ten_seconds_after_a_look_and_as_long_as_there_is_a_stream() {
    let board = std::sync::Arc::new(Board::default());
    assert!(!board.is_watched());
    board.apply(part(1, true, Vec::new()));
    board.look().await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(board.is_watched());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!board.is_watched());
    let viewer = board.watch();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(board.is_watched());
    drop(viewer);
    assert!(!board.is_watched());
}
