//! Features of the cluster (KIP-584): which versions there are and which are in force, as Kafka 4.1 has them by default.
//!
//! Out: the table for ApiVersions and UpdateFeatures. Touches nothing. `transaction.version` 2 makes producers speak the
//! second protocol of KIP-890, `group.version` 1 stands for KIP-848.

/// One feature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feature {
    pub name: &'static str,
    /// Lowest and highest version known.
    pub known: (i16, i16),
    /// The version in force; it never changes while the broker runs.
    pub level: i16,
}

/// All features by name.
pub(crate) const FEATURES: [Feature; 3] = [
    Feature { name: "group.version", known: (0, 1), level: 1 },
    Feature { name: "metadata.version", known: (7, 27), level: 27 },
    Feature { name: "transaction.version", known: (0, 2), level: 2 },
];

/// The epoch of the versions in force.
pub(crate) const FEATURES_EPOCH: i64 = 1;
