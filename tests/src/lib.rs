//! The harness: private RabbitMQ and PostgreSQL nodes on free ports, and daemons to kill.
