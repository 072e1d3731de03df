//! The schema: brought up to date by the first process that comes.

use slotline_store::Store;
use slotline_tests::Postgres;

async fn migrate_many_times_at_once(url: &str) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = url.to_owned();
        tasks.spawn(async move { Store::open(&url).await?.migrate().await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let store = Store::open(url).await?;
    store.migrate().await?;
    assert!(store.lead("test").await?.recover().await?.live.is_empty());
    Ok(())
}

#[tokio::test]
async fn several_may_migrate_postgres_at_once() -> anyhow::Result<()> {
    migrate_many_times_at_once(&Postgres::shared().await?.fresh_database("migrate").await?).await
}

#[tokio::test]
async fn several_may_migrate_a_file_at_once() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    migrate_many_times_at_once(&format!("sqlite:{}", directory.path().join("new.db").display())).await
}

#[tokio::test]
async fn urls_that_name_no_database_are_refused_without_repeating_them() -> anyhow::Result<()> {
    for url in
        ["", "mysql://u:secret@h/d", "postgres://u:secret@[::bad/d", "secret", "postgres://u:secret@127.0.0.1:1/d"]
    {
        let error = Store::open(url).await.map(|_| ()).expect_err(url);
        let told = format!("{:?}", anyhow::Error::new(error));
        assert!(!told.contains("secret"), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_does_not_show_its_password() -> anyhow::Result<()> {
    let server = Postgres::shared().await?;
    let url = server.fresh_database("shown").await?.replace("postgres@", "postgres:secret@");
    let told = format!("{:?}", Store::open(&url).await?);
    assert!(told.contains("127.0.0.1") && !told.contains("secret"), "{told}");
    Ok(())
}
