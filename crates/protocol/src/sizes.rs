//! How large messages may be, by what the broker takes in one (RabbitMQ's `max_message_size`).
//!
//! A broker that takes [`Sizes::MESSAGE_FULL`] limits nothing. With less, each size is a share of what it takes, so
//! that a request that is accepted can be dispatched, shown in a heartbeat beside all else that its worker holds, and
//! settled.

use crate::message::Account;

/// The most bytes one envelope of a publisher may have.
pub const ENVELOPE_BYTES_MAX: usize = 1 << 20;
/// The most bytes one envelope between executors and workers may have. It repeats what a publisher's held, with more
/// around it: every request that is accepted can be dispatched, and fits into a heartbeat beside ten thousand attempts.
pub const OWN_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + (1 << 20);
/// What an envelope has beside the result or the error that it carries.
const BESIDE_RESULT_BYTES: usize = 16 << 10;

/// The sizes on one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    message: usize,
}

impl Sizes {
    /// The least that a broker must take: with less, heartbeats and reports would have to be cut as well.
    pub const MESSAGE_MIN: usize = 256 << 10;
    /// What a broker must take to limit nothing: a body that is all but full, and the largest envelope after it.
    pub const MESSAGE_FULL: usize = 2 * OWN_BYTES_MAX;
    /// The sizes on a broker that takes this much or more.
    pub const FULL: Self = Self { message: Self::MESSAGE_FULL };

    /// The most bytes of a result where the broker limits nothing.
    pub const OUTCOME_FULL: usize = ENVELOPE_BYTES_MAX - BESIDE_RESULT_BYTES;

    /// The sizes on a broker that takes so many bytes in one message; `None`: too few.
    pub fn of(message_bytes_max: usize) -> Option<Self> {
        (message_bytes_max >= Self::MESSAGE_MIN).then_some(Self { message: message_bytes_max })
    }

    /// The most bytes of one message.
    pub fn message(self) -> usize {
        self.message
    }

    /// The most bytes of a request's envelope: half of a message, since a heartbeat may have to show it beside others.
    pub fn request(self) -> usize {
        ENVELOPE_BYTES_MAX.min(self.message / 2)
    }

    /// The most bytes that an outcome's result and error have together.
    pub fn outcome(self) -> usize {
        ENVELOPE_BYTES_MAX.min(self.message) - BESIDE_RESULT_BYTES
    }

    /// The most bytes of outcomes in an incarnation's last message, if they are several; attempts handed back may take
    /// as many again.
    pub fn last_word(self) -> usize {
        (ENVELOPE_BYTES_MAX / 2).min(self.message / 4)
    }

    /// The most attempts that a worker holds, so that its heartbeat fits.
    pub fn entries(self) -> usize {
        const HELD_BYTES: usize = 400;
        Account::ENTRIES_MAX.min(self.message / HELD_BYTES)
    }

    /// The most attempts of one part of an account, and the bytes of their parameters after which it takes no further one.
    pub fn account(self) -> (usize, usize) {
        const SHOWN_BYTES: usize = 8 << 10;
        (Account::ATTEMPTS_MAX.min(self.message / SHOWN_BYTES), Account::PARAMETER_BYTES_MAX.min(self.message / 16))
    }
}

/// Why an envelope of so many bytes is refused where `most` is the bound.
pub fn oversized(bytes: usize, most: usize) -> String {
    let expected = format!("the envelope has {bytes} bytes: expected at most {most}");
    if most >= ENVELOPE_BYTES_MAX {
        return expected;
    }
    let message = 2 * most;
    format!("{expected}, half of what the broker takes in one message (max_message_size = {message} in rabbitmq.conf)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_takes_four_mebibytes_limits_nothing() {
        for message in [Sizes::MESSAGE_FULL, 16 << 20] {
            let sizes = Sizes::of(message).expect("large enough");
            assert_eq!(sizes.request(), ENVELOPE_BYTES_MAX);
            assert_eq!(sizes.outcome(), Sizes::OUTCOME_FULL);
            assert_eq!(sizes.last_word(), ENVELOPE_BYTES_MAX / 2);
            assert_eq!(sizes.entries(), Account::ENTRIES_MAX);
            assert_eq!(sizes.account(), (Account::ATTEMPTS_MAX, Account::PARAMETER_BYTES_MAX));
        }
        assert_eq!(Sizes::of(Sizes::MESSAGE_MIN - 1), None);
    }

    #[test]
    fn a_heartbeat_with_an_account_fits_on_every_broker() {
        // As JSON writes them, at their longest.
        const HELD: usize = 48;
        const SHOWN: usize = 2 << 10;
        for message in [Sizes::MESSAGE_MIN, 512 << 10, 1 << 20, 2 << 20, 3 << 20] {
            let sizes = Sizes::of(message).expect("large enough");
            let (attempts, parameters) = sizes.account();
            let bytes = sizes.entries() * HELD + attempts * SHOWN + parameters + sizes.request();
            assert!(bytes < message, "{bytes} of {message}");
        }
    }

    #[test]
    fn what_is_refused_names_the_setting_only_where_that_is_the_bound() {
        assert_eq!(oversized(9, ENVELOPE_BYTES_MAX), "the envelope has 9 bytes: expected at most 1048576");
        assert!(oversized(600_000, 1 << 19).contains("max_message_size = 1048576"));
    }
}
