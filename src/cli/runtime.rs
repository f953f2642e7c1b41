//! The async runtime of commands that serve or query.
//!
//! In: nothing, or what to run. Out: a Tokio runtime with worker threads, or what came of it. Side effects: starts threads.

use std::pin::Pin;

use crate::exit::Failure;

/// Starts the runtime.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("millrace").build()?)
}

/// Runs a command to its end.
///
/// Boxed: `Runtime::block_on` is compiled three times for each future, and a command's is most of its code.
pub fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let command: Pin<Box<dyn Future<Output = Result<T, Failure>> + '_>> = Box::pin(command);
    runtime()?.block_on(command)
}
