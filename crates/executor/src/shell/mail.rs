//! Letters written out as publications. One message carries many orders of one type.
//!
//! Not here: when they leave (`term`). To one worker's queue `n` rises, whatever travels together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use slotline_api::control::ControlError;
use slotline_broker::{Properties, Publication, topology};
use slotline_protocol::envelope::{self, Body, Envelope};
use slotline_protocol::http::Execution;
use slotline_protocol::lines::ViewPart;
use slotline_protocol::message::{
    Accepted, Cancel, Failure, Hello, Lineage, Message, Probe, Recall, Recorded, Rejected, Requested, Resend, Scheduled,
};
use slotline_protocol::proof::{Channel, NONCE_HEADER, PROOF_HEADER, TOKEN_HEADER};
use slotline_protocol::record::Event;
use slotline_protocol::{Epoch, ExecutionId, Incarnation, Reason, Sizes, Timestamp, message};
use slotline_scheduler::{Dispatch, Order, Sent, Settled};
use slotline_store::Request;

use super::gate::Gate;
use super::headers::{DEAD_ID_HEADER, DETAIL_HEADER, REASON_HEADER, ROUTING_KEY_HEADER, USER_HEADER};
use super::inbox::ProbeMark;
use crate::config::Config;
use crate::leader::actions::Registered;
use crate::leader::ask::{Answered, CALL, NEWS, VIEW};
use crate::leader::letters::{Letters, Mail, Purpose};
use crate::leader::request::{Asked, Came, PutAside, Rejection, Turned};
use crate::record::MissingEvents;

/// The most characters of the detail header.
const DETAIL_CHARS_MAX: usize = 500;

/// The most bytes of its message's headers that the letter of a member keeps.
const MEMBER_HEADER_BYTES_MAX: usize = 1 << 10;

/// Writes letters for one term.
#[derive(Clone, Debug)]
pub struct Postman {
    pub prefix: String,
    pub source: String,
    pub epoch: Epoch,
    pub journal: Lineage,
    /// Workers are asked for all that they hold: the journal may be older than they are.
    pub wants_accounts: bool,
    pub config: Config,
    pub gate: Arc<Gate>,
    /// What the broker takes.
    pub sizes: Sizes,
}

impl Postman {
    /// Writes everything but the probes, whose session is known only when they leave.
    pub fn write(
        &self,
        letters: Letters,
        actions: impl Fn(&Dispatch) -> Option<Arc<Registered>>,
        now: Timestamp,
    ) -> Mail {
        let mut mail = Mail::default();
        if let Some(n) = letters.hello {
            let publication = self.topic(Hello::TYPE, self.hail(n, now));
            mail.publications.push((publication, Purpose::Other));
        }
        for (incarnation, n) in letters.greetings {
            let publication = self.order(incarnation, Hello::TYPE, self.hail(n, now));
            mail.publications.push((publication, Purpose::Order(incarnation)));
        }
        self.orders(&mut mail, letters.orders, &letters.requests, actions, now);
        // Behind its other orders, which it can't read without the token: numbers rise along the queue.
        for (incarnation, nonce, n) in letters.introductions {
            let mut publication = self.order(incarnation, Hello::TYPE, self.hail(n, now));
            let token = self.gate.token(incarnation).to_string();
            publication.properties.headers.extend([(TOKEN_HEADER.to_owned(), token), (NONCE_HEADER.to_owned(), nonce)]);
            mail.publications.push((publication, Purpose::Order(incarnation)));
        }
        self.resends(&mut mail, &letters.missing, now);
        self.namesakes(&mut mail, &letters.namesakes, &letters.refused_workers, now);
        for (asked, id, position) in letters.accepted {
            let request = &asked.request;
            let payload = Accepted { message_id: message_id(request).unwrap_or_default(), execution_id: id, position };
            self.answer_request(&mut mail, &asked, &payload, now);
        }
        for turned in letters.refused {
            self.refused(&mut mail, turned, now);
        }
        for rejection in letters.rejections {
            self.rejected(&mut mail, rejection, now);
        }
        mail.dead.extend(letters.refusals.iter().map(|refusal| self.dead_letter(refusal).into()));
        for (request, settled) in letters.settled {
            self.reply(&mut mail, &request, &settled_payload(&request, &settled), now);
        }
        mail
    }

