//! Requests that were accepted lately, kept until they are dispatched, so that a short line never reads them back.
//!
//! What does not fit is read from the journal shortly before its turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use slotline_protocol::ExecutionId;
use slotline_store::Request;

/// The most bytes of parameters that are kept.
const BYTES_MAX: usize = 64 << 20;
/// What an entry costs beside its parameters.
const ENTRY_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Bodies {
    requests: BTreeMap<ExecutionId, Arc<Request>>,
    bytes: usize,
}

impl Bodies {
    pub(crate) fn keep(&mut self, id: ExecutionId, request: Arc<Request>) {
        let bytes = cost(&request);
        if self.bytes + bytes <= BYTES_MAX {
            self.bytes += bytes;
            self.requests.insert(id, request);
        }
    }

    pub(crate) fn take(&mut self, id: ExecutionId) -> Option<Arc<Request>> {
        let request = self.requests.remove(&id)?;
        self.bytes -= cost(&request);
        Some(request)
    }
}

fn cost(request: &Request) -> usize {
    request.parameters.get().len() + ENTRY_BYTES
}
