//! The hub: what each subscriber receives, when one is cut off, and how the executor learns what has subscribers.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use slotline_api::Hub;
use slotline_api::hub::{BUFFER_MAX, EventFilter, Interest, LiveEvent, Subscription, Update};
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ActionRef, ExecutionId, Status, Timestamp};

fn live(id: i64, number: u64, action: &str, what: What) -> Arc<LiveEvent> {
    let (action_ref, timestamp) = (ActionRef::new(action).expect("a name"), Timestamp::from_micros(0));
    let event = Event { execution_id: ExecutionId(id), action_ref, number, attempt: 1, timestamp, what };
    Arc::new(LiveEvent::new(event.into()))
}

fn started(id: i64, number: u64) -> Arc<LiveEvent> {
    live(id, number, "demo.echo", What::Started)
}

fn moved(id: i64, number: u64, action: &str, new: Status) -> Arc<LiveEvent> {
    live(id, number, action, What::Status { previous: Status::Queued, new, worker: None })
}

fn settled(id: i64, number: u64, status: Status) -> Arc<LiveEvent> {
    live(id, number, "demo.echo", What::Settled { previous: Status::Running, status, result: None, error: None })
}

/// All that can be received without waiting: events as `execution-number`.
fn received(subscription: &mut Subscription) -> Vec<String> {
    let mut received = Vec::new();
    while let Some(update) = subscription.next().now_or_never() {
        received.push(match update {
            Update::Event(live) => format!("{}-{}", live.event.execution_id, live.event.number),
            Update::Resync => "resync".to_owned(),
            Update::Lagged => {
                received.push("lagged".to_owned());
                return received;
            }
        });
    }
    received
}

#[test]
fn a_subscriber_gets_its_execution_in_order_and_one_of_all_gets_every_event() {
    let hub = Arc::new(Hub::default());
    hub.publish(&[started(1, 1)]);
    let (mut one, mut two, mut all) =
        (hub.subscribe(ExecutionId(1)), hub.subscribe(ExecutionId(2)), hub.subscribe_all(EventFilter::default()));
    hub.publish(&[started(1, 2), started(2, 1), started(3, 1), started(1, 3)]);
    hub.resync();
    assert_eq!(received(&mut one), ["1-2", "1-3", "resync"]);
    assert_eq!(received(&mut two), ["2-1", "resync"]);
    assert_eq!(received(&mut all), ["1-2", "2-1", "3-1", "1-3"]);
}

#[test]
fn a_filter_passes_its_actions_and_the_moves_to_its_statuses() {
    let hub = Arc::new(Hub::default());
    let filter = |actions: &[&str], statuses: &[Status]| EventFilter {
        actions: actions.iter().map(|name| ActionRef::new(name).expect("a name")).collect(),
        statuses: statuses.to_vec(),
    };
    let mut of_echo = hub.subscribe_all(filter(&["demo.echo"], &[]));
    let mut running_or_failed = hub.subscribe_all(filter(&[], &[Status::Running, Status::Failed]));
    let mut both = hub.subscribe_all(filter(&["demo.other"], &[Status::Running]));
    hub.publish(&[
        moved(1, 3, "demo.echo", Status::Running),
        moved(2, 3, "demo.other", Status::Running),
        moved(2, 2, "demo.other", Status::Scheduled),
        started(1, 4),
        settled(1, 5, Status::Completed),
        settled(3, 5, Status::Failed),
    ]);
    assert_eq!(received(&mut of_echo), ["1-3", "1-4", "1-5", "3-5"]);
    assert_eq!(received(&mut running_or_failed), ["1-3", "2-3", "3-5"]);
    assert_eq!(received(&mut both), ["2-3"]);
}

#[test]
fn a_full_buffer_cuts_its_subscriber_off_and_no_other() {
    let hub = Arc::new(Hub::default());
    let (mut slow, mut quick) = (hub.subscribe(ExecutionId(1)), hub.subscribe(ExecutionId(1)));
    let (mut slow_of_all, mut quick_of_all) =
        (hub.subscribe_all(EventFilter::default()), hub.subscribe_all(EventFilter::default()));
    let count = BUFFER_MAX as u64;
    for number in 1..=count {
        hub.publish(&[started(1, number)]);
        assert_eq!(received(&mut quick), [format!("1-{number}")]);
        assert_eq!(received(&mut quick_of_all), [format!("1-{number}")]);
    }
    assert!(!slow.is_cut_off() && !slow_of_all.is_cut_off());
    hub.publish(&[started(1, count + 1)]);
    assert!(slow.is_cut_off() && slow_of_all.is_cut_off());
    let expected: Vec<_> = (1..=count).map(|number| format!("1-{number}")).chain(["lagged".to_owned()]).collect();
    assert_eq!(received(&mut slow), expected);
    assert_eq!(received(&mut slow_of_all), expected);
    hub.publish(&[started(1, count + 2)]);
    assert_eq!(received(&mut slow), ["lagged"]);
    assert_eq!(received(&mut quick), [format!("1-{}", count + 1), format!("1-{}", count + 2)]);
    drop((slow, slow_of_all));
    assert!(hub.wants(ExecutionId(2)));
    drop((quick, quick_of_all));
    assert!(hub.is_idle() && !hub.wants(ExecutionId(1)));
    assert_eq!(hub.interest(), Interest::default());
}

#[tokio::test]
async fn the_interest_changes_with_the_subscriptions() {
    let hub = Arc::new(Hub::default());
    let changed =
        async || tokio::time::timeout(Duration::from_secs(10), hub.interest_changed()).await.expect("a change");
    let ids = |ids: &[i64]| ids.iter().copied().map(ExecutionId).collect::<Vec<_>>();
    assert!(hub.is_idle());
    let seven = hub.subscribe(ExecutionId(7));
    changed().await;
    let three = hub.subscribe(ExecutionId(3));
    changed().await;
    assert_eq!(hub.interest(), Interest { all: false, ids: ids(&[3, 7]) });
    assert!(hub.wants(ExecutionId(3)) && !hub.wants(ExecutionId(4)) && !hub.is_idle());
    // A second subscriber of the same execution, and its end, change nothing.
    drop(hub.subscribe(ExecutionId(3)));
    assert!(hub.interest_changed().now_or_never().is_none());
    let all = hub.subscribe_all(EventFilter::default());
    changed().await;
    assert_eq!(hub.interest(), Interest { all: true, ids: ids(&[3, 7]) });
    assert!(hub.wants(ExecutionId(4)));
    drop((seven, all));
    changed().await;
    assert_eq!(hub.interest(), Interest { all: false, ids: ids(&[3]) });
    drop(three);
    changed().await;
    assert!(hub.is_idle());
}

#[test]
fn the_json_of_an_event_is_made_once_for_all_subscribers() {
    let live = started(1, 1);
    assert!(Arc::ptr_eq(live.json(), live.json()));
    assert!(live.json().contains(r#""kind":"started""#), "{}", live.json());
}
