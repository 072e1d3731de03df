use slotline_protocol::proof::{Channel, Ring, SECRET_BYTES, Secret};

use super::*;

fn incarnation() -> Incarnation {
    Incarnation(Uuid::from_u128(1))
}

#[test]
fn a_report_bears_the_proof_and_only_a_heartbeat_the_nonce() {
    let mut trust = Trust::new(incarnation());
    let report = |trust: &Trust, routing_key: &str| {
        let mut publication = Publication { routing_key: routing_key.to_owned(), ..Publication::default() };
        trust.prove(&mut publication);
        publication.properties.headers
    };
    assert!(report(&trust, "execution.completed").is_empty());
    assert_eq!(report(&trust, Heartbeat::TYPE).into_keys().collect::<Vec<_>>(), [NONCE_HEADER]);
    let ring = Ring::new(Secret::new(&[1; SECRET_BYTES]).expect("long enough"));
    let (proof, nonce) = (ring.order(incarnation(), b""), trust.standing.nonce().to_owned());
    let token = ring.token(incarnation()).to_string();
    let letter = Letter { is_to_all: false, proof: Some(&proof), nonce: Some(&nonce), token: Some(&token), body: b"" };
    assert_eq!(trust.standing.judge(letter), Worth::Introduction);
    assert_eq!(report(&trust, "execution.completed").into_keys().collect::<Vec<_>>(), [PROOF_HEADER]);
    let beat = report(&trust, Heartbeat::TYPE);
    assert_eq!(beat[NONCE_HEADER], nonce);
    let speaker = ring.speaker(Some(&beat[PROOF_HEADER]), Some(&nonce), b"");
    assert_eq!(speaker, proof::Speaker::Worker(incarnation()));
    assert!(!ring.is_executors(Channel::Call, Some(&beat[PROOF_HEADER]), b""));
}
