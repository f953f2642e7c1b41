//! What those who look after a process should know although it works: shown at `/ready` and by `millrace doctor`.
//!
//! In: a notice under a name, or its end. Out: all that hold now. Touches nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Notices by name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Notices {
    /// Sets what holds under a name; `None`: nothing does any more.
    pub fn set(&self, name: &'static str, text: Option<String>) {
        let mut all = self.0.lock();
        match text {
            Some(text) => drop(all.insert(name, text)),
            None => drop(all.remove(name)),
        }
    }

    /// All that hold now.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }
}