    /// Greets workers whose name another one has, and refuses those that came later.
    fn namesakes(
        &self,
        mail: &mut Mail,
        greeted: &[(Incarnation, u64)],
        refused: &[(Incarnation, String, u64)],
        now: Timestamp,
    ) {
        for (incarnation, n) in greeted {
            let publication = self.order(*incarnation, Hello::TYPE, self.hail(*n, now));
            mail.later.push((publication, Purpose::Order(*incarnation)));
        }
        for (incarnation, reason, n) in refused {
            let hello = Hello { refused: Some(reason.clone()), ..self.hello(*n, false) };
            let body = envelope::write(&self.numbered(&hello, *n, now));
            mail.later.push((self.order(*incarnation, Hello::TYPE, body), Purpose::Order(*incarnation)));
        }
    }

    /// Tells ends that the journal has known for longer.
    pub(crate) fn ends(&self, mail: &mut Mail, ends: Vec<(Arc<Request>, Execution)>, now: Timestamp) {
        for (request, execution) in ends {
            let payload = message::Settled {
                message_id: message_id(&request),
                execution_id: execution.execution_id,
                action_ref: execution.action_ref,
                status: execution.status,
                attempt: execution.attempt,
                result: execution.result,
                error: execution.error,
                settled_at: execution.end_time.unwrap_or(now),
            };
            self.reply(mail, &request, &payload, now);
        }
    }

    /// Asks workers for events again. Whoever is not there any more can't answer, which the record finds out in time.
    fn resends(&self, mail: &mut Mail, missing: &[(u64, MissingEvents)], now: Timestamp) {
        let (mut by_worker, most) = (BTreeMap::<Incarnation, Bodies>::new(), self.sizes.message());
        for (n, missing) in missing {
            let payload = Resend {
                epoch: self.epoch,
                n: *n,
                execution_id: missing.key.0,
                action_ref: missing.action_ref.clone(),
                attempt: missing.key.1,
                first_sequence: missing.first,
                last_sequence: missing.last,
            };
            let bodies = by_worker.entry(missing.incarnation).or_default();
            bodies.write(most, Resend::TYPE, &self.numbered(&payload, *n, now));
        }
        for (incarnation, bodies) in by_worker {
            for (_, body) in bodies.0 {
                let mut publication = self.order(incarnation, Resend::TYPE, body.finish());
                publication.mandatory = false;
                mail.later.push((publication, Purpose::Other));
            }
        }
    }

    /// Events for another executor, whose clients watch them.
    pub(crate) fn news(&self, queue: &str, events: &[Arc<Event>]) -> Vec<Publication> {
        let mut publications = Vec::new();
        let mut rest: Vec<_> = events.chunks(Body::MEMBERS_MAX).rev().collect();
        while let Some(events) = rest.pop() {
            let body: Bytes = serde_json::to_vec(events).expect("events are plain data").into();
            if body.len() > self.sizes.message() && events.len() > 1 {
                let (first, second) = events.split_at(events.len() / 2);
                rest.extend([second, first]);
            } else {
                publications.push(self.to_executor(queue.to_owned(), NEWS, None, body));
            }
        }
        publications
    }

    /// A part of a view of the lines, for another executor, whose clients look. In pieces if the broker takes no more.
    pub(crate) fn view(&self, queue: &str, part: &ViewPart) -> Vec<Publication> {
        let mut publications = Vec::new();
        let mut rest = vec![part.clone()];
        while let Some(mut part) = rest.pop() {
            let body: Bytes = serde_json::to_vec(&part).expect("views are plain data").into();
            if body.len() > self.sizes.message() && part.rows.len() > 1 {
                let rows = part.rows.split_off(part.rows.len() / 2);
                let second = ViewPart { rows, is_fresh: false, gone: Vec::new(), ..part };
                rest.extend([second, ViewPart { is_last: false, ..part }]);
            } else {
                publications.push(self.to_executor(queue.to_owned(), VIEW, None, body));
            }
        }
        publications
    }

    /// One probe for each of the two queues, straight into them.
    pub(crate) fn probes(&self, mark: ProbeMark, published_at: Timestamp) -> [Publication; 2] {
        let payload = Probe { generation: mark.generation, nonce: mark.nonce, published_at };
        let body = envelope::write(&Envelope::new(&payload, &self.source, published_at));
        [topology::completions_queue, topology::heartbeats_queue]
            .map(|name| name(&self.prefix, self.epoch, mark.generation))
            .map(|queue| self.publication("", queue, Probe::TYPE, body.clone()))
    }

