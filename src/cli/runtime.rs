//! The async runtime of commands that serve or query.
//!
//! In: nothing. Out: a Tokio runtime with worker threads. Side effects: starts threads.

use crate::exit::Failure;

/// Starts the runtime.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("millrace").build()?)
}
