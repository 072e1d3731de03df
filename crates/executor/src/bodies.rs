//! Requests that were accepted lately, kept until they are dispatched, so that a short line never reads them back.
//!
//! What does not fit is read from the journal shortly before its turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use slotline_protocol::ExecutionId;
use slotline_store::Request;

/// The most memory that requests take here, with all that belongs to them: enough for what comes and goes, while a long
/// line, which is not served from here, costs the process no more than this.
const BYTES_MAX: usize = 16 << 20;
/// What an allocation takes beside the bytes that were asked for: its header, and what it is rounded up by.
const ALLOCATION_BYTES: usize = 16;
/// What an entry of the map takes. Ids ascend, so that the nodes of the map are half empty.
const ENTRY_BYTES: usize = 2 * size_of::<(ExecutionId, Arc<Request>)>();
/// What stands before the content of an `Arc`: two counts.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

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
    let Request {
        message_id,
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
    let texts = [message_id, correlation_id, trace_id, source, reply_to];
    let texts: usize = texts.into_iter().flatten().map(|text| text.capacity() + ALLOCATION_BYTES).sum();
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
            message_id: Some("m-1".to_owned()),
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
    fn what_does_not_fit_is_left_to_the_journal() {
        let mut bodies = Bodies::default();
        let small = cost(&request(100));
        assert!(small >= 100 + size_of::<Request>() + "m-1".len(), "all that belongs to it counts: {small}");
        let most = BYTES_MAX / small;
        for id in 0..most + 10 {
            bodies.keep(ExecutionId(id as i64), request(100));
        }
        assert_eq!(bodies.requests.len(), most);
        assert!(bodies.bytes <= BYTES_MAX);
        assert!(bodies.take(ExecutionId(most as i64)).is_none());
    }

    #[test]
    fn what_is_taken_makes_room() {
        let taken = |bodies: &mut Bodies, id| bodies.take(ExecutionId(id)).map(|taken| taken.parameters.get().len());
        let mut bodies = Bodies::default();
        let half = BYTES_MAX / 2;
        bodies.keep(ExecutionId(1), request(half));
        bodies.keep(ExecutionId(2), request(half));
        assert_eq!(taken(&mut bodies, 2), None, "two halves and what belongs to them are too much");
        assert_eq!(taken(&mut bodies, 1), Some(half));
        assert_eq!((bodies.requests.len(), bodies.bytes), (0, 0));
        bodies.keep(ExecutionId(2), request(half));
        assert_eq!(taken(&mut bodies, 2), Some(half));
    }
}
