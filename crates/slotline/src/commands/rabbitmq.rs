//! `slotline rabbitmq definitions`: exchanges, users and the least rights of each, to be imported into RabbitMQ.
//!
//! A user without a password can't log in until it gets one. RabbitMQ applies only one policy to a queue. With ours, a policy of
//! the operator for all queues does not change those of Slotline.

use std::process::ExitCode;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use slotline_broker::topology::{LOGS_KEY, Topology, events_exchange, executions_exchange, work_exchange};

use crate::settings::{DEFAULT_PREFIX, Settings};
use crate::show::output;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Print definitions to import: a virtual host, exchanges, users and what each may do, and a policy
    ///
    /// `slotline rabbitmq definitions > slotline.json`, `rabbitmqctl import_definitions slotline.json`, then
    /// `rabbitmqctl change_password slotline-executor ...` and so on. To import them again takes the passwords away again,
    /// unless they are printed with them, as hashes: of what SLOTLINE_PASSWORD_EXECUTOR, _WORKER, _PUBLISHER and _READER hold.
    Definitions(Definitions),
}

#[derive(clap::Args)]
pub(crate) struct Definitions {
    /// First part of the names of all exchanges and queues [default: slotline]
    #[arg(long, env = "SLOTLINE_PREFIX")]
    prefix: Option<String>,
    /// The virtual host
    #[arg(long, default_value = "/")]
    vhost: String,
}

pub(crate) fn rabbitmq(settings: &Settings, command: &Command) -> ExitCode {
    match command {
        Command::Definitions(Definitions { prefix, vhost }) => {
            let prefix = prefix.as_deref().or(settings.file.prefix.as_deref()).unwrap_or(DEFAULT_PREFIX);
            let password = |role: &str| {
                let variable = format!("SLOTLINE_PASSWORD_{}", role.to_uppercase());
                std::env::var(variable).ok().filter(|password| !password.is_empty())
            };
            output::json(&definitions(prefix, vhost, password));
        }
    }
    ExitCode::SUCCESS
}

/// What a user may configure, write and read, and with which routing keys.
struct Rights {
    role: &'static str,
    configure: String,
    write: String,
    read: String,
    topics: Option<Topics>,
}

/// Under which routing keys a user may publish to one exchange, and bind queues to it.
struct Topics {
    exchange: String,
    write: String,
    read: String,
}

const NOTHING: &str = "^$";
/// Queues that the broker names; each is exclusive, so no other connection can use it.
const NAMED_BY_BROKER: &str = r"^amq\.gen.*$";

fn rights(prefix: &str) -> [Rights; 4] {
    let p = escaped(prefix);
    let logs = escaped(LOGS_KEY);
    let of_worker = format!(r"^{p}\.(work|worker\..*)$");
    // Queues that outlive a subscriber's connection bear its name: no other user of Slotline may read them.
    let of_reader = format!(r"{p}-reader\..*");
    [
        Rights {
            role: "publisher",
            // A queue of its own, for the answers.
            configure: NAMED_BY_BROKER.to_owned(),
            write: format!(r"^{p}\.executions$"),
            read: NAMED_BY_BROKER.to_owned(),
            topics: Some(Topics {
                exchange: executions_exchange(prefix),
                write: r"^execution\.(requested|cancel_requested)(\..*)?$".to_owned(),
                read: NOTHING.to_owned(),
            }),
        },
        Rights {
            role: "worker",
            configure: of_worker.clone(),
            write: of_worker.clone(),
            read: of_worker,
            topics: Some(Topics {
                exchange: work_exchange(prefix),
                write: format!(
                    r"^(execution\.(completed|returned|status_changed|progress)|{logs}|worker\.(heartbeat|ended))$"
                ),
                read: r"^(execution\.(scheduled|cancel|recall|recorded|resend)\..*|executor\.hello(\..*)?)$".to_owned(),
            }),
        },
        Rights {
            role: "executor",
            configure: format!(r"^{p}\..*$"),
            // Answers go through the default exchange to the queues that publishers name.
            write: format!(r"^({p}\..*|amq\.default)$"),
            read: format!(r"^{p}\..*$"),
            topics: None,
        },
        Rights {
            role: "reader",
            configure: format!(r"^(amq\.gen.*|{of_reader})$"),
            write: format!(r"^(amq\.gen.*|{of_reader})$"),
            read: format!(r"^({p}\.events|amq\.gen.*|{of_reader})$"),
            topics: Some(Topics {
                exchange: events_exchange(prefix),
                write: NOTHING.to_owned(),
                read: ".*".to_owned(),
            }),
        },
    ]
}

