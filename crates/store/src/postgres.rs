//! Being written.
use crate::*;
use slotline_protocol::*;
#[derive(Clone, Debug)]
pub(crate) struct Journal;
#[derive(Debug)]
pub(crate) struct Lead;
pub(crate) const IDLE_SESSION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
impl Journal {
    pub(crate) async fn open(_url: &str) -> Result<Self, Error> { unimplemented!() }
    pub(crate) async fn migrate(&self) -> Result<(), Error> { unimplemented!() }
    pub(crate) async fn lead(&self, _leader: &str) -> Result<Lead, Error> { unimplemented!() }
    pub(crate) async fn find_messages(&self, _ids: &[String]) -> Result<Vec<Known>, Error> { unimplemented!() }
    pub(crate) async fn requests(&self, _ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Request)>, Error> { unimplemented!() }
    pub(crate) async fn execution(&self, _id: ExecutionId) -> Result<Option<http::Execution>, Error> { unimplemented!() }
    pub(crate) async fn executions(&self, _f: &Filter, _p: PageRequest) -> Result<http::Page<http::Execution>, Error> { unimplemented!() }
    pub(crate) async fn actions(&self) -> Result<Vec<http::Action>, Error> { unimplemented!() }
    pub(crate) async fn action(&self, _a: &ActionRef) -> Result<Option<http::Action>, Error> { unimplemented!() }
    pub(crate) async fn durations(&self, _a: ActionId, _n: u32) -> Result<Durations, Error> { unimplemented!() }
    pub(crate) async fn verify(&self, _s: Option<Timestamp>) -> Result<Verdict, Error> { unimplemented!() }
    pub(crate) async fn check(&self) -> Result<Vec<String>, Error> { unimplemented!() }
    pub(crate) async fn ping(&self) -> Result<(), Error> { unimplemented!() }
    pub(crate) async fn close(&self) { unimplemented!() }
}
impl Lead {
    pub(crate) fn epoch(&self) -> Epoch { unimplemented!() }
    pub(crate) async fn recover(&mut self) -> Result<Recovered, Error> { unimplemented!() }
    pub(crate) async fn commit(&mut self, _b: &Batch) -> Result<(), CommitError> { unimplemented!() }
    pub(crate) async fn ping(&mut self) -> Result<(), Error> { unimplemented!() }
    pub(crate) async fn prune(&mut self, _t: Timestamp, _m: u32) -> Result<u64, Error> { unimplemented!() }
    pub(crate) async fn release(self) { unimplemented!() }
}
