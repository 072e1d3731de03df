//! A private PostgreSQL server, durable as by default (`fsync` on).
//!
//! Tests that do not hurt the server share one per process and take a database each.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tokio::sync::OnceCell;

use crate::process::Process;
use crate::servers::Servers;
use crate::{Guarded, Port, Sandbox, eventually_blocking};

const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(60);

static SHARED: OnceCell<Postgres> = OnceCell::const_new();
static NEXT_DATABASE: AtomicU32 = AtomicU32::new(1);

/// A server; stopped and removed on drop.
#[derive(Debug)]
pub struct Postgres {
    settings: Settings,
    sandbox: Sandbox,
    /// `None` while stopped.
    server: Mutex<Option<Guarded>>,
}

#[derive(Clone, Debug)]
struct Settings {
    servers: Servers,
    binaries: PathBuf,
    data: PathBuf,
    port: u16,
    /// The user that the server runs as when the test is root, since the server refuses to run as root.
    unprivileged: Option<(u32, u32)>,
}

impl Postgres {
    /// Makes a cluster, starts it and waits until it takes connections.
    pub async fn start() -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(Self::start_blocking).await?
    }

    /// The server that the tests of this process share. It ends with the process. Don't stop it: others use it.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        SHARED.get_or_try_init(Self::start).await
    }

    fn start_blocking() -> anyhow::Result<Self> {
        let sandbox = Sandbox::new("postgres")?;
        let port = Box::leak(Box::new(Port::claim()?)).number();
        let servers = Servers::chosen();
        let settings = Settings {
            binaries: binaries(&servers)?,
            servers,
            data: sandbox.path().join("data"),
            port,
            unprivileged: unprivileged()?,
        };
        settings.make_cluster()?;
        let server = settings.launch(&sandbox)?;
        Ok(Self { settings, sandbox, server: Mutex::new(Some(server)) })
    }

    /// Of the database `postgres`.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    pub fn port(&self) -> u16 {
        self.settings.port
    }

    fn database_url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.settings.port)
    }

    /// Makes an empty database with this prefix in its name, and returns its URL.
    pub async fn fresh_database(&self, name: &str) -> anyhow::Result<String> {
        let name = format!("{name}_{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("create database \"{name}\"")).await?;
        Ok(self.database_url(&name))
    }

    /// Runs SQL in the database `postgres`; one row a line, columns separated by `|`.
    pub async fn psql(&self, sql: &str) -> anyhow::Result<String> {
        self.psql_in(&self.url(), sql).await
    }

    /// Runs SQL in the database that `url` names.
    pub async fn psql_in(&self, url: &str, sql: &str) -> anyhow::Result<String> {
        let mut command = self.settings.servers.command(&self.settings.binaries.join("psql"), None);
        command.args(["--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-qAtc", sql, url]);
        tokio::task::spawn_blocking(move || run(&mut command)).await?
    }

    /// All that the database which `url` names holds, as SQL.
    pub async fn dump(&self, url: &str) -> anyhow::Result<String> {
        let mut command = Command::new(self.settings.binaries.join("pg_dump"));
        command.args(["--no-owner", url]);
        tokio::task::spawn_blocking(move || run(&mut command)).await?
    }

    /// Makes the database which `url` names anew, from a dump; its sessions are ended.
    pub async fn restore(&self, url: &str, dump: &str) -> anyhow::Result<()> {
        let name = url.rsplit('/').next().context("the URL names a database")?;
        self.psql(&format!("drop database if exists \"{name}\" with (force)")).await?;
        self.psql(&format!("create database \"{name}\"")).await?;
        let file = std::env::temp_dir().join(format!("slotline-dump-{}-{name}.sql", std::process::id()));
        std::fs::write(&file, dump)?;
        let mut command = Command::new(self.settings.binaries.join("psql"));
        command.args(["--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-q", "-f"]).arg(&file).arg(url);
        let restored = tokio::task::spawn_blocking(move || run(&mut command)).await?;
        std::fs::remove_file(&file)?;
        restored.map(drop)
    }

    /// Stops the server as in a crash, and keeps its files as they are; it runs again when this returns.
    pub async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        self.stop_at_once().await?;
        let data = self.settings.data.clone();
        let kept = data.with_extension(format!("snapshot-{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed)));
        let copied = copy(&data, &kept).await;
        self.start_again().await?;
        copied.map(|()| Snapshot(kept))
    }

    /// Stops the server, puts its files back as they were, and starts it.
    pub async fn roll_back(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.stop_at_once().await?;
        std::fs::remove_dir_all(&self.settings.data)?;
        copy(&snapshot.0, &self.settings.data).await?;
        self.start_again().await
    }

    async fn stop_at_once(&self) -> anyhow::Result<()> {
        let mut server = self.take_server()?;
        tokio::task::spawn_blocking(move || {
            server.signal(Signal::SIGQUIT)?;
            server.wait(STOP_WITHIN)
        })
        .await??;
        Ok(())
    }

    /// Immediate shutdown, as after a crash, and a start with the same port and data.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop_at_once().await?;
        self.start_again().await
    }

    /// SIGKILL to the server; its sessions end when they notice.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let mut server = self.take_server()?;
        tokio::task::spawn_blocking(move || server.kill_group()).await?
    }

    /// SIGSTOP to the server and all its sessions, until what this returns is dropped.
    pub fn freeze(&self) -> anyhow::Result<Frozen<'_>> {
        let mut guard = self.lock();
        let server = guard.as_mut().context("the server was not running")?;
        // First the server, which starts sessions; then its sessions, each of which is a group of its own.
        server.signal(Signal::SIGSTOP)?;
        let mut frozen = Frozen { sandbox: &self.sandbox, members: vec![server.pid()] };
        for member in Process::all()?.filter(|process| process.parent == server.pid()).map(|process| process.pid) {
            self.sandbox.guard(member)?;
            frozen.members.push(member);
            match kill(member, Signal::SIGSTOP) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(frozen)
    }

    /// Starts the killed server with its port and data, and waits until it takes connections.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        ensure!(self.lock().is_none(), "the server is running");
        let (settings, sandbox) = (self.settings.clone(), self.sandbox.clone());
        let server = tokio::task::spawn_blocking(move || settings.launch(&sandbox)).await??;
        *self.lock() = Some(server);
        Ok(())
    }

    fn take_server(&self) -> anyhow::Result<Guarded> {
        self.lock().take().context("the server was not running")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Guarded>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that stands still with all its sessions. It goes on when this is dropped.
#[derive(Debug)]
pub struct Frozen<'p> {
    sandbox: &'p Sandbox,
    /// The server, then its sessions.
    members: Vec<Pid>,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let (server, sessions) = self.members.split_first().expect("the server is the first of them");
        for session in sessions {
            // A session that stood still can't have ended, so its process id is still its own.
            let _ = self.sandbox.forget(*session);
            let _ = kill(*session, Signal::SIGCONT);
        }
        let _ = kill(*server, Signal::SIGCONT);
    }
}

