//! HTTP over the executor: actions, executions and their events, workers, dead letters, health.
//!
//! Mount it with [`serve`], on anything that implements [`Control`]. Every answer is `{"data": ...}`, every refusal
//! `{"error": {"code", "message", "field"?, "details"?}}`. Deliberately absent: decisions. What can be read is read
//! from the journal, everything else goes to the executor.

mod actions;
mod audit;
mod auth;
pub mod board;
mod condition;
mod connections;
pub mod control;
mod dead;
mod error;
mod events;
mod executions;
mod follow;
mod health;
pub mod hub;
mod input;
mod known_actions;
mod limits;
mod lines;
mod live;
mod metrics;
mod refusal;
mod routes;
mod sending;
mod serve;
mod state;
mod stream;
mod token;
pub mod ui;
mod view;
mod workers;
mod write_timeout;

pub use auth::check_exposure;
pub use condition::Condition;
pub use control::{Control, Submission};
pub use error::{Exposed, INTENT_HEADER};
pub use hub::Hub;
pub use input::{BODY_BYTES_MAX, LIMIT_DEFAULT, LIMIT_MAX};
pub use refusal::{ControlError, RefusalKind};
pub use routes::{router, served};
pub use serve::{Error as ServeError, listen, serve};
pub use state::ApiServices;
pub use token::{ApiToken, EXPOSED_TOKEN_CHARS_MIN, InvalidToken, InvalidTokens, TOKENS_MAX, Tokens};
