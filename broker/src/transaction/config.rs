//! Configuration of transactions: the longest time-out, how long transactional ids are kept.
//!
//! In: the section `broker.transaction`. Out: typed settings with their defaults. Touches nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use millrace_log::value::{ByteSize, Faults, Span};

/// Transactions.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransactionConfig {
    /// Longest time-out that a producer may ask for (`transaction.max.timeout.ms`).
    pub max_timeout: Span,
    /// Time without a transaction after which a transactional id is forgotten (`transactional.id.expiration.ms`).
    pub id_expiry: Span,
    /// Size of a partition of `__transaction_state` at which it is compacted.
    pub compact_at: ByteSize,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self { max_timeout: Span::secs(900), id_expiry: Span::secs(7 * 24 * 3600), compact_at: ByteSize::mib(32) }
    }
}

impl TransactionConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.max_timeout.0.is_zero() {
            faults.add("max_timeout", "must be longer than zero, e.g. `15m`");
        }
        if self.id_expiry.0.is_zero() {
            faults.add("id_expiry", "must be longer than zero, e.g. `7d`");
        }
    }
}
