//! The end of a session: it comes once and has one cause, and every task that waits for it gets that cause.

use tokio::sync::watch;

use crate::Error;

/// Whether a session is over, and why.
pub(crate) struct Over(watch::Sender<Option<Error>>);

impl Over {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Ends the session. Only the first cause counts; returns whether this was it.
    pub(crate) fn end(&self, cause: Error) -> bool {
        self.0.send_if_modified(|over| match over {
            Some(_) => false,
            None => {
                *over = Some(cause);
                true
            }
        })
    }

    pub(crate) fn cause(&self) -> Option<Error> {
        self.0.borrow().clone()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Resolves when the session is over.
    pub(crate) async fn wait(&self) -> Error {
        let mut over = self.0.subscribe();
        let cause = over.wait_for(Option::is_some).await.expect("the sender is borrowed from self");
        cause.clone().expect("waited for it")
    }
}
