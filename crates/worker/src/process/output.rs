//! What a command prints: lines for the record, up to a cap, and the tails that its result and its error are made from.

use std::sync::Arc;

use slotline_protocol::message::Stream;

use crate::duty::limit::RESULT_BYTES_MAX;
use crate::report::feed::AttemptFeed;

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 << 10;
/// How much of stderr an error carries.
const ERROR_TAIL_BYTES: usize = 4 << 10;

/// One stream of a command.
#[derive(Debug)]
pub(super) struct Output {
    stream: Stream,
    partial: Vec<u8>,
    /// The last line ended with `\r`: a program shows its progress there, or ends lines as other systems do.
    has_returned: bool,
    tail: Tail,
}

/// What both streams may forward together.
#[derive(Debug)]
pub(super) struct Allowance {
    left: usize,
    most: usize,
    is_cut: bool,
}

impl Allowance {
    pub(super) fn new(most: usize) -> Self {
        Self { left: most, most, is_cut: false }
    }

    /// Takes off what may not be forwarded any more; where that begins, a line says so.
    pub(super) fn cut(&mut self, lines: &mut Vec<String>) {
        if self.is_cut {
            lines.clear();
            return;
        }
        let mut kept = 0;
        for line in lines.iter() {
            let bytes = line.len() + 1;
            if bytes > self.left {
                self.is_cut = true;
                break;
            }
            self.left -= bytes;
            kept += 1;
        }
        lines.truncate(kept);
        if self.is_cut {
            lines.push(format!("[output cut after {} bytes]", self.most));
        }
    }
}

impl Output {
    pub(super) fn new(stream: Stream) -> Self {
        let most = match stream {
            Stream::Stdout => RESULT_BYTES_MAX + 2,
            Stream::Stderr | Stream::Notice => ERROR_TAIL_BYTES,
        };
        Self { stream, partial: Vec::new(), has_returned: false, tail: Tail { bytes: Vec::new(), most, is_cut: false } }
    }

    /// Takes what was read, and forwards the lines that it completes.
    pub(super) fn take(&mut self, bytes: &[u8], allowance: &mut Allowance, feed: &Arc<AttemptFeed>) {
        self.tail.push(bytes);
        if allowance.is_cut {
            return;
        }
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.partial.extend_from_slice(&rest[..end]);
            // Between `\r` and `\n`, and where a program returns to the beginning of a line twice, there is no line.
            let ends_nothing = self.partial.is_empty() && (rest[end] == b'\r' || self.has_returned);
            if !ends_nothing {
                lines.push(self.line());
            }
            self.has_returned = rest[end] == b'\r';
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        while self.partial.len() > LINE_BYTES_MAX {
            let further = self.partial.split_off(LINE_BYTES_MAX);
            lines.push(self.line());
            self.partial = further;
        }
        self.forward(lines, allowance, feed);
    }

    /// Takes what is printed while no attempt can be made out that prints it.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        self.tail.push(bytes);
    }

    /// Forwards a last line that no newline ended.
    pub(super) fn finish(&mut self, allowance: &mut Allowance, feed: &Arc<AttemptFeed>) {
        if !self.partial.is_empty() && !allowance.is_cut {
            let line = self.line();
            self.forward(vec![line], allowance, feed);
        }
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The tail, once nothing more is read.
    pub(super) fn into_tail(self) -> Tail {
        self.tail
    }

    fn line(&mut self) -> String {
        let bytes = std::mem::take(&mut self.partial);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn forward(&self, mut lines: Vec<String>, allowance: &mut Allowance, feed: &Arc<AttemptFeed>) {
        allowance.cut(&mut lines);
        if !lines.is_empty() {
            feed.log(self.stream, lines);
        }
    }
}

/// The last bytes of a stream.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    most: usize,
    is_cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Cut rarely, so that a byte is moved once at most.
        if self.bytes.len() > 2 * self.most {
            self.bytes.drain(..self.bytes.len() - self.most);
            self.is_cut = true;
        }
    }

    /// Whether the stream had more before these bytes.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn text(&self) -> String {
        let start = self.bytes.len().saturating_sub(self.most);
        String::from_utf8_lossy(&self.bytes[start..]).trim_end().to_owned()
    }
}
