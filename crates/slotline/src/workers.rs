//! `slotline workers`: who runs attempts.

use std::process::ExitCode;

use slotline_protocol::http::Worker;

use crate::config::Output;
use crate::{Settings, output};

/// The most workers that are listed.
const WORKERS_MAX: usize = 10_000;

pub(crate) async fn workers(settings: &Settings) -> anyhow::Result<ExitCode> {
    let workers: Vec<Worker> = settings.client()?.list(&["workers"], &[], WORKERS_MAX).await?;
    if settings.output() == Output::Json {
        output::json(&workers);
        return Ok(ExitCode::SUCCESS);
    }
    output::table(
        ["WORKER", "RUNNING", "CAPACITY", "STATE", "LAST HEARTBEAT", "ACTIONS"],
        workers.iter().map(|worker| {
            [
                worker.worker.to_string(),
                worker.active_count.to_string(),
                worker.capacity.to_string(),
                if worker.draining { "draining" } else { "ready" }.to_owned(),
                output::moment(worker.last_heartbeat_at),
                worker.actions.iter().map(|served| served.action_ref.as_str()).collect::<Vec<_>>().join(","),
            ]
        }),
    );
    Ok(ExitCode::SUCCESS)
}
