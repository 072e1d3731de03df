//! Why a handler failed.

use serde_json::Value;
use slotline_protocol::chain;
use slotline_protocol::message::Failure;

/// Why a handler failed. Made from any error with `?`; its message then has the causes, too.
///
/// Does not implement [`std::error::Error`] itself: this is what makes that conversion possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError(Failure);

impl HandlerError {
    /// An error with a message and the code `handler_error`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Failure::new("handler_error", message))
    }

    /// With a code of the handler's own, for readers of the execution's error.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        code.clone_into(&mut self.0.code);
        self
    }

    /// With the place of the error, for the search for its cause: a backtrace, or that of the program behind the
    /// handler.
    #[must_use]
    pub fn stack_trace(mut self, stack_trace: impl Into<String>) -> Self {
        self.0.stack_trace = Some(stack_trace.into());
        self
    }

    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    pub(crate) fn into_failure(self) -> Failure {
        self.0
    }

    pub(crate) fn invalid_parameters(message: String) -> Self {
        Self::new(message).code("invalid_parameters")
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(chain(&error).to_string())
    }
}
