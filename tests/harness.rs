//! Tests of the harness itself.

use std::time::Duration;

use slotline_tests::{Postgres, Rabbit, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Whether a process exists that is not merely waiting to be reaped.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_rabbit_node_keeps_its_port_and_data_through_a_restart_and_a_kill() -> anyhow::Result<()> {
    let rabbit = Rabbit::start().await?;
    let (url, vhost) = (rabbit.url(), rabbit.fresh_vhost().await?);
    rabbit.kill().await?;
    assert!(std::net::TcpStream::connect(("127.0.0.1", rabbit.port())).is_err());
    rabbit.start_again().await?;
    rabbit.restart().await?;
    assert_eq!(rabbit.url(), url);
    let vhosts = rabbit.ctl(&["list_vhosts", "--silent"]).await?.stdout;
    assert!(vhosts.lines().any(|name| vhost.ends_with(&format!("/{name}"))), "{vhosts}");
    assert_eq!(rabbit.queue_depth("nobody.declared.me").await?, 0);
    rabbit.stop_app().await?;
    assert!(std::net::TcpStream::connect(("127.0.0.1", rabbit.port())).is_err());
    rabbit.start_app().await?;
    std::net::TcpStream::connect(("127.0.0.1", rabbit.port()))?;
    Ok(())
}

#[tokio::test]
async fn a_postgres_server_keeps_what_was_committed_through_a_restart_and_a_kill() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let database = postgres.fresh_database("harness").await?;
    postgres.psql_in(&database, "create table t (n int); insert into t values (1)").await?;
    postgres.restart().await?;
    postgres.psql_in(&database, "insert into t values (2)").await?;
    postgres.kill().await?;
    assert!(postgres.psql("select 1").await.is_err());
    postgres.start_again().await?;
    assert_eq!(postgres.psql_in(&database, "select n from t order by n").await?, "1\n2");
    assert_eq!(postgres.psql("show fsync").await?, "on");
    Ok(())
}

#[tokio::test]
async fn a_sandbox_ends_with_the_process_that_made_it_even_by_sigkill() -> anyhow::Result<()> {
    // This test runs itself again as the process to be killed, which prints its sandbox and the processes in it.
    const ROLE: &str = "HARNESS_TEST_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let sandbox = Sandbox::new("victim")?;
        let child = sandbox.spawn(std::process::Command::new("sleep").arg("1000"), "sleep.log")?;
        println!("victim {} {}", sandbox.path().display(), child.pid());
        // Until it is killed; if it is not, it ends with its child.
        std::thread::sleep(Duration::from_secs(1000));
    }
    let outer = Sandbox::new("outer")?;
    let mut itself = std::process::Command::new(std::env::current_exe()?);
    itself
        .args(["--exact", "a_sandbox_ends_with_the_process_that_made_it_even_by_sigkill", "--nocapture"])
        .env(ROLE, "1");
    let mut victim = outer.spawn(&mut itself, "victim.log")?;
    let (path, pid) = eventually("the victim's word", SOON, async || {
        let log = victim.log();
        let words = log.lines().find_map(|line| line.split_once("victim /")?.1.split_once(' '));
        Ok(words.filter(|_| log.ends_with('\n')).map(|(path, pid)| (format!("/{path}"), pid.to_owned())))
    })
    .await?;
    assert!(lives(&pid) && std::fs::exists(&path)?);
    victim.signal(Signal::SIGKILL)?;
    eventually("its sandbox is gone", SOON, async || Ok((!lives(&pid) && !std::fs::exists(&path)?).then_some(()))).await
}
