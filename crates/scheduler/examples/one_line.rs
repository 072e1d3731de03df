//! The machine by hand: one action with one slot, one worker, three executions. `cargo run --example one_line`

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use slotline_protocol::message::{Heartbeat, Served};
use slotline_protocol::{ActionRef, Epoch, Incarnation, OutcomeKind, Policy, Timestamp, WorkerName};
use slotline_scheduler::{Config, Counters, Input, Limits, Order, Outcome, Scheduler};

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(5) };
    let mut scheduler = Scheduler::new(config, Epoch(1), Counters { next_id: 1, next_fence: 1, next_action: 1 });
    let mut now = Timestamp::from_micros(0);

    let action_ref = ActionRef::new("demo.email")?;
    let limits = Limits::from(&Policy { limit: Some(1), ..Policy::default() });
    let action = scheduler.new_action_id();
    scheduler.handle(Input::ActionPut { id: action, action_ref: action_ref.clone(), limits, paused: false }, now);

    let incarnation = Incarnation(uuid::Uuid::from_u128(1));
    scheduler.handle(
        Input::Heartbeat(Heartbeat {
            worker: WorkerName::new("w1")?,
            incarnation,
            capacity: 4,
            holding: Vec::new(),
            unrecorded: Vec::new(),
            seen: (Epoch(0), 0),
            actions: vec![Served { action_ref, capabilities: Vec::new() }],
            labels: BTreeMap::new(),
            draining: false,
            sent_at: now,
            journal: None,
            highest: Default::default(),
            account: None,
            process: None,
        }),
        now,
    );
    for token in 0..3 {
        scheduler.handle(Input::Requested { token, action, key: None, bytes: 2 }, now);
    }

    // The caller would commit each batch of effects before it lets any of them out.
    loop {
        let effects = scheduler.take_effects();
        for accepted in &effects.accepted {
            println!("{now} accepted {} at position {}", accepted.id, accepted.position);
        }
        for settled in &effects.settled {
            println!("{now} {} is {}", settled.id, settled.status);
        }
        let Some(dispatch) = effects.orders.iter().find_map(|sent| match &sent.order {
            Order::Dispatch(dispatch) => Some(dispatch.clone()),
            Order::Recorded { .. } | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => None,
        }) else {
            break;
        };
        println!("{now} {} starts with fence {}", dispatch.id, dispatch.fence);
        let started_at = Some(now);
        now = now + Duration::from_secs(1);
        let outcome =
            Outcome { kind: OutcomeKind::Completed, result: None, error: None, started_at, ended_at: now, held: None };
        let key = (dispatch.id, dispatch.attempt);
        scheduler.handle(Input::Completed { key, fence: dispatch.fence, incarnation, outcome }, now);
    }
    Ok(())
}
