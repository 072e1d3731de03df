//! `slotline workers`: the workers that run attempts.

use std::collections::BTreeMap;
use std::process::ExitCode;

use slotline_protocol::ActionRef;
use slotline_protocol::http::Worker;
use slotline_protocol::message::Served;

use crate::client::Client;
use crate::settings::{Output, Settings};
use crate::show::output;

/// The most workers that are listed.
const WORKERS_MAX: usize = 10_000;

/// The actions that live workers take executions of.
pub(crate) struct Serving(Vec<Worker>);

impl Serving {
    /// `None` while no executor leads.
    pub(crate) async fn ask(client: &Client) -> Option<Self> {
        client.list(&["workers"], &[], WORKERS_MAX).await.ok().map(Self)
    }

    /// How many workers take executions of this action.
    pub(crate) fn count(&self, action_ref: &ActionRef) -> usize {
        let serves =
            |worker: &&Worker| !worker.draining && worker.actions.iter().any(|served| served.action_ref == *action_ref);
        self.0.iter().filter(serves).count()
    }
}

pub(crate) async fn workers(settings: &Settings) -> anyhow::Result<ExitCode> {
    let workers: Vec<Worker> = settings.client()?.list(&["workers"], &[], WORKERS_MAX).await?;
    if settings.output() == Output::Json {
        output::json(&workers);
        return Ok(ExitCode::SUCCESS);
    }
    let style = settings.style();
    style.table(
        ["WORKER", "RUNNING", "CAPACITY", "STATE", "LAST SEEN", "ACTIONS", "CAN"],
        workers.iter().map(|worker| {
            [
                worker.worker.to_string(),
                worker.active_count.to_string(),
                worker.capacity.to_string(),
                state(worker),
                style.moment(worker.last_heartbeat_at),
                worker.actions.iter().map(|served| served.action_ref.as_str()).collect::<Vec<_>>().join(","),
                capabilities(&worker.actions),
            ]
        }),
    );
    Ok(ExitCode::SUCCESS)
}

/// `ready`, `draining` or `silent`, and how far the worker's clock is off.
fn state(worker: &Worker) -> String {
    let state = worker.state().as_str();
    match worker.clock_ahead_seconds {
        Some(ahead) if ahead < 0.0 => format!("{state}, clock {:.0} s behind", -ahead),
        Some(ahead) => format!("{state}, clock {ahead:.0} s ahead"),
        None => state.to_owned(),
    }
}

/// Capabilities for every action, then those for the named actions only: `cancel report-progress logs(a.b,c.d)`.
fn capabilities(actions: &[Served]) -> String {
    let mut able: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for served in actions {
        for capability in &served.capabilities {
            able.entry(capability).or_default().push(served.action_ref.as_str());
        }
    }
    // Those for all actions come first.
    let mut able: Vec<_> = able.into_iter().collect();
    able.sort_by_key(|(_, of)| of.len() < actions.len());
    let word = |(capability, of): (&str, Vec<&str>)| {
        if of.len() == actions.len() { capability.to_owned() } else { format!("{capability}({})", of.join(",")) }
    };
    able.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(name: &str, capabilities: &[&str]) -> Served {
        Served {
            action_ref: ActionRef::new(name).expect("a name"),
            capabilities: capabilities.iter().map(|capability| (*capability).to_owned()).collect(),
        }
    }

    #[test]
    fn a_capability_is_shown_once_and_with_its_actions_where_not_for_all() {
        let (all, some) = (["report-progress", "cancel", "logs"], ["report-progress", "cancel"]);
        assert_eq!(capabilities(&[served("a.b", &all), served("c.d", &all)]), "cancel logs report-progress");
        assert_eq!(capabilities(&[served("a.b", &all), served("c.d", &some)]), "cancel report-progress logs(a.b)");
        assert_eq!(capabilities(&[]), "");
    }
}
