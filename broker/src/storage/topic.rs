//! One topic: name, id, settings and partitions.
//!
//! In: what the catalog says of it, opened partitions. Out: these, to whoever asks. Touches nothing.

use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use super::limits::SharedLimits;
use super::partition::Partition;
use crate::config::TopicSettings;

/// One topic.
pub struct Topic {
    pub(super) name: Arc<str>,
    pub(super) id: Uuid,
    pub(super) settings: RwLock<TopicSettings>,
    pub(super) limits: SharedLimits,
    pub(super) partitions: RwLock<Vec<Arc<Partition>>>,
}

impl Topic {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id, new for each topic even if the name was used before.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Its settings that differ from the defaults.
    pub fn settings(&self) -> TopicSettings {
        self.settings.read().clone()
    }

    /// Its partitions; the place in the list is the number.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().clone()
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.read().len()).unwrap_or(i32::MAX)
    }

    /// One of its partitions.
    pub fn partition(&self, number: i32) -> Option<Arc<Partition>> {
        self.partitions.read().get(usize::try_from(number).ok()?).cloned()
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {} partitions)", self.name, self.id, self.partition_count())
    }
}
