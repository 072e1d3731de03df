//! Requests that may have killed their reader: read alone, with a note in the journal, and at last not at all.
//!
//! That a message comes again proves nothing: every crash and every change of leadership gives back innocent messages.
//! So a large one that comes again is read by itself, and the journal notes it before and forgets it afterwards. A note
//! from another process means that this process ended, or was deposed, in the midst of that very message. Once may be
//! chance; two processes in a row are not, and the third puts the message aside without reading it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use slotline_broker::{Delivery, Tag};
use slotline_protocol::chain;
use slotline_store::{Error, Store};
use tokio::sync::watch;
use uuid::Uuid;

/// The bytes of a body and its headers from which a message that comes again is read alone. Smaller ones are many after
/// a crash, and cost no more memory than a large one whatever they hold.
const SUSPECT_BYTES: usize = 16 << 10;
/// How many processes in a row may end while they read a message.
const READINGS_MAX: u32 = 2;

/// The notes that one process makes.
#[derive(Clone, Debug)]
pub(crate) struct Probation {
    store: Store,
    process: Uuid,
    has_notes: Arc<AtomicBool>,
}

/// What is to be done with a message that came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    ReadAlone([u8; 32]),
    PutAside { readings: u32 },
}

impl Probation {
    pub(crate) fn new(store: Store, process: Uuid) -> Self {
        Self { store, process, has_notes: Arc::default() }
    }

    pub(crate) fn concerns(delivery: &Delivery) -> bool {
        let headers: usize = delivery.properties.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        delivery.redelivered && delivery.body.len() + headers >= SUSPECT_BYTES
    }

    /// Notes that this process is about to read it. Nothing is read before the journal has the note.
    pub(crate) async fn begin(&self, delivery: &Delivery) -> Result<Trial, Error> {
        let digest = Sha256::digest(&delivery.body).into();
        self.has_notes.store(true, Ordering::Release);
        let readings = self.store.suspect(digest, self.process).await?;
        if readings <= READINGS_MAX {
            return Ok(Trial::ReadAlone(digest));
        }
        Ok(Trial::PutAside { readings: readings - 1 })
    }

    /// Waits until the message is acked, and removes its note; `false` once the session is over.
    pub(crate) async fn end(&self, digest: [u8; 32], tag: Tag, acked: &mut watch::Receiver<Option<Tag>>) -> bool {
        if acked.wait_for(|acked| acked.is_some_and(|acked| acked >= tag)).await.is_err() {
            return false;
        }
        if let Err(error) = self.store.clear_suspect(digest).await {
            tracing::warn!(error = %chain(&error), "the note on a request that was read alone stays; it is forgotten in time");
        }
        true
    }

    /// This process leads no more, and lives: what it had begun to read did not kill it.
    pub(crate) async fn absolve(&self) {
        if self.has_notes.swap(false, Ordering::AcqRel)
            && let Err(error) = self.store.clear_suspects_of(self.process).await
        {
            tracing::warn!(error = %chain(&error), "notes on requests that were read alone stay; they are forgotten in time");
        }
    }
}