    /// The answer to another executor's question.
    pub(crate) fn answer(&self, asker: &Properties, answer: &Answered) -> Option<Publication> {
        let reply_to = asker.reply_to.clone()?;
        let write = |answer: &Answered| serde_json::to_vec(answer).expect("answers are plain data with string keys");
        let (mut body, most) = (write(answer), self.sizes.message());
        if body.len() > most {
            let why = format!(
                "the leader's answer has {} bytes, and the broker takes {most} in one message (max_message_size): ask \
                 the leader itself, or for less",
                body.len()
            );
            body = write(&Err(ControlError::unavailable(why)));
        }
        Some(self.to_executor(reply_to, CALL, asker.correlation_id.clone(), body.into()))
    }

    /// Straight into the queue of another executor, with the proof that one of this journal wrote it.
    fn to_executor(
        &self,
        queue: String,
        message_type: &str,
        correlation_id: Option<String>,
        body: Bytes,
    ) -> Publication {
        let proof = self.gate.sign(Channel::Answer, &body);
        let mut publication = self.publication("", queue, message_type, body);
        publication.properties.correlation_id = correlation_id;
        publication.properties.headers.insert(PROOF_HEADER.to_owned(), proof);
        publication
    }

    fn orders(
        &self,
        mail: &mut Mail,
        orders: Vec<Sent>,
        requests: &BTreeMap<ExecutionId, Arc<Request>>,
        actions: impl Fn(&Dispatch) -> Option<Arc<Registered>>,
        now: Timestamp,
    ) {
        let (mut by_worker, most) = (BTreeMap::<Incarnation, Bodies>::new(), self.sizes.message());
        for Sent { incarnation, n, order } in orders {
            let bodies = by_worker.entry(incarnation).or_default();
            match order {
                Order::Lost => bodies.write(most, Hello::TYPE, &self.numbered(&self.hello(n, true), n, now)),
                Order::Recorded { attempts } => {
                    let payload = Recorded { epoch: self.epoch, n, attempts };
                    bodies.write(most, Recorded::TYPE, &self.numbered(&payload, n, now));
                }
                Order::Cancel { key: (execution_id, attempt), fence, reason } => {
                    let payload = Cancel {
                        epoch: self.epoch,
                        n,
                        execution_id,
                        attempt,
                        fence,
                        if_not_started: false,
                        grace_seconds: None,
                        reason,
                    };
                    bodies.write(most, Cancel::TYPE, &self.numbered(&payload, n, now));
                }
                Order::Recall { key: (execution_id, attempt), fence } => {
                    let reason = "the slots of its line have changed, or its time is over".to_owned();
                    let payload = Recall { epoch: self.epoch, n, execution_id, attempt, fence, reason };
                    bodies.write(most, Recall::TYPE, &self.numbered(&payload, n, now));
                }
                Order::Dispatch(dispatch) => {
                    let Some(request) = requests.get(&dispatch.id) else { continue };
                    let payload = self.scheduled(n, &dispatch, request, actions(&dispatch).as_deref());
                    bodies.write(
                        most,
                        Scheduled::TYPE,
                        &Envelope {
                            correlation_id: request.correlation_id.clone(),
                            trace_id: request.trace_id.clone(),
                            ..self.numbered(&payload, n, now)
                        },
                    );
                }
            }
        }
        for (incarnation, bodies) in by_worker {
            for (message_type, body) in bodies.0 {
                let publication = self.order(incarnation, message_type, body.finish());
                let when = if message_type == Recorded::TYPE { &mut mail.later } else { &mut mail.publications };
                when.push((publication, Purpose::Order(incarnation)));
            }
        }
    }

    fn scheduled(&self, n: u64, dispatch: &Dispatch, request: &Request, action: Option<&Registered>) -> Scheduled {
        let policy = action.map(|registered| &registered.action.policy);
        Scheduled {
            epoch: self.epoch,
            n,
            execution_id: dispatch.id,
            attempt: dispatch.attempt,
            counts_as: message::grant(dispatch.counts_as, dispatch.attempt),
            fence: dispatch.fence,
            action_id: dispatch.action,
            action_ref: dispatch.action_ref.clone(),
            parameters: request.parameters.clone(),
            timeout_seconds: request.timeout.or(policy.and_then(|policy| policy.timeout)),
            start_timeout_seconds: policy.and_then(|policy| policy.start_timeout),
            stall_timeout_seconds: policy.and_then(|policy| policy.stall_timeout),
            progress: request.detail,
            starts_after: dispatch.starts_after,
            scheduled_at: dispatch.scheduled_at,
            concurrency_key: dispatch.key.clone(),
            message_id: request.name.as_ref().map(|name| name.as_text().to_owned()),
            continue_when_isolated: policy
                .is_some_and(|policy| policy.on_isolation == slotline_protocol::policy::OnIsolation::Continue),
            correlation_id: request.correlation_id.clone(),
            trace_id: request.trace_id.clone(),
        }
    }

