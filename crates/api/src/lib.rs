//! HTTP over the executor: actions, executions, workers, health.
