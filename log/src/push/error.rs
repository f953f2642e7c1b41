//! Why the body of a push can't be used.
//!
//! Out: [`PushError`], each text with its cure. Touches nothing. Leaves the status of an answer to the endpoints.

/// Why a body can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Not as its headers say, or not as expected.
    #[error("{0}")]
    Bad(String),
    /// Nothing in it to store.
    #[error("{0}")]
    Empty(String),
    /// Beyond a limit when decompressed.
    #[error("body has {found} bytes decompressed, {allowed} are allowed")]
    TooLarge {
        /// The size found, or the first beyond the limit.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// Its elements would take more memory than all bodies together may.
    #[error(
        "elements of the body take {found} bytes of memory decoded, {allowed} are allowed (`limits.decode_memory`): send less in one request"
    )]
    Costly {
        /// The memory that it would take at least.
        found: u64,
        /// The budget.
        allowed: u64,
    },
    /// Other bodies take the memory at the moment.
    #[error("memory for decoding is in use ({allowed} bytes, `limits.decode_memory`): try again")]
    Busy {
        /// The budget.
        allowed: u64,
    },
}
