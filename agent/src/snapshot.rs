//! Ledger of a running agent: a snapshot of every source's counts, with what reading waits for at that moment.
//!
//! In: the sources of the agent. Out: [`Ledger`]. Touches nothing: each source's part is read under its own lock.

use std::sync::Arc;

use crate::batch::MemoryBudget;
use crate::condition::Conditions;
use crate::file_source::Sources;
use crate::ledger::{Ledger, SourceLedger};
use crate::push::Receivers;

/// Gives snapshots of a running agent's ledger. Cheap to clone.
#[derive(Clone)]
pub struct LedgerHandle {
    pub(crate) files: Sources,
    pub(crate) receivers: Receivers,
    pub(crate) conditions: Conditions,
    pub(crate) budget: Arc<MemoryBudget>,
}

impl LedgerHandle {
    /// Whether the log takes what the agent sends; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        self.conditions.ready()
    }

    /// The ledger as it is now; each file's part is taken at one moment.
    pub fn snapshot(&self) -> Ledger {
        let mut ledger = Ledger::default();
        let files: Vec<SourceLedger> = self.files.read().iter().map(|source| source.ledger()).collect();
        let others: Vec<SourceLedger> = self.receivers.read().iter().map(|receiver| receiver.ledger()).collect();
        for part in files.into_iter().chain(others) {
            ledger.total.add(&part.balance);
            ledger.sources.push(part);
        }
        ledger.condition = self.conditions.current(self.budget.used(), self.budget.max());
        ledger
    }
}

impl std::fmt::Debug for LedgerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LedgerHandle({} files, {} other sources)", self.files.read().len(), self.receivers.read().len())
    }
}
