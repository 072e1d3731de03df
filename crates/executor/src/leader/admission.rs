//! Checked requests into the scheduler, each name once.
//!
//! A look-up sees what was committed before it. What was accepted since is remembered here until a later look-up has
//! seen it as well.

use std::sync::Arc;

use slotline_protocol::message::Reply;
use slotline_protocol::{ActionId, ExecutionId, Reason, RequestName, Timestamp};
use slotline_scheduler::Input;

use super::Leader;
use super::answer::Cancellation;
use super::outbox::address;
use super::request::{Asked, Checked, Member, Target, Turned, UNKNOWN_DIGEST};

impl<P> Leader<P> {
    pub(super) fn admit(&mut self, checked: Checked, now: Timestamp) {
        if Some(checked.generation) != self.session {
            // Of a session that is over: unacked, it comes again, in its place.
            return;
        }
        self.recent.retain(|_, (_, _, batch)| *batch > checked.seen_batch);
        self.requests = checked.tag.or(self.requests);
        self.is_urgent = true;
        for member in checked.members {
            self.pending.members += member.weight();
            match member {
                Member::Request { action, asked, known } => {
                    let known = known.map(|known| (known.execution_id, known.digest));
                    match known.or_else(|| self.recently(asked.request.name.as_ref())) {
                        Some((id, digest)) => self.repeat(asked, id, digest),
                        None => match self.quarantine.request(asked.key.as_deref(), &asked.request, now) {
                            Some(words) => self.put_aside(asked, &words),
                            None => self.request(action, asked, now),
                        },
                    }
                }
                Member::Cancel { target: Target { name, known }, by } => {
                    let known = known.map(|known| known.execution_id);
                    match known.or_else(|| self.recently(Some(&name)).map(|(id, _)| id)) {
                        Some(id) => {
                            let asked = Cancellation::before(&self.scheduler, id);
                            let reason = self.quarantine.reason(id, by.reason.clone());
                            self.apply(Input::CancelRequested { id, reason }, now);
                            self.pending.audit.extend(asked.after(&self.scheduler, by, now));
                        }
                        None => tracing::warn!(message.id = %name, "no request to cancel has this message_id"),
                    }
                }
                Member::Rejected(rejection) => self.pending.rejections.push(*rejection),
                Member::Refused(refusal) => self.pending.refusals.push(*refusal),
            }
        }
    }

    fn recently(&self, name: Option<&RequestName>) -> Option<(ExecutionId, [u8; 32])> {
        self.recent.get(name?).map(|(id, digest, _)| (*id, *digest))
    }

    /// A request that the database refuses is kept for the operator to mend, and its publisher is answered.
    fn put_aside(&mut self, asked: Asked, words: &str) {
        let detail = format!("payload: the journal's database refuses the request: {words}");
        self.pending.refused.push(Turned { asked, reason: Reason::JournalRefused, detail });
    }

    fn request(&mut self, action: ActionId, asked: Asked, now: Timestamp) {
        let token = self.next_token;
        self.next_token += 1;
        let key = asked.key.clone();
        let request = asked.request.clone();
        self.pending.requests.insert(token, asked);
        let id = ExecutionId(self.scheduler.counters().next_id);
        let bytes = request.parameters.get().len();
        self.apply(Input::Requested { token, action, key, bytes }, now);
        if let Some(name) = &request.name
            && self.scheduler.counters().next_id > id.0
        {
            self.recent.insert(name.clone(), (id, request.digest, self.batch + 1));
        }
    }

    fn repeat(&mut self, asked: Asked, id: ExecutionId, digest: [u8; 32]) {
        let digest = if digest == UNKNOWN_DIGEST { asked.request.digest } else { digest };
        if digest == asked.request.digest && asked.request.reply == Reply::Settled && asked.request.reply_to.is_some() {
            // A publisher that sends a request again has missed the end: it is sent now, or when it comes.
            if self.scheduler.status(id).is_some() {
                self.awaited.requests.insert(id, Arc::new(address(&asked.request)));
            } else {
                self.pending.ended.push((asked.request, id));
            }
            return;
        }
        if digest == asked.request.digest {
            let position = self.scheduler.explain(id).map_or(1, |waiting| waiting.position);
            self.pending.repeated.push((asked, id, position));
            return;
        }
        let detail = format!(
            "message_id: it was used for another request, which became execution {id}: each request needs its own"
        );
        self.pending.refused.push(Turned { asked, reason: Reason::IdempotencyConflict, detail });
    }
}
