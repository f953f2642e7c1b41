//! Version of the split format, as `split.json` names it.
//!
//! Touches nothing.

/// Version of the folder's layout: of every file in it.
pub const FORMAT_VERSION: u32 = 1;
