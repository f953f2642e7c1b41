//! Why a record can't be read or an event can't be written.
//!
//! In: what was found. Out: texts with the place and the cure. Touches nothing.

use super::layout::{FIXED_LEN, FIXED_VERSION, MAX_LABEL_BYTES, MAX_LABELS};

/// Why a record can't be read or an event can't be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not written by Millrace: read it with a source `format`, or it is a dead letter.
    #[error(
        "record has no header `millrace`: it was written by another producer; read its topic with `format: raw` or `json`"
    )]
    Foreign,
    /// Written by a newer Millrace.
    #[error(
        "record has version {found} of the header `millrace`, this program reads {FIXED_VERSION}: update the reader before the writers"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// The fixed part is cut.
    #[error("header `millrace` has {len} bytes, {FIXED_LEN} are needed")]
    Short {
        /// The length found.
        len: usize,
    },
    /// A header that must be a JSON object of strings isn't.
    #[error("header `{header}` is not a JSON object of strings")]
    Json {
        /// Name of the header.
        header: &'static str,
        /// What the JSON reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A header that nobody of ours writes so long: parsing it would take many times its size in memory.
    #[error("header `{header}` has {bytes} bytes, {allowed} are allowed")]
    HeaderTooLong {
        /// Name of the header.
        header: &'static str,
        /// The length found.
        bytes: usize,
        /// The limit.
        allowed: usize,
    },
    /// Too many labels for one stream.
    #[error("stream has {count} labels, {MAX_LABELS} are allowed: move some to structured metadata")]
    TooManyLabels {
        /// The number found.
        count: usize,
    },
    /// Labels too long for one stream.
    #[error("labels of the stream have {bytes} bytes, {MAX_LABEL_BYTES} are allowed: move some to structured metadata")]
    LabelsTooLong {
        /// The number found.
        bytes: usize,
    },
    /// A name that LogQL can't ask for.
    #[error("label name `{name}` is not of the form [a-zA-Z_][a-zA-Z0-9_]*")]
    LabelName {
        /// The name found.
        name: String,
    },
    /// A tenant's name out of bounds.
    #[error("tenant `{name}` must have 1 to 150 letters, digits or characters of !-_.*'()")]
    Tenant {
        /// The name found.
        name: String,
    },
}
