//! Bytes of a handler process into lines, of which none may be longer than the protocol allows.

use memchr::memchr;
use slotline_protocol::handler::LINE_BYTES_MAX;

/// What has arrived and is not yet a whole line.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// So many of them are known to hold no newline.
    searched: usize,
}

/// A line has more than [`LINE_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl LineBuffer {
    /// Where the next bytes are read to.
    pub(super) fn space(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The next whole line, without its newline.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let Some(end) = memchr(b'\n', &self.bytes[self.searched..]).map(|at| at + self.searched) else {
            self.searched = self.bytes.len();
            return if self.bytes.len() > LINE_BYTES_MAX { Err(TooLong) } else { Ok(None) };
        };
        if end > LINE_BYTES_MAX {
            return Err(TooLong);
        }
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }

    /// Whether a line has begun and not ended.
    pub(super) fn is_within_line(&self) -> bool {
        !self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_in_whatever_pieces_they_arrive() {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for byte in b"one\n\ntwo\nthr" {
            buffer.space().push(*byte);
            lines.extend(buffer.next().expect("short"));
        }
        assert_eq!(lines, [b"one".to_vec(), b"".to_vec(), b"two".to_vec()]);
        assert!(buffer.is_within_line());
        buffer.space().extend_from_slice(b"ee\nfour\n");
        assert_eq!(buffer.next(), Ok(Some(b"three".to_vec())));
        assert_eq!(buffer.next(), Ok(Some(b"four".to_vec())));
        assert_eq!(buffer.next(), Ok(None));
        assert!(!buffer.is_within_line());
    }

    #[test]
    fn a_line_at_the_limit_is_taken_and_one_past_it_is_refused_before_its_end() {
        let mut buffer = LineBuffer::default();
        buffer.space().extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX));
        assert_eq!(buffer.next(), Ok(None));
        buffer.space().push(b'\n');
        assert_eq!(buffer.next().map(|line| line.map(|line| line.len())), Ok(Some(LINE_BYTES_MAX)));
        buffer.space().extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 1));
        assert_eq!(buffer.next(), Err(TooLong));
    }
}