fn definitions(prefix: &str, vhost: &str, password: impl Fn(&str) -> Option<String>) -> Value {
    let rights = rights(prefix);
    let user = |rights: &Rights| format!("{prefix}-{}", rights.role);
    let users = rights.iter().map(|rights| {
        let salt = uuid::Uuid::new_v4().as_u128().to_be_bytes();
        let hash = password(rights.role).map(|password| hash([salt[0], salt[1], salt[2], salt[3]], &password));
        json!({
            "name": user(rights), "password_hash": hash.unwrap_or_default(),
            "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [],
        })
    });
    let permissions = rights.iter().map(|rights| {
        let Rights { configure, write, read, .. } = rights;
        json!({ "user": user(rights), "vhost": vhost, "configure": configure, "write": write, "read": read })
    });
    let topics = rights.iter().filter_map(|rights| {
        let Topics { exchange, write, read } = rights.topics.as_ref()?;
        Some(json!({ "user": user(rights), "vhost": vhost, "exchange": exchange, "write": write, "read": read }))
    });
    let declared = [Topology::requests(prefix), Topology::events(prefix)];
    let exchanges = declared.iter().flat_map(|topology| &topology.exchanges).map(|exchange| {
        json!({
            "name": exchange.name, "vhost": vhost, "type": "topic", "durable": true, "auto_delete": false,
            "internal": false, "arguments": {},
        })
    });
    json!({
        "vhosts": [{ "name": vhost }],
        "users": users.collect::<Vec<_>>(),
        "permissions": permissions.collect::<Vec<_>>(),
        "topic_permissions": topics.collect::<Vec<_>>(),
        "exchanges": exchanges.collect::<Vec<_>>(),
        "queues": [],
        "bindings": [],
        "policies": policies(prefix, vhost),
    })
}

/// A policy with a higher priority than an operator's for all queues. It has to set something: this limit is never reached.
fn policies(prefix: &str, vhost: &str) -> Value {
    json!([{
        "vhost": vhost, "name": prefix, "pattern": format!(r"^{}\.", escaped(prefix)), "apply-to": "queues",
        "definition": { "max-length-bytes": 1_000_000_000_000_u64 }, "priority": 1000,
    }])
}

/// As RabbitMQ keeps a password: the salt, then SHA-256 of salt and password, all in base64. That is 36 bytes, so that
/// nothing is padded.
fn hash(salt: [u8; 4], password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = Sha256::new().chain_update(salt).chain_update(password).finalize();
    let bytes = [&salt[..], &digest[..]].concat();
    let digits = |three: &[u8]| {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| DIGITS[bits >> shift & 63] as char)
    };
    bytes.chunks_exact(3).flat_map(digits).collect()
}

/// A name as part of a regular expression.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(2 * name.len());
    for character in name.chars() {
        if !character.is_alphanumeric() && character != '_' && character != '-' {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_least_rights_under_its_own_prefix_and_no_password() {
        let definitions = definitions("a.b", "v", |_| None);
        let of = |list: &str, user: &str| -> Vec<Value> {
            let is_its = |entry: &&Value| entry["user"] == user || entry["name"] == user;
            definitions[list].as_array().into_iter().flatten().filter(is_its).cloned().collect()
        };
        for user in ["a.b-publisher", "a.b-worker", "a.b-executor", "a.b-reader"] {
            assert_eq!(of("users", user)[0]["password_hash"], "", "{user}");
            assert_eq!(of("permissions", user)[0]["vhost"], "v", "{user}");
        }
        let publisher = &of("permissions", "a.b-publisher")[0];
        assert_eq!((&publisher["configure"], &publisher["read"]), (&json!(NAMED_BY_BROKER), &json!(NAMED_BY_BROKER)));
        assert_eq!(publisher["write"], r"^a\.b\.executions$");
        let reader = &of("permissions", "a.b-reader")[0];
        assert_eq!(reader["configure"], r"^(amq\.gen.*|a\.b-reader\..*)$");
        assert_eq!(reader["read"], r"^(a\.b\.events|amq\.gen.*|a\.b-reader\..*)$");
        let keys = &of("topic_permissions", "a.b-publisher")[0];
        assert_eq!(keys["exchange"], "a.b.executions");
        assert!(of("topic_permissions", "a.b-executor").is_empty());
        let exchanges: Vec<_> =
            definitions["exchanges"].as_array().into_iter().flatten().map(|it| &it["name"]).collect();
        assert_eq!(exchanges, ["a.b.executions", "a.b.work", "a.b.events"]);
    }

    #[test]
    fn a_password_is_printed_as_the_hash_that_rabbitmq_keeps_of_it() {
        // The example of RabbitMQ's documentation.
        assert_eq!(hash([0x90, 0x8D, 0xC6, 0x0A], "test12"), "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
        let printed = definitions("p", "v", |role| (role == "worker").then(|| "secret".to_owned()));
        let hash_of = |index: usize| printed["users"][index]["password_hash"].as_str().map(str::len);
        assert_eq!([hash_of(0), hash_of(1), hash_of(2)], [Some(0), Some(48), Some(0)]);
    }

    #[test]
    fn one_policy_ranks_above_others_on_all_queues_of_the_prefix() {
        let ours = json!([{
            "vhost": "v", "name": "a.b", "pattern": r"^a\.b\.", "apply-to": "queues",
            "definition": { "max-length-bytes": 1_000_000_000_000_u64 }, "priority": 1000,
        }]);
        assert_eq!(definitions("a.b", "v", |_| None)["policies"], ours);
    }
}