    fn hello(&self, n: u64, lost: bool) -> Hello {
        Hello {
            epoch: self.epoch,
            n,
            lease_seconds: Some(self.config.lease),
            fence_seconds: Some(self.config.fence),
            heartbeat_seconds: Some(self.config.heartbeat),
            lost,
            journal: Some(self.journal),
            account: self.wants_accounts,
            refused: None,
        }
    }

    /// Turns a request away: its publisher is told, or, if it named no address, the request is put aside. What a person
    /// has to look at is put aside in any case.
    fn refused(&self, mail: &mut Mail, turned: Turned, now: Timestamp) {
        let Turned { asked, reason, detail } = turned;
        let request = &asked.request;
        if request.reply_to.is_some() {
            let error = Failure::new(reason.as_str(), detail.clone());
            self.answer_request(mail, &asked, &Rejected { message_id: message_id(request), error }, now);
            if reason != Reason::JournalRefused {
                return;
            }
        }
        let payload = Requested {
            action_ref: asked.action_ref.clone(),
            parameters: request.parameters.clone(),
            concurrency_key: asked.key.as_deref().map(str::to_owned),
            timeout_seconds: request.timeout,
            progress: request.detail,
            reply: request.reply,
        };
        let mut envelope = Envelope::new(&payload, &self.source, now);
        envelope.source = request.source.as_deref().map(Into::into);
        envelope.message_id = message_id(request);
        envelope.correlation_id.clone_from(&request.correlation_id);
        envelope.trace_id.clone_from(&request.trace_id);
        mail.dead.push(
            self.dead_letter(&PutAside {
                reason,
                detail,
                message_id: message_id(request),
                body: envelope::write(&envelope),
                came: Arc::clone(&asked.came),
            })
            .into(),
        );
    }

    /// Answers whoever published what was refused, if it named an address.
    fn rejected(&self, mail: &mut Mail, rejection: Rejection, now: Timestamp) {
        let Rejection { reason, detail, message_id, came } = rejection;
        let Properties { reply_to: Some(reply_to), correlation_id, .. } = &came.properties else { return };
        let payload = Rejected { message_id: message_id.clone(), error: Failure::new(reason.as_str(), detail) };
        let reply_to = Some(reply_to.clone());
        self.reply_to(mail, reply_to, correlation_id.as_ref(), message_id.as_ref(), &payload, now);
    }

    /// The copy of a refused message for the dead letters.
    fn dead_letter(&self, refusal: &PutAside) -> Publication {
        let PutAside { reason, detail, message_id, body, came } = refusal;
        let detail: String = detail.chars().take(DETAIL_CHARS_MAX).collect();
        let mut headers = kept_headers(came);
        headers.remove(USER_HEADER);
        headers.extend(came.properties.user_id.clone().map(|user| (USER_HEADER.to_owned(), user)));
        headers.extend([
            (REASON_HEADER.to_owned(), reason.as_str().to_owned()),
            (DETAIL_HEADER.to_owned(), detail),
            (ROUTING_KEY_HEADER.to_owned(), came.routing_key.clone()),
            (DEAD_ID_HEADER.to_owned(), uuid::Uuid::now_v7().to_string()),
        ]);
        let Properties { message_type, app_id, correlation_id, reply_to, timestamp, .. } = &came.properties;
        let properties = Properties {
            content_type: came.properties.content_type.clone(),
            content_encoding: came.properties.content_encoding.clone(),
            message_id: message_id.clone(),
            message_type: message_type.clone(),
            app_id: app_id.clone(),
            correlation_id: correlation_id.clone(),
            reply_to: reply_to.clone(),
            timestamp: *timestamp,
            priority: None,
            user_id: None,
            headers,
        };
        Publication {
            exchange: String::new(),
            routing_key: topology::dead_queue(&self.prefix),
            body: body.clone(),
            properties,
            mandatory: true,
            persistent: true,
        }
    }

    /// Answers a request at once, by the correlation id its message bore.
    fn answer_request<M: Message>(&self, mail: &mut Mail, asked: &Asked, payload: &M, now: Timestamp) {
        let request = &asked.request;
        let ticket = asked.came.properties.correlation_id.as_ref().or(request.correlation_id.as_ref());
        self.reply_to(mail, request.reply_to.clone(), ticket, message_id(request).as_ref(), payload, now);
    }

