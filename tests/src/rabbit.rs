//! A private RabbitMQ node: its own name, ports, epmd, cookie and data, with no plugins.
//!
//! A start takes seconds, so tests that do not hurt the node share one per process and take a virtual host each.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use tokio::sync::OnceCell;

use crate::process::Process;
use crate::servers::Servers;
use crate::{Guarded, Port, Sandbox, eventually, eventually_blocking};

const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Where distributions and the generic archive put the scripts, which run as the user that calls them.
const SCRIPTS: &[&str] = &["/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/lib/rabbitmq/sbin"];

static SHARED: OnceCell<Rabbit> = OnceCell::const_new();
static NEXT_VHOST: AtomicU32 = AtomicU32::new(1);

/// A node; stopped and removed on drop.
#[derive(Debug)]
pub struct Rabbit {
    settings: Settings,
    sandbox: Sandbox,
    /// `None` while stopped.
    server: Mutex<Option<Guarded>>,
    /// Shared by the nodes of a cluster.
    epmd: Arc<Guarded>,
}

/// The output of a command on the node.
#[derive(Clone, Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

#[derive(Clone, Debug)]
struct Settings {
    servers: Servers,
    scripts: PathBuf,
    home: PathBuf,
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl Rabbit {
    /// Starts a node and waits until it takes connections.
    pub async fn start() -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(Self::start_blocking).await?
    }

