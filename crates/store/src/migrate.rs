//! The migrations, embedded; `migrations/README.md` has the rules for one.

use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// How long bringing the schema up to date may take, with the wait for other processes that do the same.
pub(crate) const MIGRATION_DEADLINE: Duration = Duration::from_secs(600);

type Embedded = (i64, &'static str, &'static str);

macro_rules! embedded {
    ($database:literal: $($number:literal $name:literal),* $(,)?) => {
        &[$((
            $number,
            $name,
            include_str!(concat!("../../../migrations/", $database, "/000", $number, "_", $name, ".sql")),
        )),*]
    };
}

const POSTGRES: &[Embedded] = embedded!("postgres": 1 "journal");
const SQLITE: &[Embedded] = embedded!("sqlite": 1 "journal");

/// The newest schema that this program knows.
pub const SCHEMA: i64 = newest(POSTGRES);

const fn newest(embedded: &[Embedded]) -> i64 {
    embedded[embedded.len() - 1].0
}

/// The state of a database's schema for this program, which knows those up to [`SCHEMA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// The database holds no journal.
    Missing,
    /// Migrations are missing; this is the newest one applied.
    Older(i64),
    Current,
    /// A newer program has migrated it.
    Newer(i64),
}

impl Schema {
    /// By the newest migration that the database has seen.
    pub(crate) fn of(newest: Option<i64>) -> Self {
        match newest {
            None => Self::Missing,
            Some(SCHEMA) => Self::Current,
            Some(older) if older < SCHEMA => Self::Older(older),
            Some(newer) => Self::Newer(newer),
        }
    }
}

/// For a session that keeps other migrators out.
pub(crate) fn postgres() -> Migrator {
    let mut migrator = migrator(POSTGRES);
    migrator.set_locking(false);
    migrator
}

pub(crate) fn sqlite() -> Migrator {
    migrator(SQLITE)
}

fn migrator(embedded: &[Embedded]) -> Migrator {
    let migrations = embedded.iter().map(|&(number, name, sql)| {
        let without_transaction = sql.starts_with("-- no-transaction");
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), without_transaction)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // An older version that already runs goes on with a newer schema while executors are replaced; whether a version
    // may start on it is decided before (`Schema::Newer`).
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(database: &str) -> Vec<String> {
        let directory = format!("{}/../../migrations/{database}", env!("CARGO_MANIFEST_DIR"));
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .expect("migrations are beside the crates")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn both_databases_have_the_same_migrations_and_all_are_embedded() {
        let embedded = |list: &[Embedded]| -> Vec<String> {
            list.iter().map(|(number, name, _)| format!("{number:04}_{name}.sql")).collect()
        };
        assert!(!files("postgres").is_empty());
        assert_eq!(files("postgres"), files("sqlite"));
        assert_eq!(files("postgres"), embedded(POSTGRES));
        assert_eq!(files("sqlite"), embedded(SQLITE));
    }
}
