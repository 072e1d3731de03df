//! Carries messages at least once: RabbitMQ, and its in-process twin.