    /// The node that the tests of this process share. It ends with the process. Don't stop it: others use it.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        SHARED.get_or_try_init(Self::start).await
    }

    fn start_blocking() -> anyhow::Result<Self> {
        Self::start_beside(None)
    }

    /// A node that finds `first`, and is found by it, if it is given.
    fn start_beside(first: Option<&Self>) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new("rabbit")?;
        // The claims are leaked with their process: a node's ports are never reused while the process lives.
        let claim = || Port::claim().map(|port| Box::leak(Box::new(port)).number());
        let servers = Servers::chosen();
        let settings = Settings {
            scripts: scripts(&servers)?,
            servers,
            home: sandbox.path().to_owned(),
            amqp: claim()?,
            distribution: claim()?,
            epmd: first.map_or_else(claim, |first| Ok(first.settings.epmd))?,
        };
        settings.write_files()?;
        let epmd = match first {
            Some(first) => Arc::clone(&first.epmd),
            None => {
                let mut epmd = settings.servers.command(Path::new("epmd"), None);
                epmd.args(["-address", "127.0.0.1", "-port", &settings.epmd.to_string()]);
                Arc::new(sandbox.spawn(&mut epmd, "epmd.log")?)
            }
        };
        let server = settings.launch(&sandbox)?;
        Ok(Self { settings, sandbox, server: Mutex::new(Some(server)), epmd })
    }

    /// Of the default virtual host, for the user `guest`.
    pub fn url(&self) -> String {
        self.vhost_url("/")
    }

    pub fn port(&self) -> u16 {
        self.settings.amqp
    }

    /// Of a virtual host, for the user `guest`.
    pub fn vhost_url(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.settings.amqp, vhost.replace('/', "%2f"))
    }

    /// Makes an empty virtual host and gives its URL.
    pub async fn fresh_vhost(&self) -> anyhow::Result<String> {
        let name = fresh_vhost_name();
        let make = format!(
            "ok = rabbit_vhost:add(<<\"{name}\">>, <<\"guest\">>), \
             ok = rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, \
             <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"guest\">>)."
        );
        self.ctl(&["eval", &make]).await.context("making a virtual host")?;
        Ok(self.vhost_url(&name))
    }

    /// Makes the virtual host that `definitions` name, with the users and rights there; `guest` may do everything in
    /// it. One of that name that is there already goes first, with all that it holds.
    pub async fn import(&self, vhost: &str, mut definitions: serde_json::Value) -> anyhow::Result<String> {
        let all = serde_json::json!({"user": "guest", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"});
        definitions["permissions"].as_array_mut().context("a list of permissions")?.push(all);
        let path = self.sandbox.path().join(format!("{vhost}.json"));
        std::fs::write(&path, definitions.to_string())?;
        // In one call, each of which takes seconds on a busy machine.
        let make = format!(
            "case rabbit_vhost:exists(<<\"{vhost}\">>) of true -> ok = rabbit_vhost:delete(<<\"{vhost}\">>, <<\"guest\">>); \
             false -> ok end, {{ok, Definitions}} = file:read_file({path:?}), ok = rabbit_definitions:import_raw(Definitions)."
        );
        self.ctl(&["eval", &make]).await.with_context(|| format!("importing {}", path.display()))?;
        Ok(self.vhost_url(vhost))
    }

    /// Runs `rabbitmqctl`; an exit status other than 0 is an error with its output.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let (settings, arguments) = (self.settings.clone(), owned(arguments));
        tokio::task::spawn_blocking(move || settings.ctl(&arguments)).await?
    }

    /// Closes the connections that `arguments` of `rabbitmqctl` name. A process closes its other connection by itself
    /// when one is closed; `rabbitmqctl` fails when that one goes while its turn comes, and is asked again.
    pub async fn close_connections(&self, arguments: &[&str]) -> anyhow::Result<()> {
        eventually("rabbitmqctl closes connections", START_WITHIN, async || self.ctl(arguments).await.map(Some))
            .await?;
        Ok(())
    }

    /// Messages ready in a queue of the virtual host that `url` names; 0 if there is no such queue.
    pub async fn queue_depth_in(&self, url: &str, queue: &str) -> anyhow::Result<u64> {
        let vhost = url.rsplit('/').next().unwrap_or("%2f").replace("%2f", "/");
        // The queue itself is asked: what `list_queues` shows is seconds old.
        let ask = format!(
            "case rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>)) of \
             {{ok, Q}} -> element(2, rabbit_amqqueue:stat(Q)); {{error, not_found}} -> 0 end."
        );
        let said = self.ctl(&["eval", &ask]).await?.stdout;
        said.trim().parse().with_context(|| format!("a count: {said}"))
    }

    /// [`Rabbit::queue_depth_in`] the default virtual host.
    pub async fn queue_depth(&self, queue: &str) -> anyhow::Result<u64> {
        self.queue_depth_in("/%2f", queue).await
    }

    /// Whether every quorum queue of the cluster keeps a majority if this node goes.
    pub async fn queues_can_do_without(&self) -> anyhow::Result<bool> {
        Ok(self.ctl(&["eval", "rabbit_quorum_queue:list_with_minimum_quorum()."]).await?.stdout.trim() == "[]")
    }

    /// Ends RabbitMQ within the running Erlang VM: connections break, ports close.
    pub async fn stop_app(&self) -> anyhow::Result<()> {
        self.ctl(&["stop_app"]).await.map(drop)
    }

    pub async fn start_app(&self) -> anyhow::Result<()> {
        self.ctl(&["start_app"]).await.map(drop)
    }

    /// Stops the node in an orderly way and starts it again with the same ports and data.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Stops the node in an orderly way.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.ctl(&["stop"]).await?;
        let mut server = self.take_server().context("the node was not running")?;
        tokio::task::spawn_blocking(move || server.wait(STOP_WITHIN)).await??;
        Ok(())
    }

    /// SIGKILL to the whole Erlang VM.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let mut server = self.take_server().context("the node was not running")?;
        tokio::task::spawn_blocking(move || server.kill_group()).await?
    }

    /// Starts the stopped or killed node with its ports and data, and waits until it takes connections.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        ensure!(self.lock().is_none(), "the node is running");
        let (settings, sandbox) = (self.settings.clone(), self.sandbox.clone());
        let server = tokio::task::spawn_blocking(move || settings.launch(&sandbox)).await??;
        *self.lock() = Some(server);
        Ok(())
    }

    /// Freezes (`SIGSTOP`) or thaws (`SIGCONT`) the whole Erlang VM, or what else a signal does.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let server = self.lock();
        let server = server.as_ref().context("the node is not running")?;
        Ok(nix::sys::signal::killpg(server.pid(), signal)?)
    }

    /// `SIGSTOP` to the whole Erlang VM; it stands still when this returns. The signal alone is only on its way, and a
    /// busy thread may answer what is sent right after it.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let group = self.lock().as_ref().context("the node is not running")?.pid();
        eventually("the node stands still", STOP_WITHIN, async || {
            let stands = Process::all()?.filter(|process| process.group == group).all(|process| process.stands_still());
            Ok(stands.then_some(()))
        })
        .await
    }

    /// What the node and its scripts printed.
    pub fn log(&self) -> String {
        self.lock().as_ref().map(Guarded::log).unwrap_or_default()
    }

    fn take_server(&self) -> Option<Guarded> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Guarded>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nodes of one cluster, each of which may be killed.
