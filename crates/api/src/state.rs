//! What the handlers of requests share.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use slotline_store::Store;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::follow::LimitedJournal;
use crate::hub::Hub;
use crate::known_actions::KnownActions;
use crate::limits::Permits;
use crate::token::Tokens;

/// What the API needs to answer requests.
#[derive(Clone)]
pub struct ApiServices {
    pub control: Arc<dyn Control>,
    pub store: Store,
    /// Without one the API listens on loopback only.
    pub tokens: Tokens,
    /// Where the executor publishes events.
    pub hub: Arc<Hub>,
    /// Where the files of the page are read from, for work on them; `None`: they are part of the program.
    pub page: Option<PathBuf>,
}

#[derive(Clone)]
pub(crate) struct SharedApi(Arc<ApiState>);

pub(crate) struct ApiState {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) store: Store,
    pub(crate) known_actions: KnownActions,
    pub(crate) permits: Permits,
    pub(crate) hub: Arc<Hub>,
    pub(crate) journal: Arc<LimitedJournal>,
    /// Ends streams and long polls, which would go on for ever.
    pub(crate) shutdown: CancellationToken,
}

impl Deref for SharedApi {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.0
    }
}

impl SharedApi {
    pub(crate) fn new(services: ApiServices, shutdown: CancellationToken) -> Self {
        let ApiServices { control, store, hub, .. } = services;
        let journal = Arc::new(LimitedJournal::new(store.clone()));
        let (known_actions, permits) = (KnownActions::default(), Permits::default());
        Self(Arc::new(ApiState { control, store, known_actions, permits, hub, journal, shutdown }))
    }
}
