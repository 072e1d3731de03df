//! A deployment in eight phases that reports its progress, and its newest findings when its time is up.
//!
//! `cargo run -p slotline-worker --example deployment` plays two of them in this process and prints what they report:
//! one that gets through, and one whose container never gets ready. With `SLOTLINE_AMQP_URL` set it is a worker of that
//! installation.

mod stage;

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use slotline_worker::{Builder, Context, HandlerError, Phase, Report, Worker};

/// The phases of a deployment, and how long each usually takes, relative to the others: percent follows from it.
const PHASES: [(&str, u32); 8] = [
    ("validate", 1),
    ("pull", 6),
    ("migrate", 3),
    ("create", 1),
    ("start", 1),
    ("probe", 4),
    ("route", 1),
    ("clean up", 1),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let through = json!({"app": "web", "layers": 5, "ready_after": 3});
    let never_ready = json!({"app": "web", "layers": 2, "ready_after": null});
    stage::play(serve(Worker::builder("deployer")), "deploy.app", [through, never_ready], Duration::from_secs(6)).await
}

pub(crate) fn serve(builder: Builder) -> Builder {
    builder.action("deploy.app", deploy).phases("deploy.app", PHASES.map(|(name, weight)| Phase::new(name, weight)))
}

/// What is to be deployed: the execution's parameters.
#[derive(Deserialize)]
struct Deployment {
    app: String,
    /// How many layers its image has.
    layers: u64,
    /// How often it is probed until it is ready; `None`: it never gets ready.
    ready_after: Option<u64>,
    /// How long each piece of work takes.
    #[serde(default = "tempo")]
    tempo_milliseconds: u64,
}

fn tempo() -> u64 {
    250
}

async fn deploy(context: Context) -> Result<Value, HandlerError> {
    let deployment: Deployment = context.parameters()?;
    let (app, layers) = (&deployment.app, deployment.layers);
    let mut platform = Platform::new(&deployment);

    enter(&context, "validate", format!("Checking the configuration of {app}"));
    platform.work().await;

    // Numbers alone are cheap: report as often as you like, and no more of them are sent than the publisher asked for.
    enter(&context, "pull", format!("Pulling {layers} layers"));
    for layer in 1..=layers {
        platform.work().await;
        let progress = Some((layer, Some(layers)));
        context.progress(Report { progress, unit: Some("layers".to_owned()), ..Report::default() });
    }

    enter(&context, "migrate", "Migrating the database");
    for (number, migration) in (1..).zip(["add column tenant", "fill column tenant", "index tenant"]) {
        platform.work().await;
        context.progress(Report { step: Some((number, 3)), message: Some(migration.to_owned()), ..Report::default() });
    }

    enter(&context, "create", format!("Creating container {app}"));
    platform.work().await;
    enter(&context, "start", format!("Starting container {app}"));
    platform.work().await;

    enter(&context, "probe", format!("Waiting until container {app} is ready"));
    // At the time-out and at a cancellation the wait ends here.
    let ready = context.cancellation().run_until_cancelled(until_ready(&context, app, &mut platform)).await;
    let Some(probes) = ready else {
        platform.remove_container().await;
        return Err(HandlerError::new("it was ended before it was ready"));
    };

    enter(&context, "route", format!("Sending requests to {app}"));
    platform.work().await;
    enter(&context, "clean up", "Removing the version before");
    platform.work().await;
    context.progress(Report { step: Some((1, 1)), message: Some(format!("{app} is deployed")), ..Report::default() });
    Ok(json!({ "app": app, "probes": probes }))
}

/// Errors along the way do not fail the execution; if it fails later, its error has the newest of them.
async fn until_ready(context: &Context, app: &str, platform: &mut Platform) -> u64 {
    for probe in 1.. {
        match platform.probe().await {
            Ok(()) => return probe,
            Err(reason) => {
                context.info(format!("Container {app} is running but not ready"));
                context.error(format!("Readiness probe failed: {reason}"));
            }
        }
    }
    unreachable!("nobody probes that often")
}

fn enter(context: &Context, phase: &str, message: impl Into<String>) {
    let (phase, message) = (Some(phase.to_owned()), Some(message.into()));
    context.progress(Report { phase, message, ..Report::default() });
}

/// Stands for the real container platform.
struct Platform {
    tempo: Duration,
    ready_after: Option<u64>,
    probes: u64,
}

impl Platform {
    fn new(deployment: &Deployment) -> Self {
        let tempo = Duration::from_millis(deployment.tempo_milliseconds);
        Self { tempo, ready_after: deployment.ready_after, probes: 0 }
    }

    async fn work(&self) {
        tokio::time::sleep(self.tempo).await;
    }

    async fn probe(&mut self) -> Result<(), String> {
        self.work().await;
        self.probes += 1;
        if self.ready_after.is_some_and(|ready_after| self.probes >= ready_after) {
            Ok(())
        } else {
            Err(format!("GET /healthz answered 503 (probe {})", self.probes))
        }
    }

    async fn remove_container(&self) {
        self.work().await;
    }
}
