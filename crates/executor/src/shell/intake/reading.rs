//! One delivery of the requests queue, read member by member.
//!
//! Whatever it holds, it costs a small multiple of its own bytes: members are read when their turn comes, refused
//! members share the delivery's body and properties, and the letters that put them aside are few. Up to
//! [`REFUSED_SINGLY_MAX`] refused members get a letter each; more of them share one, which is the body itself if
//! nothing of it was taken. What is refused while its client waits over HTTP is answered alone. Not here: what a member
//! requests (`intake`).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use slotline_broker::{Delivery, PRIORITY_NORMAL, Tag, crash};
use slotline_protocol::envelope::{self, Defaults, Envelope, Members};
use slotline_protocol::{Reason, Sizes, Timestamp, Unreadable};

use crate::leader::request::{Came, Member, PutAside, Rejection};
use crate::shell::headers::is_awaited;

/// Refused members of one body that get a letter each, so that each can be mended and replayed alone. With more of them
/// something is wrong with the body.
pub(crate) const REFUSED_SINGLY_MAX: usize = 16;

/// A delivery on its way into the scheduler.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) tag: Tag,
    came: Arc<Came>,
    body: Bytes,
    members: Option<Members>,
    next: usize,
    /// The first refused members with their reasons, and of the others the places alone.
    refused: Vec<(usize, Unreadable)>,
    refused_more: Vec<u32>,
    /// The letters that are left to give once every member was read.
    last: VecDeque<Member>,
}

impl Reading {
    pub(crate) fn begin(delivery: Delivery, sizes: Sizes, now: Timestamp) -> Self {
        let is_awaited = is_awaited(&delivery.properties, now);
        if let Some(unreadable) = out_of_turn(&delivery) {
            let mut reading = Self::unopened(delivery, false, is_awaited);
            reading.put_aside(unreadable);
            return reading;
        }
        let divided = divide(sizes, &delivery.body, delivery.properties.defaults());
        let is_array = divided.as_ref().is_ok_and(Members::is_array);
        let mut reading = Self::unopened(delivery, is_array, is_awaited);
        match divided {
            Ok(members) => reading.members = Some(members),
            Err(unreadable) => reading.put_aside(unreadable),
        }
        reading
    }

    /// Puts a delivery aside as it came, without a look at its content.
    pub(crate) fn refuse(delivery: Delivery, reason: Reason, detail: String) -> Self {
        let message_id = delivery.properties.message_id.clone();
        let mut reading = Self::unopened(delivery, false, false);
        reading.put_aside(Unreadable { reason, detail, message_id });
        reading
    }

    fn unopened(delivery: Delivery, is_array: bool, is_awaited: bool) -> Self {
        let Delivery { tag, body, properties, routing_key, .. } = delivery;
        let came = Arc::new(Came { properties, routing_key, is_array, is_awaited });
        let (refused, refused_more, last) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { tag, came, body, members: None, next: 0, refused, refused_more, last }
    }

    fn put_aside(&mut self, unreadable: Unreadable) {
        self.last.push_back(self.rejected(&unreadable));
        if !self.came.is_awaited {
            self.last.push_back(self.letter(unreadable, self.body.clone()));
        }
    }

    /// Whether there is nothing more to come of it.
    pub(crate) fn is_over(&self) -> bool {
        self.last.is_empty() && self.members.as_ref().is_none_or(|members| self.next == members.len())
    }

    /// The next member, opened by `open`.
    pub(crate) fn next(
        &mut self,
        open: impl FnOnce(&Envelope<'_>, &Arc<Came>) -> Result<Member, Unreadable>,
    ) -> Option<Member> {
        let Some(members) = self.members.as_ref().filter(|members| self.next < members.len()) else {
            return self.last.pop_front();
        };
        let index = self.next;
        self.next += 1;
        let opened = members.get(index).and_then(|envelope| open(&envelope, &self.came));
        let is_last = self.next == members.len();
        let member = opened.unwrap_or_else(|unreadable| {
            let rejected = self.rejected(&unreadable);
            if self.refused.len() < REFUSED_SINGLY_MAX {
                self.refused.push((index, unreadable));
            } else {
                self.refused_more.push(u32::try_from(index).expect("a body has far fewer members"));
            }
            rejected
        });
        if is_last {
            self.last = self.letters();
        }
        Some(member)
    }

    fn rejected(&self, unreadable: &Unreadable) -> Member {
        let Unreadable { reason, detail, message_id } = unreadable.clone();
        Member::Rejected(Box::new(Rejection { reason, detail, message_id, came: Arc::clone(&self.came) }))
    }

    fn letter(&self, unreadable: Unreadable, body: Bytes) -> Member {
        let Unreadable { reason, detail, message_id } = unreadable;
        Member::Refused(Box::new(PutAside { reason, detail, message_id, body, came: Arc::clone(&self.came) }))
    }

    /// The letters that put the refused members aside.
    fn letters(&mut self) -> VecDeque<Member> {
        let refused = std::mem::take(&mut self.refused);
        let Some(members) = self.members.as_ref().filter(|_| !self.came.is_awaited) else { return VecDeque::new() };
        if !members.is_array() {
            return refused.into_iter().map(|(_, unreadable)| self.letter(unreadable, self.body.clone())).collect();
        }
        if self.refused_more.is_empty() {
            let letter = |(index, unreadable)| self.letter(unreadable, members.raw(index));
            return refused.into_iter().map(letter).collect();
        }
        let count = refused.len() + self.refused_more.len();
        let indices = refused.iter().map(|(index, _)| *index);
        let indices = indices.chain(self.refused_more.iter().map(|index| *index as usize));
        let (first, unreadable) = &refused[0];
        let named = self.came.properties.message_id.as_ref();
        let (message_id, body) = if count == members.len() {
            (named.cloned(), self.body.clone())
        } else {
            // When they are replayed, its members must not have the ids of those that were taken.
            (named.map(|id| envelope::member_id(id, *first)), join(indices.map(|index| members.raw(index))))
        };
        let all = members.len();
        let detail =
            format!("{count} of {all} members can't be taken; the first, at index {first}: {}", unreadable.detail);
        VecDeque::from([self.letter(Unreadable { reason: unreadable.reason, detail, message_id }, body)])
    }
}

/// Divides a body into its members.
pub(crate) fn divide(sizes: Sizes, body: &Bytes, defaults: Defaults) -> Result<Members, Unreadable> {
    crash::on_poison("read", body);
    envelope::read_requests(sizes, body, defaults)
}

/// Refuses a message that a broker may have delivered out of turn. Judged by its content and not by the broker's
/// version, so that an upgrade of the broker reorders nothing.
fn out_of_turn(delivery: &Delivery) -> Option<Unreadable> {
    let priority = delivery.properties.unequal_priority()?;
    let detail = format!(
        "the AMQP property priority is {priority}: requests run in the order in which the broker took them, so publish \
         without it (or with {PRIORITY_NORMAL}, which stands for none)"
    );
    let message_id = delivery.properties.message_id.clone();
    Some(Unreadable { reason: Reason::PriorityNotSupported, detail, message_id })
}

/// An array of members, each of which is JSON already.
fn join(members: impl Iterator<Item = Bytes>) -> Bytes {
    let mut array = vec![b'['];
    for member in members {
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend_from_slice(&member);
    }
    array.push(b']');
    array.into()
}