impl Settings {
    fn command(&self, program: &str) -> Command {
        let mut command = self.servers.command(&self.binaries.join(program), self.unprivileged);
        command.env("LC_ALL", "C.UTF-8").current_dir("/");
        command
    }

    fn make_cluster(&self) -> anyhow::Result<()> {
        std::fs::create_dir(&self.data)?;
        std::fs::set_permissions(&self.data, PermissionsExt::from_mode(0o700))?;
        if let Some((user, group)) = self.unprivileged {
            chown(&self.data, Some(user), Some(group))?;
        }
        // `--no-sync` is about the making only: a cluster that a crash spoils before its first use is made anew.
        run(self.command("initdb").arg("-D").arg(&self.data).args(["-A", "trust", "-U", "postgres", "--no-sync"]))?;
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nmax_connections = 200\n\
             shared_buffers = 64MB\nfsync = on\nsynchronous_commit = on\n",
            self.port,
            self.data.display()
        );
        let path = self.data.join("postgresql.conf");
        let defaults = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, defaults + &settings)?)
    }

    fn launch(&self, sandbox: &Sandbox) -> anyhow::Result<Guarded> {
        let begin = || sandbox.spawn(self.command("postgres").arg("-D").arg(&self.data), "server.log");
        let mut server = begin()?;
        let ready = eventually_blocking("PostgreSQL takes connections", START_WITHIN, || {
            if server.try_wait()?.is_some() {
                // Sessions of a killed server hold its shared memory until they notice; it can't start before.
                server = begin()?;
            }
            let ready =
                self.command("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status()?;
            Ok(ready.success().then_some(()))
        });
        ready.with_context(|| server.log())?;
        Ok(server)
    }
}

/// Files of a server as they were.
pub struct Snapshot(PathBuf);

async fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    tokio::task::spawn_blocking(move || run(&mut command)).await?.map(drop)
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("can't start {:?}", command.get_program()))?;
    if !output.status.success() {
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{:?}: {}\n{said}{wrong}", command.get_program(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

pub(crate) fn unprivileged() -> anyhow::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.or(User::from_name("nobody")?).context("a user who is not root")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// The newest installed version's programs.
fn binaries(servers: &Servers) -> anyhow::Result<PathBuf> {
    let packages = Path::new("/usr/lib/postgresql");
    let versions = std::fs::read_dir(servers.path(packages)).into_iter().flatten().flatten();
    let packaged = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .map(|version| (version, packages.join(version.to_string()).join("bin")))
        .filter(|(_, folder)| servers.path(folder).join("initdb").exists())
        .max();
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").exists());
    packaged
        .map(|(_, folder)| folder)
        .or_else(on_path)
        .filter(|folder| servers.path(folder).is_dir())
        .context("PostgreSQL is not installed: `tests/run.sh` does it")
}
