//! The journal: whole operations on PostgreSQL and SQLite.
