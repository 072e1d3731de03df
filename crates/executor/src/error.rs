//! Why an executor stopped by itself. Weather (a lost broker or database) is waited out and never appears here.

/// What a person has to change before it can run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    InvalidConfig(String),
    #[error("the HTTP server stopped")]
    Api(#[source] slotline_api::ServeError),
    /// The broker lets this executor have no session. As nothing runs by then, ending is safe, and a person notices it.
    #[error(transparent)]
    Broker(slotline_broker::Error),
    /// The journal holds something that this version can't read.
    #[error("the journal can't be used")]
    Journal(#[source] slotline_store::Error),
    #[error("its thread can't be started")]
    Thread(#[source] std::io::Error),
    /// A bug: the executor's thread panicked.
    #[error("its thread died")]
    Died,
}