    fn reply<M: Message>(&self, mail: &mut Mail, request: &Request, payload: &M, now: Timestamp) {
        let reply_to = request.reply_to.clone();
        self.reply_to(mail, reply_to, request.correlation_id.as_ref(), message_id(request).as_ref(), payload, now);
    }

    fn reply_to<M: Message>(
        &self,
        mail: &mut Mail,
        reply_to: Option<String>,
        correlation_id: Option<&String>,
        message_id: Option<&String>,
        payload: &M,
        now: Timestamp,
    ) {
        let Some(reply_to) = reply_to else { return };
        let mut envelope = Envelope::new(payload, &self.source, now);
        // A publisher that set no correlation id knows its request by the message id.
        envelope.correlation_id = correlation_id.or(message_id).cloned();
        let mut publication = self.publication("", reply_to, M::TYPE, envelope::write(&envelope));
        publication.properties.correlation_id = envelope.correlation_id;
        mail.publications.push((publication, Purpose::Other));
    }

    fn hail(&self, n: u64, now: Timestamp) -> Bytes {
        envelope::write(&self.numbered(&self.hello(n, false), n, now))
    }

    fn numbered<'t, M: Message>(&'t self, payload: &'t M, n: u64, now: Timestamp) -> Envelope<'t, &'t M> {
        Envelope { message_id: Some(format!("{}-{n}", self.epoch)), ..Envelope::new(payload, &self.source, now) }
    }

    /// To one incarnation's own queue, with the proof that an executor of this journal wrote it.
    fn order(&self, incarnation: Incarnation, message_type: &str, body: Bytes) -> Publication {
        let exchange = topology::work_exchange(&self.prefix);
        let proof = self.gate.order(incarnation, &body);
        let routing_key = topology::to_worker(message_type, incarnation);
        let mut publication = self.publication(&exchange, routing_key, message_type, body);
        publication.properties.headers.insert(PROOF_HEADER.to_owned(), proof);
        publication.mandatory = true;
        publication
    }

    fn topic(&self, message_type: &str, body: Bytes) -> Publication {
        self.publication(&topology::work_exchange(&self.prefix), message_type.to_owned(), message_type, body)
    }

    fn publication(&self, exchange: &str, routing_key: String, message_type: &str, body: Bytes) -> Publication {
        Publication {
            exchange: exchange.to_owned(),
            routing_key,
            body,
            properties: Properties {
                message_type: Some(message_type.to_owned()),
                app_id: Some(self.source.clone()),
                ..Properties::default()
            },
            mandatory: false,
            persistent: false,
        }
    }
}

/// The headers that a letter keeps. A member of an array keeps few: they would be copied for each that is put aside.
fn kept_headers(came: &Came) -> BTreeMap<String, String> {
    let headers = &came.properties.headers;
    if !came.is_array {
        return headers.clone();
    }
    let mut room = MEMBER_HEADER_BYTES_MAX;
    let fits = |(name, value): &(&String, &String)| {
        let bytes = name.len() + value.len();
        room = room.saturating_sub(bytes);
        room > 0
    };
    let trace = headers.get_key_value("traceparent").filter(|(_, value)| value.len() < MEMBER_HEADER_BYTES_MAX);
    let kept = headers.iter().take_while(fits).chain(trace);
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What goes to one worker, in order: each body of one type.
#[derive(Default)]
struct Bodies(Vec<(&'static str, Body)>);

impl Bodies {
    /// Adds an envelope of this type. No body of several has more than `most` bytes.
    fn write<P: Serialize>(&mut self, most: usize, message_type: &'static str, envelope: &Envelope<'_, P>) {
        if !self.0.last().is_some_and(|(of, body)| *of == message_type && body.has_room()) {
            self.0.push((message_type, Body::with_room(1)));
        }
        let body = &mut self.0.last_mut().expect("one was just made").1;
        body.write(envelope);
        if let Some(split) = body.split(most) {
            self.0.push((message_type, split));
        }
    }
}

/// As its publisher knows the request.
fn message_id(request: &Request) -> Option<String> {
    request.name.as_ref().map(|name| name.message_id().to_owned())
}

fn settled_payload(request: &Request, settled: &Settled) -> message::Settled {
    message::Settled {
        message_id: message_id(request),
        execution_id: settled.id,
        action_ref: settled.action_ref.clone(),
        status: settled.status,
        attempt: settled.counts_as,
        result: settled.result.clone(),
        error: settled.error.clone(),
        settled_at: settled.ended_at,
    }
}
