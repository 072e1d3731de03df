//! The message and the backtrace of a handler's panic, which its failure carries.
//!
//! Only a hook sees the stack of a panic. This one is put before the one that was there, and keeps to panics of
//! handlers; all others pass through.

use std::any::Any;
use std::backtrace::Backtrace;
use std::future::Future;
use std::sync::{Arc, Mutex, Once, PoisonError};

use slotline_protocol::message::Failure;

tokio::task_local! {
    static CAUGHT: Caught;
}

static INSTALLED: Once = Once::new();

/// Where the hook leaves the panic of one handler.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caught(Arc<Mutex<Option<Seen>>>);

#[derive(Debug)]
struct Seen {
    location: String,
    stack_trace: String,
}

impl Caught {
    /// The failure for a panic.
    pub(crate) fn failure(&self, payload: &(dyn Any + Send)) -> Failure {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "the handler panicked with something that is no text".to_owned());
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Failure::new("panic", message),
            Some(Seen { location, stack_trace }) => {
                let message = format!("{message} (at {location})");
                Failure { stack_trace: Some(stack_trace), ..Failure::new("panic", message) }
            }
        }
    }
}

/// Runs a handler so that the hook recognizes its panics.
pub(crate) async fn scope<F: Future>(caught: Caught, handler: F) -> F::Output {
    CAUGHT.scope(caught, handler).await
}

/// Puts the hook in place; once for a process.
pub(crate) fn install() {
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_handlers = CAUGHT.try_with(|caught| {
                let location = info.location().map(ToString::to_string).unwrap_or_default();
                let stack_trace = Backtrace::force_capture().to_string();
                *caught.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { location, stack_trace });
            });
            if is_handlers.is_err() {
                before(info);
            }
        }));
    });
}
