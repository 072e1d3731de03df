//! Writing a body of one or many envelopes.

use bytes::Bytes;
use serde::Serialize;

use super::Envelope;
use crate::sizes::Sizes;

/// Writes an envelope, which is a body by itself.
pub fn write<P: Serialize>(envelope: &Envelope<'_, P>) -> Bytes {
    let mut body = Body::with_room(1);
    body.write(envelope);
    body.finish()
}

/// A body being built: a single envelope stays bare, several are an array.
#[derive(Debug)]
pub struct Body {
    /// Always begins as an array.
    text: Vec<u8>,
    members: usize,
    /// Where the last member begins, with the comma before it.
    last: usize,
}

impl Body {
    /// The most envelopes of one body.
    pub const MEMBERS_MAX: usize = 500;
    /// A body takes no more envelopes once it has this many bytes; far below the limit, even with one more.
    pub(super) const FULL_BYTES: usize = 1 << 20;
    /// Most envelopes have no more bytes than this.
    const MEMBER_BYTES: usize = 400;

    /// An empty body, with memory for so many envelopes of common size.
    pub fn with_room(members: usize) -> Self {
        let mut text = Vec::with_capacity(members * Self::MEMBER_BYTES + 2);
        text.push(b'[');
        Self { text, members: 0, last: 0 }
    }

    pub fn write<P: Serialize>(&mut self, envelope: &Envelope<'_, P>) {
        self.begin();
        serde_json::to_writer(&mut self.text, envelope).expect("envelopes are plain data with string keys");
    }

    /// Adds an envelope that is written already.
    pub fn push(&mut self, written: &[u8]) {
        self.begin();
        self.text.extend_from_slice(written);
    }

    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// The bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Removes the last envelope if the body has more than `most` bytes with it, unless it is the only one.
    pub fn split(&mut self, most: usize) -> Option<Self> {
        if self.members < 2 || self.text.len() < most {
            return None;
        }
        let mut split = Self::with_room(1);
        split.push(&self.text[self.last + 1..]);
        self.text.truncate(self.last);
        self.members -= 1;
        Some(split)
    }

    /// Whether it takes one more envelope.
    pub fn has_room(&self) -> bool {
        self.members < Self::MEMBERS_MAX && self.text.len() < Self::FULL_BYTES
    }

    pub fn finish(mut self) -> Bytes {
        if self.members == 1 {
            return Bytes::from(self.text).slice(1..);
        }
        self.text.push(b']');
        self.text.into()
    }

    fn begin(&mut self) {
        self.last = self.text.len();
        if self.members > 0 {
            self.text.push(b',');
        }
        self.members += 1;
    }
}

impl Sizes {
    /// Whether `body` takes another envelope of so many bytes.
    pub fn fits(self, body: &Body, envelope_bytes: usize) -> bool {
        body.is_empty() || (body.has_room() && body.len() + envelope_bytes + 2 <= self.message())
    }
}
