//! An answer on its way: sent in pieces, and holding its permits until the last piece has left.
//!
//! hyper takes a whole body at once, and a client that reads it slowly would hold its memory without a permit. In
//! pieces, hyper takes no more than the socket does, so that the permits of the request and of its answer's bytes are
//! given back when they are free.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// The bytes that a connection gets at once.
const PIECE_BYTES: usize = 64 << 10;

struct Sending<G> {
    body: Body,
    /// Bytes of the body that the connection did not take yet.
    rest: Bytes,
    _held: G,
}

/// Makes `response` hold `held` until it is sent, or given up.
pub(crate) fn holding<G: Send + Unpin + 'static>(response: Response, held: G) -> Response {
    response.map(|body| Body::new(Sending { body, rest: Bytes::new(), _held: held }))
}

impl<G: Send + Unpin + 'static> HttpBody for Sending<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut all = SizeHint::new();
        all.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn an_answer_keeps_its_permit_until_its_last_piece_was_taken() {
        let permit = Arc::new(());
        let response = holding(Response::new(Body::from(vec![b'x'; 3 * PIECE_BYTES + 1])), Arc::clone(&permit));
        assert_eq!(response.body().size_hint().exact(), Some(3 * PIECE_BYTES as u64 + 1));
        let mut pieces = response.into_body().into_data_stream();
        for length in [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 1] {
            assert_eq!(pieces.next().await.expect("a piece").expect("sound").len(), length);
            assert_eq!(Arc::strong_count(&permit), 2);
        }
        assert!(pieces.next().await.is_none());
        drop(pieces);
        assert_eq!(Arc::strong_count(&permit), 1);
    }
}
