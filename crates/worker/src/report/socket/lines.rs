//! Bytes into lines, of which none takes more room than it may.

use std::sync::Arc;

use crate::report::feed::AttemptFeed;
use crate::report::progress::LINE_BYTES_MAX;

/// The part of a line that has arrived while the line is not complete.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// The line is too long: the rest of it is dropped.
    is_skipped: bool,
}

impl Lines {
    pub(super) fn take(&mut self, bytes: &[u8], feed: &Arc<AttemptFeed>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.add(&rest[..end], feed);
            self.finish(feed);
            rest = &rest[end + 1..];
        }
        self.add(rest, feed);
    }

    /// The line is complete.
    pub(super) fn finish(&mut self, feed: &Arc<AttemptFeed>) {
        feed.line(&self.partial);
        self.partial.clear();
        self.is_skipped = false;
    }

    fn add(&mut self, bytes: &[u8], feed: &Arc<AttemptFeed>) {
        if self.is_skipped {
            return;
        }
        if self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            feed.notice(format!("a report has more than {LINE_BYTES_MAX} bytes: left out"));
            self.partial.clear();
            self.is_skipped = true;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod strangers;