#[derive(Debug)]
pub struct RabbitCluster {
    pub nodes: Vec<Rabbit>,
}

impl RabbitCluster {
    pub async fn start(count: usize) -> anyhow::Result<Self> {
        let first = Rabbit::start().await?;
        let mut nodes = vec![first];
        for _ in 1..count {
            let first = nodes.pop().context("there is a first node")?;
            // Nodes start on a thread that may wait; the first comes back with the new one.
            let (first, next) = tokio::task::spawn_blocking(move || {
                let next = Rabbit::start_beside(Some(&first));
                (first, next)
            })
            .await?;
            let next = next?;
            next.ctl(&["stop_app"]).await?;
            next.ctl(&["join_cluster", &first.settings.node()]).await?;
            next.ctl(&["start_app"]).await?;
            nodes.push(next);
            nodes.push(first);
        }
        // Node 0 is the first of the cluster.
        nodes.reverse();
        Ok(Self { nodes })
    }
}

impl Settings {
    fn write_files(&self) -> anyhow::Result<()> {
        let cookie = self.home.join(".erlang.cookie");
        std::fs::write(&cookie, format!("SLOTLINE{:x}", std::process::id()))?;
        std::fs::set_permissions(&cookie, PermissionsExt::from_mode(0o400))?;
        std::fs::write(self.home.join("enabled_plugins"), "[].\n")?;
        let mut conf = std::fs::File::create(self.home.join("rabbitmq.conf"))?;
        writeln!(conf, "loopback_users = none\nlisteners.tcp.1 = 127.0.0.1:{}", self.amqp)?;
        writeln!(conf, "disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 2GB")?;
        writeln!(conf, "log.file.level = warning\nlog.console = true\nlog.console.level = warning")?;
        Ok(())
    }

    fn node(&self) -> String {
        format!("slotline{}@localhost", self.amqp)
    }

    fn command(&self, script: &str) -> Command {
        let path = |name: &str| self.home.join(name);
        let mut command = self.servers.command(&self.scripts.join(script), None);
        // An environment of our own: a RABBITMQ_ variable of the machine's real node must not leak in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RABBITMQ_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_MAX_PORTS", "8192")
            .env("ERL_CRASH_DUMP", path("erl_crash.dump"))
            .env("RABBITMQ_NODENAME", self.node())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", path("none"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
        command
    }

    fn launch(&self, sandbox: &Sandbox) -> anyhow::Result<Guarded> {
        let mut server = sandbox.spawn(&mut self.command("rabbitmq-server"), "server.log")?;
        let ready = eventually_blocking("RabbitMQ takes connections", START_WITHIN, || {
            if let Some(status) = server.try_wait()? {
                return Ok(Some(Err(status)));
            }
            Ok(std::net::TcpStream::connect(("127.0.0.1", self.amqp)).is_ok().then_some(Ok(())))
        });
        match ready {
            Ok(Ok(())) => {}
            Ok(Err(status)) => bail!("RabbitMQ ended at once ({status}):\n{}", server.log()),
            Err(error) => return Err(error.context(server.log())),
        }
        // The listener opens last, but only a booted node answers for its virtual hosts.
        self.ctl(&owned(&["await_startup"])).with_context(|| server.log())?;
        Ok(server)
    }

    fn ctl(&self, arguments: &[String]) -> anyhow::Result<Output> {
        let output = self.command("rabbitmqctl").args(arguments).output().context("rabbitmqctl")?;
        let said = Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}\n{}{}",
            output.status,
            said.stdout,
            said.stderr
        );
        Ok(said)
    }
}

/// A name that no virtual host of this process's nodes has had.
pub fn fresh_vhost_name() -> String {
    format!("test-{}", NEXT_VHOST.fetch_add(1, Ordering::Relaxed))
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

fn scripts(servers: &Servers) -> anyhow::Result<PathBuf> {
    let mut folders = SCRIPTS.iter().map(Path::new);
    let found = folders.find(|folder| servers.path(folder).join("rabbitmq-server").exists());
    found.map(Path::to_owned).context("RabbitMQ is not installed: `tests/run.sh` does it")
}
