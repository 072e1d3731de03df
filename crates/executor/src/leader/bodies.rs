//! The requests that were accepted last, kept until they are dispatched, so that a short line never reads them back.
//!
//! When there are too many, the oldest leave, since requests that wait for long must not take the room of those whose
//! turn comes at once. A request that has left is read from the journal shortly before its turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use slotline_protocol::{ExecutionId, RequestName};
use slotline_store::Request;

/// The most memory that requests take here, with all that belongs to them: enough for requests that start at once,
/// while a long line costs the process no more than this.
const BYTES_MAX: usize = 16 << 20;
/// What an allocation takes beside the requested bytes: its header, and the rounding.
const ALLOCATION_BYTES: usize = 16;
/// What an entry of the map takes. Ids ascend, so that the nodes of the map are half empty.
const ENTRY_BYTES: usize = 2 * size_of::<(ExecutionId, Arc<Request>)>();
/// What stands before the content of an `Arc`: two counts.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

#[derive(Clone, Debug, Default)]
pub(crate) struct Bodies {
    requests: BTreeMap<ExecutionId, Arc<Request>>,
    bytes: usize,
}

impl Bodies {
    pub(crate) fn keep(&mut self, id: ExecutionId, request: Arc<Request>) {
        self.bytes += cost(&request);
        self.requests.insert(id, request);
        while self.bytes > BYTES_MAX
            && let Some((_, oldest)) = self.requests.pop_first()
        {
            self.bytes -= cost(&oldest);
        }
    }

    pub(crate) fn take(&mut self, id: ExecutionId) -> Option<Arc<Request>> {
        let request = self.requests.remove(&id)?;
        self.bytes -= cost(&request);
        Some(request)
    }
}

fn cost(request: &Request) -> usize {
    let Request {
        name,
        digest: _,
        parameters,
        timeout: _,
        detail: _,
        correlation_id,
        trace_id,
        source,
        reply_to,
        reply: _,
    } = request;
    let texts = [correlation_id, trace_id, source, reply_to].into_iter().flatten().map(String::capacity);
    let texts = texts.chain(name.as_ref().map(RequestName::capacity)).map(|bytes| bytes + ALLOCATION_BYTES);
    let texts: usize = texts.sum();
    let parameters = COUNTS_BYTES + parameters.get().len() + ALLOCATION_BYTES;
    ENTRY_BYTES + COUNTS_BYTES + size_of::<Request>() + ALLOCATION_BYTES + parameters + texts
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use slotline_protocol::Detail;
    use slotline_protocol::message::Reply;

    use super::*;

    fn request(parameters_bytes: usize) -> Arc<Request> {
        let parameters = format!("\"{}\"", "p".repeat(parameters_bytes - 2));
        Arc::new(Request {
            name: Some("m-1".into()),
            digest: [0; 32],
            parameters: RawValue::from_string(parameters).expect("valid JSON").into(),
            timeout: None,
            detail: Detail::Default,
            correlation_id: None,
            trace_id: None,
            source: None,
            reply_to: None,
            reply: Reply::Accepted,
        })
    }

    #[test]
    fn the_oldest_leave_to_the_journal() {
        let mut bodies = Bodies::default();
        let small = cost(&request(100));
        assert!(small >= 100 + size_of::<Request>() + "m-1".len(), "all that belongs to it counts: {small}");
        let most = BYTES_MAX / small;
        for id in 0..most + 10 {
            bodies.keep(ExecutionId(id as i64), request(100));
        }
        assert_eq!((bodies.requests.len(), bodies.bytes), (most, most * small));
        assert!(bodies.take(ExecutionId(9)).is_none());
        assert!(bodies.take(ExecutionId(10)).is_some());
    }

    #[test]
    fn what_is_taken_makes_room() {
        let taken = |bodies: &mut Bodies, id| bodies.take(ExecutionId(id)).map(|taken| taken.parameters.get().len());
        let mut bodies = Bodies::default();
        let half = BYTES_MAX / 2;
        bodies.keep(ExecutionId(1), request(half));
        bodies.keep(ExecutionId(2), request(half));
        assert_eq!(taken(&mut bodies, 1), None, "two halves and what belongs to them are too much");
        assert_eq!(taken(&mut bodies, 2), Some(half));
        assert_eq!((bodies.requests.len(), bodies.bytes), (0, 0));
        bodies.keep(ExecutionId(3), request(half));
        assert_eq!(taken(&mut bodies, 3), Some(half));
    }

    #[test]
    fn what_is_larger_than_the_room_is_not_kept() {
        let mut bodies = Bodies::default();
        bodies.keep(ExecutionId(1), request(BYTES_MAX));
        assert_eq!((bodies.requests.len(), bodies.bytes), (0, 0));
    }
}
