//! The first reader of a message that comes again: a process that may die of it.
//!
//! After a crash the broker gives back all that was unacked, and nothing shows which of it the process died of, if of
//! any. So this very program is started once more, as an examiner: it reads the messages one after the other, as the
//! leader would, schemas included, and reports each that it got past. The message in whose midst an examiner ends is
//! read by another one alone; if that ends too, the message kills its readers, and is put aside without this process
//! having read it. An innocent message is never put aside, whatever it came back for: a lost session, an operator's
//! SIGKILL, or another message beside it.
//!
//! It costs one process after a crash or a lost session, and nothing otherwise. Where the program can't be started so,
//! for instance within another one's tests, messages are only noted (`probation`).

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use slotline_broker::{Delivery, Properties, Tag, crash};
use slotline_protocol::Sizes;
use slotline_protocol::envelope::Defaults;
use slotline_protocol::http::Action;

use crate::leader::actions::Registered;
use crate::leader::request::Came;
use crate::shell::intake::member::member;
use crate::shell::intake::reading::divide;
use crate::shell::registry::Registry;

/// The first argument that makes an executable an examiner.
const ARGUMENT: &str = "__slotline_examine";
/// Processor time after which a message counts as one that its reader does not get past. Reading the largest takes a
/// fraction of a second.
const CPU_SECONDS_MAX: u64 = 20;
/// The byte that an examiner writes before it reads anything, and after each message that it got past.
const READY: u8 = b'r';
const PAST: u8 = b'p';
/// The exit status after a panic.
const PANICKED: i32 = 101;
/// Signals by which people and the system end a process. No message can cause them.
const FROM_OTHERS: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];

/// Whether `main` of this program calls [`run_if_asked`].
static IS_AVAILABLE: AtomicBool = AtomicBool::new(false);

/// Runs as an examiner and never returns, if this process was started as one. To be called first of all in `main`.
pub fn run_if_asked() {
    IS_AVAILABLE.store(true, Ordering::Relaxed);
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        // After any failure its parent sees how far it came.
        let _ = serve();
        std::process::exit(0);
    }
}

fn serve() -> std::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let cpu = Rlimit { current: Some(CPU_SECONDS_MAX), maximum: Some(CPU_SECONDS_MAX) };
    rustix::process::setrlimit(Resource::Cpu, cpu)?;
    // If memory runs out, the system ends this process first. A process may always raise its own score.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut say = |word: u8| output.write_all(&[word]).and_then(|()| output.flush());
    let registry = Registry::default();
    // The list of actions ends with an empty field.
    while let Some(action) = receive(&mut input)?.filter(|action| !action.is_empty()) {
        if let Ok(registered) = Registered::new(serde_json::from_slice(&action)?) {
            registry.set(registered.action.action_ref.clone(), Some(Arc::new(registered)));
        }
    }
    say(READY)?;
    while let Some(message_type) = receive(&mut input)? {
        let body = receive(&mut input)?.unwrap_or_default();
        read(&registry, String::from_utf8(message_type).ok(), body.into());
        say(PAST)?;
    }
    Ok(())
}

/// Reads a message as the leader does, as far as that needs no journal. The leader judges its content.
fn read(registry: &Registry, message_type: Option<String>, body: Bytes) {
    let message_type = message_type.filter(|message_type| !message_type.is_empty());
    let Ok(members) = divide(Sizes::FULL, &body, Defaults { message_type, ..Defaults::default() }) else { return };
    let is_array = members.is_array();
    let came =
        Arc::new(Came { properties: Properties::default(), routing_key: String::new(), is_array, is_awaited: false });
    for index in 0..members.len() {
        drop(members.get(index).and_then(|envelope| member(registry, &envelope, &came)));
    }
}

/// One field, with its length before it; `None` at the end.
fn receive(input: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut field = vec![0; u32::from_le_bytes(length) as usize];
    input.read_exact(&mut field)?;
    Ok(Some(field))
}

