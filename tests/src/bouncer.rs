//! PgBouncer in front of a private PostgreSQL, pooling by transaction.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::postgres::unprivileged;
use crate::{Guarded, Port, Postgres, Sandbox, eventually_blocking};

const START_WITHIN: Duration = Duration::from_secs(60);

/// A pooler; stopped and removed on drop.
#[derive(Debug)]
pub struct Bouncer {
    port: Port,
    _server: Guarded,
    _sandbox: Sandbox,
}

impl Bouncer {
    /// Starts one. `ignored` are the startup parameters that it takes and does not pass on; others it refuses.
    pub async fn start(postgres: &Postgres, ignored: &str) -> anyhow::Result<Self> {
        let (behind, ignored) = (postgres.port(), ignored.to_owned());
        tokio::task::spawn_blocking(move || Self::start_blocking(behind, &ignored)).await?
    }

    fn start_blocking(behind: u16, ignored: &str) -> anyhow::Result<Self> {
        let (sandbox, port) = (Sandbox::new("bouncer")?, Port::claim()?);
        let settings = sandbox.path().join("pgbouncer.ini");
        let number = port.number();
        std::fs::write(
            &settings,
            format!(
                "[databases]\n* = host=127.0.0.1 port={behind} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {number}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
                 ignore_startup_parameters = {ignored}\n"
            ),
        )?;
        std::fs::set_permissions(&settings, PermissionsExt::from_mode(0o644))?;
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(&settings);
        if let Some((user, group)) = unprivileged()? {
            command.uid(user).gid(group);
        }
        let server =
            sandbox.spawn(&mut command, "pgbouncer.log").context("Debian's pgbouncer: `tests/run.sh` has it")?;
        eventually_blocking("PgBouncer takes connections", START_WITHIN, || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", number)).is_ok().then_some(()))
        })
        .with_context(|| server.log())?;
        Ok(Self { port, _server: server, _sandbox: sandbox })
    }

    /// The database that `url` names, by way of this pooler.
    pub fn url(&self, url: &str, behind: &Postgres) -> String {
        url.replace(&format!(":{}/", behind.port()), &format!(":{}/", self.port.number()))
    }
}