fn send(output: &mut impl Write, field: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(field.len()).map_err(std::io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(field)
}

/// A message for an examiner.
#[derive(Clone, Debug)]
struct Sample {
    message_type: String,
    body: Bytes,
}

/// How an examiner ended.
enum End {
    /// It got past all messages.
    Done,
    /// In the midst of this one, and how.
    Died(usize, String),
    /// Of a cause that no message can be.
    Unfit(String),
}

/// Those of `deliveries` that came again and kill their readers, each with the end of its reader.
pub(crate) async fn examine(deliveries: &[Delivery], registry: &Registry) -> Vec<(Tag, String)> {
    if !IS_AVAILABLE.load(Ordering::Relaxed) {
        return Vec::new();
    }
    let again = deliveries.iter().filter(|delivery| delivery.redelivered);
    let (tags, samples): (Vec<Tag>, Vec<Sample>) = again.map(|delivery| (delivery.tag, sample(delivery))).unzip();
    if samples.is_empty() {
        return Vec::new();
    }
    let actions = registry.looking_in();
    let examine = move |samples: &[Sample]| examine_with_a_process(&actions, samples);
    let found = tokio::task::spawn_blocking(move || find(&samples, examine)).await;
    match found {
        Ok(Ok(found)) => found.into_iter().map(|(index, how)| (tags[index], how)).collect(),
        Ok(Err(why)) => {
            tracing::warn!(why, "messages that came again can't be examined; they are read all the same");
            Vec::new()
        }
        // The runtime is shut down, and nothing is read any more.
        Err(_) => Vec::new(),
    }
}

fn sample(delivery: &Delivery) -> Sample {
    let message_type = delivery.properties.message_type.clone().unwrap_or_default();
    Sample { message_type, body: delivery.body.clone() }
}

/// The indices of those that kill an examiner twice, the second time alone.
fn find(samples: &[Sample], examine: impl Fn(&[Sample]) -> End) -> Result<Vec<(usize, String)>, String> {
    let mut found = Vec::new();
    let mut from = 0;
    while from < samples.len() {
        match examine(&samples[from..]) {
            End::Done => break,
            End::Unfit(why) => return Err(why),
            End::Died(place, _) => {
                let suspect = from + place;
                match examine(&samples[suspect..=suspect]) {
                    End::Done => {}
                    End::Unfit(why) => return Err(why),
                    End::Died(_, how) => found.push((suspect, how)),
                }
                from = suspect + 1;
            }
        }
    }
    Ok(found)
}

fn examine_with_a_process(actions: &[Action], samples: &[Sample]) -> End {
    run(actions, samples).unwrap_or_else(|error| End::Unfit(format!("no examiner can be started: {error}")))
}

fn run(actions: &[Action], samples: &[Sample]) -> std::io::Result<End> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("slotline-examiner").arg(ARGUMENT).env_clear().envs(crash::poison_variable());
    // In a group of its own: a signal from the terminal is for this process only.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // An examiner that has died takes no more, which its missing bytes show as well.
        let _ = tell(&mut input, actions, samples);
    }
    let mut said = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut said)?;
    }
    Ok(judge(&said, samples.len(), child.wait()?))
}

fn tell(input: &mut impl Write, actions: &[Action], samples: &[Sample]) -> std::io::Result<()> {
    for action in actions {
        send(input, &serde_json::to_vec(action)?)?;
    }
    send(input, &[])?;
    samples.iter().try_for_each(|sample| {
        send(input, sample.message_type.as_bytes())?;
        send(input, &sample.body)
    })
}

/// Judges what an examiner of so many messages wrote, and how it ended.
fn judge(said: &[u8], count: usize, status: ExitStatus) -> End {
    let Some((&READY, past)) = said.split_first() else {
        return End::Unfit(format!("an examiner ended before it read anything: {status}"));
    };
    let is_its_own = match (status.signal(), status.code()) {
        (Some(number), _) => FROM_OTHERS.iter().all(|signal| signal.as_raw() != number),
        (None, code) => code == Some(PANICKED),
    };
    match past.len() {
        all if all >= count => End::Done,
        place if is_its_own => End::Died(place, status.to_string()),
        _ => End::Unfit(format!("an examiner ended in the midst of its work: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(bodies: &[&str]) -> Vec<Sample> {
        let sample =
            |body: &&str| Sample { message_type: String::new(), body: Bytes::copy_from_slice(body.as_bytes()) };
        bodies.iter().map(sample).collect()
    }

    /// Dies of every body that contains an order to; `accidents` are bodies that it dies of where they are not alone.
    fn dies(samples: &[Sample], accidents: &str) -> End {
        let kills = |sample: &Sample| sample.body == "kills" || (samples.len() > 1 && sample.body == accidents);
        samples.iter().position(kills).map_or(End::Done, |place| End::Died(place, "signal: 6".to_owned()))
    }

    #[test]
    fn what_kills_its_readers_is_found_among_the_innocent() {
        let found = find(&samples(&["a", "kills", "b", "kills", "c"]), |samples| dies(samples, "")).expect("fit");
        assert_eq!(found.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 3]);
        assert!(find(&samples(&["a", "b"]), |samples| dies(samples, "")).expect("fit").is_empty());
    }

    #[test]
    fn a_death_that_does_not_come_again_is_held_against_no_message() {
        let found = find(&samples(&["a", "unlucky", "kills"]), |samples| dies(samples, "unlucky")).expect("fit");
        assert_eq!(found.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn an_end_that_no_message_can_cause_is_held_against_none() {
        let ended = |raw: i32, said: &[u8]| judge(said, 2, ExitStatus::from_raw(raw));
        assert!(matches!(ended(0, b"rpp"), End::Done));
        assert!(matches!(ended(6, b"rp"), End::Died(1, _)));
        assert!(matches!(ended(9, b"r"), End::Died(0, _)));
        assert!(matches!(ended(PANICKED << 8, b"r"), End::Died(0, _)));
        assert!(matches!(ended(15, b"rp"), End::Unfit(_)), "it was asked to end");
        assert!(matches!(ended(1 << 8, b"rp"), End::Unfit(_)), "it gave up by itself");
        assert!(matches!(ended(6, b""), End::Unfit(_)), "it had read nothing");
        assert!(matches!(find(&samples(&["a"]), |_| ended(15, b"r")), Err(why) if why.contains("ended")));
    }
}
